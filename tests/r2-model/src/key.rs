//! Object keys: compared after Unicode NFC, listed as last written.

use unicode_normalization::UnicodeNormalization;

use crate::error::{R2Error, R2Result};

/// The longest key in bytes.
const MAX_KEY_BYTES: usize = 1024;

/// The key of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Key {
    /// What the store compares and sorts by.
    pub(crate) folded: String,
    /// What the writer wrote, and listings give back.
    pub(crate) spelled: String,
}

impl Key {
    /// Takes a key as a request spells it.
    pub(crate) fn new(spelled: &str) -> R2Result<Self> {
        if spelled.is_empty() || spelled.len() > MAX_KEY_BYTES {
            return Err(R2Error::new(
                "InvalidObjectName",
                "The specified object name is not valid.",
            ));
        }
        Ok(Self {
            folded: fold(spelled),
            spelled: spelled.to_owned(),
        })
    }
}

/// Returns the normal form in which keys and prefixes are compared.
pub(crate) fn fold(text: &str) -> String {
    text.nfc().collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_spellings_are_one_key() {
        let composed = Key::new("caf\u{e9}").expect("a key");
        let decomposed = Key::new("cafe\u{301}").expect("a key");
        assert_eq!(composed.folded, decomposed.folded);
        assert_ne!(composed.spelled, decomposed.spelled);
    }

    #[test]
    fn the_limit_is_in_bytes() {
        assert!(Key::new(&"a".repeat(1024)).is_ok());
        assert_eq!(
            Key::new(&"\u{e9}".repeat(513)).expect_err("1,026").code,
            "InvalidObjectName"
        );
    }
}
