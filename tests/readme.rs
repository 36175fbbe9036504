//! Does the README say what the program does? Settings and the fstab line are compared with the code.

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
