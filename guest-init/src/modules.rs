//! Kernel modules of the initramfs.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::kmod::{ModuleInitFlags, finit_module};

use crate::kernel_log;

/// Loads the modules that the file `list` names, one path a line, in its order, and returns
/// their paths. No such file means no modules.
///
/// A module that is there already is as good as loaded. Any other failure is logged and the
/// rest goes on: the kernel may have a use for the others, and what cannot work without it
/// says so itself.
pub(crate) fn load(list: &Path) -> Vec<PathBuf> {
    let list = match fs::read(list) {
        Ok(list) => list,
        Err(e) if e.kind() == io::ErrorKind::NotFound => return Vec::new(),
        Err(e) => {
            kernel_log::error(&format!("cannot read {}: {e}", list.display()));
            return Vec::new();
        }
    };
    let paths = parse(&list);
    for path in &paths {
        if let Err(e) = load_one(path) {
            kernel_log::error(&format!("cannot load module {}: {e}", path.display()));
        }
    }
    paths
}

fn load_one(path: &Path) -> io::Result<()> {
    let file = File::open(path)?;
    match finit_module(&file, c"", ModuleInitFlags::empty()) {
        Ok(()) | Err(Errno::EEXIST) => Ok(()),
        // The device that it drives is not there.
        Err(Errno::ENODEV) => Ok(()),
        Err(e) => Err(e.into()),
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
        assert!(load(Path::new("/nonexistent/modules")).is_empty());
    }
}
