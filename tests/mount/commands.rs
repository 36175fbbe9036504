//! Every command and subcommand of the binary, on a live mount: what it says to people, its document
//! for programs, and what it answers to wrong use. What each does in depth has tests of its own.

use std::collections::BTreeSet;
use std::fs;

use clap::{Command, CommandFactory};
use r2_model::R2Model;
use serde_json::Value;
use voicebeatfs::cli::Opts;

use crate::common::mount::{Mount, model_settings};

/// What one command has to do.
struct Row {
    /// Its words.
    command: &'static str,
    /// Arguments, and a part of what it then tells.
    human: (&'static [&'static str], &'static str),
    /// Arguments beside `--json`, and where the fields of the document stand.
    json: Option<(&'static [&'static str], &'static [&'static str])>,
    /// Arguments that are wrong, beside an option that nobody has.
    wrong: &'static [&'static [&'static str]],
    /// What has to be there first.
    before: fn(&Mount, &R2Model),
}

const NOTHING_BEFORE: fn(&Mount, &R2Model) = |_, _| {};

/// One row for each command, in an order in which they can follow each other.
const ROWS: &[Row] = &[
    Row {
        command: "validate",
        human: (&[], "rights:   list, read, write"),
        json: None,
        wrong: &[&["more"]],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "fstab",
        human: (&["mnt"], "/mnt fuse.voicebeatfs _netdev,nofail,"),
        json: None,
        wrong: &[&[], &["mnt", "--file", "f"], &["mnt", "-o", "sync_often"]],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "mount",
        human: (&["mnt"], ""),
        json: None,
        wrong: &[&[], &["mnt", "-o", "sync_often"]],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "status",
        human: (&["mnt"], "safe to shut down yes"),
        json: Some((
            &["--mountpoint", "mnt"],
            &[
                "/version",
                "/pid",
                "/mountpoint",
                "/backend",
                "/source",
                "/online",
                "/safe_to_shut_down",
                "/shutdown/files",
                "/shutdown/seconds_left",
                "/shutdown/reason",
                "/failure",
                "/cache/max_bytes",
                "/cache/hit_rate",
                "/warming/files",
                "/uploads/queued_bytes",
                "/uploads/oldest_seconds",
                "/uploads/paused",
                "/reads/requests",
                "/reads/passthrough_opens",
                "/open_files",
                "/conflicts",
                "/orphans",
                "/hidden",
                "/trash",
                "/alerts",
                "/operations/class_a",
                "/operations/received_bytes",
                "/operations/usd_per_month",
            ],
        )),
        wrong: &[
            &["mnt", "mnt"],
            &["--watch", "--json"],
            &["mnt", "--mountpoint", "mnt"],
        ],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "queue pause",
        human: (&[], "uploads are paused until"),
        json: Some((&[], &["/paused"])),
        wrong: &[&["more"]],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "queue",
        human: (&[], "segments/take.wav"),
        json: Some((&["--mountpoint", "mnt"], QUEUE)),
        wrong: &[&["flsuh"]],
        before: |mount, _| fs::write(mount.path("segments/take.wav"), "take").unwrap(),
    },
    Row {
        command: "queue list",
        human: (&[], "waiting  upload "),
        json: Some((&[], QUEUE)),
        wrong: &[&["more"]],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "queue retry",
        human: (&[], "0 tried again"),
        json: Some((&[], &["/retried"])),
        wrong: &[],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "queue confirm",
        human: (&[], "0 deletes go now"),
        json: Some((&[], &["/confirmed"])),
        wrong: &[],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "queue discard",
        human: (&[], "0 restored"),
        json: Some((&[], &["/restored", "/failed"])),
        wrong: &[],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "queue orphans",
        human: (&[], "  -> file (recovered "),
        json: Some((&[], &["/0/file", "/0/bytes", "/0/modified", "/0/name"])),
        wrong: &[&["more"]],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "queue adopt",
        human: (&["layers/found"], "1 restored"),
        json: Some((&[], &["/restored", "/failed"])),
        wrong: &[&["layers", "more"]],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "queue resume",
        human: (&[], "uploads go on"),
        json: Some((&[], &["/paused"])),
        wrong: &[&["more"]],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "queue flush",
        human: (&["--wait=60"], "everything asked for is in the bucket"),
        json: Some((&["segments"], &["/flushed"])),
        wrong: &[&["--wait=soon"]],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "cache pin",
        human: (&["layers/a.wav", "--wait"], "pin    layers/a.wav: "),
        json: Some((&["layers/b.wav", "--wait"], PIN)),
        wrong: &[&[], &["/elsewhere"]],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "cache ls",
        human: (&[], "pinned 100 %    3.0 KB"),
        json: Some((
            &["layers"],
            &[
                "/entries/0/path",
                "/entries/0/bytes",
                "/entries/0/held_bytes",
                "/entries/0/complete",
                "/entries/0/pinned",
                "/entries/0/used",
                "/left_out",
                "/pins/0/path",
                "/pins/0/failure",
            ],
        )),
        wrong: &[&["/elsewhere"]],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "cache warm",
        human: (&["layers"], "4 files, "),
        json: Some((
            &["layers/a.wav"],
            &["/files", "/bytes", "/held_files", "/held_bytes", "/failure"],
        )),
        wrong: &[&[]],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "cache unpin",
        human: (&["layers/a.wav"], "layers/a.wav"),
        json: Some((&["layers/b.wav"], &["/0"])),
        wrong: &[&[]],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "conflicts",
        human: (&["mnt"], "ours is kept as projects/song (conflict "),
        json: Some((&[], &["/0/path", "/0/copy", "/0/found_at"])),
        wrong: &[&["mnt", "mnt"]],
        before: |mount, model| {
            fs::read(mount.path("projects/song.rpp")).unwrap();
            mount.run(&["queue", "pause"]);
            fs::write(mount.path("projects/song.rpp"), "ours").unwrap();
            model.put("projects/song.rpp", "theirs");
            mount.run(&["queue", "resume"]);
            mount.wait_for("a conflict", |status| status["conflicts"] == 1);
        },
    },
    Row {
        command: "trash",
        human: (&[], "layers/a.wav"),
        json: Some((&[], TRASH)),
        wrong: &[&["lsit"]],
        before: |mount, _| {
            for name in ["layers/a.wav", "layers/b.wav"] {
                fs::remove_file(mount.path(name)).unwrap();
            }
        },
    },
    Row {
        command: "trash list",
        human: (&["layers/b.wav"], " deleted "),
        json: Some((&["layers"], TRASH)),
        wrong: &[&["/elsewhere"]],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "trash restore",
        human: (&["layers/a.wav"], "1 restored"),
        json: Some((
            &["layers/b.wav"],
            &["/restored/0/path", "/restored/0/restored_as", "/failed"],
        )),
        wrong: &[&[], &["/elsewhere"]],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "share",
        human: (&["layers/c.wav", "--for", "5m"], "/layers/c.wav?"),
        json: Some((&["layers/c.wav"], &["/path", "/url", "/until"])),
        wrong: &[&[], &["layers/c.wav", "--for", "8d"]],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "refresh",
        human: (&[], " folders listed anew"),
        json: Some((&["layers"], &["/listed", "/failed"])),
        wrong: &[],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "doctor",
        human: (&[], "settings in effect:"),
        json: Some((
            &["--speed"],
            &[
                "/version",
                "/speed/answer_ms",
                "/speed/slowest_answer_ms",
                "/speed/sent_bytes_per_second",
                "/speed/received_bytes_per_second",
                "/findings/0/level",
                "/findings/0/about",
                "/findings/0/text",
                "/findings/0/advice",
                "/settings/0/name",
                "/settings/0/value",
                "/settings/0/origin",
            ],
        )),
        wrong: &[&["--bundle"]],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "catalog build",
        human: (&[], "1 samples in "),
        json: None,
        wrong: &[&["more"]],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "catalog check",
        human: (&[], "is up to date: 1 samples"),
        json: Some((&[], &["/missing", "/changed", "/extra"])),
        wrong: &[&["more"]],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "catalog find",
        human: (&["--genre", "house"], "house/drums/kick.wav"),
        json: Some((&["--name", "kick"], &["/0/local_path", "/0/instrument"])),
        wrong: &[&[], &["--json"]],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "setup",
        human: (&["--upload-samples", "--dry-run"], "1 would be uploaded"),
        json: Some((&["--upload-samples"], COPIED)),
        wrong: &[&[], &["--dry-run"]],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "migrate",
        human: (&["--dry-run"], "1 would be uploaded"),
        json: Some((&[], COPIED)),
        wrong: &[&["--dry-run", "--delete-after-verify"]],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "completions",
        human: (&["bash"], "_voicebeatfs()"),
        json: None,
        wrong: &[&[], &["tcsh"]],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "man",
        human: (&[], ".SH \"STATUS\""),
        json: None,
        wrong: &[&["more"]],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "umount",
        human: (&["mnt", "--wait=60"], ""),
        json: None,
        wrong: &[&[], &["mnt", "--wait=soon"]],
        before: NOTHING_BEFORE,
    },
    Row {
        command: "purge",
        human: (&["--dry-run"], "staging would be removed"),
        json: Some((&[], &["/dry_run", "/removed/0"])),
        wrong: &[&["more"]],
        before: NOTHING_BEFORE,
    },
];

const QUEUE: &[&str] = &[
    "/entries/0/path",
    "/entries/0/operation",
    "/entries/0/state",
    "/entries/0/bytes",
    "/entries/0/sent_bytes",
    "/entries/0/waiting_seconds",
    "/entries/0/protected_seconds",
    "/entries/0/attempts",
    "/entries/0/reason",
    "/left_out",
];

const PIN: &[&str] = &[
    "/0/path",
    "/0/files",
    "/0/bytes",
    "/0/held_files",
    "/0/held_bytes",
    "/0/failure",
];

const TRASH: &[&str] = &[
    "/entries/0/path",
    "/entries/0/id",
    "/entries/0/why",
    "/entries/0/at",
    "/entries/0/bytes",
    "/entries/0/place",
    "/left_out",
    "/unlisted",
];

const COPIED: &[&str] = &[
    "/dry_run",
    "/uploaded/0",
    "/uploaded_bytes",
    "/same",
    "/differs",
    "/skipped",
    "/failed",
    "/deleted",
];

/// The machine that the rows run on: a bucket, a sample, a file of `OUTPUT_DIR`, and in the staging
/// directory two files that no record names.
fn machine(model: &R2Model) -> Mount {
    for (name, length) in [("a", 3000), ("b", 2000), ("c", 1000)] {
        model.put(&format!("layers/{name}.wav"), vec![1; length]);
    }
    model.put("projects/song.rpp", "first");
    let mut machine = Mount::prepare(&[("TRASH_COLLECTIONS", "layers")]);
    for (name, value) in model_settings(model) {
        machine.set(&name, &value);
    }
    for (path, text) in [
        ("samples/house/drums/kick.wav", "kick"),
        ("output/projects/old.mp3", "old"),
        ("staging/0123456789abcdef0123456789abcdef.staged", "one"),
    ] {
        let path = machine.beside(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }
    machine.set("FALLBACK_TO_LOCAL", "true");
    machine.write_env_file();
    machine
}

#[test]
fn every_command_works_tells_programs_and_refuses_wrong_use() {
    let model = R2Model::start();
    let machine = machine(&model);
    for row in ROWS {
        (row.before)(&machine, &model);
        for wrong in row.wrong {
            refuses(&machine, row.command, wrong);
        }
        refuses(&machine, row.command, &["--no-such-option"]);
        let (args, part) = row.human;
        let told = answers(&machine, row.command, args);
        assert!(told.contains(part), "{}: no {part} in: {told}", row.command);
        if let Some((args, fields)) = row.json {
            let args = [args, &["--json"]].concat();
            let told = answers(&machine, row.command, &args);
            has_fields(row.command, &told, fields);
        }
        let help = answers(&machine, row.command, &["--help"]);
        let usage = format!("Usage: voicebeatfs {}", row.command);
        assert!(help.contains(&usage), "{help}");
    }
}

/// Runs a command that has to succeed; returns what it tells.
fn answers(machine: &Mount, command: &str, args: &[&str]) -> String {
    let args: Vec<&str> = command.split(' ').chain(args.iter().copied()).collect();
    let output = machine.run(&args);
    let complaint = String::from_utf8_lossy(&output.stderr);
    // Other tests leave dead mounts for a moment, which the doctor finds.
    let is_fine = output.status.success()
        || (command == "doctor" && complaint.trim_end().ends_with("problems found"));
    assert!(is_fine, "{args:?}: {complaint}");
    String::from_utf8(output.stdout).unwrap()
}

fn refuses(machine: &Mount, command: &str, args: &[&str]) {
    let args: Vec<&str> = command.split(' ').chain(args.iter().copied()).collect();
    let output = machine.run(&args);
    let complaint = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(2), "{args:?}: {complaint}");
    assert!(output.stdout.is_empty(), "{args:?} tells something");
    let is_usage = complaint.contains(&format!("Usage: voicebeatfs {command}"));
    // What only the mount or the settings can know to be wrong is said in our own words.
    let is_ours = complaint.starts_with("voicebeatfs: ");
    assert!(is_usage || is_ours, "{args:?}: {complaint}");
    assert!(is_usage || args.last() != Some(&"--no-such-option"));
}

fn has_fields(command: &str, told: &str, fields: &[&str]) {
    let documented = include_str!("../../docs/formats.md");
    let document: Value = serde_json::from_str(told).expect(told);
    for field in fields {
        assert!(
            document.pointer(field).is_some(),
            "{command}: no {field} in {document:#}"
        );
        let name = field.rsplit('/').find(|name| name.parse::<u8>().is_err());
        let name = name.filter(|name| !name.is_empty());
        let is_documented = name.is_none_or(|name| {
            documented.contains(&format!("`{name}`"))
                || documented.contains(&format!("\"{name}\":"))
        });
        assert!(
            is_documented,
            "{command}: {field} is not in docs/formats.md"
        );
    }
}

/// The words of all commands that do something, and which of them have `--json`.
fn commands(command: &Command, words: &str, found: &mut Vec<(String, bool)>) {
    for subcommand in command.get_subcommands() {
        let name = subcommand.get_name();
        if name == "help" {
            continue;
        }
        let words = format!("{words} {name}").trim_start().to_owned();
        if !subcommand.is_subcommand_required_set() {
            let has_json = subcommand
                .get_arguments()
                .any(|arg| arg.get_long() == Some("json"));
            found.push((words.clone(), has_json));
        }
        commands(subcommand, &words, found);
    }
}

#[test]
fn every_command_has_a_row() {
    let mut tree = Opts::command();
    // Hands the options of a command down to what is below it.
    tree.build();
    let mut found = Vec::new();
    commands(&tree, "", &mut found);
    let known: BTreeSet<&str> = ROWS.iter().map(|row| row.command).collect();
    let there: BTreeSet<&str> = found.iter().map(|(words, _)| &words[..]).collect();
    assert_eq!(known, there);
    for (words, has_json) in &found {
        let row = ROWS.iter().find(|row| row.command == words);
        let tells_json = row.is_some_and(|row| row.json.is_some());
        assert_eq!(tells_json, *has_json, "{words} --json");
    }
}
