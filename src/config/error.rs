//! What is wrong with the settings, and how it is said.

use std::fmt;
use std::path::PathBuf;

use super::setting::Setting;

/// Where the value of a setting was given.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A line of an env file.
    EnvFile {
        /// The file.
        path: PathBuf,
        /// The line, from 1.
        line: usize,
    },
    /// The environment of the process.
    Environment,
    /// A mount option.
    MountOption,
    /// The SOURCE argument of the mount(8) form.
    Source,
    /// The built-in default.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::EnvFile { path, line } => write!(f, "{}:{line}", path.display()),
            Origin::Environment => f.write_str("environment"),
            Origin::MountOption => f.write_str("mount option"),
            Origin::Source => f.write_str("SOURCE argument"),
            Origin::Default => f.write_str("default"),
        }
    }
}

/// One thing that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Problem {
    /// A setting that has to be given is not.
    Missing {
        /// Its name.
        name: &'static str,
        /// What it may be.
        expected: String,
        /// A line that would be right.
        example: String,
    },
    /// A value that cannot be used.
    Invalid {
        /// The name of the setting.
        name: &'static str,
        /// The value, unless it may be a secret.
        shown: Option<String>,
        /// Where it was given.
        origin: Origin,
        /// What it may be, or what is wrong with it.
        expected: String,
        /// A line that would be right.
        example: String,
    },
    /// An env file that cannot or must not be used, or a line of it that cannot be read.
    EnvFile(String),
    /// Settings that do not go together.
    Conflict(String),
}

impl Problem {
    /// Returns the problem of a required setting that nobody gave.
    pub(super) fn missing(setting: &Setting) -> Self {
        Problem::Missing {
            name: setting.name,
            expected: setting.expected.into(),
            example: setting.example_line(),
        }
    }

    /// Returns the problem of a value that `setting` cannot take. A `reason` takes the place of
    /// the general description of what the setting may be.
    pub(super) fn invalid(
        setting: &Setting,
        value: &str,
        origin: &Origin,
        reason: Option<String>,
    ) -> Self {
        Problem::Invalid {
            name: setting.name,
            shown: (!setting.secret).then(|| value.escape_debug().to_string()),
            origin: origin.clone(),
            expected: reason.unwrap_or_else(|| format!("must be {}", setting.expected)),
            example: setting.example_line(),
        }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Problem::Missing {
                name,
                expected,
                example,
            } => {
                write!(
                    f,
                    "{name} is not set: it must be {expected}; example: {example}"
                )
            }
            Problem::Invalid {
                name,
                shown: Some(value),
                origin,
                expected,
                example,
            } => {
                write!(
                    f,
                    "{name} is \"{value}\" ({origin}): {expected}; example: {example}"
                )
            }
            Problem::Invalid {
                name,
                shown: None,
                origin,
                expected,
                example,
            } => {
                write!(
                    f,
                    "{name} ({origin}, not shown): {expected}; example: {example}"
                )
            }
            Problem::EnvFile(text) | Problem::Conflict(text) => f.write_str(text),
        }
    }
}

/// Everything that is wrong with the settings.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct ConfigError {
    /// The problems, at least one.
    pub problems: Vec<Problem>,
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, problem) in self.problems.iter().enumerate() {
            if index > 0 {
                f.write_str("\n")?;
            }
            write!(f, "{problem}")?;
        }
        Ok(())
    }
}
