//! A store under test, and short ways to use it.

use std::sync::Arc;

use bytes::Bytes;
use futures::TryStreamExt;
use futures::future::BoxFuture;
use r2_model::R2Model;
use voicebeatfs::config::{Credentials, R2Settings, Secret};
use voicebeatfs::store::r2::{R2Store, R2Timeouts};
use voicebeatfs::store::{
    CopyRequest, ETag, GetRequest, GetResponse, Key, ListPage, ListRequest, Md5, ObjectHeaders,
    ObjectInfo, ObjectStore, ObjectVersion, PutRequest, ReadCondition, StoreResult, WriteCondition,
};

use crate::emulator::Emulator;

/// One thing that a store does. It panics if the store does not.
pub(crate) type Behaviour = fn(Subject) -> BoxFuture<'static, ()>;

/// Names each behaviour by its function.
macro_rules! behaviours {
    ($($name:ident),* $(,)?) => {
        pub(crate) fn all() -> Vec<(&'static str, crate::contract::subject::Behaviour)> {
            vec![$((stringify!($name), |subject| Box::pin($name(subject)))),*]
        }
    };
}
pub(crate) use behaviours;

/// A store, and a folder in it of the behaviour's own.
#[derive(Clone)]
pub(crate) struct Subject {
    pub(crate) store: Arc<dyn ObjectStore>,
    pub(crate) folder: String,
}

pub(crate) fn settings_of(model: &R2Model, prefix: &str) -> R2Settings {
    R2Settings {
        endpoint: model.endpoint(),
        bucket: model.bucket().into(),
        prefix: prefix.into(),
        credentials: Credentials {
            access_key_id: model.access_key().into(),
            secret_access_key: Secret::new(model.secret_key()),
            session_token: None,
        },
        ..R2Settings::default()
    }
}

pub(crate) fn of_model(model: &R2Model, prefix: &str) -> R2Store {
    R2Store::new(&settings_of(model, prefix), R2Timeouts::default())
}

pub(crate) fn of_emulator(emulator: &Emulator) -> R2Store {
    let settings = R2Settings {
        endpoint: emulator.endpoint.clone(),
        bucket: emulator.bucket.clone(),
        prefix: String::new(),
        credentials: Credentials {
            access_key_id: emulator.access_key_id.clone(),
            secret_access_key: Secret::new(&*emulator.secret_access_key),
            session_token: None,
        },
        ..R2Settings::default()
    };
    R2Store::new(&settings, R2Timeouts::default())
}

pub(crate) fn key(name: &str) -> Key {
    Key::new(name).unwrap()
}

pub(crate) fn put_request(name: &str, body: Bytes, condition: WriteCondition) -> PutRequest {
    PutRequest {
        key: key(name),
        md5: Md5::of(&body),
        body,
        condition,
        headers: headers("audio/wav", &[]),
    }
}

pub(crate) fn headers(content_type: &str, metadata: &[(&str, &str)]) -> ObjectHeaders {
    let metadata = metadata
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    ObjectHeaders {
        content_type: content_type.into(),
        metadata: metadata.collect(),
    }
}

pub(crate) async fn collect(response: GetResponse) -> StoreResult<Bytes> {
    let chunks: Vec<Bytes> = response.body.try_collect().await?;
    Ok(chunks.concat().into())
}

impl Subject {
    pub(crate) fn new(store: Arc<dyn ObjectStore>, behaviour: &str) -> Subject {
        let folder = format!("{behaviour}/");
        Subject { store, folder }
    }

    pub(crate) fn key(&self, name: &str) -> Key {
        key(&format!("{}{name}", self.folder))
    }

    pub(crate) fn put_request(&self, name: &str, body: &str) -> PutRequest {
        let body = Bytes::from(body.to_owned());
        let name = format!("{}{name}", self.folder);
        put_request(&name, body, WriteCondition::Always)
    }

    pub(crate) async fn put(&self, name: &str, body: &str) -> ETag {
        let request = self.put_request(name, body);
        self.store.put(request).await.unwrap()
    }

    pub(crate) async fn put_if(
        &self,
        name: &str,
        body: &str,
        condition: WriteCondition,
    ) -> StoreResult<ETag> {
        let mut request = self.put_request(name, body);
        request.condition = condition;
        self.store.put(request).await
    }

    pub(crate) async fn head(&self, name: &str) -> StoreResult<ObjectInfo> {
        let key = self.key(name);
        self.store.head(&key, ReadCondition::None).await
    }

    pub(crate) async fn get_if(
        &self,
        name: &str,
        range: Option<std::ops::Range<u64>>,
        condition: ReadCondition,
    ) -> StoreResult<Bytes> {
        let request = GetRequest {
            key: self.key(name),
            range,
            condition,
        };
        let response = self.store.get(request).await?;
        let told = response.range.end - response.range.start;
        let bytes = collect(response).await?;
        assert_eq!(bytes.len() as u64, told);
        Ok(bytes)
    }

    pub(crate) async fn get(&self, name: &str) -> StoreResult<Bytes> {
        self.get_if(name, None, ReadCondition::None).await
    }

    pub(crate) fn copy_request(&self, from: &str, tag: &ETag, to: &str) -> CopyRequest {
        CopyRequest {
            source: ObjectVersion {
                key: self.key(from),
                etag: tag.clone(),
            },
            destination: self.key(to),
            condition: WriteCondition::Always,
            headers: None,
        }
    }

    pub(crate) async fn page(&self, prefix: &str, delimited: bool) -> ListPage {
        let request = ListRequest {
            prefix: format!("{}{prefix}", self.folder),
            delimited,
            ..ListRequest::default()
        };
        self.store.list(request).await.unwrap()
    }

    /// Returns the names in a listing of all pages, objects first, without the folder.
    pub(crate) async fn names(
        &self,
        prefix: &str,
        delimited: bool,
        max_keys: Option<u16>,
    ) -> Vec<String> {
        let mut request = ListRequest {
            prefix: format!("{}{prefix}", self.folder),
            delimited,
            max_keys,
            ..ListRequest::default()
        };
        let (mut objects, mut prefixes) = (Vec::new(), Vec::new());
        loop {
            let page = self.store.list(request.clone()).await.unwrap();
            assert!(!page.incomplete);
            let most = usize::from(max_keys.unwrap_or(1000));
            assert!(page.objects.len() + page.prefixes.len() <= most);
            objects.extend(
                page.objects
                    .iter()
                    .map(|object| object.version.key.to_string()),
            );
            prefixes.extend(page.prefixes);
            request.continuation = page.next;
            if request.continuation.is_none() {
                break;
            }
        }
        let names = objects.iter().chain(&prefixes);
        names
            .map(|name| name.strip_prefix(&self.folder).unwrap().to_owned())
            .collect()
    }
}
