//! What was deleted or overwritten comes back.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::time::{Duration, SystemTime};

use r2_model::{Operation, R2Model};
use serde_json::Value;

use crate::common::mount::Mount;

/// Of each name below a folder: mode, time of the last modification and bytes.
type Tree = BTreeMap<String, (u32, Option<SystemTime>, Vec<u8>)>;

fn read_tree(root: &Path) -> Tree {
    let mut tree = Tree::new();
    let mut waiting = vec![root.to_owned()];
    while let Some(folder) = waiting.pop() {
        for entry in fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let name = path.strip_prefix(root).unwrap();
            let name = name.to_str().unwrap().to_owned();
            let about = fs::metadata(&path).unwrap();
            let mode = about.permissions().mode() & 0o7777;
            if about.is_dir() {
                waiting.push(path);
                tree.insert(name, (mode, None, Vec::new()));
            } else {
                let modified = about.modified().unwrap();
                tree.insert(name, (mode, Some(modified), fs::read(&path).unwrap()));
            }
        }
    }
    tree
}

/// Makes a project with nested folders, an empty one, modes and times.
fn make_project(root: &Path) -> Tree {
    fs::create_dir_all(root.join("audio/takes")).unwrap();
    fs::create_dir(root.join("empty")).unwrap();
    for (at, name) in ["song.rpp", "audio/a.wav", "audio/takes/b.wav"]
        .iter()
        .enumerate()
    {
        let path = root.join(name);
        fs::write(&path, format!("bytes of {name}")).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
        let time = SystemTime::UNIX_EPOCH + Duration::from_secs(1_700_000_000 + at as u64);
        let file = fs::File::options().write(true).open(&path).unwrap();
        file.set_modified(time).unwrap();
    }
    read_tree(root)
}

fn mount(model: &R2Model, settings: &[(&str, &str)]) -> Mount {
    let mut all = vec![("TRASH_COLLECTIONS", "projects")];
    all.extend(settings);
    Mount::with(model, &all)
}

fn run(mount: &Mount, args: &[&str]) -> String {
    let output = mount.run(args);
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(
        output.status.success(),
        "{args:?}: {complaint}{}",
        mount.log()
    );
    text
}

fn trash(mount: &Mount) -> Vec<Value> {
    let list: Value = serde_json::from_str(&run(mount, &["trash", "--json"])).unwrap();
    list["entries"].as_array().unwrap().clone()
}

fn copies(model: &R2Model) -> usize {
    let requests = model.requests();
    let is_copy =
        |request: &&r2_model::RequestRecord| request.header("x-amz-copy-source").is_some();
    requests.iter().filter(is_copy).count()
}

/// After everything is in the bucket, another start with an empty cache shows the same.
fn assert_in_bucket(model: &R2Model, mount: &mut Mount, folder: &str, expected: &Tree) {
    mount.wait_uploaded();
    mount.unmount();
    mount.remove_cache();
    mount.mount();
    // A listing tells no attributes: each file is looked at first.
    read_tree(&mount.path(folder));
    assert_eq!(&read_tree(&mount.path(folder)), expected);
    for (name, (_, modified, bytes)) in expected {
        if modified.is_some() {
            let object = model.get(&format!("{folder}/{name}")).unwrap();
            assert_eq!(object.bytes, *bytes, "{name}");
        }
    }
}

#[test]
fn rm_rf_right_after_recording_is_undone() {
    let model = R2Model::start();
    let mut mount = mount(&model, &[("WRITE_BACK_SECONDS", "3600")]);
    let expected = make_project(&mount.path("projects/x"));
    fs::remove_dir_all(mount.path("projects/x")).unwrap();
    assert!(!mount.path("projects/x").exists());
    mount.kill();
    mount.mount();
    let kept = trash(&mount);
    assert_eq!(kept.len(), 3, "{kept:?}");
    assert!(kept.iter().all(|entry| entry["place"] == "here"));
    let path = mount.path("projects/x");
    run(&mount, &["trash", "restore", path.to_str().unwrap()]);
    let mut without_empty = expected.clone();
    // Nothing was ever told of a folder that never reached the bucket and held nothing.
    without_empty.remove("empty");
    let found = read_tree(&path);
    assert_eq!(
        found.keys().collect::<Vec<_>>(),
        without_empty.keys().collect::<Vec<_>>()
    );
    for (name, file) in found
        .iter()
        .filter(|(_, (_, modified, _))| modified.is_some())
    {
        assert_eq!(file, &expected[name]);
    }
    mount.set("WRITE_BACK_SECONDS", "0.2");
    mount.kill();
    mount.mount();
    assert_in_bucket(&model, &mut mount, "projects/x", &found);
    assert!(trash(&mount).is_empty());
}

#[test]
fn rm_rf_is_undone_while_the_deletes_wait() {
    let model = R2Model::start();
    let mut mount = mount(&model, &[]);
    let expected = make_project(&mount.path("projects/x"));
    mount.wait_uploaded();
    mount.set("WRITE_BACK_SECONDS", "3600");
    mount.unmount();
    mount.mount();
    fs::remove_dir_all(mount.path("projects/x")).unwrap();
    mount.kill();
    mount.mount();
    assert!(!mount.path("projects/x").exists());
    model.clear_requests();
    run(&mount, &["trash", "restore", "projects/x"]);
    assert_eq!(read_tree(&mount.path("projects/x")), expected);
    assert_eq!(copies(&model), 0, "the objects are where they were");
    assert_in_bucket(&model, &mut mount, "projects/x", &expected);
}

#[test]
fn rm_rf_is_undone_after_the_deletes() {
    let model = R2Model::start();
    let mut mount = mount(&model, &[]);
    let expected = make_project(&mount.path("projects/x"));
    mount.wait_uploaded();
    fs::remove_dir_all(mount.path("projects/x")).unwrap();
    mount.wait_uploaded();
    let left = model
        .keys()
        .into_iter()
        .filter(|key| key.starts_with("projects/"));
    assert_eq!(left.count(), 0);
    // Another machine, say.
    mount.unmount();
    mount.remove_cache();
    mount.set("WRITE_BACK_SECONDS", "3600");
    mount.mount();
    assert!(trash(&mount).iter().all(|entry| entry["place"] == "bucket"));
    run(&mount, &["trash", "restore", "projects/x"]);
    assert_eq!(read_tree(&mount.path("projects/x")), expected, "at once");
    mount.set("WRITE_BACK_SECONDS", "0.2");
    mount.kill();
    mount.mount();
    assert_in_bucket(&model, &mut mount, "projects/x", &expected);
    assert!(trash(&mount).is_empty());
    let ours = model.keys().into_iter().filter(|key| key.starts_with('.'));
    assert_eq!(ours.count(), 0);
    assert!(model.write_rate_violations().is_empty());
}

#[test]
fn a_name_in_use_is_not_touched() {
    let model = R2Model::start();
    model.put("projects/a.rpp", "old");
    let mount = mount(&model, &[]);
    fs::read(mount.path("projects/a.rpp")).unwrap();
    fs::remove_file(mount.path("projects/a.rpp")).unwrap();
    mount.wait_uploaded();
    fs::write(mount.path("projects/a.rpp"), "new").unwrap();
    run(&mount, &["trash", "restore", "projects/a.rpp"]);
    assert_eq!(fs::read(mount.path("projects/a.rpp")).unwrap(), b"new");
    let names = fs::read_dir(mount.path("projects")).unwrap();
    let mut names = names.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let copy = names.find(|name| name.starts_with("a (restored "));
    let copy = copy.expect("it comes back under a name of its own");
    let path = mount.path(&format!("projects/{copy}"));
    assert_eq!(fs::read(path).unwrap(), b"old");
    let output = mount.run(&["trash", "restore", "projects/none"]);
    assert_eq!(output.status.code(), Some(1));
}

#[test]
fn a_save_costs_one_put_and_at_most_one_copy_in_ten_minutes() {
    let model = R2Model::start();
    model.put("projects/song.rpp", "version 0");
    let mount = mount(&model, &[]);
    let song = mount.path("projects/song.rpp");
    fs::read(&song).unwrap();
    model.clear_requests();
    for n in 1..=3 {
        let temporary = mount.path("projects/song.tmp");
        fs::write(&temporary, format!("version {n}")).unwrap();
        fs::File::open(&temporary).unwrap().sync_all().unwrap();
        fs::rename(&temporary, &song).unwrap();
        mount.wait_uploaded();
    }
    let puts = model
        .requests()
        .into_iter()
        .filter(|request| request.operation == Operation::PutObject);
    assert_eq!(puts.count(), 3);
    assert_eq!(copies(&model), 1);
    let kept = trash(&mount);
    assert_eq!(kept.len(), 1, "{kept:?}");
    assert_eq!(kept[0]["why"], "overwritten");
    // The same bytes again are no other version.
    run(&mount, &["trash", "restore", "projects/song.rpp"]);
    assert_eq!(fs::read(&song).unwrap(), b"version 3");
    let names = fs::read_dir(mount.path("projects")).unwrap();
    let former = names
        .map(|entry| entry.unwrap().path())
        .find(|path| *path != song);
    assert_eq!(fs::read(former.unwrap()).unwrap(), b"version 0");
}

#[test]
fn a_renamed_folder_leaves_nothing_in_the_trash() {
    let model = R2Model::start();
    let mount = mount(&model, &[]);
    make_project(&mount.path("projects/x"));
    mount.wait_uploaded();
    fs::rename(mount.path("projects/x"), mount.path("projects/y")).unwrap();
    mount.wait_uploaded();
    assert!(trash(&mount).is_empty(), "{:?}", model.keys());
}
