//! Sending the bytes of a staged file: sealing it, one PUT or a multipart upload.
//!
//! A version is never sent while it changes. Every write raises the file's generation before it
//! changes a byte; the digests are computed, and the generation is the same after the last byte was
//! read; so they are of one version. Every byte that is sent later is compared with them, here and
//! by the server, and before the write takes effect record and generation are looked at again.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, StreamExt};
use tokio::sync::OwnedSemaphorePermit;

use super::UploadOptions;
use super::plan::Outcome;
use super::send::{Operation, Sender, Stop};
use super::verdict::{self, Failure};
use crate::disk::FileId;
use crate::staging::{Change, PutState, Sealed, Seq, Snapshot, StagedFile};
use crate::store::attributes::{FileAttributes, PART_SIZE};
use crate::store::{
    ETag, Key, Md5, ObjectStore, PartNumber, PutRequest, StoreError, StoreResult, Upload,
};

/// All uploads together hold so many bytes in memory.
pub(super) const MEMORY_BYTES: usize = 128 << 20;
/// Unit in which memory is given out.
pub(super) const MEMORY_UNIT: usize = 64 << 10;
/// Parts of one file that are sent at once.
const PARTS_AT_ONCE: usize = 4;
/// What a part gets of a limited line, if there are to be more at once: of few parts at a time more
/// are done when something comes between, and no server gives up a body that hardly moves.
const PART_BYTES_PER_SECOND: u64 = 1 << 20;
/// Tries for one part before the whole upload waits; the store's own retries come on top.
pub(super) const PART_TRIES: u32 = 4;

/// A multipart upload that was begun and failed for a while.
pub(super) struct Unfinished {
    key: Key,
    seq: Seq,
    upload: Upload,
    /// What the store has, by part; empty where it has nothing yet.
    parts: Vec<Option<ETag>>,
}

/// The bytes that are to be sent.
#[derive(Clone)]
enum Source {
    /// A staged file, in this generation.
    Staged(Arc<StagedFile>, u64),
    /// What an open one was at some instant, which does not change.
    Snapshot(Arc<Snapshot>),
}

impl Source {
    fn is_unchanged(&self) -> bool {
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

    /// Takes back an unfinished upload of a key whose record has gone on without it.
    pub(super) fn abort_outdated(self: &Arc<Self>, key: &Key, current: Option<Seq>) {
        let outdated = {
            let mut all = self.unfinished.lock();
            let at = all
                .iter()
                .position(|u| u.key.folded() == *key && Some(u.seq) != current);
            at.map(|at| all.swap_remove(at))
        };
        if let Some(outdated) = outdated {
            let sender = Arc::clone(self);
            tokio::spawn(async move { sender.abort(&outdated).await });
        }
    }

    /// Takes back an upload. If that fails, the bucket drops it after some days (R2:
    /// object-lifecycles).
    async fn abort(&self, unfinished: &Unfinished) {
        if let Err(error) = self.store.abort_multipart(&unfinished.upload).await {
            log::debug!(
                "The upload of {} cannot be aborted: {error}",
                unfinished.key
            );
        }
    }

    fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    /// Takes back every upload that is not finished.
    pub(super) async fn abort_unfinished(&self) {
        let unfinished = std::mem::take(&mut *self.unfinished.lock());
        for unfinished in &unfinished {
            self.abort(unfinished).await;
        }
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
        let result = match sealed.parts.len() {
            1 => self.put_whole(&source, &sealed, &attributes, body).await,
            _ => self.put_parts(&source, &sealed, &attributes).await,
        };
        match result {
            Ok(etag) => {
                let outcome = self.succeeded(Some(etag), Some(&sealed))?;
                self.say_uploaded(sealed.length);
                Ok(outcome)
            }
            Err(Stop::Store(StoreError::PreconditionFailed)) => self.look_after().await,
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

    fn say_uploaded(&self, length: u64) {
        let time = self.sender.clock.instant() - self.begun_at;
        let what = match self.snapshot {
            Some(_) => "a snapshot of ",
            None => "",
        };
        log::info!(
            "Uploaded {what}{} to {} ({}, {:.1} s)",
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
    fn check(&self, source: &Source) -> Result<(), Stop> {
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

    async fn put_parts(
        &mut self,
        source: &Source,
        sealed: &Sealed,
        attributes: &FileAttributes,
    ) -> Result<ETag, Stop> {
        // The write id goes with the upload from its beginning, so it is begun before.
        self.begin().await?;
        let mut unfinished = match self.take_unfinished() {
            Some(unfinished) => unfinished,
            None => self.create(sealed, attributes).await?,
        };
        let sent = self.send_parts(source, sealed, &mut unfinished).await;
        let completed = match sent {
            Ok(()) => self.complete(source, &unfinished).await,
            Err(stop) => Err(stop),
        };
        match &completed {
            // A failed condition and a completion end the upload.
            Ok(_) | Err(Stop::Store(StoreError::PreconditionFailed | StoreError::UploadGone)) => {}
            Err(Stop::Store(error)) if may_go_on(error) => {
                self.sender.unfinished.lock().push(unfinished);
            }
            Err(_) => {
                self.sender.abort(&unfinished).await;
                self.end()?;
            }
        }
        completed
    }

    /// Returns an upload of the same version that was begun before.
    fn take_unfinished(&self) -> Option<Unfinished> {
        let mut all = self.sender.unfinished.lock();
        let at = all
            .iter()
            .position(|u| u.key == self.record.key && u.seq == self.record.seq)?;
        Some(all.swap_remove(at))
    }

    async fn create(
        &mut self,
        sealed: &Sealed,
        attributes: &FileAttributes,
    ) -> Result<Unfinished, Stop> {
        let mut headers = self.headers(attributes);
        let part_size = sealed.part_size.to_string();
        headers.metadata.insert(PART_SIZE.into(), part_size);
        let store = Arc::clone(&self.sender.store);
        let created = store.create_multipart(&self.record.key, headers).await;
        Ok(Unfinished {
            key: self.record.key.clone(),
            seq: self.record.seq,
            upload: self.hear(created)?,
            parts: vec![None; sealed.parts.len()],
        })
    }

    async fn send_parts(
        &mut self,
        source: &Source,
        sealed: &Sealed,
        unfinished: &mut Unfinished,
    ) -> Result<(), Stop> {
        let missing = unfinished.parts.iter().enumerate();
        let missing: Vec<usize> = missing
            .filter(|(_, part)| part.is_none())
            .map(|(at, _)| at)
            .collect();
        let sealed = Arc::new(sealed.clone());
        let (sender, upload) = (Arc::clone(&self.sender), unfinished.upload.clone());
        let (key, seq) = (self.record.key.clone(), self.record.seq);
        let sends = missing.into_iter().map(|at| {
            let part = Part {
                sender: Arc::clone(&sender),
                source: source.clone(),
                sealed: Arc::clone(&sealed),
                upload: upload.clone(),
                key: key.clone(),
                seq,
                at,
            };
            part.send()
        });
        let at_once = parts_at_once(&self.sender.options);
        let mut sends = stream::iter(sends).buffer_unordered(at_once);
        while let Some(sent) = sends.next().await {
            if let Err(Stop::Store(error)) = &sent {
                self.heard |= !matches!(error, StoreError::Unavailable { .. });
            }
            let (at, etag) = sent?;
            self.heard = true;
            unfinished.parts[at] = Some(etag);
        }
        Ok(())
    }

    async fn complete(&mut self, source: &Source, unfinished: &Unfinished) -> Result<ETag, Stop> {
        self.check(source)?;
        // Begun anew, since the time counts from which on it may land; and atomically with the
        // question whether the record is still the same.
        self.begin().await?;
        let parts: Vec<ETag> = unfinished.parts.iter().flatten().cloned().collect();
        let condition = verdict::condition(&self.record);
        let store = Arc::clone(&self.sender.store);
        let completed = store.complete_multipart(&unfinished.upload, &parts, condition);
        let completed = completed.await;
        Ok(self.hear(completed)?)
    }
}

/// Bytes to be sent, and the right to hold them in memory.
struct Body {
    bytes: Bytes,
    _memory: OwnedSemaphorePermit,
}

/// One part on its way.
struct Part {
    sender: Arc<Sender>,
    source: Source,
    sealed: Arc<Sealed>,
    upload: Upload,
    key: Key,
    seq: Seq,
    /// From 0.
    at: usize,
}

impl Part {
    async fn send(self) -> Result<(usize, ETag), Stop> {
        let number = PartNumber::try_from(self.at + 1).map_err(io::Error::other)?;
        self.check()?;
        let body = read_part(&self.sender, &self.source, &self.sealed, self.at).await?;
        let mut tries = 0;
        loop {
            self.check()?;
            tries += 1;
            match self.upload(number, &body).await {
                Ok(etag) => {
                    let now = self.sender.clock.instant();
                    self.sender.pace.lock().sent(now, body.bytes.len() as u64);
                    return Ok((self.at, etag));
                }
                Err(error) if may_go_on(&error) && tries < PART_TRIES => {
                    let pause = Duration::from_secs(1 << tries);
                    let asked = error.retry_after().unwrap_or_default();
                    log::debug!("Part {number} of {}: {error}", self.key);
                    tokio::time::sleep(pause.max(asked)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn upload(&self, number: PartNumber, body: &Body) -> StoreResult<ETag> {
        let store: &dyn ObjectStore = &*self.sender.store;
        let md5 = self.sealed.parts[self.at];
        store
            .upload_part(&self.upload, number, body.bytes.clone(), md5)
            .await
    }

    fn check(&self) -> Result<(), Stop> {
        let journal = self.sender.staging.journal();
        let wanted = self.source.is_unchanged() && journal.is_current(&self.key, self.seq);
        match wanted && !self.sender.is_stopping() {
            true => Ok(()),
            false => Err(Stop::Changed),
        }
    }
}

/// Reads a part of a sealed file and compares it with its digest.
async fn read_part(
    sender: &Sender,
    source: &Source,
    sealed: &Sealed,
    at: usize,
) -> Result<Body, Stop> {
    let offset = at as u64 * sealed.part_size;
    let length = sealed.part_size.min(sealed.length.saturating_sub(offset));
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

/// Returns how many parts of one file are sent at once.
fn parts_at_once(options: &UploadOptions) -> usize {
    let fit = options
        .limit_bytes_per_second
        .map(|limit| limit / PART_BYTES_PER_SECOND);
    fit.and_then(|fit| usize::try_from(fit).ok())
        .map_or(PARTS_AT_ONCE, |fit| fit.clamp(1, PARTS_AT_ONCE))
}

/// Whether an upload that has met this failure can be gone on with.
pub(super) fn may_go_on(error: &StoreError) -> bool {
    let gone = matches!(error, StoreError::UploadGone);
    !gone
        && matches!(
            verdict::classify(error),
            Failure::Unreachable(_) | Failure::Transient(_)
        )
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
