//! References in projects that are written in XML.

use quick_xml::XmlVersion;
use quick_xml::events::{BytesStart, Event};
use quick_xml::reader::Reader;

use super::{Found, MOST_REFERENCE_BYTES};

/// Shows the elements of a document in their order, until it ends, is no XML any more, or `look` has
/// seen enough.
fn elements(text: &[u8], mut look: impl FnMut(&BytesStart<'_>) -> bool) {
    let mut reader = Reader::from_reader(text);
    let config = reader.config_mut();
    config.check_end_names = false;
    config.allow_unmatched_ends = true;
    loop {
        match reader.read_event() {
            Ok(Event::Start(element) | Event::Empty(element)) => {
                if !look(&element) {
                    return;
                }
            }
            Ok(Event::Eof) | Err(_) => return,
            Ok(_) => {}
        }
    }
}

/// Returns an attribute of an element, unless it is too long for a path.
fn attribute(element: &BytesStart<'_>, name: &str) -> Option<String> {
    let attribute = element.try_get_attribute(name).ok()??;
    if attribute.value.len() > MOST_REFERENCE_BYTES {
        return None;
    }
    let value = attribute.normalized_value(XmlVersion::Implicit1_0).ok()?;
    Some(value.into_owned())
}

/// `<Source name="take.wav" type="audio"/>`: in the session, or with its whole path.
pub(super) fn ardour(text: &[u8], found: &mut Found) {
    elements(text, |element| match element.name().as_ref() {
        b"Source" => add(found, attribute(element, "name")),
        _ => true,
    });
}

/// `<audiofileprocessor src="drums/kick.wav"/>`, `<sampleclip src="…"/>` and others.
pub(super) fn lmms(text: &[u8], found: &mut Found) {
    elements(text, |element| add(found, attribute(element, "src")));
}

/// `<File path="…" external="true"/>`; what is not external lies in the project file.
pub(super) fn daw_project(text: &[u8], found: &mut Found) {
    elements(text, |element| {
        let is_external = element.name().as_ref() == b"File"
            && attribute(element, "external").as_deref() == Some("true");
        !is_external || add(found, attribute(element, "path"))
    });
}

/// `<FileRef><RelativePath Value="a/b.wav"/><Path Value="/a/b.wav"/></FileRef>`, and before Live 11
/// `<FileRef><RelativePath><RelativePathElement Dir="a"/>…</RelativePath><Name Value="b.wav"/></FileRef>`.
pub(super) fn live(text: &[u8], found: &mut Found) {
    let mut folder: Option<String> = None;
    elements(text, |element| match element.name().as_ref() {
        b"FileRef" => {
            folder = None;
            true
        }
        b"RelativePath" => match attribute(element, "Value") {
            Some(path) => add(found, Some(path)),
            None => {
                folder = Some(String::new());
                true
            }
        },
        b"RelativePathElement" => {
            if let Some((folder, name)) = folder.as_mut().zip(attribute(element, "Dir"))
                && folder.len() + name.len() < MOST_REFERENCE_BYTES
            {
                folder.push_str(if name.is_empty() { ".." } else { &name });
                folder.push('/');
            }
            true
        }
        b"Name" => match folder.take().zip(attribute(element, "Value")) {
            Some((folder, name)) => add(found, Some(folder + &name)),
            None => true,
        },
        b"Path" => add(found, attribute(element, "Value")),
        _ => true,
    });
}

/// Takes a reference if there is one; whether there is room for more.
fn add(found: &mut Found, reference: Option<String>) -> bool {
    found.add(&reference.unwrap_or_default())
}
