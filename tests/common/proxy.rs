//! What lies between a studio and R2: TLS with a certificate of one's own before the model server, and a
//! proxy that opens ways to it (RFC 9110, 9.3.6: CONNECT).

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex};

use r2_model::R2Model;
use tempfile::TempDir;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, copy_bidirectional};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The host that the model server stands behind. No DNS knows it: whoever asks for it without the
/// proxy gets nowhere.
pub(crate) const HOST: &str = "r2.test";

/// An authority of one's own, and a certificate of it for [`HOST`] and `localhost`.
pub(crate) struct Certificates {
    dir: TempDir,
}

impl Certificates {
    pub(crate) fn make() -> Certificates {
        let certificates = Certificates {
            dir: tempfile::tempdir().unwrap(),
        };
        let names = format!("subjectAltName=DNS:{HOST},DNS:localhost\n");
        std::fs::write(certificates.path("names"), names).unwrap();
        let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
        certificates.openssl(&format!(
            "req -x509 {key} -keyout ca.key -out ca.pem -days 2 -subj /CN=studio"
        ));
        certificates.openssl(&format!(
            "req {key} -keyout host.key -out host.csr -subj /CN={HOST}"
        ));
        certificates.openssl(
            "x509 -req -in host.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 \
             -extfile names -out host.pem",
        );
        certificates
    }

    fn openssl(&self, args: &str) {
        let mut command = Command::new("openssl");
        command
            .args(args.split_whitespace())
            .current_dir(self.dir.path());
        let output = command.output().expect("openssl is installed");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "openssl {args}: {said}");
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// The authority's own certificate.
    pub(crate) fn authority(&self) -> PathBuf {
        self.path("ca.pem")
    }

    fn acceptor(&self) -> TlsAcceptor {
        let certificates = CertificateDer::pem_file_iter(self.path("host.pem")).unwrap();
        let key = PrivateKeyDer::from_pem_file(self.path("host.key")).unwrap();
        let config = ServerConfig::builder()
            .with_no_client_auth()
            .with_single_cert(certificates.map(Result::unwrap).collect(), key)
            .unwrap();
        TlsAcceptor::from(Arc::new(config))
    }
}

/// How a proxy treats who asks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Manners {
    /// A way is opened.
    Serves,
    /// Nothing is let through.
    Forbids,
    /// Whoever comes is hung up on, and who is through already as well.
    HangsUp,
}

/// The two ends of a test, running until they are dropped.
pub(crate) struct Between {
    runtime: Option<Runtime>,
    state: Arc<Mutex<State>>,
    pub(crate) proxy_port: u16,
    pub(crate) tls_port: u16,
}

struct State {
    manners: Manners,
    /// The heads of all requests.
    heads: Vec<String>,
    /// `user:password` in base64, if it takes those alone.
    wanted: Option<String>,
    open: Vec<tokio::task::AbortHandle>,
}

impl Between {
    /// Starts both ends before a model server. The proxy is itself talked to over TLS if that is
    /// wanted, and takes who brings these words (base64) alone.
    pub(crate) fn start(
        model: &R2Model,
        certificates: &Certificates,
        proxy_tls: bool,
        wanted: Option<&str>,
    ) -> Between {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .unwrap();
        let listen = || runtime.block_on(TcpListener::bind((Ipv4Addr::LOCALHOST, 0)));
        let (proxy, tls) = (listen().unwrap(), listen().unwrap());
        let port = |listener: &TcpListener| listener.local_addr().unwrap().port();
        let (proxy_port, tls_port) = (port(&proxy), port(&tls));
        let state = Arc::new(Mutex::new(State {
            manners: Manners::Serves,
            heads: Vec::new(),
            wanted: wanted.map(str::to_owned),
            open: Vec::new(),
        }));
        let acceptor = certificates.acceptor();
        let proxy_acceptor = proxy_tls.then(|| acceptor.clone());
        runtime.spawn(serve_tls(tls, acceptor, model.port()));
        runtime.spawn(serve_proxy(proxy, proxy_acceptor, state.clone(), tls_port));
        Between {
            runtime: Some(runtime),
            state,
            proxy_port,
            tls_port,
        }
    }

    pub(crate) fn set(&self, manners: Manners) {
        let mut state = self.state.lock().unwrap();
        state.manners = manners;
        if manners == Manners::HangsUp {
            state.open.drain(..).for_each(|task| task.abort());
        }
    }

    /// What the proxy was asked.
    pub(crate) fn heads(&self) -> Vec<String> {
        self.state.lock().unwrap().heads.clone()
    }
}

impl Drop for Between {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn serve_tls(listener: TcpListener, acceptor: TlsAcceptor, model: u16) {
    while let Ok((stream, _)) = listener.accept().await {
        let acceptor = acceptor.clone();
        tokio::spawn(async move {
            // Who does not like the certificate goes away; so may who has no more to ask.
            let Ok(mut stream) = acceptor.accept(stream).await else {
                return;
            };
            let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, model))
                .await
                .unwrap();
            let _ = copy_bidirectional(&mut stream, &mut server).await;
        });
    }
}

async fn serve_proxy(
    listener: TcpListener,
    acceptor: Option<TlsAcceptor>,
    state: Arc<Mutex<State>>,
    tls_port: u16,
) {
    while let Ok((stream, _)) = listener.accept().await {
        let (acceptor, own) = (acceptor.clone(), state.clone());
        let task = tokio::spawn(async move {
            // Who has asked may go away at any time.
            let _ = match acceptor {
                None => open_way(stream, own, tls_port).await,
                Some(acceptor) => match acceptor.accept(stream).await {
                    Ok(stream) => open_way(stream, own, tls_port).await,
                    Err(_) => return,
                },
            };
        });
        state.lock().unwrap().open.push(task.abort_handle());
    }
}

/// Answers one CONNECT; whatever host it names, the way leads to the end of TLS.
async fn open_way(
    mut client: impl AsyncRead + AsyncWrite + Unpin,
    state: Arc<Mutex<State>>,
    tls_port: u16,
) -> std::io::Result<()> {
    if state.lock().unwrap().manners == Manners::HangsUp {
        return Ok(());
    }
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(client.read_u8().await?);
    }
    let head = String::from_utf8(head).unwrap();
    let answer = {
        let mut state = state.lock().unwrap();
        state.heads.push(head.clone());
        let comes_with = |words: &String| head.contains(&format!("Basic {words}\r\n"));
        match state.manners {
            Manners::Serves if !state.wanted.as_ref().is_none_or(comes_with) => {
                "HTTP/1.1 407 Proxy Authentication Required\r\n\r\n"
            }
            Manners::Serves => "HTTP/1.1 200 Connection established\r\n\r\n",
            Manners::Forbids | Manners::HangsUp => "HTTP/1.1 403 Forbidden\r\n\r\n",
        }
    };
    client.write_all(answer.as_bytes()).await?;
    if answer.contains(" 200 ") {
        let mut host = TcpStream::connect((Ipv4Addr::LOCALHOST, tls_port)).await?;
        copy_bidirectional(&mut client, &mut host).await?;
    }
    client.shutdown().await
}

/// The path as a setting.
pub(crate) fn text(path: &Path) -> String {
    path.to_str().unwrap().to_owned()
}
