//! Folders that are renamed: seeded random operations against a plain model, with restarts, with
//! objects expanded and records carried out at any moment in between.

use std::collections::{BTreeMap, BTreeSet};

use super::*;
use crate::clock::Clock;
use crate::store::{ListRequest, ListedObject, ReadCondition};

mod sending;

const FILES: [&str; 4] = ["f0", "f1", "f2", "f3"];
const FOLDERS: [&str; 3] = ["d0", "d1", "d2"];

/// What the tree is to show: the bytes of files, and folders, by their paths.
#[derive(Clone, Default)]
struct Model {
    files: BTreeMap<String, Vec<u8>>,
    folders: BTreeSet<String>,
}

impl Model {
    fn names(&self, folder: &str) -> BTreeSet<String> {
        let all = self.files.keys().chain(&self.folders);
        all.filter_map(|path| path.strip_prefix(folder)?.strip_prefix('/'))
            .filter(|rest| !rest.contains('/'))
            .map(str::to_owned)
            .collect()
    }

    fn rename_folder(&mut self, from: &str, to: &str) {
        let renamed = |path: &String| match path.strip_prefix(from) {
            Some(rest) if rest.is_empty() || rest.starts_with('/') => format!("{to}{rest}"),
            _ => path.clone(),
        };
        let files = std::mem::take(&mut self.files).into_iter();
        self.files = files.map(|(path, bytes)| (renamed(&path), bytes)).collect();
        self.folders = self.folders.iter().map(renamed).collect();
    }
}

/// An operation whose answer has not come yet.
struct Sent {
    record: Record,
    holds: Option<ETag>,
    write_id: String,
}

struct Run {
    bench: Bench,
    model: Model,
    /// What others wrote below a folder after it was renamed.
    left: Vec<Vec<u8>>,
    sent: Vec<Sent>,
    state: u64,
    count: u64,
    told: Vec<String>,
}

impl Run {
    fn new(seed: u64) -> Run {
        let bench = Bench::new();
        // From here on the clock is ahead of what the disk says of its files.
        bench.clock.advance(Duration::from_secs(3600));
        Run {
            bench,
            model: Model {
                folders: ["layers".to_owned()].into(),
                ..Model::default()
            },
            left: Vec::new(),
            sent: Vec::new(),
            state: seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            count: 0,
            told: Vec::new(),
        }
    }

    fn random(&mut self, below: usize) -> usize {
        self.state ^= self.state << 13;
        self.state ^= self.state >> 7;
        self.state ^= self.state << 17;
        (self.state >> 11) as usize % below
    }

    fn pick<T: Clone>(&mut self, from: &[T]) -> Option<T> {
        (!from.is_empty()).then(|| from[self.random(from.len())].clone())
    }

    fn bytes(&mut self) -> Vec<u8> {
        self.count += 1;
        format!("bytes {}", self.count).into_bytes()
    }

    fn tell(&mut self, what: String) {
        if std::env::var_os("MOVED_LOG").is_some() {
            eprintln!("{what}");
        }
        self.told.push(what);
    }

    fn fs(&self) -> &Arc<Fs> {
        &self.bench.fs
    }

    fn find(&self, path: &str) -> FsResult<Ino> {
        let mut ino = Ino::ROOT;
        for name in path.split('/') {
            ino = self.bench.run(self.fs().lookup(ino, OsStr::new(name)))?.ino;
        }
        Ok(ino)
    }

    fn place<'a>(&self, path: &'a str) -> (Ino, &'a OsStr) {
        let (folder, name) = path.rsplit_once('/').unwrap();
        let ino = self
            .find(folder)
            .unwrap_or_else(|error| panic!("{folder}: {error}"));
        (ino, OsStr::new(name))
    }

    fn folders(&self) -> Vec<String> {
        self.model.folders.iter().cloned().collect()
    }

    /// A path for a new file or folder in a folder that is not too deep.
    fn new_path(&mut self, names: &[&str]) -> String {
        let folders = self.folders();
        let shallow: Vec<String> = folders
            .into_iter()
            .filter(|folder| folder.matches('/').count() < 3)
            .collect();
        let folder = self.pick(&shallow).unwrap();
        let name = self.pick(names).unwrap();
        format!("{folder}/{name}")
    }

    fn act(&mut self) {
        self.bench.clock.advance(Duration::from_secs(1));
        match self.random(30) {
            0..=4 => self.write(),
            5..=6 => self.mkdir(),
            7..=11 => self.rename_folder(),
            12..=14 => self.rename_file(),
            15..=16 => self.unlink(),
            17 => self.rmdir(),
            18 => self.others_write(),
            19 => self.others_write_late(),
            20..=21 => self.expand_some(),
            22 => self.expand_one_move(),
            23..=26 => self.send_one(),
            27 => self.answer(),
            28 if self.random(4) == 0 => self.restart(),
            _ => self.chmod(),
        }
    }

    fn write(&mut self) {
        let path = self.new_path(&FILES);
        let bytes = self.bytes();
        self.tell(format!("write {path} {}", String::from_utf8_lossy(&bytes)));
        let (parent, name) = self.place(&path);
        let fs = self.fs().clone();
        let fh = match self.bench.run(fs.lookup(parent, name)) {
            Ok(attr) => {
                assert!(
                    self.model.files.contains_key(&path),
                    "{path} shines through"
                );
                let raw = libc::O_RDWR | [0, libc::O_TRUNC][self.random(2)];
                let fh = self.bench.open(attr.ino, OpenFlags { raw }).unwrap();
                let size = SetAttr {
                    size: Some(0),
                    ..SetAttr::default()
                };
                self.bench
                    .run(fs.setattr(attr.ino, Some(fh), &size))
                    .unwrap();
                fh
            }
            Err(FsError::NotFound) => {
                assert!(!self.model.files.contains_key(&path), "{path} is lost");
                let created = fs.create(parent, name, 0o644, WRITE, CALLER);
                self.bench.run(created).unwrap().opened.fh
            }
            Err(error) => panic!("{path}: {error}"),
        };
        self.bench.write(fh, 0, &bytes).unwrap();
        self.model.files.insert(path.clone(), bytes);
        if self.random(4) == 0 {
            // Its folder is renamed while it is open.
            self.rename_folder();
        }
        self.fs().release(fh);
    }

    fn chmod(&mut self) {
        let files: Vec<String> = self.model.files.keys().cloned().collect();
        let Some(path) = self.pick(&files) else {
            return;
        };
        self.tell(format!("chmod {path}"));
        let ino = self.find(&path).unwrap();
        let mode = 0o600 + self.random(8) as u32;
        self.bench.chmod(ino, mode);
        self.fs().forget(ino, 1);
    }

    fn mkdir(&mut self) {
        let path = self.new_path(&FOLDERS);
        self.tell(format!("mkdir {path}"));
        let (parent, name) = self.place(&path);
        let _ = self.bench.run(self.fs().lookup(parent, name));
        let made = self.bench.run(self.fs().mkdir(parent, name, 0o755, CALLER));
        match made {
            Ok(_) => assert!(self.model.folders.insert(path)),
            Err(FsError::Exists) => {
                let known = self.model.folders.contains(&path);
                assert!(known || !self.left.is_empty(), "{path} shines through");
            }
            Err(error) => panic!("{path}: {error}"),
        }
    }

    fn rename_folder(&mut self) {
        let folders: Vec<String> = self.folders().into_iter().skip(1).collect();
        let Some(from) = self.pick(&folders) else {
            return;
        };
        let to = self.new_path(&FOLDERS);
        if to == from {
            return;
        }
        self.tell(format!("rename {from} {to}"));
        let (a, b) = (self.place(&from), self.place(&to));
        // The kernel looks both names up.
        let _ = self.bench.run(self.fs().lookup(a.0, a.1)).unwrap();
        let _ = self.bench.run(self.fs().lookup(b.0, b.1));
        let renamed = self.bench.run(self.fs().rename(a, b, 0));
        if to.starts_with(&format!("{from}/")) {
            assert!(
                matches!(renamed, Err(FsError::InvalidArgument(_))),
                "{renamed:?}"
            );
            return;
        }
        match renamed {
            Ok(()) => {
                assert!(self.model.names(&to).is_empty(), "{to} was not empty");
                self.model.rename_folder(&from, &to);
            }
            Err(FsError::NotEmpty) => {
                let full = !self.model.names(&to).is_empty();
                assert!(full || !self.left.is_empty(), "{to} is empty");
            }
            Err(error) => panic!("{from} to {to}: {error}"),
        }
    }

    fn rename_file(&mut self) {
        let files: Vec<String> = self.model.files.keys().cloned().collect();
        let Some(from) = self.pick(&files) else {
            return;
        };
        let to = self.new_path(&FILES);
        self.tell(format!("rename {from} {to}"));
        let (a, b) = (self.place(&from), self.place(&to));
        // The kernel looks both names up.
        let _ = self.bench.run(self.fs().lookup(a.0, a.1)).unwrap();
        let _ = self.bench.run(self.fs().lookup(b.0, b.1));
        self.bench.run(self.fs().rename(a, b, 0)).unwrap();
        let bytes = self.model.files.remove(&from).unwrap();
        self.model.files.insert(to, bytes);
    }

    fn unlink(&mut self) {
        let files: Vec<String> = self.model.files.keys().cloned().collect();
        let Some(path) = self.pick(&files) else {
            return;
        };
        self.tell(format!("unlink {path}"));
        let (parent, name) = self.place(&path);
        let _ = self.bench.run(self.fs().lookup(parent, name)).unwrap();
        self.bench.run(self.fs().unlink(parent, name)).unwrap();
        self.model.files.remove(&path);
    }

    fn rmdir(&mut self) {
        let folders: Vec<String> = self.folders().into_iter().skip(1).collect();
        let Some(path) = self.pick(&folders) else {
            return;
        };
        self.tell(format!("rmdir {path}"));
        let (parent, name) = self.place(&path);
        let _ = self.bench.run(self.fs().lookup(parent, name)).unwrap();
        let full = !self.model.names(&path).is_empty();
        match self.bench.run(self.fs().rmdir(parent, name)) {
            Ok(()) => {
                assert!(!full, "{path} was not empty");
                self.model.folders.remove(&path);
            }
            Err(FsError::NotEmpty) => assert!(full || !self.left.is_empty(), "{path} is empty"),
            Err(error) => panic!("{path}: {error}"),
        }
    }

    /// Somebody else puts an object into a folder that lies where it shows.
    fn others_write(&mut self) {
        let path = self.new_path(&["theirs0", "theirs1"]);
        let folder = format!("{}/", path.rsplit_once('/').unwrap().0);
        let key = self.bench.key(&path);
        let moves = self.fs().journal().moves();
        let lies_there = moves
            .lowers(&folder)
            .iter()
            .all(|lower| lower.since.is_none());
        let is_free = self.fs().journal().record(&key).is_none()
            && self
                .bench
                .run(self.bench.store.head(&key, ReadCondition::None))
                .is_err()
            && !self.model.files.contains_key(&path);
        let known = self.fs().journal().records_below(&folder).is_empty();
        if lies_there && is_free && known {
            let bytes = self.bytes();
            self.tell(format!("others write {path}"));
            self.bench
                .others_write(&path, Box::leak(bytes.clone().into_boxed_slice()));
            self.model.files.insert(path, bytes);
            // Seen when the listings are old.
            self.bench.clock.advance(Duration::from_secs(40));
        }
    }

    /// Somebody else, who knows nothing of a rename, puts an object where a folder was.
    fn others_write_late(&mut self) {
        let moves = self.fs().journal().moves();
        let pending: Vec<String> = moves.pending().map(|m| m.source.to_string()).collect();
        let Some(source) = self.pick(&pending) else {
            return;
        };
        let bytes = self.bytes();
        let path = format!("{source}late{}", self.count);
        self.tell(format!("others write {path}, late"));
        self.bench
            .others_write(&path, Box::leak(bytes.clone().into_boxed_slice()));
        let file = std::fs::File::options()
            .write(true)
            .open(self.bench.dir.path().join("output").join(&path));
        file.unwrap()
            .set_modified(self.bench.clock.now() + Duration::from_millis(500))
            .unwrap();
        self.left.push(bytes);
    }

    fn objects(&self, prefix: &str) -> Vec<ListedObject> {
        let request = ListRequest {
            prefix: prefix.into(),
            ..ListRequest::default()
        };
        let page = self.bench.run(self.bench.store.list(request)).unwrap();
        assert_eq!(page.next, None);
        page.objects
    }

    /// A part of a listing is taken in, as before a kill.
    fn expand_some(&mut self) {
        let moves = self.fs().journal().moves();
        let pending: Vec<String> = moves.outermost().map(|m| m.source.to_string()).collect();
        let Some(source) = self.pick(&pending) else {
            return;
        };
        let mut objects = self.objects(&source);
        objects.truncate(self.random(objects.len() + 1));
        self.tell(format!("expand {} of {source}", objects.len()));
        self.fs().expand_batch(&objects).unwrap();
    }

    fn expand_one_move(&mut self) {
        self.tell("expand".into());
        self.bench.run(self.fs().expand_next()).unwrap();
    }

    fn restart(&mut self) {
        self.answer();
        let cold = self.random(2) == 0;
        self.tell(format!("restart, cold: {cold}"));
        let ahead = self.bench.clock.now();
        // So that nothing changes while it is copied.
        self.fs().staging.shutdown();
        self.fs().cache.shutdown();
        let (old, new) = (self.bench.dir.path(), tempfile::tempdir().unwrap());
        copy_folder(&old.join("staging"), &new.path().join("staging"));
        if !cold {
            copy_folder(&old.join("cache"), &new.path().join("cache"));
        }
        // Not copied: the tags of its objects are of the files.
        std::fs::rename(old.join("output"), new.path().join("output")).unwrap();
        self.bench = Bench::at(new, NAMES_IN_MEMORY);
        let now = self.bench.clock.now();
        self.bench
            .clock
            .advance(ahead.duration_since(now).unwrap_or_default());
    }

    /// Everything shows as it is to.
    fn check(&self) {
        for folder in &self.model.folders {
            let ino = self
                .find(folder)
                .unwrap_or_else(|error| panic!("{folder}: {error}"));
            let fh = self.bench.run(self.fs().opendir(ino)).unwrap();
            let entries = self.bench.run(self.fs().read_all(ino, fh)).unwrap();
            self.fs().releasedir(fh);
            let names = entries.iter().skip(2);
            let mut names: BTreeSet<String> = names
                .map(|entry| entry.name.to_str().unwrap().to_owned())
                .collect();
            let wanted = self.model.names(folder);
            if !self.left.is_empty() {
                // What was written late shows where it was written, sooner or later.
                names.retain(|name| wanted.contains(name) || FILES.contains(&name.as_str()));
            }
            assert_eq!(names, wanted, "in {folder}");
        }
        for (path, bytes) in &self.model.files {
            let ino = self
                .find(path)
                .unwrap_or_else(|error| panic!("{path}: {error}"));
            let read = self.bench.read(ino);
            let read = read.unwrap_or_else(|error| panic!("{path}: {error}"));
            let read = String::from_utf8_lossy(&read).into_owned();
            assert_eq!(read, String::from_utf8_lossy(bytes), "{path}");
        }
    }

    /// Everything is carried out; then the bucket holds what the tree shows.
    fn finish(&mut self) {
        self.answer();
        while self.bench.run(self.fs().expand_next()).unwrap() {}
        self.check();
        for _ in 0..2000 {
            let left = self.fs().journal().records();
            let ready = |record: &&Record| !self.fs().journal().copies_from(&record.key);
            if let Some(record) = left.iter().find(ready).cloned() {
                self.send(record);
                self.answer();
            } else if left.is_empty() {
                break;
            } else {
                self.break_circle();
            }
        }
        assert_eq!(self.fs().journal().records(), []);
        let mut held = BTreeMap::new();
        for object in self.objects("layers/") {
            let key = object.version.key.as_str();
            if !key.ends_with('/') {
                let path = self.bench.dir.path().join("output").join(key);
                held.insert(key.to_owned(), std::fs::read(path).unwrap());
            }
        }
        let mut late = self.left.clone();
        held.retain(|_, bytes| {
            let found = late.iter().position(|late| late == bytes);
            found.map(|at| late.remove(at)).is_none()
        });
        let late: Vec<_> = late
            .iter()
            .map(|bytes| String::from_utf8_lossy(bytes))
            .collect();
        assert!(late.is_empty(), "written by others and lost: {late:?}");
        assert_eq!(held, self.model.files);
        self.check();
    }
}

#[test]
fn renamed_folders_are_right_at_every_moment() {
    let seeds = match std::env::var("MOVED_SEED") {
        Ok(seed) => {
            let seed: u64 = seed.parse().unwrap();
            seed..seed + 1
        }
        Err(_) => 0..25,
    };
    for seed in seeds {
        let mut run = Run::new(seed);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            for step in 0..120 {
                run.act();
                if step % 5 == 0 {
                    run.check();
                }
            }
            run.finish();
        }));
        if ended.is_err() {
            panic!("seed {seed}:\n{}", run.told.join("\n"));
        }
    }
}
