//! Paths in the root filesystem, which belongs to the user and may hold any symlink.
//!
//! Every path is resolved by the kernel with the directory as its root, so that no symlink
//! and no `..` leads out of it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat, openat2, readlinkat};
use nix::sys::stat::{Mode, SFlag, fstat, mkdirat};

/// Dangling symlinks that are followed to make one path, as many as the kernel follows.
const MAX_LINKS: u32 = 40;

/// A directory taken as the root of all paths.
#[derive(Debug)]
pub(crate) struct RootDir {
    fd: OwnedFd,
}

impl AsFd for RootDir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<OwnedFd> for RootDir {
    /// Takes the directory `fd` as root.
    fn from(fd: OwnedFd) -> Self {
        Self { fd }
    }
}

impl RootDir {
    /// Takes the directory at `path`, a trusted one, as root.
    pub(crate) fn new(path: &Path) -> nix::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self {
            fd: open(path, flags, Mode::empty())?,
        })
    }

    /// Opens `path` in it. `O_CLOEXEC` is added, and `O_NOCTTY` where it can be.
    pub(crate) fn open(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        let always = match flags.contains(OFlag::O_PATH) {
            true => OFlag::O_CLOEXEC,
            false => OFlag::O_CLOEXEC | OFlag::O_NOCTTY,
        };
        let how = OpenHow::new()
            .flags(flags | always)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_MAGICLINKS);
        loop {
            match openat2(&self.fd, path, how) {
                // Something was renamed during the walk, so the kernel could not be sure.
                Err(Errno::EAGAIN | Errno::EINTR) => {}
                result => return result,
            }
        }
    }

    /// The directory at `path`, made with mode 0755 if it is not there, as are its parents,
    /// also where a dangling symlink leads. It comes back as an `O_PATH` descriptor; the
    /// flag says whether it was there before.
    pub(crate) fn make_dir(&self, path: &Path) -> io::Result<(OwnedFd, bool)> {
        self.make(path, Kind::Directory, MAX_LINKS)
    }

    /// The file at `path`, made empty with mode 0644 if it is not there, as are its
    /// parents, as an `O_PATH` descriptor. It may be of any kind but a directory.
    pub(crate) fn make_file(&self, path: &Path) -> io::Result<OwnedFd> {
        self.make(path, Kind::File, MAX_LINKS).map(|(fd, _)| fd)
    }

    fn make(&self, path: &Path, kind: Kind, links: u32) -> io::Result<(OwnedFd, bool)> {
        match self.open(path, OFlag::O_PATH) {
            Ok(fd) => return kind.check(fd).map(|fd| (fd, true)),
            Err(Errno::ENOENT) => {}
            Err(e) => return Err(e.into()),
        }
        let (parent, name) = split(path)?;
        let (dir, _) = self.make(&parent, Kind::Directory, links)?;
        let made = match kind {
            Kind::Directory => mkdirat(&dir, name.as_os_str(), Mode::from_bits_truncate(0o755)),
            Kind::File => {
                let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
                openat(
                    &dir,
                    name.as_os_str(),
                    flags,
                    Mode::from_bits_truncate(0o644),
                )
                .map(drop)
            }
        };
        match made {
            Ok(()) => {}
            Err(Errno::EEXIST) => {
                let Ok(target) = readlinkat(&dir, name.as_os_str()) else {
                    // Made by somebody else just now.
                    return self.reopen(&dir, &name, kind);
                };
                let links = links.checked_sub(1).ok_or(Errno::ELOOP)?;
                return self.make(&parent.join(target), kind, links);
            }
            Err(e) => return Err(e.into()),
        }
        let (fd, _) = self.reopen(&dir, &name, kind)?;
        Ok((fd, false))
    }

    fn reopen(&self, dir: &OwnedFd, name: &OsStr, kind: Kind) -> io::Result<(OwnedFd, bool)> {
        let flags = OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC;
        let fd = openat(dir, name, flags, Mode::empty())?;
        Ok((kind.check(fd)?, true))
    }

    /// The content of the regular file at `path`, up to `limit` bytes; `None` if there is
    /// no such file.
    pub(crate) fn read_file(&self, path: &Path, limit: u64) -> io::Result<Option<Vec<u8>>> {
        // Not to block on a FIFO, nor to wake a device.
        let fd = match self.open(path, OFlag::O_RDONLY | OFlag::O_NONBLOCK) {
            Ok(fd) => fd,
            Err(Errno::ENOENT | Errno::ENOTDIR) => return Ok(None),
            Err(e) => return Err(e.into()),
        };
        if file_type(&fd)? != SFlag::S_IFREG {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "not a regular file",
            ));
        }
        let mut content = Vec::new();
        File::from(fd).take(limit + 1).read_to_end(&mut content)?;
        if content.len() as u64 > limit {
            return Err(Errno::EFBIG.into());
        }
        Ok(Some(content))
    }

    /// The paths that `path` goes through if its last component is a symlink: itself, then
    /// each target in turn, the last being no symlink. Empty if there is nothing.
    pub(crate) fn link_chain(&self, path: &Path) -> Vec<PathBuf> {
        let mut chain = Vec::new();
        let mut path = path.to_owned();
        for _ in 0..=MAX_LINKS {
            let Ok(fd) = self.open(&path, OFlag::O_PATH | OFlag::O_NOFOLLOW) else {
                return Vec::new();
            };
            chain.push(path.clone());
            if file_type(&fd) != Ok(SFlag::S_IFLNK) {
                return chain;
            }
            let Ok(target) = readlinkat(&fd, "") else {
                return Vec::new();
            };
            path = path.parent().unwrap_or(Path::new("/")).join(target);
        }
        Vec::new()
    }
}

#[derive(Clone, Copy)]
enum Kind {
    Directory,
    File,
}

impl Kind {
    fn check(self, fd: OwnedFd) -> io::Result<OwnedFd> {
        let directory = file_type(&fd)? == SFlag::S_IFDIR;
        match (self, directory) {
            (Self::Directory, false) => Err(Errno::ENOTDIR.into()),
            (Self::File, true) => Err(Errno::EISDIR.into()),
            _ => Ok(fd),
        }
    }
}

fn file_type(fd: &OwnedFd) -> nix::Result<SFlag> {
    Ok(SFlag::from_bits_truncate(fstat(fd)?.st_mode) & SFlag::S_IFMT)
}

/// The parent and the last component of a path of which something is missing.
fn split(path: &Path) -> io::Result<(PathBuf, OsString)> {
    // The kernel alone knows where `..` leads, and it cannot tell for what is missing.
    let trimmed = without_slashes(path.as_os_str().as_bytes());
    let at = trimmed.iter().rposition(|&byte| byte == b'/');
    let (parent, name) = match at {
        Some(at) => (&trimmed[..=at], &trimmed[at + 1..]),
        None => (&b"/"[..], trimmed),
    };
    if matches!(name, b"" | b"..") {
        return Err(Errno::ENOENT.into());
    }
    Ok((
        PathBuf::from(OsStr::from_bytes(parent)),
        OsStr::from_bytes(name).to_owned(),
    ))
}

/// `bytes` without slashes at the end.
fn without_slashes(bytes: &[u8]) -> &[u8] {
    let last = bytes.iter().rposition(|&byte| byte != b'/');
    &bytes[..last.map_or(0, |at| at + 1)]
}

#[cfg(test)]
mod tests;
