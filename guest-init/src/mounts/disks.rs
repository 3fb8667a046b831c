//! Filesystems on disks.

use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use anyhow::{Context, Result};
use nix::dir::Dir;
use nix::fcntl::OFlag;
use nix::libc::dev_t;
use nix::sys::stat::{Mode, SFlag, makedev, mknod};
use nix::unistd::{fchdir, unlink};

use super::options;
use crate::rootdir::RootDir;

/// Greatest length of what sysfs says of a disk.
const MAX_ATTRIBUTE: u64 = 4096;

/// Mounts the `filesystem` on the disk with this serial number.
pub(super) fn mount(
    root: &RootDir,
    path: &Path,
    serial: &str,
    filesystem: &str,
    options: &[u8],
) -> Result<()> {
    let (name, device) =
        find(root, serial)?.with_context(|| format!("there is no disk {serial}"))?;
    let parsed = options::parse(options)?;
    let (target, _) = root.make_dir(path)?;
    // The root filesystem may have anything at /dev, and the initramfs nothing. The table of
    // mounts shows this path.
    let node = &Path::new("/dev").join(name);
    fs::create_dir_all("/dev").context("cannot make /dev")?;
    mknod(node, SFlag::S_IFBLK, Mode::S_IRUSR, device).context("cannot make a device file")?;
    let mounted = fchdir(&target).and_then(|()| {
        let data = Some(parsed.data.as_str());
        nix::mount::mount(Some(node), ".", Some(filesystem), parsed.flags, data)
    });
    unlink(node).context("cannot remove a device file")?;
    mounted.with_context(|| format!("{filesystem} with options {:?}", parsed.data))
}

/// The name of the disk with this serial number, as in `/dev`.
pub(super) fn name(root: &RootDir, serial: &str) -> Result<OsString> {
    let found = find(root, serial)?;
    Ok(found
        .with_context(|| format!("there is no disk {serial}"))?
        .0)
}

/// Name and number of the disk with this serial number, by what sysfs says.
fn find(root: &RootDir, serial: &str) -> Result<Option<(OsString, dev_t)>> {
    let blocks = Path::new("/sys/block");
    let mut dir = Dir::from_fd(root.open(blocks, OFlag::O_RDONLY | OFlag::O_DIRECTORY)?)?;
    for entry in dir.iter() {
        let name = OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned();
        let disk = blocks.join(&name);
        let attribute = |name| root.read_file(&disk.join(name), MAX_ATTRIBUTE);
        if let Ok(Some(found)) = attribute("serial")
            && found.trim_ascii() == serial.as_bytes()
        {
            let device = attribute("dev")?.unwrap_or_default();
            let number = device_number(&String::from_utf8_lossy(&device));
            return Ok(number.map(|number| (name, number)));
        }
    }
    Ok(None)
}

/// A device number as sysfs writes it: `MAJOR:MINOR`.
fn device_number(text: &str) -> Option<dev_t> {
    let (major, minor) = text.trim_ascii().split_once(':')?;
    Some(makedev(major.parse().ok()?, minor.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_numbers_are_read_as_sysfs_writes_them() {
        assert_eq!(device_number("254:16\n"), Some(makedev(254, 16)));
        for wrong in ["", "254", "254:", "a:b"] {
            assert_eq!(device_number(wrong), None, "{wrong:?}");
        }
    }
}
