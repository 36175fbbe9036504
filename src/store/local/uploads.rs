//! Multipart uploads: the parts lie in a folder of their own until they are joined.
//!
//! `.voicebeatfs/uploads/<id>/about.json` says what the upload is for; a part is the file
//! `<number>-<md5>` beside it.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::ops::Range;
use std::os::fd::OwnedFd;
use std::time::{Duration, SystemTime};

use md5::Digest;
use rustix::fs::AtFlags;
use serde::{Deserialize, Serialize};

use super::super::{
    ETag, HeldPart, Key, Md5, ObjectHeaders, ObjectVersion, PartNumber, StoreError, StoreResult,
    Upload, UserMetadata, WriteCondition,
};
use super::tree::{self, TEMPORARY, Temporary, UPLOADS};
use super::{Disk, about, copy_bytes, sync, verify, writable_path};

/// As in R2, where a default lifecycle rule ends uploads after seven days.
const UPLOAD_LIFETIME: Duration = Duration::from_secs(7 * 24 * 3600);

/// No write takes as long as this; a file that old is what a crash left.
const TEMPORARY_LIFETIME: Duration = Duration::from_secs(24 * 3600);

/// Copied at once.
const COPY_BYTES: usize = 1 << 20;

const ABOUT: &str = "about.json";

#[derive(Deserialize, Serialize)]
struct AboutUpload {
    key: String,
    content_type: String,
    metadata: UserMetadata,
}

pub(super) fn create(disk: &Disk, key: Key, headers: ObjectHeaders) -> StoreResult<Upload> {
    writable_path(&key)?;
    let id = uuid::Uuid::new_v4().simple().to_string();
    let about = AboutUpload {
        key: key.as_str().into(),
        content_type: headers.content_type,
        metadata: headers.metadata,
    };
    let folder = disk.tree.make_folder(&format!("{UPLOADS}/{id}"), |_| {})?;
    let content = serde_json::to_vec(&about).map_err(io::Error::from)?;
    write(disk, &folder, ABOUT, &content)?;
    Ok(Upload { key, id })
}

pub(super) fn write_part(
    disk: &Disk,
    upload: &Upload,
    number: PartNumber,
    body: &[u8],
    md5: Md5,
) -> StoreResult<ETag> {
    verify(body, md5)?;
    let (folder, _) = open(disk, upload)?;
    let mut temporary = disk.tree.temporary()?;
    temporary.file.write_all(body)?;
    keep_part(temporary, &folder, number, md5)
}

/// Puts a part in its place, where it survives a power cut.
fn keep_part(
    temporary: Temporary,
    folder: &OwnedFd,
    number: PartNumber,
    md5: Md5,
) -> StoreResult<ETag> {
    if !(1..=10_000).contains(&number) {
        return Err(StoreError::Refused(format!("no part can be {number}")));
    }
    let name = part_name(number, md5);
    temporary.file.sync_all()?;
    temporary.place(folder, &name)?;
    sync(folder)?;
    // Sent again with other bytes, the last one counts.
    let start = part_start(number);
    for other in tree::entries(folder, "")? {
        if other.starts_with(&start) && other != name {
            let _ = rustix::fs::unlinkat(folder, &other, AtFlags::empty());
        }
    }
    Ok(ETag::of_md5(md5))
}

pub(super) fn copy_part(
    disk: &Disk,
    upload: &Upload,
    number: PartNumber,
    source: &ObjectVersion,
    range: Range<u64>,
) -> StoreResult<ETag> {
    let (folder, _) = open(disk, upload)?;
    let path = tree::path_of(&source.key).ok_or(StoreError::SourceChanged)?;
    let mut file = disk.tree.file(path)?.ok_or(StoreError::SourceChanged)?;
    let is_source = |file: &File| -> StoreResult<bool> {
        Ok(about::version(&source.key, &tree::stat(file)?) == *source)
    };
    if !is_source(&file)? || range.start >= file.metadata()?.len() {
        return Err(StoreError::SourceChanged);
    }
    file.seek(SeekFrom::Start(range.start))?;
    let mut temporary = disk.tree.temporary()?;
    let mut hash = md5::Md5::new();
    let mut piece = vec![0; COPY_BYTES];
    let mut left = range.end - range.start;
    while left > 0 {
        let wanted = COPY_BYTES.min(usize::try_from(left).unwrap_or(COPY_BYTES));
        let read = match file.read(&mut piece[..wanted])? {
            0 => break,
            read => &piece[..read],
        };
        hash.update(read);
        temporary.file.write_all(read)?;
        left -= read.len() as u64;
    }
    // Other programs may write into the file meanwhile.
    if !is_source(&file)? {
        return Err(StoreError::SourceChanged);
    }
    let md5 = Md5(hash.finalize().into());
    keep_part(temporary, &folder, number, md5)
}

pub(super) fn list_parts(
    disk: &Disk,
    upload: &Upload,
) -> StoreResult<BTreeMap<PartNumber, HeldPart>> {
    let (folder, _) = open(disk, upload)?;
    let mut held = BTreeMap::new();
    for name in tree::entries(&folder, "")? {
        let Some((number, md5)) = name.split_once('-').filter(|_| name != ABOUT) else {
            continue;
        };
        let stat = tree::stat_entry(&folder, &name)?;
        if let (Ok(number), Some(stat)) = (number.parse(), stat) {
            let etag = ETag::new(&format!("\"{md5}\""));
            let size = stat.stx_size;
            held.insert(number, HeldPart { size, etag });
        }
    }
    Ok(held)
}

pub(super) fn complete(
    disk: &Disk,
    upload: &Upload,
    parts: &[ETag],
    condition: &WriteCondition,
) -> StoreResult<ETag> {
    let (_, about) = open(disk, upload)?;
    let temporary = disk.tree.temporary()?;
    let mut first_size = None;
    for (number, part) in (1..).zip(parts) {
        let md5 = part.md5().ok_or_else(|| bad_part(number))?;
        let path = format!("{UPLOADS}/{}/{}", upload.id, part_name(number, md5));
        let file = disk.tree.file(&path)?.ok_or_else(|| bad_part(number))?;
        let size = file.metadata()?.len();
        // All but the last of one size, the last not larger, as R2 has it.
        let first = *first_size.get_or_insert(size);
        let last = usize::from(number) == parts.len();
        if size > first || size < first && !last {
            return Err(bad_part(number));
        }
        if parts.len() == 1 {
            copy_bytes(&file, &temporary.file)?;
        } else {
            // Appends with copy_file_range, since both are at their positions.
            io::copy(&mut &file, &mut &temporary.file)?;
        }
    }
    if parts.is_empty() {
        return Err(bad_part(1));
    }
    let headers = ObjectHeaders {
        content_type: about.content_type,
        metadata: about.metadata,
    };
    let result = disk.commit(temporary, &upload.key, &headers, condition);
    if matches!(result, Ok(_) | Err(StoreError::PreconditionFailed)) {
        abort(disk, upload)?;
    }
    result
}

pub(super) fn abort(disk: &Disk, upload: &Upload) -> StoreResult<()> {
    if !is_id(&upload.id) {
        return Ok(());
    }
    let path = format!("{UPLOADS}/{}", upload.id);
    let Some(folder) = disk.tree.folder(&path)? else {
        return Ok(());
    };
    for name in tree::entries(&folder, "")? {
        match rustix::fs::unlinkat(&folder, &name, AtFlags::empty()) {
            Ok(()) | Err(rustix::io::Errno::NOENT) => {}
            Err(error) => return Err(io::Error::from(error).into()),
        }
    }
    disk.remove_if_empty(&path).map(|_| ())
}

/// Opens an upload, which must be for the key that it was begun for.
fn open(disk: &Disk, upload: &Upload) -> StoreResult<(OwnedFd, AboutUpload)> {
    if !is_id(&upload.id) {
        return Err(StoreError::UploadGone);
    }
    let path = format!("{UPLOADS}/{}", upload.id);
    let folder = disk.tree.folder(&path)?.ok_or(StoreError::UploadGone)?;
    let file = disk.tree.file(&format!("{path}/{ABOUT}"))?;
    let about = file
        .and_then(|file| serde_json::from_reader::<_, AboutUpload>(file).ok())
        .filter(|about| about.key == upload.key.as_str());
    Ok((folder, about.ok_or(StoreError::UploadGone)?))
}

/// Writes a file that survives a power cut.
fn write(disk: &Disk, folder: &OwnedFd, name: &str, content: &[u8]) -> StoreResult<()> {
    let mut temporary = disk.tree.temporary()?;
    temporary.file.write_all(content)?;
    temporary.file.sync_all()?;
    temporary.place(folder, name)?;
    sync(folder)
}

fn is_id(id: &str) -> bool {
    id.len() == 32 && id.bytes().all(|byte| byte.is_ascii_hexdigit())
}

fn part_start(number: PartNumber) -> String {
    format!("{number:05}-")
}

fn part_name(number: PartNumber, md5: Md5) -> String {
    format!("{}{}", part_start(number), hex::encode(md5.0))
}

fn bad_part(number: PartNumber) -> StoreError {
    StoreError::Refused(format!("part {number} is missing, or has another size"))
}

/// Removes what nobody will finish: best effort.
pub(super) fn remove_abandoned(disk: &Disk) {
    for name in older_than(disk, TEMPORARY, TEMPORARY_LIFETIME) {
        if let Ok(Some(folder)) = disk.tree.folder(TEMPORARY) {
            let _ = rustix::fs::unlinkat(&folder, &name, AtFlags::empty());
        }
    }
    for name in older_than(disk, UPLOADS, UPLOAD_LIFETIME) {
        let id = name.trim_end_matches('/').to_owned();
        let key = Key::new(&id).expect("a file name is a key");
        let _ = abort(disk, &Upload { key, id });
    }
}

fn older_than(disk: &Disk, path: &str, lifetime: Duration) -> Vec<String> {
    let Ok(Some(folder)) = disk.tree.folder(path) else {
        return Vec::new();
    };
    let mut names = tree::entries(&folder, "").unwrap_or_default();
    names.retain(|name| {
        let stat = tree::stat_entry(&folder, name.trim_end_matches('/'));
        stat.ok().flatten().is_some_and(|stat| {
            let age = SystemTime::now().duration_since(about::time(stat.stx_mtime));
            age.is_ok_and(|age| age > lifetime)
        })
    });
    names
}
