//! Object stores: the trait that every backend implements, and its vocabulary.
//!
//! This module owns what a bucket *is* to the rest of the program: keys, ETags, conditions, and
//! what can go wrong. It owns no policy: retries, fallback and metrics wrap an
//! `Arc<dyn ObjectStore>` (see [`retry`] and [`fallback`]), and what to write when is decided by
//! the uploader.

pub mod attributes;
pub mod counted;
pub mod explain;
pub mod fallback;
pub mod lease;
pub mod local;
pub mod r2;
pub mod ranges;
pub mod replicate;
pub mod retry;
pub mod trash;
pub mod xattrs;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::BoxStream;
use unicode_normalization::{IsNormalized, UnicodeNormalization, is_nfc_quick};

/// The longest key R2 takes, in bytes of UTF-8 (R2: platform/limits).
pub const MAX_KEY_BYTES: usize = 1024;

/// The longest path a program can name, in bytes (`PATH_MAX`).
const MAX_PATH_BYTES: usize = 4096;

/// The key of an object, relative to the mount's prefix in the bucket: never empty. It may be longer
/// than R2 takes ([`Key::fits`]): what has such a name stays on this disk until it gets a shorter one.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(Arc<str>);

impl Key {
    /// Returns the key, or `None` when no file can have that name (empty, or longer than a path).
    pub fn new(key: &str) -> Option<Key> {
        (!key.is_empty() && key.len() <= MAX_PATH_BYTES).then(|| Key(key.into()))
    }

    /// Returns the key, or `None` when R2 could not hold it.
    pub fn in_bucket(key: &str) -> Option<Key> {
        Key::new(key).filter(Key::fits)
    }

    /// Whether R2 can hold it: it has at most [`MAX_KEY_BYTES`].
    pub fn fits(&self) -> bool {
        self.0.len() <= MAX_KEY_BYTES
    }

    /// Returns the key as written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the form in which R2 compares keys: Unicode NFC (R2:
    /// reference/unicode-interoperability).
    pub fn folded(&self) -> Key {
        match fold(&self.0) {
            Cow::Borrowed(_) => self.clone(),
            Cow::Owned(folded) => Key(folded.into()),
        }
    }

    /// Whether this is what `path` names, or lies below it. `path` is folded and has no `/` at its
    /// end.
    pub fn is_at_or_below(&self, path: &Key) -> bool {
        let folded = self.folded();
        let rest = folded.as_str().strip_prefix(path.as_str());
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    }

    /// Returns the key that a path names as people write it: folded, without slashes at its ends.
    pub fn of_path(path: &str) -> Option<Key> {
        Key::new(path.trim_matches('/')).map(|key| key.folded())
    }

    /// Whether this is the marker of a folder (`name/`).
    pub fn is_folder_marker(&self) -> bool {
        self.0.ends_with('/')
    }
}

/// Returns the form in which names are compared: Unicode NFC, as R2 compares keys (R2:
/// reference/unicode-interoperability).
pub fn fold(name: &str) -> Cow<'_, str> {
    match is_nfc_quick(name.chars()) {
        IsNormalized::Yes => Cow::Borrowed(name),
        _ => Cow::Owned(name.nfc().collect()),
    }
}

impl fmt::Display for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", &*self.0)
    }
}

/// An entity tag exactly as the server gave it, quotes included.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ETag(Arc<str>);

impl ETag {
    /// Wraps a tag as received.
    pub fn new(tag: &str) -> ETag {
        ETag(tag.into())
    }

    /// Returns the tag of a single-part object with this content (R2: quoted lower-case hex MD5).
    pub fn of_md5(md5: Md5) -> ETag {
        ETag(format!("\"{}\"", hex::encode(md5.0)).into())
    }

    /// Returns the tag as received.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns the MD5 of the content, when the tag is one (single-part objects).
    pub fn md5(&self) -> Option<Md5> {
        let bare = self.0.strip_prefix('"')?.strip_suffix('"')?;
        let mut md5 = [0; 16];
        hex::decode_to_slice(bare, &mut md5).ok()?;
        Some(Md5(md5))
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// An MD5 digest.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Md5(pub [u8; 16]);

impl Md5 {
    /// Returns the digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Md5 {
        use md5::Digest;
        Md5(md5::Md5::digest(bytes).into())
    }
}

impl fmt::Debug for Md5 {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// One version of one object: the bytes that this key had under this tag.
#[derive(Clone, PartialEq, Eq, Hash, Debug, PartialOrd, Ord)]
pub struct ObjectVersion {
    /// Where the object lies in the bucket.
    pub key: Key,
    /// Which of its contents is meant.
    pub etag: ETag,
}

/// Which store of a fallback pair an object was found in.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Origin {
    /// The store that writes go to.
    #[default]
    Primary,
    /// The local directory behind it (`FALLBACK_TO_LOCAL`), which is only read.
    Fallback,
}

/// User metadata: lower-case ASCII names without the `x-amz-meta-` prefix, ASCII values.
pub type UserMetadata = BTreeMap<String, String>;

/// What HEAD and GET tell about an object.
#[derive(Clone, Debug, PartialEq)]
pub struct ObjectInfo {
    /// Key and tag.
    pub version: ObjectVersion,
    /// Length of the whole object in bytes.
    pub size: u64,
    /// When the object was last written.
    pub last_modified: SystemTime,
    /// The content type, if the server told one.
    pub content_type: Option<String>,
    /// User metadata.
    pub metadata: UserMetadata,
    /// Where it was found.
    pub origin: Origin,
}

/// What a listing tells about an object.
#[derive(Clone, Debug, PartialEq)]
pub struct ListedObject {
    /// Key and tag.
    pub version: ObjectVersion,
    /// Length in bytes.
    pub size: u64,
    /// When the object was last written.
    pub last_modified: SystemTime,
    /// Where it was found.
    pub origin: Origin,
}

/// One page of a listing. The next page follows from `next`; a page may be empty and not the last.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListPage {
    /// Objects, ordered by key.
    pub objects: Vec<ListedObject>,
    /// Common prefixes, each ending in `/`, when a delimiter was asked for.
    pub prefixes: Vec<String>,
    /// Continuation token of the next page; `None` after the last.
    pub next: Option<String>,
    /// Whether a part of the bucket could not be asked: what is missing here may well exist (see
    /// [`fallback`]). Only a listing of pages that are all complete proves an absence.
    pub incomplete: bool,
}

/// What to list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ListRequest {
    /// Only keys that begin so; may be empty.
    pub prefix: String,
    /// Whether keys below the next `/` are folded into prefixes.
    pub delimited: bool,
    /// The `next` of the page before.
    pub continuation: Option<String>,
    /// Of a first page: only what comes after this name, which need not exist.
    pub start_after: Option<String>,
    /// At most so many entries; `None` leaves it to the server (1,000).
    pub max_keys: Option<u16>,
}

/// Condition of a read.
#[derive(Clone, Debug, PartialEq, Default)]
pub enum ReadCondition {
    /// Whatever is there.
    #[default]
    None,
    /// Only this version; else [`StoreError::PreconditionFailed`].
    IfMatch(ETag),
    /// Only if it is another version; else [`StoreError::NotModified`].
    IfNoneMatch(ETag),
}

/// Condition of a write.
#[derive(Clone, Debug, PartialEq)]
pub enum WriteCondition {
    /// Only if the key holds nothing.
    IfAbsent,
    /// Only over this version.
    IfMatch(ETag),
    /// Over anything. For objects of our own that nobody else writes.
    Always,
}

/// What to read.
#[derive(Clone, Debug, PartialEq)]
pub struct GetRequest {
    /// The object.
    pub key: Key,
    /// Bytes wanted, non-empty; `None` for the whole object.
    pub range: Option<Range<u64>>,
    /// Condition on the version.
    pub condition: ReadCondition,
}

/// An answer to GET: the header at once, the bytes as they arrive.
pub struct GetResponse {
    /// About the whole object.
    pub info: ObjectInfo,
    /// Which bytes follow. May be shorter than asked at the object's end, never longer.
    pub range: Range<u64>,
    /// The bytes. The stream ends with an error, never silently, when fewer than `range` arrived.
    pub body: BoxStream<'static, Result<Bytes, StoreError>>,
}

impl fmt::Debug for GetResponse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GetResponse")
            .field("info", &self.info)
            .field("range", &self.range)
            .finish_non_exhaustive()
    }
}

/// What an object carries beside its bytes.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct ObjectHeaders {
    /// Content type.
    pub content_type: String,
    /// User metadata.
    pub metadata: UserMetadata,
}

/// A whole object to be written by one request.
#[derive(Clone, Debug, PartialEq)]
pub struct PutRequest {
    /// Where.
    pub key: Key,
    /// The bytes.
    pub body: Bytes,
    /// Their MD5, sent along and verified by the server.
    pub md5: Md5,
    /// Over what.
    pub condition: WriteCondition,
    /// Type and metadata.
    pub headers: ObjectHeaders,
}

/// A server-side copy.
#[derive(Clone, Debug, PartialEq)]
pub struct CopyRequest {
    /// What is copied; fails with [`StoreError::SourceChanged`] if the source is another version
    /// by now or gone.
    pub source: ObjectVersion,
    /// Where to. May be the source itself, to replace its headers.
    pub destination: Key,
    /// Over what.
    pub condition: WriteCondition,
    /// New headers; `None` keeps those of the source.
    pub headers: Option<ObjectHeaders>,
}

/// A multipart upload that was begun.
#[derive(Clone, Debug, PartialEq)]
pub struct Upload {
    /// Where the object will be.
    pub key: Key,
    /// The server's name for the upload.
    pub id: String,
}

/// Number of a part, from 1 to 10,000.
pub type PartNumber = u16;

/// A part of an upload that the server has.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldPart {
    /// Length in bytes.
    pub size: u64,
    /// Its tag.
    pub etag: ETag,
}

/// What can go wrong between us and a store. A variant exists where a caller acts differently.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// No such object.
    #[error("no such object")]
    NotFound,
    /// A conditional read found the version already known.
    #[error("not modified")]
    NotModified,
    /// A conditional request found another version.
    #[error("the object has changed in the meantime (precondition failed)")]
    PreconditionFailed,
    /// The source of a copy is gone or another version.
    #[error("the source of the copy is gone or has changed")]
    SourceChanged,
    /// The multipart upload is gone on the server.
    #[error("the multipart upload is gone")]
    UploadGone,
    /// The range lies outside of the object.
    #[error("the range lies outside of the object")]
    InvalidRange,
    /// 401: the access key is unknown, revoked or expired.
    #[error("access key unknown, revoked or expired: {0}")]
    UnknownCredentials(String),
    /// 403 `SignatureDoesNotMatch`.
    #[error("the secret access key is wrong: {0}")]
    WrongSecret(String),
    /// 403: no right to do this.
    #[error("no right to do this with this token: {0}")]
    Denied(String),
    /// 403 by a bucket lock rule.
    #[error("the key is protected by a bucket lock: {0}")]
    Locked(String),
    /// 403 `RequestTimeTooSkewed`.
    #[error("this machine's clock is off: {0}")]
    ClockSkew(String),
    /// 404 `NoSuchBucket`.
    #[error("no such bucket: {0}")]
    NoSuchBucket(String),
    /// The object is larger than the store takes.
    #[error("too large for the store: {0}")]
    TooLarge(String),
    /// The store refuses the request as such; repeating it is of no use.
    #[error("the store refuses the request: {0}")]
    Refused(String),
    /// The store asks for patience.
    #[error("the store asks to slow down")]
    Throttled {
        /// How long, if it said so.
        retry_after: Option<Duration>,
    },
    /// Not reachable, timed out, or failing (5xx); what was sent may or may not have been done.
    #[error("the store cannot be reached or fails: {message}")]
    Unavailable {
        /// What happened, with the request id if there is one.
        message: String,
        /// How long to wait, if the server said so.
        retry_after: Option<Duration>,
    },
    /// The answer does not fit the request (wrong length, wrong range): nothing of it was used.
    #[error("damaged answer: {0}")]
    Damaged(String),
    /// The local store's disk failed.
    #[error("local store: {0}")]
    Io(#[from] std::io::Error),
}

impl StoreError {
    /// Whether the same request may well succeed later.
    pub fn is_transient(&self) -> bool {
        use StoreError::*;
        match self {
            Throttled { .. } | Unavailable { .. } | Damaged(_) | ClockSkew(_) | Io(_) => true,
            NotFound
            | NotModified
            | PreconditionFailed
            | SourceChanged
            | UploadGone
            | InvalidRange
            | UnknownCredentials(_)
            | WrongSecret(_)
            | Denied(_)
            | Locked(_)
            | NoSuchBucket(_)
            | TooLarge(_)
            | Refused(_) => false,
        }
    }

    /// How long the server asked us to wait, if it did.
    pub fn retry_after(&self) -> Option<Duration> {
        match self {
            StoreError::Throttled { retry_after } | StoreError::Unavailable { retry_after, .. } => {
                *retry_after
            }
            _ => None,
        }
    }
}

/// Result of a store operation.
pub type StoreResult<T> = Result<T, StoreError>;

/// A bucket, or something that behaves like one.
///
/// Every method may be called from many tasks at once. Writes are atomic: an object is seen whole
/// or not at all. Conditions are checked atomically with the write. Cancelling a future abandons
/// the request; what was sent may still take effect.
#[async_trait]
pub trait ObjectStore: Send + Sync + fmt::Debug {
    /// Whether there is any use in asking: false while nobody has been answered for a while, when
    /// reads fail at once.
    fn is_reachable(&self) -> bool {
        true
    }

    /// Returns the time by the store's own clock, by which it dates objects; `None` while it has not
    /// told it.
    fn time(&self) -> Option<SystemTime> {
        None
    }

    /// Returns what is known about an object without its bytes.
    async fn head(&self, key: &Key, condition: ReadCondition) -> StoreResult<ObjectInfo>;

    /// Reads an object or a range of it.
    async fn get(&self, request: GetRequest) -> StoreResult<GetResponse>;

    /// Writes an object with one request; returns the new tag.
    async fn put(&self, request: PutRequest) -> StoreResult<ETag>;

    /// Begins a multipart upload. All parts but the last must have the same size.
    async fn create_multipart(&self, key: &Key, headers: ObjectHeaders) -> StoreResult<Upload>;

    /// Sends one part; sent again under the same number, the last one counts. Returns its tag.
    async fn upload_part(
        &self,
        upload: &Upload,
        number: PartNumber,
        body: Bytes,
        md5: Md5,
    ) -> StoreResult<ETag>;

    /// Makes one part of the bytes of an object, on the server's side; otherwise as
    /// [`upload_part`](ObjectStore::upload_part). A source that is gone, or ends before the range
    /// begins, is [`StoreError::SourceChanged`]. R2 has no condition on the source of a part, so
    /// whether it is still the version that is meant has to be asked before and after.
    async fn upload_part_copy(
        &self,
        upload: &Upload,
        number: PartNumber,
        source: &ObjectVersion,
        range: Range<u64>,
    ) -> StoreResult<ETag>;

    /// Returns the parts that an upload has so far.
    async fn list_parts(&self, upload: &Upload) -> StoreResult<BTreeMap<PartNumber, HeldPart>>;

    /// Makes the object of its parts, in order from part 1. A failed condition ends the upload.
    async fn complete_multipart(
        &self,
        upload: &Upload,
        parts: &[ETag],
        condition: WriteCondition,
    ) -> StoreResult<ETag>;

    /// Gives up an upload and its parts. An upload that is gone already is no error.
    async fn abort_multipart(&self, upload: &Upload) -> StoreResult<()>;

    /// Copies an object on the server's side; returns the tag of the copy.
    async fn copy(&self, request: CopyRequest) -> StoreResult<ETag>;

    /// Deletes an object. A missing one is no error.
    async fn delete(&self, key: &Key) -> StoreResult<()>;

    /// Lists one page.
    async fn list(&self, request: ListRequest) -> StoreResult<ListPage>;
}
