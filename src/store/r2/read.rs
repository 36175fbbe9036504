//! Answers to HEAD and GET: what they say, and that the bytes are the ones asked for.

use std::ops::Range;
use std::time::{Duration, SystemTime};

use aws_sdk_s3::operation::get_object::GetObjectOutput;
use aws_sdk_s3::primitives::{ByteStream, DateTime};
use bytes::Bytes;
use futures::stream::{self, BoxStream, StreamExt};

use super::super::{
    ETag, GetRequest, GetResponse, Key, ObjectInfo, ObjectVersion, Origin, ReadCondition,
    StoreError, StoreResult, UserMetadata,
};
use super::errors;

/// What HEAD and GET have in common.
pub(super) struct Told {
    pub(super) e_tag: Option<String>,
    pub(super) last_modified: Option<DateTime>,
    pub(super) content_type: Option<String>,
    pub(super) metadata: Option<std::collections::HashMap<String, String>>,
}

impl Told {
    /// Returns the object's description.
    pub(super) fn info(self, key: &Key, size: u64) -> StoreResult<ObjectInfo> {
        Ok(ObjectInfo {
            version: ObjectVersion {
                key: key.clone(),
                etag: tag(self.e_tag.as_deref())?,
            },
            size,
            last_modified: time(self.last_modified.as_ref()),
            content_type: self.content_type,
            metadata: UserMetadata::from_iter(self.metadata.unwrap_or_default()),
            origin: Origin::Primary,
        })
    }
}

/// Returns the tag. The edge marks the tag of an answer that it compressed as weak; the object's
/// own is never weak.
pub(super) fn tag(e_tag: Option<&str>) -> StoreResult<ETag> {
    e_tag
        .map(|tag| ETag::new(tag.strip_prefix("W/").unwrap_or(tag)))
        .ok_or_else(|| StoreError::Damaged("no ETag in the answer".into()))
}

/// Returns the time; the epoch when none was told.
pub(super) fn time(told: Option<&DateTime>) -> SystemTime {
    told.and_then(|time| SystemTime::try_from(*time).ok())
        .unwrap_or(SystemTime::UNIX_EPOCH)
}

/// Returns the size in an answer's `Content-Length`.
pub(super) fn size(content_length: Option<i64>) -> Option<u64> {
    content_length.and_then(|length| u64::try_from(length).ok())
}

/// Which bytes of a body are the ones asked for.
#[derive(Debug, PartialEq)]
pub(super) struct Window {
    /// Where they lie in the object.
    pub(super) range: Range<u64>,
    /// Size of the whole object.
    pub(super) size: u64,
    /// How many bytes of the body come before them.
    pub(super) skip: u64,
    /// Whether the body ends with them.
    pub(super) to_the_end: bool,
}

/// Fits an answer's range to the one asked for. `size` is that of the whole object where the
/// answer is no part of it; `None` means that the answer does not tell.
pub(super) fn window(
    asked: Option<&Range<u64>>,
    content_range: Option<&str>,
    content_length: Option<u64>,
) -> StoreResult<Option<Window>> {
    let damaged = |what: &str| {
        StoreError::Damaged(format!(
            "{what}: asked for {asked:?}, got {content_range:?}, {content_length:?} bytes"
        ))
    };
    let Some(content_range) = content_range else {
        let Some(size) = content_length else {
            return Ok(None);
        };
        // The whole object, be it asked for or in place of the range.
        let range = match asked {
            None => 0..size,
            Some(asked) if asked.start >= size => return Err(StoreError::InvalidRange),
            Some(asked) => asked.start..asked.end.min(size),
        };
        return Ok(Some(Window {
            skip: range.start,
            to_the_end: range.end == size,
            range,
            size,
        }));
    };
    let (range, size) = parse_content_range(content_range).ok_or_else(|| damaged("bad range"))?;
    let wanted = match asked {
        Some(asked) => asked.start..asked.end.min(size),
        None => 0..size,
    };
    if range != wanted {
        return Err(damaged("another range"));
    }
    if content_length.is_some_and(|length| length != range.end - range.start) {
        return Err(damaged("another length"));
    }
    Ok(Some(Window {
        range,
        size,
        skip: 0,
        to_the_end: true,
    }))
}

/// Parses `bytes 0-9/100`.
fn parse_content_range(text: &str) -> Option<(Range<u64>, u64)> {
    let (range, size) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (first, last, size): (u64, u64, u64) =
        (first.parse().ok()?, last.parse().ok()?, size.parse().ok()?);
    (first <= last && last < size).then_some((first..last + 1, size))
}

/// Makes the response of an answer whose bytes are known to be the right ones.
pub(super) fn respond(
    request: &GetRequest,
    output: GetObjectOutput,
    window: Window,
    idle: Duration,
) -> StoreResult<GetResponse> {
    let told = Told {
        e_tag: output.e_tag,
        last_modified: output.last_modified,
        content_type: output.content_type,
        metadata: output.metadata,
    };
    let info = told.info(&request.key, window.size)?;
    if let ReadCondition::IfMatch(wanted) = &request.condition
        && *wanted != info.version.etag
    {
        let found = &info.version.etag;
        return Err(StoreError::Damaged(format!(
            "version {found} although {wanted} was asked for"
        )));
    }
    let body = Body {
        bytes: output.body,
        skip: window.skip,
        left: window.range.end - window.range.start,
        to_the_end: window.to_the_end,
        idle,
        ended: false,
    };
    Ok(GetResponse {
        info,
        range: window.range,
        body: body.into_stream(),
    })
}

struct Body {
    bytes: ByteStream,
    /// Bytes still to be thrown away.
    skip: u64,
    /// Bytes still to be given.
    left: u64,
    /// Whether the body ends with the bytes asked for. It is then read to its end, so that the
    /// connection can be used again.
    to_the_end: bool,
    idle: Duration,
    ended: bool,
}

impl Body {
    fn into_stream(self) -> BoxStream<'static, StoreResult<Bytes>> {
        stream::unfold(self, |mut body| async move {
            let item = body.next().await?;
            body.ended |= item.is_err();
            Some((item, body))
        })
        .boxed()
    }

    async fn next(&mut self) -> Option<StoreResult<Bytes>> {
        while !self.ended {
            if self.left == 0 && !self.to_the_end {
                return None;
            }
            let chunk = tokio::time::timeout(self.idle, self.bytes.next()).await;
            if self.left == 0 {
                return self.check_end(chunk.ok().flatten());
            }
            match chunk {
                Err(_) => return Some(Err(unavailable("the download stands still".into()))),
                Ok(Some(Err(error))) => return Some(Err(unavailable(errors::chain(&error)))),
                Ok(None) => {
                    let missing = self.left;
                    return Some(Err(StoreError::Damaged(format!(
                        "the body ended {missing} bytes too early"
                    ))));
                }
                Ok(Some(Ok(chunk))) => {
                    let chunk = self.cut(chunk);
                    if !chunk.is_empty() {
                        return Some(Ok(chunk));
                    }
                }
            }
        }
        None
    }

    /// All bytes were given; what follows can only be the end. An error there hurts nobody.
    fn check_end<E>(&mut self, chunk: Option<Result<Bytes, E>>) -> Option<StoreResult<Bytes>> {
        self.ended = true;
        match chunk {
            Some(Ok(chunk)) if !chunk.is_empty() => {
                Some(Err(StoreError::Damaged("the body is too long".into())))
            }
            _ => None,
        }
    }

    fn cut(&mut self, mut chunk: Bytes) -> Bytes {
        let skipped = self.skip.min(chunk.len() as u64);
        self.skip -= skipped;
        let _ = chunk.split_to(skipped as usize);
        if chunk.len() as u64 > self.left {
            if self.to_the_end {
                // Longer than it may be: found when the end is looked for.
                self.bytes = ByteStream::from(chunk.split_off(self.left as usize));
            } else {
                chunk.truncate(self.left as usize);
            }
        }
        self.left -= chunk.len() as u64;
        chunk
    }
}

fn unavailable(message: String) -> StoreError {
    StoreError::Unavailable {
        message,
        retry_after: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_must_be_the_one_asked_for() {
        let fits = |asked: Option<Range<u64>>, content_range, length| {
            window(asked.as_ref(), content_range, length)
        };
        let found = fits(Some(10..20), Some("bytes 10-19/100"), Some(10));
        assert_eq!(found.unwrap().unwrap().range, 10..20);
        let found = fits(Some(90..200), Some("bytes 90-99/100"), None);
        assert_eq!(found.unwrap().unwrap().range, 90..100);
        for (content_range, length) in [
            ("bytes 10-18/100", None),
            ("bytes 10-20/100", None),
            ("bytes 0-9/100", None),
            ("bytes 10-19/100", Some(9)),
            ("bytes 10-19/*", None),
            ("bytes 19-10/100", None),
            ("10-19/100", None),
        ] {
            let found = fits(Some(10..20), Some(content_range), length);
            assert!(
                matches!(found, Err(StoreError::Damaged(_))),
                "{content_range}"
            );
        }
    }

    #[test]
    fn a_whole_object_in_place_of_a_range_is_cut() {
        let window = |asked: Range<u64>| window(Some(&asked), None, Some(100));
        let found = window(90..200).unwrap().unwrap();
        assert_eq!((found.range, found.size, found.skip), (90..100, 100, 90));
        assert!(matches!(window(100..101), Err(StoreError::InvalidRange)));
    }

    async fn read(skip: u64, left: u64, to_the_end: bool, bytes: &'static [u8]) -> String {
        let body = Body {
            bytes: ByteStream::from_static(bytes),
            skip,
            left,
            to_the_end,
            idle: Duration::from_secs(5),
            ended: false,
        };
        let items: Vec<_> = body.into_stream().collect().await;
        let show = |item: &StoreResult<Bytes>| match item {
            Ok(bytes) => String::from_utf8(bytes.to_vec()).unwrap(),
            Err(error) => format!("<{error}>"),
        };
        items.iter().map(show).collect()
    }

    #[tokio::test]
    async fn a_body_ends_with_an_error_unless_it_is_exact() {
        assert_eq!(read(0, 5, true, b"hello").await, "hello");
        assert_eq!(read(1, 3, false, b"hello").await, "ell");
        assert_eq!(read(0, 0, true, b"").await, "");
        assert!(
            read(0, 6, true, b"hello")
                .await
                .starts_with("hello<damaged")
        );
        assert!(read(0, 4, true, b"hello").await.starts_with("hell<damaged"));
    }
}
