//! Sending a staged file in parts, and going on with that after a failure or a restart.
//!
//! The journal knows of an upload before its first part is sent, and of every part that the server
//! has confirmed. After a restart a part counts as sent if the server still has it and if it is
//! what would be sent now. An upload that no record asks for any more is taken back.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures::stream::{self, StreamExt};

use super::UploadOptions;
use super::bytes::{Body, Source, read_part};
use super::send::{Operation, Sender, Stop};
use super::verdict::{self, Failure};
use crate::staging::{JournalResult, OpenUpload, Sealed, SentPart};
use crate::store::attributes::{FileAttributes, PART_SIZE};
use crate::store::{
    ETag, HeldPart, Key, Md5, ObjectStore, PartNumber, StoreError, StoreResult, Upload,
};

/// Parts of one file that are sent at once.
const PARTS_AT_ONCE: usize = 4;
/// What a part gets of a limited line, if there are to be more at once: of few parts at a time more
/// are done when something comes between, and no server gives up a body that hardly moves.
const PART_BYTES_PER_SECOND: u64 = 1 << 20;
/// Tries for one part before the whole upload waits; the store's own retries come on top.
pub(super) const PART_TRIES: u32 = 4;

/// An upload that is open and that nobody works on.
#[derive(Debug)]
pub(super) struct Unfinished {
    open: OpenUpload,
    standing: Standing,
}

/// What may become of an upload that waits.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Standing {
    /// This process has sent its parts.
    Ours,
    /// A process before this one has. Only a sealed file can be gone on with: snapshots are gone,
    /// and copies cost no bytes to begin anew.
    FromBefore,
    /// A process before this one has, and they are compared with what would be sent now.
    Recalled,
    /// It is to be taken back.
    Outdated,
}

impl Sender {
    /// Returns the uploads that a process before this one has left open.
    pub(super) fn left_open(open: Vec<OpenUpload>) -> Vec<Unfinished> {
        let from_before = |open| Unfinished {
            open,
            standing: Standing::FromBefore,
        };
        open.into_iter().map(from_before).collect()
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.stopping.load(Ordering::Relaxed)
    }

    fn is_wanted(&self, unfinished: &Unfinished) -> bool {
        let OpenUpload { upload, seq, .. } = &unfinished.open;
        let record = self.staging.journal().record(&upload.key);
        let record = record.filter(|record| record.seq == *seq);
        record.is_some_and(|record| match unfinished.standing {
            Standing::Ours | Standing::Recalled => true,
            Standing::FromBefore => record.change.sealed().is_some(),
            Standing::Outdated => false,
        })
    }

    fn take_outdated(&self) -> Vec<Unfinished> {
        let mut all = self.unfinished.lock();
        let (wanted, outdated) = std::mem::take(&mut *all)
            .into_iter()
            .partition(|unfinished| self.is_wanted(unfinished));
        *all = wanted;
        outdated
    }

    /// Takes back the uploads that no record asks for any more.
    pub(super) fn abort_outdated(self: &Arc<Self>) {
        for outdated in self.take_outdated() {
            self.spawn_abort(outdated.open);
        }
    }

    pub(super) fn spawn_abort(self: &Arc<Self>, open: OpenUpload) {
        let sender = Arc::clone(self);
        tokio::spawn(async move { sender.abort(open).await });
    }

    /// Takes back an upload. What fails is tried again after a later operation, or at the next
    /// start.
    async fn abort(&self, open: OpenUpload) {
        let aborted = self.store.abort_multipart(&open.upload).await;
        if let Err(error) = aborted {
            log::debug!(
                "An upload of {} cannot be aborted: {error}",
                open.upload.key
            );
            self.keep_unfinished(open, Standing::Outdated);
        } else if let Err(error) = self.staging.journal().end_upload(&open.upload.id) {
            log::debug!("An upload of {} was aborted: {error}", open.upload.key);
        }
    }

    /// Takes back what the next start cannot go on with.
    pub(super) async fn abort_at_stop(&self) {
        for unfinished in &mut *self.unfinished.lock() {
            if unfinished.standing != Standing::Outdated {
                unfinished.standing = Standing::FromBefore;
            }
        }
        for outdated in self.take_outdated() {
            self.abort(outdated.open).await;
        }
    }

    fn keep_unfinished(&self, open: OpenUpload, standing: Standing) {
        self.unfinished.lock().push(Unfinished { open, standing });
    }
}

impl Operation {
    /// Notes an upload that was begun, so that it is never forgotten.
    pub(super) async fn opened(&self, upload: Upload) -> Result<OpenUpload, Stop> {
        let open = OpenUpload {
            upload,
            seq: self.record.seq,
            write_id: self.write_id.clone(),
            parts: BTreeMap::new(),
        };
        self.journal().begin_upload(open.clone())?;
        self.sync().await?;
        Ok(open)
    }

    pub(super) fn closed(&self, open: &OpenUpload) -> JournalResult<()> {
        self.journal().end_upload(&open.upload.id)
    }

    pub(super) async fn put_parts(
        &mut self,
        source: &Source,
        sealed: &Sealed,
        attributes: &FileAttributes,
    ) -> Result<ETag, Stop> {
        // The write id goes with the upload from its beginning, so it is begun before.
        self.begin().await?;
        let (mut open, mut standing) = match self.take_unfinished() {
            Some(unfinished) => (unfinished.open, unfinished.standing),
            None => (self.create(sealed, attributes).await?, Standing::Ours),
        };
        let completed = async {
            if standing == Standing::FromBefore {
                self.recall_parts(source, sealed, &mut open).await?;
                standing = Standing::Recalled;
            }
            self.send_parts(source, sealed, &mut open).await?;
            self.complete(source, &open).await
        };
        let completed = completed.await;
        match &completed {
            // A failed condition and a completion end the upload.
            Ok(_) | Err(Stop::Store(StoreError::PreconditionFailed | StoreError::UploadGone)) => {
                self.closed(&open)?;
            }
            // The server has lost parts of which it did not tell.
            Err(Stop::Store(StoreError::Refused(reason))) if standing == Standing::Recalled => {
                log::debug!("{} is sent anew: {reason}", self.record.key);
                self.sender.spawn_abort(open);
                return Err(StoreError::UploadGone.into());
            }
            Err(Stop::Store(error)) if may_go_on(error) => {
                self.sender.keep_unfinished(open, standing);
            }
            Err(Stop::Changed) if self.is_for_next_start(source) => {
                self.sender.keep_unfinished(open, standing);
            }
            Err(_) => {
                self.sender.spawn_abort(open);
                self.end()?;
            }
        }
        completed
    }

    /// Whether nothing but the end of this process is in the way of an upload.
    fn is_for_next_start(&self, source: &Source) -> bool {
        self.sender.is_stopping() && source.is_unchanged() && self.is_current()
    }

    /// Returns an upload of the same version that was begun before.
    fn take_unfinished(&self) -> Option<Unfinished> {
        let mut all = self.sender.unfinished.lock();
        let at = all.iter().position(|unfinished| {
            let open = &unfinished.open;
            open.upload.key == self.record.key
                && open.write_id == self.write_id
                && self.sender.is_wanted(unfinished)
        })?;
        Some(all.swap_remove(at))
    }

    async fn create(
        &mut self,
        sealed: &Sealed,
        attributes: &FileAttributes,
    ) -> Result<OpenUpload, Stop> {
        let mut headers = self.headers(attributes);
        let part_size = sealed.part_size.to_string();
        headers.metadata.insert(PART_SIZE.into(), part_size);
        let store = Arc::clone(&self.sender.store);
        let created = store.create_multipart(&self.record.key, headers).await;
        let upload = self.hear(created)?;
        self.opened(upload).await
    }

    /// Leaves of the parts of an earlier process those that need not be sent again.
    async fn recall_parts(
        &mut self,
        source: &Source,
        sealed: &Sealed,
        open: &mut OpenUpload,
    ) -> Result<(), Stop> {
        let store = Arc::clone(&self.sender.store);
        let held = store.list_parts(&open.upload).await;
        let held = match self.hear(held) {
            Ok(held) => Some(held),
            // A server need not have this question (R2: api/s3/api); the completion finds out.
            Err(StoreError::Refused(_)) => None,
            Err(error) => return Err(error.into()),
        };
        let noted = std::mem::take(&mut open.parts);
        for (at, number) in (0..sealed.parts.len()).zip(1..) {
            let wanted = (sealed.part_length(at), sealed.parts[at]);
            let held = held.as_ref().map(|held| held.get(&number));
            let Some(etag) = tag_of_sent(wanted, noted.get(&number), held) else {
                continue;
            };
            self.check(source)?;
            // What is here becomes the cached version, so it must be what the object will hold.
            read_part(&self.sender, source, sealed, at).await?;
            let (size, md5) = wanted;
            open.parts.insert(number, SentPart { size, md5, etag });
        }
        log::info!(
            "{} of {} parts of {} are in the bucket already",
            open.parts.len(),
            sealed.parts.len(),
            self.record.key
        );
        Ok(())
    }

    async fn send_parts(
        &mut self,
        source: &Source,
        sealed: &Sealed,
        open: &mut OpenUpload,
    ) -> Result<(), Stop> {
        let shared = Arc::new(Sending {
            sender: Arc::clone(&self.sender),
            source: source.clone(),
            sealed: sealed.clone(),
            upload: open.upload.clone(),
            open_for: (self.record.key.clone(), self.record.seq),
        });
        let numbers = (1..).take(sealed.parts.len());
        let missing: Vec<PartNumber> = numbers
            .filter(|number| !open.parts.contains_key(number))
            .collect();
        let sends = missing
            .into_iter()
            .map(|number| Arc::clone(&shared).send(number));
        let at_once = parts_at_once(&self.sender.options);
        let mut sends = stream::iter(sends).buffer_unordered(at_once);
        while let Some(sent) = sends.next().await {
            if let Err(Stop::Store(error)) = &sent {
                self.heard |= !matches!(error, StoreError::Unavailable { .. });
            }
            let (number, part) = sent?;
            self.heard = true;
            let journal = self.sender.staging.journal();
            journal.note_part(&open.upload.id, number, part.clone())?;
            open.parts.insert(number, part);
        }
        Ok(())
    }

    async fn complete(&mut self, source: &Source, open: &OpenUpload) -> Result<ETag, Stop> {
        self.check(source)?;
        // Begun anew, since the time counts from which on it may land; and atomically with the
        // question whether the record is still the same.
        self.begin().await?;
        let parts: Vec<ETag> = open.parts.values().map(|part| part.etag.clone()).collect();
        let condition = verdict::condition(&self.record);
        let store = Arc::clone(&self.sender.store);
        let completed = store.complete_multipart(&open.upload, &parts, condition);
        let completed = completed.await;
        Ok(self.hear(completed)?)
    }
}

/// Returns the tag of a part that an earlier process sent, if it need not be sent again: `noted`
/// is what the journal says of it, `held` what the server has, if the server tells.
fn tag_of_sent(
    (size, md5): (u64, Md5),
    noted: Option<&SentPart>,
    held: Option<Option<&HeldPart>>,
) -> Option<ETag> {
    let noted = noted.filter(|part| part.size == size && part.md5 == md5);
    let noted = noted.map(|part| &part.etag);
    let Some(held) = held else {
        return noted.cloned();
    };
    let own = ETag::of_md5(md5);
    let held = held.filter(|part| part.size == size)?;
    (Some(&held.etag) == noted || held.etag == own).then(|| held.etag.clone())
}

/// What the parts of one file that are on their way share.
struct Sending {
    sender: Arc<Sender>,
    source: Source,
    sealed: Sealed,
    upload: Upload,
    /// The record that asks for it, and its state.
    open_for: (Key, crate::staging::Seq),
}

impl Sending {
    async fn send(self: Arc<Self>, number: PartNumber) -> Result<(PartNumber, SentPart), Stop> {
        let at = usize::from(number) - 1;
        self.check()?;
        let body = read_part(&self.sender, &self.source, &self.sealed, at).await?;
        let mut tries = 0;
        loop {
            self.check()?;
            tries += 1;
            match self.upload(number, &body).await {
                Ok(etag) => {
                    let (size, md5) = (body.bytes.len() as u64, self.sealed.parts[at]);
                    let now = self.sender.clock.instant();
                    self.sender.pace.lock().sent(now, size);
                    return Ok((number, SentPart { size, md5, etag }));
                }
                Err(error) if may_go_on(&error) && tries < PART_TRIES => {
                    let pause = Duration::from_secs(1 << tries);
                    let asked = error.retry_after().unwrap_or_default();
                    log::debug!("Part {number} of {}: {error}", self.upload.key);
                    tokio::time::sleep(pause.max(asked)).await;
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    async fn upload(&self, number: PartNumber, body: &Body) -> StoreResult<ETag> {
        let store: &dyn ObjectStore = &*self.sender.store;
        let md5 = self.sealed.parts[usize::from(number) - 1];
        store
            .upload_part(&self.upload, number, body.bytes.clone(), md5)
            .await
    }

    fn check(&self) -> Result<(), Stop> {
        let journal = self.sender.staging.journal();
        let (key, seq) = &self.open_for;
        let wanted = self.source.is_unchanged() && journal.is_current(key, *seq);
        match wanted && !self.sender.is_stopping() {
            true => Ok(()),
            false => Err(Stop::Changed),
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_there_and_would_be_sent_now_counts_as_sent() {
        let (md5, other) = (Md5::of(b"part"), Md5::of(b"other"));
        let opaque = ETag::new("\"opaque\"");
        let sent = |size, md5| SentPart {
            size,
            md5,
            etag: opaque.clone(),
        };
        let held = |size, etag: &ETag| HeldPart {
            size,
            etag: etag.clone(),
        };
        let own = ETag::of_md5(md5);
        let noted = sent(4, md5);
        let table = [
            // The server does not tell which parts it has.
            (Some(&noted), None, Some(&opaque)),
            (None, None, None),
            (Some(&sent(4, other)), None, None),
            (Some(&sent(5, md5)), None, None),
            // It has lost it, or has another one.
            (Some(&noted), Some(None), None),
            (Some(&noted), Some(Some(held(5, &opaque))), None),
            (
                Some(&noted),
                Some(Some(held(4, &ETag::of_md5(other)))),
                None,
            ),
            // It has it, with the tag that it gave, or with the digest for a tag.
            (Some(&noted), Some(Some(held(4, &opaque))), Some(&opaque)),
            (Some(&noted), Some(Some(held(4, &own))), Some(&own)),
            (None, Some(Some(held(4, &own))), Some(&own)),
            (None, Some(Some(held(4, &opaque))), None),
            (Some(&sent(4, other)), Some(Some(held(4, &opaque))), None),
        ];
        for (noted, held, expected) in table {
            let told = held.as_ref().map(Option::as_ref);
            let tag = tag_of_sent((4, md5), noted, told);
            assert_eq!(tag.as_ref(), expected, "{noted:?} {held:?}");
        }
    }

    #[test]
    fn a_slow_line_finishes_parts_one_by_one() {
        for (limit, expected) in [
            (None, 4),
            (Some(20_000), 1),
            (Some(3 << 20), 3),
            (Some(1 << 40), 4),
        ] {
            let options = UploadOptions {
                limit_bytes_per_second: limit,
                ..UploadOptions::default()
            };
            assert_eq!(parts_at_once(&options), expected, "{limit:?}");
        }
    }
}
