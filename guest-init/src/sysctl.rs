//! Kernel parameters.

use std::fs::File;
use std::io::{self, Write};
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::OFlag;

use crate::rootdir::RootDir;

/// Sets what the user asks for, in this order. `proc` is a proc filesystem.
pub(crate) fn apply(settings: &[(String, String)], proc: &RootDir) -> Result<()> {
    for (name, value) in settings {
        write(proc, &path(name), value)
            .with_context(|| format!("cannot set sysctl {name}={value}"))?;
    }
    Ok(())
}

/// Writes the parameter at `path` below `/proc/sys`.
pub(crate) fn write(proc: &RootDir, path: &str, value: &str) -> io::Result<()> {
    let path = Path::new("sys").join(path.trim_start_matches('/'));
    File::from(proc.open(&path, OFlag::O_WRONLY)?).write_all(value.as_bytes())
}

/// The path of the parameter `name`, as sysctl(8) has it: whichever of `.` and `/` comes
/// first separates, and the other one is the other one in a file's name, such as that of the
/// interface `eth0.1`.
fn path(name: &str) -> String {
    if name
        .find(['.', '/'])
        .is_none_or(|at| name[at..].starts_with('/'))
    {
        return name.to_owned();
    }
    let swap = |character| match character {
        '.' => '/',
        '/' => '.',
        other => other,
    };
    name.chars().map(swap).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn the_first_separator_is_the_one() {
        let cases = [
            ("net.ipv4.ip_forward", "net/ipv4/ip_forward"),
            ("net/ipv4/ip_forward", "net/ipv4/ip_forward"),
            (
                "net.ipv4.conf.eth0/1.forwarding",
                "net/ipv4/conf/eth0.1/forwarding",
            ),
            (
                "net/ipv4/conf/eth0.1/forwarding",
                "net/ipv4/conf/eth0.1/forwarding",
            ),
            ("vm", "vm"),
            ("", ""),
        ];
        for (name, expected) in cases {
            assert_eq!(path(name), expected, "{name}");
        }
    }

    #[test]
    fn what_cannot_be_set_is_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("sys/kernel")).unwrap();
        let file = dir.path().join("sys/kernel/shmmax");
        fs::write(&file, "0").unwrap();
        let proc = RootDir::new(dir.path()).unwrap();
        let set = |name: &str| apply(&[(name.to_owned(), "7".to_owned())], &proc);
        set("kernel.shmmax").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"7");
        for name in ["kernel.nothing", "kernel", "", "../outside"] {
            let text = set(name).unwrap_err().to_string();
            assert!(text.contains(&format!("sysctl {name}=7")), "{text}");
        }
    }
}
