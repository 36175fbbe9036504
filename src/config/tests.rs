//! Settings as a whole: which source wins, what goes together, what is said when it does not.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use super::*;

const ACCOUNT: &str = "0123456789abcdef0123456789abcdef";

/// A folder of its own to be the current one, and nothing from the process around the test.
struct Case {
    folder: tempfile::TempDir,
    inputs: Inputs,
}

impl Case {
    fn new(environment: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let current_dir = folder.path().canonicalize().unwrap();
        let inputs = Inputs {
            env_file: None,
            environment: environment
                .iter()
                .map(|(n, v)| (n.to_string(), v.into()))
                .collect(),
            options: Vec::new(),
            source: None,
            mountpoint: None,
            system_env_file: current_dir.join("etc/voicebeatfs.env"),
            current_dir,
            uid: rustix::process::geteuid().as_raw(),
        };
        Self { folder, inputs }
    }

    fn local(more: &[(&str, &str)]) -> Self {
        let mut case = Self::new(more);
        case.inputs
            .environment
            .insert("USE_R2_STORAGE".into(), "false".into());
        case
    }

    fn r2(more: &[(&str, &str)]) -> Self {
        let mut case = Self::new(&[
            ("R2_ACCOUNT_ID", ACCOUNT),
            ("R2_ACCESS_KEY_ID", "key"),
            ("R2_SECRET_ACCESS_KEY", "hunter2"),
            ("R2_BUCKET_NAME", "voicebeat-audio"),
        ]);
        case.set(more);
        case
    }

    fn set(&mut self, more: &[(&str, &str)]) {
        for (name, value) in more {
            self.inputs
                .environment
                .insert(name.to_string(), value.into());
        }
    }

    fn unset(mut self, name: &str) -> Self {
        self.inputs.environment.remove(name);
        self
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.inputs.current_dir.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
    }

    fn source(mut self, source: &str) -> Self {
        self.inputs.source = Some(source.into());
        self
    }

    fn mountpoint(mut self, path: &str) -> Self {
        self.inputs.mountpoint = Some(path.into());
        self
    }

    fn option(mut self, name: &str, value: &str) -> Self {
        self.inputs.options.push((name.into(), value.into()));
        self
    }

    fn load(&self) -> Config {
        Config::load(&self.inputs).unwrap()
    }

    fn r2_settings(&self) -> R2Settings {
        match self.load().backend {
            Backend::R2(settings) => settings,
            Backend::Local { .. } => panic!("the backend is local"),
        }
    }

    fn error(&self) -> String {
        Config::load(&self.inputs).unwrap_err().to_string()
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().canonicalize().unwrap().join(name)
    }
}

#[test]
fn a_proxy_is_for_hosts_elsewhere_and_upper_case_counts() {
    let lower = ("https_proxy", "http://lower:3128");
    let proxy = |case: Case| case.r2_settings().proxy.map(|proxy| proxy.url);
    assert_eq!(
        proxy(Case::r2(&[lower])),
        Some(Secret::new("http://lower:3128"))
    );
    let both = Case::r2(&[lower, ("HTTPS_PROXY", "http://upper:3128")]);
    assert_eq!(proxy(both), Some(Secret::new("http://upper:3128")));
    let here = Case::r2(&[lower, ("R2_ENDPOINT_URL", "http://127.0.0.1:9000")]);
    assert_eq!(proxy(here), None);
    let wrong = Case::r2(&[("HTTPS_PROXY", "http://u:hunter2@proxy/path")]).error();
    assert!(
        wrong.contains("HTTPS_PROXY") && !wrong.contains("hunter2"),
        "{wrong}"
    );
}

#[test]
fn the_defaults_are_those_of_the_documents() {
    let case = Case::local(&[]);
    let config = case.load();
    assert!(
        matches!(&config.backend, Backend::Local { output_dir } if *output_dir == case.path("output"))
    );
    assert_eq!(config.source(), "local");
    assert_eq!(config.fallback_dir, None);
    assert_eq!(config.cache_dir, case.path("cache"));
    assert_eq!(config.staging_dir, case.path("staging"));
    assert_eq!(config.samples_dir, case.path("samples"));
    assert_eq!(config.catalog_file, case.path("catalog/samples.json"));
    assert_eq!(config.cache_ttl, Duration::from_secs(24 * 3600));
    assert_eq!(config.cache_max_bytes, None);
    assert_eq!(config.alert_cache_bytes, 5_000_000_000);
    assert_eq!(config.write_back, Duration::from_secs(2));
    assert_eq!(config.list_ttl, Duration::from_secs(30));
    assert_eq!(config.request_deadline, Duration::from_secs(30));
    assert_eq!(
        config.collections,
        ["segments", "layers", "projects", "rhythms", "melodies"]
    );
    assert!(config.passthrough && config.log_file.is_none() && config.warnings.is_empty());
}

#[test]
fn every_default_and_example_can_be_read() {
    // With all settings at their examples at once, only the placeholders of secrets are wrong.
    for setting in SETTINGS.iter().filter(|setting| !setting.secret) {
        let case = Case::r2(&[(setting.name, setting.example)]);
        let case = match setting.name {
            // The others name files that this machine need not have.
            "R2_ENDPOINT_URL" | "R2_CREDENTIALS_FILE" | "R2_CA_FILE" => continue,
            _ => case,
        };
        Config::load(&case.inputs).unwrap_or_else(|error| panic!("{}: {error}", setting.name));
    }
}

#[test]
fn env_file_environment_and_options_in_rising_order() {
    let mut case = Case::local(&[]);
    case.write(
        ".env",
        "CACHE_TTL_HOURS=1\nWRITE_BACK_SECONDS=1\nLIST_TTL_SECONDS=1\n",
    );
    case.set(&[("WRITE_BACK_SECONDS", "2.5"), ("LIST_TTL_SECONDS", "2")]);
    let config = case.option("list_ttl_seconds", "3").load();
    assert_eq!(config.cache_ttl, Duration::from_secs(3600));
    assert_eq!(config.write_back, Duration::from_millis(2500));
    assert_eq!(config.list_ttl, Duration::from_secs(3));
}

#[test]
fn an_empty_value_is_as_if_it_were_not_there() {
    let case = Case::local(&[("CACHE_TTL_HOURS", ""), ("LOG_FILE", " ")]);
    case.write(".env", "CACHE_TTL_HOURS=2\n");
    assert_eq!(case.load().cache_ttl, Duration::from_secs(7200));
    assert_eq!(case.load().log_file, None);
}

#[test]
fn the_env_file_of_the_machine_serves_when_the_folder_has_none() {
    let mut case = Case::new(&[]);
    case.write(
        "etc/voicebeatfs.env",
        "USE_R2_STORAGE=false\nLOG_FILE=log\n",
    );
    let config = case.load();
    assert_eq!(config.log_file, Some(case.path("etc/log")));
    assert_eq!(config.cache_dir, Path::new("/var/cache/voicebeatfs/local"));
    assert_eq!(config.staging_dir, Path::new("/var/lib/voicebeatfs/local"));
    case.write(".env", "USE_R2_STORAGE=false\n");
    assert_eq!(case.load().log_file, None);
    case.inputs.env_file = Some("etc/voicebeatfs.env".into());
    assert_eq!(case.load().log_file, Some(case.path("etc/log")));
    case.inputs.env_file = Some("missing.env".into());
    assert!(case.error().contains("missing.env does not exist"));
}

#[test]
fn directories_do_not_count_from_where_systemd_hands_the_settings_over() {
    let mut case = Case::local(&[]);
    case.write("credentials/voicebeatfs.env", "LIST_TTL_SECONDS=7\n");
    case.inputs.env_file = Some("credentials/voicebeatfs.env".into());
    assert_eq!(case.load().cache_dir, case.path("credentials/cache"));
    let folder = case.path("credentials");
    case.set(&[("CREDENTIALS_DIRECTORY", folder.to_str().unwrap())]);
    let config = case.load();
    assert_eq!(config.cache_dir, Path::new("/var/cache/voicebeatfs/local"));
    assert_eq!(config.env_file, Some(folder.join("voicebeatfs.env")));
}

#[test]
fn a_folder_called_env_is_no_env_file() {
    let case = Case::local(&[]);
    fs::create_dir(case.path(".env")).unwrap();
    case.load();
}

#[test]
fn what_others_may_read_is_warned_about_and_a_secret_or_what_they_may_write_is_refused() {
    let case = Case::local(&[]);
    case.write(".env", "");
    fs::set_permissions(case.path(".env"), fs::Permissions::from_mode(0o644)).unwrap();
    assert!(case.load().warnings[0].contains("may be read by others"));
    for (line, refused) in [
        ("R2_SECRET_ACCESS_KEY=\n", false),
        (
            "R2_BUCKET_NAME=a\nexport R2_SECRET_ACCESS_KEY='canary'\n",
            true,
        ),
        ("R2_SESSION_TOKEN=canary\n", true),
    ] {
        fs::write(case.path(".env"), line).unwrap();
        match refused {
            true => {
                let error = case.error();
                assert!(
                    error.contains("chmod 600") && !error.contains("canary"),
                    "{error}"
                );
            }
            false => drop(case.load()),
        }
    }
    fs::set_permissions(case.path(".env"), fs::Permissions::from_mode(0o666)).unwrap();
    assert!(case.error().contains("may be written by others"));
}

#[test]
fn relative_paths_count_from_where_they_were_written() {
    let mut case = Case::local(&[("STAGING_DIR", "s"), ("SAMPLES_DIR", "/abs/samples")]);
    case.write("conf/my.env", "CACHE_DIR=../c\n");
    case.inputs.env_file = Some("conf/my.env".into());
    let config = case.load();
    assert_eq!(config.cache_dir, case.path("c"));
    assert_eq!(config.staging_dir, case.path("s"));
    assert_eq!(config.samples_dir, Path::new("/abs/samples"));
    assert_eq!(config.catalog_file, case.path("conf/catalog/samples.json"));
    case.set(&[("STAGING_DIR", "~/s")]);
    assert!(case.error().contains("not expanded"));
}

#[test]
fn everything_wrong_is_said_at_once_with_name_value_origin_and_example() {
    let mut case = Case::local(&[("UPLOAD_CONCURRENCY", "many"), ("PASSTHROUGH", "maybe")]);
    case.write(".env", "# first\nCACHE_TTL_HOURS=-3\nnonsense\n");
    case = case.option("cache_max_bytes", "5 apples");
    let error = case.error();
    let lines: Vec<&str> = error.lines().collect();
    assert_eq!(lines.len(), 5, "{error}");
    let env = case.path(".env");
    let ttl = format!(
        "CACHE_TTL_HOURS is \"-3\" ({}:2): must be a number of hours above 0 and at most 87600, \
         also fractional; example: CACHE_TTL_HOURS=24",
        env.display()
    );
    assert!(lines.contains(&ttl.as_str()), "{error}");
    assert!(error.contains(&format!("{}:3: this line is not NAME=value", env.display())));
    assert!(error.contains("UPLOAD_CONCURRENCY is \"many\" (environment): must be a whole number"));
    assert!(error.contains("CACHE_MAX_BYTES is \"5 apples\" (mount option): must be a size"));
    assert!(error.contains("PASSTHROUGH is \"maybe\" (environment): must be true or false"));
}

#[test]
fn r2_without_its_settings_is_an_error_that_names_them_all() {
    let error = Case::new(&[]).error();
    for name in [
        "R2_ACCOUNT_ID",
        "R2_ACCESS_KEY_ID",
        "R2_SECRET_ACCESS_KEY",
        "R2_BUCKET_NAME",
    ] {
        assert!(error.contains(&format!("{name} is not set")), "{error}");
    }
    assert!(error.contains("USE_R2_STORAGE=false"));
    assert_eq!(error.lines().count(), 5);
}

#[test]
fn r2_settings_make_an_endpoint() {
    let r2 = Case::r2(&[]).r2_settings();
    assert_eq!(
        r2.endpoint,
        format!("https://{ACCOUNT}.r2.cloudflarestorage.com")
    );
    assert_eq!(
        (r2.bucket.as_str(), r2.prefix.as_str()),
        ("voicebeat-audio", "")
    );
    assert_eq!(r2.credentials.secret_access_key.expose(), "hunter2");
    let r2 = Case::r2(&[("R2_JURISDICTION", "eu")]).r2_settings();
    assert_eq!(
        r2.endpoint,
        format!("https://{ACCOUNT}.eu.r2.cloudflarestorage.com")
    );
    let case = Case::r2(&[("R2_ENDPOINT_URL", "http://127.0.0.1:9")]).unset("R2_ACCOUNT_ID");
    assert_eq!(case.r2_settings().endpoint, "http://127.0.0.1:9");
    assert_eq!(case.load().fallback_dir, Some(case.path("output")));
    let case = Case::r2(&[("FALLBACK_TO_LOCAL", "off")]);
    assert_eq!(case.load().fallback_dir, None);
}

#[test]
fn the_bucket_may_come_from_a_pasted_url_and_must_not_disagree() {
    let url = "https://x.r2.cloudflarestorage.com/from-url";
    let case = Case::r2(&[("R2_ENDPOINT_URL", url)]).unset("R2_BUCKET_NAME");
    let r2 = case.r2_settings();
    assert_eq!(r2.bucket, "from-url");
    assert_eq!(r2.endpoint, "https://x.r2.cloudflarestorage.com");
    assert!(
        Case::r2(&[("R2_ENDPOINT_URL", url)])
            .error()
            .contains("ends in the bucket")
    );
    let deep = format!("{url}/deeper");
    assert!(
        Case::r2(&[("R2_ENDPOINT_URL", &deep)])
            .error()
            .contains("must end after the host")
    );
}

#[test]
fn plain_http_to_another_machine_is_refused() {
    let error = Case::r2(&[("R2_ENDPOINT_URL", "http://example.com")]).error();
    assert!(error.contains("must begin with https://"), "{error}");
    assert_eq!(error.lines().count(), 1, "{error}");
}

#[test]
fn source_names_the_bucket_and_the_prefix() {
    let case = Case::r2(&[])
        .unset("R2_BUCKET_NAME")
        .source("my-bucket/band/live/");
    let r2 = case.r2_settings();
    assert_eq!(
        (r2.bucket.as_str(), r2.prefix.as_str()),
        ("my-bucket", "band/live/")
    );
    let config = case.load();
    assert_eq!(config.source(), "my-bucket/band/live");
    assert_eq!(
        config.cache_dir,
        Path::new("/var/cache/voicebeatfs/my-bucket+band+live")
    );
    let config = Case::r2(&[]).source("voicebeat-audio").load();
    assert_eq!(
        config.staging_dir,
        Path::new("/var/lib/voicebeatfs/voicebeat-audio")
    );
    let case = Case::r2(&[("CACHE_DIR", "c")]).source("voicebeat-audio");
    assert_eq!(case.load().cache_dir, case.path("c"));
}

#[test]
fn a_source_that_does_not_fit_is_refused() {
    let error = Case::r2(&[]).source("other-bucket").error();
    assert!(error.contains("\"other-bucket\"") && error.contains("\"voicebeat-audio\""));
    assert!(
        Case::r2(&[])
            .source("Bad_Bucket")
            .error()
            .contains("SOURCE is \"Bad_Bucket\"")
    );
    assert!(
        Case::local(&[])
            .source("voicebeat-audio")
            .error()
            .contains("USE_R2_STORAGE is off")
    );
    assert!(
        Case::new(&[])
            .source("local")
            .error()
            .contains("USE_R2_STORAGE=false")
    );
    assert!(matches!(
        Case::local(&[]).source("local").load().backend,
        Backend::Local { .. }
    ));
}

#[test]
fn secrets_never_show() {
    let case = Case::r2(&[("R2_SESSION_TOKEN", "tok en-hunter2")]);
    let error = case.error();
    assert!(
        error.contains("R2_SESSION_TOKEN (environment, not shown)"),
        "{error}"
    );
    assert!(!error.contains("hunter2"));
    let swapped = "a".repeat(64);
    let error = Case::r2(&[("R2_ACCESS_KEY_ID", &swapped)]).error();
    assert!(error.contains("has 64 characters") && !error.contains(&swapped));
    assert!(!format!("{:?}", Case::r2(&[]).load()).contains("hunter2"));
    assert_eq!(Secret::new("x").to_string(), "***");
}

#[test]
fn directories_must_not_lie_in_one_another_or_beneath_the_mount() {
    let nested = [
        [("CACHE_DIR", "x"), ("STAGING_DIR", "x")],
        [("CACHE_DIR", "x"), ("STAGING_DIR", "x/y")],
        [("CACHE_DIR", "output/c"), ("STAGING_DIR", "y")],
        [("CACHE_DIR", "x"), ("SAMPLES_DIR", "x/samples")],
    ];
    for settings in nested {
        assert!(
            Case::local(&settings)
                .error()
                .contains("must not lie in one another")
        );
    }
    for (name, value) in [
        ("CACHE_DIR", "mnt/c"),
        ("CATALOG_FILE", "./mnt/c.json"),
        ("LOG_FILE", "mnt/log"),
    ] {
        let error = Case::local(&[(name, value)]).mountpoint("mnt").error();
        assert!(
            error.contains("beneath the mount point") && error.contains(name),
            "{error}"
        );
    }
    let error = Case::local(&[]).mountpoint("output/mnt").error();
    assert!(error.contains("lies beneath OUTPUT_DIR"), "{error}");
    Case::local(&[]).mountpoint("mnt").load();
}

#[test]
fn a_link_does_not_hide_that_a_directory_lies_beneath_the_mount() {
    let case = Case::local(&[("CACHE_DIR", "link/c")]).mountpoint("mnt");
    fs::create_dir(case.path("mnt")).unwrap();
    std::os::unix::fs::symlink("mnt", case.path("link")).unwrap();
    assert!(case.error().contains("beneath the mount point"));
}

#[test]
fn a_credentials_file_takes_the_place_of_all_credentials_given_elsewhere() {
    let case = Case::r2(&[
        ("R2_SESSION_TOKEN", "of-the-former-key"),
        ("R2_CREDENTIALS_FILE", "keys"),
    ]);
    case.write(
        "keys",
        "R2_ACCESS_KEY_ID=new-key\nR2_SECRET_ACCESS_KEY=new-secret\nR2_BUCKET_NAME=not-taken\n",
    );
    let r2 = case.r2_settings();
    let expected = Credentials {
        access_key_id: "new-key".into(),
        secret_access_key: Secret::new("new-secret"),
        session_token: None,
    };
    assert_eq!(r2.credentials, expected);
    assert_eq!(r2.bucket, "voicebeat-audio");
    let file = r2.credentials_file.unwrap();
    assert_eq!(file.path(), &case.path("keys"));
    assert_eq!(file.read(), Ok(expected));
    let shown = format!("{:?}", Effective::of(&case.inputs));
    assert!(
        !shown.contains("new-secret") && !shown.contains("new-key"),
        "{shown}"
    );
    let text = Effective::without_secrets(&case.inputs, "a new-secret told".into());
    assert_eq!(text, "a *** told");

    case.write(
        "keys",
        "R2_ACCESS_KEY_ID=a\nR2_SECRET_ACCESS_KEY=b\nR2_SESSION_TOKEN=c\n",
    );
    let renewed = file.read().unwrap();
    assert_eq!(renewed.session_token, Some(Secret::new("c")));
}

#[test]
fn a_credentials_file_that_cannot_be_used_is_named_and_never_quoted() {
    let case = Case::r2(&[("R2_CREDENTIALS_FILE", "keys")]);
    let file = CredentialsFile::new(case.path("keys"), case.inputs.uid);
    let keys = case.path("keys").display().to_string();
    for (text, mode, reason) in [
        (None, 0o600, "does not exist"),
        (Some("R2_ACCESS_KEY_ID=a\n"), 0o600, "R2_SECRET_ACCESS_KEY"),
        (Some("R2_ACCESS_KEY_ID=a\nhunter3\n"), 0o600, ":2: "),
        (
            Some("R2_ACCESS_KEY_ID=a\nR2_SECRET_ACCESS_KEY='hunter3 x'\n"),
            0o600,
            "has blanks",
        ),
        (
            Some("R2_ACCESS_KEY_ID=a\nR2_SECRET_ACCESS_KEY=hunter3\n"),
            0o620,
            "may be written by others",
        ),
    ] {
        if let Some(text) = text {
            case.write("keys", text);
            fs::set_permissions(&keys, fs::Permissions::from_mode(mode)).unwrap();
        }
        for told in [case.error(), file.read().unwrap_err()] {
            assert!(told.contains(reason), "{told}");
            assert!(!told.contains("hunter3"), "{told}");
        }
        assert!(file.read().unwrap_err().contains(&keys));
    }
    // Without a bucket nobody asks for it.
    let mut local = Case::local(&[("R2_CREDENTIALS_FILE", "nowhere")]);
    local.load();
    local.set(&[("USE_R2_STORAGE", "true")]);
    assert!(local.error().contains("nowhere does not exist"));
}

#[test]
fn a_credentials_file_that_everybody_may_read_is_refused() {
    let case = Case::r2(&[("R2_CREDENTIALS_FILE", "keys")]);
    case.write("keys", "R2_ACCESS_KEY_ID=a\nR2_SECRET_ACCESS_KEY=b\n");
    assert_eq!(case.load().warnings, [""; 0]);
    fs::set_permissions(case.path("keys"), fs::Permissions::from_mode(0o644)).unwrap();
    let error = case.error();
    assert!(
        error.contains("the credentials file") && error.contains("chmod 600"),
        "{error}"
    );
    fs::set_permissions(case.path("keys"), fs::Permissions::from_mode(0o640)).unwrap();
    let warnings = case.load().warnings;
    assert!(warnings[0].contains("the credentials file"), "{warnings:?}");
    assert!(warnings[0].contains("chmod 600"), "{warnings:?}");
    let case = case.mountpoint(".");
    assert!(
        case.error().contains("R2_CREDENTIALS_FILE"),
        "it would lie beneath the mount"
    );
}

#[test]
fn leases_are_off_and_in_the_name_of_the_user() {
    let config = Case::local(&[("USER", "anna")]).load();
    assert_eq!(config.lease_mode, LeaseMode::Off);
    assert_eq!(config.lease_ttl.as_secs(), 180);
    assert_eq!(config.lease_name.as_deref(), Some("anna"));
    assert_eq!(Case::local(&[("USER", "root")]).load().lease_name, None);
    assert_eq!(Case::local(&[]).load().lease_name, None);
    let named = Case::local(&[("LEASE_NAME", "Anna B"), ("LEASE_MODE", "read-only")]).load();
    assert_eq!(named.lease_name.as_deref(), Some("Anna B"));
    assert_eq!(named.lease_mode, LeaseMode::ReadOnly);
    let long = "x".repeat(65);
    for (name, value) in [
        ("LEASE_MODE", "yes"),
        ("LEASE_SECONDS", "2"),
        ("LEASE_SECONDS", "3601"),
        ("LEASE_NAME", &long),
    ] {
        assert!(Case::local(&[(name, value)]).error().contains(name));
    }
}
