//! The machine's disks in `/etc/fstab`, where mount(8) and init systems look for them.
//!
//! The image's own file stays as it is: one in memory lies over it.

use std::ffi::OsStr;
use std::fmt::Write;
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use runcvm_protocol::{Mount, MountSource};

use super::{disks, scratch, submount};
use crate::rootdir::RootDir;

const FSTAB: &str = "/etc/fstab";

/// No more of the image's own is kept.
const MAX_LEN: u64 = 64 * 1024;

/// Adds the disks among `mounts` to the file; does nothing if there are none.
pub(crate) fn mount(root: &RootDir, mounts: &[Mount], systemd: bool) -> Result<()> {
    let mut lines = Vec::new();
    for mount in mounts {
        if let MountSource::Disk {
            serial,
            filesystem,
            options,
        } = &mount.source
        {
            let name = disks::name(root, serial)?;
            let options = String::from_utf8_lossy(options);
            lines.extend(line(&name, &mount.target, filesystem, &options, systemd));
        }
    }
    if lines.is_empty() {
        return Ok(());
    }
    let own = root.read_file(Path::new(FSTAB), MAX_LEN);
    let mut table = own.ok().flatten().unwrap_or_default();
    if table.last().is_some_and(|&last| last != b'\n') {
        table.push(b'\n');
    }
    table.extend(lines);
    let target = root.make_file(Path::new(FSTAB))?;
    scratch::with_memory("fstab", |dir| {
        let path = dir.join("fstab");
        fs::write(&path, table)?;
        let file = open(&path, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty())?;
        submount::bind(&file, &target, false).context("cannot mount it")
    })
}

/// A line of fstab(5).
fn line(device: &OsStr, target: &[u8], filesystem: &str, options: &str, systemd: bool) -> Vec<u8> {
    let mut all = String::from("defaults");
    if !options.is_empty() {
        let _ = write!(all, ",{options}");
    }
    if systemd {
        // It is mounted already. Without udev systemd would wait for the device all the same,
        // and not start up without it.
        all.push_str(",nofail");
    }
    let parts: [&[u8]; 6] = [
        &[b"/dev/", device.as_bytes()].concat(),
        &escape(target),
        filesystem.as_bytes(),
        all.as_bytes(),
        b"0",
        b"0\n",
    ];
    parts.join(&b' ')
}

/// Blanks, tabs, newlines and backslashes are octal numbers in a field.
fn escape(field: &[u8]) -> Vec<u8> {
    let mut escaped = Vec::with_capacity(field.len());
    for &byte in field {
        match byte {
            b' ' | b'\t' | b'\n' | b'\\' | b'#' => {
                escaped.extend(format!("\\{byte:03o}").into_bytes());
            }
            _ => escaped.push(byte),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_mount_reads_them() {
        let line = |target: &str, options, systemd| {
            let line = line(
                OsStr::new("vda"),
                target.as_bytes(),
                "ext4",
                options,
                systemd,
            );
            String::from_utf8(line).unwrap()
        };
        assert_eq!(
            line("/var/lib/docker", "noatime", false),
            "/dev/vda /var/lib/docker ext4 defaults,noatime 0 0\n"
        );
        assert_eq!(
            line("/a b\\c\t#", "", true),
            "/dev/vda /a\\040b\\134c\\011\\043 ext4 defaults,nofail 0 0\n"
        );
    }
}
