//! Options of a filesystem, as `mount -o` takes them.

use nix::mount::MsFlags;
use thiserror::Error;

/// Why options cannot be used.
#[derive(Debug, Error, PartialEq, Eq)]
pub(crate) enum OptionsError {
    #[error("the tmpfs options are not UTF-8")]
    NotUtf8,
    #[error(
        "tmpfs option {0:?} is not known; known are flags such as ro, nosuid, nodev and noexec, and size=, mode=, uid=, gid=, nr_inodes=, nr_blocks=, huge=, mpol="
    )]
    Unknown(String),
}

/// Options as mount(2) takes them.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Options {
    pub(crate) flags: MsFlags,
    pub(crate) data: String,
    /// A new tmpfs begins with what is below it.
    pub(crate) copy_up: bool,
}

impl Options {
    /// `key=` is among them.
    pub(crate) fn has(&self, key: &str) -> bool {
        let mut given = self
            .data
            .split(',')
            .filter_map(|option| option.split_once('='));
        given.any(|(name, _)| name == key)
    }

    /// Adds the permission bits `mode`.
    pub(crate) fn push_mode(&mut self, mode: u32) {
        self.push(&format!("mode={mode:o}"));
    }

    fn push(&mut self, option: &str) {
        if !self.data.is_empty() {
            self.data.push(',');
        }
        self.data.push_str(option);
    }
}

/// Options that tmpfs itself takes.
const TMPFS_KEYS: [&str; 8] = [
    "size",
    "mode",
    "uid",
    "gid",
    "nr_inodes",
    "nr_blocks",
    "huge",
    "mpol",
];

/// Parses options separated by commas. Of options that contradict each other the last holds.
pub(crate) fn parse(options: &[u8]) -> Result<Options, OptionsError> {
    let options = std::str::from_utf8(options).map_err(|_| OptionsError::NotUtf8)?;
    let mut parsed = Options {
        flags: MsFlags::empty(),
        data: String::new(),
        copy_up: false,
    };
    for option in options.split(',').filter(|option| !option.is_empty()) {
        if let Some((flag, on)) = flag(option) {
            parsed.flags.set(flag, on);
        } else if matches!(option, "tmpcopyup" | "notmpcopyup") {
            parsed.copy_up = option == "tmpcopyup";
        } else if is_for_tmpfs(option) {
            parsed.push(option);
        } else {
            return Err(OptionsError::Unknown(option.to_owned()));
        }
    }
    Ok(parsed)
}

fn is_for_tmpfs(option: &str) -> bool {
    // A memory policy's list of nodes has commas in it; its tail looks like `2` or `4-7`.
    let node =
        |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit() || b == b'-');
    match option.split_once('=') {
        Some((key, value)) => TMPFS_KEYS.contains(&key) && !value.is_empty(),
        None => node(option),
    }
}

fn flag(option: &str) -> Option<(MsFlags, bool)> {
    Some(match option {
        "defaults" | "rw" => (MsFlags::MS_RDONLY, false),
        "ro" => (MsFlags::MS_RDONLY, true),
        "suid" => (MsFlags::MS_NOSUID, false),
        "nosuid" => (MsFlags::MS_NOSUID, true),
        "dev" => (MsFlags::MS_NODEV, false),
        "nodev" => (MsFlags::MS_NODEV, true),
        "exec" => (MsFlags::MS_NOEXEC, false),
        "noexec" => (MsFlags::MS_NOEXEC, true),
        "async" => (MsFlags::MS_SYNCHRONOUS, false),
        "sync" => (MsFlags::MS_SYNCHRONOUS, true),
        "dirsync" => (MsFlags::MS_DIRSYNC, true),
        "atime" => (MsFlags::MS_NOATIME, false),
        "noatime" => (MsFlags::MS_NOATIME, true),
        "diratime" => (MsFlags::MS_NODIRATIME, false),
        "nodiratime" => (MsFlags::MS_NODIRATIME, true),
        "relatime" => (MsFlags::MS_RELATIME, true),
        "norelatime" => (MsFlags::MS_RELATIME, false),
        "strictatime" => (MsFlags::MS_STRICTATIME, true),
        "nostrictatime" => (MsFlags::MS_STRICTATIME, false),
        "silent" => (MsFlags::MS_SILENT, true),
        "loud" => (MsFlags::MS_SILENT, false),
        "iversion" => (MsFlags::MS_I_VERSION, true),
        "noiversion" => (MsFlags::MS_I_VERSION, false),
        // Nothing in the machine propagates mounts anyway, and mandatory locks are gone.
        "private" | "rprivate" | "shared" | "rshared" | "slave" | "rslave" | "unbindable"
        | "runbindable" | "mand" | "nomand" => (MsFlags::empty(), true),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_and_data_are_told_apart() {
        let parsed = parse(b"rw,noexec,nosuid,size=65536k,mode=1770,uid=1000").unwrap();
        assert_eq!(parsed.flags, MsFlags::MS_NOEXEC | MsFlags::MS_NOSUID);
        assert_eq!(parsed.data, "size=65536k,mode=1770,uid=1000");
        assert!(parsed.has("mode"));
    }

    #[test]
    fn the_last_of_two_contrary_flags_holds() {
        let parsed = parse(b"noexec,nosuid,nodev,exec,ro,rw,ro").unwrap();
        let expected = MsFlags::MS_NOSUID | MsFlags::MS_NODEV | MsFlags::MS_RDONLY;
        assert_eq!(parsed.flags, expected);
    }

    #[test]
    fn what_docker_and_podman_add_is_understood() {
        let parsed = parse(b"rprivate,tmpcopyup,nosuid,shared,size=64k").unwrap();
        assert_eq!((parsed.flags, parsed.copy_up), (MsFlags::MS_NOSUID, true));
        assert_eq!(parsed.data, "size=64k");
        assert!(!parse(b"tmpcopyup,notmpcopyup").unwrap().copy_up);
    }

    #[test]
    fn no_options_are_fine() {
        let parsed = parse(b"").unwrap();
        assert_eq!(
            (parsed.flags, parsed.data),
            (MsFlags::empty(), String::new())
        );
        assert!(!parse(b",,").unwrap().has("mode"));
    }

    #[test]
    fn a_mode_is_added_in_octal() {
        let mut parsed = parse(b"size=1m").unwrap();
        parsed.push_mode(0o1755);
        assert_eq!(parsed.data, "size=1m,mode=1755");
    }

    #[test]
    fn a_memory_policy_keeps_its_commas() {
        let parsed = parse(b"mpol=bind:0-3,5,7,size=1m").unwrap();
        assert_eq!(parsed.data, "mpol=bind:0-3,5,7,size=1m");
    }

    #[test]
    fn what_is_unknown_is_named() {
        let error = parse(b"size=1m,sise=2m").unwrap_err();
        assert_eq!(error, OptionsError::Unknown("sise=2m".to_owned()));
        assert_eq!(parse(b"size=\xff"), Err(OptionsError::NotUtf8));
        assert!(parse(b"size=").is_err());
    }
}
