//! Faults as a test writes them: what goes wrong, and for which requests.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;

use crate::error::{R2Error, status_of};
use crate::operation::Operation;
use crate::other_client::OtherClient;

/// What goes wrong with a request.
#[derive(Debug, Clone)]
pub enum Fault {
    /// The request is not carried out; this happens instead.
    Instead(Ending),
    /// The request is carried out, committed, and its answer thrown away for this.
    Lost(Ending),
    /// The body is taken, the connection cut, and the request carried out so much later.
    LateCommit(Duration),
    /// The connection is cut once so many bytes of the request's body are in; nothing is stored.
    CutUpload(u64),
    /// The condition of the write fails, whatever it says; a completion then ends its upload.
    ConditionFails,
    /// A closure runs just before the request is carried out.
    Hook(Hook),
    /// The request is carried out after a random time between these two.
    Latency {
        /// At least this long.
        least: Duration,
        /// At most this long.
        most: Duration,
    },
    /// The request is carried out at once, and its answer begins so much later.
    SlowFirstByte(Duration),
    /// The body of the answer flows at so many bytes a second.
    SlowBody(u64),
    /// The body of the answer stops for a while.
    Stall {
        /// After so many bytes.
        after: u64,
        /// For so long.
        pause: Duration,
    },
    /// The connection is cut after so many bytes of the answer's body.
    CutBody(u64),
    /// The body of the answer ends cleanly after so many bytes, and no length was announced.
    EndBody(u64),
    /// One bit of the answer's body at this offset is wrong.
    FlipBit(u64),
    /// The range served ends so many bytes later (or earlier) than the one asked for.
    RangeEndMoved(i64),
    /// The range is ignored: 200 and the whole object.
    WholeObject,
    /// The answer names no `Content-Length`.
    NoContentLength,
    /// A listing page has at most so many entries, though more follow; 0 for an empty page.
    ShortPage(usize),
}

/// How a request ends that does not get its own answer.
#[derive(Debug, Clone)]
pub enum Ending {
    /// The connection is closed.
    Cut,
    /// The connection is reset.
    Reset,
    /// Nothing comes for so long, then the connection is closed.
    Silence(Duration),
    /// Another answer.
    Reply(Reply),
}

/// A made-up answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Reply {
    pub(crate) status: u16,
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) body: Bytes,
}

/// A closure that lets another client in.
#[derive(Clone)]
pub struct Hook(pub(crate) Arc<dyn Fn(&OtherClient) + Send + Sync>);

impl fmt::Debug for Hook {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Hook")
    }
}

impl Fault {
    /// Answers with one of R2's errors and does nothing.
    pub fn error(code: &str) -> Self {
        Self::Instead(Ending::Reply(Reply::error(code)))
    }

    /// Answers 429 and does nothing; `retry_after` is in seconds.
    pub fn too_many_requests(retry_after: Option<u64>) -> Self {
        let reply = Reply::error("TooManyRequests");
        Self::Instead(Ending::Reply(match retry_after {
            Some(seconds) => reply.header("retry-after", &seconds.to_string()),
            None => reply,
        }))
    }

    /// Answers with another reply and does nothing.
    pub fn reply(reply: Reply) -> Self {
        Self::Instead(Ending::Reply(reply))
    }

    /// Commits, then answers with one of R2's errors.
    pub fn lost_to_error(code: &str) -> Self {
        Self::Lost(Ending::Reply(Reply::error(code)))
    }

    /// Runs a closure just before the request is carried out. It may block.
    pub fn before(hook: impl Fn(&OtherClient) + Send + Sync + 'static) -> Self {
        Self::Hook(Hook(Arc::new(hook)))
    }

    /// Carries the request out so much later.
    pub fn latency(time: Duration) -> Self {
        Self::Latency {
            least: time,
            most: time,
        }
    }

    /// Returns the name that the log of requests shows.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Instead(_) => "instead",
            Self::Lost(_) => "lost",
            Self::LateCommit(_) => "late commit",
            Self::CutUpload(_) => "cut upload",
            Self::ConditionFails => "condition fails",
            Self::Hook(_) => "hook",
            Self::Latency { .. } => "latency",
            Self::SlowFirstByte(_) => "slow first byte",
            Self::SlowBody(_) => "slow body",
            Self::Stall { .. } => "stall",
            Self::CutBody(_) => "cut body",
            Self::EndBody(_) => "end body",
            Self::FlipBit(_) => "flip bit",
            Self::RangeEndMoved(_) => "range end moved",
            Self::WholeObject => "whole object",
            Self::NoContentLength => "no content length",
            Self::ShortPage(_) => "short page",
        }
    }
}

impl Reply {
    /// One of R2's errors, with its own status.
    pub fn error(code: &str) -> Self {
        Self::error_with_status(status_of(code), code)
    }

    /// One of R2's errors under another status; under 200 it is the one that copies and
    /// completions may end with.
    pub fn error_with_status(status: u16, code: &str) -> Self {
        let body = R2Error::new(code, "A fault of the R2 model.").body();
        Self::xml(status, body)
    }

    /// A page as Cloudflare's edge shows it, for 502, 520 and their kin.
    pub fn html(status: u16) -> Self {
        let page = format!(
            "<!DOCTYPE html>\n<html><head><title>{status}: Error</title></head>\
             <body><h1>Error {status}</h1><p>Ray ID: 0000000000000000</p></body></html>\n"
        );
        Self::empty(status)
            .header("content-type", "text/html; charset=UTF-8")
            .body(page)
    }

    /// A status without a body.
    pub fn empty(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Bytes::new(),
        }
    }

    /// Adds a header.
    pub fn header(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Sets the body.
    pub fn body(mut self, body: impl Into<Bytes>) -> Self {
        self.body = body.into();
        self
    }

    fn xml(status: u16, body: String) -> Self {
        Self::empty(status)
            .header("content-type", "application/xml")
            .body(body)
    }
}

/// A fault, and the requests that it strikes: all of them, until narrowed down.
///
/// Operations and key choose the requests that match; the rest chooses among those, counted from
/// 1 since the rule was added. All that is said must hold.
#[derive(Debug, Clone)]
pub struct FaultRule {
    pub(crate) fault: Fault,
    pub(crate) operations: Vec<Operation>,
    pub(crate) key: KeyPattern,
    pub(crate) first: u64,
    pub(crate) last: u64,
    pub(crate) every: u64,
    pub(crate) probability: f64,
    pub(crate) seed: u64,
    pub(crate) lasting: Option<Duration>,
}

/// Which keys a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum KeyPattern {
    Any,
    Exactly(String),
    Prefix(String),
    Suffix(String),
    Containing(String),
}

impl KeyPattern {
    pub(crate) fn matches(&self, key: Option<&str>) -> bool {
        let key = key.unwrap_or_default();
        match self {
            Self::Any => true,
            Self::Exactly(text) => key == text,
            Self::Prefix(text) => key.starts_with(text.as_str()),
            Self::Suffix(text) => key.ends_with(text.as_str()),
            Self::Containing(text) => key.contains(text.as_str()),
        }
    }
}

impl FaultRule {
    /// Strikes every request.
    pub fn new(fault: Fault) -> Self {
        Self {
            fault,
            operations: Vec::new(),
            key: KeyPattern::Any,
            first: 1,
            last: u64::MAX,
            every: 1,
            probability: 1.0,
            seed: 0,
            lasting: None,
        }
    }

    /// Only these operations.
    pub fn on(mut self, operations: &[Operation]) -> Self {
        self.operations.extend_from_slice(operations);
        self
    }

    /// Only this key, as the client spells it; of a copy the destination, of a listing the prefix.
    pub fn key(mut self, key: &str) -> Self {
        self.key = KeyPattern::Exactly(key.to_owned());
        self
    }

    /// Only keys that start so.
    pub fn key_prefix(mut self, prefix: &str) -> Self {
        self.key = KeyPattern::Prefix(prefix.to_owned());
        self
    }

    /// Only keys that end so.
    pub fn key_suffix(mut self, suffix: &str) -> Self {
        self.key = KeyPattern::Suffix(suffix.to_owned());
        self
    }

    /// Only keys that hold this.
    pub fn key_containing(mut self, text: &str) -> Self {
        self.key = KeyPattern::Containing(text.to_owned());
        self
    }

    /// Only the nth match.
    pub fn nth(self, number: u64) -> Self {
        self.from_nth(number).up_to(number)
    }

    /// Only the first match.
    pub fn once(self) -> Self {
        self.nth(1)
    }

    /// Only the nth match and those after it.
    pub fn from_nth(mut self, number: u64) -> Self {
        self.first = number;
        self
    }

    /// Only the first so many matches.
    pub fn up_to(mut self, number: u64) -> Self {
        self.last = number;
        self
    }

    /// Only every nth match.
    pub fn every(mut self, number: u64) -> Self {
        self.every = number.max(1);
        self
    }

    /// Only a share of the matches, from 0 to 1; the same ones for the same seed and order.
    pub fn chance(mut self, probability: f64, seed: u64) -> Self {
        self.probability = probability;
        self.seed = seed;
        self
    }

    /// Only for so long since the rule was added.
    pub fn lasting(mut self, time: Duration) -> Self {
        self.lasting = Some(time);
        self
    }
}
