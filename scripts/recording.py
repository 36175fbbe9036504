"""How long the writes of a recording take while all else goes on beside it: a part of scripts/bench."""

import array
import gc
import json
import math
import multiprocessing
import os
import pathlib
import random
import subprocess
import sys
import tempfile
import time

from cold_reads import BIG, MIB, SERVER, Bucket, Mount, clock, read_whole

FILES = 16
BLOCK = os.urandom(4 << 10)
PERIOD = 0.02
# What a slow line is here: 200 ms for a round trip, and so many bytes a second.
SLOW = ["--delay-ms", "100", "--connection-mbps", "2", "--total-mbps", "8"]
# Files that are read in turns, of which the cache holds one; names that are listed.
BIGS, TRACKS, TAKES = 6, 30, 3000
SETTINGS = "LIST_TTL_SECONDS=2\nCACHE_MAX_BYTES=300MB\nWRITE_BACK_SECONDS=2\nSNAPSHOT_SECONDS=60\nDRAIN_SECONDS=0\n"
# What is written beside the recording, so that there is always something to upload.
TAKE = 4 * MIB
TAKE_EVERY = 3
LISTED_EVERY = 0.5
GOALS = [("p99.99", 20), ("longest", 200)]
# The longest writes that are told with their time.
TOLD = 8


def record(folder, seconds, result):
    """Writes as a recording does; sends when each write began and how long it took."""
    gc.disable()
    files = [
        os.open(folder / f"take-{number}.wav", os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        for number in range(FILES)
    ]
    at, took, late = array.array("d"), array.array("d"), 0
    begun = clock()
    for tick in range(int(seconds / PERIOD)):
        due = begun + tick * PERIOD
        wait = due - clock()
        late += wait < -PERIOD
        time.sleep(max(0, wait))
        for file in files:
            before = clock()
            written = os.write(file, BLOCK)
            took.append(clock() - before)
            at.append(before - begun)
            assert written == len(BLOCK), written
    for file in files:
        os.close(file)
    result.send((at, took, late))


def upload(folder, end):
    """Writes files that are uploaded, some over and over."""
    number = 0
    while clock() < end:
        path = folder / f"layer-{number % 20}.wav"
        path.write_bytes(os.urandom(TAKE))
        number += 1
        time.sleep(TAKE_EVERY)


def look(folder, end):
    """Lists a large folder with all its attributes; the listings are old every two seconds."""
    while clock() < end:
        with os.scandir(folder) as entries:
            assert sum(entry.stat().st_size > 0 for entry in entries) >= TAKES
        time.sleep(LISTED_EVERY)


def read(folder, end):
    """Reads more than the cache holds, in order and here and there."""
    buffer, source = memoryview(bytearray(MIB)), random.Random(5)
    while clock() < end:
        with open(folder / f"big-{source.randrange(BIGS)}.wav", "rb", buffering=0) as file:
            file.seek(source.randrange(BIG - 32 * MIB))
            for _ in range(32):
                if clock() < end:
                    file.readinto(buffer)
        read_whole(folder / f"track-{source.randrange(TRACKS)}.wav", buffer)


def quantiles(took):
    """Returns p50, p99, p99.99 and the longest, in milliseconds."""
    ordered = sorted(took)
    of = lambda share: ordered[math.ceil(share * len(ordered)) - 1] * 1e3
    return {"p50": of(0.5), "p99": of(0.99), "p99.99": of(0.9999), "longest": of(1)}


def run(mount, plain, seconds):
    """Records on both sides at once, with the rest beside it; returns what each side has seen."""
    root = mount.mountpoint
    (root / "segments/session").mkdir()
    (root / "layers/beside").mkdir()
    context = multiprocessing.get_context("fork")
    begun = clock()
    beside = [
        context.Process(target=work, args=(folder, begun + seconds + 1), daemon=True)
        for work, folder in [
            (upload, root / "layers/beside"),
            (look, root / "projects"),
            (read, root / "projects"),
        ]
    ]
    sides = []
    for folder in (root / "segments/session", plain):
        ours, theirs = context.Pipe()
        sides.append((context.Process(target=record, args=(folder, seconds, theirs)), ours))
    for process in beside + [process for process, _ in sides]:
        process.start()
    seen = [pipe.recv() for _, pipe in sides]
    died = [process.name for process in beside if process.exitcode]
    assert not died, f"{died}: ended before the recording did"
    for process in beside:
        process.terminate()
        process.join()
    return seen


def status(mount):
    """Returns what the mount tells of itself."""
    command = [mount.binary, "--env-file", mount.env_file, "status", "--json"]
    output = subprocess.run(command, cwd=mount.folder, check=True, capture_output=True)
    return json.loads(output.stdout)


def tell(seen):
    """Prints the table; returns what misses its goal."""
    print("| folder | writes | p50 | p99 | p99.99 | longest | ticks late |")
    print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
    missed = []
    for name, (at, took, late) in zip(("mount", "plain"), seen):
        found = quantiles(took)
        cells = " | ".join(f"{found[key]:.3g} ms" for key in found)
        print(f"| {name} | {len(took)} | {cells} | {late} |")
        if name == "mount":
            over = [(key, goal) for key, goal in GOALS if found[key] > goal]
            missed = [f"{key} {found[key]:.0f} ms, goal {goal}" for key, goal in over]
        longest = sorted(zip(took, at), reverse=True)[:TOLD]
        words = ", ".join(f"{took * 1e3:.0f} ms at {at:.1f} s" for took, at in longest)
        print(f"\nlongest, {name}: {words}\n", file=sys.stderr)
    return missed


def measure(arguments):
    """Runs the benchmark and prints its table."""
    if not SERVER.exists():
        sys.exit(f"error: {SERVER} is missing: cargo build --release -p r2-model --example far_bucket")
    objects = ["--big", str(BIGS), "--tracks", str(TRACKS), "--takes", str(TAKES)]
    bucket = Bucket([*objects, *SLOW])
    # It would be another machine.
    os.setpriority(os.PRIO_PROCESS, bucket.process.pid, 10)
    try:
        with tempfile.TemporaryDirectory(prefix="voicebeatfs-bench-", dir=arguments.dir) as folder:
            plain = pathlib.Path(folder) / "plain"
            plain.mkdir()
            mount = Mount(folder, arguments.binary, bucket, SETTINGS)
            mount.start()
            try:
                bucket.asked()
                before = os.getloadavg()[0]
                seen = run(mount, plain, arguments.seconds)
                load = os.getloadavg()[0]
                gets, size = bucket.asked()
                after = status(mount)
            finally:
                mount.stop()
    finally:
        bucket.close()
    print(f"{FILES} files, 4 KiB each every {PERIOD * 1e3:.0f} ms for {arguments.seconds} s\n")
    missed = tell(seen)
    print(
        f"\nbeside it: {gets} GETs for {size / MIB:.0f} MiB, {json.dumps(after['uploads'])}, "
        f"cache {json.dumps(after['cache'])}; peak memory {mount.peak_kib >> 10} MiB, "
        f"{mount.cpu_seconds:.0f} s of CPU; load {before:.1f} before, {load:.1f} at the end"
    )
    if missed:
        sys.exit(f"error: {'; '.join(missed)}")
