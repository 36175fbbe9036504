//! git, with its many small files, its locks and its probes for links.

use std::fs;
use std::path::Path;

use super::{Studio, finish, noise, program};

/// Runs git without the settings of whoever runs the test.
#[track_caller]
fn git(args: &[&str], folder: &Path) -> String {
    let mut command = program("git", args, folder);
    for (name, value) in [
        ("GIT_CONFIG_GLOBAL", "/dev/null"),
        ("GIT_CONFIG_SYSTEM", "/dev/null"),
        ("GIT_AUTHOR_NAME", "Musician"),
        ("GIT_AUTHOR_EMAIL", "musician@example.com"),
        ("GIT_COMMITTER_NAME", "Musician"),
        ("GIT_COMMITTER_EMAIL", "musician@example.com"),
        ("HOME", "/nonexistent"),
    ] {
        command.env(name, value);
    }
    finish("git", command)
}

#[test]
fn git_clones_commits_packs_and_finds_its_repository_sound() {
    let mut studio = Studio::open();
    let origin = studio.plain("origin");
    fs::create_dir_all(origin.join("takes")).unwrap();
    for number in 0..20 {
        let take = noise(3000 + number, number as u64);
        fs::write(origin.join(format!("takes/{number}.wav")), take).unwrap();
    }
    git(&["init", "--quiet", "--initial-branch=main"], &origin);
    git(&["add", "."], &origin);
    git(&["commit", "--quiet", "--message=Takes"], &origin);

    let projects = studio.mounted("projects");
    let from = origin.to_str().unwrap();
    git(&["clone", "--quiet", from, "song"], &projects);
    let song = projects.join("song");
    fs::write(song.join("mix.txt"), "louder\n").unwrap();
    fs::rename(song.join("takes/3.wav"), song.join("takes/best.wav")).unwrap();
    git(&["add", "--all"], &song);
    git(&["commit", "--quiet", "--message=Mix"], &song);
    git(&["checkout", "--quiet", "-b", "other", "HEAD~1"], &song);
    fs::write(song.join("other.txt"), "quieter\n").unwrap();
    git(&["add", "other.txt"], &song);
    git(&["commit", "--quiet", "--message=Other"], &song);
    git(&["merge", "--quiet", "--no-edit", "main"], &song);
    git(&["gc", "--quiet"], &song);
    git(&["push", "--quiet", "origin", "other"], &song);

    // What came back into the plain repository is what the mount has.
    git(&["checkout", "--quiet", "other"], &origin);
    for again in [false, true] {
        if again {
            studio.start_again_from_the_bucket();
        }
        git(&["fsck", "--full", "--strict"], &song);
        assert_eq!(git(&["status", "--porcelain"], &song), "");
        let head = git(&["rev-parse", "HEAD"], &song);
        assert_eq!(head, git(&["rev-parse", "HEAD"], &origin));
        for file in git(&["ls-files"], &origin).lines() {
            let (ours, theirs) = (song.join(file), origin.join(file));
            assert_eq!(fs::read(ours).unwrap(), fs::read(theirs).unwrap(), "{file}");
        }
    }
    // Temporary files and locks have left nothing behind.
    let left = |key: &&String| key.ends_with(".lock") || key.contains("/tmp_");
    let keys = studio.model.keys();
    assert_eq!(keys.iter().find(left), None);
}
