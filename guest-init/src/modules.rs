//! Kernel modules of the initramfs.

use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::kmod::{ModuleInitFlags, finit_module};

use crate::kernel_log;
use crate::rootdir::RootDir;

/// Modules that no command waits for: they are loaded once it runs.
const LATE: [&str; 1] = ["virtio_rng.ko"];

/// The kernel modules of the initramfs.
#[derive(Debug)]
pub(crate) struct Modules {
    paths: Vec<PathBuf>,
}

impl Modules {
    /// Reads which there are from the file `list`: one path a line, in the order to load
    /// them. No such file means no modules.
    pub(crate) fn read(list: &Path) -> Self {
        let list = match fs::read(list) {
            Ok(list) => list,
            Err(e) if e.kind() == io::ErrorKind::NotFound => Vec::new(),
            Err(e) => {
                kernel_log::error(&format!("cannot read {}: {e}", list.display()));
                Vec::new()
            }
        };
        Self {
            paths: parse(&list),
        }
    }

    /// Their paths.
    pub(crate) fn paths(&self) -> &[PathBuf] {
        &self.paths
    }

    /// Loads those that the machine needs before its command.
    pub(crate) fn load_early(&self, initramfs: &RootDir) {
        self.load(initramfs, |path| !is_late(path));
    }

    /// Loads the others.
    pub(crate) fn load_late(&self, initramfs: &RootDir) {
        self.load(initramfs, is_late);
    }

    /// A module that fails is logged and the rest goes on: the kernel may have a use for the
    /// others, and what cannot work without it says so itself.
    fn load(&self, initramfs: &RootDir, which: fn(&Path) -> bool) {
        for path in self.paths.iter().filter(|path| which(path)) {
            if let Err(e) = load_one(initramfs, path) {
                kernel_log::error(&format!("cannot load module {}: {e}", path.display()));
            }
        }
    }
}

fn is_late(path: &Path) -> bool {
    LATE.iter().any(|late| path.ends_with(late))
}

fn load_one(initramfs: &RootDir, path: &Path) -> nix::Result<()> {
    let file = initramfs.open(path, OFlag::O_RDONLY)?;
    match finit_module(&file, c"", ModuleInitFlags::empty()) {
        // It is there already, or the device that it drives is not.
        Err(Errno::EEXIST | Errno::ENODEV) => Ok(()),
        result => result,
    }
}

fn parse(list: &[u8]) -> Vec<PathBuf> {
    list.split(|&byte| byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty())
        .map(|line| PathBuf::from(OsStr::from_bytes(line)))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_has_one_path_a_line() {
        let paths = parse(b"/runcvm/a.ko\n\n  /runcvm/b c.ko \n/runcvm/d.ko");
        let expected = ["/runcvm/a.ko", "/runcvm/b c.ko", "/runcvm/d.ko"];
        assert_eq!(paths, expected.map(PathBuf::from));
        assert!(parse(b"").is_empty());
    }

    #[test]
    fn a_missing_list_is_no_modules() {
        let modules = Modules::read(Path::new("/nonexistent/modules"));
        assert!(modules.paths().is_empty());
    }

    #[test]
    fn modules_are_told_apart_by_their_files_names() {
        assert!(is_late(Path::new("/lib/modules/virtio_rng.ko")));
        assert!(!is_late(Path::new("/lib/modules/not_virtio_rng.ko")));
        assert!(!is_late(Path::new("/lib/virtio_rng.ko/virtiofs.ko")));
    }
}
