//! A small S3 client on a bare socket: it signs, and it shows exactly what came back.

use std::io::{self, Read as _, Write as _};
use std::net::TcpStream;
use std::time::{Duration, SystemTime};

use hmac::{Hmac, KeyInit as _, Mac as _};
use r2_model::R2Model;
use sha2::{Digest as _, Sha256};

/// A request under construction.
pub struct Call<'a> {
    port: u16,
    access_key: String,
    secret_key: String,
    method: &'a str,
    path: String,
    query: Vec<(String, String)>,
    headers: Vec<(String, String)>,
    body: Vec<u8>,
    date: SystemTime,
    payload_hash: Option<String>,
}

/// What came back.
#[derive(Debug)]
pub struct Reply {
    pub status: u16,
    pub headers: Vec<(String, String)>,
    pub body: Vec<u8>,
    /// The body ended before its announced end.
    pub cut: bool,
}

impl Reply {
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(key, _)| key == name)
            .map(|(_, value)| value.as_str())
    }

    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }

    /// The text of the first element of this name.
    pub fn element(&self, name: &str) -> Option<String> {
        self.elements(name).into_iter().next()
    }

    pub fn elements(&self, name: &str) -> Vec<String> {
        let text = self.text();
        let inner = |piece: &str| piece.split("</").next().unwrap_or_default().to_owned();
        text.split(&format!("<{name}>"))
            .skip(1)
            .map(inner)
            .collect()
    }

    pub fn code(&self) -> String {
        self.element("Code").unwrap_or_default()
    }
}

/// Begins a request to the model's bucket; the path is a key, not yet encoded.
pub fn call<'a>(model: &R2Model, method: &'a str, key: &str) -> Call<'a> {
    call_path(
        model,
        method,
        &format!("/{}/{}", model.bucket(), encode(key, true)),
    )
}

/// Begins a request to an encoded path.
pub fn call_path<'a>(model: &R2Model, method: &'a str, path: &str) -> Call<'a> {
    Call {
        port: model.port(),
        access_key: model.access_key().to_owned(),
        secret_key: model.secret_key().to_owned(),
        method,
        path: path.to_owned(),
        query: Vec::new(),
        headers: Vec::new(),
        body: Vec::new(),
        date: SystemTime::now(),
        payload_hash: None,
    }
}

pub fn put(model: &R2Model, key: &str, body: impl AsRef<[u8]>) -> Reply {
    call(model, "PUT", key).body(body).send()
}

pub fn get(model: &R2Model, key: &str) -> Reply {
    call(model, "GET", key).send()
}

impl Call<'_> {
    pub fn query(mut self, name: &str, value: &str) -> Self {
        self.query.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    pub fn body(mut self, body: impl AsRef<[u8]>) -> Self {
        self.body = body.as_ref().to_vec();
        self
    }

    pub fn credentials(mut self, access_key: &str, secret_key: &str) -> Self {
        self.access_key = access_key.to_owned();
        self.secret_key = secret_key.to_owned();
        self
    }

    pub fn at(mut self, date: SystemTime) -> Self {
        self.date = date;
        self
    }

    /// Claims another hash of the body than its own.
    pub fn payload_hash(mut self, hash: &str) -> Self {
        self.payload_hash = Some(hash.to_owned());
        self
    }

    pub fn send(self) -> Reply {
        self.try_send().expect("an answer")
    }

    /// Sends without a signature.
    pub fn send_unsigned(self) -> Reply {
        let headers = self.headers.clone();
        self.exchange(&headers, None).expect("an answer")
    }

    /// Sends and reads; an error is a connection that gave no whole head.
    pub fn try_send(self) -> io::Result<Reply> {
        self.try_send_within(Duration::from_secs(20))
    }

    pub fn try_send_within(self, limit: Duration) -> io::Result<Reply> {
        let headers = self.signed_headers();
        self.exchange(&headers, Some(limit))
    }

    /// Sends head and the first bytes of the body, then drops the connection.
    pub fn send_cut(self, body_bytes: usize) {
        let headers = self.signed_headers();
        let mut stream = TcpStream::connect(("127.0.0.1", self.port)).expect("a connection");
        stream
            .write_all(self.head(&headers).as_bytes())
            .expect("sent");
        stream.write_all(&self.body[..body_bytes]).expect("sent");
    }

    fn exchange(self, headers: &[(String, String)], limit: Option<Duration>) -> io::Result<Reply> {
        let mut stream = TcpStream::connect(("127.0.0.1", self.port))?;
        stream.set_read_timeout(limit)?;
        stream.write_all(self.head(headers).as_bytes())?;
        // The server may have answered and gone before it took the whole body.
        let _ = stream.write_all(&self.body);
        read_reply(&mut stream, self.method == "HEAD")
    }

    fn head(&self, headers: &[(String, String)]) -> String {
        let query = canonical_query(&self.query);
        let mark = if query.is_empty() { "" } else { "?" };
        let mut head = format!("{} {}{mark}{query} HTTP/1.1\r\n", self.method, self.path);
        head += &format!("host: 127.0.0.1:{}\r\nconnection: close\r\n", self.port);
        let length_given = headers.iter().any(|(name, _)| name == "content-length");
        if !length_given && (!self.body.is_empty() || matches!(self.method, "PUT" | "POST")) {
            head += &format!("content-length: {}\r\n", self.body.len());
        }
        for (name, value) in headers {
            head += &format!("{name}: {value}\r\n");
        }
        head + "\r\n"
    }

    fn signed_headers(&self) -> Vec<(String, String)> {
        let stamp = amz_date(self.date);
        let hash = self
            .payload_hash
            .clone()
            .unwrap_or_else(|| hex(&Sha256::digest(&self.body)));
        let mut headers = self.headers.clone();
        headers.push(("x-amz-date".to_owned(), stamp.clone()));
        headers.push(("x-amz-content-sha256".to_owned(), hash.clone()));
        let mut signed = headers.clone();
        signed.push(("host".to_owned(), format!("127.0.0.1:{}", self.port)));
        signed.sort();
        let names: Vec<&str> = signed.iter().map(|(name, _)| name.as_str()).collect();
        let names = names.join(";");
        let lines: String = signed
            .iter()
            .map(|(name, value)| format!("{name}:{}\n", value.trim()))
            .collect();
        let query = canonical_query(&self.query);
        let canonical = format!(
            "{}\n{}\n{query}\n{lines}\n{names}\n{hash}",
            self.method, self.path
        );
        let scope = format!("{}/auto/s3/aws4_request", &stamp[..8]);
        let digest = hex(&Sha256::digest(canonical));
        let to_sign = format!("AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{digest}");
        let mut key = hmac(format!("AWS4{}", self.secret_key).as_bytes(), &stamp[..8]);
        for step in ["auto", "s3", "aws4_request"] {
            key = hmac(&key, step);
        }
        let signature = hex(&hmac(&key, &to_sign));
        headers.push((
            "authorization".to_owned(),
            format!(
                "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, \
                 Signature={signature}",
                self.access_key
            ),
        ));
        headers
    }
}

fn read_reply(stream: &mut TcpStream, headless: bool) -> io::Result<Reply> {
    let mut bytes = Vec::new();
    let mut end = None;
    // A reset after a whole head is a cut body, not a failed exchange.
    let outcome = loop {
        let mut buffer = [0; 65536];
        match stream.read(&mut buffer) {
            Ok(0) => break Ok(()),
            Ok(count) => bytes.extend_from_slice(&buffer[..count]),
            Err(error) => break Err(error),
        }
        end = end.or_else(|| bytes.windows(4).position(|window| window == b"\r\n\r\n"));
    };
    let Some(end) = end else {
        outcome?;
        return Err(io::Error::new(io::ErrorKind::UnexpectedEof, "no head came"));
    };
    let head = String::from_utf8_lossy(&bytes[..end]).into_owned();
    let body = bytes.split_off(end + 4);
    let mut lines = head.lines();
    let status = lines
        .next()
        .and_then(|line| line.split(' ').nth(1)?.parse().ok());
    let headers: Vec<(String, String)> = lines
        .filter_map(|line| line.split_once(": "))
        .map(|(name, value)| (name.to_lowercase(), value.to_owned()))
        .collect();
    let mut reply = Reply {
        status: status.expect("a status"),
        headers,
        body,
        cut: false,
    };
    if reply.header("transfer-encoding") == Some("chunked") {
        let (body, whole) = unchunk(&reply.body);
        reply.body = body;
        reply.cut = !whole;
    } else if let Some(length) = reply.header("content-length").filter(|_| !headless) {
        reply.cut = reply.body.len() < length.parse().expect("a length");
    }
    Ok(reply)
}

fn unchunk(mut raw: &[u8]) -> (Vec<u8>, bool) {
    let mut body = Vec::new();
    loop {
        let Some(end) = raw.windows(2).position(|window| window == b"\r\n") else {
            return (body, false);
        };
        let size = usize::from_str_radix(&String::from_utf8_lossy(&raw[..end]), 16);
        let size = size.expect("a chunk size");
        raw = &raw[end + 2..];
        if size == 0 {
            return (body, true);
        }
        body.extend_from_slice(&raw[..size.min(raw.len())]);
        if raw.len() < size + 2 {
            return (body, false);
        }
        raw = &raw[size + 2..];
    }
}

fn canonical_query(query: &[(String, String)]) -> String {
    let mut pairs: Vec<String> = query
        .iter()
        .map(|(name, value)| format!("{}={}", encode(name, false), encode(value, false)))
        .collect();
    pairs.sort();
    pairs.join("&")
}

pub fn encode(text: &str, keep_slash: bool) -> String {
    let mut encoded = String::new();
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                encoded.push(byte as char);
            }
            b'/' if keep_slash => encoded.push('/'),
            _ => encoded += &format!("%{byte:02X}"),
        }
    }
    encoded
}

fn amz_date(date: SystemTime) -> String {
    let date = time::OffsetDateTime::from(date);
    format!(
        "{:04}{:02}{:02}T{:02}{:02}{:02}Z",
        date.year(),
        u8::from(date.month()),
        date.day(),
        date.hour(),
        date.minute(),
        date.second()
    )
}

fn hmac(key: &[u8], text: &str) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any key length");
    mac.update(text.as_bytes());
    mac.finalize().into_bytes().to_vec()
}

pub fn hex(bytes: &[u8]) -> String {
    hex::encode(bytes)
}
