//! Unix sockets among the user's volumes. A virtiofs shares their names but no connections, so
//! the guest listens in their place.

use std::ffi::CString;
use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use runcvm_protocol::ForwardAt;
use runcvm_vmm::launch::spec::{ForwardSpec, ForwardTo};

use super::mounts;
use super::spec::bytes;
use runcvm_kernels::rootfs::Image;

/// Where sockets are mounted in the jail: at paths that have nothing of the image's.
const PLACES: &str = "/run/sockets";

/// Forwards to those of `volumes` that are sockets.
pub(super) fn forwards(volumes: &[PathBuf], image: &Image) -> Result<Vec<ForwardSpec>> {
    let mut forwards = Vec::new();
    for target in volumes {
        let failed = || format!("The volume {} cannot be used", target.display());
        let found = image.find(target).with_context(failed)?;
        if !found.is_socket() {
            continue;
        }
        let place = mount(&found, forwards.len()).with_context(failed)?;
        forwards.push(ForwardSpec {
            at: ForwardAt::Unix(bytes(target)),
            to: ForwardTo::Unix(place),
        });
    }
    Ok(forwards)
}

/// Mounts the socket `found` as the `index`th.
fn mount(found: impl AsFd, index: usize) -> io::Result<PathBuf> {
    fs::create_dir_all(PLACES)?;
    let name = index.to_string();
    let place = Path::new(PLACES).join(&name);
    File::create(&place)?;
    let name = CString::new(name).expect("digits");
    mounts::attach(mounts::bind(found)?, File::open(PLACES)?, &name)?;
    Ok(place)
}
