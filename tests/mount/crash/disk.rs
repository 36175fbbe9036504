//! The staging directory on a disk that is full.
