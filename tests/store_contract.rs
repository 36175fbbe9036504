//! One suite for every store: what the rest of the program may rely on, whichever is behind.
//!
//! It runs against the R2 model, the local directory and Cloudflare's emulator, and prints a table.
//! What a store is known not to do is listed in `GAPS` with its reason; a gap that has closed fails
//! the test as well, so that the list can only shrink. The other tests here are about one store each.

#[path = "common/emulator.rs"]
mod emulator;

mod contract {
    pub(crate) mod canned;
    pub(crate) mod conditions;
    pub(crate) mod copies;
    pub(crate) mod fallback;
    pub(crate) mod listings;
    pub(crate) mod multipart;
    pub(crate) mod objects;
    pub(crate) mod r2_answers;
    pub(crate) mod r2_connections;
    pub(crate) mod r2_faults;
    pub(crate) mod r2_requests;
    pub(crate) mod subject;
}

use std::fmt::Write as _;
use std::sync::Arc;

use contract::subject::{Behaviour, Subject};
use emulator::Emulator;
use r2_model::R2Model;
use voicebeatfs::store::ObjectStore;
use voicebeatfs::store::local::LocalStore;

/// What a store is known not to do: behaviour, store, reason.
const GAPS: &[(&str, &str, &str)] = &[
    ("spellings", "local", "a disk compares names byte by byte"),
    ("tag_is_md5", "local", "files that others wrote have no MD5"),
    ("object_beside_folder", "local", "a file cannot be a folder"),
    ("spellings", "emulator", "no NFC folding"),
    ("control_characters", "emulator", "no newline in a path"),
    ("part_tag_is_md5", "emulator", "tags of parts are opaque"),
    ("parts_so_far", "emulator", "ListParts is answered 501"),
    ("parts_of_unequal_size", "emulator", "answered 404"),
    ("copied_parts_of_unequal_size", "emulator", "answered 404"),
    ("completion_conditions", "emulator", "ignored"),
    (
        "copy_conditions",
        "emulator",
        "cf-copy-destination-* ignored",
    ),
];

fn behaviours() -> Vec<(&'static str, Behaviour)> {
    [
        contract::objects::all(),
        contract::conditions::all(),
        contract::listings::all(),
        contract::multipart::all(),
        contract::copies::all(),
    ]
    .concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_store_behaves_alike() {
    let model = R2Model::start();
    let directory = tempfile::tempdir().unwrap();
    let emulator = Emulator::start();
    let subjects: [(&str, Arc<dyn ObjectStore>); 3] = [
        ("model", Arc::new(contract::subject::of_model(&model, ""))),
        (
            "local",
            Arc::new(LocalStore::open(directory.path()).unwrap()),
        ),
        (
            "emulator",
            Arc::new(contract::subject::of_emulator(&emulator)),
        ),
    ];
    let mut table = format!("{:<28}", "behaviour");
    for (store, _) in &subjects {
        write!(table, "{store:<14}").unwrap();
    }
    let mut wrong = Vec::new();
    for (behaviour, run) in behaviours() {
        write!(table, "\n{behaviour:<28}").unwrap();
        for (store, object_store) in &subjects {
            let subject = Subject::new(object_store.clone(), behaviour);
            let result = tokio::spawn(run(subject)).await;
            let gap = GAPS.iter().find(|gap| (gap.0, gap.1) == (behaviour, store));
            let word = match (result.is_ok(), gap) {
                (true, None) => "yes",
                (false, Some(_)) => "no (known)",
                (true, Some(_)) => "closed gap",
                (false, None) => "NO",
            };
            if matches!(word, "closed gap" | "NO") {
                wrong.push(format!("{store}: {behaviour}: {word}"));
            }
            write!(table, "{word:<14}").unwrap();
        }
    }
    for (behaviour, store, reason) in GAPS {
        write!(table, "\ngap: {store}, {behaviour}: {reason}").unwrap();
    }
    println!("{table}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}
