//! What a request says, in our terms, and the answer that says nothing.

use std::time::SystemTime;

use fuser::{Errno, ReplyEmpty, Request, TimeOrNow};

use crate::fs::attr::Caller;

pub(super) fn empty(reply: ReplyEmpty) -> impl FnOnce(Result<(), Errno>) {
    move |result| match result {
        Ok(()) => reply.ok(),
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
