//! A bucket in memory that fails as it is told to, and a clock that follows tokio's paused time.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::ops::Range;
use std::time::{Duration, Instant, SystemTime};

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;

use crate::staging::Sealed;
use crate::store::{
    CopyRequest, ETag, GetRequest, GetResponse, HeldPart, Key, ListPage, ListRequest, Md5,
    ObjectHeaders, ObjectInfo, ObjectStore, ObjectVersion, Origin, PartNumber, PutRequest,
    ReadCondition, StoreError, StoreResult, Upload, WriteCondition,
};

/// What is to go wrong with a call.
pub(super) enum Fault {
    None,
    /// It fails without effect.
    Before(StoreError),
    /// It is done, and its answer is lost.
    After(StoreError),
}

pub(super) fn unavailable() -> StoreError {
    StoreError::Unavailable {
        message: "cut".into(),
        retry_after: None,
    }
}

/// More than this is not copied with one request.
pub(super) const SINGLE_COPY_BYTES: usize = 99_999;

type Script = Box<dyn FnMut(&str, &Key) -> Fault + Send>;

#[derive(Clone)]
pub(super) struct Object {
    pub(super) bytes: Bytes,
    pub(super) etag: ETag,
    pub(super) headers: ObjectHeaders,
    written: SystemTime,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<Key, Object>,
    uploads: HashMap<String, (ObjectHeaders, BTreeMap<PartNumber, Bytes>)>,
    calls: Vec<String>,
    writes: HashMap<Key, Instant>,
}

/// The bucket.
pub(super) struct FakeStore {
    state: Mutex<State>,
    script: Mutex<Script>,
    /// How long a PUT takes.
    put_time: Mutex<Duration>,
}

impl fmt::Debug for FakeStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("FakeStore")
    }
}

impl FakeStore {
    pub(super) fn new() -> FakeStore {
        FakeStore {
            state: Mutex::default(),
            script: Mutex::new(Box::new(|_, _| Fault::None)),
            put_time: Mutex::new(Duration::from_millis(50)),
        }
    }

    /// Has each call ask `script`, which gets the operation's name and the key.
    pub(super) fn script(&self, script: impl FnMut(&str, &Key) -> Fault + Send + 'static) {
        *self.script.lock() = Box::new(script);
    }

    /// Has each PUT take so long from now on.
    pub(super) fn take_time(&self, time: Duration) {
        *self.put_time.lock() = time;
    }

    /// Has the first `count` calls of one kind fail.
    pub(super) fn fail(
        &self,
        operation: &'static str,
        mut count: usize,
        fault: impl Fn() -> Fault + Send + 'static,
    ) {
        self.script(move |name, _| {
            if name != operation || count == 0 {
                return Fault::None;
            }
            count -= 1;
            fault()
        });
    }

    pub(super) fn names(&self) -> Vec<String> {
        let state = self.state.lock();
        state.objects.keys().map(Key::to_string).collect()
    }

    pub(super) fn object(&self, name: &str) -> Option<Object> {
        let key = Key::new(name).unwrap();
        self.state.lock().objects.get(&key).cloned()
    }

    /// Writes as somebody else does; returns the tag.
    pub(super) fn write(&self, name: &str, bytes: &'static [u8]) -> ETag {
        let headers = ObjectHeaders {
            content_type: "text/x-other".into(),
            metadata: [("other".to_owned(), "kept".to_owned())].into(),
        };
        let etag = ETag::of_md5(Md5::of(bytes));
        let object = Object {
            bytes: Bytes::from_static(bytes),
            etag: etag.clone(),
            headers,
            written: SystemTime::UNIX_EPOCH,
        };
        let key = Key::new(name).unwrap();
        self.state.lock().objects.insert(key, object);
        etag
    }

    pub(super) fn restore(&self, name: &str, object: Object) {
        let key = Key::new(name).unwrap();
        self.state.lock().objects.insert(key, object);
    }

    pub(super) fn remove(&self, name: &str) {
        let key = Key::new(name).unwrap();
        self.state.lock().objects.remove(&key);
    }

    /// Returns the names of the operations so far, and forgets them.
    pub(super) fn take_calls(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().calls)
    }

    /// Does something to the parts of the only open upload.
    pub(super) fn with_parts(&self, act: impl FnOnce(&mut BTreeMap<PartNumber, Bytes>)) {
        let mut state = self.state.lock();
        let (_, parts) = state.uploads.values_mut().next().unwrap();
        act(parts);
    }

    /// Forgets all open uploads, as R2 does after some days.
    pub(super) fn forget_uploads(&self) {
        self.state.lock().uploads.clear();
    }

    pub(super) fn open_uploads(&self) -> usize {
        self.state.lock().uploads.len()
    }

    /// Runs one call: asks the script, then does `work` or not.
    fn call<T>(
        &self,
        operation: &str,
        key: &Key,
        work: impl FnOnce(&mut State) -> StoreResult<T>,
    ) -> StoreResult<T> {
        self.state.lock().calls.push(operation.to_owned());
        let fault = (self.script.lock())(operation, key);
        match fault {
            Fault::None => work(&mut self.state.lock()),
            Fault::Before(error) => Err(error),
            Fault::After(error) => {
                // What is refused is refused, whether or not the answer is lost.
                let _ = work(&mut self.state.lock());
                Err(error)
            }
        }
    }
}

impl State {
    fn check(&self, key: &Key, condition: &WriteCondition) -> StoreResult<()> {
        let holds = self.objects.get(key).map(|object| &object.etag);
        let met = match condition {
            WriteCondition::IfAbsent => holds.is_none(),
            WriteCondition::IfMatch(etag) => holds == Some(etag),
            WriteCondition::Always => true,
        };
        met.then_some(()).ok_or(StoreError::PreconditionFailed)
    }

    /// R2's rule: one write a second to one key.
    fn note_write(&mut self, key: &Key) {
        let now = tokio::time::Instant::now().into_std();
        if let Some(last) = self.writes.insert(key.clone(), now) {
            assert!(
                now - last >= Duration::from_secs(1),
                "{key} is written too fast"
            );
        }
    }

    fn insert(
        &mut self,
        key: &Key,
        condition: &WriteCondition,
        bytes: Bytes,
        etag: ETag,
        headers: ObjectHeaders,
    ) -> StoreResult<ETag> {
        self.note_write(key);
        self.check(key, condition)?;
        let object = Object {
            bytes,
            etag: etag.clone(),
            headers,
            written: SystemTime::now(),
        };
        self.objects.insert(key.clone(), object);
        Ok(etag)
    }
}

#[async_trait]
impl ObjectStore for FakeStore {
    async fn head(&self, key: &Key, condition: ReadCondition) -> StoreResult<ObjectInfo> {
        self.call("head", key, |state| {
            let object = state.objects.get(key).ok_or(StoreError::NotFound)?;
            if let ReadCondition::IfMatch(etag) = &condition
                && *etag != object.etag
            {
                return Err(StoreError::PreconditionFailed);
            }
            Ok(ObjectInfo {
                version: ObjectVersion {
                    key: key.clone(),
                    etag: object.etag.clone(),
                },
                size: object.bytes.len() as u64,
                last_modified: object.written,
                content_type: Some(object.headers.content_type.clone()),
                metadata: object.headers.metadata.clone(),
                origin: Origin::Primary,
            })
        })
    }

    async fn get(&self, _: GetRequest) -> StoreResult<GetResponse> {
        Err(StoreError::Refused("the uploader does not read".into()))
    }

    async fn put(&self, request: PutRequest) -> StoreResult<ETag> {
        let time = *self.put_time.lock();
        tokio::time::sleep(time).await;
        self.call("put", &request.key, |state| {
            assert_eq!(Md5::of(&request.body), request.md5);
            let etag = ETag::of_md5(request.md5);
            let PutRequest {
                key,
                body,
                condition,
                headers,
                ..
            } = &request;
            state.insert(key, condition, body.clone(), etag, headers.clone())
        })
    }

    async fn create_multipart(&self, key: &Key, headers: ObjectHeaders) -> StoreResult<Upload> {
        self.call("create", key, |state| {
            let id = format!("upload {}", state.calls.len());
            state.uploads.insert(id.clone(), (headers, BTreeMap::new()));
            Ok(Upload {
                key: key.clone(),
                id,
            })
        })
    }

    async fn upload_part(
        &self,
        upload: &Upload,
        number: PartNumber,
        body: Bytes,
        md5: Md5,
    ) -> StoreResult<ETag> {
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.call("part", &upload.key, |state| {
            assert_eq!(Md5::of(&body), md5);
            let upload = state.uploads.get_mut(&upload.id);
            let (_, parts) = upload.ok_or(StoreError::UploadGone)?;
            parts.insert(number, body);
            Ok(ETag::of_md5(md5))
        })
    }

    async fn upload_part_copy(
        &self,
        upload: &Upload,
        number: PartNumber,
        source: &ObjectVersion,
        range: Range<u64>,
    ) -> StoreResult<ETag> {
        tokio::time::sleep(Duration::from_millis(50)).await;
        self.call("part copy", &upload.key, |state| {
            let object = state.objects.get(&source.key);
            let whole = &object.ok_or(StoreError::SourceChanged)?.bytes;
            let end = whole.len().min(range.end as usize);
            let body = whole.slice(range.start as usize..end);
            let upload = state.uploads.get_mut(&upload.id);
            let (_, parts) = upload.ok_or(StoreError::UploadGone)?;
            let etag = ETag::of_md5(Md5::of(&body));
            parts.insert(number, body);
            Ok(etag)
        })
    }

    async fn list_parts(&self, upload: &Upload) -> StoreResult<BTreeMap<PartNumber, HeldPart>> {
        self.call("list parts", &upload.key, |state| {
            let (_, parts) = state
                .uploads
                .get(&upload.id)
                .ok_or(StoreError::UploadGone)?;
            let held = parts.iter().map(|(number, bytes)| {
                let (size, etag) = (bytes.len() as u64, ETag::of_md5(Md5::of(bytes)));
                (*number, HeldPart { size, etag })
            });
            Ok(held.collect())
        })
    }

    async fn complete_multipart(
        &self,
        upload: &Upload,
        parts: &[ETag],
        condition: WriteCondition,
    ) -> StoreResult<ETag> {
        self.call("complete", &upload.key, |state| {
            let gone = state.uploads.remove(&upload.id);
            let (headers, held) = gone.ok_or(StoreError::UploadGone)?;
            let sealed = Sealed {
                length: 0,
                part_size: 0,
                parts: held.values().map(|part| Md5::of(part)).collect(),
            };
            let given: Vec<ETag> = sealed.parts.iter().copied().map(ETag::of_md5).collect();
            assert_eq!(given, parts);
            let sizes: Vec<usize> = held.values().map(Bytes::len).collect();
            assert!(
                sizes[..sizes.len() - 1]
                    .iter()
                    .all(|size| *size == sizes[0])
            );
            let bytes: Vec<u8> = held.into_values().flatten().collect();
            state.insert(
                &upload.key,
                &condition,
                bytes.into(),
                sealed.etag(),
                headers,
            )
        })
    }

    async fn abort_multipart(&self, upload: &Upload) -> StoreResult<()> {
        self.call("abort", &upload.key, |state| {
            state.uploads.remove(&upload.id);
            Ok(())
        })
    }

    async fn copy(&self, request: CopyRequest) -> StoreResult<ETag> {
        self.call("copy", &request.destination, |state| {
            let source = state.objects.get(&request.source.key).cloned();
            let source = source.filter(|object| object.etag == request.source.etag);
            let source = source.ok_or(StoreError::SourceChanged)?;
            if source.bytes.len() > SINGLE_COPY_BYTES {
                return Err(StoreError::TooLarge("for one copy".into()));
            }
            let headers = request.headers.clone().unwrap_or(source.headers);
            let key = &request.destination;
            state.insert(key, &request.condition, source.bytes, source.etag, headers)
        })
    }

    async fn delete(&self, key: &Key) -> StoreResult<()> {
        self.call("delete", key, |state| {
            state.note_write(key);
            state.objects.remove(key);
            Ok(())
        })
    }

    async fn list(&self, _: ListRequest) -> StoreResult<ListPage> {
        Err(StoreError::Refused("the uploader does not list".into()))
    }
}
