//! Whether a file that is all there is what its version promises.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use md5::Digest;

use super::Cache;
use super::file::CacheFile;
use crate::store::ObjectVersion;

/// Read at once.
const VERIFY_BYTES: usize = 256 << 10;
/// Hashing takes as long as all else that is done for a byte, and whoever reads comes first.
const VERIFY_NICENESS: i32 = 10;

impl Cache {
    /// Verifies a file that is all there on a thread of low priority, and returns.
    pub(super) fn verify_behind(self: &Arc<Self>, file: &Arc<CacheFile>) {
        let work = || {
            let (cache, file) = (Arc::clone(self), Arc::clone(file));
            move || {
                cache.verify(&file);
                // By now it can be evicted.
                drop(file);
                cache.verified.notify_waiters();
            }
        };
        let low = work();
        let spawned = std::thread::Builder::new()
            .name("verify".to_owned())
            .spawn(move || {
                // On Linux the priority is the thread's own.
                let _ = rustix::process::setpriority_process(None, VERIFY_NICENESS);
                low();
            });
        if spawned.is_err() {
            self.fetcher.runtime.spawn_blocking(work());
        }
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
