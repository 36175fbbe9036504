//! The file system and the uploader against a plain model, with a kill at every commit of the
//! journal and before and after every write to the bucket.
//!
//! After each step the file system shows what the model shows. At each commit, and after each step,
//! what a kill would leave is opened: it shows the state before the step or after it. A cut of the
//! uploader kills for good: the next life goes on from there. In the end the bucket holds the files
//! of the model, and a start without staging and cache shows them.

mod bucket;
mod plain;
mod world;

use std::path::Path;
use std::time::Duration;

use proptest::prelude::*;

use self::bucket::Objects;
use self::plain::{Answer, Plain, Shown};
use self::world::{World, image};
use crate::error::FsResult;
use crate::fs::NAMES_IN_MEMORY;
use crate::staging::crash_point;

const COLLECTIONS: [&str; 2] = ["layers", "projects"];
/// Few names, so that steps meet; each may be a file or a folder.
const PATHS: [&str; 12] = [
    "layers/a",
    "layers/b",
    "layers/a.bak",
    "layers/d",
    "layers/d/a",
    "layers/d/b",
    "layers/d/e",
    "layers/d/e/a",
    "layers/f",
    "layers/f/a",
    "projects/s",
    "projects/s/a",
];

#[derive(Clone, Debug)]
enum Step {
    Create(&'static str, usize),
    Open(&'static str, usize, bool),
    Write(usize, usize, Vec<u8>),
    ResizeOpen(usize, usize),
    Sync(usize),
    Close(usize),
    /// What most programs do: create or replace, write, close.
    Save(&'static str, usize, Vec<u8>),
    Resize(&'static str, usize),
    MakeFolder(&'static str),
    RemoveFolder(&'static str),
    Remove(&'static str),
    Rename(&'static str, &'static str),
    Exchange(&'static str, &'static str),
    Link(&'static str, &'static str),
    Upload,
    /// A kill while the uploader is at its so-many-th moment.
    UploadAndKill(usize),
    Kill {
        with_cache: bool,
    },
    Pass(u64),
}

fn any_step() -> impl Strategy<Value = Step> {
    let path = || prop::sample::select(&PATHS[..]);
    let slot = || 0..2_usize;
    let data = || prop::collection::vec(any::<u8>(), 1..40);
    prop_oneof![
        2 => (path(), slot()).prop_map(|(path, slot)| Step::Create(path, slot)),
        2 => (path(), slot(), any::<bool>()).prop_map(|(path, slot, cut)| Step::Open(path, slot, cut)),
        5 => (slot(), 0..100_usize, data()).prop_map(|(slot, at, data)| Step::Write(slot, at, data)),
        1 => (slot(), 0..100_usize).prop_map(|(slot, size)| Step::ResizeOpen(slot, size)),
        1 => slot().prop_map(Step::Sync),
        3 => slot().prop_map(Step::Close),
        6 => (path(), slot(), data()).prop_map(|(path, slot, data)| Step::Save(path, slot, data)),
        1 => (path(), 0..100_usize).prop_map(|(path, size)| Step::Resize(path, size)),
        3 => path().prop_map(Step::MakeFolder),
        1 => path().prop_map(Step::RemoveFolder),
        2 => path().prop_map(Step::Remove),
        6 => (path(), path()).prop_map(|(from, to)| Step::Rename(from, to)),
        1 => (path(), path()).prop_map(|(one, other)| Step::Exchange(one, other)),
        3 => (path(), path()).prop_map(|(from, to)| Step::Link(from, to)),
        3 => Just(Step::Upload),
        2 => (0..8_usize).prop_map(Step::UploadAndKill),
        1 => any::<bool>().prop_map(|with_cache| Step::Kill { with_cache }),
        1 => (1..60_u64).prop_map(Step::Pass),
    ]
}

struct Case {
    objects: Objects,
    /// None where every folder is read from the index.
    names_in_memory: usize,
    world: Option<World>,
    plain: Plain,
}

impl Case {
    fn new(names_in_memory: usize) -> Case {
        // A case before that failed may have left one.
        crash_point::watch(None);
        let objects = Objects::default();
        let world = World::open(tempfile::tempdir().unwrap(), &objects, names_in_memory);
        Case {
            objects,
            names_in_memory,
            world: Some(world),
            plain: Plain::default(),
        }
    }

    fn world(&mut self) -> &mut World {
        self.world.as_mut().expect("it lives")
    }

    /// Does a step, unless the kernel would not ask for it.
    fn step(&mut self, step: &Step) {
        let before = self.plain.shown();
        let mut plain = self.plain.clone();
        let Some(expected) = change(&mut plain, step) else {
            return;
        };
        let after = plain.shown();
        let dir = self.world().dir.path().to_owned();
        self.watch(&dir, before, after.clone());
        let answer = self.carry_out(step);
        crash_point::watch(None);
        assert_eq!(answer.map_err(|error| error.errno()), expected);
        self.plain = plain;
        assert_eq!(self.world().shown(), after, "what the file system shows");
        let groups = self.plain.groups();
        assert_eq!(self.world().groups(), groups, "what is one file");
        for slot in 0..2 {
            if let Some(bytes) = self.plain.open_bytes(slot).map(<[u8]>::to_vec) {
                assert_eq!(self.world().read_open(slot).unwrap(), bytes, "open file");
            }
        }
        let dir = self.world().dir.path().to_owned();
        assert_eq!(
            shown_after_kill(&dir, &self.objects, self.names_in_memory),
            after,
            "after the answer and a kill"
        );
    }

    /// Opens what a kill would leave at each crash point from now on.
    fn watch(&self, dir: &Path, before: Shown, after: Shown) {
        let (dir, objects) = (dir.to_owned(), self.objects.clone());
        let names_in_memory = self.names_in_memory;
        crash_point::watch(Some(Box::new(move |what| {
            let shown = shown_after_kill(&dir, &objects, names_in_memory);
            assert!(
                shown == before || shown == after,
                "a kill {what} leaves {shown:?}, neither {before:?} nor {after:?}"
            );
        })));
    }

    fn carry_out(&mut self, step: &Step) -> FsResult<()> {
        let is_new = |case: &Case, path: &str| !case.plain.is_file(path);
        match *step {
            Step::Create(path, slot) => self.world().create(path, slot),
            Step::Open(path, slot, truncate) => self.world().open_file(path, slot, truncate),
            Step::Write(slot, offset, ref data) => self.world().write(slot, offset as u64, data),
            Step::ResizeOpen(slot, size) => self.world().resize_open(slot, size as u64),
            Step::Sync(slot) => self.world().sync(slot),
            Step::Close(slot) => {
                self.world().close(slot);
                Ok(())
            }
            Step::Save(path, slot, _) if is_new(self, path) => self.world().create(path, slot),
            Step::Save(path, slot, _) => self.world().open_file(path, slot, true),
            Step::Resize(path, size) => self.world().resize(path, size as u64),
            Step::MakeFolder(path) => self.world().make_folder(path),
            Step::RemoveFolder(path) => self.world().remove_folder(path),
            Step::Remove(path) => self.world().remove(path),
            Step::Rename(from, to) => self.world().rename(from, to, 0),
            Step::Exchange(one, other) => self.world().rename(one, other, libc::RENAME_EXCHANGE),
            Step::Link(from, to) => self.world().link(from, to),
            Step::Upload => {
                self.world().upload(None);
                Ok(())
            }
            Step::UploadAndKill(moment) => {
                self.world().upload(Some(moment));
                self.kill(true);
                Ok(())
            }
            Step::Kill { with_cache } => {
                self.kill(with_cache);
                Ok(())
            }
            Step::Pass(seconds) => {
                self.world().pass(Duration::from_secs(seconds));
                Ok(())
            }
        }
    }

    /// Ends this life without a word, and begins the next with what is left.
    fn kill(&mut self, with_cache: bool) {
        let dir = image(self.world().dir.path());
        let now = self.world().clock.now();
        self.objects.pass(now);
        self.world = None;
        self.objects.forget_writes();
        let shown = self.plain.shown();
        self.watch(dir.path(), shown.clone(), shown);
        if !with_cache {
            let _ = std::fs::remove_dir_all(dir.path().join("cache"));
        }
        self.world = Some(World::open(dir, &self.objects, self.names_in_memory));
    }

    /// Everything is uploaded, and then known from the bucket alone.
    fn end(mut self) {
        for slot in 0..2 {
            self.step(&Step::Close(slot));
        }
        self.world().upload(None);
        let queue = self.world().queue();
        assert_eq!(
            self.objects.files(),
            self.plain.files(),
            "the bucket; {queue}"
        );
        let dir = tempfile::tempdir().unwrap();
        let empty = World::open(dir, &self.objects, self.names_in_memory);
        assert_eq!(empty.shown(), self.plain.shown(), "a mount elsewhere");
    }
}

/// Opens what a kill would leave now. On a thread of its own, since this one may be in the middle
/// of an operation.
fn shown_after_kill(dir: &Path, objects: &Objects, names_in_memory: usize) -> Shown {
    let copy = image(dir);
    let open = || World::open(copy, objects, names_in_memory).shown();
    std::thread::scope(|scope| scope.spawn(open).join()).unwrap()
}

/// Does a step to the model; `None` if the kernel would not ask for it.
fn change(plain: &mut Plain, step: &Step) -> Option<Answer> {
    match *step {
        Step::Create(path, slot) => {
            let asks = plain.has_parent(path) && plain.open_bytes(slot).is_none();
            asks.then(|| plain.create(path, slot))
        }
        Step::Open(path, slot, truncate) => {
            let asks = plain.is_file(path) && plain.open_bytes(slot).is_none();
            asks.then(|| {
                plain.open(path, slot, truncate);
                Ok(())
            })
        }
        Step::Save(path, slot, _) => {
            let asks = plain.has_parent(path) && plain.open_bytes(slot).is_none();
            if !asks || plain.is_folder(path) {
                return None;
            }
            if !plain.is_file(path) {
                return Some(plain.create(path, slot));
            }
            plain.open(path, slot, true);
            Some(Ok(()))
        }
        Step::Write(slot, offset, ref data) => plain.open_bytes(slot).is_some().then(|| {
            plain.write(slot, offset, data);
            Ok(())
        }),
        Step::ResizeOpen(slot, size) => plain.open_bytes(slot).is_some().then(|| {
            plain.resize_open(slot, size);
            Ok(())
        }),
        Step::Sync(slot) => plain.open_bytes(slot).is_some().then_some(Ok(())),
        Step::Close(slot) => plain.open_bytes(slot).is_some().then(|| {
            plain.close(slot);
            Ok(())
        }),
        Step::Resize(path, size) => plain.is_file(path).then(|| {
            plain.resize(path, size);
            Ok(())
        }),
        Step::MakeFolder(path) => plain.has_parent(path).then(|| plain.make_folder(path)),
        Step::RemoveFolder(path) => plain.is_folder(path).then(|| plain.remove_folder(path)),
        Step::Remove(path) => plain.is_file(path).then(|| plain.remove(path)),
        Step::Rename(from, to) => {
            let is_inside =
                |one: &str, other: &str| format!("{one}/").starts_with(&format!("{other}/"));
            let asks = plain.has_parent(from) && plain.has_parent(to);
            let exists = plain.is_file(from) || plain.is_folder(from);
            let apart = !is_inside(from, to) && !is_inside(to, from);
            (asks && exists && apart).then(|| plain.rename(from, to))
        }
        Step::Exchange(one, other) => {
            let asks = one != other && plain.is_file(one) && plain.is_file(other);
            asks.then(|| plain.exchange(one, other))
        }
        Step::Link(from, to) => {
            let asks = plain.is_file(from) && plain.has_parent(to);
            asks.then(|| plain.link(from, to))
        }
        Step::UploadAndKill(_) | Step::Kill { .. } => {
            plain.close_all();
            Some(Ok(()))
        }
        Step::Upload | Step::Pass(_) => Some(Ok(())),
    }
}

/// The steps that one stands for.
fn single(step: &Step) -> Vec<Step> {
    match step {
        Step::Save(_, slot, data) => vec![
            Step::Close(*slot),
            step.clone(),
            Step::Write(*slot, 0, data.clone()),
            Step::Close(*slot),
        ],
        step => vec![step.clone()],
    }
}

proptest! {
    // A case is seconds of work: a hundredth of what PROPTEST_CASES says, 3 without it.
    #![proptest_config(ProptestConfig {
        cases: ProptestConfig::default().cases.div_ceil(100),
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    })]

    #[test]
    fn a_kill_at_any_moment_loses_and_resurrects_nothing(
        steps in prop::collection::vec(any_step(), 1..40),
        is_paged in any::<bool>(),
    ) {
        let mut case = Case::new(if is_paged { 0 } else { NAMES_IN_MEMORY });
        for step in steps.iter().flat_map(single) {
            case.step(&step);
        }
        case.end();
    }
}
