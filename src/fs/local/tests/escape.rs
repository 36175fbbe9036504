//! No way out of the directory: odd names, links, and folders that are swapped in between.

use super::*;

#[test]
fn no_name_leads_out() {
    let f = fixture();
    fs::create_dir(f.dir.path().join("outside")).unwrap();
    fs::write(f.dir.path().join("outside/secret"), "secret").unwrap();
    symlink(f.dir.path().join("outside"), f.root().join("out")).unwrap();
    symlink("../outside/secret", f.root().join("file")).unwrap();
    let root = f.tree.root();
    for bad in [
        "..",
        ".",
        "",
        "../outside",
        "out/secret",
        "a/../../outside",
        "/etc",
    ] {
        assert_eq!(errno(f.tree.lookup(root, name(bad))), libc::EINVAL, "{bad}");
        assert_eq!(
            errno(f.tree.mkdir(root, name(bad), 0o700, me())),
            libc::EINVAL
        );
        assert_eq!(errno(f.tree.unlink(root, name(bad))), libc::EINVAL);
        assert_eq!(
            errno(f.tree.rename(root, name("file"), root, name(bad), 0)),
            libc::EINVAL
        );
    }
    let out = f.look("out").unwrap();
    assert_eq!(out.kind, Kind::Symlink);
    assert_eq!(errno(f.tree.lookup(out.ino, name("secret"))), libc::ENOTDIR);
    assert_eq!(errno(f.tree.entries(out.ino)), libc::ENOTDIR);
    let file = f.look("file").unwrap();
    assert_eq!(
        errno(f.tree.open(file.ino, libc::O_RDWR | libc::O_TRUNC)),
        libc::ELOOP
    );
    let change = SetAttr {
        mode: Some(0o777),
        size: Some(0),
        ..SetAttr::default()
    };
    f.tree.setattr(file.ino, None, &change).unwrap_err();
    assert_eq!(
        fs::read(f.dir.path().join("outside/secret")).unwrap(),
        b"secret"
    );
    let hard = f.tree.link(file.ino, root, name("hard")).unwrap();
    assert_eq!((hard.kind, hard.ino), (Kind::Symlink, file.ino));
}

#[test]
fn a_folder_swapped_for_a_link_is_not_entered() {
    let f = fixture();
    f.make("d/name", "inside");
    fs::create_dir(f.dir.path().join("outside")).unwrap();
    fs::write(f.dir.path().join("outside/name"), "secret").unwrap();
    let folder = f.look("d").unwrap().ino;
    let file = f.look("d/name").unwrap().ino;
    fs::rename(f.root().join("d"), f.dir.path().join("moved")).unwrap();
    symlink(f.dir.path().join("outside"), f.root().join("d")).unwrap();
    assert_eq!(errno(f.tree.lookup(folder, name("name"))), libc::ESTALE);
    assert_eq!(errno(f.tree.entries(folder)), libc::ESTALE);
    assert_eq!(errno(f.tree.open(file, libc::O_RDWR)), libc::ESTALE);
    assert_eq!(
        errno(f.tree.mkdir(folder, name("new"), 0o700, me())),
        libc::ESTALE
    );
    assert_eq!(f.look("d").unwrap().kind, Kind::Symlink);
}

#[test]
fn a_race_of_swaps_never_leads_out() {
    let f = fixture();
    let (root, dir) = (f.root(), f.dir.path());
    f.make("d/name", "inside");
    fs::create_dir(dir.join("outside")).unwrap();
    fs::write(dir.join("outside/name"), "secret").unwrap();
    symlink(dir.join("outside"), root.join("link")).unwrap();
    let done = AtomicBool::new(false);
    let inside = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                let (d, link) = (root.join("d"), root.join("link"));
                rustix::fs::renameat_with(
                    rustix::fs::CWD,
                    &d,
                    rustix::fs::CWD,
                    &link,
                    rustix::fs::RenameFlags::EXCHANGE,
                )
                .unwrap();
            }
        });
        let _done = Done(&done);
        let mut inside = 0;
        for round in 0..ROUNDS {
            let Ok(folder) = f.tree.lookup(f.tree.root(), name("d")) else {
                continue;
            };
            let file = f.tree.lookup(folder.ino, name("name"));
            if let Ok(content) = file.and_then(|file| f.content(file.ino)) {
                assert_eq!(content, "inside");
                inside += 1;
            }
            let made = format!("made {round}");
            let _ = f.tree.mkdir(folder.ino, name(&made), 0o700, me());
        }
        inside
    });
    assert!(inside > 0);
    assert_eq!(fs::read_dir(dir.join("outside")).unwrap().count(), 1);
}
