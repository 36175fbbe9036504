//! What requests to the bucket are signed with, and the file of its own in which it may stand.
//!
//! The file has the syntax of an env file. It can be replaced while the mount goes on, so that keys
//! are rotated, and temporary ones renewed, without a remount.

use std::fmt;
use std::path::PathBuf;

use super::Secret;
use super::env_file::{self, EnvFile, OpenError};
use super::value::Invalid;

/// The settings that belong together, since one token has them all.
pub(super) const CREDENTIALS: [&str; 3] = [
    "R2_ACCESS_KEY_ID",
    "R2_SECRET_ACCESS_KEY",
    "R2_SESSION_TOKEN",
];

/// What requests are signed with.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Credentials {
    /// Who signs.
    pub access_key_id: String,
    /// What is signed with.
    pub secret_access_key: Secret,
    /// The token that belongs to temporary credentials.
    pub session_token: Option<Secret>,
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Credentials(***)")
    }
}

/// A file that holds credentials (`R2_CREDENTIALS_FILE`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CredentialsFile {
    path: PathBuf,
    /// The user whose file is trusted beside root's.
    uid: u32,
}

impl CredentialsFile {
    /// Names the file, for a process of user `uid`.
    pub fn new(path: PathBuf, uid: u32) -> Self {
        Self { path, uid }
    }

    /// Returns where it lies.
    pub fn path(&self) -> &PathBuf {
        &self.path
    }

    pub(super) fn open(&self) -> Result<EnvFile, String> {
        match env_file::read("the credentials file", &self.path, self.uid) {
            Ok(file) => Ok(file),
            Err(OpenError::Absent(text) | OpenError::Refused(text)) => Err(text),
        }
    }

    /// Returns the credentials that it holds now, or says why it cannot be used.
    pub fn read(&self) -> Result<Credentials, String> {
        let opened = self.open()?;
        let shown = self.path.display();
        let (assignments, errors) = env_file::parse(&opened.text);
        if let Some(error) = errors.first() {
            return Err(format!("{shown}:{}: {}", error.line, error.reason));
        }
        let text = |name: &str| {
            let last = assignments.iter().rev().find(|found| found.name == name);
            last.map(|found| found.value.trim())
                .filter(|text| !text.is_empty())
        };
        let [id, key, token] = CREDENTIALS;
        let missing = |name: &str| format!("the credentials file {shown} has no {name}");
        let wrong = |name: &str, reason: Invalid| {
            format!("{name} in {shown} {}", reason.unwrap_or_default())
        };
        let id_text = text(id).ok_or_else(|| missing(id))?;
        let key_text = text(key).ok_or_else(|| missing(key))?;
        let session_token = text(token).map(secret).transpose();
        Ok(Credentials {
            access_key_id: access_key(id_text).map_err(|reason| wrong(id, reason))?,
            secret_access_key: secret(key_text).map_err(|reason| wrong(key, reason))?,
            session_token: session_token.map_err(|reason| wrong(token, reason))?,
        })
    }
}

/// Reads an access key id. The one mistake that can be told by looking is the swap of the two.
pub(super) fn access_key(text: &str) -> Result<String, Invalid> {
    match () {
        () if !is_token(text) => Err(Some("has blanks or other strange characters in it".into())),
        () if text.len() == 64 => Err(Some(
            "has 64 characters, as a Secret Access Key: an Access Key ID of R2 has 32".into(),
        )),
        () => Ok(text.into()),
    }
}

/// Reads a secret.
pub(super) fn secret(text: &str) -> Result<Secret, Invalid> {
    match is_token(text) {
        true => Ok(Secret::new(text)),
        false => Err(Some("has blanks or other strange characters in it".into())),
    }
}

fn is_token(text: &str) -> bool {
    text.bytes().all(|b| b.is_ascii_graphic())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn printed_for_debugging_they_tell_nothing() {
        let credentials = Credentials {
            access_key_id: "key-id".into(),
            secret_access_key: Secret::new("secret"),
            session_token: Some(Secret::new("token")),
        };
        assert_eq!(format!("{credentials:#?}"), "Credentials(***)");
    }
}
