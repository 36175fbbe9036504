//! The machine: kernel, FUSE, the right to mount, passthrough, the log.

use std::path::Path;

use super::Finding;
use crate::config::Config;

/// The first kernel with FUSE passthrough.
const PASSTHROUGH_SINCE: (u32, u32) = (6, 9);

pub(super) fn findings(config: Option<&Config>) -> Vec<Finding> {
    let release = rustix::system::uname();
    let release = release.release().to_string_lossy().into_owned();
    let is_root = rustix::process::geteuid().is_root();
    let mut findings = vec![Finding::good("kernel", format!("Linux {release}"))];
    findings.push(device());
    if !is_root {
        findings.extend(as_a_user());
    }
    let wanted = config.is_none_or(|config| config.passthrough);
    findings.push(passthrough(&release, is_root, wanted));
    findings.extend(log(config));
    findings
}

fn device() -> Finding {
    let opened = std::fs::File::options()
        .read(true)
        .write(true)
        .open("/dev/fuse");
    match opened {
        Ok(_) => Finding::good("fuse", "/dev/fuse can be opened"),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Finding::problem(
            "fuse",
            "there is no /dev/fuse",
            "modprobe fuse; a container needs --device /dev/fuse --cap-add SYS_ADMIN",
        ),
        Err(error) => Finding::problem(
            "fuse",
            format!("/dev/fuse cannot be opened: {error}"),
            "chmod 666 /dev/fuse (its usual mode); a container needs the device allowed",
        ),
    }
}

fn as_a_user() -> Vec<Finding> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).any(|folder| folder.join("fusermount3").exists());
    let helper = match found {
        true => Finding::good("fuse", "fusermount3 is there"),
        false => Finding::problem(
            "fuse",
            "fusermount3 is not on the PATH",
            "install the package fuse3: without it only root mounts",
        ),
    };
    let conf = std::fs::read_to_string("/etc/fuse.conf").unwrap_or_default();
    let others = match conf.lines().any(|line| line.trim() == "user_allow_other") {
        true => Finding::good("fuse", "users may mount for others (allow_other)"),
        false => Finding::warning(
            "fuse",
            "users may not mount for others",
            "if that is wanted: the line user_allow_other in /etc/fuse.conf",
        ),
    };
    vec![helper, others]
}

fn passthrough(release: &str, is_root: bool, wanted: bool) -> Finding {
    let good = |text: &str| Finding::good("speed", text);
    match () {
        () if !wanted => good("kernel passthrough is switched off by PASSTHROUGH"),
        () if !has_passthrough(release) => Finding::warning(
            "speed",
            "this kernel has no passthrough: cached files are read through this program",
            "Linux 6.9 or newer reads them at the speed of the disk",
        ),
        () if !is_root => Finding::warning(
            "speed",
            "no kernel passthrough: the kernel gives it to root only",
            "mount as root (fstab or the unit) if reads are too slow",
        ),
        () => good("the kernel can pass reads of cached files through"),
    }
}

/// Reads the version that a release of the kernel begins with.
fn has_passthrough(release: &str) -> bool {
    let mut numbers = release.split(['.', '-']).map(|part| part.parse::<u32>());
    match (numbers.next(), numbers.next()) {
        (Some(Ok(major)), Some(Ok(minor))) => (major, minor) >= PASSTHROUGH_SINCE,
        _ => false,
    }
}

fn log(config: Option<&Config>) -> Option<Finding> {
    let config = config?;
    Some(match &config.log_file {
        Some(file) => Finding::good("log", format!("goes to {}", file.display())),
        None if Path::new("/dev/log").exists() => Finding::good("log", "goes to the system log"),
        None => Finding::warning(
            "log",
            "this machine has no system log (/dev/log)",
            "set LOG_FILE, or what a mount in the background says is lost",
        ),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_kernels_version_decides() {
        for release in ["6.9.0", "6.18.5-amd64", "7.0-rc1", "10.1"] {
            assert!(has_passthrough(release), "{release}");
        }
        for release in ["6.8.12", "5.15.0-91-generic", "6", "odd", ""] {
            assert!(!has_passthrough(release), "{release}");
        }
    }

    #[test]
    fn no_passthrough_has_its_reason() {
        for (release, is_root, wanted, part) in [
            ("6.1.0", true, true, "this kernel"),
            ("6.18.0", false, true, "root only"),
            ("6.18.0", true, false, "switched off"),
            ("6.18.0", true, true, "can pass"),
        ] {
            let finding = passthrough(release, is_root, wanted);
            assert!(finding.text.contains(part), "{finding:?}");
        }
    }
}
