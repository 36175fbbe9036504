//! Answers about extended attributes: their lengths, or as much as there is room for.

use std::ffi::OsString;

use fuser::{Errno, ReplyXattr};

/// The longest list of names that Linux takes.
const MAX_LIST_BYTES: usize = 64 << 10;

/// Answers with a value, or with its length if there is no room at all.
pub(super) fn value(reply: ReplyXattr, room: u32) -> impl FnOnce(Result<Vec<u8>, Errno>) {
    move |result| match result {
        Ok(value) if room == 0 => reply.size(value.len() as u32),
        Ok(value) if value.len() > room as usize => reply.error(Errno::ERANGE),
        Ok(value) => reply.data(&value),
        Err(error) => reply.error(error),
    }
}

/// Answers with names, each ended by a zero byte.
pub(super) fn names(reply: ReplyXattr, room: u32) -> impl FnOnce(Result<Vec<OsString>, Errno>) {
    move |result| {
        let list = result.and_then(|names| {
            let mut list = Vec::new();
            for name in names {
                list.extend(name.as_encoded_bytes());
                list.push(0);
            }
            match list.len() > MAX_LIST_BYTES {
                true => Err(Errno::E2BIG),
                false => Ok(list),
            }
        });
        value(reply, room)(list);
    }
}
