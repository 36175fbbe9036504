//! The file system from outside: the real binary, mounted for real. Each test has its own folder,
//! its own server and its own mount, and cleans up after itself.

#[path = "../common/mod.rs"]
mod common;

mod basic;
mod burst;
mod cache;
mod cli;
mod clocks;
mod commands;
mod conflict;
mod copying;
mod costs;
mod crash;
mod dead;
mod doctor;
mod drain;
mod faults;
mod fight;
mod fills;
mod large;
mod lease;
mod many_names;
mod metrics;
mod moved;
mod open_for_hours;
mod orphans;
mod outage;
mod passthrough;
mod posix;
mod programs;
mod proxy;
mod queue;
mod reads;
mod rename;
mod rights;
mod samba;
mod service;
mod setup;
mod shadow;
mod share;
mod side_files;
mod stress;
mod trash;
mod uplink;
mod warming;
mod watch;
