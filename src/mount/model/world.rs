//! One life of the program, from its start to a kill, without a kernel.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::{Builder, Runtime};

use super::bucket::{Bucket, Objects};
use super::plain::Shown;
use crate::cache::{Cache, CacheOptions};
use crate::clock::{SharedClock, TokioClock};
use crate::error::{FsError, FsResult};
use crate::fs::attr::{Attr, Caller, Fh, Ino, Kind, SetAttr};
use crate::fs::{Fs, FsOptions, FsParts, OpenFlags, SnapshotOptions};
use crate::mount::confirmations::Confirmations;
use crate::staging::{Identity, Staging};
use crate::uploader::{UploadOptions, Uploader};

const CALLER: Caller = Caller {
    uid: 1000,
    gid: 1000,
};
/// Longer than the queue needs for anything; time passes by itself.
const PATIENCE: Duration = Duration::from_secs(600);

/// The parts, over directories that outlive it. All of it runs on the thread that calls, and its
/// time passes only when it waits.
pub(super) struct World {
    runtime: Option<Runtime>,
    fs: Arc<Fs>,
    staging: Arc<Staging>,
    bucket: Arc<Bucket>,
    pub(super) clock: SharedClock,
    uploader: Option<Arc<Uploader>>,
    slots: [Option<(Ino, Fh)>; 2],
    /// Last: what makes files in it has ended when it is removed.
    pub(super) dir: tempfile::TempDir,
}

impl World {
    /// Starts it over what a former life has left in `dir`.
    pub(super) fn open(dir: tempfile::TempDir, objects: &Objects, names_in_memory: usize) -> World {
        let runtime = Builder::new_current_thread()
            .enable_all()
            .start_paused(true)
            .build()
            .unwrap();
        let guard = runtime.enter();
        let clock: SharedClock = Arc::new(TokioClock::from(objects.now()));
        let bucket = Arc::new(Bucket::new(objects.clone(), clock.clone()));
        let (staging, replay) =
            Staging::open(&dir.path().join("staging"), &identity(), clock.clone()).unwrap();
        let options = CacheOptions {
            dir: dir.path().join("cache"),
            source: "model".into(),
            ttl: Duration::from_secs(3600),
            max_bytes: Some(1 << 30),
            min_free_bytes: 0,
            request_deadline: Duration::from_secs(5),
        };
        let handle = runtime.handle().clone();
        let cache = Cache::open(options, bucket.clone(), clock.clone(), handle.clone()).unwrap();
        let parts = FsParts {
            store: bucket.clone(),
            cache,
            staging: staging.clone(),
            local_copies: None,
            clock: clock.clone(),
            runtime: handle,
        };
        let options = options_of(dir.path(), names_in_memory);
        let fs = Fs::new(options, parts, replay);
        fs.spawn_expansion();
        drop(guard);
        World {
            dir,
            runtime: Some(runtime),
            fs,
            staging,
            bucket,
            clock,
            uploader: None,
            slots: [None; 2],
        }
    }

    fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.as_ref().expect("it lives").block_on(future)
    }

    /// Uploads until nothing is queued, or to the moment at which the bucket is cut off; returns
    /// whether it was cut off.
    pub(super) fn upload(&mut self, cut_after: Option<usize>) -> bool {
        self.bucket.cut_after(cut_after);
        let uploader = self
            .uploader
            .take()
            .unwrap_or_else(|| self.start_uploader());
        let idle = async {
            loop {
                let status = uploader.status();
                let is_moving = self.staging.journal().moves().outermost().next().is_some();
                if status.queued + status.active == 0 && !is_moving {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        };
        let was_cut = self.run(async {
            self.staging.journal().set_paused(false).unwrap();
            tokio::select! {
                () = self.bucket.is_cut() => true,
                // What waits for a file that is open is left.
                _ = tokio::time::timeout(PATIENCE, idle) => false,
            }
        });
        if !was_cut {
            self.bucket.cut_after(None);
            self.run(async { self.staging.journal().set_paused(true) })
                .unwrap();
            self.run(async { self.fs.carry_out_releases() });
        }
        self.uploader = Some(uploader);
        was_cut
    }

    fn start_uploader(&self) -> Arc<Uploader> {
        let runtime = self.runtime.as_ref().expect("it lives");
        let _guard = runtime.enter();
        let options = UploadOptions {
            trash_collections: vec!["projects".into()],
            ..UploadOptions::default()
        };
        Uploader::start(
            options,
            self.staging.clone(),
            self.bucket.clone(),
            Arc::new(Confirmations(self.fs.clone())),
            self.clock.clone(),
            runtime.handle(),
        )
    }

    /// What the uploader still has to do, for messages.
    pub(super) fn queue(&self) -> String {
        format!("{:#?}", self.staging.journal().records())
    }

    pub(super) fn pass(&self, time: Duration) {
        self.run(async { tokio::time::sleep(time).await });
    }

    /// Everything that is to be seen.
    pub(super) fn shown(&self) -> Shown {
        self.run(async {
            let mut shown = Shown::new();
            for name in super::COLLECTIONS {
                let attr = self.fs.lookup(Ino::ROOT, OsStr::new(name)).await.unwrap();
                self.show_below(attr.ino, name, &mut shown).await;
                self.fs.forget(attr.ino, 1);
            }
            shown
        })
    }

    async fn show_below(&self, ino: Ino, path: &str, shown: &mut Shown) {
        let fh = self.fs.opendir(ino).await.unwrap();
        let names = self.fs.read_all(ino, fh).await.unwrap();
        self.fs.releasedir(fh);
        for entry in names.iter().skip(2) {
            let path = format!("{path}/{}", entry.name.to_str().unwrap());
            let attr = self.fs.lookup(ino, &entry.name).await;
            let attr = attr.unwrap_or_else(|error| panic!("{path} is listed: {error}"));
            let bytes = match attr.kind {
                Kind::Folder => {
                    Box::pin(self.show_below(attr.ino, &path, shown)).await;
                    None
                }
                _ => Some(self.bytes(&attr).await),
            };
            shown.insert(path, bytes);
            self.fs.forget(attr.ino, 1);
        }
    }

    /// The names of each file that has several.
    pub(super) fn groups(&self) -> BTreeSet<BTreeSet<String>> {
        let names = self.shown().into_keys();
        let mut groups: BTreeMap<Ino, BTreeSet<String>> = BTreeMap::new();
        for path in names {
            let find = async |parent: Ino, name: String| {
                let attr = self.fs.lookup(parent, OsStr::new(&name)).await?;
                self.fs.forget(attr.ino, 1);
                Ok::<_, FsError>(attr)
            };
            let attr = self.run(self.at(&path, find)).unwrap();
            if attr.kind == Kind::File {
                groups.entry(attr.ino).or_default().insert(path);
            }
        }
        groups
            .into_values()
            .filter(|names| names.len() > 1)
            .collect()
    }

    async fn bytes(&self, attr: &Attr) -> Vec<u8> {
        let flags = OpenFlags {
            raw: libc::O_RDONLY,
        };
        let opened = self.fs.open(attr.ino, flags).await.unwrap();
        let bytes = self.fs.read(opened.fh, 0, 1 << 20).await.unwrap();
        self.fs.release(opened.fh);
        assert_eq!(bytes.len() as u64, attr.size);
        bytes
    }

    /// Does something with the folder that a name is in, and with the name.
    async fn at<T, F>(&self, path: &str, work: impl FnOnce(Ino, String) -> F) -> FsResult<T>
    where
        F: Future<Output = FsResult<T>>,
    {
        let mut ino = Ino::ROOT;
        let (folder, name) = path.rsplit_once('/').expect("a path in a collection");
        let mut known = Vec::new();
        for part in folder.split('/') {
            ino = self.fs.lookup(ino, OsStr::new(part)).await?.ino;
            known.push(ino);
        }
        // As the kernel does, whatever it is about to ask.
        let looked_up = self.fs.lookup(ino, OsStr::new(name)).await;
        known.extend(looked_up.ok().map(|attr| attr.ino));
        let done = work(ino, name.to_owned()).await;
        known.into_iter().for_each(|ino| self.fs.forget(ino, 1));
        done
    }

    async fn find(&self, path: &str) -> FsResult<Ino> {
        let find = |parent, name: String| async move {
            let attr = self.fs.lookup(parent, OsStr::new(&name)).await?;
            Ok(attr.ino)
        };
        self.at(path, find).await
    }

    pub(super) fn create(&mut self, path: &str, slot: usize) -> FsResult<()> {
        let flags = OpenFlags {
            raw: libc::O_RDWR | libc::O_CREAT | libc::O_EXCL,
        };
        let fs = &self.fs;
        let create = |parent, name: String| async move {
            let name = OsStr::new(&name);
            fs.create(parent, name, 0o644, flags, CALLER).await
        };
        let created = self.run(self.at(path, create))?;
        self.slots[slot] = Some((created.attr.ino, created.opened.fh));
        Ok(())
    }

    pub(super) fn open_file(&mut self, path: &str, slot: usize, truncate: bool) -> FsResult<()> {
        let truncates = if truncate { libc::O_TRUNC } else { 0 };
        let flags = OpenFlags {
            raw: libc::O_RDWR | truncates,
        };
        let opened = self.run(async {
            let ino = self.find(path).await?;
            Ok::<_, FsError>((ino, self.fs.open(ino, flags).await?.fh))
        })?;
        self.slots[slot] = Some(opened);
        Ok(())
    }

    pub(super) fn write(&self, slot: usize, offset: u64, data: &[u8]) -> FsResult<()> {
        let (_, fh) = self.slots[slot].expect("the caller has looked");
        let written = self.run(self.fs.write_when_here(fh, offset, data))?;
        assert_eq!(written, data.len());
        Ok(())
    }

    pub(super) fn read_open(&self, slot: usize) -> FsResult<Vec<u8>> {
        let (_, fh) = self.slots[slot].expect("the caller has looked");
        self.run(self.fs.read(fh, 0, 1 << 20))
    }

    pub(super) fn sync(&self, slot: usize) -> FsResult<()> {
        let (_, fh) = self.slots[slot].expect("the caller has looked");
        self.run(async { self.fs.fsync(fh, false) })
    }

    pub(super) fn close(&mut self, slot: usize) {
        let (ino, fh) = self.slots[slot].take().expect("the caller has looked");
        self.run(async {
            self.fs.release(fh);
            self.fs.forget(ino, 1);
        });
    }

    pub(super) fn resize_open(&self, slot: usize, size: u64) -> FsResult<()> {
        let (ino, fh) = self.slots[slot].expect("the caller has looked");
        self.run(self.fs.setattr(ino, Some(fh), &resized(size)))?;
        Ok(())
    }

    pub(super) fn resize(&self, path: &str, size: u64) -> FsResult<()> {
        self.run(async {
            let ino = self.find(path).await?;
            self.fs.setattr(ino, None, &resized(size)).await?;
            self.fs.forget(ino, 1);
            Ok(())
        })
    }

    pub(super) fn make_folder(&self, path: &str) -> FsResult<()> {
        let make = |parent, name: String| async move {
            let attr = self.fs.mkdir(parent, OsStr::new(&name), 0o755, CALLER);
            self.fs.forget(attr.await?.ino, 1);
            Ok(())
        };
        self.run(self.at(path, make))
    }

    pub(super) fn remove_folder(&self, path: &str) -> FsResult<()> {
        let remove =
            |parent, name: String| async move { self.fs.rmdir(parent, OsStr::new(&name)).await };
        self.run(self.at(path, remove))
    }

    pub(super) fn remove(&self, path: &str) -> FsResult<()> {
        let remove =
            |parent, name: String| async move { self.fs.unlink(parent, OsStr::new(&name)).await };
        self.run(self.at(path, remove))
    }

    pub(super) fn link(&self, from: &str, to: &str) -> FsResult<()> {
        self.run(async {
            let ino = self.find(from).await?;
            let link =
                |parent, name: String| async move { self.fs.link(ino, parent, OsStr::new(&name)) };
            let linked = self.at(to, link).await;
            self.fs.forget(ino, 1 + u64::from(linked.is_ok()));
            linked.map(drop)
        })
    }

    pub(super) fn rename(&self, from: &str, to: &str, flags: u32) -> FsResult<()> {
        let rename = |source, old: String| {
            self.at(to, move |target, new: String| async move {
                let (from, to) = ((source, OsStr::new(&old)), (target, OsStr::new(&new)));
                self.fs.rename(from, to, flags).await
            })
        };
        self.run(self.at(from, rename))
    }
}

impl Drop for World {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

/// What a kill leaves, at any moment.
pub(super) fn image(dir: &Path) -> tempfile::TempDir {
    let copy = tempfile::tempdir().unwrap();
    copy_folder(dir, copy.path());
    copy
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        let to = to.join(&name);
        // What was made in advance may go meanwhile.
        let Ok(metadata) = entry.metadata() else {
            continue;
        };
        if metadata.is_dir() {
            copy_folder(&entry.path(), &to);
        } else if name == "reserve" {
            // Only its length counts.
            let _ = std::fs::hard_link(entry.path(), to);
        } else if !name.ends_with("-shm") {
            let _ = std::fs::copy(entry.path(), to);
        }
    }
}

fn resized(size: u64) -> SetAttr {
    SetAttr {
        size: Some(size),
        ..SetAttr::default()
    }
}

fn identity() -> Identity {
    Identity {
        backend: "model".into(),
        ..Identity::default()
    }
}

fn options_of(dir: &Path, names_in_memory: usize) -> FsOptions {
    FsOptions {
        collections: super::COLLECTIONS.map(str::to_owned).to_vec(),
        trash_collections: vec!["projects".into()],
        trash_age: Duration::from_secs(30 * 86400),
        delete_limit: None,
        samples_dir: dir.join("samples"),
        list_ttl: Duration::from_secs(30),
        names_in_memory,
        request_deadline: Duration::from_secs(5),
        warm_bytes: 0,
        mountpoint: dir.join("mnt"),
        snapshots: SnapshotOptions {
            quiet: Duration::from_secs(30),
            longest: Duration::from_secs(300),
        },
        uid: 1000,
        gid: 1000,
        umask: 0o022,
    }
}
