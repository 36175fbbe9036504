//! `voicebeatfs fstab`: the line that mounts at every start.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use clap::Args;

use super::mount::parse_options;
use super::{Failure, complain, say};
use crate::config::{Config, Inputs};
use crate::disk;
use crate::mount::mountinfo::FILESYSTEM_TYPE;

/// The arguments of `fstab`.
#[derive(Debug, Args)]
pub struct FstabArgs {
    /// The folder to mount on.
    pub mountpoint: PathBuf,
    /// Further mount options, separated by commas.
    #[arg(short = 'o', value_name = "OPTS")]
    pub options: Vec<String>,
    /// Adds the line, in place of printing it.
    #[arg(long)]
    pub install: bool,
    /// The file that --install adds to.
    #[arg(
        long,
        value_name = "FILE",
        default_value = "/etc/fstab",
        requires = "install"
    )]
    pub file: PathBuf,
}

/// What every line begins with: mounted once the network is there, no reason to stop the start of
/// the machine, for all its users.
const USUAL_OPTIONS: [&str; 3] = ["_netdev", "nofail", "allow_other"];

/// Mounted when somebody first looks; unmounted after the queue had its time to go up
/// (`packaging/voicebeatfs-drain.service`, where it is installed).
const SYSTEMD: [&str; 2] = [
    "x-systemd.automount",
    "x-systemd.before=voicebeatfs-drain.service",
];

/// Runs `voicebeatfs fstab`.
pub fn run(args: &FstabArgs, env_file: Option<PathBuf>) -> Result<(), Failure> {
    let mountpoint = std::path::absolute(&args.mountpoint)
        .map_err(|error| Failure::Usage(format!("{}: {error}", args.mountpoint.display())))?;
    let line = line(&mountpoint, &args.options, env_file)?;
    if !args.install {
        return say(&line);
    }
    if !mountpoint.is_dir() {
        let shown = mountpoint.display();
        let text = format!("{shown} is not a folder: make it first, with mkdir -p {shown}");
        return Err(Failure::Failed(text));
    }
    let file = args.file.display();
    match install(&args.file, &line)? {
        Installed::Before => say(&format!("{file} has that line already")),
        Installed::Now => say(&format!(
            "added to {file}; now: systemctl daemon-reload, then mount {}",
            mountpoint.display()
        )),
    }
}

/// Returns the line, of settings that work where it will be read: as root, without an environment.
fn line(
    mountpoint: &Path,
    options: &[String],
    env_file: Option<PathBuf>,
) -> Result<String, Failure> {
    let parsed = parse_options(options, false)?;
    let mut inputs = Inputs {
        env_file: env_file.or_else(|| parsed.env_file.clone()),
        environment: BTreeMap::new(),
        options: parsed.settings.clone(),
        mountpoint: Some(mountpoint.into()),
        uid: 0,
        ..Inputs::from_process()
    };
    let source = Config::load(&inputs)?.source();
    inputs.source = Some(source.clone());
    let config = Config::load(&inputs)?;
    complain(&config.warnings.join("\n"));
    let mut all: Vec<String> = USUAL_OPTIONS.map(String::from).into();
    if let Some(path) = &config.env_file
        && parsed.env_file.is_none()
    {
        all.push(format!("env_file={}", quoted(&path.display().to_string())));
    }
    all.extend(SYSTEMD.map(String::from));
    all.extend(options.iter().filter(|text| !text.is_empty()).cloned());
    Ok(format!(
        "{} {} {FILESYSTEM_TYPE} {} 0 0",
        escaped(&source),
        escaped(&mountpoint.display().to_string()),
        escaped(&all.join(","))
    ))
}

/// A comma within quotes belongs to the value, for mount(8) as well as for us.
fn quoted(value: &str) -> String {
    match value.contains(',') {
        true => format!("\"{value}\""),
        false => value.into(),
    }
}

/// Writes a field as fstab(5) has it: blanks would end it, and a `#` might begin a comment.
fn escaped(field: &str) -> String {
    let mut text = String::new();
    for c in field.chars() {
        match c {
            ' ' | '\t' | '\n' | '\\' | '#' => text.push_str(&format!("\\{:03o}", u32::from(c))),
            c => text.push(c),
        }
    }
    text
}

/// Whether the line was there already.
#[derive(Debug, PartialEq, Eq)]
enum Installed {
    Before,
    Now,
}

/// Adds the line to `file`, which keeps its mode. Another line for the same folder stays, and is an
/// error: which of the two is meant only the administrator knows.
fn install(file: &Path, line: &str) -> Result<Installed, Failure> {
    let failed = |error: io::Error| Failure::Failed(format!("{}: {error}", file.display()));
    // Where a link leads: the link itself is to stay.
    let file = &match file.canonicalize() {
        Ok(real) => real,
        Err(error) if error.kind() == io::ErrorKind::NotFound => file.to_path_buf(),
        Err(error) => return Err(failed(error)),
    };
    let mut text = match std::fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(failed(error)),
    };
    let mountpoint = |line: &str| line.split_whitespace().nth(1).map(str::to_string);
    for (number, present) in text.lines().enumerate() {
        let is_comment = present.trim_start().starts_with('#');
        if is_comment || mountpoint(present) != mountpoint(line) {
            continue;
        }
        if present.split_whitespace().eq(line.split_whitespace()) {
            return Ok(Installed::Before);
        }
        let shown = file.display();
        let number = number + 1;
        return Err(Failure::Failed(format!(
            "{shown}:{number} mounts something there already, change it by hand:\n{present}"
        )));
    }
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(line);
    text.push('\n');
    let mode = std::fs::metadata(file).map_or(0o644, |metadata| metadata.permissions().mode());
    disk::write_atomic_with(file, |writer| {
        io::Write::write_all(writer, text.as_bytes())?;
        let permissions = std::fs::Permissions::from_mode(mode & 0o7777);
        writer.get_ref().set_permissions(permissions)
    })
    .map_err(failed)?;
    Ok(Installed::Now)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::MountOptions;

    #[test]
    fn fields_are_written_as_fstab_reads_them() {
        assert_eq!(escaped("/mnt/my band#1\\"), "/mnt/my\\040band\\0431\\134");
        let mut options = MountOptions::default();
        let text = format!("env_file={}", quoted("/etc/a,b"));
        assert_eq!(options.add(&text, false), []);
        assert_eq!(options.env_file, Some("/etc/a,b".into()));
    }

    #[test]
    fn a_line_is_added_once_and_never_beside_another_of_its_folder() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("fstab");
        let link = folder.path().join("link");
        std::os::unix::fs::symlink("fstab", &link).unwrap();
        std::fs::write(&file, "# /mnt/v\nUUID=1 / ext4 defaults 0 1").unwrap();
        let mode = std::fs::Permissions::from_mode(0o640);
        std::fs::set_permissions(&file, mode).unwrap();
        let line = "b /mnt/v fuse.voicebeatfs nofail 0 0";
        assert_eq!(install(&link, line), Ok(Installed::Now));
        assert_eq!(
            std::fs::read_to_string(&file).unwrap(),
            format!("# /mnt/v\nUUID=1 / ext4 defaults 0 1\n{line}\n")
        );
        let mode = std::fs::metadata(&file).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o640);
        assert!(link.is_symlink());
        let spaced = "b  /mnt/v\tfuse.voicebeatfs nofail 0 0";
        assert_eq!(install(&file, spaced), Ok(Installed::Before));
        let Err(Failure::Failed(text)) = install(&file, "c /mnt/v fuse.voicebeatfs nofail 0 0")
        else {
            panic!("a second line for the folder was added")
        };
        assert!(text.contains(":3 mounts something there"), "{text}");
    }
}
