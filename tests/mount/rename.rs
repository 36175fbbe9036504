//! Renames that depend on each other.

use std::fs;

use r2_model::R2Model;

use crate::common::mount::Mount;

fn exchange(mount: &Mount, a: &str, b: &str) -> rustix::io::Result<()> {
    use rustix::fs::{CWD, RenameFlags, renameat_with};
    renameat_with(
        CWD,
        mount.path(a),
        CWD,
        mount.path(b),
        RenameFlags::EXCHANGE,
    )
}

fn two_songs() -> (R2Model, Mount) {
    let model = R2Model::start();
    model.put("projects/a.rpp", "song a");
    model.put("projects/b.rpp", "song b");
    let mount = Mount::with(&model, &[("WRITE_BACK_SECONDS", "1")]);
    assert_eq!(fs::read_dir(mount.path("projects")).unwrap().count(), 2);
    (model, mount)
}

fn assert_swapped(model: &R2Model, mount: &mut Mount) {
    for round in ["at once", "when uploaded", "after a remount"] {
        assert_eq!(
            fs::read(mount.path("projects/a.rpp")).unwrap(),
            b"song b",
            "{round}"
        );
        assert_eq!(
            fs::read(mount.path("projects/b.rpp")).unwrap(),
            b"song a",
            "{round}"
        );
        match round {
            "at once" => mount.wait_uploaded(),
            "when uploaded" => {
                mount.unmount();
                mount.remove_cache();
                mount.mount();
            }
            _ => {}
        }
    }
    assert_eq!(model.get("projects/a.rpp").unwrap().bytes, "song b");
    assert_eq!(model.get("projects/b.rpp").unwrap().bytes, "song a");
    assert_eq!(model.keys(), ["projects/a.rpp", "projects/b.rpp"]);
    assert!(model.write_rate_violations().is_empty());
}

#[test]
fn two_uploaded_files_change_names_by_a_third_name() {
    let (model, mut mount) = two_songs();
    let path = |name: &str| mount.path(&format!("projects/{name}"));
    fs::rename(path("a.rpp"), path("t.rpp")).unwrap();
    fs::rename(path("b.rpp"), path("a.rpp")).unwrap();
    fs::rename(path("t.rpp"), path("b.rpp")).unwrap();
    assert_swapped(&model, &mut mount);
}

#[test]
fn two_uploaded_files_are_exchanged() {
    let (model, mut mount) = two_songs();
    exchange(&mount, "projects/a.rpp", "projects/b.rpp").unwrap();
    assert_swapped(&model, &mut mount);
}

#[test]
fn a_new_file_and_an_uploaded_one_are_exchanged_and_survive_a_kill() {
    let model = R2Model::start();
    model.put("projects/b.rpp", "song a");
    let mut mount = Mount::with(&model, &[("WRITE_BACK_SECONDS", "3600")]);
    assert_eq!(fs::read(mount.path("projects/b.rpp")).unwrap(), b"song a");
    fs::write(mount.path("projects/a.rpp"), "song a").unwrap();
    fs::write(mount.path("projects/new.rpp"), "song b").unwrap();
    fs::rename(mount.path("projects/new.rpp"), mount.path("projects/a.rpp")).unwrap();
    exchange(&mount, "projects/a.rpp", "projects/b.rpp").unwrap();
    exchange(&mount, "projects/a.rpp", "projects/b.rpp").unwrap();
    mount.kill();
    mount.set("WRITE_BACK_SECONDS", "0.2");
    mount.mount();
    assert_swapped(&model, &mut mount);
}

#[test]
fn what_cannot_be_exchanged_says_so() {
    let (_model, mount) = two_songs();
    fs::create_dir(mount.path("projects/folder")).unwrap();
    let missing = exchange(&mount, "projects/a.rpp", "projects/none.rpp");
    assert_eq!(missing, Err(rustix::io::Errno::NOENT));
    let folder = exchange(&mount, "projects/a.rpp", "projects/folder");
    assert_eq!(folder, Err(rustix::io::Errno::INVAL));
}
