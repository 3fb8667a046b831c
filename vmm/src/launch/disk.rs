//! Disks: raw files and block devices, locked so that no two machines write to one. The lock
//! belongs to the open file that the machine process gets, and goes with it.

use std::fs::{File, OpenOptions, TryLockError};
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag, OpenHow, ResolveFlag, openat2};
use thiserror::Error;

use super::patience::insist;

/// Bytes of a sector, of which a disk has a whole number.
const SECTOR: u64 = 512;

/// Greatest length of a disk's serial number (virtio 1.2, §5.2.6: `VIRTIO_BLK_T_GET_ID`).
pub const MAX_ID: usize = 20;

/// Greatest number of queues of a disk.
pub const MAX_QUEUES: u16 = 64;

/// A disk for the guest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DiskSpec {
    /// A raw file or block device.
    pub path: PathBuf,
    /// No part of the path may be a symbolic link: others can change what it leads through.
    pub no_links: bool,
    pub read_only: bool,
    /// Serial number that the guest reads; at most [`MAX_ID`] bytes.
    pub id: String,
    /// Number of queues, 1 to [`MAX_QUEUES`].
    pub queues: u16,
}

/// Why a disk cannot be used.
#[derive(Debug, Error)]
#[error("The disk {} {what}", .path.display())]
pub struct Error {
    path: PathBuf,
    what: &'static str,
    #[source]
    source: Option<io::Error>,
}

/// Opens the disk and locks it: shared to read, exclusively to write.
pub(crate) fn open(spec: &DiskSpec) -> Result<File, Error> {
    let refuse = |what| Error {
        path: spec.path.clone(),
        what,
        source: None,
    };
    let failed = |what| {
        move |source: io::Error| Error {
            path: spec.path.clone(),
            what,
            source: Some(source),
        }
    };
    // A device would do things on being opened, so it is looked at before.
    let found = find(spec).map_err(failed("cannot be used"))?;
    let kind = found
        .metadata()
        .map_err(failed("cannot be used"))?
        .file_type();
    if !(kind.is_file() || kind.is_block_device()) {
        return Err(refuse(
            "is neither a file nor a block device, one of which a disk must be",
        ));
    }
    let mut file = OpenOptions::new()
        .read(true)
        .write(!spec.read_only)
        .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(format!("/proc/self/fd/{}", found.as_raw_fd()))
        .map_err(failed(if spec.read_only {
            "cannot be opened"
        } else {
            "cannot be opened for writing (add `,ro` if reading is enough)"
        }))?;
    let lock = || match spec.read_only {
        true => file.try_lock_shared(),
        false => file.try_lock(),
    };
    let locked = insist(lock, |e| matches!(e, TryLockError::WouldBlock));
    locked.map_err(|e| match e {
        TryLockError::WouldBlock => refuse("is in use by another machine"),
        TryLockError::Error(e) => failed("cannot be locked")(e),
    })?;
    // A block device's metadata has no length; its end has.
    let size = file
        .seek(SeekFrom::End(0))
        .and_then(|size| file.rewind().map(|()| size))
        .map_err(failed("has no size"))?;
    if size < SECTOR {
        return Err(refuse(
            "is too small: a disk has at least one sector of 512 bytes",
        ));
    }
    if !size.is_multiple_of(SECTOR) {
        return Err(refuse("is no whole number of 512-byte sectors long"));
    }
    Ok(file)
}

/// What is at its path, open to be looked at only.
fn find(spec: &DiskSpec) -> io::Result<File> {
    let how = OpenHow::new().flags(OFlag::O_PATH | OFlag::O_CLOEXEC);
    let how = match spec.no_links {
        true => how.resolve(ResolveFlag::RESOLVE_NO_SYMLINKS),
        false => how,
    };
    Ok(openat2(AT_FDCWD, &spec.path, how)?.into())
}

/// The serial number of a disk that was given none: its file's name, as far as that is
/// printable ASCII.
pub fn default_id(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    let bytes = std::os::unix::ffi::OsStrExt::as_bytes(name);
    let printable = bytes.iter().filter(|b| b.is_ascii_graphic());
    printable.take(MAX_ID).map(|&b| char::from(b)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(path: &Path, read_only: bool) -> DiskSpec {
        DiskSpec {
            path: path.into(),
            no_links: false,
            read_only,
            id: String::new(),
            queues: 1,
        }
    }

    #[test]
    fn writers_exclude_everybody_and_readers_only_writers() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        std::fs::write(&path, [0; 1024]).unwrap();
        let writer = open(&spec(&path, false)).unwrap();
        for read_only in [false, true] {
            let error = open(&spec(&path, read_only)).unwrap_err();
            assert!(error.to_string().ends_with("is in use by another machine"));
        }
        drop(writer);
        let _one = open(&spec(&path, true)).unwrap();
        let _two = open(&spec(&path, true)).unwrap();
        open(&spec(&path, false)).unwrap_err();
    }

    #[test]
    fn what_is_no_disk_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("disk");
        open(&spec(&path, true)).unwrap_err();
        open(&spec(dir.path(), true)).unwrap_err();
        for (length, ok) in [(0, false), (511, false), (512, true), (513, false)] {
            std::fs::write(&path, vec![0; length]).unwrap();
            assert_eq!(open(&spec(&path, true)).is_ok(), ok, "{length}");
        }
    }

    #[test]
    fn links_are_followed_where_they_may_be() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("disk"), [0; 512]).unwrap();
        let link = dir.path().join("link");
        std::os::unix::fs::symlink("disk", &link).unwrap();
        let mut spec = spec(&link, false);
        open(&spec).unwrap();
        spec.no_links = true;
        open(&spec).unwrap_err();
        spec.path = dir.path().join("disk");
        open(&spec).unwrap();
    }

    #[test]
    fn a_default_id_fits_and_is_printable() {
        assert_eq!(default_id(Path::new("/a/data disk.img")), "datadisk.img");
        assert_eq!(default_id(Path::new("/")), "");
        assert_eq!(default_id(Path::new(&"x".repeat(40))).len(), MAX_ID);
    }
}
