//! The root filesystem that our own processes have in a container.
//!
//! ```text
//! /                a small tmpfs, read-only
//! ├─ bin           → /opt/runcvm/libexec/bin: busybox, for whoever looks around
//! ├─ dev proc sys  the container's own, moved here
//! ├─ disks         what is mounted there, which the guest does not see
//! ├─ opt/runcvm    where we are installed, read-only
//! ├─ run           a small tmpfs: the machine's sockets
//! └─ vm            the image's tree with the user's volumes, and with nothing else
//! ```
//!
//! runc made the container as ever, with the image's tree as its root. So all of this is made
//! around it, and then changes places with it.

use std::collections::{HashMap, HashSet};
use std::ffi::CStr;
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail, ensure};
use nix::errno::Errno;
use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::sys::stat::{Mode, mkdirat};
use nix::sys::statfs::{PROC_SUPER_MAGIC, fstatfs};
use nix::unistd::{fchdir, pivot_root, symlinkat};
use runcvm_kernels::{Prefix, Store};

use super::complain;
use super::mounts::{self, Mount, ProcSelf};
use crate::container::ContainerSpec;
use runcvm_kernels::rootfs::Image;

/// Where the image's tree is, in the jail.
pub(super) const IMAGE: &str = "/vm";

/// Where we are installed, in the jail.
pub(super) const PREFIX: &str = "/opt/runcvm";

/// Where the guest looks for its kernel's modules, a directory for each release.
pub(crate) const MODULES: &str = "/lib/modules";

/// Paths of the container that the guest does not see.
pub(super) const DISKS: &str = "/disks";

const DIRECTORIES: [&CStr; 8] = [
    c"dev",
    c"disks",
    c"opt",
    c"opt/runcvm",
    c"proc",
    c"run",
    c"sys",
    c"vm",
];

/// The container's own filesystems, which our processes need and the guest must not see.
const OWN: [&CStr; 3] = [c"proc", c"dev", c"sys"];

/// Nothing of the image's is executed here.
const GUEST: MsFlags = MsFlags::MS_NOSUID
    .union(MsFlags::MS_NODEV)
    .union(MsFlags::MS_NOEXEC);

const NONE: Option<&str> = None;

/// Builds the jail and enters it. `prefix` is our installation, as a mount without a place.
pub(super) fn enter(spec: &ContainerSpec, prefix: &OwnedFd) -> Result<()> {
    let proc = File::open("/proc").context("The container has no /proc")?;
    ensure!(
        fstatfs(&proc)?.filesystem_type() == PROC_SUPER_MAGIC,
        "The container has no procfs at /proc, which a machine's processes need"
    );
    let proc = ProcSelf::of(&proc)?;
    // What is moved must not be seen elsewhere, and neither must where it is moved from.
    mount(NONE, "/", NONE, MsFlags::MS_PRIVATE, NONE).context("The root cannot be made private")?;

    let jail = build().context("The machine's root directory cannot be made")?;
    mounts::attach(&jail, File::open("/")?, c".")
        .context("The machine's root directory cannot be mounted")?;
    fchdir(&jail)?;
    pivot_root(".", "vm").context("The machine's root directory cannot be entered")?;

    let image = Image::open(IMAGE.as_ref())?;
    move_own(&jail, &image)?;
    move_disks(&proc, &image)?;
    detach_others(&proc, &image, &spec.volumes)?;
    let attributes = libc::MOUNT_ATTR_RDONLY | libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV;
    let restricted = mounts::restrict(prefix, attributes)
        .map_err(io::Error::from)
        .and_then(|done| mounts::attach(prefix, &jail, c"opt/runcvm").map(|()| done))
        .context("runcvm cannot be mounted")?;
    if !restricted {
        restrict(
            PREFIX,
            MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
        )?;
    }
    restrict(IMAGE, GUEST)?;
    make_mountpoints(spec, &image)?;
    add_modules(spec, &image);
    if spec.root_read_only {
        restrict(IMAGE, GUEST | MsFlags::MS_RDONLY)?;
    }
    restrict(
        "/",
        MsFlags::MS_RDONLY | MsFlags::MS_NOSUID | MsFlags::MS_NODEV,
    )
}

fn restrict(path: &str, flags: MsFlags) -> Result<()> {
    let flags = flags | MsFlags::MS_BIND | MsFlags::MS_REMOUNT;
    mount(NONE, path, NONE, flags, NONE).with_context(|| format!("{path} cannot be restricted"))
}

/// Makes the directories that runc would have made, had it been asked for these mounts and
/// this process. The guest could not, in a root filesystem that is read-only.
fn make_mountpoints(spec: &ContainerSpec, image: &Image) -> Result<()> {
    // The guest's /dev has its own.
    let targets = spec.tmpfs.iter().map(|tmpfs| &tmpfs.target);
    for path in targets.filter(|target| !target.starts_with("/dev")) {
        image
            .make_directory(path)
            .with_context(|| format!("The directory {} cannot be made", path.display()))?;
    }
    for disk in &spec.options.disks {
        image.make_directory(&disk.dst).with_context(|| {
            format!(
                "RUNCVM_DISKS: {} cannot be used: the directory {} cannot be made",
                disk.spec,
                disk.dst.display()
            )
        })?;
    }
    // If it is impossible, the guest says why, as its first process does not start.
    let _ = image.make_directory(spec.process.cwd());
    Ok(())
}

/// Mounts the kernel's modules where the guest looks for them. Not all images let one; few
/// need them.
fn add_modules(spec: &ContainerSpec, image: &Image) {
    let result = || -> Result<()> {
        let Some(modules) = spec.modules(&Store::new(&Prefix::new(PREFIX)))? else {
            return Ok(());
        };
        let release = modules.file_name().context("no release")?;
        let over_all = || -> Result<_> {
            let all = modules.parent().context("no parent")?;
            Ok((all, image.make_directory(MODULES.as_ref())?))
        };
        let (source, place) = if spec.options.mount_lib_modules {
            over_all()?
        } else {
            match image.make_directory(&Path::new(MODULES).join(release)) {
                // Somebody has mounted the host's there, read-only.
                Err(Errno::EROFS) => over_all()?,
                place => (modules.as_path(), place?),
            }
        };
        mounts::attach(mounts::bind(File::open(source)?)?, place, c".")?;
        Ok(())
    }();
    // Who does not ask for them is not told that the image has no place for them.
    if let Err(error) = result
        && spec.options.mount_lib_modules
    {
        complain(&format!(
            "warning: the kernel's modules cannot be mounted at /lib/modules: {error:#}"
        ));
    }
}

/// The jail's own filesystem, mounted nowhere yet.
fn build() -> io::Result<OwnedFd> {
    let options = [
        (c"mode", c"0755"),
        (c"size", c"256k"),
        (c"nr_inodes", c"256"),
    ];
    let jail = mounts::new_tmpfs(&options)?;
    for path in DIRECTORIES {
        mkdirat(&jail, path, Mode::from_bits_truncate(0o755))?;
    }
    symlinkat(c"opt/runcvm/libexec/bin", &jail, c"bin")?;
    Ok(jail)
}

/// Moves the container's own filesystems into the jail, and gives it its `/run`.
fn move_own(jail: &OwnedFd, image: &Image) -> Result<()> {
    for name in OWN {
        let path = Path::new("/").join(name.to_str().expect("ASCII"));
        // A symlink there would have led runc elsewhere.
        let moved = image
            .find_plain(&path)
            .map_err(io::Error::from)
            .and_then(|at| mounts::attach(at, jail, name));
        moved.with_context(|| {
            format!(
                "The container's {} cannot be used: in the image it must be a directory, or \
                 nothing",
                path.display()
            )
        })?;
    }
    // It takes the guest's configuration with arguments and variables, which can be 2 MiB.
    let options = [(c"mode", c"0755"), (c"size", c"8m"), (c"nr_inodes", c"1k")];
    let run = mounts::new_tmpfs(&options)?;
    mounts::attach(run, jail, c"run").context("The machine's /run cannot be mounted")
}

/// Moves what is mounted at or below `/disks` into the jail.
fn move_disks(proc: &ProcSelf, image: &Image) -> Result<()> {
    let disks = Path::new(IMAGE).join(&DISKS[1..]);
    let mut points: Vec<_> = proc
        .mounts()?
        .into_iter()
        .map(|mount| mount.point)
        .filter(|point| point.starts_with(&disks))
        .collect();
    points.sort_unstable();
    let jail = Image::open("/".as_ref())?;
    let mut moved: Option<PathBuf> = None;
    for point in points {
        // What is mounted on what was moved went with it.
        if moved.as_ref().is_some_and(|moved| point.starts_with(moved)) {
            continue;
        }
        let place = Path::new("/").join(point.strip_prefix(IMAGE).expect("it is below /vm"));
        let failed = || format!("{} cannot be kept from the guest", place.display());
        let mount = image.find_plain(&place).with_context(failed)?;
        let target = jail.make_directory(&place).with_context(failed)?;
        mounts::attach(mount, target, c".").with_context(failed)?;
        moved = Some(point);
    }
    Ok(())
}

/// Detaches all that is mounted in the image's tree but the user's volumes.
fn detach_others(proc: &ProcSelf, image: &Image, volumes: &[PathBuf]) -> Result<()> {
    let root = proc.mount_of(image.as_fd())?;
    let mut kept = HashSet::new();
    for path in volumes {
        // Those in /dev and the like are not in the tree any more.
        if let Ok(found) = image.find(path) {
            kept.insert(proc.mount_of(found.as_fd())?);
        }
    }
    kept.remove(&root);
    let others = others(&proc.mounts()?, root, &kept)?;
    for mount in others {
        let place = Path::new("/").join(mount.point.strip_prefix(IMAGE).unwrap_or(&mount.point));
        let failed = || format!("{} cannot be kept from the guest", place.display());
        let found = image.find_plain(&place).with_context(failed)?;
        if proc.mount_of(found.as_fd())? != mount.id {
            bail!(failed());
        }
        let by_number = format!("/proc/self/fd/{}", found.as_fd().as_raw_fd());
        umount2(by_number.as_str(), MntFlags::MNT_DETACH).with_context(failed)?;
    }
    Ok(())
}

/// The mounts below the mount `root` that are neither in `kept` nor below one of those, the
/// lowest first.
fn others(mounts: &[Mount], root: u64, kept: &HashSet<u64>) -> Result<Vec<Mount>> {
    let by_id: HashMap<u64, &Mount> = mounts.iter().map(|mount| (mount.id, mount)).collect();
    // From a mount up to, and without, the root; none if that is not above it.
    let ancestry = |mount: &Mount| {
        let mut line = vec![mount.id];
        let mut parent = mount.parent;
        while parent != root {
            let above = by_id.get(&parent).filter(|above| above.parent != parent)?;
            if line.len() > mounts.len() {
                return None;
            }
            line.push(parent);
            parent = above.parent;
        }
        Some(line)
    };
    let mut others = Vec::new();
    for mount in mounts.iter().filter(|mount| mount.id != root) {
        let Some(line) = ancestry(mount) else {
            continue;
        };
        match line.iter().position(|id| kept.contains(id)) {
            None => others.push((line.len(), mount.clone())),
            Some(position) => {
                let stranger = line[position..].iter().rfind(|id| !kept.contains(*id));
                if let Some(stranger) = stranger {
                    bail!(
                        "{} is mounted on a {} of the container's, which a machine cannot share",
                        mount.point.display(),
                        by_id[stranger].kind
                    );
                }
            }
        }
    }
    others.sort_by_key(|(depth, _)| std::cmp::Reverse(*depth));
    Ok(others.into_iter().map(|(_, mount)| mount).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mount(id: u64, parent: u64, point: &str) -> Mount {
        Mount {
            id,
            parent,
            point: point.into(),
            kind: "tmpfs".into(),
        }
    }

    #[test]
    fn volumes_stay_and_all_else_goes_the_lowest_first() {
        let mounts = [
            mount(1, 0, "/"),
            mount(2, 1, "/vm"),
            mount(3, 1, "/proc"),
            mount(4, 2, "/vm/data"),
            mount(5, 4, "/vm/data/below"),
            mount(6, 2, "/vm/x"),
            mount(7, 6, "/vm/x/y"),
            mount(8, 7, "/vm/x/y"),
        ];
        let others = others(&mounts, 2, &HashSet::from([4])).unwrap();
        let ids: Vec<_> = others.iter().map(|mount| mount.id).collect();
        assert_eq!(ids, [8, 7, 6]);
    }

    #[test]
    fn a_volume_on_something_else_is_refused() {
        let mounts = [
            mount(2, 1, "/vm"),
            mount(6, 2, "/vm/x"),
            mount(7, 6, "/vm/x/y"),
        ];
        let error = others(&mounts, 2, &HashSet::from([7])).unwrap_err();
        assert!(error.to_string().contains("/vm/x/y is mounted on a tmpfs"));
    }

    #[test]
    fn a_table_with_a_circle_ends() {
        let mounts = [mount(2, 1, "/vm"), mount(6, 7, "/a"), mount(7, 6, "/b")];
        assert!(others(&mounts, 2, &HashSet::new()).unwrap().is_empty());
    }
}
