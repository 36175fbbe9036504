//! The way to the bucket: directly or through a proxy, and whose certificates are trusted.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::Uri;
use hyper_rustls::{HttpsConnector, MaybeHttpsStream};
use hyper_util::client::legacy::connect::HttpConnector;
use hyper_util::client::legacy::connect::proxy::Tunnel;
use hyper_util::client::proxy::matcher::{Intercept, Matcher};
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, RootCertStore};
use tokio::net::TcpStream;
use tower_service::Service;

use super::connect::BoxError;
use crate::config::{Authorities, R2Settings};

/// The bytes between here and the bucket's host: those of a proxy may be within TLS.
pub(super) type Line = MaybeHttpsStream<TokioIo<TcpStream>>;

/// Opens lines to the bucket's host.
#[derive(Clone)]
pub(super) enum Route {
    Direct(HttpConnector),
    Proxy {
        /// Its URL, without a user and a password.
        shown: String,
        tunnel: Box<Tunnel<HttpsConnector<HttpConnector>>>,
    },
}

impl Route {
    /// Returns the way that the settings name. `tls` is for a proxy that is talked to over it.
    pub(super) fn of(settings: &R2Settings, tls: &ClientConfig) -> Route {
        let mut http = HttpConnector::new();
        http.enforce_http(false);
        http.set_nodelay(true);
        let Some(proxy) = proxy_of(settings) else {
            return Route::Direct(http);
        };
        let connector = HttpsConnector::from((http, tls.clone()));
        let tunnel = Tunnel::new(proxy.uri().clone(), connector);
        Route::Proxy {
            shown: shown(&proxy),
            tunnel: Box::new(match proxy.basic_auth() {
                Some(auth) => tunnel.with_auth(auth.clone()),
                None => tunnel,
            }),
        }
    }
}

impl Service<Uri> for Route {
    type Response = Line;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Line, BoxError>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, bucket: Uri) -> Self::Future {
        match self {
            Route::Direct(http) => {
                let connecting = http.call(bucket);
                Box::pin(async { Ok(MaybeHttpsStream::Http(connecting.await?)) })
            }
            Route::Proxy { shown, tunnel } => {
                let (opening, proxy) = (tunnel.call(bucket), shown.clone());
                Box::pin(async {
                    opening.await.map_err(|error| {
                        let source = error.into();
                        ProxyError { proxy, source }.into()
                    })
                })
            }
        }
    }
}

/// What went wrong before there was a line to the bucket's host.
#[derive(Debug, thiserror::Error)]
#[error("the proxy {proxy}")]
struct ProxyError {
    proxy: String,
    source: BoxError,
}

/// Returns the proxy for the bucket's host, if there is one.
fn proxy_of(settings: &R2Settings) -> Option<Intercept> {
    let proxy = settings.proxy.as_ref()?;
    let matcher = Matcher::builder()
        .https(proxy.url.expose().to_owned())
        .no(proxy.not_for.clone())
        .build();
    matcher.intercept(&settings.endpoint.parse().ok()?)
}

fn shown(proxy: &Intercept) -> String {
    proxy.uri().to_string().trim_end_matches('/').to_owned()
}

/// How a bucket is reached, in words; a plain way needs none.
pub fn describe(settings: &R2Settings) -> Option<String> {
    let proxy = proxy_of(settings).map(|proxy| format!("through the proxy {}", shown(&proxy)));
    let authorities = settings.authorities.as_ref();
    let trusted = authorities.map(|file| format!("trusting {} as well", file.path.display()));
    let words: Vec<String> = proxy.into_iter().chain(trusted).collect();
    (!words.is_empty()).then(|| words.join(", "))
}

/// Returns how TLS is spoken; nobody is trusted if it is not `wanted`.
pub(super) fn tls(wanted: bool, authorities: Option<&Authorities>) -> ClientConfig {
    let roots = match wanted {
        true => trusted(authorities),
        // Without TLS there is no need for the system's certificates, which a bare machine lacks.
        false => RootCertStore::empty(),
    };
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has the usual versions of TLS")
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    config
}

/// Those that this machine trusts (`SSL_CERT_FILE` and `SSL_CERT_DIR` change where they stand), and
/// those of the settings.
fn trusted(authorities: Option<&Authorities>) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    let machine = rustls_native_certs::load_native_certs();
    for error in &machine.errors {
        log::warn!("certificates of this machine: {error}");
    }
    roots.add_parsable_certificates(machine.certs);
    let ours = authorities.map_or(&[][..], |authorities| &authorities.certificates);
    roots.add_parsable_certificates(ours.iter().map(|der| der.clone().into()));
    if roots.is_empty() {
        log::error!("this machine trusts no certificates: install ca-certificates");
    }
    roots
}
