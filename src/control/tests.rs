//! Client and server over a real socket.

use std::io::{BufRead, BufReader, Write};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::{Notify, watch};

use super::client::{Client, ClientError};
use super::server::{self, Server, SocketFile};
use super::*;

/// A mount whose queue is emptied by the test.
struct Source {
    queued: watch::Sender<u64>,
}

#[async_trait]
impl StatusSource for Source {
    fn report(&self) -> Report {
        let queued = *self.queued.borrow();
        let uploads = UploadStatus {
            queued,
            queued_bytes: queued * 10,
            ..UploadStatus::default()
        };
        Report {
            online: true,
            uploads,
            shutdown: ShutdownStatus {
                files: queued,
                bytes: queued * 10,
                ..ShutdownStatus::default()
            },
            ..Report::default()
        }
    }

    async fn sync(&self, paths: &[String]) -> Result<(), Refusal> {
        if paths == ["parked"] {
            return Err(Refusal::new(RefusalCode::Parked, "1 files are parked"));
        }
        let emptied = self
            .queued
            .subscribe()
            .wait_for(|queued| *queued == 0)
            .await
            .is_ok();
        assert!(emptied);
        Ok(())
    }

    fn flush(&self, paths: &[String]) -> Result<u64, Refusal> {
        match paths {
            [path] if path == "segments/a.wav" => Ok(1),
            [] => Err(Refusal::new(RefusalCode::Paused, "paused")),
            _ => Ok(0),
        }
    }
}

struct Case {
    folder: tempfile::TempDir,
    runtime: Runtime,
    source: Arc<Source>,
    shutdown: Arc<Notify>,
    _socket: SocketFile,
}

fn identity() -> MountIdentity {
    MountIdentity {
        version: "1".into(),
        mountpoint: "/mnt".into(),
        backend: "local".into(),
        source: "local".into(),
        pid: 1,
    }
}

impl Case {
    fn new(queued: u64) -> Self {
        let folder = tempfile::tempdir().unwrap();
        // Longer than a socket address can be.
        let staging_dir = folder.path().join("x".repeat(150));
        std::fs::create_dir(&staging_dir).unwrap();
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let source = Arc::new(Source {
            queued: watch::Sender::new(queued),
        });
        let shutdown = Arc::new(Notify::new());
        let entered = runtime.enter();
        let (listener, socket) = server::bind(&staging_dir).unwrap();
        drop(entered);
        let server = Server::new(identity(), source.clone(), shutdown.clone());
        runtime.spawn(server.serve(listener));
        Self {
            folder,
            runtime,
            source,
            shutdown,
            _socket: socket,
        }
    }

    fn staging_dir(&self) -> PathBuf {
        self.folder.path().join("x".repeat(150))
    }

    fn client(&self) -> Client {
        Client::connect(&self.staging_dir()).unwrap()
    }

    fn raw(&self, line: &[u8]) -> Response {
        let mut stream = self.open();
        // The server may answer and close before it has read all of a line that is too long.
        let _ = stream.write_all(line);
        let mut answer = String::new();
        BufReader::new(stream).read_line(&mut answer).unwrap();
        serde_json::from_str(&answer).unwrap()
    }

    fn open(&self) -> UnixStream {
        with_socket_path(&self.staging_dir(), |path| UnixStream::connect(path)).unwrap()
    }
}

#[test]
fn status_tells_what_the_mount_is_and_how_it_does() {
    let case = Case::new(3);
    let status = case.client().status().unwrap();
    assert_eq!(status.identity, identity());
    assert_eq!(
        (status.report.online, status.report.uploads.queued),
        (true, 3)
    );
}

#[test]
fn only_the_owner_may_open_the_socket() {
    let case = Case::new(0);
    let mode = std::fs::metadata(case.staging_dir().join(SOCKET_NAME))
        .unwrap()
        .permissions();
    assert_eq!(mode.mode() & 0o777, 0o600);
}

#[test]
fn a_socket_that_a_dead_process_left_refuses_and_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    let runtime = Runtime::new().unwrap();
    let _entered = runtime.enter();
    let (listener, file) = server::bind(folder.path()).unwrap();
    drop(listener);
    let refused = Client::connect(folder.path());
    assert!(
        matches!(refused, Err(ClientError::NotRunning(_))),
        "{refused:?}"
    );
    std::mem::forget(file);
    drop(server::bind(folder.path()).unwrap());
    assert!(!folder.path().join(SOCKET_NAME).exists());
}

#[test]
fn sync_waits_for_the_queue_and_says_how_far_it_is() {
    let case = Case::new(2);
    let source = case.source.clone();
    let mut seen = Vec::new();
    let synced = case
        .client()
        .sync(Vec::new(), Duration::from_secs(30), |left| {
            seen.push(left);
            source.queued.send_replace(0);
        });
    synced.unwrap();
    assert_eq!(
        seen,
        [Progress {
            queued: 2,
            queued_bytes: 20
        }]
    );
}

#[test]
fn sync_ends_at_its_deadline() {
    let case = Case::new(2);
    let synced = case
        .client()
        .sync(Vec::new(), Duration::from_millis(50), |_| {});
    let Err(ClientError::Refused(refusal)) = synced else {
        panic!("{synced:?}")
    };
    assert_eq!(refusal.code, RefusalCode::Timeout);
    assert!(
        refusal.message.starts_with("2 files (20 bytes)"),
        "{}",
        refusal.message
    );
}

#[test]
fn a_limit_without_end_is_cut_to_the_longest() {
    let case = Case::new(0);
    case.client()
        .sync(Vec::new(), Duration::MAX, |_| {})
        .unwrap();
    let odd = case.raw(b"{\"v\":1,\"request\":\"sync\",\"timeout_seconds\":-1}\n");
    assert_eq!(odd.ok, Some(true));
}

#[test]
fn shutdown_is_passed_on() {
    let case = Case::new(0);
    case.client().shutdown().unwrap();
    case.runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(10), case.shutdown.notified())
            .await
            .unwrap();
    });
}

#[test]
fn nonsense_is_refused_and_the_next_command_served() {
    let case = Case::new(0);
    let too_long = [b'x'; 2 * MAX_REQUEST_BYTES];
    for line in [
        &b"hello\n"[..],
        b"\n",
        b"{\"v\":1}\n",
        b"\xff\xfe\n",
        &too_long,
    ] {
        let code = case.raw(line).error.unwrap().code;
        assert_eq!(code, RefusalCode::BadRequest);
    }
    assert_eq!(
        case.raw(b"{\"v\":9}\n").error.unwrap().code,
        RefusalCode::UnsupportedVersion
    );
    drop(case.open());
    case.client().status().unwrap();
}

#[test]
fn silent_clients_do_not_take_the_place_of_others_for_ever() {
    let case = Case::new(0);
    let silent: Vec<UnixStream> = (0..16).map(|_| case.open()).collect();
    // They are accepted in order, so all places are taken when this one's turn comes.
    assert_eq!(case.raw(b"").error.unwrap().code, RefusalCode::Busy);
    drop(silent);
    let mut attempts = 0;
    while let Err(error) = case.client().status() {
        attempts += 1;
        assert!(attempts < 1000, "{error}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn flush_takes_paths_as_people_type_them_and_refusals_come_through() {
    let case = Case::new(1);
    let flush = |paths: &[&str]| {
        let paths = paths.iter().map(|&path| path.to_owned()).collect();
        case.client().flush(paths)
    };
    assert_eq!(flush(&["segments/a.wav"]).unwrap(), 1);
    assert_eq!(flush(&["/mnt/segments/a.wav"]).unwrap(), 1);
    let Err(ClientError::Refused(refusal)) = flush(&[]) else {
        panic!("it is not refused")
    };
    assert_eq!(refusal.code, RefusalCode::Paused);
    let synced = case
        .client()
        .sync(vec!["parked".into()], Duration::from_secs(30), |_| {});
    assert!(matches!(synced, Err(ClientError::Refused(_))), "{synced:?}");
}

#[test]
fn a_path_selects_its_key_and_what_lies_below() {
    let selects = |paths: &[&str], key: &str| {
        let paths: Vec<String> = paths.iter().map(|&path| path.to_owned()).collect();
        super::selects(&paths, &Key::new(key).unwrap())
    };
    assert!(selects(&[], "a"));
    assert!(selects(&["x", "projects/a"], "projects/a/b.wav"));
    assert!(selects(&["projects/a/"], "projects/a/"));
    assert!(selects(&["projects/e\u{301}.wav"], "projects/\u{e9}.wav"));
    assert!(!selects(&["projects/a"], "projects/ab"));
    assert!(!selects(&[""], "projects/ab"));
}
