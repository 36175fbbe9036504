//! From env file, environment and mount options to a [`Config`].

mod layout;

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use super::credentials::{self, CREDENTIALS, CredentialsFile};
use super::env_file::{self, OpenError};
use super::error::{ConfigError, Origin, Problem};
use super::path::resolve;
use super::r2::{self, Endpoint};
use super::route::{self, Authorities, Proxy};
use super::setting::Setting;
use super::value::{self, Invalid};
use super::{Backend, Config, Credentials, LOCAL_SOURCE, R2Settings};

/// The env file of a machine, read when the current folder has none.
pub const SYSTEM_ENV_FILE: &str = "/etc/voicebeatfs.env";

/// Where a mount set up by the administrator keeps what no setting names: disposable, precious,
/// and the site's own files.
const SYSTEM_CACHE: &str = "/var/cache/voicebeatfs";
const SYSTEM_STAGING: &str = "/var/lib/voicebeatfs";
const SYSTEM_FILES: &str = "/srv/voicebeat";

/// Everything a [`Config`] is made from. Nothing else is looked at.
#[derive(Debug, Clone)]
pub struct Inputs {
    /// The env file asked for by name, if one was: it must then exist.
    pub env_file: Option<PathBuf>,
    /// The environment.
    pub environment: BTreeMap<String, OsString>,
    /// The mount options that are settings, by their lower-case names.
    pub options: Vec<(String, String)>,
    /// The SOURCE argument of the mount(8) form.
    pub source: Option<String>,
    /// The mount point, if the command has one.
    pub mountpoint: Option<PathBuf>,
    /// What relative paths count from.
    pub current_dir: PathBuf,
    /// The env file of the machine.
    pub system_env_file: PathBuf,
    /// The user whose files are trusted beside root's.
    pub uid: u32,
}

impl Inputs {
    /// Takes environment, current folder and user from this process.
    pub fn from_process() -> Self {
        let environment = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value)))
            .collect();
        Self {
            env_file: None,
            environment,
            options: Vec::new(),
            source: None,
            mountpoint: None,
            current_dir: std::env::current_dir().unwrap_or_else(|_| "/".into()),
            system_env_file: SYSTEM_ENV_FILE.into(),
            uid: rustix::process::geteuid().as_raw(),
        }
    }
}

impl Config {
    /// Reads and checks all settings, or says everything that is wrong with them.
    pub fn load(inputs: &Inputs) -> Result<Config, ConfigError> {
        let mut reader = Reader::new(inputs);
        let use_r2 = reader.get("USE_R2_STORAGE", value::switch);
        let fallback = reader.get("FALLBACK_TO_LOCAL", value::switch);
        let (r2, store_name) = match use_r2 {
            true => {
                let r2 = reader.r2();
                let prefix = r2.prefix.trim_end_matches('/').replace('/', "+");
                let name = format!("{}+{prefix}", r2.bucket);
                (Some(r2), name.trim_end_matches('+').to_string())
            }
            false => {
                reader.check_local_source();
                (None, LOCAL_SOURCE.to_string())
            }
        };
        let output_dir = reader.path("OUTPUT_DIR", &format!("{SYSTEM_FILES}/output"));
        let config = Config {
            fallback_dir: (r2.is_some() && fallback).then(|| output_dir.clone()),
            backend: r2.map_or(Backend::Local { output_dir }, Backend::R2),
            cache_dir: reader.path("CACHE_DIR", &format!("{SYSTEM_CACHE}/{store_name}")),
            cache_ttl: reader.get("CACHE_TTL_HOURS", |text| {
                value::duration(text, 3600.0, false, 87600.0)
            }),
            cache_max_bytes: reader.optional("CACHE_MAX_BYTES", value::positive_size_bytes),
            cache_min_free_bytes: reader.get("CACHE_MIN_FREE_BYTES", value::size_bytes),
            warm_bytes: reader.get("WARM_MAX_BYTES", value::size_bytes),
            alert_cache_bytes: reader.get("ALERT_CACHE_BYTES", value::positive_size_bytes),
            staging_dir: reader.path("STAGING_DIR", &format!("{SYSTEM_STAGING}/{store_name}")),
            samples_dir: reader.path("SAMPLES_DIR", &format!("{SYSTEM_FILES}/samples")),
            catalog_file: reader.path(
                "CATALOG_FILE",
                &format!("{SYSTEM_FILES}/catalog/samples.json"),
            ),
            write_back: reader.get("WRITE_BACK_SECONDS", |text| {
                value::duration(text, 1.0, true, 3600.0)
            }),
            snapshot_quiet: reader.get("SNAPSHOT_QUIET_SECONDS", |text| {
                value::duration(text, 1.0, false, 86400.0)
            }),
            snapshot_longest: reader.get("SNAPSHOT_SECONDS", |text| {
                value::duration(text, 1.0, false, 86400.0)
            }),
            upload_concurrency: reader.get("UPLOAD_CONCURRENCY", |text| value::count(text, 1, 64)),
            upload_bytes_per_second: reader.get(
                "UPLOAD_MAX_BYTES_PER_SECOND",
                value::upload_bytes_per_second,
            ),
            drain: reader.get("DRAIN_SECONDS", |text| {
                value::duration(text, 1.0, true, 86400.0)
            }),
            list_ttl: reader.get("LIST_TTL_SECONDS", |text| {
                value::duration(text, 1.0, true, 86400.0)
            }),
            request_deadline: reader.get("REQUEST_DEADLINE_SECONDS", |text| {
                value::duration(text, 1.0, false, 600.0)
            }),
            collections: reader.get("COLLECTIONS", value::collections),
            trash_collections: reader.get("TRASH_COLLECTIONS", value::collections_or_none),
            trash_age: reader.get("TRASH_DAYS", |text| {
                value::duration(text, 86400.0, false, 3650.0)
            }),
            delete_limit: reader.get("DELETE_LIMIT", value::count_or_none),
            local_names: reader.get("LOCAL_NAMES", value::name_patterns),
            temporary_names: reader.get("TEMPORARY_NAMES", value::file_name_patterns),
            temporary_age: reader.get("TEMPORARY_SECONDS", |text| {
                value::duration(text, 1.0, true, 86400.0)
            }),
            lease_mode: reader.get("LEASE_MODE", value::lease_mode),
            lease_name: reader.lease_name(),
            lease_ttl: reader.get("LEASE_SECONDS", value::lease_ttl),
            passthrough: reader.get("PASSTHROUGH", value::switch),
            log_file: reader.optional_path("LOG_FILE"),
            metrics_addr: reader.metrics_addr(),
            metrics_file: reader.metrics_file(),
            env_file: reader.env_file.take(),
            warnings: std::mem::take(&mut reader.warnings),
        };
        reader.check_layout(&config);
        match reader.problems.is_empty() {
            true => Ok(config),
            false => Err(ConfigError {
                problems: reader.problems,
            }),
        }
    }
}

/// The text of a setting and where it was given.
#[derive(Debug, Clone)]
pub(super) struct Given {
    pub(super) text: String,
    pub(super) origin: Origin,
}

/// Reads one setting after the other. A wrong one leaves a problem behind and an empty value in
/// its place, so that one pass finds all problems; the values are dropped if there was any.
pub(super) struct Reader<'a> {
    inputs: &'a Inputs,
    given: HashMap<&'static str, Given>,
    /// The env file that was read, if there is one, and its folder.
    env_file: Option<PathBuf>,
    env_folder: Option<PathBuf>,
    /// Whether the administrator set this up: unnamed directories then lie in the system's places.
    system_layout: bool,
    /// The credentials file, and why it cannot be used.
    credentials_file: Option<CredentialsFile>,
    credentials_problem: Option<Problem>,
    problems: Vec<Problem>,
    warnings: Vec<String>,
}

impl<'a> Reader<'a> {
    pub(super) fn new(inputs: &'a Inputs) -> Self {
        let mut reader = Self {
            inputs,
            given: HashMap::new(),
            env_file: None,
            env_folder: None,
            system_layout: inputs.source.is_some(),
            credentials_file: None,
            credentials_problem: None,
            problems: Vec::new(),
            warnings: Vec::new(),
        };
        reader.take_env_file();
        reader.take_environment();
        for (name, value) in &inputs.options {
            reader.take(&name.to_ascii_uppercase(), value, Origin::MountOption);
        }
        reader.take_credentials_file();
        reader
    }

    /// Records a value over what lower layers said. An empty one is as if it were not there.
    fn take(&mut self, name: &str, text: &str, origin: Origin) {
        if let Some(setting) = Setting::find(name)
            && !text.trim().is_empty()
        {
            let text = text.trim().to_string();
            self.given.insert(setting.name, Given { text, origin });
        }
    }

    fn take_environment(&mut self) {
        let inputs = self.inputs;
        // Many set these in lower case; the upper case counts, as with curl.
        for name in ["https_proxy", "no_proxy"] {
            let value = inputs.environment.get(name);
            if let Some(text) = value.and_then(|value| value.to_str()) {
                self.take(&name.to_ascii_uppercase(), text, Origin::Environment);
            }
        }
        for (name, value) in &inputs.environment {
            match (value.to_str(), Setting::find(name)) {
                (Some(text), Some(_)) => self.take(name, text, Origin::Environment),
                (None, Some(setting)) => {
                    let reason = Some("is not UTF-8".to_string());
                    let shown = value.to_string_lossy();
                    let origin = Origin::Environment;
                    self.problems
                        .push(Problem::invalid(setting, &shown, &origin, reason));
                }
                (_, None) => {}
            }
        }
    }

    fn take_env_file(&mut self) {
        let inputs = self.inputs;
        let candidates = match &inputs.env_file {
            Some(named) => vec![inputs.current_dir.join(named)],
            None => vec![
                inputs.current_dir.join(".env"),
                inputs.system_env_file.clone(),
            ],
        };
        for path in candidates {
            match env_file::read("the env file", &path, inputs.uid) {
                Ok(file) => {
                    self.warnings.extend(file.warning);
                    return self.take_assignments(&path, &file.text);
                }
                Err(OpenError::Absent(_)) if inputs.env_file.is_none() => {}
                Err(OpenError::Absent(text) | OpenError::Refused(text)) => {
                    return self.problems.push(Problem::EnvFile(text));
                }
            }
        }
    }

    /// Takes what the credentials file says in the place of all credentials given elsewhere: keys of
    /// two tokens do not go together.
    fn take_credentials_file(&mut self) {
        let Some(path) = self.optional_path("R2_CREDENTIALS_FILE") else {
            return;
        };
        let file = CredentialsFile::new(path, self.inputs.uid);
        match file.open() {
            Ok(opened) => {
                self.warnings.extend(opened.warning);
                self.given.retain(|name, _| !CREDENTIALS.contains(name));
                self.take_lines(file.path(), &opened.text, |name| {
                    CREDENTIALS.contains(&name)
                });
            }
            Err(text) => self.credentials_problem = Some(Problem::EnvFile(text)),
        }
        self.credentials_file = Some(file);
    }

    fn take_assignments(&mut self, path: &Path, text: &str) {
        let folder = path.parent().unwrap_or(Path::new("/"));
        self.env_folder = Some(resolve(folder, &self.inputs.current_dir));
        self.env_file = Some(resolve(path, &self.inputs.current_dir));
        self.system_layout |= path == self.inputs.system_env_file || self.is_credential(path);
        self.take_lines(path, text, |_| true);
    }

    fn take_lines(&mut self, path: &Path, text: &str, takes: impl Fn(&str) -> bool) {
        let (assignments, errors) = env_file::parse(text);
        for error in errors {
            let text = format!("{}:{}: {}", path.display(), error.line, error.reason);
            self.problems.push(Problem::EnvFile(text));
        }
        for found in assignments.into_iter().filter(|found| takes(&found.name)) {
            let origin = Origin::EnvFile {
                path: path.to_path_buf(),
                line: found.line,
            };
            self.take(&found.name, &found.value, origin);
        }
    }

    /// Whether systemd hands this file over (systemd.exec(5), `LoadCredential=`): its folder is no
    /// place for anything else.
    fn is_credential(&self, path: &Path) -> bool {
        let folder = self.inputs.environment.get("CREDENTIALS_DIRECTORY");
        folder.is_some_and(|folder| path.starts_with(folder))
    }

    /// Returns the setting, its text and where that came from, the default included.
    pub(super) fn text(&self, name: &str) -> (&'static Setting, Option<Given>) {
        let setting = Setting::find(name).expect("every setting that is read is in the table");
        let default = || {
            let text = setting.default?.to_string();
            Some(Given {
                text,
                origin: Origin::Default,
            })
        };
        (
            setting,
            self.given.get(setting.name).cloned().or_else(default),
        )
    }

    fn optional<T>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, Invalid>) -> Option<T> {
        let (setting, given) = self.text(name);
        let given = given?;
        match parse(&given.text) {
            Ok(value) => Some(value),
            Err(reason) => {
                let problem = Problem::invalid(setting, &given.text, &given.origin, reason);
                self.problems.push(problem);
                None
            }
        }
    }

    fn get<T: Default>(&mut self, name: &str, parse: impl Fn(&str) -> Result<T, Invalid>) -> T {
        self.optional(name, parse).unwrap_or_default()
    }

    fn required<T: Default>(
        &mut self,
        name: &str,
        parse: impl Fn(&str) -> Result<T, Invalid>,
    ) -> T {
        if let (setting, None) = self.text(name) {
            self.problems.push(Problem::missing(setting));
        }
        self.get(name, parse)
    }

    /// Reads a path, or takes `system` if nobody named one and the administrator set this up.
    fn path(&mut self, name: &str, system: &str) -> PathBuf {
        if self.system_layout && !self.given.contains_key(name) {
            return system.into();
        }
        self.optional_path(name).unwrap_or_default()
    }

    /// Reads a path. One from the env file, and a default, counts from the env file's folder.
    fn optional_path(&mut self, name: &str) -> Option<PathBuf> {
        let (_, given) = self.text(name);
        let current = self.inputs.current_dir.clone();
        let base = match given?.origin {
            Origin::EnvFile { .. } | Origin::Default => self.env_folder.clone().unwrap_or(current),
            Origin::Environment | Origin::MountOption | Origin::Source => current,
        };
        self.optional(name, |text| match text {
            _ if text.starts_with('~') => {
                Err(Some("\"~\" is not expanded here: write it out".into()))
            }
            _ if text.contains('\0') => Err(Some("must not have a NUL in it".into())),
            _ => Ok(resolve(Path::new(text), &base)),
        })
    }

    /// Reads what the people here are called: without a setting as the user who mounts, who is somebody
    /// but for root.
    fn lease_name(&mut self) -> Option<String> {
        let user = self.inputs.environment.get("USER");
        let user = user.and_then(|user| user.to_str()).map(str::to_owned);
        let named = self.optional("LEASE_NAME", value::person);
        named.or(user.filter(|user| user != "root" && value::person(user).is_ok()))
    }

    /// Reads where the metrics are offered, and warns if that is to more than this machine.
    fn metrics_addr(&mut self) -> Option<SocketAddr> {
        let address = self.optional("METRICS_ADDR", value::listen_address)?;
        if !address.ip().is_loopback() {
            self.warnings.push(format!(
                "METRICS_ADDR is {address}: whoever reaches this machine there can read the metrics, \
                 which name the bucket and the mount point"
            ));
        }
        Some(address)
    }

    /// Reads a path that a node exporter would read.
    fn metrics_file(&mut self) -> Option<PathBuf> {
        let path = self.optional_path("METRICS_FILE")?;
        if path.extension().is_none_or(|extension| extension != "prom") {
            let (setting, given) = self.text("METRICS_FILE");
            let given = given?;
            let problem = Problem::invalid(setting, &given.text, &given.origin, None);
            self.problems.push(problem);
        }
        Some(path)
    }

    fn r2(&mut self) -> R2Settings {
        if self.inputs.source.as_deref() == Some(LOCAL_SOURCE) && !self.has_bucket() {
            self.conflict(
                "SOURCE is \"local\", the embedded local store, but USE_R2_STORAGE is on: set \
                 USE_R2_STORAGE=false",
            );
            return R2Settings::default();
        }
        let problems_before = self.problems.len();
        let credentials_problem = self.credentials_problem.take();
        let has_credentials = credentials_problem.is_none();
        self.problems.extend(credentials_problem);
        let mut endpoint = self.optional("R2_ENDPOINT_URL", Endpoint::parse);
        let (bucket, prefix) = self.bucket(endpoint.as_mut());
        let settings = R2Settings {
            endpoint: match &endpoint {
                Some(endpoint) => {
                    self.check_endpoint(endpoint);
                    endpoint.url()
                }
                None if self.given.contains_key("R2_ENDPOINT_URL") => String::new(),
                None => {
                    let account = self.required("R2_ACCOUNT_ID", r2::account);
                    let jurisdiction = self.get("R2_JURISDICTION", r2::jurisdiction);
                    r2::account_endpoint(&account, &jurisdiction)
                }
            },
            bucket,
            prefix,
            credentials: match has_credentials {
                true => self.credentials(),
                false => Credentials::default(),
            },
            credentials_file: self.credentials_file.take(),
            proxy: self.proxy(endpoint.as_ref()),
            authorities: self.authorities(),
        };
        let nothing_given = !self.given.keys().any(|name| name.starts_with("R2_"));
        if self.problems.len() > problems_before && nothing_given {
            self.conflict(
                "to work without a bucket, on the local folder OUTPUT_DIR, set USE_R2_STORAGE=false",
            );
        }
        settings
    }

    fn proxy(&mut self, endpoint: Option<&Endpoint>) -> Option<Proxy> {
        let url = self.optional("HTTPS_PROXY", route::proxy_url);
        let not_for = self.get("NO_PROXY", route::hosts);
        let is_here = endpoint.is_some_and(|endpoint| endpoint.is_here);
        url.filter(|_| !is_here).map(|url| Proxy { url, not_for })
    }

    fn authorities(&mut self) -> Option<Authorities> {
        let path = self.optional_path("R2_CA_FILE")?;
        Authorities::read(path, self.inputs.uid)
            .map_err(|text| self.problems.push(Problem::EnvFile(text)))
            .ok()
    }

    fn credentials(&mut self) -> Credentials {
        Credentials {
            access_key_id: self.required("R2_ACCESS_KEY_ID", credentials::access_key),
            secret_access_key: self.required("R2_SECRET_ACCESS_KEY", credentials::secret),
            session_token: self.optional("R2_SESSION_TOKEN", credentials::secret),
        }
    }

    fn has_bucket(&self) -> bool {
        self.given.contains_key("R2_BUCKET_NAME")
    }

    /// Returns bucket and prefix, on which SOURCE, `R2_BUCKET_NAME` and a bucket at the end of the
    /// endpoint have to agree.
    fn bucket(&mut self, endpoint: Option<&mut Endpoint>) -> (String, String) {
        let named = self.optional("R2_BUCKET_NAME", r2::bucket);
        let source = self.inputs.source.as_deref().and_then(|text| {
            let read = r2::source(text);
            read.map_err(|reason| {
                let shown = text.escape_debug();
                self.conflict(&format!(
                    "SOURCE is \"{shown}\": {reason}; example: voicebeat-audio/band"
                ));
            })
            .ok()
        });
        let source_bucket = source.as_ref().map(|(bucket, _)| bucket.clone());
        let prefix = source.map(|(_, prefix)| prefix).unwrap_or_default();
        let known = source_bucket.clone().or(named.clone());
        let taken = endpoint.and_then(|endpoint| endpoint.take_bucket(known.as_deref()));
        if let (Some(source), Some(named)) = (&source_bucket, &named)
            && source != named
        {
            self.conflict(&format!(
                "SOURCE names the bucket \"{source}\", but R2_BUCKET_NAME ({}) is \"{named}\": \
                 give the same one, or only one of the two",
                self.given["R2_BUCKET_NAME"].origin
            ));
        }
        if let (Some(taken), Some(known)) = (&taken, &known)
            && taken != known
        {
            self.conflict(&format!(
                "R2_ENDPOINT_URL ({}) ends in the bucket \"{taken}\", but the bucket to mount is \
                 \"{known}\": leave the bucket out of the URL, or make them the same",
                self.given["R2_ENDPOINT_URL"].origin
            ));
        }
        let taken = taken.and_then(|name| r2::bucket(&name).ok());
        match known.or(taken) {
            Some(bucket) => (bucket, prefix),
            None => {
                if self.inputs.source.is_none() && !self.has_bucket() {
                    self.required("R2_BUCKET_NAME", r2::bucket);
                }
                Default::default()
            }
        }
    }

    fn check_endpoint(&mut self, endpoint: &Endpoint) {
        if endpoint.is_r2 && !endpoint.segments.is_empty() {
            let (setting, given) = self.text("R2_ENDPOINT_URL");
            if let Some(given) = given {
                let reason = Some("must end after the host name: R2 has no path there".to_string());
                let problem = Problem::invalid(setting, &given.text, &given.origin, reason);
                self.problems.push(problem);
            }
        }
        if self.given.contains_key("R2_JURISDICTION") {
            self.warnings
                .push("R2_JURISDICTION has no effect beside R2_ENDPOINT_URL".into());
        }
    }

    fn check_local_source(&mut self) {
        if let Some(source) = self
            .inputs
            .source
            .as_deref()
            .filter(|&name| name != LOCAL_SOURCE)
        {
            self.conflict(&format!(
                "SOURCE is \"{}\", but USE_R2_STORAGE is off: the embedded local store is mounted \
                 as SOURCE \"local\"",
                source.escape_debug()
            ));
        }
    }

    fn conflict(&mut self, text: &str) {
        self.problems.push(Problem::Conflict(text.into()));
    }
}
