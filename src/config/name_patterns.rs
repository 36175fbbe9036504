//! File names by pattern: which files stay on this disk, and which are not expected to last.

use globset::{GlobBuilder, GlobSet};

/// A set of file names, and of names of folders with all that is in them. `*` stands for anything, `?` for
/// one character, `[a-z]` for one of these; upper and lower case are alike.
#[derive(Clone, Debug, Default)]
pub struct NamePatterns {
    files: GlobSet,
    folders: GlobSet,
}

impl NamePatterns {
    /// Reads patterns separated by commas, or "none". One that ends in `/` is of folders, and of no file: a
    /// folder of takes may be called as files are that nobody needs.
    ///
    /// # Errors
    /// Which pattern is none, and why.
    pub fn parse(text: &str) -> Result<NamePatterns, String> {
        let (mut files, mut folders) = (GlobSet::builder(), GlobSet::builder());
        for pattern in text.split(',').map(str::trim).filter(|_| text != "none") {
            let (set, name) = match pattern.strip_suffix('/') {
                Some(name) => (&mut folders, name),
                None => (&mut files, pattern),
            };
            if matches!(name, "" | "*" | "**") {
                let what = "which names nothing or everything";
                return Err(format!("has {pattern:?} in it, {what}"));
            }
            if name.contains('/') {
                return Err(format!(
                    "has {pattern:?} in it, which is a path and no name"
                ));
            }
            let glob = GlobBuilder::new(name).case_insensitive(true).build();
            set.add(glob.map_err(|error| format!("has {pattern:?} in it: {}", error.kind()))?);
        }
        let built = |set: globset::GlobSetBuilder| set.build().map_err(|error| error.to_string());
        Ok(NamePatterns {
            files: built(files)?,
            folders: built(folders)?,
        })
    }

    /// Reads patterns of files alone.
    ///
    /// # Errors
    /// As [`NamePatterns::parse`].
    pub fn parse_files(text: &str) -> Result<NamePatterns, String> {
        let names = NamePatterns::parse(text)?;
        match names.folders.is_empty() {
            true => Ok(names),
            false => Err("must not have names of folders in it".into()),
        }
    }

    /// Whether a path has the name of such a file, or leads through such a folder. That of a folder itself ends
    /// in `/`.
    pub fn has(&self, path: &str) -> bool {
        let (folders, name) = path.rsplit_once('/').unwrap_or(("", path));
        let mut folders = folders.split('/');
        self.files.is_match(name) || folders.any(|folder| self.folders.is_match(folder))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_told_by_pattern() {
        let names = NamePatterns::parse("._*, Thumbs.db,*.reapeaks,.*.??????").unwrap();
        for name in ["._take.wav", "thumbs.db", "a.wav.reapeaks", ".a.wav.X1y2Z3"] {
            assert!(names.has(name), "{name}");
        }
        for name in [
            "take.wav",
            "Thumbs.db.wav",
            "reapeaks",
            ".a.wav",
            "a.X1y2Z3",
        ] {
            assert!(!names.has(name), "{name}");
        }
        assert!(names.has("projects/a/._b.wav"));
        assert!(!names.has("projects/._a/b.wav"));
    }

    #[test]
    fn folders_are_told_by_their_own_patterns() {
        let names = NamePatterns::parse("*.asd, .Trash*/").unwrap();
        for path in ["a/.Trashes/", "a/.trashes/b/c.wav", ".Trash-1/x", "a/b.asd"] {
            assert!(names.has(path), "{path}");
        }
        for path in ["a/.Trashes", "takes.asd/", "takes.asd/b.wav", "a/"] {
            assert!(!names.has(path), "{path}");
        }
        assert!(NamePatterns::parse_files("*.tmp,x/").is_err());
        assert!(NamePatterns::parse_files("*.tmp").is_ok());
    }

    #[test]
    fn none_is_no_name_and_what_is_no_name_is_refused() {
        assert!(!NamePatterns::parse("none").unwrap().has("none"));
        for text in ["", "a,,b", "*", "**", "/", "*/", "a/*", "a/b/", "[a"] {
            assert!(NamePatterns::parse(text).is_err(), "{text}");
        }
    }
}
