//! Server-side copies: of any version to any key, whatever its size; and the renames, changes of
//! attributes and copies aside that are made of them.
//!
//! R2 copies with one request what it would take with one. What is larger goes part by part, and
//! has no condition on its source then: the source is looked at before the first part and again
//! before the parts become an object.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::stream::{self, StreamExt};

use super::multipart::{PART_TRIES, may_go_on};
use super::plan::Outcome;
use super::send::{Operation, Sender, Stop};
use super::verdict;
use crate::disk::FileId;
use crate::staging::Change;
use crate::store::attributes::{FileAttributes, PART_SIZE, content_type};
use crate::store::local::is_local_tag;
use crate::store::trash::CUT_KEY;
use crate::store::xattrs::Xattrs;
use crate::store::{
    CopyRequest, ETag, Key, ObjectHeaders, ObjectInfo, ObjectVersion, PartNumber, ReadCondition,
    StoreError, StoreResult, Upload, UserMetadata, WriteCondition,
};

/// Where renames that wait for each other put a copy aside.
const DETOUR_PREFIX: &str = ".voicebeatfs/detour/";
/// The length of a copied part where nothing speaks for another one: no bytes pass through here, so
/// few large ones are as good as many, and so many of them make 2.4 TiB.
const COPY_PART_BYTES: u64 = 256 << 20;
/// Parts of one object that are copied at once.
const PARTS_AT_ONCE: usize = 8;
/// R2: an object has at most so many parts.
const MAX_PARTS: u64 = 10_000;

impl Operation {
    /// Copies a version to a key, under a condition and with headers of its own or those of the
    /// source, whatever its size; where that is not known, or R2's limit is lower than we think (it
    /// does not document one for copies), the store finds it too large for one request. A source that is another version by now is [`StoreError::SourceChanged`]. Ends with
    /// [`Stop::Changed`] if the record changes meanwhile.
    pub(super) async fn copy_version(
        &mut self,
        request: CopyRequest,
        size: Option<u64>,
    ) -> Result<ETag, Stop> {
        let limit = self.sender.options.single_copy_bytes;
        // What lies on a local disk has no such limit, and is no server's to copy.
        let in_one = is_local_tag(&request.source.etag) || size.is_none_or(|size| size <= limit);
        if in_one {
            let copied = self.sender.store.copy(request.clone()).await;
            match self.hear(copied) {
                Err(StoreError::TooLarge(_)) => {}
                copied => return Ok(copied?),
            }
        }
        let source = self.head_source(&request.source).await?;
        let part_size = part_size(&source);
        let mut headers = request.headers.clone().unwrap_or_else(|| ObjectHeaders {
            content_type: source.content_type.clone().unwrap_or_default(),
            metadata: source.metadata.clone(),
        });
        let entry = (PART_SIZE.to_owned(), part_size.to_string());
        headers.metadata.extend([entry]);
        let store = Arc::clone(&self.sender.store);
        let created = store.create_multipart(&request.destination, headers).await;
        let upload = self.hear(created)?;
        let open = self.opened(upload.clone()).await?;
        let copied = self.copy_parts(&request, &source, part_size, &upload).await;
        match &copied {
            // A failed condition ends the upload as a completion does.
            Ok(_) | Err(Stop::Store(StoreError::PreconditionFailed | StoreError::UploadGone)) => {
                self.closed(&open)?;
            }
            Err(_) => self.sender.spawn_abort(open),
        }
        copied
    }

    async fn copy_parts(
        &mut self,
        request: &CopyRequest,
        source: &ObjectInfo,
        part_size: u64,
        upload: &Upload,
    ) -> Result<ETag, Stop> {
        let sender = Arc::clone(&self.sender);
        let count = source.size.div_ceil(part_size);
        let parts = (0..count).map(|at| PartCopy {
            sender: Arc::clone(&sender),
            upload: upload.clone(),
            source: source.version.clone(),
            number: at + 1,
            range: at * part_size..source.size.min((at + 1) * part_size),
        });
        let mut copies = stream::iter(parts.map(PartCopy::send)).buffered(PARTS_AT_ONCE);
        let mut tags = Vec::new();
        while let Some(copied) = copies.next().await {
            tags.push(self.hear(copied)?);
            if !self.is_current() || self.sender.stopping.load(Ordering::Relaxed) {
                return Err(Stop::Changed);
            }
        }
        let again = self.head_source(&request.source).await?;
        if again.last_modified != source.last_modified {
            let why = "the source was written again while it was copied";
            return Err(StoreError::Damaged(why.into()).into());
        }
        if request.destination == self.record.key {
            // Begun anew, since the time counts from which on it may land.
            self.begin().await?;
        }
        let store = Arc::clone(&self.sender.store);
        let condition = request.condition.clone();
        let completed = store.complete_multipart(upload, &tags, condition).await;
        Ok(self.hear(completed)?)
    }

    /// Describes the source of a copy, which must be that version.
    async fn head_source(&mut self, source: &ObjectVersion) -> Result<ObjectInfo, Stop> {
        let condition = ReadCondition::IfMatch(source.etag.clone());
        let store = Arc::clone(&self.sender.store);
        let found = store.head(&source.key, condition).await;
        match self.hear(found) {
            Err(StoreError::NotFound | StoreError::PreconditionFailed) => {
                Err(StoreError::SourceChanged.into())
            }
            found => Ok(found?),
        }
    }

    /// Renames an object, or gives it other attributes.
    pub(super) async fn copy(
        &mut self,
        source: &ObjectVersion,
        attributes: &FileAttributes,
    ) -> Result<Outcome, Stop> {
        if let Some(outcome) = self.look_first().await? {
            return Ok(outcome);
        }
        let is_link = self.journal().first_name(&self.record.key).is_some();
        match self.copy_with(source, attributes).await {
            Ok(etag) => {
                let outcome = self.succeeded(Some(etag), None)?;
                let key = &self.record.key;
                match source.key == *key {
                    true => log::debug!("Attributes of {key} are in the bucket"),
                    false if is_link => log::info!("Copied {} to its other name {key}", source.key),
                    false => log::info!("Renamed {} to {key}", source.key),
                }
                Ok(outcome)
            }
            Err(Stop::Store(StoreError::PreconditionFailed)) => self.look_after().await,
            Err(Stop::Store(StoreError::SourceChanged)) => {
                self.end()?;
                self.source_lost(source)
            }
            Err(Stop::Changed) => {
                self.end()?;
                Err(Stop::Changed)
            }
            Err(stop) => Err(stop),
        }
    }

    async fn copy_with(
        &mut self,
        source: &ObjectVersion,
        attributes: &FileAttributes,
    ) -> Result<ETag, Stop> {
        let info = self.head_source(source).await?;
        if source.key.folded() != self.record.key.folded() {
            self.keep_overwritten(&source.etag).await?;
        }
        self.begin().await?;
        let headers = self.copied_headers(&info, attributes);
        self.note_carried(&headers.metadata);
        let request = CopyRequest {
            source: source.clone(),
            destination: self.record.key.clone(),
            condition: verdict::condition(&self.record),
            headers: Some(headers),
        };
        self.copy_version(request, Some(info.size)).await
    }

    /// Copies the source of a rename to a key of our own. A process killed before the journal knows
    /// of that copy leaves it there, where nobody sees it.
    pub(super) async fn copy_aside(&mut self) -> Result<Outcome, Stop> {
        let Change::Copy { source, size, .. } = self.record.change.clone() else {
            return Err(Stop::Changed);
        };
        let name = format!("{DETOUR_PREFIX}{}", FileId::random());
        let Some(key) = Key::new(&name) else {
            return Err(Stop::Park("no room for a key of our own".into()));
        };
        let request = CopyRequest {
            source: source.clone(),
            destination: key.clone(),
            condition: WriteCondition::IfAbsent,
            headers: None,
        };
        let etag = match self.copy_version(request, Some(size)).await {
            Err(Stop::Store(StoreError::SourceChanged)) => return self.source_lost(&source),
            copied => copied?,
        };
        // Before the journal tells of it, by which it is deleted again.
        self.sender.set_aside.lock().push(key.folded());
        let aside = ObjectVersion { key, etag };
        if !self.sender.confirm.detoured(&self.record, &aside)? {
            let result = self.sender.store.delete(&aside.key).await;
            self.hear(result)?;
        }
        Ok(Outcome::Done)
    }

    /// What was to be copied is nowhere in the bucket any more.
    fn source_lost(&self, source: &ObjectVersion) -> Result<Outcome, Stop> {
        match self.sender.confirm.source_lost(&self.record)? {
            true => Ok(Outcome::Done),
            false => Err(Stop::Park(format!(
                "{} was changed or deleted by someone else",
                source.key
            ))),
        }
    }

    /// The confirmation of a copy tells which attributes the new object carries.
    pub(super) fn note_carried(&mut self, metadata: &UserMetadata) {
        if let Change::Copy { attributes, .. } = &mut self.record.change {
            let here = attributes.xattrs.take();
            *attributes = FileAttributes::from_metadata(metadata);
            let told = attributes.xattrs.take();
            attributes.xattrs = Xattrs::merged(told, here.as_ref());
        }
    }

    /// A rename keeps what other programs have said about the object, and its times.
    fn copied_headers(&self, info: &ObjectInfo, attributes: &FileAttributes) -> ObjectHeaders {
        let mut attributes = attributes.clone();
        let kept = FileAttributes::from_metadata(&info.metadata).mtime;
        let mtime = attributes.mtime.or(kept).or(Some(info.last_modified));
        attributes.mtime = mtime;
        let mut headers = self.headers(&attributes);
        let by_name = content_type(info.version.key.as_str());
        if let Some(own) = info.content_type.as_deref().filter(|own| *own != by_name) {
            headers.content_type = own.to_owned();
        }
        for (name, value) in info.metadata.iter().filter(|(name, _)| *name != CUT_KEY) {
            let entry = headers.metadata.entry(name.clone());
            entry.or_insert_with(|| value.clone());
        }
        headers
    }
}

/// One part on its way.
struct PartCopy {
    sender: Arc<Sender>,
    upload: Upload,
    source: ObjectVersion,
    number: u64,
    range: std::ops::Range<u64>,
}

impl PartCopy {
    async fn send(self) -> StoreResult<ETag> {
        let store = &self.sender.store;
        let refused = |_| StoreError::Refused("too many parts".into());
        let number = PartNumber::try_from(self.number).map_err(refused)?;
        let mut tries = 0;
        loop {
            tries += 1;
            let range = self.range.clone();
            let copied = store.upload_part_copy(&self.upload, number, &self.source, range);
            match copied.await {
                Err(error) if may_go_on(&error) && tries < PART_TRIES => {
                    let pause = Duration::from_secs(1 << tries);
                    let asked = error.retry_after().unwrap_or_default();
                    log::debug!("Part {number} of the copy to {}: {error}", self.upload.key);
                    tokio::time::sleep(pause.max(asked)).await;
                }
                copied => return copied,
            }
        }
    }
}

/// Returns the length of all parts but the last: that of the source where it was sent in parts that
/// are known, so that equal bytes keep an equal tag.
fn part_size(source: &ObjectInfo) -> u64 {
    let told = source.metadata.get(PART_SIZE);
    let told = told.and_then(|size| size.parse::<u64>().ok());
    let parts = parts_in_tag(&source.version.etag);
    let fits = |size: &u64| *size > 0 && Some(source.size.div_ceil(*size)) == parts;
    told.filter(fits)
        .unwrap_or_else(|| COPY_PART_BYTES.max(source.size.div_ceil(MAX_PARTS)))
}

/// Returns how many parts the tag of a multipart object tells of.
fn parts_in_tag(etag: &ETag) -> Option<u64> {
    let bare = etag.as_str().strip_suffix('"')?;
    bare.rsplit_once('-')?.1.parse().ok()
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;
    use crate::store::Origin;

    fn source(size: u64, etag: &str, told: Option<&str>) -> ObjectInfo {
        let told = told.map(|size| (PART_SIZE.to_owned(), size.to_owned()));
        ObjectInfo {
            version: ObjectVersion {
                key: Key::new("a").unwrap(),
                etag: ETag::new(etag),
            },
            size,
            last_modified: SystemTime::UNIX_EPOCH,
            content_type: None,
            metadata: told.into_iter().collect(),
            origin: Origin::Primary,
        }
    }

    #[test]
    fn a_copy_has_the_parts_of_its_source_where_they_are_known() {
        let gib = 1 << 30;
        let table = [
            (6 * gib, "\"x-768\"", Some("8388608"), 8 << 20),
            // Said of an earlier version, or by somebody who got it wrong.
            (6 * gib, "\"x-767\"", Some("8388608"), COPY_PART_BYTES),
            (6 * gib, "\"x-768\"", Some("0"), COPY_PART_BYTES),
            (6 * gib, "\"x-768\"", Some("many"), COPY_PART_BYTES),
            (6 * gib, "\"x-768\"", None, COPY_PART_BYTES),
            (6 * gib, "\"9e107d9d\"", None, COPY_PART_BYTES),
        ];
        for (size, etag, told, expected) in table {
            assert_eq!(
                part_size(&source(size, etag, told)),
                expected,
                "{etag} {told:?}"
            );
        }
        let huge = 4 << 40;
        let parts = huge_parts(huge);
        assert!(parts <= MAX_PARTS, "{parts}");
    }

    fn huge_parts(size: u64) -> u64 {
        size.div_ceil(part_size(&source(size, "\"x\"", None)))
    }
}
