//! The few XML documents that the model writes, and the two that it reads.

use s3s::dto::{CompletedMultipartUpload, Delete};
use s3s::xml::{Deserialize, Deserializer};

use crate::error::{R2Error, R2Result};

/// The first line of every document.
pub(crate) const DECLARATION: &str = "<?xml version=\"1.0\" encoding=\"UTF-8\"?>";

/// The name space of every document but errors.
pub(crate) const NAMESPACE: &str = "http://s3.amazonaws.com/doc/2006-03-01/";

/// Returns a document with one root element, whose content `fill` writes.
pub(crate) fn document(root: &str, fill: impl FnOnce(&mut String)) -> String {
    let mut out = format!("{DECLARATION}<{root} xmlns=\"{NAMESPACE}\">");
    fill(&mut out);
    out.push_str("</");
    out.push_str(root);
    out.push('>');
    out
}

/// Appends `<name>text</name>` with the text escaped.
pub(crate) fn element(out: &mut String, name: &str, text: &str) {
    nested(out, name, |out| escape(out, text));
}

/// Appends `<name>…</name>` with content that `fill` writes.
pub(crate) fn nested(out: &mut String, name: &str, fill: impl FnOnce(&mut String)) {
    out.push('<');
    out.push_str(name);
    out.push('>');
    fill(out);
    out.push_str("</");
    out.push_str(name);
    out.push('>');
}

fn escape(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '&' => out.push_str("&amp;"),
            '"' => out.push_str("&quot;"),
            // A bare control character would make the document invalid for a strict reader.
            c if (c as u32) < 0x20 && !matches!(c, '\t') => {
                out.push_str(&format!("&#x{:x};", c as u32));
            }
            c => out.push(c),
        }
    }
}

/// One part as a completion names it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct NamedPart {
    pub(crate) number: u32,
    /// The ETag without quotes.
    pub(crate) etag: String,
}

/// Reads the body of a CompleteMultipartUpload.
pub(crate) fn read_completion(body: &[u8]) -> R2Result<Vec<NamedPart>> {
    let document: CompletedMultipartUpload = read(body)?;
    let parts = document.parts.unwrap_or_default();
    let parts: Vec<NamedPart> = parts
        .into_iter()
        .map(|part| {
            let number = part
                .part_number
                .and_then(|number| u32::try_from(number).ok());
            let number = number.ok_or_else(R2Error::malformed_xml)?;
            let etag = part.e_tag.ok_or_else(R2Error::malformed_xml)?;
            Ok(NamedPart {
                number,
                etag: etag.value().to_owned(),
            })
        })
        .collect::<R2Result<_>>()?;
    if parts.is_empty() {
        return Err(R2Error::malformed_xml());
    }
    Ok(parts)
}

/// Reads the keys of a DeleteObjects body.
pub(crate) fn read_delete(body: &[u8]) -> R2Result<Vec<String>> {
    let document: Delete = read(body)?;
    Ok(document
        .objects
        .into_iter()
        .map(|object| object.key)
        .collect())
}

fn read<'body, T: Deserialize<'body>>(body: &'body [u8]) -> R2Result<T> {
    let mut deserializer = Deserializer::new(body);
    let document = T::deserialize(&mut deserializer).map_err(|_| R2Error::malformed_xml())?;
    deserializer
        .expect_eof()
        .map_err(|_| R2Error::malformed_xml())?;
    Ok(document)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_completion_is_read_with_and_without_quotes() {
        let body = b"<CompleteMultipartUpload><Part><PartNumber>2</PartNumber>\
            <ETag>&quot;b&quot;</ETag></Part><Part><PartNumber>1</PartNumber>\
            <ETag>\"a\"</ETag></Part></CompleteMultipartUpload>";
        let parts = read_completion(body).expect("the document is well formed");
        assert_eq!(
            parts[0],
            NamedPart {
                number: 2,
                etag: "b".into()
            }
        );
        assert_eq!(
            parts[1],
            NamedPart {
                number: 1,
                etag: "a".into()
            }
        );
    }

    #[test]
    fn broken_documents_are_refused() {
        assert_eq!(
            read_completion(b"<Complete").expect_err("cut short").code,
            "MalformedXML"
        );
        assert_eq!(
            read_completion(b"<CompleteMultipartUpload></CompleteMultipartUpload>")
                .expect_err("no part")
                .code,
            "MalformedXML"
        );
    }

    #[test]
    fn a_delete_gives_its_keys() {
        let body = b"<Delete><Object><Key>a&amp;b</Key></Object><Quiet>true</Quiet></Delete>";
        assert_eq!(
            read_delete(body).expect("the document is well formed"),
            ["a&b"]
        );
    }
}
