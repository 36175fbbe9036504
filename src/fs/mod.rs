//! The file system: what each operation means.

pub mod attr;
pub mod local;
