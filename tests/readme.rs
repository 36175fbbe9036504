//! Does the README say what the program does? Settings and the fstab line are compared with the code; its
//! chart is drawn.

use std::io::Write;
use std::process::{Command, Stdio};

use quick_xml::events::Event;
use quick_xml::reader::Reader;
use voicebeatfs::config::{MountOptions, SETTINGS};

const README: &str = include_str!("../README.md");

/// Returns the cells of the rows whose first cell is a setting.
fn setting_rows() -> Vec<(&'static str, &'static str)> {
    let table = README
        .split("| setting |")
        .nth(1)
        .expect("a table of settings");
    let rows = table
        .lines()
        .skip(2)
        .take_while(|line| line.starts_with('|'));
    rows.map(|row| {
        let mut cells = row.split('|').skip(1).map(str::trim);
        let name = cells.next().unwrap().trim_matches('`');
        (name, cells.next().unwrap())
    })
    .collect()
}

#[test]
fn every_setting_is_in_the_table_with_its_default() {
    let rows = setting_rows();
    for setting in SETTINGS {
        let row = rows.iter().find(|(name, _)| *name == setting.name);
        let Some((_, shown)) = row else {
            panic!("README.md lacks the setting {}", setting.name)
        };
        if let Some(default) = setting.default {
            assert_eq!(
                shown.trim_matches('`'),
                default,
                "default of {}",
                setting.name
            );
        }
    }
    for (name, _) in rows {
        assert!(
            SETTINGS.iter().any(|s| s.name == name),
            "README.md makes up the setting {name}"
        );
    }
}

#[test]
fn the_fstab_line_is_understood() {
    let line = README
        .lines()
        .find(|line| line.contains(" fuse.voicebeatfs "))
        .expect("an fstab line");
    let fields: Vec<&str> = line.split_whitespace().collect();
    assert_eq!(fields.len(), 6, "{line}");
    let mut options = MountOptions::default();
    assert_eq!(options.add(fields[3], false), []);
    assert_eq!(options.env_file, Some("/etc/voicebeatfs.env".into()));
}

fn chart(figures: &str) -> String {
    let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/chart.py");
    let mut command = Command::new("python3");
    command
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped());
    let mut process = command.spawn().unwrap();
    let mut input = process.stdin.take().unwrap();
    input.write_all(figures.as_bytes()).unwrap();
    drop(input);
    let output = process.wait_with_output().unwrap();
    assert!(output.status.success());
    String::from_utf8(output.stdout).unwrap()
}

#[test]
fn the_chart_is_an_image_that_only_its_figures_change() {
    let figures = r#"{"title": "A & B", "note": "<n>", "sides": ["plain", "ours"], "rows": [
        {"name": "seeks", "values": [[1, "1 s"], [0.5, "2 s"]]},
        {"name": "saves", "values": [[1, "9 ms"], [40, "1 ms"]]}]}"#;
    let drawn = chart(figures);
    assert_eq!(drawn, chart(figures));
    let mut reader = Reader::from_str(&drawn);
    let (mut bars, mut texts) = (0, String::new());
    loop {
        match reader.read_event().expect("well-formed XML") {
            Event::Empty(element) if element.name().as_ref() == b"rect" => bars += 1,
            Event::Text(text) => texts.push_str(&text.decode().unwrap()),
            Event::Eof => break,
            _ => {}
        }
    }
    // The ground, the legend, the bars.
    assert_eq!(bars, 1 + 2 + 4, "{drawn}");
    assert!(texts.contains("2 s") && texts.contains("saves"), "{texts}");
    assert_ne!(drawn, chart(&figures.replace("0.5", "0.6")));
}
