//! The kernel's list of mounts, `/proc/self/mountinfo`.

use std::ffi::OsString;
use std::io;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

/// The type by which the kernel lists our mounts.
pub const FILESYSTEM_TYPE: &str = "fuse.voicebeatfs";

/// One mount.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MountEntry {
    /// The device number, as `major:minor`. Every FUSE mount has one of its own.
    pub device: String,
    /// Where it is mounted.
    pub mountpoint: PathBuf,
    /// The type, as in `fuse.voicebeatfs`.
    pub filesystem_type: String,
    /// What is mounted.
    pub source: String,
}

impl MountEntry {
    /// Whether this is a mount of this program.
    pub fn is_ours(&self) -> bool {
        self.filesystem_type == FILESYSTEM_TYPE
    }
}

/// Returns all mounts that this process sees, the one that hides another after it.
pub fn list() -> io::Result<Vec<MountEntry>> {
    Ok(parse(&std::fs::read("/proc/self/mountinfo")?))
}

/// Returns the mount that is on top at `mountpoint`, an absolute path without symbolic links.
pub fn top_at(mountpoint: &Path) -> io::Result<Option<MountEntry>> {
    Ok(list()?
        .into_iter()
        .rfind(|entry| entry.mountpoint == mountpoint))
}

/// Returns the mounts of this program.
pub fn ours() -> io::Result<Vec<MountEntry>> {
    Ok(list()?.into_iter().filter(MountEntry::is_ours).collect())
}

/// Lines that do not have the documented form (proc_pid_mountinfo(5)) are left out.
fn parse(text: &[u8]) -> Vec<MountEntry> {
    text.split(|&byte| byte == b'\n')
        .filter_map(parse_line)
        .collect()
}

/// `36 35 98:0 /root /mount/point rw,noatime master:1 - ext3 /dev/root rw,errors=continue`
fn parse_line(line: &[u8]) -> Option<MountEntry> {
    let mut fields = line.split(|&byte| byte == b' ');
    let device = fields.nth(2)?;
    let mountpoint = fields.nth(1)?;
    fields.find(|field| field == b"-")?;
    let filesystem_type = fields.next()?;
    let source = fields.next()?;
    Some(MountEntry {
        device: String::from_utf8(device.to_vec()).ok()?,
        mountpoint: unescape(mountpoint).into(),
        filesystem_type: unescape(filesystem_type).to_string_lossy().into_owned(),
        source: unescape(source).to_string_lossy().into_owned(),
    })
}

/// The kernel writes blank, tab, newline and backslash as a backslash and three octal digits.
fn unescape(field: &[u8]) -> OsString {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&byte, after)) = rest.split_first() {
        let octal = after.get(..3).filter(|_| byte == b'\\');
        let octal = octal.and_then(|digits| std::str::from_utf8(digits).ok());
        match octal.and_then(|digits| u8::from_str_radix(digits, 8).ok()) {
            Some(unescaped) => {
                bytes.push(unescaped);
                rest = &after[3..];
            }
            None => {
                bytes.push(byte);
                rest = after;
            }
        }
    }
    OsString::from_vec(bytes)
}

/// Returns `path` absolute and with symbolic links resolved, but without asking what is mounted
/// at its end, which may be dead: only the folder that it lies in is looked at.
pub fn resolve_mountpoint(path: &Path) -> io::Result<PathBuf> {
    // A slash or a dot at the end would make the kernel look at what is mounted there.
    let path: PathBuf = path.components().collect();
    if let Ok(real) = path.canonicalize() {
        return Ok(real);
    }
    let absolute = std::path::absolute(path)?;
    match (absolute.parent(), absolute.file_name()) {
        (Some(parent), Some(name)) => {
            // A trailing slash would make the kernel look at the dead mount itself.
            debug_assert!(!name.as_bytes().ends_with(b"/"));
            Ok(parent.canonicalize()?.join(name))
        }
        _ => Ok(absolute),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SAMPLE: &[u8] = b"\
22 1 254:0 / / rw,relatime - ext4 /dev/vda rw
40 22 0:35 / /mnt/a\\040b\\134c rw,nosuid shared:1 master:2 - fuse.voicebeatfs voicebeat\\040x rw
nonsense
41 22 0:36 / /mnt/x rw - autofs systemd-1 rw
42 41 0:37 / /mnt/x rw - fuse.voicebeatfs b rw,user_id=0
";

    #[test]
    fn reads_entries_with_escapes_and_optional_fields() {
        let entries = parse(SAMPLE);
        assert_eq!(entries.len(), 4);
        assert_eq!(entries[1].mountpoint, Path::new("/mnt/a b\\c"));
        assert_eq!(entries[1].device, "0:35");
        assert_eq!(entries[1].source, "voicebeat x");
        assert!(entries[1].is_ours() && !entries[2].is_ours() && entries[3].is_ours());
    }

    #[test]
    fn reads_what_this_kernel_writes() {
        assert!(
            list()
                .unwrap()
                .iter()
                .any(|entry| entry.mountpoint == Path::new("/proc"))
        );
        assert!(top_at(Path::new("/proc")).unwrap().is_some());
        assert_eq!(top_at(Path::new("/proc/self/nothing")).unwrap(), None);
    }

    #[test]
    fn a_missing_end_is_resolved_by_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let real = folder.path().canonicalize().unwrap();
        std::os::unix::fs::symlink(&real, real.join("link")).unwrap();
        assert_eq!(
            resolve_mountpoint(&real.join("link/gone/")).unwrap(),
            real.join("gone")
        );
        assert!(resolve_mountpoint(&real.join("no/gone")).is_err());
    }
}
