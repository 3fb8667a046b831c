//! A tmpfs for the user.

use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::dir::{Dir, Entry};
use nix::fcntl::{AtFlags, OFlag, openat, readlinkat};
use nix::mount::MsFlags;
use nix::sys::stat::{
    FchmodatFlags, FileStat, Mode, SFlag, fchmodat, fstat, fstatat, mkdirat, mknodat,
};
use nix::unistd::{Gid, Uid, fchownat, symlinkat};

use super::{make_read_only, mount_on, options};
use crate::rootdir::RootDir;

/// Mounts one with options as in `mount -o`, and with what is below it if they say so.
pub(super) fn mount(root: &RootDir, path: &Path, options: &[u8], read_only: bool) -> Result<()> {
    let (target, existed) = root.make_dir(path)?;
    let mut parsed = options::parse(options)?;
    if existed && !parsed.has("mode") {
        // As container runtimes do: who may use the directory stays as it was.
        parsed.push_mode(fstat(&target)?.st_mode & 0o7777);
    }
    let read_only = read_only || parsed.flags.contains(MsFlags::MS_RDONLY);
    // What is to be copied must be written first.
    let later = read_only && parsed.copy_up;
    parsed.flags.set(MsFlags::MS_RDONLY, read_only && !later);
    mount_on(&target, "tmpfs", "tmpfs", parsed.flags, Some(&parsed.data))
        .with_context(|| format!("tmpfs with options {:?}", parsed.data))?;
    if parsed.copy_up {
        let mounted = root.open(path, OFlag::O_PATH | OFlag::O_DIRECTORY)?;
        if !parsed.has("uid") && !parsed.has("gid") {
            set_owner(&mounted, &fstat(&target)?)?;
        }
        copy_tree(&RootDir::from(target), &RootDir::from(mounted))
            .context("cannot copy what is there already")?;
    }
    if later {
        make_read_only(root.open(path, OFlag::O_PATH | OFlag::O_DIRECTORY)?)?;
    }
    Ok(())
}

fn set_owner(dir: &OwnedFd, like: &FileStat) -> nix::Result<()> {
    let (uid, gid) = (Uid::from_raw(like.st_uid), Gid::from_raw(like.st_gid));
    fchownat(dir, "", Some(uid), Some(gid), AtFlags::AT_EMPTY_PATH)
}

/// Copies everything below `from`, with owners and permissions.
fn copy_tree(from: &RootDir, to: &RootDir) -> io::Result<()> {
    let mut left = vec![PathBuf::from(".")];
    while let Some(path) = left.pop() {
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_NOFOLLOW;
        let source = from.open(&path, flags)?;
        let target = to.open(&path, flags)?;
        for entry in Dir::from_fd(source.try_clone()?)?.iter() {
            let entry = entry?;
            if matches!(entry.file_name().to_bytes(), b"." | b"..") {
                continue;
            }
            if copy_entry(&source, &target, &entry)? {
                left.push(path.join(OsStr::from_bytes(entry.file_name().to_bytes())));
            }
        }
    }
    Ok(())
}

/// Copies one file, or makes a directory for what is in it; then it is true.
fn copy_entry(source: &OwnedFd, target: &OwnedFd, entry: &Entry) -> io::Result<bool> {
    let name = entry.file_name();
    let found = fstatat(source, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
    let kind = SFlag::from_bits_truncate(found.st_mode) & SFlag::S_IFMT;
    let mode = Mode::from_bits_truncate(found.st_mode);
    match kind {
        SFlag::S_IFDIR => mkdirat(target, name, mode)?,
        SFlag::S_IFLNK => symlinkat(readlinkat(source, name)?.as_os_str(), target, name)?,
        SFlag::S_IFREG => {
            let flags = OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC | OFlag::O_NONBLOCK;
            let content = openat(source, name, flags, Mode::empty())?;
            let flags = OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_WRONLY | OFlag::O_CLOEXEC;
            let copy = openat(target, name, flags, mode)?;
            io::copy(&mut File::from(content), &mut File::from(copy))?;
        }
        _ => mknodat(target, name, kind, mode, found.st_rdev)?,
    }
    let (uid, gid) = (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid));
    fchownat(
        target,
        name,
        Some(uid),
        Some(gid),
        AtFlags::AT_SYMLINK_NOFOLLOW,
    )?;
    if kind != SFlag::S_IFLNK {
        // After the owner, with whose change special bits go.
        fchmodat(target, name, mode, FchmodatFlags::FollowSymlink)?;
    }
    Ok(kind == SFlag::S_IFDIR)
}
