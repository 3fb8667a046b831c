//! Paths in a container's root filesystem. It may be hostile: no symbolic link leads out of
//! it, and nothing in it can hold us up.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, open, openat2, readlinkat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, mkdirat};

/// As many links are followed to what is not there yet, as the kernel follows to what is.
const MAX_LINKS: u32 = 40;

/// A directory with a container's root filesystem.
#[derive(Debug)]
pub struct Image {
    root: OwnedFd,
}

impl Image {
    /// Opens the directory.
    pub fn open(path: &Path) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let root = open(path, flags, Mode::empty())?;
        Ok(Self { root })
    }

    /// Finds what is at `path`, an absolute path of the container, at the end of any links.
    pub fn find(&self, path: &Path) -> nix::Result<Found> {
        Found::of(self.open_at(path, OFlag::O_PATH)?)
    }

    /// Finds what is at `path` if no part of that is a symbolic link.
    pub fn find_plain(&self, path: &Path) -> nix::Result<Found> {
        let plain = ResolveFlag::RESOLVE_NO_SYMLINKS;
        Found::of(self.open_as(path, OFlag::O_PATH, plain)?)
    }

    /// Opens the directory at `path` to be read.
    pub fn directory(&self, path: &Path) -> nix::Result<OwnedFd> {
        self.open_at(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY)
    }

    /// Finds the directory at `path`, made with its parents where they are missing: where links
    /// lead, as runc has it.
    pub fn make_directory(&self, path: &Path) -> nix::Result<OwnedFd> {
        self.make_by_links(path, MAX_LINKS)
    }

    fn make_by_links(&self, path: &Path, links: u32) -> nix::Result<OwnedFd> {
        let directory = OFlag::O_PATH | OFlag::O_DIRECTORY;
        match self.open_at(path, directory) {
            Err(Errno::ENOENT) => {}
            result => return result,
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(Errno::EINVAL);
        };
        let above = self.make_by_links(parent, links)?;
        match mkdirat(&above, name, Mode::from_bits_truncate(0o755)) {
            Ok(()) => self.open_at(path, directory),
            Err(Errno::EEXIST) => match readlinkat(&above, name) {
                Ok(target) => {
                    let links = links.checked_sub(1).ok_or(Errno::ELOOP)?;
                    self.make_by_links(&parent.join(target), links)
                }
                // Made by somebody else just now.
                Err(_) => self.open_at(path, directory),
            },
            Err(e) => Err(e),
        }
    }

    /// `path` is a symbolic link itself.
    pub fn is_link(&self, path: &Path) -> bool {
        let fd = self.open_at(path, OFlag::O_PATH | OFlag::O_NOFOLLOW);
        let stat = fd.and_then(fstat);
        stat.is_ok_and(|stat| kind(&stat) == SFlag::S_IFLNK)
    }

    /// The first `limit` bytes of the regular file at `path`; `None` if there is no such file.
    pub fn read(&self, path: &Path, limit: u64) -> Option<Vec<u8>> {
        // A device would do things on being opened, so we look before we do.
        if kind(&self.find(path).ok()?.stat) != SFlag::S_IFREG {
            return None;
        }
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY;
        let fd = self.open_at(path, flags).ok()?;
        let stat = fstat(&fd).ok()?;
        if kind(&stat) != SFlag::S_IFREG {
            return None;
        }
        let size = u64::try_from(stat.st_size).ok()?.min(limit);
        let mut bytes = Vec::with_capacity(usize::try_from(size).ok()?);
        File::from(fd).take(limit).read_to_end(&mut bytes).ok()?;
        Some(bytes)
    }

    /// The path in the container of what was found, without links; `None` if it has none any
    /// more.
    pub fn real_path(&self, found: &Found) -> Option<PathBuf> {
        let inside = path_of(found).ok()?;
        let inside = inside.strip_prefix(path_of(self).ok()?).ok()?;
        Some(Path::new("/").join(inside))
    }

    fn open_at(&self, path: &Path, flags: OFlag) -> nix::Result<OwnedFd> {
        self.open_as(path, flags, ResolveFlag::RESOLVE_NO_MAGICLINKS)
    }

    fn open_as(&self, path: &Path, flags: OFlag, resolve: ResolveFlag) -> nix::Result<OwnedFd> {
        let how = OpenHow::new()
            .flags(flags | OFlag::O_CLOEXEC)
            .resolve(ResolveFlag::RESOLVE_IN_ROOT | resolve);
        // The kernel gives up when something is renamed meanwhile (openat2(2), EAGAIN).
        for _ in 0..16 {
            match openat2(&self.root, path, how) {
                Err(Errno::EAGAIN) => {}
                result => return result,
            }
        }
        Err(Errno::EAGAIN)
    }
}

impl AsFd for Image {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }
}

/// Something in an image.
#[derive(Debug)]
pub struct Found {
    fd: OwnedFd,
    stat: FileStat,
}

impl Found {
    fn of(fd: OwnedFd) -> nix::Result<Self> {
        let stat = fstat(&fd)?;
        Ok(Self { fd, stat })
    }

    /// It is a regular file.
    pub fn is_file(&self) -> bool {
        kind(&self.stat) == SFlag::S_IFREG
    }

    /// It is a Unix socket.
    pub fn is_socket(&self) -> bool {
        kind(&self.stat) == SFlag::S_IFSOCK
    }

    pub fn is_directory(&self) -> bool {
        kind(&self.stat) == SFlag::S_IFDIR
    }

    /// Somebody may execute it.
    pub fn is_executable(&self) -> bool {
        !self.is_directory() && self.stat.st_mode & 0o111 != 0
    }
}

impl AsFd for Found {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Where the open file `fd` is for this process, a path without links.
pub fn path_of(fd: impl AsFd) -> io::Result<PathBuf> {
    std::fs::read_link(format!("/proc/self/fd/{}", fd.as_fd().as_raw_fd()))
}

fn kind(stat: &FileStat) -> SFlag {
    SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits())
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;

    use super::*;

    #[test]
    fn links_stay_inside() {
        let outside = tempfile::tempdir().unwrap();
        fs::write(outside.path().join("secret"), "secret").unwrap();
        let dir = outside.path().join("root");
        fs::create_dir_all(dir.join("usr/bin")).unwrap();
        fs::write(dir.join("usr/bin/file"), "inside").unwrap();
        symlink("../secret", dir.join("up")).unwrap();
        symlink(outside.path().join("secret"), dir.join("absolute")).unwrap();
        symlink("/usr/bin", dir.join("bin")).unwrap();
        symlink("loop", dir.join("loop")).unwrap();
        symlink("/proc/self/root", dir.join("magic")).unwrap();
        let image = Image::open(&dir).unwrap();
        assert_eq!(image.read(Path::new("/bin/file"), 3).unwrap(), b"ins");
        for path in [
            "/up",
            "/absolute",
            "/../secret",
            "/magic/etc/passwd",
            "/loop",
            "/none",
        ] {
            assert_eq!(image.read(Path::new(path), 10), None, "{path}");
        }
        let found = image.find(Path::new("/bin/file")).unwrap();
        assert_eq!(image.real_path(&found), Some("/usr/bin/file".into()));
        assert!(image.is_link(Path::new("/bin")) && !image.is_link(Path::new("/usr")));
        assert_eq!(image.find(Path::new("/loop")).unwrap_err(), Errno::ELOOP);
    }

    #[test]
    fn links_can_be_refused() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("usr/bin")).unwrap();
        symlink("/usr/bin", dir.path().join("bin")).unwrap();
        symlink("bin", dir.path().join("usr/sbin")).unwrap();
        let image = Image::open(dir.path()).unwrap();
        assert!(image.find_plain(Path::new("/usr/bin")).is_ok());
        for path in ["/bin", "/usr/sbin", "/bin/.."] {
            let error = image.find_plain(Path::new(path)).unwrap_err();
            assert_eq!(error, Errno::ELOOP, "{path}");
        }
    }

    #[test]
    fn directories_are_made_where_links_lead() {
        let dir = tempfile::tempdir().unwrap();
        let image = Image::open(dir.path()).unwrap();
        symlink("/srv", dir.path().join("link")).unwrap();
        symlink("../../../escape", dir.path().join("up")).unwrap();
        symlink("/nowhere", dir.path().join("dangling")).unwrap();
        symlink("around", dir.path().join("around")).unwrap();
        fs::write(dir.path().join("file"), "").unwrap();
        fs::create_dir(dir.path().join("srv")).unwrap();
        for _ in 0..2 {
            image.make_directory(Path::new("/link/a/b")).unwrap();
            assert!(dir.path().join("srv/a/b").is_dir());
        }
        image.make_directory(Path::new("/")).unwrap();
        for (path, made) in [("/dangling/a", "nowhere/a"), ("/up", "escape")] {
            image.make_directory(Path::new(path)).unwrap();
            assert!(dir.path().join(made).is_dir());
        }
        for path in ["/file", "/file/a", "/around", "/around/a"] {
            image.make_directory(Path::new(path)).unwrap_err();
        }
        assert!(!dir.path().parent().unwrap().join("escape").exists());
    }

    #[test]
    fn only_regular_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        mkfifo(&dir.path().join("fifo"), Mode::S_IRWXU).unwrap();
        fs::create_dir(dir.path().join("dir")).unwrap();
        fs::write(dir.path().join("empty"), "").unwrap();
        let image = Image::open(dir.path()).unwrap();
        assert_eq!(image.read(Path::new("/fifo"), 10), None);
        assert_eq!(image.read(Path::new("/dir"), 10), None);
        assert_eq!(image.read(Path::new("/empty"), 10), Some(Vec::new()));
    }
}
