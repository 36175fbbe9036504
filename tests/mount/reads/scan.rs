//! Programs that look at a library without playing it: what they move, and that they move nothing
//! the second time.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use r2_model::{Operation, R2Model};

use super::gets;
use crate::common::mount::Mount;

const SIZE: u64 = 50_000_000;
/// Those that have all they tell at their head, or at both ends, where it is made up.
const HEADS: [&str; 4] = ["wav", "aiff", "flac", "mp3"];
/// Those that are held as they are, for their end counts.
const WHOLE: [(&str, &str); 2] = [("ogg", "flac"), ("m4a", "alac")];
/// What SoX reads without further packages.
const SOXI: [&str; 3] = ["wav", "aiff", "flac"];
/// How many of each.
const COPIES: usize = 2;
const MUTAGEN: &str = "import mutagen, sys\nassert mutagen.File(sys.argv[1]).info.length > 30";

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{command:?}: {said}");
}

/// Runs ffmpeg on noise, which nothing makes smaller.
fn encode(folder: &Path, seconds: &str, name: &str, codec: &[&str]) -> Vec<u8> {
    let noise = format!("anoisesrc=color=white:amplitude=1:sample_rate=96000:duration={seconds}");
    let path = folder.join(name);
    let mut ffmpeg = Command::new("ffmpeg");
    ffmpeg.args(["-v", "error", "-y", "-f", "lavfi", "-i", &noise]);
    run(ffmpeg.args(codec).arg(&path));
    fs::read(path).unwrap()
}

/// Fills a bucket with a library of files of 50 MB or a little more; returns their names.
fn library(model: &R2Model, folder: &Path) -> Vec<String> {
    let mut names = Vec::new();
    for copy in 0..COPIES {
        for kind in HEADS.iter().chain(WHOLE.map(|(kind, _)| kind).iter()) {
            names.push(format!("{kind}-{copy}.{kind}"));
        }
    }
    for kind in HEADS {
        let short = match kind {
            "mp3" => encode(folder, "40", "a.mp3", &["-ar", "44100", "-b:a", "320k"]),
            _ => encode(folder, "280", &format!("a.{kind}"), &[]),
        };
        let head = short[..1 << 20].to_vec();
        for name in names.iter().filter(|name| name.starts_with(kind)) {
            model.put_generated_behind(&format!("layers/{name}"), head.clone(), SIZE);
        }
    }
    for (kind, codec) in WHOLE {
        let bytes = bytes::Bytes::from(encode(
            folder,
            "280",
            &format!("a.{kind}"),
            &["-c:a", codec],
        ));
        assert!(bytes.len() as u64 > SIZE);
        for name in names.iter().filter(|name| name.starts_with(kind)) {
            model.put(&format!("layers/{name}"), bytes.clone());
        }
    }
    names
}

/// Looks at each file with each program, as a user does who scans a folder with one after the other.
fn scan(mount: &Mount, names: &[String]) {
    let paths: Vec<PathBuf> = names
        .iter()
        .map(|name| mount.path("layers").join(name))
        .collect();
    let python = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/bin/python");
    for path in &paths {
        if SOXI.iter().any(|kind| path.extension().unwrap() == *kind) {
            run(Command::new("soxi").arg(path));
        }
        run(Command::new("ffprobe")
            .args(["-v", "error", "-show_format", "-show_streams"])
            .arg(path));
        run(Command::new(&python).args(["-c", MUTAGEN]).arg(path));
    }
    // It looks at the beginning, and goes on only where that is text.
    let mut grep = Command::new("grep");
    let found = grep
        .args(["-rIl", "no such words"])
        .arg(mount.path("layers"))
        .status()
        .unwrap();
    assert_eq!(found.code(), Some(1), "grep has found something, or failed");
}

#[test]
fn a_scan_moves_headers_and_a_second_one_nothing() {
    let model = R2Model::start();
    let folder = tempfile::tempdir().unwrap();
    let names = library(&model, folder.path());
    let mut mount = Mount::of(&model);
    scan(&mount, &names);
    let asked: u64 = gets(&model).iter().map(|(_, length)| length).sum();
    let library = SIZE * names.len() as u64;
    println!("figures: {asked} bytes in {} requests", gets(&model).len());
    assert!(
        asked < library / 100,
        "{asked} of {library}: {:?}",
        gets(&model)
    );
    assert!(gets(&model).len() <= 3 * names.len(), "{:?}", gets(&model));

    model.clear_requests();
    scan(&mount, &names);
    assert!(model.requests().is_empty(), "{:?}", model.requests());

    mount.unmount();
    mount.mount();
    model.clear_requests();
    scan(&mount, &names);
    let requests = model.requests();
    let read = requests
        .iter()
        .any(|request| request.operation == Operation::GetObject);
    assert!(!read, "{requests:?}");
}
