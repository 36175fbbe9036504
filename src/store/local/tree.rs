//! The directory tree below the store's root: paths, descriptors, names made durable.
//!
//! Everything is opened by descriptor beneath the root and without following symbolic links, so
//! that no key leads out of the tree. This is why names are made and synced here and not through
//! `disk`, which works by path.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{
    AtFlags, Dir, FileType, Mode, OFlags, ResolveFlags, Statx, StatxFlags, XattrFlags,
};
use rustix::io::Errno;

use super::super::{Key, StoreError, StoreResult};

/// Our own files, out of every listing: unfinished writes and multipart uploads.
pub(super) const OWN: &str = ".voicebeatfs";
pub(super) const TEMPORARY: &str = ".voicebeatfs/tmp";
pub(super) const UPLOADS: &str = ".voicebeatfs/uploads";

/// The longest name of a directory entry (NAME_MAX).
const MAX_NAME_BYTES: usize = 255;

/// What a file or folder carries beside its bytes.
const XATTR: &str = "user.voicebeatfs";

/// The largest value that Linux takes (XATTR_SIZE_MAX).
const MAX_XATTR_BYTES: usize = 65536;

#[derive(Debug)]
pub(super) struct Tree {
    root: OwnedFd,
}

impl Tree {
    pub(super) fn open(root: &Path) -> io::Result<Tree> {
        std::fs::create_dir_all(root)?;
        let tree = Tree {
            root: File::open(root)?.into(),
        };
        Ok(tree)
    }

    /// Opens what lies at a path; `""` is the root.
    fn open_beneath(&self, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { "." } else { path };
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let resolve =
            ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        loop {
            match rustix::fs::openat2(&self.root, path, flags, mode, resolve) {
                Err(Errno::INTR | Errno::AGAIN) => {}
                result => return result,
            }
        }
    }

    /// Opens a regular file for reading; `None` where there is none.
    pub(super) fn file(&self, path: &str) -> StoreResult<Option<File>> {
        // Without NONBLOCK a FIFO would wait for its writer.
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::NOCTTY;
        let file = match self.open_beneath(path, flags, Mode::empty()) {
            Ok(file) => File::from(file),
            Err(error) if means_absent(error) => return Ok(None),
            Err(error) => return Err(io::Error::from(error).into()),
        };
        let regular = file.metadata()?.is_file();
        Ok(regular.then_some(file))
    }

    /// Opens a folder; `None` where there is none.
    pub(super) fn folder(&self, path: &str) -> StoreResult<Option<OwnedFd>> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY;
        match self.open_beneath(path, flags, Mode::empty()) {
            Ok(folder) => Ok(Some(folder)),
            Err(error) if means_absent(error) => Ok(None),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }

    /// Opens a folder, making what is missing of it. `made` is called with each new one. After
    /// success the folder's names survive a power cut.
    pub(super) fn make_folder(&self, path: &str, made: impl Fn(&OwnedFd)) -> StoreResult<OwnedFd> {
        if let Some(folder) = self.folder(path)? {
            return Ok(folder);
        }
        let (parent, name) = split(path);
        let parent = self.make_folder_within(parent, &made)?;
        match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o777)) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
        rustix::fs::fsync(&parent).map_err(io::Error::from)?;
        let folder = self.folder(path)?.ok_or_else(|| in_the_way(path))?;
        made(&folder);
        Ok(folder)
    }

    /// The recursion of `make_folder`, by reference so that its type stays finite.
    fn make_folder_within(&self, path: &str, made: &dyn Fn(&OwnedFd)) -> StoreResult<OwnedFd> {
        self.make_folder(path, made)
    }

    /// Makes a file of a random name among the unfinished writes.
    pub(super) fn temporary(&self) -> StoreResult<Temporary> {
        let folder = self.make_folder(TEMPORARY, |_| {})?;
        let name = uuid::Uuid::new_v4().simple().to_string();
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&folder, &name, flags, Mode::from_raw_mode(0o666))
            .map_err(io::Error::from)?;
        Ok(Temporary {
            folder,
            name,
            file: file.into(),
            placed: false,
        })
    }
}

/// A file that is not in its place yet; removed when dropped before.
pub(super) struct Temporary {
    folder: OwnedFd,
    name: String,
    pub(super) file: File,
    placed: bool,
}

impl Temporary {
    /// Gives the file its name, in place of what had it. The content must be synced; the name
    /// survives a power cut once the folder is synced.
    pub(super) fn place(mut self, folder: &OwnedFd, name: &str) -> StoreResult<()> {
        match rustix::fs::renameat(&self.folder, &self.name, folder, name) {
            Ok(()) => {
                self.placed = true;
                Ok(())
            }
            Err(Errno::ISDIR | Errno::NOTEMPTY | Errno::EXIST) => Err(in_the_way(name)),
            Err(error) => Err(io::Error::from(error).into()),
        }
    }
}

impl Drop for Temporary {
    fn drop(&mut self) {
        if !self.placed {
            let _ = rustix::fs::unlinkat(&self.folder, &self.name, AtFlags::empty());
        }
    }
}

fn in_the_way(path: &str) -> StoreError {
    StoreError::Refused(format!("something else is in the way at {path:?}"))
}

/// Whether an error says that there is no such file as we mean: nothing at all, a file where a
/// folder should be, or a symbolic link or a socket, which are no objects.
fn means_absent(error: Errno) -> bool {
    matches!(
        error,
        Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO | Errno::NODEV
    )
}

/// Splits a path into its folder and its name.
pub(super) fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

/// Returns the path of an object or a folder marker, or `None` if no file can have it.
pub(super) fn path_of(key: &Key) -> Option<&str> {
    let path = key.as_str();
    let path = path.strip_suffix('/').unwrap_or(path);
    (path.split('/').all(is_name) && !is_reserved(path)).then_some(path)
}

pub(super) fn is_name(name: &str) -> bool {
    !matches!(name, "" | "." | "..") && name.len() <= MAX_NAME_BYTES && !name.contains('\0')
}

fn is_reserved(path: &str) -> bool {
    [TEMPORARY, UPLOADS].iter().any(|own| {
        path.strip_prefix(own)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    })
}

/// Returns the files and folders of a folder that can be objects, in the order of their keys: a
/// folder counts with its slash, since `a.b` comes before `a/b`.
pub(super) fn entries(folder: &OwnedFd, path: &str) -> StoreResult<Vec<String>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder).map_err(io::Error::from)? {
        let entry = entry.map_err(io::Error::from)?;
        let Ok(name) = entry.file_name().to_str() else {
            log::warn!(
                "skipped, its name is not UTF-8: {path:?} {:?}",
                entry.file_name()
            );
            continue;
        };
        let kind = match entry.file_type() {
            FileType::Unknown => match stat_entry(folder, name)? {
                Some(stat) => FileType::from_raw_mode(stat.stx_mode.into()),
                None => continue,
            },
            kind => kind,
        };
        match kind {
            _ if matches!(name, "." | "..") || is_reserved(&format!("{path}{name}")) => {}
            FileType::RegularFile => names.push(name.to_owned()),
            FileType::Directory => names.push(format!("{name}/")),
            _ => log::debug!("skipped, neither file nor folder: {path:?} {name:?}"),
        }
    }
    names.sort_unstable();
    Ok(names)
}

const STATX: StatxFlags = StatxFlags::BASIC_STATS.union(StatxFlags::BTIME);

/// Looks at an open file.
pub(super) fn stat(file: impl AsFd) -> io::Result<Statx> {
    Ok(rustix::fs::statx(file, "", AtFlags::EMPTY_PATH, STATX)?)
}

/// Looks at an entry of a folder; `None` if it is gone.
pub(super) fn stat_entry(folder: &OwnedFd, name: &str) -> io::Result<Option<Statx>> {
    match rustix::fs::statx(folder, name, AtFlags::SYMLINK_NOFOLLOW, STATX) {
        Ok(stat) => Ok(Some(stat)),
        Err(Errno::NOENT) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// Returns the extended attribute; `None` if there is none or the disk has no such thing.
pub(super) fn xattr(file: impl AsFd) -> io::Result<Option<Vec<u8>>> {
    let mut value = vec![0; 4096];
    loop {
        match rustix::fs::fgetxattr(&file, XATTR, value.as_mut_slice()) {
            Ok(length) => {
                value.truncate(length);
                return Ok(Some(value));
            }
            Err(Errno::NODATA | Errno::NOTSUP) => return Ok(None),
            Err(Errno::RANGE) if value.len() < MAX_XATTR_BYTES => value.resize(MAX_XATTR_BYTES, 0),
            Err(error) => return Err(error.into()),
        }
    }
}

/// Sets the extended attribute; `false` if the disk has no such thing.
pub(super) fn set_xattr(file: impl AsFd, value: &[u8]) -> StoreResult<bool> {
    match rustix::fs::fsetxattr(file, XATTR, value, XattrFlags::empty()) {
        Ok(()) => Ok(true),
        Err(Errno::NOTSUP) => Ok(false),
        Err(Errno::TOOBIG | Errno::NOSPC | Errno::RANGE) => Err(StoreError::Refused(
            "more metadata than this disk can hold".into(),
        )),
        Err(error) => Err(io::Error::from(error).into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_keys_that_stay_in_the_tree_have_a_path() {
        let path = |key: &str| path_of(&Key::new(key).unwrap()).map(str::to_owned);
        assert_eq!(path("a/b").as_deref(), Some("a/b"));
        assert_eq!(path("a/b/").as_deref(), Some("a/b"));
        assert_eq!(
            path(".voicebeatfs/trash/x").as_deref(),
            Some(".voicebeatfs/trash/x")
        );
        for key in [
            "/a",
            "a//b",
            "a/../b",
            ".",
            "a/.",
            "a//",
            "/",
            ".voicebeatfs/tmp/x",
        ] {
            assert_eq!(path(key), None, "{key}");
        }
        assert_eq!(path(&"n".repeat(256)), None);
    }
}
