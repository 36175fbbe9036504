//! The mount as the machine's own service: its line in fstab, read by the real mount(8), and what
//! systemd is told and reads.

use std::fs;
use std::io::ErrorKind;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::os::unix::net::UnixDatagram;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use r2_model::{Connections, R2Model};
use rustix::process::{Pid, getpgid};

use crate::common::mount::{DEADLINE, Mount, is_mount_point, model_settings};

fn stdout(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned()
}

fn stderr(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// A mount that is not mounted yet, with all its folders named: fstab has no current folder.
fn prepared() -> Mount {
    let mut mount = Mount::prepare(&[("USE_R2_STORAGE", "false")]);
    for (name, folder) in [
        ("CACHE_DIR", "cache"),
        ("STAGING_DIR", "staging"),
        ("OUTPUT_DIR", "output"),
        ("SAMPLES_DIR", "samples"),
        ("CATALOG_FILE", "catalog.json"),
        ("LOG_FILE", "log"),
    ] {
        let path = mount.beside(folder);
        mount.set(name, path.to_str().unwrap());
    }
    mount.write_env_file();
    mount
}

#[test]
fn the_line_of_fstab_mounts_by_mount8_under_either_helper() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: only root may use mount(8) with another fstab");
        return;
    }
    let mount = prepared();
    let fstab = mount.beside("fstab");
    let root = mount.root();
    let file = fstab.to_str().unwrap();
    let install = ["fstab", root.to_str().unwrap(), "--install", "--file", file];
    let said = mount.run(&install);
    assert!(said.status.success(), "{}", stderr(&said));
    assert!(stdout(&said).contains("systemctl daemon-reload"));
    assert!(stdout(&mount.run(&install)).contains("has that line already"));

    // In a list of mounts of its own, the folders of programs show ours, as when it is installed:
    // once the helper under its own name, once the program that fuse3's helper calls.
    for (folder, name) in [
        ("/usr/sbin", "mount.fuse.voicebeatfs"),
        ("/usr/local/bin", "voicebeatfs"),
    ] {
        let programs = mount.beside(name);
        fs::create_dir(&programs).unwrap();
        symlink(env!("CARGO_BIN_EXE_voicebeatfs"), programs.join(name)).unwrap();
        let script = "mount --bind \"$1\" \"$2\"; mount -a -T \"$3\"; echo hello > \"$4/segments/$5\"; \
                      mount -a -v -T \"$3\"; grep \" $4 \" /proc/self/mounts; umount \"$4\"; \
                      mount -T \"$3\" \"$4\"; cat \"$4/segments/$5\"; umount \"$4\"";
        let output = Command::new("unshare")
            .args(["-m", "sh", "-ec", script, "sh"])
            .args([&programs, std::path::Path::new(folder), &fstab, &root])
            .arg(name)
            .stdin(Stdio::null())
            .output()
            .unwrap();
        let said = format!("{}{}", stdout(&output), stderr(&output));
        assert!(output.status.success(), "{name}: {said}{}", mount.log());
        for part in [
            "already mounted",
            " fuse.voicebeatfs rw",
            "allow_other",
            "hello\n",
        ] {
            assert!(said.contains(part), "{name}: \"{part}\" is not in: {said}");
        }
    }
}

#[test]
fn the_line_of_fstab_is_printed_and_what_cannot_work_is_refused() {
    let mount = prepared();
    let root = mount.root();
    let root = root.to_str().unwrap();
    let output = mount.run(&["fstab", root, "-o", "noatime,cache_max_bytes=1GB"]);
    assert_eq!(
        stdout(&output),
        format!(
            "local {root} fuse.voicebeatfs _netdev,nofail,allow_other,env_file={},\
             x-systemd.automount,x-systemd.before=voicebeatfs-drain.service,noatime,\
             cache_max_bytes=1GB 0 0\n",
            mount.env_file().display()
        ),
        "{}",
        stderr(&output)
    );
    let refused = |args: &[&str], code: i32, part: &str| {
        let output = mount.run(args);
        let said = stderr(&output);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {said}");
        assert!(
            said.contains(part),
            "{args:?}: \"{part}\" is not in: {said}"
        );
    };
    refused(&["fstab"], 2, "Usage");
    refused(&["fstab", root, "--file", "x"], 2, "--install");
    refused(
        &["fstab", root, "-o", "nope"],
        2,
        "unknown mount option \"nope\"",
    );
    let file = mount.beside("fstab");
    let file = file.to_str().unwrap();
    refused(
        &["fstab", "none", "--install", "--file", file],
        1,
        "mkdir -p",
    );
    fs::write(file, format!("/dev/sda1 {root} ext4 defaults 0 0\n")).unwrap();
    refused(
        &["fstab", root, "--install", "--file", file],
        1,
        "fstab:1 mounts something",
    );
    // At the start of the machine there is no environment: it does not count here.
    fs::remove_file(mount.env_file()).unwrap();
    fs::write(mount.env_file(), "R2_BUCKET_NAME=voicebeat-audio\n").unwrap();
    fs::set_permissions(mount.env_file(), fs::Permissions::from_mode(0o600)).unwrap();
    let mut command = mount.command();
    let output = command
        .env("USE_R2_STORAGE", "false")
        .args(["fstab", root])
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("R2_ACCESS_KEY_ID is not set"));
}

/// To the mount point of an automount the kernel lets only the process group of who mounts, until
/// it is mounted.
#[test]
fn the_background_process_leaves_its_group_once_it_has_mounted() {
    let model = R2Model::start();
    model.set_connections(Connections::BlackHole);
    let mut mount = Mount::prepare(&[("REQUEST_DEADLINE_SECONDS", "2")]);
    for (name, value) in model_settings(&model) {
        mount.set(&name, &value);
    }
    mount.write_env_file();
    let mut command = mount.command();
    command.arg("mount").arg(mount.root());
    let mut mounting = command.stderr(Stdio::null()).spawn().unwrap();
    let group = |pid: u32| getpgid(Pid::from_raw(pid as i32)).unwrap();
    let own = group(mounting.id());
    let children = format!("/proc/{0}/task/{0}/children", mounting.id());
    let end = Instant::now() + DEADLINE;
    let mut seen = 0;
    while mounting.try_wait().unwrap().is_none() {
        let child = fs::read_to_string(&children).unwrap_or_default();
        if let Ok(child) = child.trim().parse() {
            let its = group(child);
            if !is_mount_point(&mount.root()) {
                assert_eq!(its, own, "it left before it had mounted");
                seen += 1;
            }
        }
        assert!(Instant::now() < end, "not mounted in time");
        std::thread::sleep(Duration::from_millis(10));
    }
    assert!(seen > 0, "the background process was not seen");
    let pid = mount.status()["pid"].as_i64().unwrap();
    let session = rustix::process::getsid(Pid::from_raw(pid as i32)).unwrap();
    assert_eq!(i64::from(session.as_raw_nonzero().get()), pid);
    model.set_connections(Connections::Serve);
}

/// Receives what the service manager is told until `wanted` is among it.
fn hear(socket: &UnixDatagram, wanted: &str) -> String {
    let end = Instant::now() + DEADLINE;
    let mut buffer = [0; 4096];
    let mut heard = String::new();
    while Instant::now() < end {
        match socket.recv(&mut buffer) {
            Ok(length) => heard.push_str(&String::from_utf8_lossy(&buffer[..length])),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {}
            Err(error) => panic!("{error}"),
        }
        if heard.lines().any(|line| line == wanted) {
            return heard;
        }
    }
    panic!("{wanted} was not heard, but: {heard}");
}

#[test]
fn systemd_is_told_of_the_start_the_state_the_life_and_the_end() {
    let mount = prepared();
    let address = mount.beside("notify.sock");
    let socket = UnixDatagram::bind(&address).unwrap();
    socket
        .set_read_timeout(Some(Duration::from_millis(100)))
        .unwrap();
    let root = mount.root();
    let mut command = mount.command();
    // As the unit calls it: the settings are a credential, whose folder holds nothing else.
    command
        .env("NOTIFY_SOCKET", &address)
        .env("WATCHDOG_USEC", "400000")
        .env("CREDENTIALS_DIRECTORY", mount.env_file().parent().unwrap());
    command.args(["mount", "--foreground"]).arg(&root);
    let mut service = command
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap();
    let heard = hear(&socket, "READY=1");
    assert!(is_mount_point(&root), "it is ready before it is mounted");
    assert!(
        heard.contains("STATUS=online, everything is in the bucket"),
        "{heard}"
    );
    let heard = hear(&socket, "WATCHDOG=1");
    assert!(heard.contains("STATUS=online"), "{heard}");
    let limits = fs::read_to_string(format!("/proc/{}/limits", service.id())).unwrap();
    let core = limits
        .lines()
        .find(|line| line.starts_with("Max core file size"))
        .unwrap();
    let values: Vec<&str> = core.split_whitespace().skip(4).take(2).collect();
    assert_eq!(values, ["0", "0"], "its memory holds secrets: {core}");
    // A signal to ourselves would end the test: the manager's way is kill(2).
    Command::new("kill")
        .arg(service.id().to_string())
        .status()
        .unwrap();
    let heard = hear(&socket, "STOPPING=1");
    assert!(heard.contains("STATUS=unmounting"), "{heard}");
    assert!(service.wait().unwrap().success());
    assert!(!is_mount_point(&root));
}

#[test]
fn systemd_understands_the_unit() {
    let analyze = |args: &[&str]| Command::new("systemd-analyze").args(args).output();
    if analyze(&["--version"]).is_err() {
        eprintln!("not run: systemd-analyze is not installed");
        return;
    }
    let unit = include_str!("../../packaging/voicebeatfs@.service");
    let mount = Mount::prepare(&[]);
    // systemd looks for the program where the package puts it.
    let unit = unit.replace("/usr/bin/voicebeatfs", env!("CARGO_BIN_EXE_voicebeatfs"));
    assert!(unit.contains(env!("CARGO_BIN_EXE_voicebeatfs")));
    let path = mount.beside("voicebeatfs@.service");
    fs::write(&path, unit).unwrap();
    let output = analyze(&["verify", "--man=no", path.to_str().unwrap()]).unwrap();
    let said = format!("{}{}", stdout(&output), stderr(&output));
    let about_us: Vec<&str> = said
        .lines()
        .filter(|line| line.contains("voicebeatfs@"))
        .collect();
    assert!(about_us.is_empty(), "{said}");
}

/// What the capabilities of a process are, as a set of bits.
fn capabilities(pid: u64, which: &str) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let line = status.lines().find(|line| line.starts_with(which));
    let (_, bits) = line.unwrap().split_once(':').unwrap();
    u64::from_str_radix(bits.trim(), 16).unwrap()
}

#[test]
fn a_mount_by_root_gives_up_what_it_does_not_need() {
    // Their numbers (capability.h): CHOWN, DAC_OVERRIDE, DAC_READ_SEARCH, FOWNER, FSETID, NET_BIND_SERVICE, SYS_ADMIN,
    // SYS_RESOURCE, MKNOD, LEASE.
    let kept = [0, 1, 2, 3, 4, 10, 21, 24, 27, 28].map(|number| 1_u64 << number);
    let kept = kept.iter().fold(0, |all, one| all | one);
    let mut mount = prepared();
    mount.mount();
    let pid = mount.status()["pid"].as_u64().unwrap();
    for task in fs::read_dir(format!("/proc/{pid}/task")).unwrap() {
        let task = task.unwrap().file_name().into_string().unwrap();
        let task = task.parse().unwrap();
        for which in ["CapEff", "CapPrm", "CapInh"] {
            let held = capabilities(task, which);
            assert_eq!(held & !kept, 0, "{which} {held:x}");
        }
        assert_eq!(capabilities(task, "NoNewPrivs"), 1);
    }
    // And it can still do all that it did: a file for another user, unmounting.
    let path = mount.path("samples/theirs.wav");
    fs::write(&path, "sound").unwrap();
    std::os::unix::fs::chown(&path, Some(1234), Some(1234)).unwrap();
    assert_eq!(fs::read(&path).unwrap(), b"sound");
    mount.unmount();
}
