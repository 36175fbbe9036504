//! Whether a file that is all there is what its version promises.

use std::collections::VecDeque;
use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use md5::Digest;
use parking_lot::Mutex;

use super::Cache;
use super::file::CacheFile;
use crate::store::ObjectVersion;

/// Read at once.
const VERIFY_BYTES: usize = 256 << 10;
/// Hashing takes as long as all else that is done for a byte, and whoever reads comes first.
const VERIFY_NICENESS: i32 = 10;

/// The files that are all there and not verified yet. One thread verifies them in turn: one for each of sixteen
/// files that are read at once would take the processors from their readers, whatever its priority.
#[derive(Debug, Default)]
pub(super) struct Verifier(Mutex<Queue>);

#[derive(Debug, Default)]
struct Queue {
    files: VecDeque<Arc<CacheFile>>,
    /// Whether a thread takes them.
    at_work: bool,
}

impl Cache {
    /// Verifies a file that is all there on a thread of low priority, and returns.
    pub(super) fn verify_behind(self: &Arc<Self>, file: &Arc<CacheFile>) {
        let begin = {
            let mut queue = self.verifier.0.lock();
            queue.files.push_back(Arc::clone(file));
            !std::mem::replace(&mut queue.at_work, true)
        };
        if !begin {
            return;
        }
        let low = Arc::clone(self);
        let spawned = std::thread::Builder::new()
            .name("verify".to_owned())
            .spawn(move || {
                // On Linux the priority is the thread's own.
                let _ = rustix::process::setpriority_process(None, VERIFY_NICENESS);
                low.verify_queued();
            });
        if spawned.is_err() {
            let cache = Arc::clone(self);
            self.fetcher
                .runtime
                .spawn_blocking(move || cache.verify_queued());
        }
    }

    fn verify_queued(&self) {
        loop {
            let file = {
                let mut queue = self.verifier.0.lock();
                let next = queue.files.pop_front();
                queue.at_work = next.is_some();
                next
            };
            let Some(file) = file else { return };
            self.verify(&file);
        }
    }

    /// Verifies a file for one who waits, unless that has begun already.
    pub(super) fn verify_now(self: &Arc<Self>, file: &Arc<CacheFile>) {
        let mut queue = self.verifier.0.lock();
        let place = queue
            .files
            .iter()
            .position(|other| Arc::ptr_eq(other, file));
        let Some(file) = place.and_then(|place| queue.files.remove(place)) else {
            return;
        };
        drop(queue);
        let cache = Arc::clone(self);
        self.fetcher
            .runtime
            .spawn_blocking(move || cache.verify(&file));
    }

    /// Compares a file that is all there with what its version promises, and makes it durable.
    /// Blocks. Bytes that are wrong, or that the disk cannot keep, are dropped.
    pub(super) fn verify(&self, file: &Arc<CacheFile>) {
        let version = file.content.state.lock().version.clone();
        let sound = is_sound(file.content.reader(), file.size(), &version)
            .and_then(|sound| file.content.reader().sync_data().map(|()| sound));
        match &sound {
            Ok(true) => {}
            Ok(false) => log::warn!("{}: arrived damaged, dropped", version.key),
            Err(error) => log::warn!("{}: cannot be kept: {error}", version.key),
        }
        let sound = sound.unwrap_or(false);
        if !sound && file.content.state.lock().damaged_once {
            // Before anybody hears of it, so that the next open begins anew.
            self.forget_version(&version);
        }
        file.content.end_verification(sound);
        let observer = self.fetcher.damage_observer.lock().clone();
        if let Some(observer) = observer.filter(|_| !sound) {
            observer(&version);
        }
        self.save(file);
    }
}

/// Whether a file has the length and, where its tag is one, the MD5 of its version.
pub(super) fn is_sound(file: &File, size: u64, version: &ObjectVersion) -> io::Result<bool> {
    if file.metadata()?.len() != size {
        return Ok(false);
    }
    let Some(expected) = version.etag.md5() else {
        return Ok(true);
    };
    let mut hash = md5::Md5::new();
    let mut buffer = vec![0; VERIFY_BYTES];
    let mut at = 0;
    while at < size {
        match file.read_at(&mut buffer, at)? {
            0 => return Ok(false),
            read => {
                hash.update(&buffer[..read]);
                at += read as u64;
            }
        }
    }
    Ok(<[u8; 16]>::from(hash.finalize()) == expected.0)
}
