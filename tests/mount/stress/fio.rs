//! fio: writes blocks with checksums in them, in all orders and by several interfaces, and reads them
//! again.

use std::fs;
use std::time::{Duration, Instant};

use super::*;

/// All jobs at once, each with a file of its own. The files are small: what matters is the mixture.
const JOBS: &str = "
[global]
size=8m
verify=crc32c
verify_fatal=1
do_verify=1
fallocate=none
[sequential]
rw=write
bs=256k
numjobs=2
ioengine=psync
verify_backlog=32
[random]
rw=randwrite
bsrange=4k-64k
bs_unaligned=1
numjobs=2
ioengine=psync
fsync=64
[mixed]
rw=randrw
bs=4k
size=4m
ioengine=psync
verify_backlog=16
[read-back-by-others]
rw=randwrite
bs=16k
ioengine=psync
verify_async=2
[maps]
rw=randwrite
bs=4k
numjobs=2
ioengine=mmap
[maps-in-order]
rw=write
bs=64k
ioengine=mmap
[maps-synced]
rw=randrw
bs=4k
size=1m
ioengine=mmap
sync=1
[direct]
rw=randwrite
bs=64k
direct=1
numjobs=2
ioengine=libaio
iodepth=8
[synced]
rw=randwrite
bs=16k
size=2m
ioengine=pvsync2
sync=dsync
[uring]
rw=randwrite
bs=16k
ioengine=io_uring
iodepth=16
[odd]
rw=write
bs=3001
size=3m
ioengine=sync
[backwards]
rw=write:-128k
bs=64k
size=4m
ioengine=psync
[preallocated]
rw=randwrite
bs=32k
fallocate=posix
ioengine=psync
";

fn verify(passthrough: &str) {
    let mut arena = Arena::open(passthrough);
    let jobs = arena.mount.beside("jobs.fio");
    fs::write(&jobs, JOBS).unwrap();
    let seconds = if is_long() { program_seconds() } else { 0 };
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut rounds = 0;
    arena.without_a_cache_that_lasts(|| {
        // Each but the first writes over what is uploaded by then.
        while rounds < 1 || Instant::now() < end {
            let seed = format!("--randseed={}", seed() + rounds);
            let args = ["--output-format=terse", &seed, "--directory=."];
            let mut command = program("fio", &args, &arena.folder());
            command.arg(&jobs);
            run(command);
            rounds += 1;
        }
    });
    println!("figures: {rounds} rounds of fio");
    arena.check();
}

#[test]
fn fio_reads_what_it_wrote_with_passthrough() {
    verify("true");
}

#[test]
fn fio_reads_what_it_wrote_without_passthrough() {
    verify("false");
}
