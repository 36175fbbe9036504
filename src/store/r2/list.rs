//! Listings: names come percent-encoded, so that any name survives XML.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_sdk_s3::config::interceptors::AfterDeserializationInterceptorContextRef;
use aws_sdk_s3::config::{Intercept, RuntimeComponents};
use aws_sdk_s3::error::BoxError;
use aws_sdk_s3::types::{EncodingType, Object};
use aws_smithy_types::config_bag::ConfigBag;
use percent_encoding::percent_decode_str;

use super::super::{
    HeldPart, Key, ListPage, ListRequest, ListedObject, ObjectVersion, Origin, PartNumber,
    StoreError, StoreResult, Upload,
};
use super::{R2Store, read};

impl R2Store {
    pub(super) async fn list_objects(&self, request: ListRequest) -> StoreResult<ListPage> {
        let whole = WholeListing::default();
        let sent = self
            .client
            .list_objects_v2()
            .bucket(&self.bucket)
            .prefix(format!("{}{}", self.prefix, request.prefix))
            .set_delimiter(request.delimited.then(|| "/".into()))
            .set_start_after(
                request
                    .start_after
                    .map(|name| format!("{}{name}", self.prefix)),
            )
            .set_continuation_token(request.continuation.clone())
            .set_max_keys(request.max_keys.map(Into::into))
            .encoding_type(EncodingType::Url)
            .customize()
            .interceptor(whole.clone())
            .send();
        let output = self.answer(self.timeouts.answer, sent).await?;
        if !whole.0.load(Ordering::Relaxed) {
            return Err(StoreError::Damaged("a listing without its end".into()));
        }
        let encoded = output.encoding_type() == Some(&EncodingType::Url);
        let mut page = ListPage::default();
        for object in output.contents() {
            page.objects.extend(self.listed(object, encoded));
        }
        for prefix in output.common_prefixes() {
            let name = prefix.prefix().and_then(|name| self.name(name, encoded));
            page.prefixes.extend(name);
        }
        if output.is_truncated() == Some(true) {
            // Without a new token the listing would go round for ever.
            let next = output.next_continuation_token;
            page.next = next.filter(|next| Some(next) != request.continuation.as_ref());
            if page.next.is_none() {
                return Err(StoreError::Damaged("a cut listing without its rest".into()));
            }
        }
        Ok(page)
    }

    /// Returns all parts that R2 has of an upload, of which one answer tells a thousand.
    pub(super) async fn list_upload_parts(
        &self,
        upload: &Upload,
    ) -> StoreResult<BTreeMap<PartNumber, HeldPart>> {
        let mut held = BTreeMap::new();
        let mut marker: Option<String> = None;
        loop {
            let sent = self
                .client
                .list_parts()
                .bucket(&self.bucket)
                .key(self.full_key(&upload.key))
                .upload_id(&upload.id)
                .set_part_number_marker(marker)
                .send();
            let output = self.answer(self.timeouts.answer, sent).await?;
            let before = held.len();
            for part in output.parts() {
                let number = part.part_number().map(PartNumber::try_from);
                let (Some(Ok(number)), Some(size)) = (number, read::size(part.size())) else {
                    return Err(StoreError::Damaged("a part without number or size".into()));
                };
                let etag = read::tag(part.e_tag())?;
                held.insert(number, HeldPart { size, etag });
            }
            if output.is_truncated() != Some(true) {
                return Ok(held);
            }
            if held.len() == before {
                return Err(StoreError::Damaged("a cut listing without its rest".into()));
            }
            marker = held.last_key_value().map(|(number, _)| number.to_string());
        }
    }

    fn listed(&self, object: &Object, encoded: bool) -> Option<ListedObject> {
        let name = self.name(object.key()?, encoded)?;
        // The marker of the prefix itself has no name in here.
        let key = Key::new(&name)?;
        let Ok(etag) = read::tag(object.e_tag()) else {
            log::warn!("listed without an ETag, skipped: {key:?}");
            return None;
        };
        Some(ListedObject {
            version: ObjectVersion { key, etag },
            size: read::size(object.size()).unwrap_or(0),
            last_modified: whole_seconds(read::time(object.last_modified())),
            origin: Origin::Primary,
        })
    }

    /// Returns a listed name as it is below our prefix.
    fn name(&self, listed: &str, encoded: bool) -> Option<String> {
        let name = if encoded {
            decode(listed)
        } else {
            Some(listed.into())
        };
        let below = name
            .as_deref()
            .and_then(|name| name.strip_prefix(&self.prefix));
        if below.is_none() {
            log::warn!("listed with a name that cannot be, skipped: {listed:?}");
        }
        below.map(Into::into)
    }
}

/// Notes whether a listing has come whole: the SDK takes one that was cut off for one that names
/// fewer objects (seen with 1.157.0), and what it does not name would count as deleted.
#[derive(Clone, Debug, Default)]
struct WholeListing(Arc<AtomicBool>);

#[aws_smithy_runtime_api::client::interceptors::dyn_dispatch_hint]
impl Intercept for WholeListing {
    fn name(&self) -> &'static str {
        "WholeListing"
    }

    fn read_after_deserialization(
        &self,
        context: &AfterDeserializationInterceptorContextRef<'_>,
        _components: &RuntimeComponents,
        _bag: &mut ConfigBag,
    ) -> Result<(), BoxError> {
        let body = context.response().body().bytes().unwrap_or_default();
        let is_whole = body.trim_ascii_end().ends_with(b"</ListBucketResult>");
        self.0.store(is_whole, Ordering::Relaxed);
        Ok(())
    }
}

/// Decodes a listed name. As in AWS, a plus sign stands for a space and itself comes encoded.
fn decode(name: &str) -> Option<String> {
    let spaced = name.replace('+', " ");
    let decoded = percent_decode_str(&spaced).decode_utf8().ok()?;
    Some(decoded.into_owned())
}

/// Listings tell milliseconds, HEAD and GET whole seconds: one object must not have two times, for
/// which programs would take it for changed.
fn whole_seconds(time: SystemTime) -> SystemTime {
    match time.duration_since(UNIX_EPOCH) {
        Ok(since) => UNIX_EPOCH + Duration::from_secs(since.as_secs()),
        Err(_) => time,
    }
}

#[cfg(test)]
mod tests {
    use super::decode;

    #[test]
    fn names_are_decoded() {
        assert_eq!(decode("a/b%2Bc+d%20e%0A").as_deref(), Some("a/b+c d e\n"));
        assert_eq!(decode("%C3%A9").as_deref(), Some("é"));
        assert_eq!(decode("%FF"), None);
    }
}
