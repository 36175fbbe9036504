//! Does the Debian package hold what it should, where the system looks for it?

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::Command;

use voicebeatfs::config::{Config, Inputs, Setting};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/package");

#[test]
fn the_package_has_program_helpers_unit_page_completions_and_examples() {
    if Command::new("dpkg-deb").arg("--version").output().is_err() {
        eprintln!("not run: this is no Debian");
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let built = Command::new(SCRIPT)
        .args(["--binary", env!("CARGO_BIN_EXE_voicebeatfs")])
        .arg(folder.path())
        .output()
        .unwrap();
    assert!(
        built.status.success(),
        "{}",
        String::from_utf8_lossy(&built.stderr)
    );
    let packages: Vec<_> = fs::read_dir(folder.path()).unwrap().collect();
    let package = packages[0].as_ref().unwrap().path();
    let name = package.file_name().unwrap().to_str().unwrap();
    let version = concat!("voicebeatfs_", env!("CARGO_PKG_VERSION"));
    assert!(packages.len() == 1 && name.starts_with(version), "{name}");
    let root = folder.path().join("root");
    let unpacked = Command::new("dpkg-deb")
        .arg("-x")
        .args([&package, &root])
        .status();
    assert!(unpacked.unwrap().success());
    for helper in ["mount.voicebeatfs", "mount.fuse.voicebeatfs"] {
        let said = Command::new(root.join("usr/sbin").join(helper))
            .arg("--version")
            .output();
        let said = String::from_utf8(said.unwrap().stdout).unwrap();
        assert!(said.starts_with("voicebeatfs "), "{said}");
    }
    for file in [
        "lib/systemd/system/voicebeatfs@.service",
        "lib/systemd/system/multi-user.target.wants/voicebeatfs-drain.service",
        "usr/share/man/man1/voicebeatfs.1.gz",
        "usr/share/bash-completion/completions/voicebeatfs",
        "usr/share/zsh/vendor-completions/_voicebeatfs",
        "usr/share/fish/vendor_completions.d/voicebeatfs.fish",
        "usr/share/doc/voicebeatfs/operations.md",
        "usr/share/doc/voicebeatfs/examples/voicebeatfs.rules.yml",
        "usr/share/doc/voicebeatfs/examples/voicebeatfs.env",
        "usr/share/doc/voicebeatfs/examples/voicebeat.conf",
    ] {
        let length = fs::metadata(root.join(file)).map(|metadata| metadata.len());
        assert!(length.is_ok_and(|length| length > 100), "{file}");
    }
    check_example(&root.join("usr/share/doc/voicebeatfs/examples/voicebeatfs.env"));
}

/// Every name in the example is a setting, and with key and secret it is complete.
fn check_example(path: &Path) {
    let text = fs::read_to_string(path).unwrap();
    let names = text
        .lines()
        .filter_map(|line| line.trim_start_matches('#').split_once('='));
    for (name, _) in names {
        assert!(Setting::find(name).is_some(), "there is no setting {name}");
    }
    let filled = text
        .replace("_ID=\n", "_ID=key\n")
        .replace("_KEY=\n", "_KEY=secret\n");
    assert_ne!(text, filled);
    let file = path.with_file_name("filled.env");
    fs::write(&file, filled).unwrap();
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
    let config = Config::load(&Inputs {
        env_file: Some(file),
        environment: Default::default(),
        ..Inputs::from_process()
    });
    config.unwrap();
}
