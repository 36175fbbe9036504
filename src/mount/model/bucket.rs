//! A bucket in memory, which can be cut off in the middle of a request.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::Range;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use futures::stream::{self, StreamExt};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::clock::SharedClock;
use crate::store::{
    CopyRequest, ETag, GetRequest, GetResponse, HeldPart, Key, ListPage, ListRequest, ListedObject,
    Md5, ObjectHeaders, ObjectInfo, ObjectStore, ObjectVersion, Origin, PartNumber, PutRequest,
    ReadCondition, StoreError, StoreResult, Upload, WriteCondition,
};

#[derive(Clone)]
struct Object {
    bytes: Bytes,
    etag: ETag,
    headers: ObjectHeaders,
    written: SystemTime,
}

/// What the bucket holds. Outlives the process that is killed.
#[derive(Clone, Default)]
pub(super) struct Objects(Arc<Mutex<State>>);

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Object>,
    /// For R2's rule of one write a second to one key.
    writes: BTreeMap<Key, Instant>,
    /// How far its time has come, which is that of the processes: theirs passes only when they wait.
    now: Option<SystemTime>,
}

/// The bucket as one process sees it.
pub(super) struct Bucket {
    objects: Objects,
    clock: SharedClock,
    /// So many more moments, each before or after a write, and no request gets an answer any more.
    left: Mutex<Option<usize>>,
    cut: tokio::sync::Notify,
}

impl fmt::Debug for Bucket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bucket")
    }
}

impl Objects {
    /// The files in it, without what is the program's own and without folder markers.
    pub(super) fn files(&self) -> BTreeMap<String, Vec<u8>> {
        let state = self.0.lock();
        let files = state.objects.iter().filter(|(key, _)| {
            !key.is_folder_marker() && !key.as_str().starts_with(".voicebeatfs/")
        });
        files
            .map(|(key, object)| (key.to_string(), object.bytes.to_vec()))
            .collect()
    }

    /// Returns the time at which a process begins that is started now.
    pub(super) fn now(&self) -> SystemTime {
        *self.0.lock().now.get_or_insert_with(SystemTime::now)
    }

    /// Says that it is that late by now.
    pub(super) fn pass(&self, now: SystemTime) {
        self.0.lock().now = Some(now);
    }

    /// Says that the next writes are another process's, which knows nothing of the last ones and may
    /// be told to wait once.
    pub(super) fn forget_writes(&self) {
        self.0.lock().writes.clear();
    }
}

impl Bucket {
    pub(super) fn new(objects: Objects, clock: SharedClock) -> Bucket {
        Bucket {
            objects,
            clock,
            left: Mutex::new(None),
            cut: tokio::sync::Notify::new(),
        }
    }

    /// Cuts it off after so many moments; the first is before the next write.
    pub(super) fn cut_after(&self, moments: Option<usize>) {
        *self.left.lock() = moments;
    }

    /// Returns when it is cut off.
    pub(super) async fn is_cut(&self) {
        self.cut.notified().await;
    }

    async fn moment(&self) {
        let is_cut = match &mut *self.left.lock() {
            None => false,
            Some(0) => true,
            Some(left) => {
                *left -= 1;
                false
            }
        };
        if is_cut {
            self.cut.notify_one();
            std::future::pending::<()>().await;
        }
    }

    async fn write<T>(&self, work: impl FnOnce(&mut State) -> StoreResult<T>) -> StoreResult<T> {
        self.moment().await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let done = work(&mut self.objects.0.lock());
        self.moment().await;
        done
    }
}

impl State {
    fn note_write(&mut self, key: &Key) {
        let now = Instant::now();
        if let Some(last) = self.writes.insert(key.clone(), now) {
            let pause = now.saturating_duration_since(last);
            assert!(pause >= Duration::from_secs(1), "{key} is written too fast");
        }
    }

    fn insert(&mut self, key: &Key, over: &WriteCondition, object: Object) -> StoreResult<ETag> {
        self.note_write(key);
        let holds = self.objects.get(key).map(|object| &object.etag);
        let met = match over {
            WriteCondition::IfAbsent => holds.is_none(),
            WriteCondition::IfMatch(etag) => holds == Some(etag),
            WriteCondition::Always => true,
        };
        if !met {
            return Err(StoreError::PreconditionFailed);
        }
        let etag = object.etag.clone();
        self.objects.insert(key.clone(), object);
        Ok(etag)
    }

    fn info(&self, key: &Key, condition: &ReadCondition) -> StoreResult<(ObjectInfo, Bytes)> {
        let object = self.objects.get(key).ok_or(StoreError::NotFound)?;
        match condition {
            ReadCondition::IfMatch(etag) if *etag != object.etag => {
                return Err(StoreError::PreconditionFailed);
            }
            ReadCondition::IfNoneMatch(etag) if *etag == object.etag => {
                return Err(StoreError::NotModified);
            }
            _ => {}
        }
        let info = ObjectInfo {
            version: ObjectVersion {
                key: key.clone(),
                etag: object.etag.clone(),
            },
            size: object.bytes.len() as u64,
            last_modified: object.written,
            content_type: Some(object.headers.content_type.clone()),
            metadata: object.headers.metadata.clone(),
            origin: Origin::Primary,
        };
        Ok((info, object.bytes.clone()))
    }
}

fn too_large<T>() -> StoreResult<T> {
    Err(StoreError::TooLarge("no file of the model is".into()))
}

#[async_trait]
impl ObjectStore for Bucket {
    async fn head(&self, key: &Key, condition: ReadCondition) -> StoreResult<ObjectInfo> {
        Ok(self.objects.0.lock().info(key, &condition)?.0)
    }

    async fn get(&self, request: GetRequest) -> StoreResult<GetResponse> {
        let found = self.objects.0.lock().info(&request.key, &request.condition);
        let (info, bytes) = found?;
        let range = request.range.unwrap_or(0..info.size);
        let range = range.start..range.end.min(info.size);
        if range.is_empty() && info.size > 0 {
            return Err(StoreError::InvalidRange);
        }
        let body = bytes.slice(range.start as usize..range.end as usize);
        Ok(GetResponse {
            info,
            range,
            body: stream::iter([Ok(body)]).boxed(),
        })
    }

    async fn put(&self, request: PutRequest) -> StoreResult<ETag> {
        assert_eq!(Md5::of(&request.body), request.md5);
        let object = Object {
            bytes: request.body,
            etag: ETag::of_md5(request.md5),
            headers: request.headers,
            written: self.clock.now(),
        };
        self.write(|state| state.insert(&request.key, &request.condition, object))
            .await
    }

    async fn create_multipart(&self, _: &Key, _: ObjectHeaders) -> StoreResult<Upload> {
        too_large()
    }

    async fn upload_part(&self, _: &Upload, _: PartNumber, _: Bytes, _: Md5) -> StoreResult<ETag> {
        too_large()
    }

    async fn upload_part_copy(
        &self,
        _: &Upload,
        _: PartNumber,
        _: &ObjectVersion,
        _: Range<u64>,
    ) -> StoreResult<ETag> {
        too_large()
    }

    async fn complete_multipart(
        &self,
        _: &Upload,
        _: &[ETag],
        _: WriteCondition,
    ) -> StoreResult<ETag> {
        too_large()
    }

    async fn list_parts(&self, _: &Upload) -> StoreResult<BTreeMap<PartNumber, HeldPart>> {
        too_large()
    }

    async fn abort_multipart(&self, _: &Upload) -> StoreResult<()> {
        too_large()
    }

    async fn copy(&self, request: CopyRequest) -> StoreResult<ETag> {
        self.write(|state| {
            let source = state.objects.get(&request.source.key);
            let source = source.filter(|object| object.etag == request.source.etag);
            let mut object = source.ok_or(StoreError::SourceChanged)?.clone();
            object.written = self.clock.now();
            if let Some(headers) = request.headers.clone() {
                object.headers = headers;
            }
            state.insert(&request.destination, &request.condition, object)
        })
        .await
    }

    async fn delete(&self, key: &Key) -> StoreResult<()> {
        self.write(|state| {
            state.note_write(key);
            state.objects.remove(key);
            Ok(())
        })
        .await
    }

    async fn list(&self, request: ListRequest) -> StoreResult<ListPage> {
        let state = self.objects.0.lock();
        let mut page = ListPage::default();
        for (key, object) in &state.objects {
            let Some(rest) = key.as_str().strip_prefix(&request.prefix) else {
                continue;
            };
            if let Some((folder, _)) = rest.split_once('/').filter(|_| request.delimited) {
                let prefix = format!("{}{folder}/", request.prefix);
                if page.prefixes.last() != Some(&prefix) {
                    page.prefixes.push(prefix);
                }
                continue;
            }
            page.objects.push(ListedObject {
                version: ObjectVersion {
                    key: key.clone(),
                    etag: object.etag.clone(),
                },
                size: object.bytes.len() as u64,
                last_modified: object.written,
                origin: Origin::Primary,
            });
        }
        Ok(page)
    }
}
