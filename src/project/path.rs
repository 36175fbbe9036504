//! Where a reference leads: to a path below the mount point, or to nothing that is ours.

/// Returns the path below the mount point that `reference` means in a project in `folder` (a path below
/// the mount point too); `None` if it leads out of the mount.
///
/// It may be absolute, relative to the project, or a `file` URL; and written on Windows.
pub fn resolve(reference: &str, folder: &str, mountpoint: &str) -> Option<String> {
    let decoded;
    let plain = match file_url(reference) {
        Some(path) => {
            decoded = percent_decoded(path)?;
            &decoded
        }
        // Of LMMS: beside the project.
        None => reference.strip_prefix("local:").unwrap_or(reference),
    };
    let turned;
    let plain = match plain.contains('/') {
        true => plain,
        // A file here may have a backslash in its name; then it is not found.
        false => {
            turned = plain.replace('\\', "/");
            &turned
        }
    };
    let mut names: Vec<&str> = Vec::new();
    if plain.starts_with('/') {
        walk(plain, &mut names)?;
        let mut above = Vec::new();
        walk(mountpoint, &mut above)?;
        names = names.strip_prefix(&above[..])?.to_vec();
    } else {
        walk(folder, &mut names)?;
        walk(plain, &mut names)?;
    }
    let is_name = |name: &&str| !name.contains('\0');
    (!names.is_empty() && names.iter().all(is_name)).then(|| names.join("/"))
}

/// Goes along a path; `None` above the top.
fn walk<'a>(path: &'a str, names: &mut Vec<&'a str>) -> Option<()> {
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." => drop(names.pop()?),
            _ => names.push(name),
        }
    }
    Some(())
}

/// Returns the path of a `file` URL, still encoded.
fn file_url(reference: &str) -> Option<&str> {
    let (scheme, rest) = reference.split_at_checked(7)?;
    if !scheme.eq_ignore_ascii_case("file://") {
        return None;
    }
    let path = rest.strip_prefix("localhost").unwrap_or(rest);
    path.starts_with('/').then_some(path)
}

fn percent_decoded(text: &str) -> Option<String> {
    let decoded = percent_encoding::percent_decode_str(text).decode_utf8();
    decoded.ok().map(|text| text.into_owned())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn resolved(reference: &str) -> Option<String> {
        resolve(reference, "projects/song", "/mnt/vb")
    }

    #[test]
    fn references_lead_to_paths_of_the_mount() {
        for (reference, path) in [
            ("a.wav", "projects/song/a.wav"),
            ("./Media//a b.wav", "projects/song/Media/a b.wav"),
            ("../../segments/x.wav", "segments/x.wav"),
            ("..\\..\\layers\\x.wav", "layers/x.wav"),
            ("local:kick.wav", "projects/song/kick.wav"),
            ("/mnt/vb/segments/x.wav", "segments/x.wav"),
            ("/mnt//vb/./segments/../layers/x.wav", "layers/x.wav"),
            (
                "file:///mnt/vb/layers/a%20b%C3%A9.wav",
                "layers/a b\u{e9}.wav",
            ),
            ("FILE://localhost/mnt/vb/layers/x.wav", "layers/x.wav"),
            ("100%25.wav", "projects/song/100%25.wav"),
            (
                "\u{65e5}\u{672c}\u{8a9e}.wav",
                "projects/song/\u{65e5}\u{672c}\u{8a9e}.wav",
            ),
        ] {
            assert_eq!(resolved(reference).as_deref(), Some(path), "{reference}");
        }
    }

    #[test]
    fn what_leads_out_of_the_mount_is_nothing() {
        for reference in [
            "../../../etc/passwd",
            "../../segments/../../../etc/passwd",
            "/etc/passwd",
            "/mnt/vb2/segments/x.wav",
            "/mnt/vb/../../etc/passwd",
            "/mnt/vb",
            "/../mnt/vb/a",
            "file:///etc/passwd",
            "file:///mnt/vb/%ff.wav",
            "file:///mnt/vb/segments/%2e%2e/%2e%2e/%2e%2e/etc/passwd",
            "file:///mnt/vb/segments/a%00.wav",
            "../..",
        ] {
            assert_eq!(resolved(reference), None, "{reference}");
        }
    }

    proptest! {
        #[test]
        fn no_reference_leads_out(
            parts in prop::collection::vec("[a./\\\\%2e0\\PC]{0,6}", 0..8),
            start in prop::sample::select(&["", "/", "/mnt/vb/", "file://", "file:///mnt/vb/"][..]),
        ) {
            if let Some(path) = resolved(&format!("{start}{}", parts.join("/"))) {
                prop_assert!(!path.is_empty() && !path.contains('\0'));
                for name in path.split('/') {
                    prop_assert!(!["", ".", ".."].contains(&name), "{}", path);
                }
            }
        }
    }
}
