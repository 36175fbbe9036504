//! Which open files belong together: a SQLite database and the journals beside it.

/// What the names of the files beside a database end in that belong to its bytes.
pub(super) const JOURNALS: [&str; 2] = ["-wal", "-journal"];
/// What the names of all files beside it end in; the shared memory is worth nothing elsewhere.
pub(in crate::fs) const SIDES: [&str; 3] = ["-wal", "-journal", "-shm"];
/// How a database begins (sqlite.org/fileformat2.html).
const MAGIC: &[u8; 16] = b"SQLite format 3\0";

/// Returns the name of the database that a file of this name lies beside, if it is such a name.
pub(super) fn main_of(name: &str) -> Option<&str> {
    let main = SIDES.iter().find_map(|ending| name.strip_suffix(ending));
    main.filter(|main| !main.is_empty() && !main.ends_with('/'))
}

/// Whether a file is a database. An empty one is not yet.
pub(in crate::fs) fn is_database(file: &std::fs::File) -> bool {
    use std::os::unix::fs::FileExt;
    let mut head = [0; MAGIC.len()];
    file.read_exact_at(&mut head, 0).is_ok() && head == *MAGIC
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn side_files_name_their_database() {
        assert_eq!(main_of("a/song.aup3-wal"), Some("a/song.aup3"));
        assert_eq!(main_of("a/song.db-journal"), Some("a/song.db"));
        assert_eq!(main_of("a/-wal"), None);
        assert_eq!(main_of("a/song.wav"), None);
    }
}
