//! A server that gives prepared answers, byte by byte as told: for what no healthy server says.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use voicebeatfs::config::{Credentials, R2Settings, Secret};
use voicebeatfs::store::r2::{R2Store, R2Timeouts};

/// What happens on the next connection.
pub(crate) enum Answer {
    /// The request is read, this is sent, the connection is closed.
    Send(String),
    /// This is sent, and then nothing for a long while.
    Stall(String),
    /// The connection is closed before the request was read.
    Cut,
    /// The request's body is taken in slowly: so many bytes each 50 ms. Then this is sent.
    ReadSlowly(usize, String),
    /// Nothing is read and nothing is sent.
    Ignore,
}

pub(crate) struct Canned {
    pub(crate) store: R2Store,
    /// The heads of the requests.
    pub(crate) requests: Arc<Mutex<Vec<String>>>,
}

/// Short enough for tests; each is several times what a loaded machine needs.
pub(crate) const TIMEOUTS: R2Timeouts = R2Timeouts {
    connect: Duration::from_secs(2),
    answer: Duration::from_millis(1500),
    idle: Duration::from_millis(1500),
    upload_answer: Duration::from_secs(3),
    commit: Duration::from_secs(2),
};

impl Canned {
    /// Starts a server that gives these answers, one for each connection.
    pub(crate) async fn start(answers: impl IntoIterator<Item = Answer>) -> Canned {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let endpoint = format!("http://{}", listener.local_addr().unwrap());
        let requests = Arc::new(Mutex::new(Vec::new()));
        let mut answers: VecDeque<Answer> = answers.into_iter().collect();
        let log = requests.clone();
        tokio::spawn(async move {
            while let Some(answer) = answers.pop_front() {
                let (connection, _) = listener.accept().await.unwrap();
                tokio::spawn(serve(connection, answer, log.clone()));
            }
        });
        Canned {
            store: R2Store::new(&settings(endpoint), TIMEOUTS),
            requests,
        }
    }
}

pub(crate) fn settings(endpoint: String) -> R2Settings {
    R2Settings {
        endpoint,
        bucket: "bucket".into(),
        prefix: String::new(),
        credentials: Credentials {
            access_key_id: "id".into(),
            secret_access_key: Secret::new("secret"),
            session_token: None,
        },
        ..R2Settings::default()
    }
}

async fn serve(mut connection: TcpStream, answer: Answer, log: Arc<Mutex<Vec<String>>>) {
    // The client may go away at any time; that is its business.
    let _ = match answer {
        Answer::Cut => Ok(()),
        Answer::Ignore => {
            tokio::time::sleep(Duration::from_secs(30)).await;
            Ok(())
        }
        Answer::Send(text) => {
            let left = read_head(&mut connection, &log).await;
            read_body(&mut connection, left, 1 << 16, Duration::ZERO).await;
            connection.write_all(text.as_bytes()).await
        }
        Answer::ReadSlowly(bytes, text) => {
            let left = read_head(&mut connection, &log).await;
            read_body(&mut connection, left, bytes, Duration::from_millis(50)).await;
            connection.write_all(text.as_bytes()).await
        }
        Answer::Stall(text) => {
            read_head(&mut connection, &log).await;
            let sent = connection.write_all(text.as_bytes()).await;
            tokio::time::sleep(Duration::from_secs(30)).await;
            sent
        }
    };
}

/// Reads a request's head and returns how many bytes of its body are still to come.
async fn read_head(connection: &mut TcpStream, log: &Mutex<Vec<String>>) -> usize {
    let mut read = Vec::new();
    let end = loop {
        let mut buffer = [0; 4096];
        let length = connection.read(&mut buffer).await.unwrap();
        assert!(length > 0, "the request ended in its head");
        read.extend_from_slice(&buffer[..length]);
        if let Some(end) = read.windows(4).position(|four| four == b"\r\n\r\n") {
            break end + 4;
        }
    };
    let head = String::from_utf8(read[..end].to_vec()).unwrap();
    let length = head.lines().find_map(|line| {
        let (name, value) = line.split_once(':')?;
        let found = name.eq_ignore_ascii_case("content-length");
        found.then(|| value.trim().parse::<usize>().unwrap())
    });
    log.lock().push(head);
    length.unwrap_or(0) - (read.len() - end)
}

async fn read_body(connection: &mut TcpStream, mut left: usize, piece: usize, pause: Duration) {
    let mut buffer = vec![0; piece];
    while left > 0 {
        tokio::time::sleep(pause).await;
        match connection.read(&mut buffer[..piece.min(left)]).await {
            Ok(length) if length > 0 => left -= length,
            _ => return,
        }
    }
}

/// Returns an answer with this body.
pub(crate) fn answer(status: &str, headers: &[&str], body: &str) -> Answer {
    Answer::Send(text(status, headers, body))
}

pub(crate) fn text(status: &str, headers: &[&str], body: &str) -> String {
    let length = format!("content-length: {}", body.len());
    let headers = [headers, &[&length]].concat();
    head(status, &headers) + body
}

/// Returns an answer's head, without a length.
pub(crate) fn head(status: &str, headers: &[&str]) -> String {
    let mut text = format!("HTTP/1.1 {status}\r\nconnection: close\r\n");
    for header in headers {
        text.push_str(header);
        text.push_str("\r\n");
    }
    text + "\r\n"
}

/// Returns an answer as R2's errors look.
pub(crate) fn error(status: &str, code: &str, headers: &[&str]) -> Answer {
    let body = format!(
        "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\
         <Error><Code>{code}</Code><Message>Told so.</Message></Error>"
    );
    answer(status, headers, &body)
}
