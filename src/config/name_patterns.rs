//! File names by pattern: which files stay on this disk, and which are not expected to last.

use globset::{GlobBuilder, GlobSet};

/// A set of file names. `*` stands for anything, `?` for one character, `[a-z]` for one of these;
/// upper and lower case are alike.
#[derive(Clone, Debug, Default)]
pub struct NamePatterns(GlobSet);

impl NamePatterns {
    /// Reads patterns separated by commas, or "none".
    ///
    /// # Errors
    /// Which pattern is none, and why.
    pub fn parse(text: &str) -> Result<NamePatterns, String> {
        let mut set = GlobSet::builder();
        for pattern in text.split(',').map(str::trim).filter(|_| text != "none") {
            if matches!(pattern, "" | "*" | "**") {
                return Err(format!(
                    "has {pattern:?} in it, which names nothing or everything"
                ));
            }
            if pattern.contains('/') {
                return Err(format!(
                    "has {pattern:?} in it, which is no name but a path"
                ));
            }
            let glob = GlobBuilder::new(pattern).case_insensitive(true).build();
            set.add(glob.map_err(|error| format!("has {pattern:?} in it: {}", error.kind()))?);
        }
        let set = set.build().map_err(|error| error.to_string())?;
        Ok(NamePatterns(set))
    }

    /// Whether it has this name.
    pub fn has(&self, name: &str) -> bool {
        self.0.is_match(name)
    }

    /// Whether it has the name of the file or of a folder that it lies in.
    pub fn has_any_of(&self, path: &str) -> bool {
        !self.0.is_empty() && path.split('/').any(|name| self.has(name))
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
        assert!(names.has_any_of("projects/._a/b.wav"));
        assert!(!names.has_any_of("projects/a/b.wav"));
    }

    #[test]
    fn none_is_no_name_and_what_is_no_name_is_refused() {
        assert!(!NamePatterns::parse("none").unwrap().has("none"));
        for text in ["", "a,,b", "*", "**", "a/*", "[a"] {
            assert!(NamePatterns::parse(text).is_err(), "{text}");
        }
    }
}
