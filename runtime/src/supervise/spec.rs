//! From the container that docker asked for to the machine that is launched for it.

use std::io::{self, IsTerminal};
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::sys::stat::fstat;
use nix::sys::statvfs::{FsFlags, fstatvfs};
use runcvm_protocol::{ByteBuf, Process, User};
use runcvm_vmm::launch::{LaunchSpec, MountSpec, terminal};
use runcvm_vmm::spec::Transport;

use super::{MACHINE, disks, jail, sockets};
use crate::container::{ContainerSpec, Kernel, Tmpfs};
use crate::limits;
use crate::network::{Network, dns};
use crate::options::Display;
use runcvm_kernels::rootfs::Image;

/// The machine for `container`, whose jail this process is in.
pub(super) fn launch(container: &ContainerSpec, network: Network) -> Result<LaunchSpec> {
    let options = &container.options;
    let image = Image::open(jail::IMAGE.as_ref())?;
    let disks = disks::prepare(&options.disks, container.cpus, &image)?;
    let mut mounts: Vec<_> = container.tmpfs.iter().map(tmpfs).collect();
    mounts.extend(disks.mounts);
    mounts.extend(submounts(&container.volumes, &image)?);
    // Parents before what is below them.
    mounts.sort_by_key(|mount| mount.target().iter().filter(|&&b| b == b'/').count());
    let mut forwards = sockets::forwards(&container.volumes, &image)?;
    if network.dns {
        forwards.extend(dns::forwards());
    }
    Ok(LaunchSpec {
        name: MACHINE.into(),
        rootfs: jail::IMAGE.into(),
        root_read_only: container.root_read_only,
        cache: options.cache,
        sys_admin: options.sys_admin,
        kernel: match &container.kernel {
            Kernel::Default => None,
            Kernel::Bundle(name) => Some(name.into()),
            Kernel::OfImage(below) => Some(Path::new(jail::PREFIX).join(below).into()),
        },
        cpus: container.cpus,
        memory: container.memory,
        huge_pages: options.hugetlb,
        process: process(&container.process)?,
        init: options.init,
        hostname: container.hostname.as_deref().map(ByteBuf::from),
        domainname: container.domainname.as_deref().map(ByteBuf::from),
        sysctls: container.sysctls.clone(),
        cgroups: options.cgroups,
        forwards,
        mounts,
        disks: disks.disks,
        no_ipv6: network.no_ipv6,
        nets: network.nets,
        append: options.kernel_append.clone(),
        transport: Transport::Pci,
        kernel_log: options.kernel_debug || options.display == Display::Serial,
        account: false,
    })
}

/// Those of `volumes` that are not [`sockets`], as mounts that the guest sees as such.
fn submounts(volumes: &[PathBuf], image: &Image) -> Result<Vec<MountSpec>> {
    let mut mounts = Vec::new();
    for target in volumes {
        let failed = || format!("The volume {} cannot be used", target.display());
        let found = image.find(target).with_context(failed)?;
        if !found.is_socket() {
            let flags = fstatvfs(&found).with_context(failed)?.flags();
            mounts.push(MountSpec::Submount {
                target: bytes(target),
                read_only: flags.contains(FsFlags::ST_RDONLY),
            });
        }
    }
    Ok(mounts)
}

/// `process` as the guest is told of it. Our own streams are the ones that it gets.
pub(crate) fn process(process: &oci_spec::runtime::Process) -> Result<Process> {
    let strings = |strings: &Option<Vec<String>>| -> Vec<ByteBuf> {
        let strings = strings.iter().flatten();
        strings.map(|text| ByteBuf::from(text.as_bytes())).collect()
    };
    let user = process.user();
    let asked = process.rlimits().iter().flatten();
    let has_terminal = process.terminal() == Some(true);
    Ok(Process {
        args: strings(process.args()),
        env: strings(process.env()),
        cwd: bytes(process.cwd()),
        user: User::Ids {
            uid: user.uid(),
            gid: user.gid(),
            groups: without_doubles(user.additional_gids().as_deref().unwrap_or_default()),
        },
        limits: asked.filter_map(limits::of_guest).collect(),
        umask: user.umask(),
        oom_score_adj: process.oom_score_adj(),
        no_new_privileges: process.no_new_privileges() == Some(true),
        terminal: has_terminal.then(|| terminal::own_size().unwrap_or_default()),
        stdin: !is_null(io::stdin()).context("stdin cannot be used")?,
    })
}

/// The groups, each once: docker lists those of the image's file and those that it was asked for.
fn without_doubles(groups: &[u32]) -> Vec<u32> {
    let mut once = Vec::with_capacity(groups.len());
    for &group in groups {
        if !once.contains(&group) {
            once.push(group);
        }
    }
    once
}

/// Nothing will ever come from `stream`.
fn is_null(stream: impl AsFd + IsTerminal) -> io::Result<bool> {
    if stream.is_terminal() {
        return Ok(false);
    }
    let null = std::fs::metadata("/dev/null")?;
    let device = std::os::unix::fs::MetadataExt::rdev(&null);
    Ok(fstat(stream)?.st_rdev == device)
}

pub(super) fn bytes(path: &Path) -> ByteBuf {
    ByteBuf::from(path.to_owned().into_os_string().into_vec())
}

fn tmpfs(tmpfs: &Tmpfs) -> MountSpec {
    MountSpec::Tmpfs {
        target: bytes(&tmpfs.target),
        options: ByteBuf::from(tmpfs.options.as_bytes()),
    }
}
