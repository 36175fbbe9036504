//! Making, linking, removing and renaming, and the numbers that come with it.

use super::*;

#[test]
fn new_entries_have_the_mode_and_owner_asked_for() {
    let f = fixture();
    let root = f.tree.root();
    let as_root = me().uid == 0;
    let caller = match as_root {
        true => Caller { uid: 12, gid: 34 },
        false => me(),
    };
    let owner = |attr: &Attr| (attr.uid, attr.gid);
    let flags = libc::O_RDWR | libc::O_EXCL;
    let (file, fh, _) = f
        .tree
        .create(root, name("f"), 0o666, flags, caller)
        .unwrap();
    // Whatever our own umask is.
    assert_eq!(f.tree.getattr(file.ino, None).unwrap().mode, 0o666);
    assert_eq!(f.tree.write(fh, 2, b"xy").unwrap(), 2);
    assert_eq!(fs::read(f.root().join("f")).unwrap(), b"\0\0xy");
    let folder = f.tree.mkdir(root, name("d"), 0o777, caller).unwrap();
    let link = f
        .tree
        .symlink(root, name("l"), name("../x"), caller)
        .unwrap();
    let fifo = f
        .tree
        .mknod(root, name("p"), libc::S_IFIFO | 0o622, 0, caller)
        .unwrap();
    let node = f
        .tree
        .mknod(root, name("r"), libc::S_IFREG | 0o4755, 0, caller)
        .unwrap();
    assert_eq!((folder.mode, fifo.mode, node.mode), (0o777, 0o622, 0o4755));
    assert_eq!(
        (link.kind, fifo.kind, node.kind),
        (Kind::Symlink, Kind::Fifo, Kind::File)
    );
    assert_eq!(f.tree.readlink(link.ino).unwrap(), "../x");
    for attr in [&file, &folder, &link, &fifo, &node] {
        let attr = f.tree.getattr(attr.ino, None).unwrap();
        assert_eq!(owner(&attr), (caller.uid, caller.gid), "{attr:?}");
    }
    assert!(
        fs::symlink_metadata(f.root().join("p"))
            .unwrap()
            .file_type()
            .is_fifo()
    );
    let group = fs::Permissions::from_mode(0o2775);
    fs::set_permissions(f.root().join("d"), group).unwrap();
    let inner = f
        .tree
        .mkdir(folder.ino, name("inner"), 0o755, me())
        .unwrap();
    assert_eq!((inner.mode, inner.gid), (0o2755, caller.gid));
    assert_eq!(inner.uid, me().uid);
}

#[test]
fn a_default_access_list_has_the_last_word_on_modes() {
    let f = fixture();
    f.make("d/x", "");
    // Version 2; then tag, permissions and no id each: owner rwx, group r-x, others nothing.
    let entries: [(u16, u16); 3] = [(1, 7), (4, 5), (0x20, 0)];
    let mut list = 2_u32.to_le_bytes().to_vec();
    for (tag, permissions) in entries {
        list.extend(tag.to_le_bytes());
        list.extend(permissions.to_le_bytes());
        list.extend(u32::MAX.to_le_bytes());
    }
    let flags = rustix::fs::XattrFlags::empty();
    let key = "system.posix_acl_default";
    if rustix::fs::setxattr(f.root().join("d"), key, &list, flags).is_err() {
        return; // A disk without access lists.
    }
    let d = f.look("d").unwrap().ino;
    let (file, fh, _) = f
        .tree
        .create(d, name("a"), 0o666, libc::O_RDWR, me())
        .unwrap();
    f.tree.release(fh);
    assert_eq!(file.mode, 0o640);
    assert_eq!(f.tree.mkdir(d, name("b"), 0o777, me()).unwrap().mode, 0o750);
}

#[test]
fn a_device_keeps_its_number() {
    let f = fixture();
    if me().uid != 0 {
        return;
    }
    // 259:300 needs more than the eight bits of old numbers.
    let rdev = rustix::fs::makedev(259, 300) as u32;
    let mode = libc::S_IFBLK | 0o600;
    match f.tree.mknod(f.tree.root(), name("b"), mode, rdev, me()) {
        Ok(attr) => assert_eq!((attr.rdev, attr.kind), (rdev, Kind::BlockDevice)),
        // A container may not make devices.
        Err(error) => assert_eq!(error.errno(), libc::EPERM),
    }
}

#[test]
fn create_opens_or_refuses_what_is_there() {
    let f = fixture();
    let root = f.tree.root();
    f.make("a", "old");
    symlink("/etc/passwd", f.root().join("l")).unwrap();
    let old = f.look("a").unwrap();
    let exclusive = libc::O_RDWR | libc::O_EXCL;
    assert_eq!(
        errno(f.tree.create(root, name("a"), 0o600, exclusive, me())),
        libc::EEXIST
    );
    let (attr, fh, _) = f
        .tree
        .create(root, name("a"), 0o600, libc::O_RDWR, me())
        .unwrap();
    assert_eq!((attr.ino, attr.size, attr.mode), (old.ino, 3, old.mode));
    f.tree.release(fh);
    let truncate = libc::O_WRONLY | libc::O_TRUNC;
    let (attr, ..) = f
        .tree
        .create(root, name("a"), 0o600, truncate, me())
        .unwrap();
    assert_eq!(attr.size, 0);
    assert_eq!(
        errno(f.tree.create(root, name("l"), 0o600, libc::O_RDWR, me())),
        libc::ESTALE
    );
    assert_eq!(
        errno(f.tree.mkdir(root, name("l"), 0o700, me())),
        libc::EEXIST
    );
}

#[test]
fn numbers_follow_files_not_names() {
    let f = fixture();
    f.make("a", "one");
    f.make("b", "two");
    let (a, b) = (f.look("a").unwrap().ino, f.look("b").unwrap().ino);
    fs::rename(f.root().join("a"), f.root().join("c")).unwrap();
    assert_eq!(errno(f.tree.getattr(a, None)), libc::ESTALE);
    assert_eq!(f.look("c").unwrap().ino, a);
    assert_eq!(f.content(a).unwrap(), "one");
    fs::rename(f.root().join("b"), f.root().join("c")).unwrap();
    assert_eq!(errno(f.tree.open(a, libc::O_RDONLY)), libc::ESTALE);
    assert_eq!(f.look("c").unwrap().ino, b);
    // The disk may use the number of a removed file again at once; we never do.
    for _ in 0..20 {
        let old = f.look("c").unwrap().ino;
        f.tree.unlink(f.tree.root(), name("c")).unwrap();
        let flags = libc::O_WRONLY;
        let (new, fh, _) = f
            .tree
            .create(f.tree.root(), name("c"), 0o600, flags, me())
            .unwrap();
        f.tree.release(fh);
        assert_ne!(new.ino, old);
    }
}

#[test]
fn hard_links_share_one_number() {
    let f = fixture();
    f.make("x/a", "one");
    let root = f.tree.root();
    let a = f.look("x/a").unwrap().ino;
    let linked = f.tree.link(a, root, name("b")).unwrap();
    assert_eq!((linked.ino, linked.nlink), (a, 2));
    assert_eq!(f.look("b").unwrap().ino, a);
    f.tree.unlink(f.look("x").unwrap().ino, name("a")).unwrap();
    assert_eq!(f.content(a).unwrap(), "one");
    f.tree.link(a, root, name("c")).unwrap();
    // Renaming one name of a file to another does nothing, and both stay known.
    f.tree.rename(root, name("b"), root, name("c"), 0).unwrap();
    f.tree.unlink(root, name("c")).unwrap();
    assert_eq!(f.content(a).unwrap(), "one");
}

#[test]
fn renames_keep_numbers() {
    let f = fixture();
    f.make("d/e/file", "one");
    f.make("other", "two");
    let root = f.tree.root();
    let file = f.look("d/e/file").unwrap().ino;
    let (d, other) = (f.look("d").unwrap().ino, f.look("other").unwrap().ino);
    f.tree
        .rename(root, name("d"), root, name("moved"), 0)
        .unwrap();
    assert_eq!(f.content(file).unwrap(), "one");
    let noreplace = libc::RENAME_NOREPLACE;
    let refused = f
        .tree
        .rename(root, name("moved"), root, name("other"), noreplace);
    assert_eq!(errno(refused), libc::EEXIST);
    let exchange = libc::RENAME_EXCHANGE;
    f.tree
        .rename(root, name("moved"), root, name("other"), exchange)
        .unwrap();
    assert_eq!(f.content(file).unwrap(), "one");
    assert_eq!(f.content(other).unwrap(), "two");
    assert_eq!(f.look("other").unwrap().ino, d);
    assert_eq!(f.look("moved").unwrap().ino, other);
    let whiteout = libc::RENAME_WHITEOUT;
    let refused = f
        .tree
        .rename(root, name("moved"), root, name("w"), whiteout);
    assert_eq!(errno(refused), libc::EINVAL);
    // Into its own subfolder: nothing has changed afterwards.
    let e = f.look("other/e").unwrap().ino;
    assert_eq!(
        errno(f.tree.rename(root, name("other"), e, name("x"), 0)),
        libc::EINVAL
    );
    assert_eq!(f.content(file).unwrap(), "one");
    f.tree
        .rename(root, name("moved"), e, name("file"), 0)
        .unwrap();
    assert_eq!(f.content(other).unwrap(), "two");
    assert_eq!(errno(f.tree.getattr(file, None)), libc::ESTALE);
}

#[test]
fn a_file_is_found_while_its_folder_is_renamed() {
    let f = fixture();
    f.make("a/file", "one");
    let (root, file) = (f.tree.root(), f.look("a/file").unwrap().ino);
    let done = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !done.load(Ordering::Relaxed) {
                f.tree.rename(root, name("a"), root, name("b"), 0).unwrap();
                f.tree.rename(root, name("b"), root, name("a"), 0).unwrap();
            }
        });
        let _done = Done(&done);
        let lost = (0..ROUNDS).filter(|_| f.tree.getattr(file, None).is_err());
        assert_eq!(lost.count(), 0);
    });
}
