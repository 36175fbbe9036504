//! The options after `-o`: those of every mount, and our settings by their lower-case names.

use std::path::PathBuf;

use super::setting::Setting;

/// Who may use the mount.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Access {
    /// The user who mounted it.
    #[default]
    Owner,
    /// That user and root (`allow_root`).
    RootAndOwner,
    /// Everyone, as the permission bits say (`allow_other`).
    All,
}

/// What files that carry no attributes of their own look like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ownership {
    /// The owner (`uid=`).
    pub uid: Option<u32>,
    /// The group (`gid=`).
    pub gid: Option<u32>,
    /// The permission bits that are taken away (`umask=`).
    pub umask: Option<u32>,
}

/// The mount options, taken apart.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct MountOptions {
    /// Nothing may be changed through the mount (`ro`).
    pub read_only: bool,
    /// Who may use the mount.
    pub access: Access,
    /// The kernel checks permission bits (`default_permissions`).
    pub default_permissions: bool,
    /// Set-user-id bits are honoured (`suid`).
    pub suid: bool,
    /// Device nodes work (`dev`).
    pub dev: bool,
    /// Programs cannot be run from the mount (`noexec`).
    pub noexec: bool,
    /// Reading does not change access times (`noatime`).
    pub noatime: bool,
    /// Every write is synchronous (`sync`).
    pub sync: bool,
    /// Every change of a folder is synchronous (`dirsync`).
    pub dirsync: bool,
    /// Owner, group and mask of files without attributes.
    pub ownership: Ownership,
    /// The env file (`env_file=`).
    pub env_file: Option<PathBuf>,
    /// The settings, by lower-case name, in the order given.
    pub settings: Vec<(String, String)>,
}

/// A mount option that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OptionError {
    /// Nobody knows it.
    #[error("unknown mount option \"{0}\"")]
    Unknown(String),
    /// It would show a secret to everyone on the machine.
    #[error(
        "the mount option \"{0}\" would show a secret in the list of processes: put {1} into the \
         env file or the environment"
    )]
    Secret(String, &'static str),
    /// Its value is wrong.
    #[error("the mount option \"{name}\" is \"{value}\": it must be {expected}")]
    Invalid {
        /// The option.
        name: String,
        /// Its value.
        value: String,
        /// What it may be.
        expected: &'static str,
    },
    /// A mount cannot be changed while it is there.
    #[error("the mount option \"remount\" is not possible: unmount and mount again")]
    Remount,
    /// A quote is not closed, or a backslash ends the text.
    #[error("the mount options end within a quote or after a backslash")]
    Unfinished,
}

impl MountOptions {
    /// Adds the comma-separated options of one `-o`. Later ones win over earlier ones. Returns
    /// everything that is wrong with them; `sloppy` leaves unknown ones out in silence, as
    /// mount(8)'s `-s` asks for.
    pub fn add(&mut self, text: &str, sloppy: bool) -> Vec<OptionError> {
        let options = match split(text) {
            Ok(options) => options,
            Err(error) => return vec![error],
        };
        let results = options
            .iter()
            .filter(|option| !option.is_empty())
            .map(|option| {
                let (name, value) = match option.split_once('=') {
                    Some((name, value)) => (name, Some(value)),
                    None => (option.as_str(), None),
                };
                self.add_one(name, value)
            });
        let wanted = |error: &OptionError| !(sloppy && matches!(error, OptionError::Unknown(_)));
        results.filter_map(Result::err).filter(wanted).collect()
    }

    fn add_one(&mut self, name: &str, value: Option<&str>) -> Result<(), OptionError> {
        match value {
            _ if name.starts_with("x-") || name.starts_with("X-") => Ok(()),
            None => self.add_flag(name),
            Some(value) => self.add_value(name, value),
        }
    }

    fn add_flag(&mut self, name: &str) -> Result<(), OptionError> {
        match name {
            "ro" => self.read_only = true,
            "rw" => self.read_only = false,
            "allow_other" => self.access = Access::All,
            "allow_root" => self.access = Access::RootAndOwner,
            "default_permissions" => self.default_permissions = true,
            "suid" => self.suid = true,
            "nosuid" => self.suid = false,
            "dev" => self.dev = true,
            "nodev" => self.dev = false,
            "exec" => self.noexec = false,
            "noexec" => self.noexec = true,
            "atime" => self.noatime = false,
            "noatime" => self.noatime = true,
            "sync" => self.sync = true,
            "async" => self.sync = false,
            "dirsync" => self.dirsync = true,
            // What mount(8) implies with these, unless a later option says otherwise.
            "user" | "users" | "owner" | "group" => {
                (self.suid, self.dev) = (false, false);
                self.noexec |= matches!(name, "user" | "users");
            }
            "defaults" => {
                (self.read_only, self.noexec) = (false, false);
                (self.sync, self.dirsync) = (false, false);
            }
            // For mount(8) and systemd, or without a meaning for a file system in user space.
            "_netdev" | "_rnetdev" | "nofail" | "auto" | "noauto" | "nouser" | "nousers"
            | "noowner" | "nogroup" | "relatime" | "norelatime" | "strictatime"
            | "nostrictatime" | "diratime" | "nodiratime" | "lazytime" | "nolazytime"
            | "iversion" | "noiversion" | "mand" | "nomand" | "silent" | "loud" => {}
            "remount" => return Err(OptionError::Remount),
            _ => return Err(unknown_or_without_value(name)),
        }
        Ok(())
    }

    fn add_value(&mut self, name: &str, value: &str) -> Result<(), OptionError> {
        let invalid = |expected| OptionError::Invalid {
            name: name.to_string(),
            value: value.escape_debug().to_string(),
            expected,
        };
        let id = || value.parse().map_err(|_| invalid("a number"));
        match name {
            "comment" => {}
            // mount(8) adds the name of the user to `user`.
            "user" => return self.add_flag("user"),
            "uid" => self.ownership.uid = Some(id()?),
            "gid" => self.ownership.gid = Some(id()?),
            "umask" => {
                let mask = u32::from_str_radix(value, 8)
                    .ok()
                    .filter(|mask| *mask <= 0o777);
                self.ownership.umask = Some(mask.ok_or_else(|| invalid("octal, as in 022"))?);
            }
            "env_file" => match value {
                "" => return Err(invalid("the path of a file")),
                path => self.env_file = Some(path.into()),
            },
            _ => match Setting::find(&name.to_ascii_uppercase()) {
                Some(_) if name.bytes().any(|b| b.is_ascii_uppercase()) => {
                    return Err(OptionError::Unknown(name.to_string()));
                }
                Some(setting) if setting.secret => {
                    return Err(OptionError::Secret(name.to_string(), setting.name));
                }
                Some(_) => self.settings.push((name.to_string(), value.to_string())),
                None => return Err(OptionError::Unknown(name.to_string())),
            },
        }
        Ok(())
    }
}

fn unknown_or_without_value(name: &str) -> OptionError {
    let needs_value = matches!(name, "uid" | "gid" | "umask" | "env_file")
        || Setting::find(&name.to_ascii_uppercase()).is_some();
    if !needs_value {
        return OptionError::Unknown(name.to_string());
    }
    OptionError::Invalid {
        name: name.to_string(),
        value: String::new(),
        expected: "followed by \"=\" and a value",
    }
}

/// Splits at commas. A comma within double quotes, or after a backslash, belongs to a value.
fn split(text: &str) -> Result<Vec<String>, OptionError> {
    let mut options = vec![String::new()];
    let mut quoted = false;
    let mut chars = text.chars();
    while let Some(c) = chars.next() {
        let last = options.last_mut().expect("there is always one");
        match c {
            '\\' => last.push(chars.next().ok_or(OptionError::Unfinished)?),
            '"' => quoted = !quoted,
            ',' if !quoted => options.push(String::new()),
            _ => last.push(c),
        }
    }
    if quoted {
        Err(OptionError::Unfinished)
    } else {
        Ok(options)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> MountOptions {
        let mut options = MountOptions::default();
        assert_eq!(options.add(text, false), [], "{text}");
        options
    }

    fn errors(text: &str) -> Vec<OptionError> {
        MountOptions::default().add(text, false)
    }

    #[test]
    fn the_line_of_the_documentation_is_understood() {
        let options = parsed(
            "rw,_netdev,nofail,allow_other,env_file=/etc/voicebeatfs.env,x-systemd.automount,\
             comment=for the band,noauto,user=anna",
        );
        assert_eq!(options.access, Access::All);
        assert_eq!(options.env_file, Some("/etc/voicebeatfs.env".into()));
        assert!(options.noexec && !options.read_only && options.settings.is_empty());
    }

    #[test]
    fn later_options_win() {
        assert!(!parsed("ro,rw").read_only);
        let options = parsed("ro,noexec,nosuid,nodev,noatime,user,exec,suid,dev");
        assert!(options.read_only && !options.noexec && options.suid && options.dev);
        let options = parsed("ro,allow_root,uid=5,defaults");
        assert_eq!(
            (options.read_only, options.access),
            (false, Access::RootAndOwner)
        );
        assert_eq!(options.ownership.uid, Some(5));
    }

    #[test]
    fn settings_come_by_lower_case_name() {
        let options =
            parsed("cache_dir=/x,collections=a\\,b,collections=\"c,d\",write_back_seconds=1");
        let expected = [
            ("cache_dir", "/x"),
            ("collections", "a,b"),
            ("collections", "c,d"),
            ("write_back_seconds", "1"),
        ];
        assert_eq!(
            options.settings,
            expected.map(|(n, v)| (n.to_string(), v.to_string()))
        );
    }

    #[test]
    fn numbers_are_checked() {
        let options = parsed("uid=1000,gid=100,umask=027");
        let expected = Ownership {
            uid: Some(1000),
            gid: Some(100),
            umask: Some(0o27),
        };
        assert_eq!(options.ownership, expected);
        for wrong in [
            "uid=anna",
            "gid=-1",
            "umask=8",
            "umask=7777",
            "env_file=",
            "uid",
            "cache_dir",
        ] {
            assert!(
                matches!(errors(wrong)[..], [OptionError::Invalid { .. }]),
                "{wrong}"
            );
        }
    }

    #[test]
    fn unknown_options_are_refused_by_name_and_all_at_once() {
        let found = errors("nope,ro,CACHE_DIR=/x,what=1,remount");
        let unknown = |name: &str| OptionError::Unknown(name.into());
        let expected = [
            unknown("nope"),
            unknown("CACHE_DIR"),
            unknown("what"),
            OptionError::Remount,
        ];
        assert_eq!(found, expected);
        assert_eq!(MountOptions::default().add("nope,what=1", true), []);
    }

    #[test]
    fn secrets_are_refused_without_being_repeated() {
        for name in [
            "r2_secret_access_key",
            "r2_session_token",
            "r2_access_key_id",
        ] {
            let found = errors(&format!("{name}=hunter2"));
            assert!(matches!(found[..], [OptionError::Secret(..)]));
            assert!(!found[0].to_string().contains("hunter2"));
        }
    }

    #[test]
    fn unfinished_quotes_are_refused() {
        assert_eq!(errors("cache_dir=\"/x"), [OptionError::Unfinished]);
        assert_eq!(errors("cache_dir=/x\\"), [OptionError::Unfinished]);
    }
}
