//! The table of settings: names, defaults, and the words that messages use for them.

/// One setting, as users know it.
#[derive(Debug)]
pub struct Setting {
    /// The name in env files and in the environment; the mount option is the same in lower case.
    pub name: &'static str,
    /// The value that is used when nobody gives one.
    pub default: Option<&'static str>,
    /// What it may be, to follow "must be".
    pub expected: &'static str,
    /// A value that would be right.
    pub example: &'static str,
    /// Whether the value must never be shown, nor be given as a mount option, where every user of
    /// the machine sees it.
    pub secret: bool,
}

impl Setting {
    /// Returns the setting of that name, in upper case.
    pub fn find(name: &str) -> Option<&'static Setting> {
        SETTINGS.iter().find(|setting| setting.name == name)
    }

    /// Returns a line for an env file that would be right.
    pub fn example_line(&self) -> String {
        format!("{}={}", self.name, self.example)
    }
}

const fn setting(
    name: &'static str,
    default: Option<&'static str>,
    expected: &'static str,
    example: &'static str,
) -> Setting {
    Setting {
        name,
        default,
        expected,
        example,
        secret: false,
    }
}

/// The access key id is treated as a secret too: people paste the secret in its place.
const fn secret(name: &'static str, expected: &'static str, example: &'static str) -> Setting {
    Setting {
        name,
        default: None,
        expected,
        example,
        secret: true,
    }
}

const SWITCH: &str = "true or false";
const FOLDER: &str = "the path of a folder";
const NAMES: &str = "patterns of file names, separated by commas, or \"none\"";
const NAMES_AND_FOLDERS: &str = "patterns of file names, or with a / at the end of folder names, separated by commas, or \"none\"";
/// What programs and systems make for themselves on each machine and can make anew: peaks of Reaper,
/// Ableton Live and Ardour, and what desktops leave in every folder. What FUSE and NFS make of files that
/// are removed while they are open must never be seen by others.
const LOCAL_NAMES: &str = "*.reapeaks,*.asd,*.peak,._*,.DS_Store,.Spotlight-V100/,.Trashes/,.fseventsd/,\
     .TemporaryItems/,Thumbs.db,desktop.ini,.directory,.nfs????*,.fuse_hidden*";
/// What programs write before they rename it into place, or remove it: GLib, rsync, editors, LibreOffice,
/// browsers, Audacity.
const TEMPORARY_NAMES: &str = "*.tmp,*.temp,*.part,*.partial,*.crdownload,.goutputstream-*,.*.??????,\
     .~lock.*#,*.swp,*.swx,4913,*~,*_compact_temp,*_compact_back";
const SIZE: &str = "a size in bytes, or with KB, MB, GB, TB (powers of 1000) or KiB, MiB, GiB, TiB";

/// Every setting of a mount.
pub const SETTINGS: &[Setting] = &[
    setting(
        "R2_ACCOUNT_ID",
        None,
        "the account's 32 hexadecimal digits (dashboard, R2, Overview)",
        "0123456789abcdef0123456789abcdef",
    ),
    secret(
        "R2_ACCESS_KEY_ID",
        "the Access Key ID of an R2 token",
        "<32 hexadecimal digits>",
    ),
    secret(
        "R2_SECRET_ACCESS_KEY",
        "the Secret Access Key of the same R2 token",
        "<64 hexadecimal digits>",
    ),
    secret(
        "R2_SESSION_TOKEN",
        "the session token of temporary credentials, in one line",
        "<token>",
    ),
    setting(
        "R2_CREDENTIALS_FILE",
        None,
        "the path of a file with R2_ACCESS_KEY_ID, R2_SECRET_ACCESS_KEY and R2_SESSION_TOKEN",
        "/etc/voicebeatfs.credentials",
    ),
    setting(
        "R2_BUCKET_NAME",
        None,
        "a bucket name: 3 to 63 lower-case letters, digits and hyphens",
        "voicebeat-audio",
    ),
    setting(
        "R2_ENDPOINT_URL",
        None,
        "an https URL (http only for this machine itself) without user, query or fragment",
        "https://<account id>.r2.cloudflarestorage.com",
    ),
    setting(
        "R2_JURISDICTION",
        Some("default"),
        "default, eu or fedramp",
        "eu",
    ),
    // Its URL may have a password in it.
    secret(
        "HTTPS_PROXY",
        "the URL of a proxy for HTTP: http://HOST:PORT or https://HOST:PORT, perhaps with USER:PASSWORD@",
        "http://proxy.example:3128",
    ),
    setting(
        "NO_PROXY",
        None,
        "host names, domains and addresses, separated by commas, or *",
        "localhost,.example.com",
    ),
    setting(
        "R2_CA_FILE",
        None,
        "the path of a file with certificates (PEM)",
        "/etc/ssl/studio-ca.pem",
    ),
    setting("USE_R2_STORAGE", Some("true"), SWITCH, "true"),
    setting("FALLBACK_TO_LOCAL", Some("true"), SWITCH, "true"),
    setting("CACHE_DIR", Some("cache"), FOLDER, "cache"),
    setting(
        "CACHE_TTL_HOURS",
        Some("24"),
        "a number of hours above 0 and at most 87600, also fractional",
        "24",
    ),
    setting("CACHE_MAX_BYTES", None, SIZE, "50GiB"),
    setting("CACHE_MIN_FREE_BYTES", Some("1GiB"), SIZE, "1GiB"),
    setting("WARM_MAX_BYTES", Some("10GB"), SIZE, "10GB"),
    setting("ALERT_CACHE_BYTES", Some("5GB"), SIZE, "5GB"),
    setting("STAGING_DIR", Some("staging"), FOLDER, "staging"),
    setting("OUTPUT_DIR", Some("output"), FOLDER, "output"),
    setting("SAMPLES_DIR", Some("samples"), FOLDER, "samples"),
    setting(
        "CATALOG_FILE",
        Some("catalog/samples.json"),
        "a path",
        "catalog/samples.json",
    ),
    setting(
        "WRITE_BACK_SECONDS",
        Some("2"),
        "a number of seconds from 0 to 3600, also fractional",
        "2",
    ),
    setting(
        "SNAPSHOT_QUIET_SECONDS",
        Some("30"),
        "a number of seconds above 0 and at most 86400, also fractional",
        "30",
    ),
    setting(
        "SNAPSHOT_SECONDS",
        Some("300"),
        "a number of seconds above 0 and at most 86400, also fractional",
        "300",
    ),
    setting(
        "UPLOAD_CONCURRENCY",
        Some("4"),
        "a whole number from 1 to 64",
        "4",
    ),
    setting(
        "UPLOAD_MAX_BYTES_PER_SECOND",
        Some("0"),
        "0 for no limit, or a size of at least 10KB (KB, MB: powers of 1000; KiB, MiB: of 1024)",
        "2MB",
    ),
    setting(
        "DRAIN_SECONDS",
        Some("45"),
        "a number of seconds from 0 to 86400, also fractional",
        "45",
    ),
    setting(
        "LIST_TTL_SECONDS",
        Some("30"),
        "a number of seconds from 0 to 86400, also fractional",
        "30",
    ),
    setting(
        "REQUEST_DEADLINE_SECONDS",
        Some("30"),
        "a number of seconds above 0 and at most 600, also fractional",
        "30",
    ),
    setting(
        "COLLECTIONS",
        Some("segments,layers,projects,rhythms,melodies"),
        "different folder names, separated by commas, without \"samples\" and hidden names",
        "segments,layers,projects",
    ),
    setting(
        "TRASH_COLLECTIONS",
        Some("projects"),
        "different folder names, separated by commas, or \"none\"",
        "projects",
    ),
    setting(
        "TRASH_DAYS",
        Some("30"),
        "a number of days above 0 and at most 3650, also fractional",
        "30",
    ),
    setting(
        "DELETE_LIMIT",
        Some("500"),
        "a whole number from 1 to 1000000, or \"none\"",
        "500",
    ),
    setting(
        "LOCAL_NAMES",
        Some(LOCAL_NAMES),
        NAMES_AND_FOLDERS,
        "._*,.DS_Store,.Trashes/,*.reapeaks",
    ),
    setting(
        "TEMPORARY_NAMES",
        Some(TEMPORARY_NAMES),
        NAMES,
        "*.tmp,.goutputstream-*",
    ),
    setting(
        "TEMPORARY_SECONDS",
        Some("30"),
        "a number of seconds from 0 to 86400, also fractional",
        "30",
    ),
    setting(
        "METRICS_ADDR",
        None,
        "a port on this machine itself, or an address with a port, which others may then reach",
        "9464",
    ),
    setting(
        "METRICS_FILE",
        None,
        "the path of a file that ends in .prom",
        "/var/lib/prometheus/node-exporter/voicebeatfs.prom",
    ),
    setting(
        "LEASE_MODE",
        Some("off"),
        "off, advise or read-only",
        "advise",
    ),
    setting(
        "LEASE_NAME",
        None,
        "a name of at most 64 characters, in one line",
        "Anna",
    ),
    setting(
        "LEASE_SECONDS",
        Some("180"),
        "a whole number of seconds from 3 to 3600",
        "180",
    ),
    setting("PASSTHROUGH", Some("true"), SWITCH, "true"),
    setting(
        "LOG_FILE",
        None,
        "the path of a file",
        "/var/log/voicebeatfs.log",
    ),
];
