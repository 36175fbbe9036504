//! What the program uses, validated once: the [`Config`].
//!
//! Settings come from an env file, the environment and the mount options, in rising order. This
//! module owns their names, defaults and limits, and every message about a wrong one. All
//! problems are collected and reported together. Nothing outside reads a setting from the
//! environment.

mod credentials;
mod effective;
mod env_file;
mod error;
mod load;
mod mount_options;
mod name_patterns;
mod path;
mod r2;
mod route;
mod setting;
#[cfg(test)]
mod tests;
mod value;

use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

pub use credentials::{Credentials, CredentialsFile};
pub use effective::Effective;
pub use error::{ConfigError, Origin, Problem};
pub use load::{Inputs, SYSTEM_ENV_FILE};
pub use mount_options::{Access, MountOptions, OptionError, Ownership};
pub use name_patterns::NamePatterns;
pub use route::{Authorities, Proxy};
pub use setting::{SETTINGS, Setting};
pub use value::{MOST_LEASE_SECONDS, MOST_PERSON_CHARS};

/// What a mount, or a command that works on one, is to use. Every path is absolute.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where objects are kept.
    pub backend: Backend,
    /// The local folder that is asked for what R2 lacks, or while it cannot be asked: present if
    /// and only if the backend is R2 and `FALLBACK_TO_LOCAL` is on.
    pub fallback_dir: Option<PathBuf>,
    /// The disposable directory of cached object versions.
    pub cache_dir: PathBuf,
    /// How long a cached version counts as current without being asked for again.
    pub cache_ttl: Duration,
    /// The most bytes the cache may hold; without it the cache decides from the size of its disk.
    pub cache_max_bytes: Option<u64>,
    /// The bytes that the cache leaves free on its disk.
    pub cache_min_free_bytes: u64,
    /// The most bytes that are brought for a project that is opened.
    pub warm_bytes: u64,
    /// The size in bytes above which the cache raises an alert.
    pub alert_cache_bytes: u64,
    /// The precious directory: staged files, journal, lock and control socket.
    pub staging_dir: PathBuf,
    /// The local sample library, shown as `samples/`.
    pub samples_dir: PathBuf,
    /// The catalog of the sample library.
    pub catalog_file: PathBuf,
    /// The quiet time after a close before the file is uploaded.
    pub write_back: Duration,
    /// The quiet time after which a snapshot of an open file is uploaded.
    pub snapshot_quiet: Duration,
    /// The longest that a change of an open file waits for a snapshot.
    pub snapshot_longest: Duration,
    /// How many files are uploaded at once.
    pub upload_concurrency: usize,
    /// The most bytes a second that all uploads together may send.
    pub upload_bytes_per_second: Option<u64>,
    /// How long uploads may go on once the mount is gone.
    pub drain: Duration,
    /// How long listings and attributes are trusted.
    pub list_ttl: Duration,
    /// How long one request to the store may take; for a transfer, counted from its last byte.
    pub request_deadline: Duration,
    /// The top folders that are kept in the bucket.
    pub collections: Vec<String>,
    /// The collections that keep what is deleted or overwritten in them.
    pub trash_collections: Vec<String>,
    /// How long they keep it.
    pub trash_age: Duration,
    /// More deletes of files within a minute than this wait until they are confirmed.
    pub delete_limit: Option<usize>,
    /// The names of files and folders that stay on this disk.
    pub local_names: NamePatterns,
    /// The names of files that are not expected to last.
    pub temporary_names: NamePatterns,
    /// How old such a file must be to be uploaded under its name.
    pub temporary_age: Duration,
    /// What is done about leases of projects.
    pub lease_mode: LeaseMode,
    /// What the people at this machine are called in its leases.
    pub lease_name: Option<String>,
    /// How long a lease counts without being renewed.
    pub lease_ttl: Duration,
    /// Whether clean complete files are read through kernel passthrough where it is possible.
    pub passthrough: bool,
    /// The file that a daemon logs to, in place of the system log.
    pub log_file: Option<PathBuf>,
    /// Where the metrics are offered over HTTP.
    pub metrics_addr: Option<SocketAddr>,
    /// The file that the metrics are written to, for a node exporter.
    pub metrics_file: Option<PathBuf>,
    /// The env file that was read, if there was one.
    pub env_file: Option<PathBuf>,
    /// What was accepted but deserves a word to the user at each mount.
    pub warnings: Vec<String>,
}

impl Config {
    /// Returns `bucket`, `bucket/prefix` or `local`: what SOURCE would name it.
    pub fn source(&self) -> String {
        match &self.backend {
            Backend::R2(r2) => format!("{}/{}", r2.bucket, r2.prefix)
                .trim_end_matches('/')
                .into(),
            Backend::Local { .. } => LOCAL_SOURCE.into(),
        }
    }
}

/// What is done about leases of projects.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum LeaseMode {
    /// Nothing: none is taken, nor looked at.
    #[default]
    Off,
    /// They are taken and told.
    Advise,
    /// As before, and what another machine has open cannot be changed here.
    ReadOnly,
}

/// The SOURCE of the embedded local store.
pub const LOCAL_SOURCE: &str = "local";

/// Where objects are kept.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "a process has few of them")]
pub enum Backend {
    /// A bucket of Cloudflare R2, or of another server that speaks its API.
    R2(R2Settings),
    /// The local folder that stands in for the bucket when `USE_R2_STORAGE` is off.
    Local {
        /// The folder (`OUTPUT_DIR`).
        output_dir: PathBuf,
    },
}

impl Default for Backend {
    fn default() -> Self {
        Backend::Local {
            output_dir: PathBuf::new(),
        }
    }
}

/// How to reach a bucket.
#[derive(Debug, Clone, Default)]
pub struct R2Settings {
    /// The URL of the S3 API, without the bucket; with a trailing slash if it has a path.
    pub endpoint: String,
    /// The name of the bucket.
    pub bucket: String,
    /// The part of the bucket that is mounted: empty, or `a/b/`.
    pub prefix: String,
    /// What the requests are signed with, as it was when the settings were read.
    pub credentials: Credentials,
    /// Where the credentials stand that count from then on, if they are in a file of their own.
    pub credentials_file: Option<CredentialsFile>,
    /// The proxy that requests go through; none for an endpoint on this machine itself.
    pub proxy: Option<Proxy>,
    /// Whose certificates are trusted beside those of this machine.
    pub authorities: Option<Authorities>,
}

/// A text that is never printed.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Wraps `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// Returns the text itself, for signing only.
    pub fn expose(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

impl fmt::Display for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}
