//! ffmpeg, SoX, flac: write with one, read with another.

use std::fs;
use std::path::Path;

use super::{Studio, run};

const FFMPEG: [&str; 3] = ["-v", "error", "-y"];
/// No version numbers and no random serial numbers in what is written, so that two runs are equal.
const SAME_BYTES: [&str; 4] = ["-fflags", "+bitexact", "-flags:a", "+bitexact"];

fn ffmpeg(args: &[&str], folder: &Path) {
    run("ffmpeg", &[&FFMPEG[..], args].concat(), folder);
}

fn encode(from: &str, to: &str, how: &[&str], folder: &Path) {
    ffmpeg(&[&["-i", from], how, &SAME_BYTES, &[to]].concat(), folder);
}

fn seconds(path: &str, folder: &Path) -> f64 {
    let args = [
        "-v",
        "error",
        "-show_entries",
        "format=duration",
        "-of",
        "csv=p=0",
        path,
    ];
    run("ffprobe", &args, folder).trim().parse().unwrap()
}

fn decodes_without_error(path: &str, folder: &Path) {
    let args = ["-v", "error", "-xerror", "-i", path, "-f", "null", "-"];
    run("ffmpeg", &args, folder);
}

#[test]
fn ffmpeg_writes_what_others_read() {
    let mut studio = Studio::open();
    for folder in studio.both() {
        let sine = [
            "-f",
            "lavfi",
            "-i",
            "sine=frequency=220:duration=3:sample_rate=48000",
        ];
        ffmpeg(
            &[&sine[..], &SAME_BYTES, &["segments/take.wav"]].concat(),
            &folder,
        );
        encode("segments/take.wav", "layers/take.flac", &[], &folder);
        encode(
            "segments/take.wav",
            "projects/mix_1.mp3",
            &["-b:a", "192k"],
            &folder,
        );
        // It moves the index to the front: reads and rewrites its own output while it is open.
        let faststart = ["-c:a", "aac", "-movflags", "+faststart"];
        encode(
            "segments/take.wav",
            "projects/mix_1.m4a",
            &faststart,
            &folder,
        );
        // A playlist that is replaced by rename at each segment.
        fs::create_dir(folder.join("projects/hls")).unwrap();
        let hls = [
            "-c:a",
            "aac",
            "-f",
            "hls",
            "-hls_time",
            "0.5",
            "-hls_list_size",
            "0",
        ];
        encode("segments/take.wav", "projects/hls/mix.m3u8", &hls, &folder);
    }
    for again in [false, true] {
        if again {
            studio.start_again_from_the_bucket();
        }
        for collection in ["segments", "layers", "projects"] {
            studio.assert_same(collection);
        }
        let root = studio.mount.root();
        assert_eq!(
            run("soxi", &["-s", "segments/take.wav"], &root).trim(),
            "144000"
        );
        assert_eq!(
            run("soxi", &["-r", "layers/take.flac"], &root).trim(),
            "48000"
        );
        run("flac", &["--silent", "--test", "layers/take.flac"], &root);
        for path in [
            "projects/mix_1.mp3",
            "projects/mix_1.m4a",
            "projects/hls/mix.m3u8",
        ] {
            decodes_without_error(path, &root);
            assert!((seconds(path, &root) - 3.0).abs() < 0.1, "{path}");
        }
    }
    let wav = studio.model.get("segments/take.wav").unwrap();
    assert_eq!(
        wav.bytes,
        fs::read(studio.plain("segments/take.wav")).unwrap()
    );
}

#[test]
fn sox_patches_its_header_at_the_end_and_others_read_it() {
    let mut studio = Studio::open();
    for folder in studio.both() {
        // The length is not known before the end: the header is written twice.
        let synth = [
            "-D",
            "-n",
            "-r",
            "44100",
            "-b",
            "24",
            "-c",
            "2",
            "segments/chord.wav",
            "synth",
            "2",
            "sine",
            "220",
            "sine",
            "330",
        ];
        run("sox", &synth, &folder);
        let effects = [
            "-D",
            "segments/chord.wav",
            "layers/slow.au",
            "tempo",
            "0.5",
            "gain",
            "-3",
        ];
        run("sox", &effects, &folder);
        run(
            "flac",
            &["--silent", "-o", "layers/chord.flac", "segments/chord.wav"],
            &folder,
        );
        // A tag edit makes the file anew, or rewrites its beginning if there is room.
        run(
            "metaflac",
            &["--set-tag=TITLE=Chord", "layers/chord.flac"],
            &folder,
        );
        run(
            "metaflac",
            &["--add-padding=70000", "layers/chord.flac"],
            &folder,
        );
    }
    for again in [false, true] {
        if again {
            studio.start_again_from_the_bucket();
        }
        for collection in ["segments", "layers"] {
            studio.assert_same(collection);
        }
        let root = studio.mount.root();
        assert!((seconds("segments/chord.wav", &root) - 2.0).abs() < 0.001);
        assert!((seconds("layers/slow.au", &root) - 4.0).abs() < 0.001);
        for path in ["segments/chord.wav", "layers/slow.au", "layers/chord.flac"] {
            decodes_without_error(path, &root);
        }
        let title = run(
            "metaflac",
            &["--show-tag=TITLE", "layers/chord.flac"],
            &root,
        );
        assert_eq!(title, "TITLE=Chord\n");
    }
}

#[test]
fn a_sample_is_mixed_with_a_recording_that_only_the_bucket_has() {
    let studio = Studio::open();
    let sine = [
        "-D", "-n", "-r", "44100", "-b", "16", "sine.wav", "synth", "1", "sine", "440",
    ];
    run("sox", &sine, &studio.plain(""));
    let recording = fs::read(studio.plain("sine.wav")).unwrap();
    studio.model.put("segments/theirs.wav", recording);
    let kick = concat!(env!("CARGO_MANIFEST_DIR"), "/samples/house/kick/deep.wav");
    fs::create_dir_all(studio.mount.beside("samples/house/kick")).unwrap();
    fs::copy(kick, studio.mount.beside("samples/house/kick/deep.wav")).unwrap();
    let root = studio.mount.root();
    let mix = [
        "-D",
        "-m",
        "samples/house/kick/deep.wav",
        "segments/theirs.wav",
        "layers/mix.wav",
    ];
    run("sox", &mix, &root);
    let plain = studio.plain("mix.wav");
    let mix = ["-D", "-m", kick, "sine.wav", "mix.wav"];
    run("sox", &mix, &studio.plain(""));
    assert_eq!(
        fs::read(root.join("layers/mix.wav")).unwrap(),
        fs::read(&plain).unwrap()
    );
    studio.mount.wait_uploaded();
    let keys = studio.model.keys();
    assert_eq!(keys, ["layers/mix.wav", "segments/theirs.wav"]);
    assert_eq!(
        studio.model.get("layers/mix.wav").unwrap().bytes,
        fs::read(plain).unwrap()
    );
}

#[test]
fn lame_id3v2_and_libsndfile_write_and_edit_in_place() {
    let mut studio = Studio::open();
    for folder in studio.both() {
        let tone = ["-R", "-n", "-r", "48000", "-b", "24", "segments/take.wav"];
        run(
            "sox",
            &[&tone[..], &["synth", "2", "sine", "220"]].concat(),
            &folder,
        );
        let aiff = ["segments/take.wav", "layers/take.aiff"];
        run("sndfile-convert", &aiff, &folder);
        // It goes back to the start for its frame of lengths when all is written.
        let lame = [
            "--quiet",
            "-V",
            "2",
            "segments/take.wav",
            "projects/mix.mp3",
        ];
        run("lame", &lame, &folder);
        let tags = ["-2", "-a", "Ensemble", "-t", "Take", "projects/mix.mp3"];
        run("id3v2", &tags, &folder);
        fs::copy(
            folder.join("projects/mix.mp3"),
            folder.join("layers/bare.mp3"),
        )
        .unwrap();
        // The whole file is moved forward and cut.
        run("id3v2", &["-D", "layers/bare.mp3"], &folder);
        run(
            "gio",
            &["copy", "projects/mix.mp3", "rhythms/copy.mp3"],
            &folder,
        );
        run(
            "gio",
            &["rename", "rhythms/copy.mp3", "renamed.mp3"],
            &folder,
        );
        run(
            "gio",
            &["move", "rhythms/renamed.mp3", "layers/moved.mp3"],
            &folder,
        );
    }
    for again in [false, true] {
        if again {
            studio.start_again_from_the_bucket();
        }
        for collection in ["segments", "layers", "projects", "rhythms"] {
            studio.assert_same(collection);
        }
        let root = studio.mount.root();
        assert!(run("id3v2", &["-l", "projects/mix.mp3"], &root).contains("Ensemble"));
        assert!(run("id3v2", &["-l", "layers/bare.mp3"], &root).contains("No ID3"));
        decodes_without_error("layers/moved.mp3", &root);
        assert_eq!(run("soxi", &["-b", "layers/take.aiff"], &root).trim(), "24");
    }
}
