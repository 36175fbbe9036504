//! API tokens: who may do what.

use std::time::{Duration, SystemTime};

use crate::error::{R2Error, R2Result};
use crate::operation::{Operation, Target};

/// The four kinds of R2 API tokens.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Permission {
    /// Buckets and objects, all of it.
    AdminReadWrite,
    /// Reads of buckets, settings and objects.
    AdminReadOnly,
    /// Reads, writes and listings of objects.
    ObjectReadWrite,
    /// Reads and listings of objects.
    ObjectReadOnly,
}

/// An API token with its S3 credentials.
#[derive(Debug, Clone)]
pub struct Token {
    pub(crate) access_key: String,
    pub(crate) secret_key: String,
    pub(crate) permission: Permission,
    pub(crate) buckets: Option<Vec<String>>,
    pub(crate) session: Option<String>,
    pub(crate) expires_at: Option<SystemTime>,
}

impl Token {
    /// Makes a token that is good for all buckets and does not expire.
    pub fn new(access_key: &str, secret_key: &str, permission: Permission) -> Self {
        Self {
            access_key: access_key.to_owned(),
            secret_key: secret_key.to_owned(),
            permission,
            buckets: None,
            session: None,
            expires_at: None,
        }
    }

    /// Restricts the token to these buckets.
    pub fn for_buckets(mut self, buckets: &[&str]) -> Self {
        self.buckets = Some(buckets.iter().map(|&bucket| bucket.to_owned()).collect());
        self
    }

    /// Makes the token a temporary one: requests must carry the session token, and after the
    /// time given from now they are answered 401.
    pub fn session(mut self, session_token: &str, lifetime: Duration) -> Self {
        self.session = Some(session_token.to_owned());
        self.expires_at = Some(SystemTime::now() + lifetime);
        self
    }

    /// Checks that the token is alive and the session token, if one is needed, is right.
    pub(crate) fn check_session(&self, sent: Option<&str>) -> R2Result<()> {
        let expired = self.expires_at.is_some_and(|end| SystemTime::now() >= end);
        if expired || (self.session.is_some() && self.session.as_deref() != sent) {
            return Err(unauthorized());
        }
        Ok(())
    }

    /// Checks the right to the operation and to the bucket.
    pub(crate) fn check(&self, target: &Target) -> R2Result<()> {
        let operation = target.operation;
        let admin = matches!(
            self.permission,
            Permission::AdminReadWrite | Permission::AdminReadOnly
        );
        let writer = matches!(
            self.permission,
            Permission::AdminReadWrite | Permission::ObjectReadWrite
        );
        let changes = operation.is_write()
            || matches!(operation, Operation::CreateBucket | Operation::DeleteBucket);
        if (operation.is_administration() && !admin) || (changes && !writer) {
            return Err(R2Error::access_denied());
        }
        target
            .bucket
            .as_deref()
            .map_or(Ok(()), |bucket| self.check_bucket(bucket))
    }

    /// Checks the right to a bucket; a copy needs it for the source too.
    pub(crate) fn check_bucket(&self, bucket: &str) -> R2Result<()> {
        match &self.buckets {
            Some(buckets) if !buckets.iter().any(|name| name == bucket) => {
                Err(R2Error::access_denied())
            }
            _ => Ok(()),
        }
    }
}

/// The answer to credentials that R2 does not know, or no longer.
pub(crate) fn unauthorized() -> R2Error {
    R2Error::new("Unauthorized", "Unauthorized")
}

#[cfg(test)]
mod tests {
    use hyper::Method;

    use super::*;

    #[test]
    fn each_permission_has_its_bounds() {
        let get = Target::of(&Method::GET, "/b/k", None, false);
        let put = Target::of(&Method::PUT, "/b/k", None, false);
        let list = Target::of(&Method::GET, "/b", Some("list-type=2"), false);
        let head_bucket = Target::of(&Method::HEAD, "/b", None, false);
        let create = Target::of(&Method::PUT, "/b", None, false);
        let buckets = Target::of(&Method::GET, "/", None, false);
        let targets = [&get, &put, &list, &head_bucket, &create, &buckets];
        for (permission, allowed) in [
            (Permission::AdminReadWrite, [true; 6]),
            (
                Permission::AdminReadOnly,
                [true, false, true, true, false, true],
            ),
            (
                Permission::ObjectReadWrite,
                [true, true, true, false, false, false],
            ),
            (
                Permission::ObjectReadOnly,
                [true, false, true, false, false, false],
            ),
        ] {
            let token = Token::new("a", "s", permission);
            let found = targets.map(|target| token.check(target).is_ok());
            assert_eq!(found, allowed, "{permission:?}");
        }
        let bound = Token::new("a", "s", Permission::ObjectReadWrite).for_buckets(&["other"]);
        assert_eq!(
            bound.check(&get).expect_err("another bucket").code,
            "AccessDenied"
        );
    }

    #[test]
    fn a_session_ends() {
        let token = Token::new("a", "s", Permission::ObjectReadOnly);
        assert!(token.check_session(None).is_ok());
        let alive = token.clone().session("t", Duration::from_secs(60));
        assert!(alive.check_session(Some("t")).is_ok());
        assert_eq!(
            alive
                .check_session(None)
                .expect_err("no session token")
                .status,
            401
        );
        let dead = token.session("t", Duration::ZERO);
        assert_eq!(
            dead.check_session(Some("t")).expect_err("expired").status,
            401
        );
    }
}
