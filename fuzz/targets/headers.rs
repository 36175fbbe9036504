//! The header reader on bytes that somebody made to harm it: nothing panics or overflows, and the work is
//! bounded.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/audio/mod.rs"]
mod audio;

use audio::damaged::{Damaged, check};

fuzz_target!(|input: &[u8]| check(&Damaged::of(input)));
