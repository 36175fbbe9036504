//! The test's handle: start, look inside, act as another client, stop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use md5::{Digest, Md5};
use parking_lot::Mutex;

use crate::content::Content;
use crate::front::Front;
use crate::key::Key;
use crate::log::{Costs, Log, RequestRecord};
use crate::server::{Command, Server};
use crate::service::Model;
use crate::state::{Attributes, Bucket, RateViolation, RetryAfter, Rules, State, Stored};
use crate::token::{Permission, Token};

/// The least size of a part in R2.
const MIN_PART_BYTES: u64 = 5 * 1024 * 1024;

/// A running R2 in memory. Dropping it ends the server, also in a panic.
#[derive(Debug)]
pub struct R2Model {
    server: Server,
    model: Arc<Model>,
    other: OtherClient,
    access_key: String,
    secret_key: String,
}

/// What an object is, as [`OtherClient::get`] finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    /// The whole content: for a generated object all of it is made here.
    pub bytes: Bytes,
    /// The ETag without quotes.
    pub etag: String,
    /// The `Content-Type`.
    pub content_type: String,
    /// `x-amz-meta-*`, names in lower case and without the prefix.
    pub metadata: BTreeMap<String, String>,
    /// When it was written, in milliseconds.
    pub last_modified: SystemTime,
    /// How often the key was written since the start, by anybody; deletes do not count.
    pub write_count: u64,
    /// The sizes of its parts, if it was uploaded in parts.
    pub part_sizes: Vec<u64>,
}

/// An upload that is neither completed nor aborted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UploadInfo {
    /// The id.
    pub upload_id: String,
    /// The key.
    pub key: String,
    /// Number and size of each part.
    pub parts: BTreeMap<u32, u64>,
}

/// Sets up an [`R2Model`].
#[derive(Debug, Clone)]
pub struct Builder {
    bucket: String,
    other_buckets: Vec<String>,
    access_key: String,
    secret_key: String,
    permission: Permission,
    tokens: Vec<Token>,
    rules: Rules,
    port: u16,
}

/// The bucket as somebody else uses it: no HTTP, no limits, no conditions, not in the log.
#[derive(Debug, Clone)]
pub struct OtherClient {
    model: Arc<Model>,
    bucket: String,
}

impl Builder {
    /// Names the bucket; the default is `voicebeat-audio`.
    pub fn bucket(mut self, name: &str) -> Self {
        self.bucket = name.to_owned();
        self
    }

    /// Adds another, empty bucket.
    pub fn other_bucket(mut self, name: &str) -> Self {
        self.other_buckets.push(name.to_owned());
        self
    }

    /// Sets the credentials of the default token.
    pub fn credentials(mut self, access_key: &str, secret_key: &str) -> Self {
        self.access_key = access_key.to_owned();
        self.secret_key = secret_key.to_owned();
        self
    }

    /// Sets what the default token may do; without it, read and write objects of all buckets.
    pub fn permission(mut self, permission: Permission) -> Self {
        self.permission = permission;
        self
    }

    /// Adds a token.
    pub fn token(mut self, token: Token) -> Self {
        self.tokens.push(token);
        self
    }

    /// Sets the least size of every part but the last; R2's is 5 MiB.
    pub fn min_part_bytes(mut self, bytes: u64) -> Self {
        self.rules.min_part_bytes = bytes;
        self
    }

    /// Sets the least time between two writes of one key; R2's is a second.
    pub fn write_interval(mut self, interval: Duration) -> Self {
        self.rules.write_interval = interval;
        self
    }

    /// Refuses writes of one key that come too soon, rather than only counting them.
    pub fn too_many_requests(mut self, retry_after: RetryAfter) -> Self {
        self.rules.too_many_requests = Some(retry_after);
        self
    }

    /// Listens on this port; the default is any that is free.
    pub fn port(mut self, port: u16) -> Self {
        self.port = port;
        self
    }

    /// Starts the server.
    ///
    /// # Panics
    ///
    /// If the port is taken, or the machine has no socket or thread left.
    pub fn start(self) -> R2Model {
        let default = Token::new(&self.access_key, &self.secret_key, self.permission);
        let names = self.other_buckets.into_iter().chain([self.bucket.clone()]);
        let model = Arc::new(Model {
            state: Mutex::new(State {
                buckets: names.map(|name| (name, Bucket::default())).collect(),
                rules: self.rules,
            }),
            tokens: Mutex::new([vec![default], self.tokens].concat()),
            log: Mutex::new(Log::default()),
        });
        let server = Server::start(Front::new(Arc::clone(&model)), self.port)
            .expect("the R2 model needs a loopback port and threads");
        R2Model {
            server,
            other: OtherClient {
                model: Arc::clone(&model),
                bucket: self.bucket,
            },
            model,
            access_key: self.access_key,
            secret_key: self.secret_key,
        }
    }
}

impl R2Model {
    /// Starts a model with the defaults.
    pub fn start() -> Self {
        Self::builder().start()
    }

    /// Returns a builder with the defaults.
    pub fn builder() -> Builder {
        Builder {
            bucket: "voicebeat-audio".to_owned(),
            other_buckets: Vec::new(),
            access_key: "r2modelaccesskey".to_owned(),
            secret_key: "r2modelsecretkey".to_owned(),
            permission: Permission::ObjectReadWrite,
            tokens: Vec::new(),
            rules: Rules {
                min_part_bytes: MIN_PART_BYTES,
                write_interval: Duration::from_secs(1),
                too_many_requests: None,
            },
            port: 0,
        }
    }

    /// Returns the URL of the server, without a path or a final slash.
    pub fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.port())
    }

    /// Returns the port, which stays the same over [`stop`](Self::stop).
    pub fn port(&self) -> u16 {
        self.server.port()
    }

    /// Returns the name of the bucket.
    pub fn bucket(&self) -> &str {
        &self.other.bucket
    }

    /// Returns the access key of the default token.
    pub fn access_key(&self) -> &str {
        &self.access_key
    }

    /// Returns the secret key of the default token.
    pub fn secret_key(&self) -> &str {
        &self.secret_key
    }

    /// Adds a token while the server runs.
    pub fn add_token(&self, token: Token) {
        self.model.tokens.lock().push(token);
    }

    /// Takes a token away: its access key is unknown from now on, and answered 401.
    pub fn revoke(&self, access_key: &str) {
        self.model
            .tokens
            .lock()
            .retain(|token| token.access_key != access_key);
    }

    /// Returns the bucket as another client; the value can be kept in threads and hooks.
    pub fn other_client(&self) -> OtherClient {
        self.other.clone()
    }

    /// See [`OtherClient::put`].
    pub fn put(&self, key: &str, bytes: impl Into<Bytes>) {
        self.other.put(key, bytes);
    }

    /// See [`OtherClient::put_with`].
    pub fn put_with(
        &self,
        key: &str,
        bytes: impl Into<Bytes>,
        content_type: &str,
        metadata: &[(&str, &str)],
    ) {
        self.other.put_with(key, bytes, content_type, metadata);
    }

    /// See [`OtherClient::put_generated`].
    pub fn put_generated(&self, key: &str, size: u64) {
        self.other.put_generated(key, size);
    }

    /// See [`OtherClient::put_generated_behind`].
    pub fn put_generated_behind(&self, key: &str, head: impl Into<Bytes>, size: u64) {
        self.other.put_generated_behind(key, head, size);
    }

    /// See [`OtherClient::put_encoded`].
    pub fn put_encoded(
        &self,
        key: &str,
        encoded: impl Into<Bytes>,
        plain: impl Into<Bytes>,
        coding: &str,
    ) {
        self.other.put_encoded(key, encoded, plain, coding);
    }

    /// See [`OtherClient::get`].
    pub fn get(&self, key: &str) -> Option<Object> {
        self.other.get(key)
    }

    /// See [`OtherClient::delete`].
    pub fn delete(&self, key: &str) -> bool {
        self.other.delete(key)
    }

    /// See [`OtherClient::keys`].
    pub fn keys(&self) -> Vec<String> {
        self.other.keys()
    }

    /// Returns the requests since the start or the last clearing, in order of arrival.
    pub fn requests(&self) -> Vec<RequestRecord> {
        self.model.log.lock().records()
    }

    /// Forgets requests, costs and rate violations.
    pub fn clear_requests(&self) {
        self.model.log.lock().clear();
        self.other.with_bucket(|bucket| bucket.violations.clear());
    }

    /// Returns what the requests in the log would have been billed as.
    pub fn costs(&self) -> Costs {
        self.model.log.lock().costs
    }

    /// Returns the writes that came too soon after another of the same key.
    ///
    /// Only what clients committed over HTTP starts the interval; every write that comes within
    /// it counts, also if it was refused.
    pub fn write_rate_violations(&self) -> Vec<RateViolation> {
        self.other.with_bucket(|bucket| bucket.violations.clone())
    }

    /// Changes whether writes that come too soon are refused, and how.
    pub fn set_too_many_requests(&self, retry_after: Option<RetryAfter>) {
        self.model.state.lock().rules.too_many_requests = retry_after;
    }

    /// Returns the uploads that are neither completed nor aborted.
    pub fn open_uploads(&self) -> Vec<UploadInfo> {
        self.other.with_bucket(|bucket| {
            let uploads = bucket.uploads.iter().map(|(id, upload)| UploadInfo {
                upload_id: id.clone(),
                key: upload.key.spelled.clone(),
                parts: upload
                    .parts
                    .iter()
                    .map(|(&at, part)| (at, part.content.len()))
                    .collect(),
            });
            uploads.collect()
        })
    }

    /// Refuses connections and cuts the open ones; returns when that is done.
    ///
    /// # Panics
    ///
    /// If the server has ended, which only a panic inside it can do.
    pub fn stop(&self) {
        self.server
            .command(Command::Stop)
            .expect("the server closes its port");
    }

    /// Takes connections again, on the same port.
    ///
    /// # Panics
    ///
    /// As [`stop`](Self::stop).
    pub fn restart(&self) {
        self.server
            .command(Command::Restart)
            .expect("the server opens its port");
    }
}

impl OtherClient {
    /// Writes an object of type `application/octet-stream`.
    ///
    /// # Panics
    ///
    /// If the key is empty or too long; so do the other methods.
    pub fn put(&self, key: &str, bytes: impl Into<Bytes>) {
        self.put_with(key, bytes, "application/octet-stream", &[]);
    }

    /// Writes an object with its type and `x-amz-meta-*`.
    pub fn put_with(
        &self,
        key: &str,
        bytes: impl Into<Bytes>,
        content_type: &str,
        metadata: &[(&str, &str)],
    ) {
        let user = metadata
            .iter()
            .map(|&(name, value)| (name.to_lowercase(), value.to_owned()));
        let attributes = Attributes {
            user: user.collect(),
            ..typed(content_type)
        };
        self.insert(key, Stored::of_bytes(bytes.into(), attributes));
    }

    /// Writes an object of any size that takes no memory; see
    /// [`generated_bytes`](crate::generated_bytes).
    pub fn put_generated(&self, key: &str, size: u64) {
        self.put_generated_behind(key, Bytes::new(), size);
    }

    /// Writes an object that begins with `head`, an audio header say, and goes on with `size`
    /// generated bytes from offset 0 of the key's stream.
    pub fn put_generated_behind(&self, key: &str, head: impl Into<Bytes>, size: u64) {
        let head = head.into();
        let seed = format!("{key}\n{size}\n{}", hex::encode(Md5::digest(&head)));
        let etag = hex::encode(Md5::digest(seed));
        let generated = Content::Generated {
            key: key.into(),
            offset: 0,
            len: size,
        };
        let content = match head.is_empty() {
            true => generated,
            false => Content::Joined(vec![Content::Bytes(head), generated].into()),
        };
        self.insert(
            key,
            Stored::new(content, etag, typed("application/octet-stream")),
        );
    }

    /// Writes an object with a `Content-Encoding`: `encoded` is stored and listed, and `plain` is
    /// what a reader gets, without `Content-Length`, who does not accept the coding.
    pub fn put_encoded(
        &self,
        key: &str,
        encoded: impl Into<Bytes>,
        plain: impl Into<Bytes>,
        coding: &str,
    ) {
        let mut attributes = typed("application/octet-stream");
        attributes
            .system
            .insert("content-encoding".to_owned(), coding.to_owned());
        let mut object = Stored::of_bytes(encoded.into(), attributes);
        object.decoded = Some(plain.into());
        self.insert(key, object);
    }

    /// Returns the object, or `None`.
    pub fn get(&self, key: &str) -> Option<Object> {
        let key = Self::key(key);
        let (object, write_count) = self.with_bucket(|bucket| {
            bucket
                .get(&key)
                .ok()
                .map(|object| (object.clone(), bucket.write_count(&key)))
        })?;
        let content_type = object.attributes.system.get("content-type").cloned();
        Some(Object {
            bytes: object.content.read(0..object.content.len()),
            etag: object.etag,
            content_type: content_type.unwrap_or_default(),
            metadata: object.attributes.user,
            last_modified: object.last_modified,
            write_count,
            part_sizes: object.part_sizes,
        })
    }

    /// Deletes the object and returns whether there was one.
    pub fn delete(&self, key: &str) -> bool {
        let key = Self::key(key);
        self.with_bucket(|bucket| bucket.objects.remove(&key.folded).is_some())
    }

    /// Returns all keys as last spelled, in the order of listings.
    pub fn keys(&self) -> Vec<String> {
        self.with_bucket(|bucket| {
            bucket
                .objects
                .values()
                .map(|object| object.spelled.clone())
                .collect()
        })
    }

    fn insert(&self, key: &str, object: Stored) {
        let key = Self::key(key);
        self.with_bucket(|bucket| bucket.insert(&key, object));
    }

    fn key(key: &str) -> Key {
        Key::new(key).expect("a key has 1 to 1,024 bytes")
    }

    fn with_bucket<T>(&self, act: impl FnOnce(&mut Bucket) -> T) -> T {
        let mut state = self.model.state.lock();
        // A client with administrator rights may have deleted it.
        act(state.buckets.entry(self.bucket.clone()).or_default())
    }
}

fn typed(content_type: &str) -> Attributes {
    let mut attributes = Attributes::default();
    attributes
        .system
        .insert("content-type".to_owned(), content_type.to_owned());
    attributes
}
