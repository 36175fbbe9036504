//! A bucket for one test, as another client sees it: the R2 model or Cloudflare's emulator.

use std::collections::BTreeMap;

use futures::TryStreamExt;
use r2_model::R2Model;
use tokio::runtime::Runtime;
use voicebeatfs::config::{Credentials, R2Settings, Secret};
use voicebeatfs::store::r2::{R2Store, R2Timeouts};
use voicebeatfs::store::{
    GetRequest, Key, ListRequest, Md5, ObjectHeaders, ObjectStore, PutRequest, ReadCondition,
    StoreError, WriteCondition,
};

use crate::common::emulator::Emulator;
use crate::common::mount::{Mount, model_settings};

/// A bucket and what is needed to reach it behind the mount's back.
pub(crate) enum Bucket {
    Model(Box<R2Model>),
    Emulator(Box<Emulated>),
}

/// Cloudflare's emulator and a client of it.
pub(crate) struct Emulated {
    server: Emulator,
    store: R2Store,
    runtime: Runtime,
}

/// An object as another client finds it.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) bytes: Vec<u8>,
    pub(crate) content_type: String,
    pub(crate) metadata: BTreeMap<String, String>,
}

/// Makes one test for each kind of bucket of a function that takes a `&Bucket`.
macro_rules! on_each_bucket {
    ($($name:ident),* $(,)?) => {
        mod on_the_r2_model {
            $(#[test] fn $name() { super::$name(&crate::basic::Bucket::model()); })*
        }
        mod on_the_emulator {
            $(#[test] fn $name() { super::$name(&crate::basic::Bucket::emulator()); })*
        }
    };
}
pub(crate) use on_each_bucket;

impl Bucket {
    pub(crate) fn model() -> Bucket {
        Bucket::Model(Box::new(R2Model::start()))
    }

    pub(crate) fn emulator() -> Bucket {
        let server = Emulator::start();
        let settings = R2Settings {
            endpoint: server.endpoint.clone(),
            bucket: server.bucket.clone(),
            prefix: String::new(),
            credentials: Credentials {
                access_key_id: server.access_key_id.clone(),
                secret_access_key: Secret::new(&*server.secret_access_key),
                session_token: None,
            },
            ..R2Settings::default()
        };
        Bucket::Emulator(Box::new(Emulated {
            store: R2Store::new(&settings, R2Timeouts::default()),
            runtime: Runtime::new().unwrap(),
            server,
        }))
    }

    /// Returns the model, if this is one, for what only its log can tell.
    pub(crate) fn as_model(&self) -> Option<&R2Model> {
        match self {
            Bucket::Model(model) => Some(model),
            Bucket::Emulator(_) => None,
        }
    }

    /// Mounts the bucket.
    pub(crate) fn mount(&self) -> Mount {
        self.mount_with(&[])
    }

    /// Mounts the bucket, with settings.
    pub(crate) fn mount_with(&self, settings: &[(&str, &str)]) -> Mount {
        let mut all = self.settings();
        let own = settings
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        all.extend(own);
        let all: Vec<(&str, &str)> = all
            .iter()
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        Mount::start(&all)
    }

    fn settings(&self) -> Vec<(String, String)> {
        let emulated = match self {
            Bucket::Model(model) => return model_settings(model),
            Bucket::Emulator(emulated) => &emulated.server,
        };
        let settings = [
            ("USE_R2_STORAGE", "true"),
            ("FALLBACK_TO_LOCAL", "false"),
            ("R2_ACCOUNT_ID", "0123456789abcdef0123456789abcdef"),
            ("R2_ENDPOINT_URL", &emulated.endpoint),
            ("R2_BUCKET_NAME", &emulated.bucket),
            ("R2_ACCESS_KEY_ID", &emulated.access_key_id),
            ("R2_SECRET_ACCESS_KEY", &emulated.secret_access_key),
        ];
        settings
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .to_vec()
    }

    /// Writes an object.
    pub(crate) fn put(&self, key: &str, bytes: impl Into<Vec<u8>>) {
        self.put_with(key, bytes, &[]);
    }

    /// Writes an object with `x-amz-meta-*`.
    pub(crate) fn put_with(&self, key: &str, bytes: impl Into<Vec<u8>>, metadata: &[(&str, &str)]) {
        let bytes = bytes.into();
        let emulated = match self {
            Bucket::Model(model) => return model.put_with(key, bytes, "audio/wav", metadata),
            Bucket::Emulator(emulated) => emulated,
        };
        let metadata = metadata
            .iter()
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let request = PutRequest {
            key: Key::new(key).unwrap(),
            md5: Md5::of(&bytes),
            body: bytes.into(),
            condition: WriteCondition::Always,
            headers: ObjectHeaders {
                content_type: "audio/wav".into(),
                metadata: metadata.collect(),
            },
        };
        emulated
            .runtime
            .block_on(emulated.store.put(request))
            .unwrap();
    }

    /// Returns an object, or `None`.
    pub(crate) fn get(&self, key: &str) -> Option<Found> {
        let emulated = match self {
            Bucket::Model(model) => {
                let object = model.get(key)?;
                return Some(Found {
                    bytes: object.bytes.into(),
                    content_type: object.content_type,
                    metadata: object.metadata,
                });
            }
            Bucket::Emulator(emulated) => emulated,
        };
        let request = GetRequest {
            key: Key::new(key).unwrap(),
            range: None,
            condition: ReadCondition::None,
        };
        emulated.runtime.block_on(async {
            let answer = match emulated.store.get(request).await {
                Err(StoreError::NotFound) => return None,
                answer => answer.unwrap(),
            };
            let bytes: Vec<bytes::Bytes> = answer.body.try_collect().await.unwrap();
            Some(Found {
                bytes: bytes.concat(),
                content_type: answer.info.content_type.unwrap_or_default(),
                metadata: answer.info.metadata,
            })
        })
    }

    /// Returns the bytes of an object that must be there.
    pub(crate) fn bytes(&self, key: &str) -> Vec<u8> {
        self.get(key)
            .unwrap_or_else(|| panic!("{key} is in the bucket"))
            .bytes
    }

    /// Deletes an object.
    pub(crate) fn delete(&self, key: &str) {
        match self {
            Bucket::Model(model) => assert!(model.delete(key)),
            Bucket::Emulator(emulated) => {
                let key = Key::new(key).unwrap();
                emulated
                    .runtime
                    .block_on(emulated.store.delete(&key))
                    .unwrap();
            }
        }
    }

    /// Returns all keys, ordered.
    pub(crate) fn keys(&self) -> Vec<String> {
        let emulated = match self {
            Bucket::Model(model) => return model.keys(),
            Bucket::Emulator(emulated) => emulated,
        };
        emulated.runtime.block_on(async {
            let (mut keys, mut request) = (Vec::new(), ListRequest::default());
            loop {
                let page = emulated.store.list(request.clone()).await.unwrap();
                keys.extend(
                    page.objects
                        .iter()
                        .map(|object| object.version.key.to_string()),
                );
                request.continuation = page.next;
                if request.continuation.is_none() {
                    return keys;
                }
            }
        })
    }
}

/// Bytes that no two seeds share and no compression shortens.
pub(crate) fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}
