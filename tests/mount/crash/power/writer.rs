//! A program that syncs now and then, and knows what it has synced.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use super::super::noise;
use super::super::random::Random;
use super::super::random::state::State;
use super::known::{FileNumber, Known, Names};

const MAX_WRITE_BYTES: u64 = 40_000;
const MAX_BYTES: u64 = 150_000;

pub(super) struct Writer {
    number: u64,
    random: Random,
    known: Known,
    root: PathBuf,
    cut: Arc<AtomicBool>,
}

impl Writer {
    pub(super) fn new(number: u64, seed: u64) -> Writer {
        Writer {
            number,
            random: Random::new(seed),
            known: Known::start(&State::default()),
            root: PathBuf::new(),
            cut: Arc::default(),
        }
    }

    pub(super) fn folder(&self) -> String {
        format!("projects/p{}", self.number)
    }

    /// Compares what the mount shows after a cut, and goes on from there.
    pub(super) fn settle(&mut self, found: &State) -> Result<(), String> {
        self.known.compare(found)?;
        self.known = Known::start(found);
        Ok(())
    }

    /// What the bucket must hold in the end.
    pub(super) fn objects(&self) -> Vec<(String, Vec<u8>)> {
        let files = self.known.names().iter().filter(|(_, file)| file.is_some());
        let object = |path: &String| {
            let key = format!("{}/{path}", self.folder());
            (key, self.known.bytes(path).to_vec())
        };
        files.map(|(path, _)| object(path)).collect()
    }

    /// Works until an operation fails; returns the error. From `cut` on no sync counts: nobody is
    /// left who could have been told, and what a kernel answers whose disk is going says nothing.
    pub(super) fn work(
        &mut self,
        root: &Path,
        acknowledged: &AtomicU64,
        stopping: &AtomicBool,
        cut: &Arc<AtomicBool>,
    ) -> Option<io::Error> {
        self.cut = Arc::clone(cut);
        self.root = root.join(self.folder());
        match fs::create_dir(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Some(error),
            _ => {}
        }
        while !stopping.load(Ordering::Relaxed) {
            if let Err(error) = self.one_operation() {
                return Some(error);
            }
            acknowledged.fetch_add(1, Ordering::Relaxed);
        }
        None
    }

    fn one_operation(&mut self) -> io::Result<()> {
        match self.random.below(16) {
            0 | 1 => self.create(),
            2..=4 => self.edit_in_place(),
            5 => self.append(),
            6 => self.truncate(),
            7 => self.rename_over(),
            8..=10 => self.save(),
            11 | 12 => self.delete(),
            13 => self.sync_some_file(),
            14 => self.sync_folder(),
            _ => self.rename_folder(),
        }
    }

    fn some_file(&mut self) -> Option<(String, FileNumber)> {
        let files = self.known.names().iter();
        let files: Vec<_> = files
            .filter_map(|(path, file)| Some((path, (*file)?)))
            .collect();
        let chosen = self.random.below(files.len() as u64) as usize;
        files
            .get(chosen)
            .map(|(path, file)| ((*path).clone(), *file))
    }

    fn name(&mut self) -> String {
        let in_folder = self.random.below(3) == 0 && self.known.names().contains_key("take/");
        let folder = if in_folder { "take/" } else { "" };
        format!("{folder}{}.wav", self.random.below(6))
    }

    /// Carries out an operation on names.
    fn change(
        &mut self,
        change: impl FnOnce(&mut Names),
        call: impl FnOnce(&Path) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut after = self.known.names().clone();
        change(&mut after);
        self.known.begin(after);
        call(&self.root)?;
        self.known.acknowledged();
        Ok(())
    }

    fn write(&mut self, file: &File, number: FileNumber, offset: usize) -> io::Result<()> {
        let length = 1 + self.random.below(MAX_WRITE_BYTES) as usize;
        let data = noise(self.random.below(u64::MAX), length);
        self.known.write(number, offset, &data);
        file.write_all_at(&data, offset as u64)
    }

    fn sync(&mut self, file: &File, number: FileNumber) -> io::Result<()> {
        match self.random.below(2) {
            0 => file.sync_all()?,
            _ => file.sync_data()?,
        }
        self.before_the_cut()?;
        self.known.synced(number);
        Ok(())
    }

    fn before_the_cut(&self) -> io::Result<()> {
        match self.cut.load(Ordering::SeqCst) {
            false => Ok(()),
            true => Err(io::Error::other("the power is off")),
        }
    }

    /// Makes a file, or empties the one that is there, and writes into it.
    fn create(&mut self) -> io::Result<()> {
        let name = self.name();
        let (file, number) = self.created(&name)?;
        for _ in 0..1 + self.random.below(3) {
            self.write(&file, number, self.known.bytes(&name).len())?;
        }
        match self.random.below(2) {
            0 => self.sync(&file, number),
            _ => Ok(()),
        }
    }

    fn created(&mut self, name: &str) -> io::Result<(File, FileNumber)> {
        let known = self.known.names().get(name).copied().flatten();
        if let Some(number) = known {
            self.known.truncate(number, 0);
            return Ok((File::create(self.root.join(name))?, number));
        }
        let number = self.known.new_file();
        let mut made = None;
        self.change(
            |names| {
                names.insert(name.to_owned(), Some(number));
            },
            |root| {
                made = Some(File::create(root.join(name))?);
                Ok(())
            },
        )?;
        Ok((made.expect("just made"), number))
    }

    fn edit_in_place(&mut self) -> io::Result<()> {
        let Some((name, number)) = self.some_file() else {
            return Ok(());
        };
        let file = OpenOptions::new().write(true).open(self.root.join(&name))?;
        let length = self.known.bytes(&name).len() as u64;
        for _ in 0..1 + self.random.below(3) {
            let offset = self.random.below(length.min(MAX_BYTES) + 1) as usize;
            self.write(&file, number, offset)?;
        }
        match self.random.below(3) {
            0 => self.sync(&file, number),
            _ => Ok(()),
        }
    }

    fn append(&mut self) -> io::Result<()> {
        let Some((name, number)) = self.some_file() else {
            return Ok(());
        };
        let end = self.known.bytes(&name).len();
        if end as u64 > MAX_BYTES {
            return Ok(());
        }
        let file = OpenOptions::new().write(true).open(self.root.join(&name))?;
        self.write(&file, number, end)?;
        match self.random.below(2) {
            0 => self.sync(&file, number),
            _ => Ok(()),
        }
    }

    fn truncate(&mut self) -> io::Result<()> {
        let Some((name, number)) = self.some_file() else {
            return Ok(());
        };
        let length = self.random.below(60_000);
        let file = OpenOptions::new().write(true).open(self.root.join(&name))?;
        self.known.truncate(number, length as usize);
        file.set_len(length)
    }

    fn rename(&mut self, from: &str, to: &str) -> io::Result<()> {
        self.change(
            |names| {
                let file = names.remove(from).expect("it is there");
                names.insert(to.to_owned(), file);
            },
            |root| fs::rename(root.join(from), root.join(to)),
        )
    }

    fn rename_over(&mut self) -> io::Result<()> {
        let (Some((from, _)), to) = (self.some_file(), self.name()) else {
            return Ok(());
        };
        self.rename(&from, &to)
    }

    /// As editors and DAWs save; some of them sync the folder, too.
    fn save(&mut self) -> io::Result<()> {
        let name = self.name();
        let temporary = format!("{name}.tmp");
        let (file, number) = self.created(&temporary)?;
        self.write(&file, number, 0)?;
        self.sync(&file, number)?;
        drop(file);
        self.rename(&temporary, &name)?;
        match self.random.below(2) {
            0 => self.sync_folder(),
            _ => Ok(()),
        }
    }

    fn delete(&mut self) -> io::Result<()> {
        let Some((name, _)) = self.some_file() else {
            return Ok(());
        };
        self.change(
            |names| {
                names.remove(&name);
            },
            |root| fs::remove_file(root.join(&name)),
        )?;
        match self.random.below(2) {
            0 => self.sync_folder(),
            _ => Ok(()),
        }
    }

    fn sync_some_file(&mut self) -> io::Result<()> {
        let Some((name, number)) = self.some_file() else {
            return Ok(());
        };
        let file = File::open(self.root.join(&name))?;
        self.sync(&file, number)
    }

    fn sync_folder(&mut self) -> io::Result<()> {
        File::open(&self.root)?.sync_all()?;
        self.before_the_cut()?;
        self.known.names_synced();
        Ok(())
    }

    /// Makes the folder, or moves it with all that is in it.
    fn rename_folder(&mut self) -> io::Result<()> {
        let (take, other) = ("take/", "other/");
        let names = self.known.names();
        let (from, to) = match (names.contains_key(take), names.contains_key(other)) {
            (false, false) => {
                return self.change(
                    |names| {
                        names.insert(take.to_owned(), None);
                    },
                    |root| fs::create_dir(root.join(take)),
                );
            }
            (true, _) => (take, other),
            (false, true) => (other, take),
        };
        self.change(
            |names| {
                let below = names.keys().filter(|path| path.starts_with(from));
                for path in below.cloned().collect::<Vec<_>>() {
                    let file = names.remove(&path).expect("it is there");
                    names.insert(format!("{to}{}", &path[from.len()..]), file);
                }
            },
            |root| fs::rename(root.join(from), root.join(to)),
        )
    }
}
