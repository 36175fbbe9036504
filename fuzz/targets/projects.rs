//! The search for references in project files, on bytes that somebody made to harm it: nothing panics or
//! overflows, nothing leads out of the mount, and what is unpacked and returned is bounded.

#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../src/project/mod.rs"]
mod project;

fuzz_target!(|input: &[u8]| project::made_up::check(input));
