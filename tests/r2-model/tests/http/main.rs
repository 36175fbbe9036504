//! The model over HTTP, as a client meets it.

mod faults;
mod multipart;
mod objects;
mod server;
mod support;
