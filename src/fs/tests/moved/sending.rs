//! Carrying out records as the uploader does, one at a time, with answers that come later.

use super::*;
use crate::store::ObjectVersion;
use crate::store::StoreError;
use crate::store::attributes::WRITE_ID;

impl Run {
    /// Carries out a record that may go, and sometimes hears of it later.
    pub(super) fn send_one(&mut self) {
        let moves = self.fs().journal().moves();
        let mut ready = self.fs().journal().records();
        ready.retain(|record| {
            !record.change.is_open()
                && !moves.covers(&record.key)
                && !self.fs().journal().copies_from(&record.key)
                && !self.sent.iter().any(|sent| sent.record.key == record.key)
        });
        let Some(record) = self.pick(&ready) else {
            return;
        };
        self.tell(format!(
            "send {} {:?} base {:?}",
            record.key, record.change, record.base
        ));
        // A new tag in place of the one that was asked for is known with the answer only.
        let in_place = matches!(
            &record.change,
            Change::Copy { source, .. } if source.key == record.key
        );
        self.send(record);
        if in_place || self.random(3) > 0 {
            self.answer();
        }
    }

    pub(super) fn send(&mut self, record: Record) {
        self.count += 1;
        let write_id = format!("write {}", self.count);
        let begun = self
            .fs()
            .journal()
            .begin_attempt(&record.key, record.seq, &write_id);
        assert!(begun.unwrap());
        let condition = match &record.base {
            Some(etag) => WriteCondition::IfMatch(etag.clone()),
            None => WriteCondition::IfAbsent,
        };
        let mut headers = ObjectHeaders::default();
        headers.metadata.insert(WRITE_ID.into(), write_id.clone());
        let store = self.bench.store.clone();
        let put = |bytes: Vec<u8>| PutRequest {
            key: record.key.clone(),
            md5: Md5::of(&bytes),
            body: bytes.into(),
            condition: condition.clone(),
            headers: headers.clone(),
        };
        let holds = match record.change.clone() {
            Change::Put { file, .. } => {
                let bytes = std::fs::read(self.fs().staging.path(file)).unwrap();
                Some(self.bench.run(store.put(put(bytes))))
            }
            Change::Folder { .. } => match self.bench.run(store.put(put(Vec::new()))) {
                Err(StoreError::PreconditionFailed) => {
                    let found = store.head(&record.key, ReadCondition::None);
                    Some(self.bench.run(found).map(|found| found.version.etag))
                }
                done => Some(done),
            },
            Change::Copy { source, .. } => Some(self.bench.run(store.copy(CopyRequest {
                source,
                destination: record.key.clone(),
                condition,
                headers: Some(headers),
            }))),
            Change::Delete(_) => {
                let found = self.bench.run(store.head(&record.key, ReadCondition::None));
                if found.is_ok_and(|found| {
                    record.base.as_ref() == Some(&found.version.etag)
                        || found.metadata.contains_key(WRITE_ID)
                }) {
                    self.bench.run(store.delete(&record.key)).unwrap();
                }
                None
            }
        };
        let holds = holds.map(|done| {
            done.unwrap_or_else(|error| panic!("{} {:?}: {error}", record.key, record.change))
        });
        self.sent.push(Sent {
            record,
            holds,
            write_id,
        });
    }

    pub(super) fn answer(&mut self) {
        while !self.sent.is_empty() {
            let sent = self.sent.remove(0);
            self.tell(format!("answered {}", sent.record.key));
            self.fs().confirm_upload(&sent.record, sent.holds).unwrap();
            // One that was sent twice is remembered for a while.
            if self.random(4) > 0 {
                let (key, write_id) = (&sent.record.key, &sent.write_id);
                self.fs().journal().end_attempt(key, write_id).unwrap();
            }
        }
    }

    pub(super) fn break_circle(&mut self) {
        let records = self.fs().journal().records();
        let is_copy = |record: &&Record| matches!(&record.change, Change::Copy { source, .. } if source.key != record.key);
        let record = records
            .iter()
            .find(is_copy)
            .expect("something may go")
            .clone();
        let Change::Copy { source, .. } = record.change.clone() else {
            unreachable!();
        };
        self.count += 1;
        let key = self
            .bench
            .key(&format!(".voicebeatfs/detour/{}", self.count));
        let etag = self.bench.run(self.bench.store.copy(CopyRequest {
            source,
            destination: key.clone(),
            condition: WriteCondition::IfAbsent,
            headers: None,
        }));
        let aside = ObjectVersion {
            key,
            etag: etag.unwrap(),
        };
        assert!(self.fs().detour(&record, &aside).unwrap());
    }
}
