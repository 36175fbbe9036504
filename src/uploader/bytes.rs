//! Sending the bytes of a staged file: sealing it, and one PUT. Larger ones go by
//! [`super::multipart`].
//!
//! A version is never sent while it changes. Every write raises the file's generation before it
//! changes a byte; the digests are computed, and the generation is the same after the last byte was
//! read; so they are of one version. Every byte that is sent later is compared with them, here and
//! by the server, and before the write takes effect record and generation are looked at again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use bytes::Bytes;
use tokio::sync::OwnedSemaphorePermit;

use super::plan::Outcome;
use super::send::{Operation, Sender, Stop};
use super::verdict;
use crate::disk::FileId;
use crate::staging::{Change, PutState, Sealed, Snapshot, StagedFile};
use crate::store::attributes::{FileAttributes, PART_SIZE};
use crate::store::{CopyRequest, ETag, Md5, ObjectVersion, PutRequest, StoreError};

/// All uploads together hold so many bytes in memory.
pub(super) const MEMORY_BYTES: usize = 128 << 20;
/// Unit in which memory is given out.
pub(super) const MEMORY_UNIT: usize = 64 << 10;

/// The bytes that are to be sent.
#[derive(Clone)]
pub(super) enum Source {
    /// A staged file, in this generation.
    Staged(Arc<StagedFile>, u64),
    /// What an open one was at some instant, which does not change.
    Snapshot(Arc<Snapshot>),
}

impl Source {
    pub(super) fn is_unchanged(&self) -> bool {
        match self {
            Source::Staged(file, generation) => file.generation() == *generation,
            Source::Snapshot(_) => true,
        }
    }

    fn file(&self) -> &File {
        match self {
            Source::Staged(file, _) => file.file(),
            Source::Snapshot(snapshot) => snapshot.file.file(),
        }
    }

    /// Reads a part and returns it with its digest.
    async fn read(&self, offset: u64, length: u64) -> io::Result<(Bytes, Md5)> {
        let source = self.clone();
        let read = tokio::task::spawn_blocking(move || {
            let length = usize::try_from(length).map_err(io::Error::other)?;
            let mut bytes = vec![0; length];
            source.file().read_exact_at(&mut bytes, offset)?;
            let md5 = Md5::of(&bytes);
            Ok((Bytes::from(bytes), md5))
        });
        read.await.map_err(io::Error::other)?
    }
}

impl Sender {
    /// Waits until so many bytes may be held in memory.
    async fn reserve(&self, bytes: u64) -> OwnedSemaphorePermit {
        let all = MEMORY_BYTES / MEMORY_UNIT;
        let units = usize::try_from(bytes)
            .unwrap_or(usize::MAX)
            .div_ceil(MEMORY_UNIT);
        // A part may be larger than all the memory; then it goes alone.
        let units = u32::try_from(units.clamp(1, all)).unwrap_or(1);
        let permit = Arc::clone(&self.memory).acquire_many_owned(units).await;
        permit.expect("the semaphore is never closed")
    }
}

impl Operation {
    pub(super) async fn put(&mut self, file: FileId) -> Result<Outcome, Stop> {
        let source = match &self.snapshot {
            Some(snapshot) => Source::Snapshot(Arc::clone(snapshot)),
            None => {
                let file = self.sender.staging.open_file(file)?;
                let generation = file.generation();
                Source::Staged(file, generation)
            }
        };
        let (sealed, body) = self.seal(&source).await?;
        let attributes = self.settle(&source, &sealed)?;
        if let Some(outcome) = self.look_first().await? {
            return Ok(outcome);
        }
        if let Some(outcome) = self.spare(&sealed, &attributes).await? {
            return Ok(outcome);
        }
        self.keep_overwritten(&sealed.etag()).await?;
        let mut how = "Uploaded";
        let copied = self.put_copy(&source, &sealed, &attributes).await;
        let result = match (copied, sealed.parts.len()) {
            (Ok(None), 1) => self.put_whole(&source, &sealed, &attributes, body).await,
            (Ok(None), _) => self.put_parts(&source, &sealed, &attributes).await,
            (Ok(Some(etag)), _) => {
                how = "Copied";
                Ok(etag)
            }
            (Err(stop), _) => Err(stop),
        };
        match result {
            Ok(etag) => {
                let outcome = self.succeeded(Some(etag), Some(&sealed))?;
                self.say_done(how, sealed.length);
                Ok(outcome)
            }
            Err(Stop::Store(StoreError::PreconditionFailed)) => self.look_after().await,
            Err(stop) => Err(stop),
        }
    }

    /// Has the bucket copy the object that these bytes were copied from, if they still are its bytes; `None`
    /// if they are to be sent.
    async fn put_copy(
        &mut self,
        source: &Source,
        sealed: &Sealed,
        attributes: &FileAttributes,
    ) -> Result<Option<ETag>, Stop> {
        let original = match source {
            Source::Staged(file, _) => file.original(),
            Source::Snapshot(_) => None,
        };
        // The tag tells all bytes: an equal one is an equal file.
        let is_whole = |original: &ObjectVersion| original.etag == sealed.etag();
        let Some(original) = original.filter(is_whole) else {
            return Ok(None);
        };
        self.begin().await?;
        if let Err(stop) = self.check(source) {
            self.end()?;
            return Err(stop);
        }
        let mut headers = self.headers(attributes);
        if sealed.parts.len() > 1 {
            let part_size = sealed.part_size.to_string();
            headers.metadata.insert(PART_SIZE.into(), part_size);
        }
        let request = CopyRequest {
            source: original,
            destination: self.record.key.clone(),
            condition: verdict::condition(&self.record),
            headers: Some(headers),
        };
        match self.copy_version(request, Some(sealed.length)).await {
            Ok(etag) => Ok(Some(etag)),
            Err(Stop::Store(StoreError::SourceChanged | StoreError::Refused(_))) => {
                self.end()?;
                Ok(None)
            }
            Err(Stop::Changed) => {
                self.end()?;
                Err(Stop::Changed)
            }
            Err(stop) => Err(stop),
        }
    }

    /// Sends nothing if the bucket holds these very bytes with these attributes: nothing has changed
    /// since the last snapshot.
    async fn spare(
        &mut self,
        sealed: &Sealed,
        attributes: &FileAttributes,
    ) -> Result<Option<Outcome>, Stop> {
        let etag = sealed.etag();
        if self.snapshot.is_some() || self.record.base.as_ref() != Some(&etag) {
            return Ok(None);
        }
        let found = self.head().await?;
        let is_same = found.is_some_and(|found| {
            found.version.etag == etag
                && found.size == sealed.length
                && FileAttributes::from_metadata(&found.metadata) == *attributes
        });
        if !is_same {
            return Ok(None);
        }
        log::debug!("{} is in the bucket as it is", self.record.key);
        self.succeeded(Some(etag), Some(sealed)).map(Some)
    }

    fn say_done(&self, how: &str, length: u64) {
        let time = self.sender.clock.instant() - self.begun_at;
        let what = match self.snapshot {
            Some(_) => "a snapshot of ",
            None => "",
        };
        log::info!(
            "{how} {what}{} to {} ({}, {:.1} s)",
            self.record.key,
            self.sender.options.destination,
            size(length),
            time.as_secs_f64()
        );
    }

    /// Returns the digests of the file: those in the journal, or new ones, which are in the journal
    /// then. A file of one part is read for that, and returned as well.
    async fn seal(&mut self, source: &Source) -> Result<(Sealed, Option<Body>), Stop> {
        let Change::Put { state, .. } = &self.record.change else {
            return Err(Stop::Changed);
        };
        match state {
            PutState::Open => match self.snapshot.as_ref().map(|s| s.sealed.get()) {
                Some(None) => {}
                Some(Some(sealed)) => return Ok((sealed.clone(), None)),
                None => return Err(Stop::Changed),
            },
            PutState::Sealed(sealed) => return Ok((sealed.clone(), None)),
            PutState::Closed { .. } => {}
        }
        let length = source.file().metadata()?.len();
        let part_size = verdict::part_size(length, &self.sender.options);
        let count = length.div_ceil(part_size).max(1);
        let (mut parts, mut body) = (Vec::new(), None);
        for number in 0..count {
            let offset = number * part_size;
            let wanted = part_size.min(length - offset);
            let memory = self.sender.reserve(wanted).await;
            let (bytes, md5) = source.read(offset, wanted).await.map_err(shorter)?;
            parts.push(md5);
            if count == 1 {
                body = Some(Body {
                    bytes,
                    _memory: memory,
                });
            }
            self.check(source)?;
        }
        let sealed = Sealed {
            length,
            part_size,
            parts,
        };
        if let Some(snapshot) = &self.snapshot {
            // The journal says nothing of it: after a crash there is no snapshot.
            let _ = snapshot.sealed.set(sealed.clone());
            return Ok((sealed, body));
        }
        let (key, seq) = (&self.record.key, self.record.seq);
        if !self.journal().seal(key, seq, sealed.clone())? {
            return Err(Stop::Changed);
        }
        Ok((sealed, body))
    }

    /// Puts into our copy of the record what is sent and confirmed: the digests, and the time when
    /// the file was last written.
    fn settle(&mut self, source: &Source, sealed: &Sealed) -> Result<FileAttributes, Stop> {
        let modified = source.file().metadata()?.modified()?;
        let Change::Put {
            state, attributes, ..
        } = &mut self.record.change
        else {
            return Err(Stop::Changed);
        };
        *state = PutState::Sealed(sealed.clone());
        if let Source::Snapshot(snapshot) = source {
            *attributes = snapshot.attributes.clone();
        }
        attributes.mtime.get_or_insert(modified);
        Ok(attributes.clone())
    }

    /// Fails if the file or its record has changed, or the uploader stops.
    pub(super) fn check(&self, source: &Source) -> Result<(), Stop> {
        match source.is_unchanged() && self.is_current() && !self.sender.is_stopping() {
            true => Ok(()),
            false => Err(Stop::Changed),
        }
    }

    async fn put_whole(
        &mut self,
        source: &Source,
        sealed: &Sealed,
        attributes: &FileAttributes,
        body: Option<Body>,
    ) -> Result<ETag, Stop> {
        let body = match body {
            Some(body) => body,
            None => read_part(&self.sender, source, sealed, 0).await?,
        };
        self.begin().await?;
        if let Err(stop) = self.check(source) {
            self.end()?;
            return Err(stop);
        }
        let request = PutRequest {
            key: self.record.key.clone(),
            body: body.bytes.clone(),
            md5: sealed.parts[0],
            condition: verdict::condition(&self.record),
            headers: self.headers(attributes),
        };
        let result = self.sender.store.put(request).await;
        let etag = self.hear(result)?;
        let now = self.sender.clock.instant();
        self.sender.pace.lock().sent(now, sealed.length);
        Ok(etag)
    }
}

/// Bytes to be sent, and the right to hold them in memory.
pub(super) struct Body {
    pub(super) bytes: Bytes,
    _memory: OwnedSemaphorePermit,
}

/// Reads a part of a sealed file and compares it with its digest.
pub(super) async fn read_part(
    sender: &Sender,
    source: &Source,
    sealed: &Sealed,
    at: usize,
) -> Result<Body, Stop> {
    let offset = at as u64 * sealed.part_size;
    let length = sealed.part_length(at);
    let memory = sender.reserve(length).await;
    let (bytes, md5) = source.read(offset, length).await.map_err(shorter)?;
    if md5 != sealed.parts[at] {
        return Err(Stop::Unsealed);
    }
    Ok(Body {
        bytes,
        _memory: memory,
    })
}

/// A file that is shorter than it was closed with is not the file that was closed.
fn shorter(error: io::Error) -> Stop {
    match error.kind() {
        io::ErrorKind::UnexpectedEof => Stop::Unsealed,
        _ => Stop::File(error),
    }
}

/// Writes a size for people.
fn size(bytes: u64) -> String {
    const UNITS: [&str; 4] = ["KiB", "MiB", "GiB", "TiB"];
    if bytes < 1024 {
        return format!("{bytes} bytes");
    }
    let mut amount = bytes as f64 / 1024.0;
    let mut unit = 0;
    while amount >= 1024.0 && unit + 1 < UNITS.len() {
        amount /= 1024.0;
        unit += 1;
    }
    format!("{amount:.1} {}", UNITS[unit])
}
