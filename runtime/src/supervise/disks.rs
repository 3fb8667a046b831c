//! `RUNCVM_DISKS`: files of the container that are disks of the machine. One that is not there
//! yet is made: sparse, with a filesystem that holds what is at its mountpoint.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat, renameat};
use nix::sys::signal::SigSet;
use nix::sys::stat::{Mode, fstat};
use nix::unistd::{UnlinkatFlags, ftruncate, unlinkat};
use runcvm_kernels::Prefix;
use runcvm_protocol::ByteBuf;
use runcvm_vmm::launch::MountSpec;
use runcvm_vmm::launch::disk::DiskSpec;

use super::jail;
use super::spec::bytes;
use crate::options::DiskOption;
use runcvm_kernels::rootfs::{self, Image};

/// Filesystems that a new disk can have.
const FILESYSTEMS: [&str; 3] = ["ext2", "ext3", "ext4"];

/// Queues of a disk, at most one for each vCPU.
const MAX_QUEUES: u8 = 8;

/// Permissions that mke2fs gives a filesystem's root.
const ROOT_MODE: u32 = 0o755;

/// The machine's disks and where they are mounted.
#[derive(Debug, Default)]
pub(super) struct Disks {
    pub(super) disks: Vec<DiskSpec>,
    pub(super) mounts: Vec<MountSpec>,
}

/// Finds or makes the disks of `options` in `image` or what is mounted at `/disks`.
pub(super) fn prepare(options: &[DiskOption], cpus: u8, image: &Image) -> Result<Disks> {
    let mut disks = Disks::default();
    for (index, option) in options.iter().enumerate() {
        let path = find_or_make(option, image)
            .with_context(|| format!("RUNCVM_DISKS: {} cannot be used", option.spec))?;
        let id = format!("disk{index}");
        disks.disks.push(DiskSpec {
            no_links: true,
            path,
            read_only: false,
            id: id.clone(),
            queues: cpus.clamp(1, MAX_QUEUES).into(),
        });
        disks.mounts.push(MountSpec::Disk {
            id,
            filesystem: option.fs.clone(),
            target: bytes(&option.dst),
            options: ByteBuf::from("noatime"),
        });
    }
    Ok(disks)
}

/// The disk's file, a path without symlinks.
fn find_or_make(option: &DiskOption, image: &Image) -> Result<PathBuf> {
    let mounted = mounted_disk(&option.src)?;
    let (tree, path) = match &mounted {
        Some((tree, path)) => (tree, path.as_path()),
        None => (image, option.src.as_path()),
    };
    match tree.find(path) {
        Ok(found) => {
            if !found.is_file() {
                bail!("{} is no file, which it must be", option.src.display());
            }
            return Ok(rootfs::path_of(found)?);
        }
        Err(Errno::ENOENT) => {}
        Err(e) => return Err(e).with_context(|| option.src.display().to_string()),
    }
    let Some(size) = option.size else {
        bail!(
            "{} is not there, so it needs a size, as in SRC,DST,FILESYSTEM,5G",
            option.src.display()
        );
    };
    if !FILESYSTEMS.contains(&option.fs.as_str()) {
        bail!("a new disk can be one of {}", FILESYSTEMS.join(", "));
    }
    let content = image
        .directory(&option.dst)
        .with_context(|| format!("{} is no directory", option.dst.display()))?;
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        bail!("{} is no file's path", option.src.display());
    };
    let parent = tree
        .make_directory(parent)
        .with_context(|| format!("the directory of {} cannot be made", option.src.display()))?;
    let mut temporary = name.to_owned();
    temporary.push(".new");
    // What is left of an attempt that was interrupted is no disk.
    match unlinkat(&parent, temporary.as_os_str(), UnlinkatFlags::NoRemoveDir) {
        Ok(()) | Err(Errno::ENOENT) => {}
        Err(e) => return Err(e.into()),
    }
    let flags = OFlag::O_RDWR | OFlag::O_CREAT | OFlag::O_EXCL | OFlag::O_CLOEXEC;
    let mode = Mode::from_bits_truncate(0o600);
    let disk = openat(&parent, temporary.as_os_str(), flags, mode)?;
    let formatted = format(&disk, size, &option.fs, &content);
    if formatted.is_err() {
        let _ = unlinkat(&parent, temporary.as_os_str(), UnlinkatFlags::NoRemoveDir);
    }
    formatted?;
    renameat(&parent, temporary.as_os_str(), &parent, name)?;
    Ok(rootfs::path_of(disk)?)
}

/// The tree that is mounted in the jail for `src`, and the path in it.
fn mounted_disk(src: &Path) -> io::Result<Option<(Image, PathBuf)>> {
    let proc = super::mounts::ProcSelf::of(File::open("/proc")?)?;
    let points = proc.mounts()?.into_iter().map(|mount| mount.point);
    let below_disks = points.filter(|point| point.starts_with(jail::DISKS));
    let deepest = below_disks
        .filter(|point| src.starts_with(point))
        .max_by_key(|point| point.components().count());
    let Some(point) = deepest else {
        return Ok(None);
    };
    let path = Path::new("/").join(src.strip_prefix(&point).expect("it starts with it"));
    Ok(Some((Image::open(&point)?, path)))
}

/// Makes `disk` a sparse file of `size` bytes with a filesystem that holds `content`.
fn format(disk: &OwnedFd, size: u64, filesystem: &str, content: &OwnedFd) -> Result<()> {
    let length = i64::try_from(size).map_err(|_| anyhow!("{size} bytes are too many"))?;
    ftruncate(disk, length).with_context(|| format!("a file of {size} bytes cannot be made"))?;
    let status = fstat(content)?;
    let by_number = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let owner = format!("root_owner={}:{}", status.st_uid, status.st_gid);
    run(
        "mke2fs",
        &[
            "-q",
            "-F",
            "-t",
            filesystem,
            "-E",
            &owner,
            "-d",
            &by_number(content),
            &by_number(disk),
        ],
        &[disk, content],
    )?;
    let mode = status.st_mode & 0o7777;
    if mode != ROOT_MODE {
        let command = format!("set_inode_field <2> mode 0{:o}", libc::S_IFDIR | mode);
        run(
            "debugfs",
            &["-w", "-R", &command, &by_number(disk)],
            &[disk],
        )?;
    }
    Ok(())
}

/// Runs a program of Debian's e2fsprogs, which come with us, with `fds` open.
fn run(program: &str, args: &[&str], fds: &[&OwnedFd]) -> Result<()> {
    let home = Prefix::find().libexec("mke2fs");
    let mut command = Command::new(home.join("loader"));
    command.arg("--library-path").arg(&home);
    command.arg(home.join(program)).args(args);
    command
        .env_clear()
        .stdin(Stdio::null())
        .stdout(Stdio::null());
    let fds: Vec<_> = fds.iter().map(|fd| fd.as_fd().as_raw_fd()).collect();
    let prepare = move || {
        SigSet::empty().thread_set_mask()?;
        for &fd in &fds {
            // SAFETY: takes no pointer; a wrong descriptor is an error.
            Errno::result(unsafe { libc::fcntl(fd, libc::F_SETFD, 0) })?;
        }
        Ok(())
    };
    // SAFETY: between fork and exec it makes system calls only and allocates nothing.
    unsafe { command.pre_exec(prepare) };
    let output = command
        .stderr(Stdio::piped())
        .output()
        .with_context(|| format!("{program} cannot be executed"))?;
    if output.status.success() {
        return Ok(());
    }
    let words = String::from_utf8_lossy(&output.stderr);
    let last = words.lines().rfind(|line| !line.trim().is_empty());
    bail!("{program} failed: {}", last.unwrap_or("it did not say why"))
}
