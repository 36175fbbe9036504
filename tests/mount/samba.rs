//! A share of Samba's over the mount, by the recipe that is shipped: a real smbd and smbclient.

use std::fs;
use std::io::{BufRead, BufReader};
use std::net::TcpListener;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use r2_model::{Operation, R2Model};
use rustix::fs::{getxattr, getxattr_query};
use rustix::process::{Pid, Signal, kill_process_group};
use tempfile::TempDir;

use crate::common::mount::{DEADLINE, Mount, model_settings};
use crate::crash::noise;

const RECIPE: &str = include_str!("../../packaging/samba/voicebeat.conf");

/// Whose the mount and the files of the share are: a user that every Linux has.
const OWNER: (&str, u32) = ("daemon", 1);

/// An smbd with directories and a port of its own, and a folder for its clients. It ends when this
/// is dropped, and when the test is killed.
struct Smbd {
    folder: TempDir,
    port: u16,
    process: Child,
}

impl Smbd {
    /// Shares the mount, and waits until it is served.
    fn over(mount: &Mount) -> Smbd {
        let end = Instant::now() + DEADLINE;
        loop {
            let mut smbd = Smbd::start(mount);
            // Before its notifyd has begun, smbd refuses a share with NT_STATUS_NO_MEMORY.
            while smbd.process.try_wait().unwrap().is_none() {
                if smbd.client("ls").status.success() {
                    return smbd;
                }
                assert!(Instant::now() < end, "{}", smbd.log());
                std::thread::sleep(Duration::from_millis(50));
            }
            // Another has taken its port meanwhile.
            assert!(Instant::now() < end, "{}", smbd.log());
        }
    }

    fn start(mount: &Mount) -> Smbd {
        let folder = tempfile::tempdir().unwrap();
        // Its users have to get to the mount point.
        for path in [folder.path(), mount.root().parent().unwrap()] {
            fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
        }
        let unused = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = unused.local_addr().unwrap().port();
        let settings = folder.path().join("smb.conf");
        fs::write(&settings, settings_of(folder.path(), port, &mount.root())).unwrap();
        let log = fs::File::create(folder.path().join("smbd.log")).unwrap();
        drop(unused);
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "TERM", "/usr/sbin/smbd"])
            .args(["--foreground", "--no-process-group", "--debug-stdout"])
            .arg(format!("--configfile={}", settings.display()))
            .stdin(Stdio::null())
            .stdout(log.try_clone().unwrap())
            .stderr(log)
            .process_group(0);
        let process = command.spawn();
        let process = process.expect("setpriv (util-linux) starts smbd");
        Smbd {
            folder,
            port,
            process,
        }
    }

    fn log(&self) -> String {
        fs::read_to_string(self.folder.path().join("smbd.log")).unwrap_or_default()
    }

    fn beside(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// What runs smbclient with these commands; after a minute it is ended, and the test fails.
    fn client_command(&self, commands: &str) -> Command {
        let mut command = Command::new("timeout");
        command
            .args(["60", "stdbuf", "-oL", "smbclient", "--no-pass"])
            .args(["--port", &self.port.to_string()])
            .arg("--configfile")
            .arg(self.beside("smb.conf"))
            .args(["//127.0.0.1/voicebeat", "--command", commands])
            .current_dir(self.folder.path());
        command
    }

    fn client(&self, commands: &str) -> Output {
        self.client_command(commands).output().unwrap()
    }

    /// Runs commands, each of which has to succeed, and returns what they print.
    #[track_caller]
    fn run(&self, commands: &str) -> String {
        let output = self.client(commands);
        let said = [output.stdout, output.stderr].concat();
        let said = String::from_utf8_lossy(&said).into_owned();
        let well = output.status.success() && !said.contains("NT_STATUS");
        assert!(well, "{commands}: {said}\n{}", self.log());
        said
    }

    /// Fetches a file or a stream of one.
    #[track_caller]
    fn get(&self, name: &str) -> Vec<u8> {
        self.run(&format!("get \"{name}\" got"));
        fs::read(self.beside("got")).unwrap()
    }

    /// Stores a file or a stream of one.
    #[track_caller]
    fn put(&self, name: &str, bytes: &[u8]) {
        fs::write(self.beside("given"), bytes).unwrap();
        self.run(&format!("put given \"{name}\""));
    }
}

impl Drop for Smbd {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("--- log of smbd\n{}", self.log());
        }
        // Its children, one for each client, are in the group that was made for it.
        if let Some(group) = Pid::from_raw(self.process.id() as i32) {
            let _ = kill_process_group(group, Signal::KILL);
        }
        let _ = self.process.wait();
    }
}

/// The recipe as it is, with another folder and owner and no password, in a server without a net.
fn settings_of(folder: &Path, port: u16, root: &Path) -> String {
    let mut settings = format!(
        "[global]\nserver role = standalone server\nmap to guest = Bad User\ninterfaces = 127.0.0.1\n\
         bind interfaces only = yes\nsmb ports = {port}\ndisable netbios = yes\nload printers = no\n\
         disable spoolss = yes\n"
    );
    for name in [
        "lock directory",
        "state directory",
        "cache directory",
        "pid directory",
        "private dir",
        "ncalrpc dir",
    ] {
        let own = folder.join(name.replace(' ', "-"));
        fs::create_dir(&own).unwrap();
        settings += &format!("{name} = {}\n", own.display());
    }
    let recipe = RECIPE
        .replace(
            "path = /mnt/voicebeat",
            &format!("path = {}", root.display()),
        )
        .replace("user = voicebeat", &format!("user = {}", OWNER.0));
    assert!(recipe.contains(&*root.to_string_lossy()) && recipe.contains("user = daemon"));
    settings + &recipe + "guest ok = yes\n"
}

/// A mount for everybody; nothing if the machine does not let this user run a server.
fn mounted(model: &R2Model) -> Option<Mount> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: only root may run smbd");
        return None;
    }
    let mut mount = Mount::prepare(&[]);
    for (name, value) in model_settings(model) {
        mount.set(&name, &value);
    }
    for option in ["allow_other", "uid=1", "gid=1"] {
        mount.option(option);
    }
    mount.mount();
    Some(mount)
}

fn xattr(path: &Path, name: &str) -> Vec<u8> {
    let mut value = vec![0; getxattr_query(path, name).unwrap()];
    let length = getxattr(path, name, &mut value[..]).unwrap();
    value.truncate(length);
    value
}

#[test]
fn files_and_streams_come_and_go_through_a_share() {
    let model = R2Model::start();
    let Some(mut mount) = mounted(&model) else {
        return;
    };
    let take = noise(1, 3_000_001);
    let replaced = noise(2, 1_000_000);
    let large = noise(3, 60_000);
    let smbd = Smbd::over(&mount);
    smbd.put("segments/take.wav", &take);
    smbd.put("segments/take.wav:markers", b"one two");
    smbd.put("segments/take.wav:large", &large);
    smbd.put("segments/again.wav", &take);
    smbd.put("segments/again.wav", &replaced);
    smbd.put("segments/gone.wav", b"gone");
    smbd.run("mkdir projects/song; mkdir projects/song/audio");
    smbd.put("projects/song/mix é #1.wav", &replaced);
    smbd.run("rename segments/take.wav projects/song/audio/take.wav");
    smbd.run("del segments/gone.wav; mkdir layers/empty; rmdir layers/empty");
    smbd.run("rename projects/song projects/album");

    let listed = smbd.run("recurse; ls projects/album/*");
    assert!(
        listed.contains("mix é #1.wav") && listed.contains("3000001"),
        "{listed}"
    );
    let status = fs::metadata(mount.path("projects/album/audio/take.wav")).unwrap();
    assert_eq!((status.uid(), status.mode() & 0o777), (OWNER.1, 0o644));
    let check = |smbd: &Smbd| {
        assert!(smbd.get("projects/album/audio/take.wav") == take);
        assert!(smbd.get("projects/album/mix é #1.wav") == replaced);
        assert!(smbd.get("segments/again.wav") == replaced);
        assert_eq!(
            smbd.get("projects/album/audio/take.wav:markers"),
            b"one two"
        );
        assert!(smbd.get("projects/album/audio/take.wav:large") == large);
        let told = smbd.run("allinfo projects/album/audio/take.wav");
        assert!(told.contains("[:markers:$DATA], 7 bytes"), "{told}");
        let refused = smbd.client("get segments/gone.wav got");
        let said = String::from_utf8_lossy(&refused.stdout).into_owned();
        assert!(said.contains("NT_STATUS_OBJECT_NAME_NOT_FOUND"), "{said}");
    };
    check(&smbd);
    drop(smbd);

    // From the bucket, and as extended attributes of ours.
    mount.wait_uploaded();
    assert!(model.get("projects/album/audio/take.wav").unwrap().bytes == take);
    assert!(model.get("segments/take.wav").is_none() && model.get("segments/gone.wav").is_none());
    mount.unmount();
    mount.remove_cache();
    mount.mount();
    let stream = xattr(
        &mount.path("projects/album/audio/take.wav"),
        "user.DosStream.markers:$DATA",
    );
    assert_eq!(stream, b"one two\0");
    check(&Smbd::over(&mount));

    // Another machine has what the object carries.
    let Some(other) = mounted(&model) else { return };
    let smbd = Smbd::over(&other);
    assert!(smbd.get("projects/album/audio/take.wav") == take);
    assert_eq!(
        smbd.get("projects/album/audio/take.wav:markers"),
        b"one two"
    );
}

#[test]
fn a_look_through_a_share_costs_no_request_a_file() {
    let model = R2Model::start();
    for n in 0..300 {
        model.put(&format!("segments/{n:03}.wav"), noise(n, 1000));
    }
    let Some(mount) = mounted(&model) else { return };
    let smbd = Smbd::over(&mount);
    model.clear_requests();
    let listed = smbd.run("cd segments; ls");
    assert!(listed.contains("299.wav"), "{listed}");
    let asked = model.requests();
    let of_files = |request: &&r2_model::RequestRecord| {
        matches!(
            request.operation,
            Operation::HeadObject | Operation::GetObject
        )
    };
    assert_eq!(asked.iter().filter(of_files).count(), 0, "{asked:#?}");
}

#[test]
fn clients_of_a_share_are_told_of_what_happens_on_the_machine() {
    let model = R2Model::start();
    let Some(mount) = mounted(&model) else { return };
    let smbd = Smbd::over(&mount);
    let mut command = smbd.client_command("notify segments");
    let mut client = command.stdout(Stdio::piped()).spawn().unwrap();
    let lines = BufReader::new(client.stdout.take().unwrap()).lines();
    let (sender, receiver) = mpsc::channel();
    std::thread::spawn(move || {
        for line in lines.map_while(Result::ok) {
            let _ = sender.send(line);
        }
    });
    // Nobody says when it has begun to listen.
    let end = Instant::now() + DEADLINE;
    let mut told = Vec::new();
    for n in 0.. {
        fs::write(mount.path(&format!("segments/{n}.wav")), b"new").unwrap();
        told.extend(receiver.recv_timeout(Duration::from_millis(200)));
        if told.iter().any(|line| line.ends_with(".wav")) {
            break;
        }
        assert!(Instant::now() < end, "{told:?}\n{}", smbd.log());
    }
    // `timeout` hands it on to smbclient.
    let _ = rustix::process::kill_process(Pid::from_raw(client.id() as i32).unwrap(), Signal::TERM);
    client.wait().unwrap();
}
