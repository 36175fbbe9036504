//! What is known of a file as audio: read from its bytes as they arrive, and used for the read-ahead.

use std::sync::Arc;

use super::Cache;
use super::fetch::{Wish, register};
use super::file::{CacheFile, Content, Phase};
use super::read_ahead::{SMALL_FILE_BYTES, Stream, first_fetch};
use crate::audio::{self, Layout, Source};

/// Tables at the end are asked for along with those at the head up to this length; of longer ones
/// so much, and the rest as it is read.
const MOST_TAIL_BYTES: u64 = 1 << 20;
const PAGE_BYTES: u64 = 4096;

impl Source for Content {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> bool {
        let ends_within = offset
            .checked_add(buf.len() as u64)
            .is_some_and(|end| end <= self.size);
        ends_within && matches!(self.read_present(offset, buf), Some(Ok(())))
    }
}

impl CacheFile {
    /// Returns what is known of the file as audio. Readers may have bytes of the head before the
    /// request that brings it has ended, and look themselves then: one of whose file nothing is known
    /// would be taken for one that wants all.
    pub(super) fn layout(&self) -> Option<Layout> {
        {
            let state = self.content.state.lock();
            if self.size() <= SMALL_FILE_BYTES || state.looked_at {
                return state.layout;
            }
        }
        self.read_head();
        self.content.state.lock().layout
    }

    /// Looks at the bytes that are here.
    fn read_head(&self) -> Option<Layout> {
        let head = first_fetch(self.size());
        let is_here = self.content.state.lock().present.contains(head);
        let layout = audio::layout(&*self.content);
        let mut state = self.content.state.lock();
        state.layout = layout.or(state.layout);
        state.looked_at |= is_here;
        layout
    }

    /// Looks at the bytes that are here, and asks for the tables at the end if there are any: who
    /// has read the head wants them next.
    pub(super) fn learn(self: &Arc<Self>, cache: &Arc<Cache>, stream: &Arc<Stream>) {
        if self.size() <= SMALL_FILE_BYTES {
            return;
        }
        let layout = self.read_head();
        let tail = {
            let mut state = self.content.state.lock();
            let start = layout.map_or(self.size(), |layout| layout.tail_start);
            let end = self.size().min(start.saturating_add(MOST_TAIL_BYTES));
            // The kernel asks for whole pages.
            let tail = start - start % PAGE_BYTES..end;
            (start < self.size() && state.phase == Phase::Filling)
                .then(|| state.first_gap(tail))
                .flatten()
                .map(|gap| register(&mut state, gap, false))
        };
        if let Some(fetch) = tail {
            let wish = Wish {
                stream: Arc::downgrade(stream),
                ..Wish::default()
            };
            self.start_needed(cache, fetch, wish);
        }
    }
}
