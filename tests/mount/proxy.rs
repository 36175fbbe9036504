//! A bucket behind a proxy, and behind a certificate that only the studio's own authority stands for.

use std::fs;
use std::time::Instant;

use r2_model::R2Model;

use crate::common::mount::{DEADLINE, Mount, model_settings};
use crate::common::proxy::{Between, Certificates, HOST, Manners, text};
use crate::crash::{assert_file, assert_object, names, noise};

const USER: &str = "voice";
const PASSWORD: &str = "correct horse";
/// Both, as they are sent.
const WORDS: &str = "dm9pY2U6Y29ycmVjdCBob3JzZQ==";

/// A studio: the model server behind TLS, behind a proxy.
struct Studio {
    model: R2Model,
    certificates: Certificates,
    between: Between,
}

impl Studio {
    fn new(proxy_tls: bool) -> Studio {
        let model = R2Model::start();
        let certificates = Certificates::make();
        let between = Between::start(&model, &certificates, proxy_tls, Some(WORDS));
        Studio {
            model,
            certificates,
            between,
        }
    }

    fn proxy(&self, scheme: &str, password: &str) -> String {
        let port = self.between.proxy_port;
        format!("{scheme}://{USER}:{password}@localhost:{port}")
    }

    /// A mount that is not mounted yet, with the proxy.
    fn prepare(&self) -> Mount {
        let mut mount = self.prepare_at(&format!("https://{HOST}"));
        mount.set("HTTPS_PROXY", &self.proxy("http", "correct%20horse"));
        mount.set("R2_CA_FILE", &text(&self.certificates.authority()));
        mount
    }

    fn prepare_at(&self, endpoint: &str) -> Mount {
        let mut mount = Mount::prepare(&[("REQUEST_DEADLINE_SECONDS", "2")]);
        for (name, value) in model_settings(&self.model) {
            mount.set(&name, &value);
        }
        mount.set("R2_ENDPOINT_URL", endpoint);
        mount
    }
}

/// Nobody is told the password, however much is logged.
#[track_caller]
fn assert_no_password(whose: &str, said: &str) {
    for secret in [PASSWORD, "correct%20horse", WORDS] {
        assert!(!said.contains(secret), "{whose} tells it:\n{said}");
    }
}

/// What a command prints; its password never.
fn said(mount: &Mount, args: &[&str]) -> String {
    mount.write_env_file();
    let output = mount.run(args);
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8(said).unwrap();
    assert_no_password(&args.join(" "), &said);
    said
}

fn works_through_a_proxy(studio: &Studio, mut mount: Mount) {
    let there = noise(1, 300_000);
    studio.model.put("segments/there.wav", there.clone());
    mount.environment("RUST_LOG", "trace");
    mount.mount();
    assert_file(&mount.path("segments/there.wav"), &there);
    fs::write(mount.path("layers/new.wav"), &there).unwrap();
    mount.wait_uploaded();
    assert_object(&studio.model, "layers/new.wav", &there);
    assert_eq!(mount.status()["online"], true);
    let asked = studio.between.heads();
    assert!(!asked.is_empty());
    for head in asked {
        assert!(
            head.starts_with(&format!("CONNECT {HOST}:443 HTTP/1.1\r\n")),
            "{head}"
        );
    }
    let route = format!("localhost:{}, trusting ", studio.between.proxy_port);
    for command in ["validate", "doctor"] {
        let said = said(&mount, &[command]);
        assert!(said.contains(&route), "{command}: {said}");
    }
    mount.unmount();
    assert_no_password("the log", &mount.log());
}

#[test]
fn a_mount_works_through_a_proxy_that_wants_a_password() {
    let studio = Studio::new(false);
    let mount = studio.prepare();
    works_through_a_proxy(&studio, mount);
}

#[test]
fn a_mount_works_through_a_proxy_that_is_talked_to_over_tls() {
    let studio = Studio::new(true);
    let mut mount = studio.prepare();
    // As the environment of most machines has it.
    let proxy = studio.proxy("https", "correct%20horse");
    mount.set("HTTPS_PROXY", "");
    mount.environment("https_proxy", &proxy);
    works_through_a_proxy(&studio, mount);
}

#[test]
fn what_is_wrong_with_a_proxy_is_told() {
    let studio = Studio::new(false);
    let mut mount = studio.prepare();
    studio.between.set(Manners::Forbids);
    let told = said(&mount, &["validate"]);
    assert!(told.contains("does not let this host through"), "{told}");
    studio.between.set(Manners::Serves);
    mount.set("HTTPS_PROXY", &studio.proxy("http", "guessed"));
    let told = said(&mount, &["validate"]);
    assert!(told.contains("wants a user and a password"), "{told}");
    let port = studio.between.proxy_port;
    mount.set("HTTPS_PROXY", &studio.proxy("http", "correct%20horse"));
    let model_of_no_use = R2Model::start();
    model_of_no_use.stop();
    let closed = model_of_no_use.port();
    mount.set(
        "HTTPS_PROXY",
        &studio
            .proxy("http", "correct%20horse")
            .replace(&port.to_string(), &closed.to_string()),
    );
    let told = said(&mount, &["validate"]);
    assert!(told.contains("the proxy cannot be reached"), "{told}");
    mount.set("HTTPS_PROXY", "socks5://localhost:1080");
    let told = said(&mount, &["validate"]);
    assert!(told.contains("SOCKS is not spoken"), "{told}");
}

#[test]
fn a_proxy_that_goes_is_an_outage_and_ends_by_itself() {
    let studio = Studio::new(false);
    let bytes = noise(2, 100_000);
    for name in ["cached", "unread"] {
        studio
            .model
            .put(&format!("segments/{name}.wav"), bytes.clone());
    }
    let mut mount = studio.prepare();
    mount.mount();
    assert_eq!(names(&mount, "segments").len(), 2);
    assert_file(&mount.path("segments/cached.wav"), &bytes);
    studio.between.set(Manners::HangsUp);
    let error = fs::read(mount.path("segments/unread.wav")).unwrap_err();
    let errno = error.raw_os_error();
    assert!(
        [Some(libc::EIO), Some(libc::ETIMEDOUT)].contains(&errno),
        "{error}"
    );
    assert_file(&mount.path("segments/cached.wav"), &bytes);
    fs::write(mount.path("segments/new.wav"), "new").unwrap();
    mount.wait_for("it is noticed", |status| status["online"] == false);
    studio.between.set(Manners::Serves);
    mount.wait_uploaded();
    let end = Instant::now() + DEADLINE;
    while fs::read(mount.path("segments/unread.wav")).is_err() {
        assert!(Instant::now() < end, "{}", mount.log());
    }
    assert_object(&studio.model, "segments/new.wav", b"new");
}

#[test]
fn a_host_of_no_proxy_is_not_asked_through_it() {
    let studio = Studio::new(false);
    let mut mount = studio.prepare();
    mount.set("NO_PROXY", "example.com, .test");
    let told = said(&mount, &["validate"]);
    assert!(told.contains("not known to DNS"), "{told}");
    assert!(!told.contains("through the proxy"), "{told}");
    // Neither is this machine itself.
    mount.set("NO_PROXY", "");
    let here = format!("https://localhost:{}", studio.between.tls_port);
    mount.set("R2_ENDPOINT_URL", &here);
    let told = said(&mount, &["validate"]);
    assert!(told.contains("rights:   list, read, write"), "{told}");
    assert_eq!(studio.between.heads(), Vec::<String>::new());
}

#[test]
fn an_authority_of_ones_own_is_trusted_when_it_is_named() {
    let studio = Studio::new(false);
    studio.model.put("segments/there.wav", "there");
    let endpoint = format!("https://localhost:{}", studio.between.tls_port);
    let mut mount = studio.prepare_at(&endpoint);
    let told = said(&mount, &["validate"]);
    assert!(told.contains("name its authority in R2_CA_FILE"), "{told}");
    let authority = text(&studio.certificates.authority());
    mount.environment("SSL_CERT_FILE", &authority);
    mount.mount();
    assert_file(&mount.path("segments/there.wav"), b"there");
    mount.unmount();
    // A mount by fstab has no environment.
    mount.environment("SSL_CERT_FILE", "/dev/null");
    mount.set("R2_CA_FILE", &authority);
    mount.remove_cache();
    mount.mount();
    assert_file(&mount.path("segments/there.wav"), b"there");
    mount.unmount();
    mount.set("R2_CA_FILE", "env");
    let told = said(&mount, &["validate"]);
    assert!(told.contains("has no certificate in it"), "{told}");
}
