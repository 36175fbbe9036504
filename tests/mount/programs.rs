//! Programs that musicians and developers use, on a mount. What they write is compared with what
//! the same program writes into a plain folder, and compared again after a remount with an empty
//! cache, when every byte comes from the bucket.

mod audio;
mod clients;
mod copies;
mod databases;
mod daws;
mod saving;
mod versions;

use std::collections::BTreeMap;
use std::fs;
use std::io::ErrorKind;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use r2_model::R2Model;

use crate::common::mount::Mount;

/// A mounted bucket, and beside it a plain folder with the same collections.
struct Studio {
    mount: Mount,
    model: R2Model,
}

impl Studio {
    fn open() -> Studio {
        Studio::with(&[])
    }

    fn with(settings: &[(&str, &str)]) -> Studio {
        let model = R2Model::start();
        let mount = Mount::with(&model, settings);
        for collection in ["segments", "layers", "projects", "rhythms"] {
            fs::create_dir_all(mount.beside("plain").join(collection)).unwrap();
        }
        Studio { mount, model }
    }

    fn mounted(&self, path: &str) -> PathBuf {
        self.mount.path(path)
    }

    fn plain(&self, path: &str) -> PathBuf {
        self.mount.beside("plain").join(path)
    }

    /// The two folders in which the same is to be done.
    fn both(&self) -> [PathBuf; 2] {
        [self.mount.root(), self.mount.beside("plain")]
    }

    /// From here on every byte comes from the bucket.
    fn start_again_from_the_bucket(&mut self) {
        self.mount.wait_uploaded();
        self.mount.unmount();
        self.mount.remove_cache();
        self.mount.mount();
    }

    /// The plain folder and the mount hold the same below `path`.
    #[track_caller]
    fn assert_same(&self, path: &str) {
        assert_same(&self.mounted(path), &self.plain(path));
    }
}

/// A program that is run in a folder, with nothing of the test's own environment.
pub(crate) fn program(name: &str, args: &[&str], folder: &Path) -> Command {
    let mut command = Command::new(name);
    command
        .args(args)
        .current_dir(folder)
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null());
    command
}

/// Runs a program that must succeed, and returns what it printed.
#[track_caller]
fn run(name: &str, args: &[&str], folder: &Path) -> String {
    finish(name, program(name, args, folder))
}

#[track_caller]
fn finish(name: &str, mut command: Command) -> String {
    let output = match command.output() {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            panic!("the program {name} is missing: scripts/test installs it")
        }
        output => output.unwrap(),
    };
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(
        output.status.success(),
        "{command:?}: {}\n{stdout}{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
    stdout
}

/// What a folder holds: each path with its bytes, or `None` for a folder.
pub(crate) fn contents(root: &Path) -> BTreeMap<PathBuf, Option<Vec<u8>>> {
    let mut found = BTreeMap::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(path) = waiting.pop() {
        let bytes = match path.is_dir() {
            true => {
                let entries = fs::read_dir(&path).unwrap();
                waiting.extend(entries.map(|entry| entry.unwrap().path()));
                None
            }
            false => Some(fs::read(&path).unwrap()),
        };
        found.insert(path.strip_prefix(root).unwrap().to_owned(), bytes);
    }
    found
}

/// Both hold the same names, and files with the same bytes.
#[track_caller]
fn assert_same(one: &Path, other: &Path) {
    let (one, other) = (contents(one), contents(other));
    let names = |tree: &BTreeMap<PathBuf, _>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&one), names(&other));
    for (path, bytes) in one {
        assert!(bytes == other[&path], "{} differs", path.display());
    }
}

/// Bytes that no two files share and nothing compresses.
fn noise(length: usize, seed: u64) -> Vec<u8> {
    let mut random = fastrand::Rng::with_seed(seed);
    std::iter::repeat_with(|| random.u8(..))
        .take(length)
        .collect()
}
