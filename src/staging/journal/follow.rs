//! The journal as its follower, the uploader, uses it: writes begun and ended, operations confirmed,
//! tries that failed. Each call names the state of the record that it is about, and does nothing
//! when the record has changed meanwhile.

use super::mirror::Attempt;
use super::step::Step;
use super::{Journal, JournalResult, MAX_ATTEMPTS};
use crate::staging::record::{
    Change, Confirmed, Deleted, Edit, Hold, PutState, Record, Sealed, Seq,
};
use crate::store::{ETag, Key};

impl Journal {
    /// Whether the record of a key is in that state.
    pub fn is_current(&self, key: &Key, seq: Seq) -> bool {
        let mirror = self.mirror.lock();
        mirror.record(&key.folded()).is_some_and(|r| r.seq == seq)
    }

    /// Notes a write before it is sent, if the record is still in that state; returns whether it
    /// is. From then on the write may land, until [`Journal::end_attempt`], or until
    /// [`ATTEMPT_SETTLES`](super::ATTEMPT_SETTLES) has passed and the key has no record. A write that is sent again keeps
    /// its id.
    pub fn begin_attempt(&self, key: &Key, seq: Seq, write_id: &str) -> JournalResult<bool> {
        let mut writer = self.writer.lock();
        if self.current(key, seq).is_none() {
            return Ok(false);
        }
        let folded = key.folded();
        let attempt = Attempt {
            write_id: write_id.to_owned(),
            seq,
            active_at: self.clock.now(),
        };
        let mut steps = vec![Step::BeginAttempt(folded.clone(), attempt)];
        let open = self.open_attempts(key);
        if open.len() >= MAX_ATTEMPTS && open[0].write_id != write_id {
            steps.push(Step::EndAttempt(folded, open[0].write_id.clone()));
        }
        self.commit(&mut writer, steps)?;
        Ok(true)
    }

    /// Notes that a request has ended whose write may have landed or may yet land: from now on it
    /// settles.
    pub fn leave_attempt(&self, key: &Key, write_id: &str) -> JournalResult<()> {
        let mut writer = self.writer.lock();
        let open = self.open_attempts(key).into_iter();
        let Some(attempt) = open.into_iter().find(|open| open.write_id == write_id) else {
            return Ok(());
        };
        let active_at = self.clock.now();
        let left = Attempt {
            active_at,
            ..attempt
        };
        self.commit(&mut writer, vec![Step::BeginAttempt(key.folded(), left)])
    }

    /// Notes that a write has not landed and cannot land any more.
    pub fn end_attempt(&self, key: &Key, write_id: &str) -> JournalResult<()> {
        let step = Step::EndAttempt(key.folded(), write_id.to_owned());
        self.commit(&mut self.writer.lock(), vec![step])
    }

    /// Returns the write ids of the writes to a key whose end is not known.
    pub fn attempts(&self, key: &Key) -> Vec<String> {
        let attempts = self.open_attempts(key);
        attempts.into_iter().map(|a| a.write_id).collect()
    }

    /// Returns the writes to a key whose end is not known.
    pub fn open_attempts(&self, key: &Key) -> Vec<Attempt> {
        self.mirror.lock().attempts(&key.folded()).to_vec()
    }

    /// Notes that the operation for state `seq` of a record has succeeded and what the key holds
    /// since. If that is still its state, the record goes, and `extra` is carried out with it; else
    /// it only learns what it is based on now.
    pub fn confirm(
        &self,
        key: &Key,
        seq: Seq,
        now_holds: Option<ETag>,
        extra: Vec<Edit>,
    ) -> JournalResult<Confirmed> {
        let mut writer = self.writer.lock();
        let folded = key.folded();
        let record = self.mirror.lock().record(&folded).cloned();
        let mut steps = Vec::with_capacity(1 + extra.len());
        let mut confirmed = Confirmed::Superseded;
        match record {
            Some(record) if record.seq == seq => {
                steps.push(Step::Remove(folded));
                for edit in extra {
                    let step = self.step(&mut writer, edit, &steps)?;
                    steps.push(step);
                }
                confirmed = Confirmed::Done;
            }
            Some(record) => steps.push(Step::Set(Record {
                base: now_holds,
                ..record
            })),
            // Nobody wants the key to hold anything, and now it does.
            None if now_holds.is_some() => {
                let change = Change::Delete(Deleted::Moved);
                let record = self.new_record(&mut writer, key.clone(), now_holds, change);
                steps.push(Step::Set(record));
            }
            None => return Ok(confirmed),
        }
        self.commit(&mut writer, steps)?;
        Ok(confirmed)
    }

    /// Notes that a snapshot of an open file was uploaded for state `seq` of its record, and what
    /// the key holds since. If that is still its state, the record stays open on top of that
    /// version, and `extra` is carried out with it; else it is as with [`Journal::confirm`].
    pub fn protect(
        &self,
        key: &Key,
        seq: Seq,
        now_holds: ETag,
        extra: Vec<Edit>,
    ) -> JournalResult<Confirmed> {
        let mut writer = self.writer.lock();
        let Some(record) = self.current(key, seq) else {
            drop(writer);
            return self.confirm(key, seq, Some(now_holds), extra);
        };
        let record = Record {
            base: Some(now_holds),
            attempts: 0,
            last_error: None,
            ..record
        };
        let mut steps = vec![Step::Set(record)];
        for edit in extra {
            let step = self.step(&mut writer, edit, &steps)?;
            steps.push(step);
        }
        self.commit(&mut writer, steps)?;
        Ok(Confirmed::Done)
    }

    /// Gives a record up without an operation, if it is still in that state: what the key holds
    /// stays. Another state of the record is left as it is, with its old base.
    pub fn withdraw(&self, key: &Key, seq: Seq) -> JournalResult<Confirmed> {
        let mut writer = self.writer.lock();
        if self.current(key, seq).is_none() {
            return Ok(Confirmed::Superseded);
        }
        let folded = key.folded();
        self.commit(&mut writer, vec![Step::Remove(folded)])?;
        Ok(Confirmed::Done)
    }

    /// Notes that the object of a tombstone is about to be deleted, if the record is still in that
    /// state; returns whether it is. Until [`Journal::end_delete`] the tombstone cannot be withdrawn.
    pub fn begin_delete(&self, key: &Key, seq: Seq) -> bool {
        // Held, so that nobody withdraws it in between.
        let _writer = self.writer.lock();
        let current = self.current(key, seq);
        let is_current = current.is_some_and(|record| !record.is_held());
        if is_current {
            self.mirror.lock().begin_delete(key.folded());
        }
        is_current
    }

    /// Says of the deletes that `select` names whether they may be carried out, but for those that
    /// are being carried out; returns how many there were.
    pub fn set_hold(&self, select: impl Fn(&Record) -> bool, hold: Hold) -> JournalResult<usize> {
        let mut writer = self.writer.lock();
        let mut steps = Vec::new();
        {
            let mirror = self.mirror.lock();
            for record in mirror.records().filter(|record| select(record)) {
                let mut record = record.clone();
                if let Change::Delete(Deleted::Here { hold: now, .. }) = &mut record.change
                    && !mirror.is_deleting(&record.key.folded())
                {
                    *now = hold;
                    steps.push(Step::Set(record));
                }
            }
        }
        let count = steps.len();
        if count > 0 {
            self.commit(&mut writer, steps)?;
        }
        Ok(count)
    }

    /// Notes that the answer to a delete has come.
    pub fn end_delete(&self, key: &Key) {
        self.mirror.lock().end_delete(&key.folded());
    }

    /// Puts `edits` in the place of a tombstone that is in that state and not being carried out;
    /// returns whether it was.
    pub fn withdraw_delete(&self, key: &Key, seq: Seq, edits: Vec<Edit>) -> JournalResult<bool> {
        let mut writer = self.writer.lock();
        let is_tombstone = self
            .current(key, seq)
            .is_some_and(|record| record.change.is_delete());
        if !is_tombstone || self.mirror.lock().is_deleting(&key.folded()) {
            return Ok(false);
        }
        let mut steps = vec![Step::Remove(key.folded())];
        for edit in edits {
            let step = self.step(&mut writer, edit, &steps)?;
            steps.push(step);
        }
        self.commit(&mut writer, steps)?;
        Ok(true)
    }

    /// Notes the digests of a closed file, if the record is still in that state and closed. Returns
    /// whether it is.
    pub fn seal(&self, key: &Key, seq: Seq, sealed: Sealed) -> JournalResult<bool> {
        self.amend(key, seq, |record| match &mut record.change {
            Change::Put { state, .. } if *state != PutState::Open => {
                *state = PutState::Sealed(sealed);
                true
            }
            _ => false,
        })
    }

    /// Notes that a sealed file has other bytes than it was sealed with, and has it sealed anew.
    pub fn unseal(&self, key: &Key, seq: Seq, length: u64) -> JournalResult<bool> {
        self.amend(key, seq, |record| match &mut record.change {
            Change::Put { state, .. } if *state != PutState::Open => {
                *state = PutState::Closed { length };
                true
            }
            _ => false,
        })
    }

    /// Notes what the key turned out to hold, if the record is still in that state.
    pub fn rebase(&self, key: &Key, seq: Seq, base: Option<ETag>) -> JournalResult<bool> {
        self.amend(key, seq, |record| {
            record.base = base;
            true
        })
    }

    /// Notes a failed try.
    pub fn note_failure(&self, key: &Key, seq: Seq, error: &str) -> JournalResult<bool> {
        self.amend(key, seq, |record| {
            record.attempts = record.attempts.saturating_add(1);
            record.last_error = Some(error.to_owned());
            true
        })
    }

    /// Parks a record: it is kept and shown, and not tried until [`Journal::unpark`] or its next
    /// change.
    pub fn park(&self, key: &Key, seq: Seq, reason: &str) -> JournalResult<bool> {
        self.amend(key, seq, |record| {
            record.parked = Some(reason.to_owned());
            true
        })
    }

    /// Has a parked record tried again. Returns whether there was one.
    pub fn unpark(&self, key: &Key) -> JournalResult<bool> {
        let Some(record) = self.record(key) else {
            return Ok(false);
        };
        self.amend(key, record.seq, |record| {
            record.attempts = 0;
            record.parked.take().is_some()
        })
    }

    /// Changes a record without a new sequence number, if it is in that state and `change` agrees.
    fn amend(
        &self,
        key: &Key,
        seq: Seq,
        change: impl FnOnce(&mut Record) -> bool,
    ) -> JournalResult<bool> {
        let mut writer = self.writer.lock();
        let Some(mut record) = self.current(key, seq) else {
            return Ok(false);
        };
        if !change(&mut record) {
            return Ok(false);
        }
        self.commit(&mut writer, vec![Step::Set(record)])?;
        Ok(true)
    }
}
