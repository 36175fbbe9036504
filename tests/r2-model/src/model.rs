//! The test's handle: start, look inside, act as another client, stop.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use parking_lot::Mutex;

use crate::fault::FaultRule;
use crate::front::Front;
use crate::history::Written;
use crate::log::{Costs, Log, RequestRecord};
use crate::other_client::{Object, OtherClient};
use crate::plan::{FaultId, Faults};
use crate::server::{Command, Connections, Server};
use crate::service::Model;
use crate::state::{Bucket, RateViolation, RetryAfter, Rules, State};
use crate::token::{Permission, Token};

/// The least size of a part in R2.
const MIN_PART_BYTES: u64 = 5 * 1024 * 1024;

/// The most bytes of a put, a part or a copied part in R2; also taken for a copy, whose limit is
/// not documented.
const MAX_REQUEST_BYTES: u64 = (5 << 30) - (5 << 20);

/// A running R2 in memory. Dropping it ends the server, also in a panic.
#[derive(Debug)]
pub struct R2Model {
    server: Server,
    model: Arc<Model>,
    other: OtherClient,
    access_key: String,
    secret_key: String,
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

    /// Sets the most bytes of a put, a copy, a part or a copied part; R2's is 5 GiB less 5 MiB.
    pub fn max_request_bytes(mut self, bytes: u64) -> Self {
        self.rules.max_request_bytes = bytes;
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
                streams: Vec::new(),
            }),
            tokens: Mutex::new([vec![default], self.tokens].concat()),
            log: Mutex::new(Log::default()),
            faults: Mutex::new(Faults::default()),
            connections_failed: AtomicU64::new(0),
        });
        let other = OtherClient {
            model: Arc::clone(&model),
            bucket: self.bucket,
        };
        let server = Server::start(Front::new(other.clone()), self.port)
            .expect("the R2 model needs a loopback port and threads");
        R2Model {
            server,
            other,
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
                max_request_bytes: MAX_REQUEST_BYTES,
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

    /// From now on, what clients send of the stream of `key` (see
    /// [`generated_bytes`](crate::generated_bytes)) is compared with it as it arrives and takes no
    /// memory, whatever the key of the object. A body that differs is kept as it is.
    pub fn receive_generated(&self, key: &str) {
        self.model.state.lock().streams.push(key.into());
    }

    /// Whether an object holds the first `size` bytes of the stream of `stream`, received as such
    /// or copied.
    pub fn holds_generated(&self, key: &str, stream: &str, size: u64) -> bool {
        self.other.holds_generated(key, stream, size)
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

    /// See [`OtherClient::stat`].
    pub fn stat(&self, key: &str) -> Option<Object> {
        self.other.stat(key)
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
    /// it counts, also if it was refused. One that a fault commits late does neither.
    pub fn write_rate_violations(&self) -> Vec<RateViolation> {
        self.other.with_bucket(|bucket| bucket.violations.clone())
    }

    /// Returns the writes and deletes of clients that took effect, in order.
    pub fn history(&self) -> Vec<Written> {
        self.other.with_bucket(|bucket| bucket.history.all())
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

    /// Adds a fault. Rules take effect in the order in which they were added.
    pub fn add_fault(&self, rule: FaultRule) -> FaultId {
        self.model.faults.lock().add(rule)
    }

    /// Ends a fault; its counts stay.
    pub fn clear_fault(&self, id: FaultId) {
        self.model.faults.lock().clear(id);
    }

    /// Ends all faults; their counts stay.
    pub fn clear_faults(&self) {
        self.model.faults.lock().clear_all();
    }

    /// Returns how many requests a fault struck.
    pub fn fired(&self, id: FaultId) -> u64 {
        self.model.faults.lock().fired(id)
    }

    /// Returns how many requests a fault was considered for.
    pub fn matched(&self, id: FaultId) -> u64 {
        self.model.faults.lock().matched(id)
    }

    /// Changes what happens to new connections; the open ones go on.
    ///
    /// # Panics
    ///
    /// If the server has ended, which only a panic inside it can do.
    pub fn set_connections(&self, connections: Connections) {
        self.server
            .command(Command::Connections(connections))
            .expect("the server obeys");
    }

    /// Returns how many connections were reset or left without an answer; refused ones are not
    /// seen here.
    pub fn connections_failed(&self) -> u64 {
        self.model.connections_failed.load(Ordering::Relaxed)
    }

    /// Cuts the open connections, idle ones too; returns when that is done.
    ///
    /// # Panics
    ///
    /// As [`set_connections`](Self::set_connections).
    pub fn cut_connections(&self) {
        self.server.command(Command::Cut).expect("the server obeys");
    }

    /// Refuses connections and cuts the open ones; returns when that is done.
    ///
    /// # Panics
    ///
    /// As [`set_connections`](Self::set_connections).
    pub fn stop(&self) {
        self.set_connections(Connections::Refuse);
        self.cut_connections();
    }

    /// Takes connections again, on the same port.
    ///
    /// # Panics
    ///
    /// As [`set_connections`](Self::set_connections).
    pub fn restart(&self) {
        self.set_connections(Connections::Serve);
    }
}
