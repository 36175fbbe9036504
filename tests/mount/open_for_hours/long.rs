//! The long form: files of 200 MB that are kept open and written for a quarter of an hour.

use std::fs::File;

use super::plain::Pattern;
use super::*;

/// 200 MB of blocks.
const BLOCKS: u64 = 12_000;

/// `OPEN_SECONDS` is how long the files are open, 900 unless told; snapshots come after a third of
/// that. `MOUNT_TEST_SECONDS` must be longer.
#[test]
#[ignore = "takes a quarter of an hour; for soaks"]
fn files_of_200_mb_are_whole_in_the_bucket_all_the_time() {
    let seconds = std::env::var("OPEN_SECONDS").map_or(900, |text| text.parse().unwrap());
    let longest = seconds / 3;
    let model = Arc::new(R2Model::start());
    let mount = Mount::with(&model, &[("SNAPSHOT_SECONDS", &longest.to_string())]);
    let begun = Instant::now();
    let elapsed = || begun.elapsed().as_secs();
    let plain = "segments/take.dat";
    let watcher = Watcher::start(&model, plain, |bytes| Pattern::check(BLOCKS, bytes));
    let file = File::create_new(mount.path(plain)).unwrap();
    let mut pattern = Pattern::new(BLOCKS);
    pattern.write_round(&file);
    let mut project = databases::Project::open(&mount.path(databases::KEY), "wal", true);
    project.fill(BLOCKS * 16 / 1000);
    let dir = tempfile::tempdir().unwrap();
    let (mut seen, mut before, mut late) = (BTreeSet::new(), 0, 0);
    while elapsed() < seconds {
        (0..20).for_each(|_| pattern.write(&file));
        project.record();
        std::thread::sleep(Duration::from_millis(50));
        if elapsed() > longest + 30 {
            assert!(model.stat(plain).is_some() && model.stat(databases::KEY).is_some());
            late += 1;
        }
        let Some(object) = model.stat(databases::KEY) else {
            continue;
        };
        if seen.insert(object.write_count) {
            let now = databases::check(&databases::download(&model, dir.path()));
            assert!(now >= before, "take {before} was there, and now {now}");
            before = now;
            println!("{} s: version {} of the project", elapsed(), seen.len());
        }
    }
    assert!(late > 0);
    let takes = project.takes;
    drop((file, project));
    mount.wait_uploaded();
    assert_eq!(
        databases::check(&databases::download(&model, dir.path())),
        takes
    );
    let bytes = model.get(plain).unwrap().bytes;
    assert!(bytes == Pattern::after(BLOCKS, pattern.written));
    println!(
        "{} versions of the file, {} of the project",
        watcher.end(),
        seen.len()
    );
    assert_eq!(model.write_rate_violations(), []);
}
