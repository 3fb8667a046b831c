//! The kernel's newer calls for mounts, which take descriptors where mount(2) takes paths: no
//! link that an image has in a path can lead them elsewhere.

use std::ffi::{CStr, OsString};
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sys::stat::Mode;
use rustix::mount::{
    FsMountFlags, FsOpenFlags, MountAttrFlags, MoveMountFlags, OpenTreeFlags, fsconfig_create,
    fsconfig_set_string, fsmount, fsopen, move_mount, open_tree,
};

/// A new tmpfs without setuid programs and devices, mounted nowhere yet. Each option is a name
/// and its value.
pub(super) fn new_tmpfs(options: &[(&CStr, &CStr)]) -> io::Result<OwnedFd> {
    let context = fsopen(c"tmpfs", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for (name, value) in options {
        fsconfig_set_string(&context, *name, *value)?;
    }
    fsconfig_create(&context)?;
    let attributes = MountAttrFlags::MOUNT_ATTR_NOSUID | MountAttrFlags::MOUNT_ATTR_NODEV;
    Ok(fsmount(
        &context,
        FsMountFlags::FSMOUNT_CLOEXEC,
        attributes,
    )?)
}

/// Moves the mount whose root `mount` is to `path` in `dir`; with all that is mounted in it.
pub(super) fn attach(mount: impl AsFd, dir: impl AsFd, path: &CStr) -> io::Result<()> {
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(mount, c"", dir, path, flags)?)
}

/// Another mount of the file or directory `at`, mounted nowhere yet.
pub(super) fn bind(at: impl AsFd) -> io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH;
    Ok(open_tree(at, c"", flags)?)
}

/// Restricts `tree`, a mount that is nowhere yet, and all that is mounted in it. A kernel before
/// 5.12 cannot, which is no error: false.
pub(super) fn restrict(tree: impl AsFd, attributes: u64) -> nix::Result<bool> {
    let attributes = libc::mount_attr {
        attr_set: attributes,
        attr_clr: 0,
        propagation: 0,
        userns_fd: 0,
    };
    let flags = libc::AT_EMPTY_PATH | libc::AT_RECURSIVE;
    // SAFETY: the path is a C string, and the structure is valid for its size.
    let done = unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            tree.as_fd().as_raw_fd(),
            c"".as_ptr(),
            flags,
            &raw const attributes,
            size_of_val(&attributes),
        )
    };
    match Errno::result(done) {
        Ok(_) => Ok(true),
        Err(Errno::ENOSYS) => Ok(false),
        Err(e) => Err(e),
    }
}

/// A mount of this process's namespace.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Mount {
    pub(super) id: u64,
    /// The mount that it is mounted on.
    pub(super) parent: u64,
    /// Where, as seen from this process's root.
    pub(super) point: PathBuf,
    /// Its filesystem's type.
    pub(super) kind: String,
}

/// The process's own directory of a procfs, wherever that is mounted.
#[derive(Debug)]
pub(super) struct ProcSelf(OwnedFd);

impl ProcSelf {
    /// That of the procfs whose root is `proc`.
    pub(super) fn of(proc: impl AsFd) -> io::Result<Self> {
        let flags = OFlag::O_PATH | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        Ok(Self(openat(proc, c"self", flags, Mode::empty())?))
    }

    fn read(&self, name: &str) -> io::Result<Vec<u8>> {
        let fd = openat(
            &self.0,
            name,
            OFlag::O_RDONLY | OFlag::O_CLOEXEC,
            Mode::empty(),
        )?;
        let mut bytes = Vec::new();
        std::fs::File::from(fd).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// All mounts below the process's root.
    pub(super) fn mounts(&self) -> io::Result<Vec<Mount>> {
        let table = self.read("mountinfo")?;
        let lines = table.split(|&b| b == b'\n').filter(|line| !line.is_empty());
        lines
            .map(|line| parse(line).ok_or_else(|| io::ErrorKind::InvalidData.into()))
            .collect()
    }

    /// The mount that `fd` was opened on.
    pub(super) fn mount_of(&self, fd: BorrowedFd<'_>) -> io::Result<u64> {
        let text = self.read(&format!("fdinfo/{}", fd.as_raw_fd()))?;
        let text = String::from_utf8_lossy(&text);
        text.lines()
            .find_map(|line| line.strip_prefix("mnt_id:")?.trim().parse().ok())
            .ok_or_else(|| io::ErrorKind::InvalidData.into())
    }
}

/// A line of `/proc/self/mountinfo` (proc_pid_mountinfo(5)).
fn parse(line: &[u8]) -> Option<Mount> {
    let mut fields = line.split(|&b| b == b' ');
    let mut next = || fields.next();
    let number = |field: &[u8]| std::str::from_utf8(field).ok()?.parse().ok();
    let id = number(next()?)?;
    let parent = number(next()?)?;
    let _device = next()?;
    let _root = next()?;
    let point = unescape(next()?);
    // Behind options and a varying number of tags, a dash.
    while next()? != b"-" {}
    let kind = String::from_utf8_lossy(next()?).into_owned();
    Some(Mount {
        id,
        parent,
        point: OsString::from_vec(point).into(),
        kind,
    })
}

/// Blanks, tabs, newlines and backslashes are octal numbers in these tables.
fn unescape(field: &[u8]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(field.len());
    let mut rest = field;
    while let Some((&first, tail)) = rest.split_first() {
        let digits = tail.get(..3).filter(|_| first == b'\\');
        let code = digits.and_then(|digits| {
            let text = std::str::from_utf8(digits).ok()?;
            u8::from_str_radix(text, 8).ok()
        });
        match code {
            Some(code) => {
                bytes.push(code);
                rest = &tail[3..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    #[test]
    fn a_line_is_taken_apart() {
        let line = br"36 35 98:0 /mnt1 /mnt\0402 rw,noatime master:1 shared:2 - ext3 /dev/x rw";
        let mount = parse(line).unwrap();
        assert_eq!((mount.id, mount.parent), (36, 35));
        assert_eq!(mount.point, Path::new("/mnt 2"));
        assert_eq!(mount.kind, "ext3");
        assert_eq!(parse(b"36 35 98:0 / /mnt rw,noatime"), None);
        assert_eq!(parse(b"x 35 98:0 / /mnt rw - ext3 a b"), None);
    }

    #[test]
    fn only_octal_numbers_are_unescaped() {
        for (field, text) in [
            (&br"a\040b\011\134"[..], &b"a b\t\\"[..]),
            (br"\04", br"\04"),
            (br"\999", br"\999"),
            (br"\777", br"\777"),
            (b"\\", b"\\"),
        ] {
            assert_eq!(unescape(field), text);
        }
    }

    #[test]
    fn our_own_table_can_be_read() {
        let proc = std::fs::File::open("/proc").unwrap();
        let this = ProcSelf::of(&proc).unwrap();
        let id = this.mount_of(proc.as_fd()).unwrap();
        let mounts = this.mounts().unwrap();
        let found = mounts.iter().find(|mount| mount.id == id).unwrap();
        assert_eq!(found.kind, "proc");
    }
}
