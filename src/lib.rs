//! voicebeatfs: VoiceBeat's R2 bucket as an ordinary folder.

mod audio;
pub mod cache;
pub mod catalog;
pub mod cli;
pub mod clock;
pub mod config;
pub mod control;
pub mod disk;
pub mod error;
pub mod fs;
pub mod fuse;
pub mod metrics;
pub mod mount;
pub mod project;
pub mod sqlite;
pub mod staging;
pub mod store;
pub mod uploader;
