//! The process behind a mount is killed while callers wait in it: they come free, and the next
//! mount finds its place free.

use std::fs;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use r2_model::{Fault, FaultRule, Operation, R2Model};

use crate::common::mount::{DEADLINE, Mount, is_mount_point};

/// A program that does one thing in the mount and is taken away with the test.
struct Caller(Child);

impl Caller {
    fn new(mount: &Mount, program: &str, path: &str) -> Caller {
        let mut command = Command::new(program);
        let command = command.arg(mount.path(path));
        Caller(
            command
                .stdout(Stdio::null())
                .stderr(Stdio::null())
                .spawn()
                .unwrap(),
        )
    }

    #[track_caller]
    fn fails_soon(&mut self) {
        let end = Instant::now() + DEADLINE;
        loop {
            match self.0.try_wait().unwrap() {
                Some(status) => return assert!(!status.success()),
                None => assert!(Instant::now() < end, "a caller still waits"),
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Caller {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A mount that was killed while a caller waits in it, and whose connection somebody holds open, as
/// a thread of it does that cannot leave the kernel: then nobody tells the caller.
fn stuck(model: &R2Model) -> (Mount, OwnedFd, Caller) {
    let mut mount = Mount::with(model, &[("LIST_TTL_SECONDS", "0")]);
    let slow = FaultRule::new(Fault::latency(Duration::from_secs(60)));
    model.add_fault(slow.on(&[Operation::HeadObject]).key_containing("unknown"));
    let connection = connection(mount.pid());
    let caller = Caller::new(&mount, "stat", "segments/unknown");
    mount.kill_and_leave();
    (mount, connection, caller)
}

/// Returns a descriptor of the process's connection to the kernel.
fn connection(pid: u32) -> OwnedFd {
    let mut open = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let is_it = |path: &Path| fs::read_link(path).is_ok_and(|to| to == Path::new("/dev/fuse"));
    let found = open.find(|entry| is_it(&entry.path())).unwrap();
    let number: i32 = found.file_name().to_str().unwrap().parse().unwrap();
    // SAFETY: plain system calls; what they return is checked, and owned by nobody else.
    unsafe {
        let process = libc::syscall(libc::SYS_pidfd_open, pid, 0);
        assert!(process >= 0);
        let process = OwnedFd::from_raw_fd(process as i32);
        let raw = libc::syscall(libc::SYS_pidfd_getfd, process.as_raw_fd(), number, 0);
        assert!(raw >= 0, "{}", std::io::Error::last_os_error());
        OwnedFd::from_raw_fd(raw as i32)
    }
}

#[test]
fn the_next_mount_frees_what_a_killed_one_holds_in_the_kernel() {
    let model = R2Model::start();
    model.put("segments/a.wav", "here");
    let (mount, _connection, mut caller) = stuck(&model);
    let place = mount.root();
    assert!(is_mount_point(&place));
    let output = mount.run(&["mount", place.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    caller.fails_soon();
    assert_eq!(fs::read(mount.path("segments/a.wav")).unwrap(), b"here");
    let output = mount.run(&["umount", place.to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
}

#[test]
fn umount_frees_what_a_killed_mount_holds_in_the_kernel() {
    let model = R2Model::start();
    let (mount, _connection, mut caller) = stuck(&model);
    let output = mount.run(&["umount", mount.root().to_str().unwrap()]);
    assert!(output.status.success(), "{output:?}");
    assert!(!is_mount_point(&mount.root()));
    caller.fails_soon();
}

#[test]
fn a_live_mount_that_does_not_answer_is_left_alone() {
    let model = R2Model::start();
    model.put("segments/a.wav", "here");
    let mount = Mount::of(&model);
    // SAFETY: plain system calls, on a process that this test has started.
    let signal = |number| assert_eq!(unsafe { libc::kill(mount.pid() as i32, number) }, 0);
    signal(libc::SIGSTOP);
    let output = mount.run(&["mount", mount.root().to_str().unwrap()]);
    signal(libc::SIGCONT);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert!(complaint.contains("mounted there already"), "{complaint}");
    assert_eq!(fs::read(mount.path("segments/a.wav")).unwrap(), b"here");
}
