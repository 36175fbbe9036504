//! Folders that are read from the index, here all of them.

use super::arriving::Arriving;
use super::lower::Part;
use super::*;
use crate::staging::Lower;
use crate::store::{ListPage, ListedObject};

fn paged() -> Bench {
    Bench::at(tempfile::tempdir().unwrap(), 0)
}

/// The kernel gives back what it knows of a name.
fn forget(bench: &Bench, ino: Ino) {
    let mut tree = bench.fs.tree.lock();
    tree.forget(ino, u64::MAX);
    assert!(tree.inode(ino).is_none(), "it is in memory");
}

/// A folder that is read from the index is shown as it was listed last, and listed behind.
fn list_anew(bench: &Bench) -> Vec<String> {
    bench.clock.advance(Duration::from_secs(31));
    bench.list();
    bench.run(bench.fs.refresh_below("layers"));
    bench.list()
}

#[test]
fn what_is_forgotten_while_its_change_is_on_its_way_goes_on_to_show() {
    let bench = paged();
    bench.others_write("layers/a", b"bytes");
    bench.others_write("layers/b", b"bytes");
    assert_eq!(list_anew(&bench), ["a", "b"]);
    let ino = bench.lookup("a").unwrap().ino;
    bench.chmod(ino, 0o600);
    assert!(bench.record("layers/a").is_some());
    forget(&bench, ino);
    assert_eq!(list_anew(&bench), ["a", "b"], "the record waits");
    let attr = bench.lookup("a").unwrap();
    assert_eq!((attr.mode, attr.size), (0o600, 5));
    bench.upload("layers/a");
    forget(&bench, attr.ino);
    assert_eq!(list_anew(&bench), ["a", "b"], "it was carried out");
    assert_eq!(bench.lookup("a").unwrap().mode, 0o600);
}

#[test]
fn a_version_that_comes_back_is_another_file_while_the_former_is_open() {
    let bench = paged();
    bench.others_write("layers/a", b"bytes");
    let attr = bench.lookup("a").unwrap();
    assert_eq!(list_anew(&bench), ["a"]);
    let ino = bench.lookup("a").unwrap().ino;
    assert_eq!(ino, attr.ino);
    let open = bench.open(ino, READ).unwrap();
    let key = bench.key("layers/a");
    bench.run(bench.store.delete(&key)).unwrap();
    assert!(list_anew(&bench).is_empty());
    bench.others_write("layers/a", b"bytes");
    assert_eq!(list_anew(&bench), ["a"]);
    let again = bench.lookup("a").unwrap().ino;
    assert_ne!(again, ino);
    assert_eq!(bench.lookup("a").unwrap().ino, again);
    bench.fs.release(open);
}

/// A reader that is slower than the listing must not take what it finds no more for what there is not.
#[test]
fn a_listing_that_has_ended_tells_of_no_name_that_it_is_not_there() {
    let bench = paged();
    for most in [0, 100] {
        let arriving = Arriving::new(bench.fs.cache.clone(), most, true, Instant::now());
        arriving.begin("layers/", Instant::now());
        let objects = ["layers/a", "layers/b", "layers/c"].map(|key| ListedObject {
            version: ObjectVersion {
                key: bench.key(key),
                etag: ETag::new("tag"),
            },
            size: 1,
            last_modified: std::time::UNIX_EPOCH,
            origin: Default::default(),
        });
        let page = ListPage {
            objects: objects.to_vec(),
            ..ListPage::default()
        };
        arriving.take(page, Some("layers/b")).unwrap();
        let arrived = arriving.after("", 10).unwrap();
        assert_eq!((arrived.rows.len(), &*arrived.to), (2, "b"));
        let mut part = Part::unknown(Lower {
            prefix: "layers/".into(),
            since: None,
        });
        let stored = arriving.end(&mut part);
        assert_eq!(stored.is_some(), most == 0);
        let arrived = arriving.after("", 10).unwrap();
        assert_eq!((arrived.rows.len(), &*arrived.to), (0, ""));
    }
}
