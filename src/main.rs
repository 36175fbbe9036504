//! The `voicebeatfs` command.

fn main() {}
