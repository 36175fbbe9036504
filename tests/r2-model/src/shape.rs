//! The body of an answer on its way out: slowed, stalled, cut, shortened, damaged.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use futures::stream;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use tokio::time::sleep;

use crate::front::OutBody;

/// The time in which hyper sends what it has, before an error makes it drop the connection.
const FLUSH: Duration = Duration::from_millis(30);

/// How often a slow body sends something.
const BEATS_PER_SECOND: u64 = 20;

/// What is done to a body.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Shape {
    pub(crate) bytes_per_second: Option<u64>,
    pub(crate) stall: Option<(u64, Duration)>,
    pub(crate) cut_after: Option<u64>,
    pub(crate) end_after: Option<u64>,
    pub(crate) flip: Option<u64>,
}

struct Flow {
    body: OutBody,
    shape: Shape,
    /// Taken from the body, not yet sent.
    rest: Bytes,
    sent: u64,
}

impl Shape {
    /// Returns the body with all that is asked for.
    pub(crate) fn apply(self, body: OutBody) -> OutBody {
        if self == Self::default() {
            return body;
        }
        let flow = Flow {
            body,
            shape: self,
            rest: Bytes::new(),
            sent: 0,
        };
        OutBody::new(StreamBody::new(stream::try_unfold(flow, Flow::next)))
    }
}

impl Flow {
    async fn next(mut self) -> io::Result<Option<(Frame<Bytes>, Self)>> {
        if self.rest.is_empty() {
            match self.body.frame().await.transpose()?.map(Frame::into_data) {
                Some(Ok(data)) => self.rest = data,
                _ => return Ok(None),
            }
        }
        if self.shape.end_after == Some(self.sent) {
            return Ok(None);
        }
        if self.shape.cut_after == Some(self.sent) {
            sleep(FLUSH).await;
            return Err(io::Error::other("a fault cuts the body"));
        }
        if let Some((_, pause)) = self.shape.stall.filter(|&(after, _)| after == self.sent) {
            sleep(pause).await;
        }
        let len = self.next_len();
        if let Some(rate) = self.shape.bytes_per_second {
            sleep(Duration::from_secs_f64(len as f64 / rate as f64)).await;
        }
        let piece = self.rest.split_to(len);
        let piece = self.damaged(piece);
        self.sent += len as u64;
        Ok(Some((Frame::data(piece), self)))
    }

    /// Returns how much may go before something happens.
    fn next_len(&self) -> usize {
        let shape = &self.shape;
        let edges = [
            shape.end_after,
            shape.cut_after,
            shape.stall.map(|(after, _)| after),
        ];
        let ahead = edges.into_iter().flatten().filter_map(|edge| {
            let distance = edge.saturating_sub(self.sent);
            (distance > 0).then_some(distance)
        });
        let beat = shape
            .bytes_per_second
            .map(|rate| (rate / BEATS_PER_SECOND).max(1));
        let limit = ahead.chain(beat).min().unwrap_or(u64::MAX);
        self.rest
            .len()
            .min(usize::try_from(limit).unwrap_or(usize::MAX))
    }

    fn damaged(&self, piece: Bytes) -> Bytes {
        let offset = self.shape.flip.and_then(|flip| flip.checked_sub(self.sent));
        let index = offset.and_then(|offset| usize::try_from(offset).ok());
        match index.filter(|&index| index < piece.len()) {
            Some(index) => {
                let mut damaged = piece.to_vec();
                damaged[index] ^= 0x10;
                damaged.into()
            }
            None => piece,
        }
    }
}
