//! How far a virtiofsd can be shut in, and what has to be done for it before it starts.
//!
//! As root it makes its own mount, process and network namespaces. Another user first gets a
//! user namespace in which they are root; where these are forbidden, virtiofsd runs with the
//! user's own rights and nothing more.

use std::ffi::{CStr, CString};
use std::fs;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{chdir, write};
use rustix::thread::CapabilitySet;

use super::privileges;

/// A way to shut a virtiofsd in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Sandbox {
    /// Namespaces of its own.
    Namespace,
    /// Namespaces of its own inside a user namespace of its own.
    UserNamespace,
    /// The shared directory is its root.
    Chroot,
    /// Nothing but the user's own rights.
    None,
}

/// The strongest sandbox that works for this process.
pub(crate) fn strongest() -> Sandbox {
    let capabilities = privileges::own();
    if nix::unistd::geteuid().is_root() {
        if capabilities.contains(CapabilitySet::SYS_ADMIN) {
            Sandbox::Namespace
        } else if capabilities.contains(CapabilitySet::SYS_CHROOT) {
            Sandbox::Chroot
        } else {
            Sandbox::None
        }
    } else if user_namespaces_allowed() {
        Sandbox::UserNamespace
    } else {
        Sandbox::None
    }
}

fn user_namespaces_allowed() -> bool {
    let setting = |path| {
        let text = fs::read_to_string(path).ok()?;
        text.trim().parse::<u64>().ok()
    };
    setting("/proc/sys/user/max_user_namespaces") != Some(0)
        && setting("/proc/sys/kernel/unprivileged_userns_clone") != Some(0)
        && setting("/proc/sys/kernel/apparmor_restrict_unprivileged_userns").unwrap_or(0) == 0
}

impl Sandbox {
    /// The value of virtiofsd's `--sandbox`.
    pub(crate) fn mode(self) -> &'static str {
        match self {
            Self::Namespace | Self::UserNamespace => "namespace",
            Self::Chroot => "chroot",
            Self::None => "none",
        }
    }

    /// What enters the user namespace that this sandbox needs.
    pub(crate) fn own_user_namespace(self) -> Option<UserNamespace> {
        (self == Self::UserNamespace).then(|| UserNamespace {
            uids: format!("0 {} 1", nix::unistd::geteuid()),
            gids: format!("0 {} 1", nix::unistd::getegid()),
        })
    }
}

/// A user namespace in which this user is root.
#[derive(Debug)]
pub(crate) struct UserNamespace {
    uids: String,
    gids: String,
}

impl UserNamespace {
    /// Moves the calling process into it. Safe after a fork.
    pub(crate) fn enter(&self) -> io::Result<()> {
        unshare(CloneFlags::CLONE_NEWUSER)?;
        // Without this first, an unprivileged process may not map groups
        // (user_namespaces(7)).
        put(c"/proc/self/setgroups", b"deny")?;
        put(c"/proc/self/uid_map", self.uids.as_bytes())?;
        put(c"/proc/self/gid_map", self.gids.as_bytes())
    }
}

fn put(path: &CStr, text: &[u8]) -> io::Result<()> {
    let file = open(path, OFlag::O_WRONLY | OFlag::O_CLOEXEC, Mode::empty())?;
    write(&file, text)?;
    Ok(())
}

/// A directory with nothing in it but one file of the host, seen by one process and those
/// that it starts.
#[derive(Debug)]
pub(crate) struct FileStage {
    directory: CString,
    file: CString,
    source: CString,
}

impl FileStage {
    /// Shows the file `source` as `name` in `directory`, which is there and empty.
    pub(crate) fn new(directory: &Path, name: &str, source: CString) -> Self {
        let c_string = |path: &Path| {
            CString::new(path.as_os_str().as_bytes()).expect("the kernel took this path before")
        };
        Self {
            directory: c_string(directory),
            file: c_string(&directory.join(name)),
            source,
        }
    }

    /// Makes the directory the calling process's own and its working directory. Safe after a
    /// fork.
    pub(crate) fn enter(&self) -> io::Result<()> {
        const NONE: Option<&CStr> = None;
        unshare(CloneFlags::CLONE_NEWNS)?;
        let private = MsFlags::MS_PRIVATE | MsFlags::MS_REC;
        mount(NONE, c"/", NONE, private, NONE)?;
        let flags = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
        let options = Some(c"mode=0755,size=64k,nr_inodes=8");
        let directory = self.directory.as_c_str();
        mount(Some(c"runcvm"), directory, Some(c"tmpfs"), flags, options)?;
        let create = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC | OFlag::O_WRONLY;
        open(self.file.as_c_str(), create, Mode::S_IRUSR)?;
        let (source, file) = (self.source.as_c_str(), self.file.as_c_str());
        mount(Some(source), file, NONE, MsFlags::MS_BIND, NONE)?;
        // The guest can change the file, but not what else the directory holds.
        let read_only = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY | flags;
        mount(NONE, directory, NONE, read_only, NONE)?;
        chdir(directory)?;
        Ok(())
    }
}
