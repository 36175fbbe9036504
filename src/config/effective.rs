//! The settings in effect, for people who look for a fault: each with its origin, secrets masked.

use serde::Serialize;

use super::load::{Inputs, Reader};
use super::setting::SETTINGS;

/// What stands in the place of a secret.
const MASK: &str = "***";

/// A setting as it is used.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Effective {
    /// Its name.
    pub name: &'static str,
    /// Its value as it was given, right or wrong; a secret is masked.
    pub value: String,
    /// Where it was given.
    pub origin: String,
}

impl Effective {
    /// Returns the settings that have a value.
    pub fn of(inputs: &Inputs) -> Vec<Effective> {
        let reader = Reader::new(inputs);
        let effective = |setting: &'static super::Setting| {
            let given = reader.text(setting.name).1?;
            let value = if setting.secret { MASK } else { &given.text };
            Some(Effective {
                name: setting.name,
                value: value.into(),
                origin: given.origin.to_string(),
            })
        };
        SETTINGS.iter().filter_map(effective).collect()
    }

    /// Returns `text` with every secret in it masked.
    pub fn without_secrets(inputs: &Inputs, text: String) -> String {
        let reader = Reader::new(inputs);
        let secrets = SETTINGS.iter().filter(|setting| setting.secret);
        let values = secrets.filter_map(|setting| reader.text(setting.name).1);
        values.fold(text, |text, secret| text.replace(&secret.text, MASK))
    }
}
