//! Who may call whom: reads the sources and fails on a dependency that points upwards, on a foreign crate
//! outside the module that owns it, on a file that has grown too long, and on unfinished code.
//!
//! The order is described in `docs/architecture.md`; change both together.

use std::fmt;
use std::path::{Path, PathBuf};

/// Each module of the crate, and the modules that it may use. `metrics` is open to all.
const LAYERS: &[(&str, &str)] = &[
    ("main", "cli config mount error"),
    (
        "cli",
        "config mount catalog fuse uploader control fs cache staging error store sqlite disk clock",
    ),
    (
        "mount",
        "config fuse uploader control fs cache staging error store sqlite disk clock",
    ),
    ("fuse", "fs cache staging error store disk clock config"),
    ("uploader", "fs cache staging error store disk clock config"),
    ("control", "fs cache staging error store disk clock config"),
    (
        "fs",
        "cache staging project error store sqlite disk clock config",
    ),
    ("cache", "audio error store sqlite disk clock config"),
    ("staging", "error store sqlite disk clock config"),
    // The errno table turns a store's errors into a file operation's, so it lies above the store.
    ("error", "store"),
    ("store", "disk clock config"),
    ("catalog", "disk clock"),
    // Plain data that every layer may be built from, so it uses nothing that uses it.
    ("config", "disk clock"),
    ("sqlite", "disk clock"),
    // These two use nothing, so that a fuzzer builds them alone.
    ("audio", ""),
    ("project", ""),
    ("disk", ""),
    ("clock", ""),
    ("metrics", "clock"),
    ("lib", ""),
];

/// What every module may use.
const OPEN_TO_ALL: &str = "metrics";

/// Foreign crates (by the beginning of their name) and the beginnings of the paths that may name them.
const OWNERS: &[(&str, &[&str])] = &[
    ("aws_", &["src/store/r2"]),
    ("hyper_rustls", &["src/store/r2"]),
    // What a file of certificates holds is checked with the settings.
    ("rustls", &["src/store/r2", "src/config/route.rs"]),
    ("quick_xml", &["src/project"]),
    ("flate2", &["src/project"]),
    ("fuser", &["src/fuse.rs", "src/fuse/", "src/mount"]),
    (
        "rusqlite",
        &["src/cache/index", "src/staging/journal", "src/sqlite.rs"],
    ),
];

/// A file longer than this is two files.
const MAX_LINES: usize = 600;

/// Macros that mark unfinished code.
const UNFINISHED: &[&str] = &["todo", "unimplemented", "dbg"];

#[test]
fn the_sources_keep_to_the_layers() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    rust_files(&root.join("src"), &mut files);
    assert!(!files.is_empty(), "no sources found");
    let mut breaches = Vec::new();
    for file in &files {
        let path = file.strip_prefix(root).unwrap().to_str().unwrap();
        breaches.extend(check(path, &std::fs::read_to_string(file).unwrap()));
    }
    let list: Vec<String> = breaches.iter().map(Breach::to_string).collect();
    assert!(
        list.is_empty(),
        "{} breaches:\n{}",
        list.len(),
        list.join("\n")
    );
}

fn rust_files(folder: &Path, files: &mut Vec<PathBuf>) {
    let mut entries: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    entries.sort();
    for path in entries {
        if path.is_dir() {
            rust_files(&path, files);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            files.push(path);
        }
    }
}

#[derive(Debug)]
struct Breach {
    path: String,
    line: usize,
    what: String,
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}: {}", self.path, self.line, self.what)
    }
}

/// Returns every breach in one file; `path` is relative to the package.
fn check(path: &str, source: &str) -> Vec<Breach> {
    let mut breaches = Vec::new();
    let mut report = |line, what| {
        breaches.push(Breach {
            path: path.to_owned(),
            line,
            what,
        })
    };
    let module = top_module(path);
    let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| *name == module) else {
        let what = format!("module `{module}` has no place among the layers of tests/layering.rs");
        report(1, what);
        return breaches;
    };
    let lines = source.lines().count();
    if lines > MAX_LINES {
        report(
            MAX_LINES + 1,
            format!("{lines} lines, where {MAX_LINES} are allowed"),
        );
    }
    let tokens = tokens(source);
    for (line, used) in used_modules(&tokens, module_depth(path)) {
        let known = LAYERS.iter().any(|(name, _)| *name == used);
        if known && used != module && used != OPEN_TO_ALL && !allowed.split(' ').any(|m| m == used)
        {
            report(line, format!("`{module}` may not use `{used}`"));
        }
    }
    for pair in tokens.windows(2) {
        let (name, next) = (pair[0].text.as_str(), pair[1].text.as_str());
        let before_path = next == "::";
        if UNFINISHED.contains(&name) && next == "!" {
            report(pair[0].line, format!("unfinished: `{name}!`"));
        }
        for (foreign, owners) in OWNERS {
            let named = name == *foreign || (foreign.ends_with('_') && name.starts_with(foreign));
            if named && before_path && !owners.iter().any(|owner| path.starts_with(owner)) {
                report(
                    pair[0].line,
                    format!("only {} may name `{name}`", owners.join(", ")),
                );
            }
        }
    }
    breaches
}

/// Returns the module directly below the crate that a file belongs to.
fn top_module(path: &str) -> &str {
    let below = path.strip_prefix("src/").unwrap_or(path);
    below
        .split('/')
        .next()
        .unwrap_or(below)
        .trim_end_matches(".rs")
}

/// Returns how many modules lie between the crate's root and the inside of a file, itself included.
fn module_depth(path: &str) -> usize {
    match path.strip_prefix("src/").unwrap_or(path) {
        "main.rs" | "lib.rs" => 0,
        below => below.trim_end_matches("/mod.rs").split('/').count(),
    }
}

/// Returns the top-level modules that paths in the code lead to, with their lines.
///
/// Paths begin at `crate`, at the library's own name, or climb to the root with `super`.
fn used_modules(tokens: &[Token], file_depth: usize) -> Vec<(usize, String)> {
    let mut used = Vec::new();
    let mut braces = 0;
    let mut inline_modules: Vec<usize> = Vec::new();
    let text = |at: usize| tokens.get(at).map_or("", |token| token.text.as_str());
    let mut at = 0;
    while at < tokens.len() {
        match text(at) {
            "{" => {
                braces += 1;
                if at >= 2 && text(at - 2) == "mod" {
                    inline_modules.push(braces);
                }
            }
            "}" => {
                if inline_modules.last() == Some(&braces) {
                    inline_modules.pop();
                }
                braces -= 1;
            }
            "crate" | "voicebeatfs" if text(at + 1) == "::" && text(at.wrapping_sub(1)) != "::" => {
                heads(tokens, at + 2, &mut used);
            }
            "super" if text(at + 1) == "::" && text(at.wrapping_sub(1)) != "::" => {
                let mut climbed = 1;
                while text(at + 2) == "super" && text(at + 3) == "::" {
                    climbed += 1;
                    at += 2;
                }
                if climbed == file_depth + inline_modules.len() {
                    heads(tokens, at + 2, &mut used);
                }
            }
            _ => {}
        }
        at += 1;
    }
    used
}

/// Adds the first name of the path at `at`, or of each path in the braces there.
fn heads(tokens: &[Token], at: usize, used: &mut Vec<(usize, String)>) {
    let Some(first) = tokens.get(at) else { return };
    if first.text != "{" {
        used.push((first.line, first.text.clone()));
        return;
    }
    let mut depth = 0;
    for pair in tokens[at..].windows(2) {
        match pair[0].text.as_str() {
            "{" => depth += 1,
            "}" => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            return;
        }
        if depth == 1 && matches!(pair[0].text.as_str(), "{" | ",") && pair[1].text != "}" {
            used.push((pair[1].line, pair[1].text.clone()));
        }
    }
}

#[derive(Debug)]
struct Token {
    text: String,
    line: usize,
}

/// Splits code into names, `::` and single signs, without comments, strings and characters.
fn tokens(source: &str) -> Vec<Token> {
    let mut tokens = Vec::new();
    let mut rest = source;
    let mut line = 1;
    while let Some(first) = rest.chars().next() {
        let length = skipped(rest);
        let (length, keep) = match length {
            0 => token_length(rest, first),
            skipped => (skipped, false),
        };
        let (text, after) = rest.split_at(length);
        if keep {
            tokens.push(Token {
                text: text.to_owned(),
                line,
            });
        }
        line += text.matches('\n').count();
        rest = after;
    }
    tokens
}

fn token_length(rest: &str, first: char) -> (usize, bool) {
    if first.is_alphanumeric() || first == '_' {
        let end = rest.find(|c: char| !c.is_alphanumeric() && c != '_');
        return (end.unwrap_or(rest.len()), true);
    }
    if rest.starts_with("::") {
        return (2, true);
    }
    (first.len_utf8(), !first.is_whitespace())
}

/// Returns the length of the comment, string or character that `rest` begins with, or 0.
fn skipped(rest: &str) -> usize {
    if rest.starts_with("//") {
        return rest.find('\n').unwrap_or(rest.len());
    }
    if rest.starts_with("/*") {
        return block_comment(rest);
    }
    let unprefixed = rest.trim_start_matches(['b', 'c']);
    if rest.len() - unprefixed.len() <= 1 {
        if let Some(raw) = unprefixed.strip_prefix('r') {
            let hashes = raw.len() - raw.trim_start_matches('#').len();
            if let Some(body) = raw[hashes..].strip_prefix('"') {
                let close = format!("\"{}", "#".repeat(hashes));
                let end = body.find(&close).map_or(body.len(), |at| at + close.len());
                return rest.len() - body.len() + end;
            }
        }
        if let Some(body) = unprefixed.strip_prefix('"') {
            return rest.len() - body.len() + quoted(body, '"');
        }
        if let Some(body) = unprefixed.strip_prefix('\'') {
            let mut chars = body.chars();
            let (first, second) = (chars.next(), chars.next());
            // A lifetime has no closing quote after its first character.
            if first == Some('\\') || second == Some('\'') {
                return rest.len() - body.len() + quoted(body, '\'');
            }
        }
    }
    0
}

fn block_comment(rest: &str) -> usize {
    let (mut depth, mut at) = (0, 0);
    while at < rest.len() {
        let (step, change) = match rest.as_bytes().get(at..at + 2) {
            Some(b"/*") => (2, 1),
            Some(b"*/") => (2, -1),
            _ => (1, 0),
        };
        at += step;
        depth += change;
        if depth == 0 {
            break;
        }
    }
    at
}

/// Returns the length of what follows an opening quote, its closing one included.
fn quoted(body: &str, quote: char) -> usize {
    let mut escaped = false;
    for (at, c) in body.char_indices() {
        match c {
            _ if escaped => escaped = false,
            '\\' => escaped = true,
            c if c == quote => return at + c.len_utf8(),
            _ => {}
        }
    }
    body.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, source: &str) -> Vec<(usize, String)> {
        check(path, source)
            .into_iter()
            .map(|breach| (breach.line, breach.what))
            .collect()
    }

    #[test]
    fn lets_downward_paths_pass() {
        let source = "use crate::store::{Key, ObjectStore};\nuse crate::{cache, metrics::Metrics};\n\
                      fn f() { crate::staging::seal(super::inode::get()) }\n";
        assert_eq!(found("src/fs/handle.rs", source), []);
        assert_eq!(
            found("src/main.rs", "fn main() { voicebeatfs::cli::run() }"),
            []
        );
        assert_eq!(found("src/store/r2.rs", "use aws_sdk_s3::Client;"), []);
        assert_eq!(
            found("src/staging/journal/replay.rs", "use rusqlite::Connection;"),
            []
        );
        assert_eq!(found("src/mount/daemon.rs", "use fuser::MountOption;"), []);
    }

    #[test]
    fn finds_every_upward_path() {
        let up = |line, from: &str, to: &str| (line, format!("`{from}` may not use `{to}`"));
        assert_eq!(
            found("src/fs/mod.rs", "\nuse crate::uploader::Queue;"),
            [up(2, "fs", "uploader")]
        );
        assert_eq!(
            found(
                "src/store/mod.rs",
                "use crate::{clock, fs::{a, b}, cache::{self, c}, disk};"
            ),
            [up(1, "store", "fs"), up(1, "store", "cache")]
        );
        assert_eq!(
            found(
                "src/cache/file.rs",
                "fn f() {\n let _ = crate::fuse::x();\n}"
            ),
            [up(2, "cache", "fuse")]
        );
        assert_eq!(
            found("src/disk.rs", "use super::store::Key;"),
            [up(1, "disk", "store")]
        );
        assert_eq!(
            found("src/fs/a.rs", "use super::super::mount::M;"),
            [up(1, "fs", "mount")]
        );
        let tests = "mod tests { use super::*; use super::super::fuse::F; } use super::control::C;";
        assert_eq!(
            found("src/error.rs", tests),
            [up(1, "error", "fuse"), up(1, "error", "control")]
        );
        assert_eq!(
            found("src/cache/mod.rs", "use crate::staging::S;"),
            [up(1, "cache", "staging")]
        );
        assert_eq!(
            found("src/mount.rs", "use crate::cli::Opts;"),
            [up(1, "mount", "cli")]
        );
        assert_eq!(found("src/new.rs", "")[0].0, 1);
    }

    #[test]
    fn finds_foreign_crates_outside_their_module() {
        let source = "use aws_sdk_s3::Client;\nuse aws_smithy_types::body;\nfn f() { fuser::mount2(); }\n\
                      type C = ::rusqlite::Connection;";
        let lines: Vec<usize> = found("src/fs/mod.rs", source).iter().map(|b| b.0).collect();
        assert_eq!(lines, [1, 2, 3, 4]);
        assert_eq!(found("src/staging/mod.rs", "use rusqlite::Row;").len(), 1);
    }

    #[test]
    fn finds_long_files_and_unfinished_code() {
        let long = "//\n".repeat(MAX_LINES + 1);
        assert_eq!(found("src/disk.rs", &long)[0].0, MAX_LINES + 1);
        assert_eq!(found("src/disk.rs", &"//\n".repeat(MAX_LINES)), []);
        let source = "fn f() {\n todo!()\n}\nfn g() { dbg!(1); unimplemented!() }";
        let lines: Vec<usize> = found("src/disk.rs", source).iter().map(|b| b.0).collect();
        assert_eq!(lines, [2, 4, 4]);
    }

    #[test]
    fn ignores_comments_strings_and_characters() {
        let source = r####"
            // use crate::fuse::A; todo!()
            /* crate::fuse /* nested */ crate::cli */
            const A: &str = "use crate::fuse::A; \" todo!() ";
            const B: &str = r#"crate::fuse::A " "#;
            const C: (char, char) = ('"', '\'');
            fn f<'a>(x: &'a str) -> &'a str { x }
            use crate::uploader::X;
        "####;
        assert_eq!(
            found("src/disk.rs", source),
            [(8, "`disk` may not use `uploader`".to_owned())]
        );
    }
}
