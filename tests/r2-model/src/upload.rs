//! Multipart uploads: parts, the rules they must keep, and completion.

use std::collections::BTreeMap;
use std::time::SystemTime;

use md5::{Digest, Md5};

use crate::condition::Conditions;
use crate::content::Content;
use crate::dates;
use crate::error::{R2Error, R2Result};
use crate::history::Author;
use crate::key::Key;
use crate::state::{Attributes, Bucket, Rules, Stored};
use crate::xml::NamedPart;

/// The largest part number.
pub(crate) const MAX_PARTS: u32 = 10_000;

/// A multipart upload that is neither completed nor aborted.
#[derive(Debug, Clone)]
pub(crate) struct Upload {
    pub(crate) key: Key,
    pub(crate) attributes: Attributes,
    pub(crate) begun: SystemTime,
    pub(crate) parts: BTreeMap<u32, Part>,
}

/// One uploaded part.
#[derive(Debug, Clone)]
pub(crate) struct Part {
    pub(crate) content: Content,
    pub(crate) md5: [u8; 16],
    pub(crate) last_modified: SystemTime,
}

impl Part {
    pub(crate) fn new(content: Content, md5: [u8; 16]) -> Self {
        Self {
            content,
            md5,
            last_modified: dates::now(),
        }
    }

    pub(crate) fn etag(&self) -> String {
        hex::encode(self.md5)
    }
}

impl Bucket {
    /// Opens an upload and returns its id.
    pub(crate) fn begin_upload(
        &mut self,
        key: &Key,
        attributes: Attributes,
        conditions: &Conditions,
    ) -> R2Result<String> {
        conditions.check_write(self.objects.get(&key.folded).map(Stored::current))?;
        self.uploads_begun += 1;
        let id = format!("upload-{:06}", self.uploads_begun);
        let begun = dates::now();
        let upload = Upload {
            key: key.clone(),
            attributes,
            begun,
            parts: BTreeMap::new(),
        };
        self.uploads.insert(id.clone(), upload);
        Ok(id)
    }

    /// Returns an open upload of this key.
    pub(crate) fn upload(&self, key: &Key, id: &str) -> R2Result<&Upload> {
        let upload = self.uploads.get(id).ok_or_else(R2Error::no_such_upload)?;
        if upload.key.folded == key.folded {
            Ok(upload)
        } else {
            Err(R2Error::no_such_upload())
        }
    }

    /// Keeps a part; one sent before under the number is replaced.
    pub(crate) fn put_part(
        &mut self,
        key: &Key,
        id: &str,
        number: u32,
        part: Part,
    ) -> R2Result<()> {
        self.upload(key, id)?;
        if let Some(upload) = self.uploads.get_mut(id) {
            upload.parts.insert(number, part);
        }
        Ok(())
    }

    /// Makes the object of the named parts and returns its ETag.
    ///
    /// A condition that fails ends the upload; parts that do not fit leave it open.
    pub(crate) fn complete_upload(
        &mut self,
        key: &Key,
        id: &str,
        named: Vec<NamedPart>,
        conditions: &Conditions,
        author: &Author,
        rules: &Rules,
    ) -> R2Result<String> {
        let upload = self.upload(key, id)?;
        let parts = chosen_parts(upload, named)?;
        check_sizes(&parts, rules.min_part_bytes)?;
        let object = assemble(&parts, upload.attributes.clone());
        let key = Key {
            folded: key.folded.clone(),
            spelled: upload.key.spelled.clone(),
        };
        let etag = object.etag.clone();
        let outcome = self.put(&key, object, conditions, author, rules);
        if !matches!(&outcome, Err(error) if error.status == 429) {
            self.uploads.remove(id);
        }
        outcome.map(|()| etag)
    }
}

/// Returns the parts that a completion names, in order of their numbers.
fn chosen_parts(upload: &Upload, mut named: Vec<NamedPart>) -> R2Result<Vec<Part>> {
    named.sort_by_key(|part| part.number);
    if named
        .windows(2)
        .any(|pair| pair[0].number == pair[1].number)
    {
        return Err(R2Error::invalid_part("A part is named twice."));
    }
    named
        .iter()
        .map(|name| {
            let part = upload.parts.get(&name.number);
            part.filter(|part| part.etag() == name.etag)
                .cloned()
                .ok_or_else(|| {
                    R2Error::invalid_part("One or more of the specified parts could not be found.")
                })
        })
        .collect()
}

/// R2's rule: all parts of one size, the last at most that size; none but the last too small.
fn check_sizes(parts: &[Part], min_part_bytes: u64) -> R2Result<()> {
    let Some((last, others)) = parts.split_last() else {
        return Ok(());
    };
    let Some(size) = others.first().map(|part| part.content.len()) else {
        return Ok(());
    };
    if others.iter().any(|part| part.content.len() != size) || last.content.len() > size {
        return Err(R2Error::invalid_part(
            "All non-trailing parts must have the same length.",
        ));
    }
    if size < min_part_bytes {
        return Err(R2Error::new(
            "EntityTooSmall",
            "Your proposed upload is smaller than the minimum allowed object size.",
        ));
    }
    Ok(())
}

fn assemble(parts: &[Part], attributes: Attributes) -> Stored {
    let mut digest = Md5::new();
    for part in parts {
        digest.update(part.md5);
    }
    let etag = format!("{}-{}", hex::encode(digest.finalize()), parts.len());
    let pieces: Vec<Content> = parts.iter().map(|part| part.content.clone()).collect();
    let part_sizes = pieces.iter().map(Content::len).collect();
    let mut object = Stored::new(Content::Joined(pieces.into()), etag, attributes);
    object.part_sizes = part_sizes;
    object
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use bytes::Bytes;
    use hyper::HeaderMap;

    use super::*;

    const RULES: Rules = Rules {
        min_part_bytes: 4,
        max_request_bytes: u64::MAX,
        write_interval: Duration::ZERO,
        too_many_requests: None,
    };

    struct Case {
        bucket: Bucket,
        key: Key,
        id: String,
    }

    impl Case {
        fn new(parts: &[&'static str]) -> Self {
            let mut bucket = Bucket::default();
            let key = Key::new("take.wav").expect("a key");
            let free = Conditions::default();
            let id = bucket
                .begin_upload(&key, Attributes::default(), &free)
                .expect("begun");
            for (index, text) in parts.iter().enumerate() {
                let bytes = Bytes::from_static(text.as_bytes());
                let md5 = Md5::digest(&bytes).into();
                let part = Part::new(Content::Bytes(bytes), md5);
                bucket
                    .put_part(&key, &id, index as u32 + 1, part)
                    .expect("kept");
            }
            Self { bucket, key, id }
        }

        fn names(&self) -> Vec<NamedPart> {
            let upload = self.bucket.upload(&self.key, &self.id).expect("open");
            let name = |(number, part): (&u32, &Part)| NamedPart {
                number: *number,
                etag: part.etag(),
            };
            upload.parts.iter().map(name).collect()
        }

        fn complete(&mut self, named: Vec<NamedPart>, conditions: &Conditions) -> R2Result<String> {
            self.bucket.complete_upload(
                &self.key,
                &self.id,
                named,
                conditions,
                &Author::named("a"),
                &RULES,
            )
        }

        fn code(&mut self, named: Vec<NamedPart>) -> String {
            self.complete(named, &Conditions::default())
                .expect_err("refused")
                .code
        }
    }

    #[test]
    fn parts_in_any_order_make_the_object() {
        let mut case = Case::new(&["aaaa", "bbbb", "c"]);
        let mut names = case.names();
        names.reverse();
        let etag = case
            .complete(names.clone(), &Conditions::default())
            .expect("completed");
        let mut digest = Md5::new();
        for text in ["aaaa", "bbbb", "c"] {
            digest.update(Md5::digest(text));
        }
        assert_eq!(etag, format!("{}-3", hex::encode(digest.finalize())));
        let object = case.bucket.get(&case.key).expect("stored");
        assert_eq!(object.content.read(0..9), "aaaabbbbc");
        assert_eq!(case.code(names), "NoSuchUpload");
    }

    #[test]
    fn sizes_are_checked_at_completion_and_leave_the_upload_open() {
        for (parts, code) in [
            (&["aaaa", "bbb", "c"][..], "InvalidPart"),
            (&["aaaa", "bbbbb"], "InvalidPart"),
            (&["aaa", "bbb"], "EntityTooSmall"),
        ] {
            let mut case = Case::new(parts);
            let names = case.names();
            assert_eq!(case.code(names), code, "{parts:?}");
            assert_eq!(case.bucket.uploads.len(), 1);
        }
        let mut small = Case::new(&["a"]);
        let names = small.names();
        assert!(small.complete(names, &Conditions::default()).is_ok());
    }

    #[test]
    fn wrong_missing_and_doubled_parts_are_refused() {
        let mut case = Case::new(&["aaaa", "bbbb"]);
        let names = case.names();
        let mut wrong = names.clone();
        wrong[1].etag = "0".repeat(32);
        assert_eq!(case.code(wrong), "InvalidPart");
        let mut missing = names.clone();
        missing[1].number = 7;
        assert_eq!(case.code(missing), "InvalidPart");
        assert_eq!(
            case.code(vec![names[0].clone(), names[0].clone()]),
            "InvalidPart"
        );
    }

    #[test]
    fn a_failed_condition_ends_the_upload() {
        let mut case = Case::new(&["aaaa"]);
        let mut headers = HeaderMap::new();
        headers.insert("if-match", "\"x\"".parse().expect("a value"));
        let conditions = Conditions::from_headers(&headers, "").expect("conditions");
        let names = case.names();
        assert_eq!(
            case.complete(names, &conditions)
                .expect_err("refused")
                .status,
            412
        );
        assert!(case.bucket.uploads.is_empty());
        assert!(case.bucket.objects.is_empty());
    }
}
