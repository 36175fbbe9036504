//! What comes from outside is damaged in any way: settings, mount options, the control protocol, list
//! responses, names, catalogs, project files. Nothing may panic or hang, and what is understood has to
//! be right.
//!
//! `scripts/soak fuzz` runs each for FUZZ_SECONDS; the seed is PROPTEST_RNG_SEED.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io::{Cursor, Read, Write};
use std::net::TcpListener;
use std::os::unix::ffi::OsStringExt;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_trait::async_trait;
use flate2::write::GzEncoder;
use parking_lot::Mutex;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config as Cases, TestRunner};
use tokio::runtime::Runtime;
use tokio::sync::Notify;
use voicebeatfs::catalog::{self, Catalog};
use voicebeatfs::config::{
    Config, Credentials, Inputs, MountOptions, R2Settings, SETTINGS, Secret,
};
use voicebeatfs::control::{MountIdentity, Refusal, Report, SOCKET_NAME, StatusSource, server};
use voicebeatfs::project::{self, Format};
use voicebeatfs::store::lease::Lease;
use voicebeatfs::store::r2::{R2Store, R2Timeouts};
use voicebeatfs::store::{Key, ListRequest, MAX_KEY_BYTES, ObjectStore};

/// How long one answer may take; a machine that is busy with other tests is slow.
const PATIENCE: Duration = Duration::from_secs(60);

/// Checks a property on so many made-up values, and on more until FUZZ_SECONDS are over.
fn fuzz<S: Strategy>(cases: u32, strategy: &S, check: impl Fn(S::Value)) {
    let seconds = std::env::var("FUZZ_SECONDS").map_or(0, |text| text.parse().unwrap());
    let end = Instant::now() + Duration::from_secs(seconds);
    let config = Cases {
        cases,
        failure_persistence: None,
        ..Cases::default()
    };
    let mut runner = TestRunner::new(config.clone());
    let mut rounds = 0;
    while rounds == 0 || Instant::now() < end {
        // A runner that has had its cases runs no more.
        let random = runner.new_rng();
        runner = TestRunner::new_with_rng(config.clone(), random);
        let ran = runner.run(strategy, |value| {
            check(value);
            Ok(())
        });
        if let Err(error) = ran {
            panic!("{error}");
        }
        rounds += 1;
    }
    println!("figures: {} values", rounds * u64::from(cases));
}

/// Returns documents that were right and have been cut, filled and mixed up, or are nothing at all.
fn damaged(documents: &'static [&'static str]) -> impl Strategy<Value = Vec<u8>> {
    let change = (
        any::<prop::sample::Index>(),
        0..40_usize,
        vec(any::<u8>(), 0..12),
    );
    let changed = (select(documents), vec(change, 0..6)).prop_map(|(document, changes)| {
        let mut bytes = document.as_bytes().to_vec();
        for (at, length, with) in changes {
            let at = at.index(bytes.len() + 1);
            let end = (at + length).min(bytes.len());
            bytes.splice(at..end, with);
        }
        bytes
    });
    prop_oneof![4 => changed, 1 => vec(any::<u8>(), 0..300)]
}

fn inputs(folder: &Path) -> Inputs {
    Inputs {
        env_file: None,
        environment: BTreeMap::new(),
        options: Vec::new(),
        source: None,
        mountpoint: None,
        current_dir: folder.into(),
        system_env_file: folder.join("none"),
        uid: rustix::process::geteuid().as_raw(),
    }
}

#[test]
fn fuzz_settings() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("env");
    let names: Vec<&str> = SETTINGS.iter().map(|setting| setting.name).collect();
    let documents = &[
        "R2_ACCOUNT_ID=0123456789abcdef0123456789abcdef\nexport R2_BUCKET_NAME=\"a b\"\n# c\n",
        "CACHE_MAX_BYTES='50GiB'\nUSE_R2_STORAGE=false\nCOLLECTIONS=a,b\nLIST_TTL_SECONDS=0.5",
    ];
    let values = vec((select(names), vec(1..=255_u8, 0..30)), 0..6);
    fuzz(300, &(damaged(documents), values), |(text, values)| {
        std::fs::write(&file, text).unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
        let environment = values.into_iter();
        let environment = environment.map(|(name, value)| (name.into(), OsString::from_vec(value)));
        let read = Config::load(&Inputs {
            env_file: Some(file.clone()),
            environment: environment.collect(),
            ..inputs(folder.path())
        });
        if let Ok(config) = read {
            assert!(config.cache_dir.is_absolute() && config.staging_dir.is_absolute());
            assert!(config.cache_dir != config.staging_dir);
        }
    });
}

#[test]
fn fuzz_leases() {
    let documents = &[
        "{\"version\":1,\"project\":\"song\",\"name\":\"Anna\",\"host\":\"studio-2\",\"id\":\"0f\",\
         \"since\":\"2026-11-30T21:00:00Z\",\"renewed_at\":\"2026-11-30T21:05:00Z\",\"ttl_seconds\":180}",
        "{\"version\":2,\"project\":\"\",\"name\":null,\"host\":\"\\u001b[2J\",\"id\":\"\",\"since\":\
         \"9999-12-31T23:59:59-23:59\",\"renewed_at\":\"0000-01-01T00:00:00+23:59\",\"ttl_seconds\":0}",
    ];
    fuzz(300, &damaged(documents), |text| {
        if let Some(lease) = Lease::parse(&text) {
            assert!(!lease.to_string().contains(char::is_control));
            lease.to_json("song");
        }
    });
}

#[test]
fn fuzz_mount_options() {
    let documents = &[
        "rw,_netdev,nofail,allow_other,env_file=/etc/voicebeatfs.env,x-systemd.automount,x-systemd.before=a.service",
        "ro,uid=1000,gid=100,umask=022,cache_max_bytes=5GB,comment=\"a,b\",noatime",
    ];
    fuzz(
        2000,
        &(damaged(documents), any::<bool>()),
        |(text, sloppy)| {
            let text = String::from_utf8_lossy(&text);
            let mut options = MountOptions::default();
            let wrong = options.add(&text, sloppy);
            let told = wrong.iter().map(|error| error.to_string());
            assert!(told.into_iter().all(|text| !text.is_empty()));
            assert!(options.ownership.umask.is_none_or(|umask| umask <= 0o777));
        },
    );
}

#[test]
fn fuzz_keys_and_names() {
    let part = prop_oneof![
        Just("e\u{301}".to_owned()),
        Just("/".to_owned()),
        any::<String>(),
        Just("x".repeat(700)),
    ];
    fuzz(2000, &vec(part, 0..6), |parts| {
        let text = parts.concat();
        let Some(key) = Key::of_path(&text) else {
            let bare = text.trim_matches('/');
            assert!(bare.is_empty() || bare.len() > MAX_KEY_BYTES);
            return;
        };
        assert_eq!(key.folded(), key, "folding is done once");
        assert!(key.is_at_or_below(&key) && !key.is_folder_marker());
        if let Some((above, _)) = key
            .as_str()
            .split_once('/')
            .filter(|(above, _)| !above.is_empty())
        {
            assert!(key.is_at_or_below(&Key::new(above).unwrap()));
        }
    });
}

#[test]
fn fuzz_catalog() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("samples.json");
    let drums = folder.path().join("samples/house/drums");
    std::fs::create_dir_all(&drums).unwrap();
    let documents = &[
        "{\"version\":1,\"samples\":[{\"local_path\":\"a/b/c.wav\",\"genre\":\"a\",\"name\":\"c\",\
         \"format\":\"wav\",\"size_bytes\":9,\"mtime\":\"2026-01-01T00:00:00Z\"}]}",
        "RIFF\x24\0\0\0WAVEfmt \x10\0\0\0\x01\0\x02\0\x44\x2c\0\0\x10\x31\x02\0\x04\0\x10\0data\0\0\0\0",
    ];
    fuzz(300, &damaged(documents), |bytes| {
        std::fs::write(&file, &bytes).unwrap();
        let stored = Catalog::read(&file).unwrap();
        std::fs::write(drums.join("kick.wav"), &bytes).unwrap();
        let built = catalog::build(&folder.path().join("samples"))
            .unwrap()
            .catalog;
        assert_eq!(built.samples.len(), 1);
        assert_eq!(built.samples[0].size_bytes, bytes.len() as u64);
        if let Some(stored) = stored {
            let difference = stored.difference(&built);
            assert!(difference.added.len() <= 1);
        }
        built.write(&file).unwrap();
        let again = Catalog::read(&file)
            .unwrap()
            .expect("what was written is read");
        assert!(again.difference(&built).is_empty());
    });
}

#[test]
fn fuzz_project_files() {
    let documents = &[
        "<REAPER_PROJECT 0.1\n FILE \"Media/take 1.wav\"\n FILE a\\\\b.wav 1\n FILE `../../x`\n>",
        "<?xml version=\"1.0\"?><Session><Source name=\"/mnt/vb/segments/a &amp; b.wav\"/></Session>",
        "<Ableton><FileRef><RelativePath Value=\"../../a.wav\"/><Path Value=\"file:///mnt/vb/%20\"/>\
         <RelativePath><RelativePathElement Dir=\"\"/></RelativePath><Name Value=\"b\"/></FileRef></Ableton>",
        "<lmms-project><a src=\"local:x.wav\"/><b src='/mnt/vb/../x'/></lmms-project>",
        "<Project><File external=\"true\" path=\"../x.wav\"/></Project>",
    ];
    let formats = vec![
        Format::Reaper,
        Format::Ardour,
        Format::Live,
        Format::Lmms,
        Format::LmmsPacked,
        Format::DawProject,
    ];
    let files = (damaged(documents), select(formats), any::<bool>());
    fuzz(2000, &files, |(text, format, is_packed)| {
        let file = match is_packed {
            true => {
                let mut packer = GzEncoder::new(Vec::new(), flate2::Compression::fast());
                packer.write_all(&text).unwrap();
                packer.finish().unwrap()
            }
            false => text,
        };
        let found = project::references(format, &mut Cursor::new(file));
        assert!(found.len() <= project::MOST_REFERENCES);
        for reference in found {
            let path = project::resolve(&reference, "projects/song", "/mnt/vb");
            let names = path.iter().flat_map(|path| path.split('/'));
            assert!(
                names
                    .into_iter()
                    .all(|name| !["", ".", ".."].contains(&name))
            );
        }
    });
}

/// A mount that has nothing to say.
struct Silent;

#[async_trait]
impl StatusSource for Silent {
    fn report(&self) -> Report {
        Report::default()
    }

    async fn sync(&self, _: &[String]) -> Result<(), Refusal> {
        Ok(())
    }
}

#[test]
fn fuzz_control_protocol() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = Runtime::new().unwrap();
    let _inside = runtime.enter();
    let (listener, _socket) = server::bind(folder.path()).unwrap();
    let identity = MountIdentity {
        version: "1".into(),
        mountpoint: PathBuf::from("/mnt"),
        backend: "r2".into(),
        source: "b".into(),
        pid: 1,
    };
    let server = server::Server::new(identity, Arc::new(Silent), Arc::new(Notify::new()));
    runtime.spawn(server.serve(listener));
    let documents = &[
        "{\"v\":1,\"request\":\"status\"}",
        "{\"v\":1,\"request\":\"sync\",\"timeout_seconds\":1.5,\"paths\":[\"/mnt/a\"]}",
        "{\"v\":1,\"request\":\"restore\",\"paths\":[\"a\"],\"at\":\"x\"}",
        "{\"v\":1,\"request\":\"share\",\"path\":\"a\",\"seconds\":3600}",
        "{\"v\":1,\"request\":\"pin\",\"paths\":[\"projects/x\"]}",
    ];
    let socket = folder.path().join(SOCKET_NAME);
    fuzz(300, &damaged(documents), |mut line| {
        line.retain(|byte| *byte != b'\n');
        line.push(b'\n');
        let mut stream = UnixStream::connect(&socket).unwrap();
        stream.set_read_timeout(Some(PATIENCE)).unwrap();
        stream.write_all(&line).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        for line in answer.lines() {
            let answer: serde_json::Value = serde_json::from_str(line).unwrap();
            assert_eq!(answer["v"], 1, "{line}");
        }
        assert!(!answer.is_empty(), "each request has an answer");
    });
}

/// Answers each request with what `body` holds.
fn answer_with(body: Arc<Mutex<Vec<u8>>>) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let Ok(mut stream) = stream else { return };
            // A listing has no body: its request ends with its head.
            let (mut head, mut byte) = (Vec::new(), [0]);
            while !head.ends_with(b"\r\n\r\n") && stream.read(&mut byte).is_ok_and(|n| n == 1) {
                head.push(byte[0]);
            }
            let body = body.lock().clone();
            let head = format!(
                "HTTP/1.1 200 OK\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\
                 Connection: close\r\n\r\n",
                body.len()
            );
            let _ = stream.write_all(&[head.as_bytes(), &body].concat());
        }
    });
    endpoint
}

#[test]
fn fuzz_list_responses() {
    let runtime = Runtime::new().unwrap();
    let body = Arc::new(Mutex::new(Vec::new()));
    let settings = R2Settings {
        endpoint: answer_with(body.clone()),
        bucket: "bucket".into(),
        prefix: "in/".into(),
        credentials: Credentials {
            access_key_id: "id".into(),
            secret_access_key: Secret::new("secret"),
            session_token: None,
        },
        ..R2Settings::default()
    };
    let store = R2Store::new(&settings, R2Timeouts::default());
    let documents = &[
        "<?xml version=\"1.0\"?><ListBucketResult><Name>bucket</Name><Prefix>in/</Prefix>\
         <EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>\
         <NextContinuationToken>t</NextContinuationToken><Contents><Key>in/a%2Fb.wav</Key>\
         <Size>12</Size><ETag>&quot;0123456789abcdef0123456789abcdef&quot;</ETag>\
         <LastModified>2026-01-01T00:00:00.000Z</LastModified></Contents>\
         <CommonPrefixes><Prefix>in/c/</Prefix></CommonPrefixes></ListBucketResult>",
        "<ListBucketResult><Contents><Key>in/&#x41;&amp;</Key><Size>-1</Size></Contents>\
         <IsTruncated>false</IsTruncated></ListBucketResult>",
    ];
    fuzz(150, &damaged(documents), |bytes| {
        *body.lock() = bytes;
        let listed = store.list(ListRequest::default());
        let listed = runtime.block_on(async { tokio::time::timeout(PATIENCE, listed).await });
        let Ok(page) = listed.expect("an answer in time") else {
            return;
        };
        for object in page.objects {
            let key = object.version.key.as_str();
            assert!(!key.is_empty() && key.len() <= MAX_KEY_BYTES, "{key}");
        }
    });
}
