//! What a program may ask of a file system: made at random, and done on one side.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{self, linkat, renameat_with, utimensat};
use rustix::fs::{
    AtFlags, CWD, FallocateFlags, FileType, Gid, Mode, OFlags, RenameFlags, SeekFrom, Stat,
    Timespec, Timestamps, Uid, XattrFlags,
};
use rustix::io::{self, Errno};

use super::map;
use crate::crash::random::Random;

/// Descriptors that a thread holds at most.
pub(super) const SLOTS: u64 = 4;
const NAMES: [&str; 5] = ["a", "b", "c", "take.wav", "ü x"];
const ATTRIBUTES: [&str; 3] = ["user.a", "user.mood", "user.long"];
const MAX_OFFSET: u64 = 150_000;
const MAX_LENGTH: u64 = 30_000;
/// What was set by `utimens` is older than this (2020), what was not is younger.
const SET_TIMES: std::ops::Range<i64> = 1_000_000_000..1_577_836_800;

/// What an operation has answered: bytes, numbers and names written out, or the errno.
pub(super) type Answer = Result<Vec<u8>, Errno>;

/// One operation; paths count from the subtree, slots are the thread's descriptors.
#[derive(Clone, Debug)]
pub(super) enum Operation {
    Open(u64, String, OFlags, u32),
    Close(u64),
    Read(u64, u64),
    Pread(u64, u64, u64),
    Write(u64, u64, u8),
    Pwrite(u64, u64, u64, u8),
    StoreByMap(u64, u64, u64, u8),
    Ftruncate(u64, u64),
    Fallocate(u64, FallocateFlags, u64, u64),
    CopyRange(u64, u64, u64, u64, u64),
    SeekData(u64, u64),
    SeekHole(u64, u64),
    Fsync(u64),
    Fstat(u64),
    Truncate(String, u64),
    Rename(String, String, RenameFlags),
    Unlink(String),
    Rmdir(String),
    Mkdir(String, u32),
    Link(String, String),
    Symlink(String, String),
    Readlink(String),
    Chmod(String, u32),
    Chown(String, u32, u32),
    Utimens(String, i64, i64),
    SetXattr(String, &'static str, u64, u8, XattrFlags),
    GetXattr(String, &'static str),
    ListXattr(String),
    RemoveXattr(String, &'static str),
    Stat(String),
    ReadFolder(String),
}

fn path(random: &mut Random) -> String {
    let mut parts = Vec::new();
    loop {
        parts.push(NAMES[random.below(NAMES.len() as u64) as usize]);
        if parts.len() == 3 || random.below(2) == 0 {
            return parts.join("/");
        }
    }
}

fn open_flags(random: &mut Random) -> OFlags {
    let access = [OFlags::RDONLY, OFlags::WRONLY, OFlags::RDWR, OFlags::RDWR];
    let mut flags = access[random.below(4) as usize];
    for (flag, one_in) in [
        (OFlags::CREATE, 2),
        (OFlags::EXCL, 6),
        (OFlags::TRUNC, 5),
        (OFlags::APPEND, 5),
        (OFlags::NOFOLLOW, 8),
    ] {
        if random.below(one_in) == 0 {
            flags |= flag;
        }
    }
    // With O_CREAT the kernel itself answers differently from version to version.
    if !flags.contains(OFlags::CREATE) && random.below(12) == 0 {
        flags |= OFlags::DIRECTORY;
    }
    flags
}

impl Operation {
    /// Makes one at random.
    pub(super) fn any(random: &mut Random) -> Operation {
        let slot = random.below(SLOTS);
        let offset = random.below(MAX_OFFSET);
        let length = random.below(MAX_LENGTH);
        let fill = random.below(256) as u8;
        let mode = [0o644, 0o600, 0o755, 0o444, 0o4755, 0o2770, 0o1777][random.below(7) as usize];
        let attribute = ATTRIBUTES[random.below(3) as usize];
        match random.below(60) {
            0..6 => Operation::Open(slot, path(random), open_flags(random), mode & 0o777),
            6 | 7 => Operation::Close(slot),
            8 | 9 => Operation::Read(slot, length),
            10..13 => Operation::Pread(slot, offset, length),
            13..16 => Operation::Write(slot, length, fill),
            16..20 => Operation::Pwrite(slot, offset, length, fill),
            20 | 21 => Operation::StoreByMap(slot, offset, length, fill),
            22 | 23 => Operation::Ftruncate(slot, offset),
            24 | 25 => {
                let keep = FallocateFlags::KEEP_SIZE;
                let kinds = [
                    FallocateFlags::empty(),
                    keep,
                    keep | FallocateFlags::PUNCH_HOLE,
                    FallocateFlags::ZERO_RANGE,
                ];
                Operation::Fallocate(slot, kinds[random.below(4) as usize], offset, length)
            }
            26 | 27 => {
                let to = random.below(SLOTS);
                Operation::CopyRange(slot, offset, to, random.below(MAX_OFFSET), length)
            }
            28 => Operation::SeekData(slot, offset),
            29 => Operation::SeekHole(slot, offset),
            30 => Operation::Fsync(slot),
            31 => Operation::Fstat(slot),
            32 => Operation::Truncate(path(random), offset),
            33..37 => {
                let flags = [
                    RenameFlags::empty(),
                    RenameFlags::empty(),
                    RenameFlags::NOREPLACE,
                    RenameFlags::EXCHANGE,
                ];
                let flags = flags[random.below(4) as usize];
                Operation::Rename(path(random), path(random), flags)
            }
            37 | 38 => Operation::Unlink(path(random)),
            39 | 40 => Operation::Rmdir(path(random)),
            41..44 => Operation::Mkdir(path(random), mode),
            44 | 45 => Operation::Link(path(random), path(random)),
            46 => Operation::Symlink(path(random), path(random)),
            47 => Operation::Readlink(path(random)),
            48 => Operation::Chmod(path(random), mode),
            49 => {
                let owners = [0, 1000, 1001];
                let (user, group) = (random.below(3) as usize, random.below(3) as usize);
                Operation::Chown(path(random), owners[user], owners[group])
            }
            50 | 51 => {
                let span = (SET_TIMES.end - SET_TIMES.start) as u64;
                let seconds = SET_TIMES.start + random.below(span) as i64;
                Operation::Utimens(path(random), seconds, random.below(1_000_000_000) as i64)
            }
            52 => {
                let flags = [XattrFlags::empty(), XattrFlags::CREATE, XattrFlags::REPLACE];
                let flags = flags[random.below(3) as usize];
                Operation::SetXattr(path(random), attribute, length % 400, fill, flags)
            }
            53 => Operation::GetXattr(path(random), attribute),
            54 => Operation::ListXattr(path(random)),
            55 => Operation::RemoveXattr(path(random), attribute),
            56 | 57 => Operation::Stat(path(random)),
            _ => Operation::ReadFolder(path(random)),
        }
    }
}

/// Bytes that tell of each place what it should hold.
fn bytes(length: u64, fill: u8) -> Vec<u8> {
    (0..length)
        .map(|at| fill.wrapping_add((at.wrapping_mul(0x9E37_79B9) >> 7) as u8))
        .collect()
}

fn number(number: impl ToString) -> Vec<u8> {
    number.to_string().into_bytes()
}

fn done(answer: Result<(), Errno>) -> Answer {
    answer.map(|()| Vec::new())
}

/// One of the two sides: its folder, and its descriptors.
pub(super) struct Side<'a> {
    pub(super) root: &'a Path,
    pub(super) slots: [Option<OwnedFd>; SLOTS as usize],
}

impl Side<'_> {
    fn slot(&self, slot: u64) -> Result<&OwnedFd, Errno> {
        self.slots[slot as usize].as_ref().ok_or(Errno::BADF)
    }

    /// Does it here.
    pub(super) fn perform(&mut self, operation: &Operation) -> Answer {
        use Operation as Op;
        match operation {
            Op::Open(slot, path, flags, mode) => {
                let mode = Mode::from_raw_mode(*mode);
                // What was open there is closed first, on both sides.
                self.slots[*slot as usize] = None;
                let opened = fs::open(self.root.join(path), *flags | OFlags::CLOEXEC, mode)?;
                self.slots[*slot as usize] = Some(opened);
                Ok(Vec::new())
            }
            Op::Close(slot) => {
                self.slots[*slot as usize] = None;
                Ok(Vec::new())
            }
            Op::Read(..)
            | Op::Pread(..)
            | Op::Write(..)
            | Op::Pwrite(..)
            | Op::StoreByMap(..)
            | Op::Ftruncate(..)
            | Op::Fallocate(..)
            | Op::CopyRange(..)
            | Op::SeekData(..)
            | Op::SeekHole(..)
            | Op::Fsync(..)
            | Op::Fstat(..) => self.on_descriptor(operation),
            _ => self.on_path(operation),
        }
    }

    fn on_descriptor(&self, operation: &Operation) -> Answer {
        use Operation as Op;
        match operation {
            Op::Read(slot, length) => {
                let mut buffer = vec![0; *length as usize];
                let got = io::read(self.slot(*slot)?, &mut buffer[..])?;
                buffer.truncate(got);
                Ok(buffer)
            }
            Op::Pread(slot, offset, length) => read_at(self.slot(*slot)?, *offset, *length),
            Op::Write(slot, length, fill) => {
                io::write(self.slot(*slot)?, &bytes(*length, *fill)).map(number)
            }
            Op::Pwrite(slot, offset, length, fill) => {
                io::pwrite(self.slot(*slot)?, &bytes(*length, *fill), *offset).map(number)
            }
            Op::StoreByMap(slot, offset, length, fill) => {
                map::store(self.slot(*slot)?, *offset, &bytes(*length, *fill))
            }
            Op::Ftruncate(slot, length) => done(fs::ftruncate(self.slot(*slot)?, *length)),
            Op::Fallocate(slot, flags, offset, length) => {
                done(fs::fallocate(self.slot(*slot)?, *flags, *offset, *length))
            }
            Op::CopyRange(from, offset, to, to_offset, length) => {
                let (mut offset, mut to_offset) = (*offset, *to_offset);
                let (from, to) = (self.slot(*from)?, self.slot(*to)?);
                let places = (Some(&mut offset), Some(&mut to_offset));
                fs::copy_file_range(from, places.0, to, places.1, *length as usize).map(number)
            }
            Op::SeekData(slot, offset) => seek(self.slot(*slot)?, *offset, true),
            Op::SeekHole(slot, offset) => seek(self.slot(*slot)?, *offset, false),
            Op::Fsync(slot) => done(fs::fsync(self.slot(*slot)?)),
            Op::Fstat(slot) => fs::fstat(self.slot(*slot)?).map(|stat| described(&stat)),
            other => unreachable!("{other:?} is about a path"),
        }
    }

    fn on_path(&self, operation: &Operation) -> Answer {
        use Operation as Op;
        let here = |path: &String| self.root.join(path);
        match operation {
            Op::Truncate(path, length) => done(truncate(&here(path), *length)),
            Op::Rename(from, to, flags) => {
                done(renameat_with(CWD, here(from), CWD, here(to), *flags))
            }
            Op::Unlink(path) => done(fs::unlink(here(path))),
            Op::Rmdir(path) => done(fs::rmdir(here(path))),
            Op::Mkdir(path, mode) => done(fs::mkdir(here(path), Mode::from_raw_mode(*mode))),
            Op::Link(from, to) => done(linkat(CWD, here(from), CWD, here(to), AtFlags::empty())),
            Op::Symlink(target, path) => done(fs::symlink(target.as_str(), here(path))),
            Op::Readlink(path) => Ok(fs::readlink(here(path), Vec::new())?.into_bytes()),
            Op::Chmod(path, mode) => done(fs::chmod(here(path), Mode::from_raw_mode(*mode))),
            Op::Chown(path, user, group) => {
                let (user, group) = (Uid::from_raw(*user), Gid::from_raw(*group));
                let flags = AtFlags::SYMLINK_NOFOLLOW;
                done(fs::chownat(CWD, here(path), Some(user), Some(group), flags))
            }
            Op::Utimens(path, tv_sec, tv_nsec) => {
                let (tv_sec, tv_nsec) = (*tv_sec, *tv_nsec);
                let time = Timespec { tv_sec, tv_nsec };
                let times = Timestamps {
                    last_access: time,
                    last_modification: time,
                };
                done(utimensat(
                    CWD,
                    here(path),
                    &times,
                    AtFlags::SYMLINK_NOFOLLOW,
                ))
            }
            Op::SetXattr(path, name, length, fill, flags) => {
                let value = bytes(*length, *fill);
                done(fs::lsetxattr(here(path), *name, &value, *flags))
            }
            Op::GetXattr(path, name) => attribute(&here(path), name),
            Op::ListXattr(path) => attribute_names(&here(path)),
            Op::RemoveXattr(path, name) => done(fs::lremovexattr(here(path), *name)),
            Op::Stat(path) => fs::lstat(here(path)).map(|stat| described(&stat)),
            Op::ReadFolder(path) => names(&here(path)),
            other => unreachable!("{other:?} is about a descriptor"),
        }
    }
}

fn read_at(file: &OwnedFd, offset: u64, length: u64) -> Answer {
    let mut buffer = vec![0; length as usize];
    let got = io::pread(file, &mut buffer[..], offset)?;
    buffer.truncate(got);
    Ok(buffer)
}

fn truncate(path: &Path, length: u64) -> Result<(), Errno> {
    use std::os::unix::ffi::OsStrExt;
    let path = std::ffi::CString::new(path.as_os_str().as_bytes()).expect("no NUL");
    // SAFETY: the path is a string with its NUL, and outlives the call.
    match unsafe { libc::truncate(path.as_ptr(), length as libc::off_t) } {
        0 => Ok(()),
        _ => Err(Errno::from_io_error(&std::io::Error::last_os_error()).expect("an errno")),
    }
}

/// What `SEEK_DATA` and `SEEK_HOLE` tell must fit what is read on the same side.
fn seek(file: &OwnedFd, offset: u64, data: bool) -> Answer {
    let stat = fs::fstat(file)?;
    // Places in a folder are each file system's own.
    if FileType::from_raw_mode(stat.st_mode) == FileType::Directory {
        return Ok(Vec::new());
    }
    let position = fs::tell(file)?;
    let size = stat.st_size as u64;
    let whence = if data {
        SeekFrom::Data(offset)
    } else {
        SeekFrom::Hole(offset)
    };
    let found = fs::seek(file, whence);
    fs::seek(file, SeekFrom::Start(position))?;
    if offset >= size {
        return found.map(number);
    }
    // Where a file is open for writing only its holes cannot be looked at.
    let Ok(rest) = read_at(file, offset, size - offset) else {
        return Ok(Vec::new());
    };
    let is_zero = |range: &[u8]| range.iter().all(|byte| *byte == 0);
    let fits = match found {
        Ok(at) if data => at >= offset && at < size && is_zero(&rest[..(at - offset) as usize]),
        Ok(at) => at == size || (at >= offset && at < size && rest[(at - offset) as usize] == 0),
        Err(Errno::NXIO) => data && is_zero(&rest),
        Err(_) => false,
    };
    match fits {
        true => Ok(Vec::new()),
        false => Ok(format!("{found:?} does not fit the bytes").into_bytes()),
    }
}

pub(super) fn attribute(path: &Path, name: &str) -> Answer {
    let mut value = vec![0; 1024];
    let length = fs::lgetxattr(path, name, &mut value[..])?;
    value.truncate(length);
    Ok(value)
}

/// The names of the attributes, in order.
pub(super) fn attribute_names(path: &Path) -> Answer {
    let mut list = vec![0u8; 4096];
    let length = fs::llistxattr(path, &mut list[..])?;
    let mut names: Vec<&[u8]> = list[..length].split(|byte| *byte == 0).collect();
    names.sort_unstable();
    Ok(names.join(&b' '))
}

/// The names in a folder and what they are, in order.
pub(super) fn names(path: &Path) -> Answer {
    let folder = fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())?;
    let mut found = Vec::new();
    for entry in fs::Dir::read_from(folder.as_fd())? {
        let entry = entry?;
        found.push(format!("{:?} {:?}", entry.file_name(), entry.file_type()));
    }
    found.sort_unstable();
    Ok(found.join(" ").into_bytes())
}

/// What both sides must tell of a file. Of folders neither sizes nor link counts, see
/// `super::DOCUMENTED`.
pub(super) fn described(stat: &Stat) -> Vec<u8> {
    let kind = FileType::from_raw_mode(stat.st_mode);
    let mut text = format!(
        "{kind:?} {:o} {}:{}",
        stat.st_mode, stat.st_uid, stat.st_gid
    );
    if kind != FileType::Directory {
        text += &format!(" {} bytes, {} names", stat.st_size, stat.st_nlink);
    }
    if SET_TIMES.contains(&stat.st_mtime) {
        text += &format!(", of {}.{:09}", stat.st_mtime, stat.st_mtime_nsec);
    }
    text.into_bytes()
}
