//! Files of which a part is here and that claim anything, for tests and for the fuzzer.

use std::cell::Cell;

use super::{Source, layout};

/// More pieces than this are never looked at: one for each byte in which a frame is looked for, and some
/// for what is counted.
const MOST_READS: usize = 5_000;

/// A file whose ends are here.
pub(crate) struct Damaged<'a> {
    size: u64,
    head: &'a [u8],
    tail: &'a [u8],
    reads: Cell<usize>,
}

impl<'a> Damaged<'a> {
    /// Takes apart what a fuzzer has made up: how much is missing between the two ends, and how long the
    /// first is; then the bytes of both.
    pub(crate) fn of(input: &'a [u8]) -> Damaged<'a> {
        let (numbers, bytes) = input.split_at(input.len().min(10));
        let mut padded = [0; 10];
        padded[..numbers.len()].copy_from_slice(numbers);
        let [missing @ .., low, high] = padded;
        let length = usize::from(u16::from_le_bytes([low, high]));
        let (head, tail) = bytes.split_at(length.min(bytes.len()));
        Damaged {
            size: u64::from_le_bytes(missing).saturating_add(bytes.len() as u64),
            head,
            tail,
            reads: Cell::new(0),
        }
    }
}

impl Source for Damaged<'_> {
    fn size(&self) -> u64 {
        self.size
    }

    fn read(&self, offset: u64, buf: &mut [u8]) -> bool {
        self.reads.set(self.reads.get() + 1);
        let tail = self.size - self.tail.len() as u64;
        let (bytes, offset) = match offset.checked_sub(tail) {
            Some(offset) => (self.tail, offset),
            None => (self.head, offset),
        };
        let start = usize::try_from(offset).unwrap_or(usize::MAX);
        match bytes.get(start..start.saturating_add(buf.len())) {
            Some(bytes) => buf.copy_from_slice(bytes),
            None => return false,
        }
        true
    }
}

/// Looks at a file and checks what must hold whatever it is.
pub(crate) fn check(file: &Damaged<'_>) {
    if let Some(found) = layout(file) {
        assert!(found.head_end <= found.tail_start && found.tail_start <= file.size);
    }
    assert!(file.reads.get() <= MOST_READS, "{} reads", file.reads.get());
}
