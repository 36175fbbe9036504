//! What the tests share.

#![allow(dead_code, reason = "each test binary uses its part")]

pub(crate) mod emulator;
pub(crate) mod mount;
pub(crate) mod proxy;
