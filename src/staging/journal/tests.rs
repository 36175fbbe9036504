use std::collections::BTreeMap;
use std::fs;
use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::clock::{Clock, ManualClock};
use crate::staging::record::{Confirmed, Sealed};
use crate::store::Md5;

fn key(text: &str) -> Key {
    Key::new(text).unwrap()
}

fn etag(text: &str) -> ETag {
    ETag::new(&format!("\"{text}\""))
}

fn version(name: &str, tag: &str) -> ObjectVersion {
    ObjectVersion {
        key: key(name),
        etag: etag(tag),
    }
}

fn set(name: &str, change: Change) -> Edit {
    Edit::Set {
        key: key(name),
        base: None,
        change,
    }
}

fn put(file: FileId, state: PutState) -> Change {
    Change::Put {
        file,
        state,
        attributes: FileAttributes::default(),
    }
}

fn copy(name: &str, tag: &str) -> Change {
    Change::Copy {
        source: version(name, tag),
        size: 1,
        attributes: FileAttributes::default(),
    }
}

struct Bench {
    dir: tempfile::TempDir,
    clock: Arc<ManualClock>,
}

impl Bench {
    fn new() -> Bench {
        Bench {
            dir: tempfile::tempdir().unwrap(),
            clock: Arc::new(ManualClock::new()),
        }
    }

    fn open(&self) -> Journal {
        Journal::open(&self.dir.path().join("journal.db"), self.clock.clone()).unwrap()
    }

    /// Opens what a process killed now would leave: the files as they are, nothing closed.
    fn open_after_kill(&self) -> (tempfile::TempDir, Journal) {
        let copy = tempfile::tempdir().unwrap();
        for name in ["journal.db", "journal.db-wal"] {
            fs::copy(self.dir.path().join(name), copy.path().join(name)).unwrap();
        }
        let journal = Journal::open(&copy.path().join("journal.db"), self.clock.clone());
        (copy, journal.unwrap())
    }
}

#[test]
fn all_spellings_of_a_key_share_one_record() {
    let bench = Bench::new();
    let journal = bench.open();
    journal
        .apply(vec![set("caf\u{e9}", Change::Delete(Deleted::Moved))])
        .unwrap();
    journal
        .apply(vec![set("cafe\u{301}", copy("a", "1"))])
        .unwrap();
    let records = journal.records();
    assert_eq!(records.len(), 1);
    assert_eq!(records[0].key.as_str(), "cafe\u{301}", "as last spelled");
    assert_eq!(
        journal.record(&key("caf\u{e9}")).as_ref(),
        Some(&records[0])
    );
    let (_dir, journal) = bench.open_after_kill();
    assert_eq!(journal.records(), records);
}

#[test]
fn sequence_numbers_grow_over_restarts() {
    let bench = Bench::new();
    let mut last = Seq(0);
    for _ in 0..5 {
        let (_dir, after_kill) = {
            let journal = bench.open();
            for _ in 0..700 {
                let seqs = journal
                    .apply(vec![set("a", Change::Delete(Deleted::Moved))])
                    .unwrap();
                assert!(seqs[0] > last);
                last = seqs[0];
            }
            journal.apply(vec![Edit::Remove { key: key("a") }]).unwrap();
            bench.open_after_kill()
        };
        let seqs = after_kill
            .apply(vec![set("a", Change::Delete(Deleted::Moved))])
            .unwrap();
        assert!(seqs[0] > last);
    }
}

#[test]
fn a_confirmed_record_goes_only_if_it_has_not_changed() {
    let bench = Bench::new();
    let journal = bench.open();
    let file = FileId::random();
    let first = journal
        .apply(vec![set("a", put(file, PutState::Open))])
        .unwrap()[0];
    let second = journal
        .apply(vec![set("a", put(file, PutState::Open))])
        .unwrap()[0];
    let adopt = || {
        vec![Edit::Adopt {
            file,
            version: version("a", "1"),
        }]
    };
    let superseded = journal.confirm(&key("a"), first, Some(etag("1")), adopt());
    assert_eq!(superseded.unwrap(), Confirmed::Superseded);
    let record = journal.record(&key("a")).unwrap();
    assert_eq!((record.seq, record.base), (second, Some(etag("1"))));
    assert!(!journal.is_released(file));
    let done = journal.confirm(&key("a"), second, Some(etag("2")), adopt());
    assert_eq!(done.unwrap(), Confirmed::Done);
    assert_eq!(journal.records(), []);
    assert!(journal.is_released(file));
}

#[test]
fn a_write_that_may_land_leaves_a_tombstone() {
    let bench = Bench::new();
    let journal = bench.open();
    let file = FileId::random();
    let seq = journal
        .apply(vec![set("a", put(file, PutState::Open))])
        .unwrap()[0];
    assert!(journal.begin_attempt(&key("a"), seq, "one").unwrap());
    assert!(!journal.begin_attempt(&key("a"), Seq(0), "two").unwrap());
    assert_eq!(journal.attempts(&key("a")), ["one"]);
    journal.apply(vec![Edit::Remove { key: key("a") }]).unwrap();
    assert_eq!(
        journal.record(&key("a")).unwrap().change,
        Change::Delete(Deleted::Moved)
    );
    // Moved away: the record goes to another name, the write stays with the old one.
    let (_dir, journal) = bench.open_after_kill();
    assert_eq!(journal.attempts(&key("a")), ["one"]);
    journal.end_attempt(&key("a"), "one").unwrap();
    journal.apply(vec![Edit::Remove { key: key("a") }]).unwrap();
    assert_eq!(journal.records(), []);
    // It landed, and was reported only now.
    let confirmed = journal.confirm(&key("a"), seq, Some(etag("1")), Vec::new());
    assert_eq!(confirmed.unwrap(), Confirmed::Superseded);
    let tombstone = journal.record(&key("a")).unwrap();
    assert_eq!(
        (tombstone.base, tombstone.change),
        (Some(etag("1")), Change::Delete(Deleted::Moved))
    );
}

#[test]
fn a_write_that_may_land_does_not_delete_what_is_there() {
    let bench = Bench::new();
    let journal = bench.open();
    let opened = Edit::Set {
        key: key("a"),
        base: Some(etag("1")),
        change: put(FileId::random(), PutState::Open),
    };
    let seq = journal.apply(vec![opened]).unwrap()[0];
    journal.begin_attempt(&key("a"), seq, "one").unwrap();
    // Closed again without a change.
    journal.apply(vec![Edit::Remove { key: key("a") }]).unwrap();
    assert_eq!(journal.records(), []);
}

#[test]
fn writes_that_can_neither_land_nor_matter_are_forgotten() {
    let bench = Bench::new();
    let journal = bench.open();
    for name in ["a", "b"] {
        let seq = journal
            .apply(vec![set(name, Change::Delete(Deleted::Moved))])
            .unwrap()[0];
        journal.begin_attempt(&key(name), seq, "id").unwrap();
    }
    let seq = journal.record(&key("a")).unwrap().seq;
    journal.withdraw(&key("a"), seq).unwrap();
    journal.forget_settled_attempts().unwrap();
    assert_eq!(journal.attempts(&key("a")), ["id"], "too young");
    bench
        .clock
        .advance(ATTEMPT_SETTLES + Duration::from_secs(1));
    journal.forget_settled_attempts().unwrap();
    assert!(journal.attempts(&key("a")).is_empty());
    assert_eq!(journal.attempts(&key("b")), ["id"], "its record is waiting");
}

#[test]
fn a_file_is_let_go_when_that_is_synced_and_no_record_needs_it() {
    let bench = Bench::new();
    let journal = bench.open();
    let file = FileId::random();
    journal
        .apply(vec![
            set("a", put(file, PutState::Open)),
            set("b", put(file, PutState::Open)),
            Edit::Discard { file },
        ])
        .unwrap();
    journal.sync().unwrap();
    assert!(journal.claim_discarded(9).is_empty(), "two names need it");
    journal.apply(vec![Edit::Remove { key: key("a") }]).unwrap();
    journal.sync().unwrap();
    assert!(journal.claim_discarded(9).is_empty(), "one name needs it");
    journal
        .apply(vec![Edit::Remove { key: key("b") }, Edit::Discard { file }])
        .unwrap();
    assert!(journal.has_unsynced_release());
    assert!(journal.claim_discarded(9).is_empty(), "not synced");
    journal.sync().unwrap();
    assert_eq!(journal.claim_discarded(9), [file]);
    let taken_back = journal.apply(vec![
        set("c", Change::Delete(Deleted::Moved)),
        Edit::Unrelease { file },
    ]);
    assert!(matches!(taken_back, Err(JournalError::Gone(gone)) if gone == file));
    assert_eq!(journal.records(), [], "all or nothing");
    journal.release_done(&[file]).unwrap();
    assert!(!journal.is_released(file));
}

#[test]
fn an_adoption_can_be_taken_back() {
    let bench = Bench::new();
    let journal = bench.open();
    let (file, adopted) = (FileId::random(), version("a", "1"));
    let adopt = Edit::Adopt {
        file,
        version: adopted.clone(),
    };
    journal.apply(vec![adopt]).unwrap();
    assert_eq!(journal.released(), []);
    journal.sync().unwrap();
    let released = Released {
        file,
        adopt_as: Some(adopted),
    };
    assert_eq!(journal.released(), [released.file]);
    assert_eq!(journal.due_release(released.file).as_ref(), Some(&released));
    assert!(journal.claim_discarded(9).is_empty());
    let (_dir, after_kill) = bench.open_after_kill();
    assert_eq!(after_kill.due_release(released.file), Some(released));
    journal.apply(vec![Edit::Unrelease { file }]).unwrap();
    assert_eq!(journal.released(), []);
}

#[test]
fn copies_are_found_by_their_source() {
    let bench = Bench::new();
    let journal = bench.open();
    journal.apply(vec![set("a", copy("a", "1"))]).unwrap();
    assert!(!journal.copies_from(&key("a")), "only onto itself");
    journal.apply(vec![set("b", copy("a", "1"))]).unwrap();
    assert!(journal.copies_from(&key("a")));
    let (_dir, after_kill) = bench.open_after_kill();
    assert!(after_kill.copies_from(&key("a")));
    journal.apply(vec![set("b", copy("c", "1"))]).unwrap();
    assert!(!journal.copies_from(&key("a")));
    assert!(journal.copies_from(&key("c")));
}

#[test]
fn attributes_are_kept_for_the_last_version() {
    let bench = Bench::new();
    let journal = bench.open();
    let keep = |name: &str, tag: &str, mode| Edit::KeepAttributes {
        version: version(name, tag),
        attributes: FileAttributes {
            mode: Some(mode),
            mtime: Some(bench.clock.now()),
            ..FileAttributes::default()
        },
    };
    journal
        .apply(vec![
            keep("p/caf\u{e9}", "1", 1),
            keep("p/cafe\u{301}", "2", 2),
            keep("p/q/", "1", 3),
            keep("p/q/deep", "1", 4),
            keep("top", "1", 5),
        ])
        .unwrap();
    assert_eq!(journal.attributes(&version("p/caf\u{e9}", "1")), None);
    let kept = journal.attributes(&version("p/caf\u{e9}", "2")).unwrap();
    assert_eq!((kept.mode, kept.mtime), (Some(2), Some(bench.clock.now())));
    let mut below: Vec<_> = journal
        .attributes_below("p/")
        .into_iter()
        .map(|(version, attributes)| (version.key.as_str().to_owned(), attributes.mode))
        .collect();
    below.sort();
    assert_eq!(
        below,
        [
            ("p/cafe\u{301}".to_owned(), Some(2)),
            ("p/q/".to_owned(), Some(3))
        ]
    );
    assert_eq!(journal.attributes_below("").len(), 1);
    let forget = Edit::KeepAttributes {
        version: version("top", "1"),
        attributes: FileAttributes::default(),
    };
    journal.apply(vec![forget]).unwrap();
    assert_eq!(journal.attributes_below("").len(), 0);
}

#[test]
fn what_the_uploader_notes_needs_the_same_state() {
    let bench = Bench::new();
    let journal = bench.open();
    let file = FileId::random();
    let sealed = Sealed {
        length: 3,
        part_size: 3,
        parts: vec![Md5::of(b"abc")],
    };
    let a = key("a");
    let old = journal
        .apply(vec![set("a", put(file, PutState::Open))])
        .unwrap()[0];
    assert!(
        !journal.seal(&a, old, sealed.clone()).unwrap(),
        "still open"
    );
    let closed = put(file, PutState::Closed { length: 3 });
    let seq = journal.apply(vec![set("a", closed)]).unwrap()[0];
    assert!(!journal.seal(&a, old, sealed.clone()).unwrap());
    assert!(!journal.park(&a, old, "no").unwrap());
    assert!(journal.seal(&a, seq, sealed.clone()).unwrap());
    assert!(journal.rebase(&a, seq, Some(etag("9"))).unwrap());
    assert!(journal.note_failure(&a, seq, "refused").unwrap());
    assert!(journal.park(&a, seq, "too large").unwrap());
    let (_dir, after_kill) = bench.open_after_kill();
    let record = after_kill.record(&a).unwrap();
    assert_eq!(record.change, put(file, PutState::Sealed(sealed)));
    assert_eq!(
        (record.seq, record.attempts, record.base),
        (seq, 1, Some(etag("9")))
    );
    assert_eq!(record.parked.as_deref(), Some("too large"));
    assert_eq!(record.last_error.as_deref(), Some("refused"));
    assert!(journal.unpark(&a).unwrap());
    assert!(!journal.unpark(&a).unwrap());
}

#[test]
fn after_a_failure_nothing_changes() {
    let bench = Bench::new();
    let journal = bench.open();
    journal.fail("the disk is gone");
    let error = journal
        .apply(vec![set("a", Change::Delete(Deleted::Moved))])
        .unwrap_err();
    assert!(matches!(error, JournalError::Failed(_)));
    assert!(journal.sync().is_err());
    assert_eq!(journal.records(), []);
    assert_eq!(journal.failure().as_deref(), Some("the disk is gone"));
}

#[test]
fn the_log_does_not_grow_without_end() {
    let bench = Bench::new();
    let journal = bench.open();
    let log = bench.dir.path().join("journal.db-wal");
    for _ in 0..20 {
        for at in 0..100 {
            journal
                .apply(vec![set(
                    &format!("key {at}"),
                    Change::Delete(Deleted::Moved),
                )])
                .unwrap();
        }
        journal.checkpoint().unwrap();
    }
    assert!(fs::metadata(log).unwrap().len() < 2 << 20);
    drop(journal);
    assert_eq!(bench.open().records().len(), 100);
}

/// One step of the property test.
#[derive(Clone, Debug)]
enum Action {
    Apply(Vec<Edit>),
    Sync,
    Checkpoint,
    Reopen,
}

fn any_edit() -> impl Strategy<Value = Edit> {
    let name = prop::sample::select(vec!["a", "b", "p/c", "p/cafe\u{301}", "p/caf\u{e9}"]);
    let change = prop_oneof![
        Just(Change::Delete(Deleted::Moved)),
        any::<u64>().prop_map(|n| copy("source", &n.to_string())),
        (0u64..1 << 40).prop_map(|n| put(FileId::random(), PutState::Closed { length: n })),
    ];
    prop_oneof![
        3 => (name.clone(), change).prop_map(|(name, change)| set(name, change)),
        1 => name.prop_map(|name| Edit::Remove { key: key(name) }),
    ]
}

fn any_action() -> impl Strategy<Value = Action> {
    prop_oneof![
        6 => prop::collection::vec(any_edit(), 1..4).prop_map(Action::Apply),
        1 => Just(Action::Sync),
        1 => Just(Action::Checkpoint),
        1 => Just(Action::Reopen),
    ]
}

/// Does to a plain map what the journal does to its records.
fn model(map: &mut BTreeMap<Key, (Key, Change)>, edit: &Edit) {
    match edit {
        Edit::Set { key, change, .. } => {
            map.insert(key.folded(), (key.clone(), change.clone()));
        }
        Edit::Remove { key } => {
            map.remove(&key.folded());
        }
        _ => unreachable!("not generated"),
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]
    #[test]
    fn a_killed_process_leaves_what_was_applied(
        actions in prop::collection::vec(any_action(), 1..12)
    ) {
        let bench = Bench::new();
        let mut journal = Some(bench.open());
        let mut map = BTreeMap::new();
        for action in actions {
            let open = journal.as_ref().unwrap();
            match action {
                Action::Apply(edits) => {
                    edits.iter().for_each(|edit| model(&mut map, edit));
                    open.apply(edits).unwrap();
                }
                Action::Sync => open.sync().unwrap(),
                Action::Checkpoint => open.checkpoint().unwrap(),
                Action::Reopen => {
                    drop(journal.take());
                    journal = Some(bench.open());
                }
            }
            let (_dir, after_kill) = bench.open_after_kill();
            for journal in [journal.as_ref().unwrap(), &after_kill] {
                let records = journal.records();
                let found: Vec<_> = records.into_iter().map(|r| (r.key, r.change)).collect();
                prop_assert_eq!(found, map.values().cloned().collect::<Vec<_>>());
            }
        }
    }
}

#[test]
fn a_staging_directory_holds_leases_under_one_id() {
    let bench = Bench::new();
    let id = bench.open().holder_id().unwrap();
    assert_eq!(id.len(), 32);
    assert_eq!(bench.open().holder_id().unwrap(), id);
    assert_ne!(Bench::new().open().holder_id().unwrap(), id);
}

#[test]
fn a_pause_lasts_until_the_word_to_go_on() {
    let bench = Bench::new();
    let journal = bench.open();
    assert!(!journal.is_paused());
    let mut changed = journal.changed();
    changed.borrow_and_update();
    journal.set_paused(true).unwrap();
    assert!(changed.has_changed().unwrap());
    drop(journal);
    let journal = bench.open();
    assert!(journal.is_paused());
    journal.set_paused(false).unwrap();
    drop(journal);
    assert!(!bench.open().is_paused());
}

#[test]
fn only_what_somebody_may_act_on_wakes_followers() {
    let bench = Bench::new();
    let journal = bench.open();
    let mut changed = journal.changed();
    let file = FileId::random();
    let mut news = |edit| {
        changed.borrow_and_update();
        journal.apply(vec![edit]).unwrap();
        changed.has_changed().unwrap()
    };
    let keep = Edit::KeepAttributes {
        version: version("a", "1"),
        attributes: FileAttributes::default(),
    };
    assert!(!news(keep), "attributes are on this disk alone");
    let open = put(file, PutState::Open);
    assert!(!news(set("a", open.clone())), "a new file is still written");
    let closed = put(file, PutState::Closed { length: 1 });
    assert!(news(set("a", closed)), "it can be sent");
    assert!(news(set("a", open)), "what is being sent is void");
    assert!(news(Edit::Remove { key: key("a") }));
    assert_eq!(journal.take_changed(), [key("a")]);
}
