//! The two lanes: where an answer comes from at once, and where it has to be waited for.

use std::future::Future;
use std::task::{Context, Poll, Waker};

use fuser::{Errno, Generation, INodeNo, ReplyAttr, ReplyEntry, Request};

use super::Fuse;
use super::reply::{errno, file_attr};
use crate::error::FsResult;
use crate::fs::attr::{Attr, Ino};

impl Fuse {
    /// Answers from `future`: at once if it need not wait, else from a task.
    pub(super) fn answer<T, F, R>(&self, op: &'static str, ino: u64, future: F, reply: R)
    where
        T: Send + 'static,
        F: Future<Output = FsResult<T>> + Send + 'static,
        R: FnOnce(Result<T, Errno>) + Send + 'static,
    {
        let mut turn = self.begin(op);
        let _runtime = self.runtime.enter();
        let mut future = Box::pin(future);
        match future
            .as_mut()
            .poll(&mut Context::from_waker(Waker::noop()))
        {
            Poll::Ready(result) => reply(result.map_err(|error| errno(op, ino, &error))),
            Poll::Pending => {
                turn.goes_on();
                let (operations, begun) = (self.operations.clone(), turn.begun());
                self.runtime.spawn(async move {
                    reply(future.await.map_err(|error| errno(op, ino, &error)));
                    operations.count(op, begun.elapsed());
                });
            }
        }
    }

    /// The caller is about to change a file's bytes: unless it is root, that takes the file's set-id
    /// bits.
    pub(super) fn before_change(&self, request: &Request, ino: INodeNo) -> Result<(), Errno> {
        if request.uid() == 0 {
            return Ok(());
        }
        let dropped = self.fs.drop_set_id(Ino(ino.0));
        dropped.map_err(|error| errno("change", ino.0, &error))
    }

    pub(super) fn entry(&self, reply: ReplyEntry) -> impl FnOnce(Result<Attr, Errno>) + use<> {
        let fs = self.fs.clone();
        move |result| match result {
            Ok(attr) => reply.entry(&fs.ttl(attr.ino), &file_attr(&attr), Generation(0)),
            Err(error) => reply.error(error),
        }
    }

    pub(super) fn attr(&self, reply: ReplyAttr) -> impl FnOnce(Result<Attr, Errno>) + use<> {
        let fs = self.fs.clone();
        move |result| match result {
            Ok(attr) => reply.attr(&fs.ttl(attr.ino), &file_attr(&attr)),
            Err(error) => reply.error(error),
        }
    }
}
