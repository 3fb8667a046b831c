//! A place in the initramfs for a filesystem of which one file is wanted elsewhere.

use std::path::Path;

use anyhow::{Context, Result};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use super::{HARDENED, NOTHING, make_own_dir};

/// Where it is mounted for a while.
const PLACE: &str = "/scratch";

/// Mounts `source`, a filesystem of this kind, has `work` done with it, and lets it go, but
/// for what is mounted elsewhere by then.
pub(super) fn with<T>(
    source: &str,
    kind: &str,
    flags: MsFlags,
    options: Option<&str>,
    work: impl FnOnce(&Path) -> Result<T>,
) -> Result<T> {
    make_own_dir(PLACE)?;
    mount(Some(source), PLACE, Some(kind), flags, options)
        .with_context(|| format!("cannot mount {kind} {source}"))?;
    let done = work(Path::new(PLACE));
    umount2(PLACE, MntFlags::MNT_DETACH).with_context(|| format!("cannot unmount {PLACE}"))?;
    done
}

/// As [`with`], with memory for a few small files.
pub(super) fn with_memory<T>(name: &str, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    let options = Some("size=256k,nr_inodes=8,mode=755");
    with(name, "tmpfs", HARDENED, options, work)
}

/// As [`with`], with the virtiofs share `tag`.
pub(super) fn with_share<T>(tag: &str, work: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
    with(tag, "virtiofs", MsFlags::empty(), NOTHING, work)
}
