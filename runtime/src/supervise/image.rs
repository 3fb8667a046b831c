//! Paths in the image's tree, which belongs to somebody hostile: its symlinks are followed
//! inside it, as the guest will, or not at all.

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{OFlag, OpenHow, ResolveFlag, openat2};
use nix::sys::stat::{Mode, mkdirat};

/// The root of an image's tree.
#[derive(Debug)]
pub(super) struct Image(OwnedFd);

impl Image {
    pub(super) fn new(root: OwnedFd) -> Self {
        Self(root)
    }

    /// Opens `path`, with its symlinks followed inside the tree.
    pub(super) fn open(&self, path: &Path, flags: OFlag) -> io::Result<OwnedFd> {
        open(&self.0, path, flags, ResolveFlag::RESOLVE_IN_ROOT)
    }

    /// What is at `path`, without reading it.
    pub(super) fn find(&self, path: &Path) -> io::Result<OwnedFd> {
        self.open(path, OFlag::O_PATH)
    }

    /// What is at `path` if none of it is a symlink.
    pub(super) fn find_plain(&self, path: &Path) -> io::Result<OwnedFd> {
        let resolve = ResolveFlag::RESOLVE_IN_ROOT | ResolveFlag::RESOLVE_NO_SYMLINKS;
        open(&self.0, path, OFlag::O_PATH, resolve)
    }

    /// The directory at `path`, made with its parents where they are missing.
    pub(super) fn make_directory(&self, path: &Path) -> io::Result<OwnedFd> {
        let directory = OFlag::O_PATH | OFlag::O_DIRECTORY;
        match self.open(path, directory) {
            Err(e) if e.kind() == io::ErrorKind::NotFound => {}
            found => return found,
        }
        let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
            return Err(io::ErrorKind::InvalidInput.into());
        };
        let parent = self.make_directory(parent)?;
        match mkdirat(&parent, name, Mode::from_bits_truncate(0o755)) {
            // A symlink that leads nowhere: the next line says so.
            Ok(()) | Err(Errno::EEXIST) => self.open(path, directory),
            Err(e) => Err(e.into()),
        }
    }
}

impl AsFd for Image {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}

fn open(root: &OwnedFd, path: &Path, flags: OFlag, resolve: ResolveFlag) -> io::Result<OwnedFd> {
    let how = OpenHow::new()
        .flags(flags | OFlag::O_CLOEXEC)
        .resolve(resolve);
    loop {
        match openat2(root, path, how) {
            // Something was renamed or mounted meanwhile.
            Err(Errno::EAGAIN | Errno::EINTR) => {}
            result => return Ok(result?),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fs::{self, File};
    use std::os::unix::fs::symlink;

    use super::*;

    fn image() -> (tempfile::TempDir, Image) {
        let dir = tempfile::tempdir().unwrap();
        let image = Image::new(File::open(dir.path()).unwrap().into());
        (dir, image)
    }

    #[test]
    fn symlinks_stay_inside() {
        let (dir, image) = image();
        fs::create_dir_all(dir.path().join("etc/real")).unwrap();
        symlink("/etc", dir.path().join("absolute")).unwrap();
        symlink("../../../../etc", dir.path().join("upwards")).unwrap();
        for path in ["/absolute/real", "/upwards/real", "/etc/real"] {
            let found = image.find(Path::new(path)).unwrap();
            let expected = fs::metadata(dir.path().join("etc/real")).unwrap();
            let inode = std::os::unix::fs::MetadataExt::ino(&expected);
            let found = nix::sys::stat::fstat(found).unwrap();
            assert_eq!(found.st_ino, inode, "{path}");
        }
        image.find_plain(Path::new("/absolute/real")).unwrap_err();
        image.find_plain(Path::new("/etc/real")).unwrap();
    }

    #[test]
    fn directories_are_made_where_symlinks_lead() {
        let (dir, image) = image();
        symlink("/srv", dir.path().join("link")).unwrap();
        fs::create_dir(dir.path().join("srv")).unwrap();
        image.make_directory(Path::new("/link/a/b")).unwrap();
        assert!(dir.path().join("srv/a/b").is_dir());
        image.make_directory(Path::new("/link/a/b")).unwrap();
        image.make_directory(Path::new("/")).unwrap();

        symlink("/nowhere", dir.path().join("dangling")).unwrap();
        image.make_directory(Path::new("/dangling/a")).unwrap_err();
        fs::write(dir.path().join("file"), "").unwrap();
        image.make_directory(Path::new("/file")).unwrap_err();
        image.make_directory(Path::new("/file/a")).unwrap_err();
    }
}
