//! The directories of a mount: rights, room, and what their disks can do.

use std::fs::{self, File};
use std::io;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::Path;
use std::time::{Duration, Instant};

use super::Finding;
use crate::cli::status::size_text;
use crate::config::Config;
use crate::control::client::Client;
use crate::disk::{self, FileId};
use crate::sqlite;

/// Below this nothing can be recorded: a short take of several tracks has more.
const LITTLE_ROOM: u64 = 64 << 20;

/// Below this a session may fill the disk.
const SOME_ROOM: u64 = 5 << 30;

/// A sync that takes longer holds up every program that asks for one.
const SLOW_SYNC: Duration = Duration::from_millis(200);

/// File systems whose content is gone after a power cut, and those that another machine or process
/// answers for (statfs(2)).
const IN_MEMORY: [(i64, &str); 2] = [(0x0102_1994, "tmpfs"), (0x8584_58f6, "ramfs")];
const ELSEWHERE: [(i64, &str); 4] = [
    (0x6969, "nfs"),
    (0xff53_4d42_u32 as i64, "cifs"),
    (0xfe53_4d42_u32 as i64, "smb2"),
    (0x6573_5546, "fuse"),
];

pub(super) fn findings(config: &Config) -> Vec<Finding> {
    let (cache, staging) = (&config.cache_dir, &config.staging_dir);
    let mut findings = directory("cache", "CACHE_DIR", cache);
    findings.extend(directory("staging", "STAGING_DIR", staging));
    // A mount that runs owns them, and tells by itself when something is wrong.
    if Client::connect(staging).is_err() {
        findings.extend(database("cache", "its index", &cache.join("index.db")));
        findings.extend(database(
            "staging",
            "the journal",
            &staging.join("journal.db"),
        ));
    }
    let device = |path: &Path| fs::metadata(path).map(|metadata| metadata.dev());
    if let (Ok(one), Ok(other)) = (device(cache), device(staging))
        && one != other
    {
        findings.push(Finding::warning(
            "staging",
            "CACHE_DIR and STAGING_DIR lie on two file systems: uploaded files are copied from one \
             to the other",
            "put both on one",
        ));
    }
    findings
}

fn directory(about: &'static str, name: &str, path: &Path) -> Vec<Finding> {
    let shown = path.display();
    let Some(existing) = path.ancestors().find(|path| path.exists()) else {
        return Vec::new();
    };
    if existing != path {
        return vec![Finding::good(
            about,
            format!("{name} {shown} will be made by the first mount"),
        )];
    }
    let mut findings = vec![owner(about, name, path)];
    if let Ok(space) = disk::disk_space(path) {
        findings.push(room(about, name, space.available));
    }
    findings.extend(file_system(about, name, path));
    match try_out(path) {
        Ok(abilities) => findings.extend(abilities_of(about, &abilities)),
        Err(error) => findings.push(Finding::problem(
            about,
            format!("{name} {shown} cannot be written: {error}"),
            "run doctor as the user who mounts, or give the folder to that user",
        )),
    }
    findings
}

fn owner(about: &'static str, name: &str, path: &Path) -> Finding {
    let shown = path.display();
    match fs::metadata(path) {
        Ok(metadata) if metadata.uid() != rustix::process::geteuid().as_raw() => Finding::problem(
            about,
            format!("{name} {shown} belongs to user {}", metadata.uid()),
            "run doctor as the user who mounts, or chown the folder",
        ),
        Ok(metadata) if metadata.mode() & 0o077 != 0 => Finding::warning(
            about,
            format!("others may enter {name} {shown}"),
            format!("chmod 700 {shown} (the next mount does it)"),
        ),
        Ok(_) => Finding::good(about, format!("{name} {shown} is there and private")),
        Err(error) => Finding::problem(
            about,
            format!("{name} {shown}: {error}"),
            "give the folders above it the right to be entered",
        ),
    }
}

fn room(about: &'static str, name: &str, available: u64) -> Finding {
    let text = format!("{} are free for {name}", size_text(available));
    match available {
        ..LITTLE_ROOM => Finding::problem(about, text, "make room: nothing can be recorded"),
        LITTLE_ROOM..SOME_ROOM => Finding::warning(about, text, "make room before a long session"),
        _ => Finding::good(about, text),
    }
}

fn file_system(about: &'static str, name: &str, path: &Path) -> Option<Finding> {
    let kind = rustix::fs::statfs(path).ok()?.f_type;
    let named = |list: &[(i64, &'static str)]| {
        let found = list.iter().find(|(magic, _)| *magic == kind);
        found.map(|(_, name)| *name)
    };
    if let Some(kind) = named(&IN_MEMORY) {
        let text = format!("{name} lies in memory ({kind})");
        return Some(match about {
            "staging" => Finding::problem(
                about,
                format!("{text}: what is not uploaded is gone after a power cut"),
                "put it on a disk",
            ),
            _ => Finding::warning(about, text, "it is empty after each start"),
        });
    }
    let kind = named(&ELSEWHERE)?;
    Some(Finding::warning(
        about,
        format!("{name} lies on {kind}: whether a sync reaches a disk is not known here"),
        "put it on a disk of this machine",
    ))
}

fn database(about: &'static str, name: &str, path: &Path) -> Option<Finding> {
    if !path.exists() {
        return None;
    }
    Some(match sqlite::check(path) {
        Ok(()) => Finding::good(about, format!("{name} is whole")),
        Err(error) if about == "cache" => Finding::warning(
            about,
            format!("{name} is damaged: {error}"),
            "unmount and remove CACHE_DIR: it is made anew",
        ),
        Err(error) => Finding::problem(
            about,
            format!("{name} is damaged: {error}"),
            "keep STAGING_DIR as it is, look after the disk, and ask for help before you mount again",
        ),
    })
}

/// What a disk can do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Abilities {
    /// Files share blocks (FICLONE).
    clones: bool,
    /// Files have holes.
    sparse: bool,
    /// How long a small sync took.
    sync: Duration,
}

fn abilities_of(about: &'static str, abilities: &Abilities) -> Vec<Finding> {
    let mut findings = Vec::new();
    let sync = format!(
        "a sync takes {:.1} ms",
        abilities.sync.as_secs_f64() * 1000.0
    );
    findings.push(match abilities.sync > SLOW_SYNC {
        true => Finding::warning(
            about,
            sync,
            "programs that sync will wait: a faster disk helps",
        ),
        false => Finding::good(about, sync),
    });
    if !abilities.sparse {
        findings.push(Finding::warning(
            about,
            "its files cannot have holes: a file that is read in part takes all its room",
            "use ext4, xfs or btrfs",
        ));
    }
    if about == "staging" {
        findings.push(match abilities.clones {
            true => Finding::good(about, "open files are cloned for their snapshots"),
            false => Finding::good(
                about,
                "open files are copied for their snapshots (xfs and btrfs would clone them)",
            ),
        });
    }
    findings
}

/// Tries it with two files of its own.
fn try_out(folder: &Path) -> io::Result<Abilities> {
    let one = folder.join(format!(".doctor-{}", FileId::random()));
    let other = folder.join(format!(".doctor-{}", FileId::random()));
    let tried = (|| {
        let file = File::create_new(&one)?;
        let hole: u64 = 16 << 20;
        file.write_all_at(b"end", hole)?;
        let begun = Instant::now();
        file.sync_data()?;
        let sync = begun.elapsed();
        let sparse = file.metadata()?.blocks() * 512 < hole;
        let copy = File::create_new(&other)?;
        let clones = rustix::fs::ioctl_ficlone(&copy, &file).is_ok();
        Ok(Abilities {
            clones,
            sparse,
            sync,
        })
    })();
    let _ = fs::remove_file(&one);
    let _ = fs::remove_file(&other);
    tried
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn a_folder_is_tried_out_and_left_as_it_was() {
        let folder = tempfile::tempdir().unwrap();
        let abilities = try_out(folder.path()).unwrap();
        assert!(abilities.sync < Duration::from_secs(60));
        assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 0);
        assert!(try_out(&folder.path().join("none")).is_err());
    }

    #[test]
    fn room_is_judged_by_what_is_left() {
        let level = |bytes| room("staging", "STAGING_DIR", bytes).level;
        assert_eq!(level(LITTLE_ROOM - 1), Level::Problem);
        assert_eq!(level(LITTLE_ROOM), Level::Warning);
        assert_eq!(level(SOME_ROOM), Level::Good);
    }

    #[test]
    fn a_damaged_journal_is_a_problem_and_a_damaged_index_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x.db");
        assert_eq!(database("staging", "the journal", &path), None);
        fs::write(&path, [7; 8192]).unwrap();
        let level = |about| database(about, "it", &path).unwrap().level;
        assert_eq!(level("staging"), Level::Problem);
        assert_eq!(level("cache"), Level::Warning);
    }
}
