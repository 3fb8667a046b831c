//! The proc filesystem of this process's own PID namespace, mounted nowhere: `/proc` of the
//! root filesystem is the workload's.

use std::io;

use rustix::mount::{FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsmount, fsopen};

use crate::rootdir::RootDir;

/// Makes one. It lasts as long as what is returned.
pub(crate) fn open() -> io::Result<RootDir> {
    let context = fsopen(c"proc", FsOpenFlags::FSOPEN_CLOEXEC)?;
    fsconfig_create(&context)?;
    let flags = FsMountFlags::FSMOUNT_CLOEXEC;
    Ok(fsmount(&context, flags, MountAttrFlags::empty())?.into())
}
