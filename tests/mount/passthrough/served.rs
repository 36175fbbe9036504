//! Which files the kernel serves without us.

use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;

use r2_model::R2Model;

use super::{expect_passthrough, fetch, is_root, reads};
use crate::basic::noise;
use crate::common::mount::{Mount, model_settings};

/// Drops the pages that the kernel holds of a file, so that reading it asks somebody.
fn drop_pages(file: &File) {
    rustix::fs::fadvise(file, 0, None, rustix::fs::Advice::DontNeed).unwrap();
}

#[test]
fn a_complete_cached_file_is_read_by_the_kernel_alone() {
    let model = R2Model::start();
    let song = noise(1, 2_500_000);
    model.put("segments/a.wav", song.clone());
    let mut mount = Mount::of(&model);
    let path = mount.path("segments/a.wav");
    fetch(&mount, &path, &song);
    if !is_root() {
        return;
    }
    let read_in_all_ways = |mount: &Mount| {
        expect_passthrough(mount, || {
            let mut file = File::open(&path).unwrap();
            drop_pages(&file);
            let mut bytes = Vec::new();
            file.read_to_end(&mut bytes).unwrap();
            assert!(bytes == song);
            let mut part = vec![0; 100_000];
            for at in [2_400_000, 0, 1_234_567] {
                file.read_exact_at(&mut part, at).unwrap();
                assert!(part == song[at as usize..][..100_000]);
            }
            assert!(fs::read(&path).unwrap() == song);
        });
    };
    read_in_all_ways(&mount);
    mount.remount();
    read_in_all_ways(&mount);
}

#[test]
fn a_sample_is_read_by_the_kernel_alone() {
    let mut mount = Mount::prepare(&[("USE_R2_STORAGE", "false")]);
    let kick = noise(2, 700_000);
    fs::create_dir_all(mount.beside("samples/house/kick")).unwrap();
    fs::write(mount.beside("samples/house/kick/deep.wav"), &kick).unwrap();
    mount.mount();
    let path = mount.path("samples/house/kick/deep.wav");
    if !is_root() {
        assert!(fs::read(path).unwrap() == kick);
        return;
    }
    expect_passthrough(&mount, || {
        for _ in 0..3 {
            let file = File::open(&path).unwrap();
            drop_pages(&file);
            let mut bytes = vec![0; kick.len()];
            file.read_exact_at(&mut bytes, 0).unwrap();
            assert!(bytes == kick);
        }
    });
}

#[test]
fn a_file_written_here_is_read_by_the_kernel_once_it_is_uploaded() {
    let model = R2Model::start();
    let mount = Mount::of(&model);
    let take = noise(3, 900_000);
    let path = mount.path("layers/take.wav");
    fs::write(&path, &take).unwrap();
    assert!(fs::read(&path).unwrap() == take);
    mount.wait_uploaded();
    model.clear_requests();
    if is_root() {
        expect_passthrough(&mount, || assert!(fs::read(&path).unwrap() == take));
    }
    assert!(fs::read(&path).unwrap() == take);
    assert!(model.requests().is_empty(), "{:#?}", model.requests());
}

#[test]
fn without_passthrough_the_bytes_are_the_same() {
    let model = R2Model::start();
    let song = noise(4, 1_500_000);
    model.put("segments/a.wav", song.clone());
    let mut mount = Mount::prepare(&[("PASSTHROUGH", "false")]);
    for (name, value) in model_settings(&model) {
        mount.set(&name, &value);
    }
    fs::write(mount.beside("samples/kick.wav"), &song).unwrap();
    mount.mount();
    let (before, _) = reads(&mount);
    for path in ["segments/a.wav", "samples/kick.wav"] {
        assert!(fs::read(mount.path(path)).unwrap() == song);
        let file = File::open(mount.path(path)).unwrap();
        drop_pages(&file);
        let mut part = vec![0; 500_000];
        file.read_exact_at(&mut part, 777_777).unwrap();
        assert!(part == song[777_777..][..500_000]);
    }
    let (after, opens) = reads(&mount);
    assert_eq!(opens, 0);
    assert!(after > before);
}
