//! Snapshots of open staged files: copies as of one instant between two changes.
//!
//! A snapshot is a file of its own, `<id>.snapshot`, which goes when nobody needs it and is removed
//! at start: after a crash the staged file itself is what is uploaded. Where the disk can, it
//! shares its blocks with the original (`FICLONE`) and writers stop for that call alone. Elsewhere
//! the bytes are copied while the file is written; what has changed meanwhile is copied again, and
//! writers are held up for the last of it only.

use std::collections::HashMap;
use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};

use parking_lot::Mutex;

use super::changes::{BLOCK_BYTES, Missed, Tracking};
use super::{Record, Sealed, Seq, StagedFile, Staging};
use crate::disk::FileId;
use crate::store::Key;
use crate::store::attributes::FileAttributes;

/// The extension of snapshots.
pub(super) const EXTENSION: &str = "snapshot";
/// Writers are held up while so many bytes are copied, and no more: some milliseconds.
const BYTES_UNDER_STOP: u64 = 2 << 20;
/// How often what was missed is copied again before the copy is given up.
const ROUNDS: u32 = 16;
/// From this round on writers are slowed, more each time: they change more than can be copied
/// meanwhile.
const SLOWED_FROM_ROUND: u32 = 3;
/// What a copy leaves free on the disk, for those who record.
const SPARE_BYTES: u64 = 128 << 20;
/// How much is copied at a time.
const BUFFER_BYTES: usize = 1 << 20;

/// Why there is no snapshot.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// A shared map has changed the file meanwhile, or more was written than can be copied: such a
    /// copy would be of no instant.
    #[error("it was changed while it was copied")]
    Moved,
    /// The disk has no room for a copy.
    #[error("the staging disk has no room for a copy")]
    NoRoom,
    /// The disk failed.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// An open file of which a snapshot is to be taken.
#[derive(Clone, Debug)]
pub struct SnapshotSource {
    /// The file.
    pub file: Arc<StagedFile>,
    /// Whether a shared map may change it unseen.
    pub is_mapped: bool,
}

/// The file of a snapshot; it goes with its last user.
#[derive(Debug)]
pub struct SnapshotFile {
    path: PathBuf,
    file: File,
}

impl SnapshotFile {
    fn create(dir: &Path) -> io::Result<SnapshotFile> {
        let path = dir.join(format!("{}.{EXTENSION}", FileId::random()));
        let mut options = OpenOptions::new();
        options.read(true).write(true).create_new(true).mode(0o600);
        let file = options.open(&path)?;
        Ok(SnapshotFile { path, file })
    }

    /// Returns the bytes.
    pub fn file(&self) -> &File {
        &self.file
    }

    /// Returns where they lie.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the file the name of another with something behind it, as SQLite names what belongs to
    /// a database.
    pub fn lay_beside(&mut self, other: &SnapshotFile, ending: &str) -> io::Result<()> {
        let mut path = other.path.clone().into_os_string();
        path.push(ending);
        fs::rename(&self.path, &path)?;
        self.path = path.into();
        Ok(())
    }
}

impl Drop for SnapshotFile {
    fn drop(&mut self) {
        // What stays is removed at the next start.
        let _ = fs::remove_file(&self.path);
    }
}

/// A snapshot that is to be uploaded.
#[derive(Debug)]
pub struct Snapshot {
    /// The state of the record that it is the version of.
    pub seq: Seq,
    /// Its bytes.
    pub file: SnapshotFile,
    /// Its length.
    pub length: u64,
    /// What goes with them.
    pub attributes: FileAttributes,
    /// The digests, once they are known.
    pub sealed: OnceLock<Sealed>,
}

/// Snapshots, and how they are made here.
#[derive(Debug, Default)]
pub struct Snapshots {
    /// Those to be uploaded, by folded key: one a key.
    offered: Mutex<HashMap<Key, Arc<Snapshot>>>,
    cannot_clone: AtomicBool,
    clones: AtomicU64,
    copies: AtomicU64,
}

impl Snapshots {
    /// Returns the snapshot that an open record is to be uploaded as, if there is one.
    pub fn of(&self, record: &Record) -> Option<Arc<Snapshot>> {
        let offered = self.offered.lock();
        let snapshot = offered.get(&record.key.folded())?;
        (record.change.is_open() && snapshot.seq == record.seq).then(|| snapshot.clone())
    }

    /// Whether a snapshot for that state of a record waits.
    pub fn is_offered(&self, key: &Key, seq: Seq) -> bool {
        let offered = self.offered.lock();
        offered.get(&key.folded()).is_some_and(|s| s.seq == seq)
    }

    /// Forgets the snapshot for that state of a record: it is in the bucket, or of no use.
    pub fn forget(&self, key: &Key, seq: Seq) {
        let key = key.folded();
        let mut offered = self.offered.lock();
        let forgotten = match offered.get(&key) {
            Some(snapshot) if snapshot.seq == seq => offered.remove(&key),
            _ => None,
        };
        // The file is removed without the lock.
        drop(offered);
        drop(forgotten);
    }

    /// How many snapshots were made by sharing blocks, and how many by copying.
    pub fn counts(&self) -> (u64, u64) {
        let [clones, copies] = [&self.clones, &self.copies].map(|n| n.load(Ordering::Relaxed));
        (clones, copies)
    }
}

impl Staging {
    /// Returns the snapshots.
    pub fn snapshots(&self) -> &Snapshots {
        &self.shared.snapshots
    }

    /// Has the uploader send a snapshot, if its record is still in that state.
    pub fn offer_snapshot(&self, key: &Key, snapshot: Snapshot) {
        let replaced = {
            let mut offered = self.shared.snapshots.offered.lock();
            offered.insert(key.folded(), Arc::new(snapshot))
        };
        drop(replaced);
        self.shared.journal.note_changed(key);
    }

    /// Forgets the snapshots whose record has gone on without them.
    pub fn forget_outdated_snapshots(&self) {
        let mut offered = self.shared.snapshots.offered.lock();
        let current = |key: &Key, seq| self.shared.journal.is_current(key, seq);
        let outdated: Vec<_> = offered
            .extract_if(|key, snapshot| !current(key, snapshot.seq))
            .collect();
        drop(offered);
        drop(outdated);
    }

    /// Takes snapshots of open files, all as of one instant. `at_instant` is called then, with
    /// writers stopped; it must be short, and may call it off by returning nothing.
    pub fn take_snapshots<T>(
        &self,
        sources: &[SnapshotSource],
        at_instant: impl Fn() -> Option<T>,
    ) -> Result<(Vec<SnapshotFile>, T), SnapshotError> {
        let made = (0..sources.len()).map(|_| SnapshotFile::create(&self.shared.dir));
        let targets = made.collect::<io::Result<Vec<_>>>()?;
        let snapshots = &self.shared.snapshots;
        if !snapshots.cannot_clone.load(Ordering::Relaxed) {
            match clone_all(sources, &targets, &at_instant) {
                Err(SnapshotError::Io(error)) if cannot_clone(&error) => {
                    log::debug!("the staging disk cannot share blocks: {error}");
                    snapshots.cannot_clone.store(true, Ordering::Relaxed);
                }
                cloned => {
                    let at_instant = cloned?;
                    snapshots.clones.fetch_add(1, Ordering::Relaxed);
                    return Ok((targets, at_instant));
                }
            }
        }
        self.check_room_for(sources)?;
        let at_instant = copy_all(sources, &targets, &at_instant)?;
        snapshots.copies.fetch_add(1, Ordering::Relaxed);
        Ok((targets, at_instant))
    }

    /// Copies a small file while nothing changes in it; nothing if it is not small.
    pub fn copy_small(&self, file: &StagedFile) -> io::Result<Option<SnapshotFile>> {
        file.while_still(|| {
            if file.file().metadata()?.len() > 2 * BYTES_UNDER_STOP {
                return Ok(None);
            }
            let copy = SnapshotFile::create(&self.shared.dir)?;
            copy_tail(file.file(), &copy.file, 0)?;
            Ok(Some(copy))
        })
    }

    /// Returns a snapshot of nothing.
    pub fn empty_snapshot(&self) -> io::Result<SnapshotFile> {
        SnapshotFile::create(&self.shared.dir)
    }

    fn check_room_for(&self, sources: &[SnapshotSource]) -> Result<(), SnapshotError> {
        let mut needed = SPARE_BYTES;
        for source in sources {
            use std::os::unix::fs::MetadataExt;
            let status = source.file.file().metadata()?;
            needed += status.blocks().saturating_mul(512).max(status.len());
        }
        match self.check_room().is_ok() && self.available_bytes()? >= needed {
            true => Ok(()),
            false => Err(SnapshotError::NoRoom),
        }
    }
}

/// Whether a failure of `FICLONE` means that it never succeeds here.
fn cannot_clone(error: &io::Error) -> bool {
    let never = [
        libc::EOPNOTSUPP,
        libc::EXDEV,
        libc::EINVAL,
        libc::ENOTTY,
        libc::ENOSYS,
    ];
    error.raw_os_error().is_some_and(|n| never.contains(&n))
}

fn track(sources: &[SnapshotSource]) -> io::Result<Vec<Tracking<'_>>> {
    let tracked = sources.iter().map(|source| {
        let tracking = source
            .file
            .changes()
            .track(source.file.file(), source.is_mapped)?;
        if source.is_mapped {
            // From here on a store through a map moves the file's time: it does not while the page
            // is still to be written.
            source.file.file().sync_data()?;
        }
        Ok(tracking)
    });
    tracked.collect()
}

/// Whether a map has changed one of the files since they are tracked.
fn have_moved(sources: &[SnapshotSource], tracked: &[Tracking<'_>]) -> bool {
    let mut files = sources.iter().zip(tracked);
    files.any(|(source, tracking)| tracking.has_moved(source.file.file()))
}

fn clone_all<T>(
    sources: &[SnapshotSource],
    targets: &[SnapshotFile],
    at_instant: &impl Fn() -> Option<T>,
) -> Result<T, SnapshotError> {
    let tracked = track(sources)?;
    for source in sources {
        // The call below writes out what is not on the disk yet; little is left for it now.
        source.file.file().sync_data()?;
    }
    let _stopped: Vec<_> = sources.iter().map(|s| s.file.changes().stop()).collect();
    for (source, target) in sources.iter().zip(targets) {
        let cloned = rustix::fs::ioctl_ficlone(&target.file, source.file.file());
        cloned.map_err(io::Error::from)?;
    }
    match at_instant() {
        Some(value) if !have_moved(sources, &tracked) => Ok(value),
        _ => Err(SnapshotError::Moved),
    }
}

fn copy_all<T>(
    sources: &[SnapshotSource],
    targets: &[SnapshotFile],
    at_instant: &impl Fn() -> Option<T>,
) -> Result<T, SnapshotError> {
    let tracked = track(sources)?;
    for (source, target) in sources.iter().zip(targets) {
        copy_tail(source.file.file(), &target.file, 0)?;
    }
    for round in 1..=ROUNDS {
        let missed: Vec<Missed> = tracked.iter().map(Tracking::take).collect();
        if bytes(sources, &missed)? > BYTES_UNDER_STOP {
            copy_missed(sources, targets, &missed)?;
            if round >= SLOWED_FROM_ROUND {
                tracked.iter().for_each(Tracking::slow_down);
            }
            continue;
        }
        let stopped: Vec<_> = sources.iter().map(|s| s.file.changes().stop()).collect();
        let mut rest = missed;
        for (rest, tracking) in rest.iter_mut().zip(&tracked) {
            rest.join(tracking.take());
        }
        if bytes(sources, &rest)? > BYTES_UNDER_STOP {
            // It came while we waited for the writers.
            drop(stopped);
            copy_missed(sources, targets, &rest)?;
            continue;
        }
        copy_missed(sources, targets, &rest)?;
        return match at_instant() {
            Some(value) if !have_moved(sources, &tracked) => Ok(value),
            _ => Err(SnapshotError::Moved),
        };
    }
    Err(SnapshotError::Moved)
}

fn bytes(sources: &[SnapshotSource], missed: &[Missed]) -> io::Result<u64> {
    let mut bytes = 0u64;
    for (source, missed) in sources.iter().zip(missed) {
        bytes = bytes.saturating_add(missed.bytes(source.file.file().metadata()?.len()));
    }
    Ok(bytes)
}

/// Copies again what has changed, and the length.
fn copy_missed(
    sources: &[SnapshotSource],
    targets: &[SnapshotFile],
    missed: &[Missed],
) -> io::Result<()> {
    for ((source, target), missed) in sources.iter().zip(targets).zip(missed) {
        let (from, to) = (source.file.file(), &target.file);
        let mut buffer = vec![0; BLOCK_BYTES as usize];
        let tail = missed.from.unwrap_or(u64::MAX);
        for block in &missed.blocks {
            let at = block * BLOCK_BYTES;
            if at < tail {
                let read = read_up_to(from, &mut buffer, at)?;
                to.write_all_at(&buffer[..read], at)?;
            }
        }
        match missed.from {
            Some(tail) => copy_tail(from, to, tail)?,
            None => to.set_len(from.metadata()?.len())?,
        }
    }
    Ok(())
}

/// Copies everything from `start` on, and the length; holes stay holes.
fn copy_tail(from: &File, to: &File, start: u64) -> io::Result<()> {
    let length = from.metadata()?.len();
    // Zeros first, wherever there was something.
    to.set_len(start.min(length))?;
    to.set_len(length)?;
    let mut buffer = vec![0; BUFFER_BYTES];
    let mut at = start;
    while let Some((data, hole)) = next_data(from, at)? {
        let wanted = usize::try_from(hole - data).unwrap_or(BUFFER_BYTES);
        let read = read_up_to(from, &mut buffer[..wanted.min(BUFFER_BYTES)], data)?;
        if read == 0 {
            break;
        }
        let piece = &buffer[..read];
        // What a program reserved and did not write takes no room here.
        if piece.iter().any(|byte| *byte != 0) {
            to.write_all_at(piece, data)?;
        }
        at = data + read as u64;
    }
    to.set_len(from.metadata()?.len())
}

/// Returns where the next bytes are that are no hole, and where they end.
fn next_data(file: &File, at: u64) -> io::Result<Option<(u64, u64)>> {
    use rustix::fs::{SeekFrom, seek};
    let found = seek(file, SeekFrom::Data(at)).and_then(|data| {
        let hole = seek(file, SeekFrom::Hole(data))?;
        Ok((data, hole.max(data)))
    });
    match found {
        Ok(found) => Ok(Some(found)),
        // At the end, where a truncation may just have put it.
        Err(rustix::io::Errno::NXIO) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn read_up_to(file: &File, buffer: &mut [u8], at: u64) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], at + filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

#[cfg(test)]
mod tests;
