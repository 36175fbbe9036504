//! One program at work in a folder of its own: it knows what was acknowledged.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::super::noise;
use super::Random;
use super::state::{Pending, State};

const MAX_WRITE_BYTES: u64 = 40_000;
/// How long a folder may be out of reach.
const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Writer {
    number: u64,
    random: Random,
    /// What was acknowledged.
    state: State,
    pending: Option<Pending>,
    root: PathBuf,
    last: &'static str,
}

impl Writer {
    pub(crate) fn new(number: u64, seed: u64) -> Writer {
        Writer {
            number,
            random: Random::new(seed),
            state: State::default(),
            pending: None,
            root: PathBuf::new(),
            last: "nothing",
        }
    }

    /// The folder, below the root of the mount.
    pub(crate) fn folder(&self) -> String {
        format!("projects/w{}", self.number)
    }

    /// What the bucket must hold.
    pub(crate) fn objects(&self) -> Vec<(String, Vec<u8>)> {
        let files = self.state.0.iter().filter(|(path, _)| !path.ends_with('/'));
        files
            .map(|(path, bytes)| (format!("{}/{path}", self.folder()), bytes.clone()))
            .collect()
    }

    /// Compares what the mount shows after a kill, and goes on from there.
    pub(crate) fn settle(&mut self, found: State) -> Result<(), String> {
        let pending = self.pending.take();
        self.state.compare(pending.as_ref(), &found)?;
        self.state = found;
        Ok(())
    }

    /// What it was doing when the mount was killed.
    pub(crate) fn last(&self) -> &str {
        self.last
    }

    /// Works until an operation fails, which must be because of the kill.
    pub(crate) fn work(&mut self, root: &Path, acknowledged: &AtomicU64, stopping: &AtomicBool) {
        self.root = root.join(self.folder());
        let folder = self.root.clone();
        let mut result = match fs::create_dir(&folder) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => Ok(()),
        };
        while result.is_ok() && !stopping.load(Ordering::Relaxed) {
            result = self.one_operation(acknowledged);
        }
        let Err(error) = result else { return };
        // Nothing but the end of the mount may make an operation fail.
        let end = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while !stopping.load(Ordering::Relaxed) {
            let left = end.saturating_duration_since(std::time::Instant::now());
            assert!(!left.is_zero(), "{}: {error}", folder.display());
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// Does one operation in a mount whose bucket may be out of reach: one that fails has done
    /// nothing, or all of it, or a part of its bytes. Returns whether it was acknowledged.
    pub(crate) fn attempt(
        &mut self,
        root: &Path,
        acknowledged: &AtomicU64,
    ) -> Result<bool, String> {
        self.root = root.join(self.folder());
        let made = match self.root.is_dir() {
            true => Ok(()),
            false => fs::create_dir(&self.root),
        };
        if made.and_then(|()| self.one_operation(acknowledged)).is_ok() {
            return Ok(true);
        }
        let end = Instant::now() + PATIENCE;
        let found = loop {
            match State::try_read(&self.root) {
                Ok(found) => break found,
                Err(error) if Instant::now() > end => return Err(error.to_string()),
                Err(_) => std::thread::sleep(Duration::from_millis(50)),
            }
        };
        self.settle(found)?;
        Ok(false)
    }

    fn one_operation(&mut self, acknowledged: &AtomicU64) -> io::Result<()> {
        let (name, done): (_, fn(&mut Writer, &AtomicU64) -> io::Result<()>) =
            match self.random.below(13) {
                0 | 1 => ("write a new file", Writer::write_new),
                2 | 3 => ("edit in place", Writer::edit_in_place),
                4 => ("append", Writer::append),
                5 => ("truncate", |writer, _| writer.truncate()),
                6 => ("rename over", |writer, _| writer.rename_over()),
                7 | 8 => ("save", Writer::save),
                9 => ("delete", |writer, _| writer.delete()),
                10 => ("read back", |writer, _| writer.read_back()),
                11 => ("write one after another", Writer::write_sequentially),
                _ => ("rename the folder", |writer, _| writer.rename_folder()),
            };
        self.last = name;
        let done = done(self, acknowledged);
        done?;
        acknowledged.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    /// Does something that is either done or not, and notes it.
    fn change(
        &mut self,
        after: State,
        change: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        self.pending = Some(Pending::Becomes(after.clone()));
        change(&self.root)?;
        self.pending = None;
        self.state = after;
        Ok(())
    }

    fn changed(&self, change: impl FnOnce(&mut State)) -> State {
        let mut after = self.state.clone();
        change(&mut after);
        after
    }

    fn write(
        &mut self,
        path: &str,
        offset: usize,
        acknowledged: &AtomicU64,
        mut write: impl FnMut(&[u8]) -> io::Result<usize>,
    ) -> io::Result<()> {
        let length = 1 + self.random.below(MAX_WRITE_BYTES) as usize;
        let data = noise(self.random.below(u64::MAX), length);
        self.pending = Some(Pending::Write {
            path: path.into(),
            offset,
            data: data.clone(),
        });
        let written = write(&data)?;
        self.state.write(path, offset, &data[..written]);
        if written < data.len() {
            // The kernel had sent the rest when the mount died under it.
            self.pending = Some(Pending::Write {
                path: path.into(),
                offset: offset + written,
                data: data[written..].to_vec(),
            });
            return Err(io::ErrorKind::WriteZero.into());
        }
        self.pending = None;
        acknowledged.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }

    fn name(&mut self) -> String {
        let folder = if self.random.below(3) == 0 {
            "take/"
        } else {
            ""
        };
        let folder = match self.state.0.contains_key(folder) {
            true => folder,
            false => "",
        };
        format!("{folder}{}.wav", self.random.below(6))
    }

    fn some_file(&mut self) -> Option<String> {
        let files = self.state.0.keys().filter(|path| !path.ends_with('/'));
        let files: Vec<&String> = files.collect();
        let chosen = self.random.below(files.len() as u64) as usize;
        files.get(chosen).map(|path| (*path).clone())
    }

    fn write_new(&mut self, acknowledged: &AtomicU64) -> io::Result<()> {
        let name = self.name();
        let file = self.create(&name)?;
        self.fill(&file, &name, acknowledged)
    }

    fn create(&mut self, name: &str) -> io::Result<File> {
        let after = self.changed(|state| {
            state.0.insert(name.to_owned(), Vec::new());
        });
        let mut made = None;
        self.change(after, |root| {
            made = Some(File::create(root.join(name))?);
            Ok(())
        })?;
        Ok(made.expect("just made"))
    }

    fn fill(&mut self, mut file: &File, name: &str, acknowledged: &AtomicU64) -> io::Result<()> {
        let mut offset = self.state.0[name].len();
        for _ in 0..1 + self.random.below(4) {
            self.write(name, offset, acknowledged, |data| {
                let written = file.write(data)?;
                offset += written;
                Ok(written)
            })?;
        }
        Ok(())
    }

    /// As a recorder does: one file that grows by many small writes.
    fn write_sequentially(&mut self, acknowledged: &AtomicU64) -> io::Result<()> {
        let name = self.name();
        let file = self.create(&name)?;
        for _ in 0..8 {
            self.fill(&file, &name, acknowledged)?;
        }
        Ok(())
    }

    fn edit_in_place(&mut self, acknowledged: &AtomicU64) -> io::Result<()> {
        let Some(name) = self.some_file() else {
            return Ok(());
        };
        let file = OpenOptions::new().write(true).open(self.root.join(&name))?;
        for _ in 0..1 + self.random.below(3) {
            let length = self.state.0[&name].len() as u64;
            let offset = self.random.below(length + 1);
            self.write(&name, offset as usize, acknowledged, |data| {
                file.write_at(data, offset)
            })?;
        }
        Ok(())
    }

    fn append(&mut self, acknowledged: &AtomicU64) -> io::Result<()> {
        let Some(name) = self.some_file() else {
            return Ok(());
        };
        let mut file = OpenOptions::new()
            .append(true)
            .open(self.root.join(&name))?;
        let end = self.state.0[&name].len();
        self.write(&name, end, acknowledged, |data| file.write(data))
    }

    fn truncate(&mut self) -> io::Result<()> {
        let Some(name) = self.some_file() else {
            return Ok(());
        };
        let length = self.random.below(60_000);
        let after = self.changed(|state| {
            let bytes = state.0.get_mut(&name).expect("it exists");
            bytes.resize(length as usize, 0);
        });
        self.change(after, |root| {
            // By its path, as truncate(1) does it: without a handle of ours.
            truncate_by_path(&root.join(&name), length)
        })
    }

    fn rename_over(&mut self) -> io::Result<()> {
        let (Some(from), to) = (self.some_file(), self.name()) else {
            return Ok(());
        };
        self.rename(&from, &to)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        let after = self.changed(|state| state.rename(from, to));
        self.change(after, |root| fs::rename(root.join(from), root.join(to)))
    }

    /// As editors and DAWs save.
    fn save(&mut self, acknowledged: &AtomicU64) -> io::Result<()> {
        let name = self.name();
        let temporary = format!("{name}.tmp");
        let file = self.create(&temporary)?;
        self.fill(&file, &temporary, acknowledged)?;
        file.sync_all()?;
        drop(file);
        self.rename(&temporary, &name)
    }

    fn delete(&mut self) -> io::Result<()> {
        let Some(name) = self.some_file() else {
            return Ok(());
        };
        let after = self.changed(|state| {
            state.0.remove(&name);
        });
        self.change(after, |root| fs::remove_file(root.join(&name)))
    }

    fn read_back(&mut self) -> io::Result<()> {
        let Some(name) = self.some_file() else {
            return Ok(());
        };
        let found = fs::read(self.root.join(&name))?;
        super::super::assert_bytes(&found, &self.state.0[&name], &name);
        Ok(())
    }

    /// Makes, moves or removes the folder.
    fn rename_folder(&mut self) -> io::Result<()> {
        let (take, other) = ("take/", "other/");
        if !self.state.0.contains_key(take) && !self.state.0.contains_key(other) {
            let after = self.changed(|state| {
                state.0.insert(take.to_owned(), Vec::new());
            });
            return self.change(after, |root| fs::create_dir(root.join(take)));
        }
        match self.state.0.contains_key(take) {
            true => self.rename(take, other),
            false => self.rename(other, take),
        }
    }
}

fn truncate_by_path(path: &Path, length: u64) -> io::Result<()> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes())?;
    // SAFETY: `path` is a string that ends in zero and lives as long as the call.
    match unsafe { libc::truncate(path.as_ptr(), length as libc::off_t) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}
