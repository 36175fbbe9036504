//! The buckets: every change is one call under one lock, so conditions and commits are atomic.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use md5::{Digest, Md5};

use crate::condition::{Conditions, Current};
use crate::content::Content;
use crate::dates;
use crate::error::{R2Error, R2Result};
use crate::history::{Author, History, Written};
use crate::key::Key;
use crate::upload::Upload;

/// All that the model remembers of its buckets.
#[derive(Debug)]
pub(crate) struct State {
    pub(crate) buckets: BTreeMap<String, Bucket>,
    pub(crate) rules: Rules,
    /// Streams of which what is received is kept as a window, without its bytes.
    pub(crate) streams: Vec<Arc<str>>,
}

/// What may differ between tests.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    /// The least size of every part but the last.
    pub(crate) min_part_bytes: u64,
    /// The most bytes that one request may write: a put, a copy, a part, a copied part.
    pub(crate) max_request_bytes: u64,
    /// The least time between two writes of one key.
    pub(crate) write_interval: Duration,
    /// Whether writes that come sooner are refused, and with which `Retry-After`.
    pub(crate) too_many_requests: Option<RetryAfter>,
}

impl Rules {
    /// Refuses what is too much for one request.
    pub(crate) fn check_length(&self, bytes: u64) -> R2Result<()> {
        if bytes <= self.max_request_bytes {
            return Ok(());
        }
        Err(R2Error::new(
            "EntityTooLarge",
            "Your proposed upload exceeds the maximum allowed object size.",
        ))
    }
}

/// What a 429 says about waiting.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RetryAfter {
    /// The answer has no `Retry-After` header.
    Absent,
    /// The header names this many seconds.
    Seconds(u64),
}

/// One bucket.
#[derive(Debug, Default)]
pub(crate) struct Bucket {
    /// By folded key, so the order is that of listings.
    pub(crate) objects: BTreeMap<String, Stored>,
    /// By upload id.
    pub(crate) uploads: BTreeMap<String, Upload>,
    pub(crate) uploads_begun: u64,
    /// When each client last wrote or deleted each folded key.
    last_write: HashMap<String, HashMap<String, Instant>>,
    /// How often each folded key was written, by anybody; deletes do not count.
    write_counts: HashMap<String, u64>,
    pub(crate) violations: Vec<RateViolation>,
    pub(crate) history: History,
}

/// Two writes of one key that came too close for R2.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct RateViolation {
    /// The key in its normal form.
    pub key: String,
    /// The time between the two writes.
    pub gap: Duration,
    /// The access key of the client that came too soon.
    pub client: String,
    /// The time since a write of that same client, if that was too short by itself.
    pub own_gap: Option<Duration>,
}

/// One object.
#[derive(Debug, Clone)]
pub(crate) struct Stored {
    pub(crate) spelled: String,
    pub(crate) content: Content,
    /// Without quotes.
    pub(crate) etag: String,
    pub(crate) last_modified: SystemTime,
    pub(crate) attributes: Attributes,
    /// The sizes of the parts; empty for an object written in one piece.
    pub(crate) part_sizes: Vec<u64>,
    /// What a reader gets who does not accept the object's coding.
    pub(crate) decoded: Option<Bytes>,
}

/// What is kept with an object besides its content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Attributes {
    /// `content-type` and its kin, by lower-case header name.
    pub(crate) system: BTreeMap<String, String>,
    /// `x-amz-meta-*`, by lower-case name without the prefix.
    pub(crate) user: BTreeMap<String, String>,
}

impl Stored {
    /// Makes an object written in one piece, with the MD5 of its bytes as ETag.
    pub(crate) fn of_bytes(bytes: Bytes, attributes: Attributes) -> Self {
        let etag = hex::encode(Md5::digest(&bytes));
        Self::new(Content::Bytes(bytes), etag, attributes)
    }

    pub(crate) fn new(content: Content, etag: String, attributes: Attributes) -> Self {
        Self {
            spelled: String::new(),
            content,
            etag,
            last_modified: dates::now(),
            attributes,
            part_sizes: Vec::new(),
            decoded: None,
        }
    }

    pub(crate) fn current(&self) -> Current<'_> {
        Current {
            etag: &self.etag,
            last_modified: self.last_modified,
        }
    }
}

impl State {
    pub(crate) fn bucket(&self, name: &str) -> R2Result<&Bucket> {
        self.buckets.get(name).ok_or_else(R2Error::no_such_bucket)
    }

    /// Returns the bucket to change it, together with the rules that changes obey.
    pub(crate) fn bucket_mut(&mut self, name: &str) -> R2Result<(&mut Bucket, &Rules)> {
        let bucket = self
            .buckets
            .get_mut(name)
            .ok_or_else(R2Error::no_such_bucket)?;
        Ok((bucket, &self.rules))
    }
}

impl Bucket {
    pub(crate) fn get(&self, key: &Key) -> R2Result<&Stored> {
        self.objects
            .get(&key.folded)
            .ok_or_else(R2Error::no_such_key)
    }

    /// Writes an object as a client does: rate, then conditions, then the commit.
    pub(crate) fn put(
        &mut self,
        key: &Key,
        object: Stored,
        conditions: &Conditions,
        author: &Author,
        rules: &Rules,
    ) -> R2Result<()> {
        self.check_rate(key, author, rules)?;
        conditions.check_write(self.objects.get(&key.folded).map(Stored::current))?;
        self.note_write(key, author, Some(&object));
        self.insert(key, object);
        Ok(())
    }

    /// Deletes an object as a client does; a missing one is no error.
    pub(crate) fn delete(&mut self, key: &Key, author: &Author, rules: &Rules) -> R2Result<()> {
        self.check_rate(key, author, rules)?;
        self.note_write(key, author, None);
        self.objects.remove(&key.folded);
        Ok(())
    }

    /// Puts the object in place, whoever wrote it.
    pub(crate) fn insert(&mut self, key: &Key, mut object: Stored) {
        object.spelled = key.spelled.clone();
        object.last_modified = dates::now();
        *self.write_counts.entry(key.folded.clone()).or_default() += 1;
        self.objects.insert(key.folded.clone(), object);
    }

    pub(crate) fn write_count(&self, key: &Key) -> u64 {
        self.write_counts
            .get(&key.folded)
            .copied()
            .unwrap_or_default()
    }

    /// Records, and if the rules say so refuses, a write that follows another too soon.
    pub(crate) fn check_rate(&mut self, key: &Key, author: &Author, rules: &Rules) -> R2Result<()> {
        let writes = self.last_write.get(&key.folded).into_iter().flatten();
        let gaps = writes.map(|(client, at)| (client, at.elapsed()));
        let gaps: Vec<_> = gaps
            .filter(|(_, gap)| *gap < rules.write_interval)
            .collect();
        let least = gaps.iter().map(|(_, gap)| *gap).min();
        let Some(gap) = least.filter(|_| !author.is_late) else {
            return Ok(());
        };
        let own = gaps.iter().find(|(client, _)| **client == author.client);
        self.violations.push(RateViolation {
            key: key.folded.clone(),
            gap,
            client: author.client.clone(),
            own_gap: own.map(|(_, gap)| *gap),
        });
        match rules.too_many_requests {
            None => Ok(()),
            Some(RetryAfter::Absent) => Err(R2Error::too_many_requests(None)),
            Some(RetryAfter::Seconds(seconds)) => Err(R2Error::too_many_requests(Some(seconds))),
        }
    }

    /// Enters a write in the history, and starts the interval in which R2 takes no other write of
    /// the key. One that a fault has made late starts none: its client cannot keep it.
    fn note_write(&mut self, key: &Key, author: &Author, object: Option<&Stored>) {
        if !author.is_late {
            let writes = self.last_write.entry(key.folded.clone()).or_default();
            writes.insert(author.client.clone(), Instant::now());
        }
        let before = self.objects.get(&key.folded);
        self.history.note(Written {
            at: SystemTime::now(),
            client: author.client.clone(),
            key: key.folded.clone(),
            replaced: before.map(|object| object.etag.clone()),
            now: object.map(|object| object.etag.clone()),
            metadata: object
                .map(|object| object.attributes.user.clone())
                .unwrap_or_default(),
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules() -> Rules {
        Rules {
            min_part_bytes: 1,
            max_request_bytes: u64::MAX,
            write_interval: Duration::from_secs(60),
            too_many_requests: None,
        }
    }

    fn object(text: &'static str) -> Stored {
        Stored::of_bytes(Bytes::from_static(text.as_bytes()), Attributes::default())
    }

    #[test]
    fn clients_are_told_apart() {
        let mut bucket = Bucket::default();
        let key = Key::new("a").expect("a key");
        let free = Conditions::default();
        let late = Author {
            is_late: true,
            ..Author::named("a")
        };
        for (text, author) in [
            ("1", Author::named("a")),
            ("2", Author::named("b")),
            ("3", late),
        ] {
            bucket
                .put(&key, object(text), &free, &author, &rules())
                .expect("written");
        }
        assert_eq!(bucket.violations.len(), 1, "a late write is nobody's haste");
        assert_eq!(bucket.violations[0].client, "b");
        assert_eq!(bucket.violations[0].own_gap, None);
        bucket
            .delete(&key, &Author::named("b"), &rules())
            .expect("deleted");
        assert!(bucket.violations[1].own_gap.is_some());
        let history = bucket.history.all();
        let tag = |text| Some(object(text).etag);
        let told: Vec<_> = history
            .iter()
            .map(|it| (it.client.as_str(), it.replaced.clone(), it.now.clone()))
            .collect();
        let wanted = [
            ("a", None, tag("1")),
            ("b", tag("1"), tag("2")),
            ("a", tag("2"), tag("3")),
            ("b", tag("3"), None),
        ];
        assert_eq!(told, wanted);
    }

    #[test]
    fn the_last_spelling_is_kept() {
        let mut bucket = Bucket::default();
        let composed = Key::new("\u{e9}").expect("a key");
        let decomposed = Key::new("e\u{301}").expect("a key");
        let free = Conditions::default();
        bucket
            .put(&composed, object("1"), &free, &Author::named("a"), &rules())
            .expect("written");
        bucket
            .put(
                &decomposed,
                object("2"),
                &free,
                &Author::named("a"),
                &rules(),
            )
            .expect("written");
        assert_eq!(bucket.objects.len(), 1);
        assert_eq!(bucket.get(&composed).expect("found").spelled, "e\u{301}");
        assert_eq!(bucket.write_count(&composed), 2);
        assert_eq!(bucket.violations.len(), 1);
    }

    #[test]
    fn a_hasty_write_is_refused_when_the_rules_say_so() {
        let mut bucket = Bucket::default();
        let key = Key::new("a").expect("a key");
        let strict = Rules {
            too_many_requests: Some(RetryAfter::Seconds(5)),
            ..rules()
        };
        bucket
            .put(
                &key,
                object("1"),
                &Conditions::default(),
                &Author::named("a"),
                &strict,
            )
            .expect("the first");
        let error = bucket
            .delete(&key, &Author::named("a"), &strict)
            .expect_err("the second");
        assert_eq!((error.status, error.retry_after), (429, Some(5)));
        assert_eq!(
            bucket.get(&key).expect("still there").etag,
            object("1").etag
        );
    }
}
