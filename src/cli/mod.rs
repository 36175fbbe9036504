//! cli

pub mod catalog;
