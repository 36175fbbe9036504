//! What a request says, in our terms, and the plainest answers.

use std::time::SystemTime;

use fuser::{Errno, ReplyData, ReplyEmpty, ReplyWrite, Request, TimeOrNow};

use crate::fs::attr::Caller;

pub(super) fn empty(reply: ReplyEmpty) -> impl FnOnce(Result<(), Errno>) {
    move |result| match result {
        Ok(()) => reply.ok(),
        Err(error) => reply.error(error),
    }
}

pub(super) fn data(reply: ReplyData) -> impl FnOnce(Result<Vec<u8>, Errno>) {
    move |result| match result {
        Ok(bytes) => reply.data(&bytes),
        Err(error) => reply.error(error),
    }
}

pub(super) fn written(reply: ReplyWrite) -> impl FnOnce(Result<usize, Errno>) {
    move |result| match result {
        Ok(written) => reply.written(written as u32),
        Err(error) => reply.error(error),
    }
}

pub(super) fn caller(request: &Request) -> Caller {
    Caller {
        uid: request.uid(),
        gid: request.gid(),
    }
}

pub(super) fn time(time: TimeOrNow) -> SystemTime {
    match time {
        TimeOrNow::SpecificTime(time) => time,
        TimeOrNow::Now => SystemTime::now(),
    }
}
