//! Programs that look at a library without playing it: what they move, and that they move nothing
//! the second time.

use std::fs;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use r2_model::{Operation, R2Model, generated_bytes};

use super::gets;
use crate::common::mount::Mount;
use crate::crash::random::Random;

const SIZE: u64 = 50_000_000;
/// What follows a damaged head.
const REST: u64 = 6_000_000;
/// Those that have all they tell at their head, or at both ends, where it is made up.
const HEADS: [&str; 4] = ["wav", "aiff", "flac", "mp3"];
/// Those that are held as they are, for their end counts.
const WHOLE: [(&str, &str); 2] = [("ogg", "flac"), ("m4a", "alac")];
/// What SoX reads without further packages.
const SOXI: [&str; 3] = ["wav", "aiff", "flac"];
const MUTAGEN: &str = "import mutagen, sys\nassert mutagen.File(sys.argv[1]).info.length > 30";

fn run(command: &mut Command) {
    let output = command.stdin(Stdio::null()).output();
    let output = output.unwrap_or_else(|error| {
        panic!("{command:?}: {error}: scripts/test installs what is missing")
    });
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
    let kinds = HEADS.iter().chain(WHOLE.iter().map(|(kind, _)| kind));
    let names = kinds.map(|kind| format!("a.{kind}")).collect();
    for kind in HEADS {
        let short = match kind {
            "mp3" => encode(folder, "40", "a.mp3", &["-ar", "44100", "-b:a", "320k"]),
            _ => encode(folder, "280", &format!("a.{kind}"), &[]),
        };
        let head = short[..1 << 20].to_vec();
        model.put_generated_behind(&format!("layers/a.{kind}"), head, SIZE);
    }
    for (kind, codec) in WHOLE {
        let bytes = bytes::Bytes::from(encode(
            folder,
            "280",
            &format!("a.{kind}"),
            &["-c:a", codec],
        ));
        assert!(bytes.len() as u64 > SIZE);
        model.put(&format!("layers/a.{kind}"), bytes);
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
fn a_look_at_the_first_megabyte_brings_seconds_of_sound_and_not_the_file() {
    let model = R2Model::start();
    let mut head = b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0\x02\0".to_vec();
    head.extend(48_000_u32.to_le_bytes());
    head.extend(288_000_u32.to_le_bytes());
    head.extend(b"\x06\0\x18\0data");
    head.extend((SIZE as u32).to_le_bytes());
    model.put_generated_behind("layers/take.wav", head, SIZE);
    let mount = Mount::of(&model);
    let file = fs::File::open(mount.path("layers/take.wav")).unwrap();
    for at in (0..1 << 20).step_by(64 << 10) {
        file.read_exact_at(&mut [0; 64 << 10], at).unwrap();
    }
    drop(file);
    let asked: u64 = gets(&model).iter().map(|(_, length)| length).sum();
    assert!(asked < 5 << 20, "{asked}: {:?}", gets(&model));
}

#[test]
fn damaged_files_of_each_format_are_served_like_any_file() {
    let model = R2Model::start();
    let mut random = Random::new(20_261_125);
    let mut library = Vec::new();
    for (number, head) in damaged_heads(&mut random).into_iter().enumerate() {
        let key = format!("layers/damaged-{number}.wav");
        model.put_generated_behind(&key, head.clone(), REST);
        library.push((key, head));
    }
    let mount = Mount::of(&model);
    for (key, head) in &library {
        let file = fs::File::open(mount.path(key)).unwrap();
        let size = head.len() as u64 + REST;
        assert_eq!(file.metadata().unwrap().len(), size);
        let places = [
            0,
            size - 200,
            size / 2,
            size - 70_000,
            380 << 10,
            random.below(size),
        ];
        for at in places {
            let length = (size - at).min(150_000) as usize;
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, at).unwrap();
            assert!(bytes == expected(key, head, at, length), "{key} at {at}");
        }
        // And in order, past what a header may have claimed to be tables.
        for at in (0..3 << 20).step_by(128 << 10) {
            let mut bytes = vec![0; 128 << 10];
            file.read_exact_at(&mut bytes, at).unwrap();
            assert!(
                bytes == expected(key, head, at, bytes.len()),
                "{key} at {at}"
            );
        }
    }
}

/// Returns what a file holds: its head, and generated bytes behind it.
fn expected(key: &str, head: &[u8], at: u64, length: usize) -> Vec<u8> {
    let from_head = head.get(at as usize..).unwrap_or(&[]);
    let from_head = &from_head[..from_head.len().min(length)];
    let offset = at.saturating_sub(head.len() as u64);
    let rest = generated_bytes(key, offset, length - from_head.len());
    [from_head, &rest].concat()
}

/// Returns heads of each format whose numbers claim anything.
fn damaged_heads(random: &mut Random) -> Vec<Vec<u8>> {
    let starts: [&[u8]; 9] = [
        b"RIFF\xff\xff\xff\xffWAVEfmt \x10\0\0\0\x01\0\x02\0\x80\xbb\0\0\0\x65\x04\0\x06\0\x18\0data",
        b"RF64\xff\xff\xff\xffWAVEds64\x1c\0\0\0",
        b"BW64\xff\xff\xff\xffWAVEds64\x1c\0\0\0",
        b"FORM\0\0\0\0AIFFCOMM\0\0\0\x12\0\x02",
        b"fLaC\0\0\0\x22\x10\0\x10\0",
        b"ID3\x04\0\0\x7f\x7f\x7f\x7f",
        b"\xff\xfb\xe4\0",
        b"OggS\0\x02\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x01\x1e\x01vorbis",
        b"\0\0\0\x10ftypM4A \0\0\0\0\0\0\0\x01mdat",
    ];
    let damaged = starts.iter().flat_map(|start| [(start, 2000), (start, 40)]);
    damaged
        .map(|(start, noise)| {
            let mut head = start.to_vec();
            head.extend((0..noise).map(|_| random.below(256) as u8));
            head
        })
        .collect()
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
