//! A program that works on files which somebody on another machine works on too.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::PathBuf;

use super::ledger::{Content, Ledger, content};
use crate::crash::noise;
use crate::crash::random::Random;

/// The names that both sides write.
const NAMES: u64 = 4;
/// The shortest file: room for the stamp that makes each content another.
const LEAST_BYTES: u64 = 64;
const MOST_BYTES: u64 = 30_000;

pub(super) struct SharedWriter<'a> {
    side: &'static str,
    folder: PathBuf,
    random: Random,
    ledger: &'a Ledger,
    made: u64,
}

impl<'a> SharedWriter<'a> {
    pub(super) fn new(
        side: &'static str,
        folder: PathBuf,
        seed: u64,
        ledger: &'a Ledger,
    ) -> SharedWriter<'a> {
        SharedWriter {
            side,
            folder,
            random: Random::new(seed),
            ledger,
            made: 0,
        }
    }

    /// Does one operation. One that fails was not acknowledged.
    pub(super) fn attempt(&mut self) -> io::Result<()> {
        let name = format!("{}.wav", self.random.below(NAMES));
        match self.random.below(10) {
            0 | 1 => self.create(&name),
            2..=4 => self.edit(&name),
            5 | 6 => self.save(&name),
            7 => self.delete(&name),
            8 => self.rename(&name),
            _ => self.look(&name).map(|_| ()),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.join(name)
    }

    /// Makes a file that is not there.
    fn create(&mut self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .create_new(true)
            .open(path);
        match file {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            file => {
                let file = file?;
                self.fill(&file)?;
                self.done(name, None, file)
            }
        }
    }

    /// Changes a file in place: some bytes of it, its length, or all of it.
    fn edit(&mut self, name: &str) -> io::Result<()> {
        let path = self.path(name);
        let file = match OpenOptions::new().read(true).write(true).open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            file => file?,
        };
        let bytes = read_all(&file)?;
        let before = Some(content(&bytes));
        if let Err(error) = self.change(&file, bytes.len() as u64) {
            // Some of it may have been done.
            self.ledger.replaced(self.side, name, before, None);
            return Err(error);
        }
        self.done(name, before, file)
    }

    fn change(&mut self, file: &File, length: u64) -> io::Result<()> {
        match self.random.below(4) {
            0 => {
                file.set_len(0)?;
                self.fill(file)
            }
            1 => {
                file.set_len(LEAST_BYTES + self.random.below(MOST_BYTES))?;
                self.stamp(file)
            }
            2 => {
                let bytes = self.bytes();
                self.stamp(file)?;
                file.write_all_at(&bytes, length)
            }
            _ => {
                let bytes = self.bytes();
                file.write_all_at(&bytes, self.random.below(length + 1))?;
                self.stamp(file)
            }
        }
    }

    /// As editors and DAWs save.
    fn save(&mut self, name: &str) -> io::Result<()> {
        let temporary = self.path(&format!("{name}.{}.tmp", self.side));
        let file = File::options()
            .read(true)
            .write(true)
            .create(true)
            .truncate(true)
            .open(&temporary)?;
        self.fill(&file)?;
        file.sync_all()?;
        let now = content(&read_all(&file)?);
        drop(file);
        let before = self.look(name)?;
        fs::rename(&temporary, self.path(name))?;
        self.ledger.wrote(self.side, name, None, now.clone());
        self.ledger.replaced(self.side, name, before, Some(now));
        Ok(())
    }

    fn delete(&mut self, name: &str) -> io::Result<()> {
        let before = self.look(name)?;
        match fs::remove_file(self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            removed => removed?,
        }
        self.ledger.replaced(self.side, name, before, None);
        Ok(())
    }

    fn rename(&mut self, from: &str) -> io::Result<()> {
        let to = format!("{}.wav", self.random.below(NAMES));
        if from == to {
            return Ok(());
        }
        let (moved, before) = (self.look(from)?, self.look(&to)?);
        match fs::rename(self.path(from), self.path(&to)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
            renamed => renamed?,
        }
        self.ledger.replaced(self.side, &to, before, moved);
        Ok(())
    }

    /// What a name shows, if there is one.
    fn look(&self, name: &str) -> io::Result<Option<Content>> {
        match fs::read(self.path(name)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            bytes => Ok(Some(content(&bytes?))),
        }
    }

    /// Closes a file that holds something new: from now on it may not be lost.
    fn done(&self, name: &str, before: Option<Content>, file: File) -> io::Result<()> {
        let now = content(&read_all(&file)?);
        close(file)?;
        self.ledger.wrote(self.side, name, before, now);
        Ok(())
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = LEAST_BYTES + self.random.below(MOST_BYTES);
        noise(self.random.below(u64::MAX), length as usize)
    }

    fn fill(&mut self, file: &File) -> io::Result<()> {
        let bytes = self.bytes();
        file.write_all_at(&bytes, 0)?;
        self.stamp(file)
    }

    /// Makes the content one that never was.
    fn stamp(&mut self, file: &File) -> io::Result<()> {
        self.made += 1;
        let stamp = format!("{:>8} {:>20}", self.side, self.made);
        file.write_all_at(stamp.as_bytes(), 0)
    }
}

fn read_all(mut file: &File) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    file.seek(SeekFrom::Start(0))?;
    file.read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Closes a file and says whether that was acknowledged.
fn close(file: File) -> io::Result<()> {
    use std::os::fd::IntoRawFd;
    // SAFETY: the descriptor is this file's own, which gives it up here.
    match unsafe { libc::close(file.into_raw_fd()) } {
        0 => Ok(()),
        _ => Err(io::Error::last_os_error()),
    }
}

/// Says whether an error is one that a bucket out of reach may cause.
pub(super) fn is_excused(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::EIO | libc::ETIMEDOUT | libc::ESTALE | libc::EACCES)
    )
}
