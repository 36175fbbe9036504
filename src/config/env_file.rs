//! Env files: who may have written one, and what its lines say.
//!
//! The syntax is that of a shell's assignments without expansion: comments, blank lines, `export`,
//! single quotes (taken as they are), double quotes (`\"`, `\\`, `\$`, `` \` `` and `\n`), both of
//! which may span lines. Names that are not settings of ours are left to the other programs that
//! share the file.

use std::fs::{File, OpenOptions};
use std::io::{self, Read};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

/// The most bytes that are read: far above any real file, far below what would hurt.
const MAX_BYTES: u64 = 1 << 20;

/// What nobody but the owner may read.
const SECRETS: [&str; 2] = ["R2_SECRET_ACCESS_KEY", "R2_SESSION_TOKEN"];

/// One assignment.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Assignment {
    pub(super) name: String,
    pub(super) value: String,
    /// The line it begins on, from 1.
    pub(super) line: usize,
}

/// A line that is no assignment. Its text is not repeated: it may be half of a secret.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct SyntaxError {
    pub(super) line: usize,
    pub(super) reason: &'static str,
}

/// An env file as it was found.
#[derive(Debug)]
pub(super) struct EnvFile {
    pub(super) text: String,
    /// What deserves a word to the user.
    pub(super) warning: Option<String>,
}

/// Why an env file is not used.
#[derive(Debug)]
pub(super) enum OpenError {
    /// There is no such file, or it is not a file (a Python environment is often called `.env`).
    Absent(String),
    /// It must not be used.
    Refused(String),
}

/// Reads the env file at `path` for a process of user `uid`; messages call it `what`.
///
/// Its owner and mode are looked at on the open file, so that nobody can swap it in between.
pub(super) fn read(what: &str, path: &Path, uid: u32) -> Result<EnvFile, OpenError> {
    let shown = path.display();
    // Without O_NONBLOCK a FIFO would hang us before we could see that it is one.
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(path);
    let mut file = opened.map_err(|error| match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            OpenError::Absent(format!("{what} {shown} does not exist"))
        }
        _ => OpenError::Refused(format!("{what} {shown} cannot be read: {error}")),
    })?;
    let warning = check_owner_and_mode(what, &file, path, uid)?;
    let mut text = String::new();
    match file.by_ref().take(MAX_BYTES + 1).read_to_string(&mut text) {
        Ok(length) if length as u64 > MAX_BYTES => Err(OpenError::Refused(format!(
            "{what} {shown} has more than {MAX_BYTES} bytes: it is none"
        ))),
        Ok(_) => {
            refuse_open_secret(what, &file, path, &text)?;
            Ok(EnvFile { text, warning })
        }
        Err(error) => Err(OpenError::Refused(format!(
            "{what} {shown} cannot be read: {error}"
        ))),
    }
}

fn check_owner_and_mode(
    what: &str,
    file: &File,
    path: &Path,
    uid: u32,
) -> Result<Option<String>, OpenError> {
    let shown = path.display();
    let metadata = file.metadata().map_err(|error| {
        OpenError::Refused(format!("{what} {shown} cannot be looked at: {error}"))
    })?;
    if !metadata.is_file() {
        return Err(OpenError::Absent(format!(
            "{what} {shown} is not a regular file"
        )));
    }
    let (mode, owner) = (metadata.mode() & 0o777, metadata.uid());
    if owner != uid && owner != 0 {
        return Err(OpenError::Refused(format!(
            "{what} {shown} belongs to user {owner}, neither to user {uid} nor to root: \
             whoever owns it decides where recordings go; chown it"
        )));
    }
    if mode & 0o022 != 0 {
        return Err(OpenError::Refused(format!(
            "{what} {shown} may be written by others (mode {mode:03o}): they could decide \
             where recordings go; run: chmod 600 {shown}"
        )));
    }
    Ok((mode & 0o044 != 0).then(|| {
        format!(
            "{what} {shown} may be read by others (mode {mode:03o}), with the secrets in it; \
             run: chmod 600 {shown}"
        )
    }))
}

/// Refuses a secret that every user of the machine may read. One that a group may is the owner's choice.
fn refuse_open_secret(what: &str, file: &File, path: &Path, text: &str) -> Result<(), OpenError> {
    let mode = file.metadata().map_or(0, |metadata| metadata.mode()) & 0o777;
    let is_secret = |it: &Assignment| SECRETS.contains(&&*it.name) && !it.value.is_empty();
    if mode & 0o004 == 0 || !parse(text).0.iter().any(is_secret) {
        return Ok(());
    }
    let shown = path.display();
    Err(OpenError::Refused(format!(
        "{what} {shown} may be read by everybody (mode {mode:03o}), and a secret is in it; run: \
         chmod 600 {shown}, and make a new token if somebody may have read it"
    )))
}

/// Returns the assignments in `text`, in order, and the lines that are none.
pub(super) fn parse(text: &str) -> (Vec<Assignment>, Vec<SyntaxError>) {
    let mut parser = Parser {
        rest: text.trim_start_matches('\u{feff}'),
        line: 1,
    };
    let (mut assignments, mut errors) = (Vec::new(), Vec::new());
    while !parser.rest.is_empty() {
        let line = parser.line;
        match parser.statement() {
            Ok(Some((name, value))) => assignments.push(Assignment { name, value, line }),
            Ok(None) => {}
            Err(reason) => {
                errors.push(SyntaxError { line, reason });
                parser.skip_line();
            }
        }
    }
    (assignments, errors)
}

struct Parser<'a> {
    rest: &'a str,
    line: usize,
}

impl Parser<'_> {
    /// Reads one line, or several if a quoted value spans them.
    fn statement(&mut self) -> Result<Option<(String, String)>, &'static str> {
        self.skip_blanks();
        if self.rest.starts_with('#') || self.at_line_end() {
            self.skip_line();
            return Ok(None);
        }
        if let Some(after) = self.rest.strip_prefix("export")
            && after.starts_with([' ', '\t'])
        {
            self.rest = after;
            self.skip_blanks();
        }
        let name = self.name()?;
        self.skip_blanks();
        self.rest = self
            .rest
            .strip_prefix('=')
            .ok_or("this line is not NAME=value")?;
        self.skip_blanks();
        let value = match self.rest.chars().next() {
            Some(quote @ ('"' | '\'')) => self.quoted(quote)?,
            _ => self.bare(),
        };
        self.skip_blanks();
        if !self.at_line_end() && !self.rest.starts_with('#') {
            return Err("something follows the closing quote");
        }
        self.skip_line();
        Ok(Some((name, value)))
    }

    fn name(&mut self) -> Result<String, &'static str> {
        let end = self
            .rest
            .find(|c: char| !c.is_ascii_alphanumeric() && c != '_');
        let (name, rest) = self.rest.split_at(end.unwrap_or(self.rest.len()));
        if name.is_empty() || name.starts_with(|c: char| c.is_ascii_digit()) {
            return Err("this line is not NAME=value");
        }
        self.rest = rest;
        Ok(name.to_string())
    }

    /// Reads an unquoted value. A comment needs a blank before it: `#` may be part of a value.
    fn bare(&mut self) -> String {
        let end = self.rest.find('\n').unwrap_or(self.rest.len());
        let (line, rest) = self.rest.split_at(end);
        self.rest = rest;
        let is_comment = |&(at, _): &(usize, &str)| at == 0 || line[..at].ends_with([' ', '\t']);
        let comment = line.match_indices('#').find(is_comment).map(|(at, _)| at);
        line[..comment.unwrap_or(line.len())].trim_end().to_string()
    }

    fn quoted(&mut self, quote: char) -> Result<String, &'static str> {
        let mut value = String::new();
        let mut chars = self.rest.char_indices().skip(1);
        while let Some((at, c)) = chars.next() {
            match c {
                _ if c == quote => {
                    let whole = &self.rest[..=at];
                    self.line += whole.matches('\n').count();
                    self.rest = &self.rest[at + 1..];
                    return Ok(value);
                }
                '\\' if quote == '"' => match chars.next() {
                    Some((_, 'n')) => value.push('\n'),
                    Some((_, escaped @ ('"' | '\\' | '$' | '`'))) => value.push(escaped),
                    Some((_, other)) => value.extend(['\\', other]),
                    None => break,
                },
                _ => value.push(c),
            }
        }
        Err("the quote that begins here is never closed")
    }

    fn skip_blanks(&mut self) {
        self.rest = self.rest.trim_start_matches([' ', '\t', '\r']);
    }

    fn at_line_end(&self) -> bool {
        self.rest.is_empty() || self.rest.starts_with('\n')
    }

    fn skip_line(&mut self) {
        self.rest = self.rest.split_once('\n').map_or("", |(_, rest)| rest);
        self.line += 1;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn pairs(text: &str) -> Vec<(String, String, usize)> {
        let (assignments, errors) = parse(text);
        assert_eq!(errors, [], "{text}");
        assignments
            .into_iter()
            .map(|a| (a.name, a.value, a.line))
            .collect()
    }

    fn one(text: &str) -> String {
        pairs(text).remove(0).1
    }

    #[test]
    fn reads_comments_blank_lines_export_and_windows_line_ends() {
        let text = "\u{feff}# top\r\n\r\n  A=1\r\nexport B = two words  # why\r\nexport\tC=\r\n";
        let expected = [("A", "1", 3), ("B", "two words", 4), ("C", "", 5)];
        let expected: Vec<_> = expected.map(|(n, v, l)| (n.into(), v.into(), l)).into();
        assert_eq!(pairs(text), expected);
    }

    #[test]
    fn quotes_protect_and_escapes_work_in_double_quotes_only() {
        assert_eq!(one("A='a # b\\n $x'"), "a # b\\n $x");
        assert_eq!(
            one(r#"A="a \"q\" \\ \$ \n # b" # c"#),
            "a \"q\" \\ $ \n # b"
        );
        assert_eq!(one("A=a#b"), "a#b");
        assert_eq!(one("A=#b"), "");
        assert_eq!(one("A=\"\""), "");
        assert_eq!(one("exported=1"), "1");
    }

    #[test]
    fn a_quoted_value_spans_lines_and_the_count_goes_on() {
        let found = pairs("A='x\ny'\nB=2");
        assert_eq!(found[0].1, "x\ny");
        assert_eq!(found[1], ("B".into(), "2".into(), 3));
    }

    #[test]
    fn a_wrong_line_is_named_and_the_rest_is_read() {
        let (assignments, errors) = parse("R2_BUCKET_NAME x\n1A=2\nB='x' y\nC=3\nD=\"open\nE=1");
        assert_eq!(
            errors.iter().map(|e| e.line).collect::<Vec<_>>(),
            [1, 2, 3, 5]
        );
        assert_eq!(
            assignments
                .iter()
                .map(|a| a.name.as_str())
                .collect::<Vec<_>>(),
            ["C", "E"]
        );
    }

    fn file_with_mode(mode: u32) -> (tempfile::TempDir, std::path::PathBuf) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join(".env");
        fs::write(&path, "A=1").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        (folder, path)
    }

    fn own_uid() -> u32 {
        rustix::process::geteuid().as_raw()
    }

    #[test]
    fn others_may_not_write_and_had_better_not_read() {
        let (_folder, path) = file_with_mode(0o600);
        assert!(
            read("the env file", &path, own_uid())
                .unwrap()
                .warning
                .is_none()
        );
        let (_folder, path) = file_with_mode(0o640);
        assert!(
            read("the env file", &path, own_uid())
                .unwrap()
                .warning
                .unwrap()
                .contains("chmod 600")
        );
        for mode in [0o620, 0o602] {
            let (_folder, path) = file_with_mode(mode);
            assert!(
                matches!(
                    read("the env file", &path, own_uid()),
                    Err(OpenError::Refused(_))
                ),
                "{mode:o}"
            );
        }
    }

    #[test]
    fn a_strangers_file_is_refused() {
        let (_folder, path) = file_with_mode(0o600);
        if own_uid() == 0 {
            std::os::unix::fs::chown(&path, Some(12345), None).unwrap();
        }
        let reader = if own_uid() == 0 { 0 } else { own_uid() + 1 };
        assert!(
            matches!(read("the env file", &path, reader), Err(OpenError::Refused(text)) if text.contains("chown"))
        );
    }

    #[test]
    fn what_is_no_file_is_absent() {
        let folder = tempfile::tempdir().unwrap();
        assert!(matches!(
            read("the env file", folder.path(), own_uid()),
            Err(OpenError::Absent(_))
        ));
        assert!(matches!(
            read("the env file", &folder.path().join("x"), own_uid()),
            Err(OpenError::Absent(_))
        ));
    }

    #[test]
    fn a_huge_file_is_refused() {
        let (_folder, path) = file_with_mode(0o600);
        File::create(&path).unwrap().set_len(MAX_BYTES + 1).unwrap();
        assert!(matches!(
            read("the env file", &path, own_uid()),
            Err(OpenError::Refused(_))
        ));
    }
}
