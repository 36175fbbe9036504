//! What each request is signed with.

use aws_credential_types::provider::future;
use aws_sdk_s3::config::{Credentials, ProvideCredentials};
use parking_lot::Mutex;

use crate::config::{self, CredentialsFile, R2Settings};

/// The credentials of the settings, or those that their file holds at the moment. It is read for
/// each request: that takes microseconds, and nobody is refused for keys that were replaced.
#[derive(Debug)]
pub(super) struct Provider {
    file: Option<CredentialsFile>,
    known: Mutex<Known>,
}

#[derive(Debug)]
struct Known {
    credentials: config::Credentials,
    /// Why the file could not be used when it was last looked at.
    trouble: Option<String>,
}

impl Provider {
    pub(super) fn of(settings: &R2Settings) -> Provider {
        Provider {
            file: settings.credentials_file.clone(),
            known: Mutex::new(Known {
                credentials: settings.credentials.clone(),
                trouble: None,
            }),
        }
    }
}

impl ProvideCredentials for Provider {
    fn provide_credentials<'a>(&'a self) -> future::ProvideCredentials<'a>
    where
        Self: 'a,
    {
        future::ProvideCredentials::new(async {
            if let Some(file) = self.file.clone() {
                let read = tokio::task::spawn_blocking(move || file.read()).await;
                self.known
                    .lock()
                    .note(read.unwrap_or_else(|error| Err(error.to_string())));
            }
            Ok(for_signing(&self.known.lock().credentials))
        })
    }
}

impl Known {
    /// Goes on with what was good while the file cannot be used.
    fn note(&mut self, read: Result<config::Credentials, String>) {
        match read {
            Ok(credentials) => {
                if credentials != self.credentials {
                    log::info!("the credentials file has new credentials");
                    self.credentials = credentials;
                }
                self.trouble = None;
            }
            Err(trouble) if self.trouble.as_ref() != Some(&trouble) => {
                log::warn!("the former credentials stay in use: {trouble}");
                self.trouble = Some(trouble);
            }
            Err(_) => {}
        }
    }
}

fn for_signing(credentials: &config::Credentials) -> Credentials {
    let token = credentials.session_token.as_ref();
    Credentials::new(
        &credentials.access_key_id,
        credentials.secret_access_key.expose(),
        token.map(|token| token.expose().to_owned()),
        None,
        "voicebeatfs",
    )
}
