//! What a file system is for: reading what others put into the bucket, writing what they will
//! read, and everything that is done to names and attributes in between.

mod attributes;
mod bucket;
mod folders;
mod links;
mod local;
mod names;
mod reading;
mod renaming;
mod saving;
mod special;
mod writing;
mod xattrs;

pub(crate) use bucket::{Bucket, noise};
