//! `runcvm-vmm run`.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::{Context, Result, ensure};
use clap::builder::RangedI64ValueParser;
use clap::{Args, ValueEnum};
use runcvm_protocol::{ByteBuf, Cgroups, InitMode};

use super::process::{Base, ProcessArgs};
use super::values;
use crate::launch::share::Cache;
use crate::launch::spec::MAX_CPUS;
use crate::launch::{self, Io, LaunchSpec, MountSpec, rundir};
use crate::spec::Transport;

/// Boot a directory as a virtual machine and run a command in it
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  runcvm-vmm run --rootfs debian -- uname -a
  runcvm-vmm run --rootfs debian -it --name box -- bash
  tar c . | runcvm-vmm run --rootfs debian -i -v /srv/data:/data:ro -- tar t
  runcvm-vmm run --rootfs debian --cpus 4 --memory 2g --disk data.img -- lsblk
  runcvm-vmm run --rootfs debian --net tap=tap0,ip=10.0.0.2/24,gw=10.0.0.1 -- ip address

Exit status: the command's own; 128 + N if signal N ended it; 126 if it could not be
executed; 127 if it was not found; 125 if runcvm failed, or the guest's kernel did. A machine
that powers off or reboots by itself ends with 0.")]
pub(super) struct RunArgs {
    /// Directory that becomes the root filesystem
    #[arg(long, value_name = "DIR", default_value = ".")]
    rootfs: PathBuf,

    /// A kernel: name of a bundle, or path of a bzImage or vmlinux [default: the default bundle]
    #[arg(long, value_name = "NAME|PATH")]
    kernel: Option<OsString>,

    /// Number of processors, 1 to 64
    #[arg(long, value_name = "N", default_value_t = 1, value_parser = processors())]
    cpus: u8,

    /// Memory, with k, m or g
    #[arg(long, short = 'm', value_name = "SIZE", default_value = "512m")]
    memory: String,

    #[command(flatten)]
    process: ProcessArgs,

    /// Mount a directory or file of the host
    #[arg(short = 'v', long = "volume", value_name = "SRC:DST[:ro]")]
    volumes: Vec<OsString>,

    /// Mount memory, with options as in `mount -o`
    #[arg(long, value_name = "DST[:OPTIONS]")]
    tmpfs: Vec<OsString>,

    /// Add a raw file or block device as a disk
    #[arg(long = "disk", value_name = "PATH[,ro][,id=ID][,queues=N]")]
    disks: Vec<OsString>,

    /// Add a network interface on a tap, which is made if it is not there
    #[arg(
        long = "net",
        value_name = "tap=NAME[,mac=MAC][,ip=ADDRESS/PREFIX]...[,gw=ADDRESS]...[,mtu=N]"
    )]
    nets: Vec<String>,

    /// Carry what arrives at a place of the guest to one of the host; each is unix:PATH,
    /// tcp:ADDRESS:PORT or udp:ADDRESS:PORT
    #[arg(long = "forward", value_name = "GUEST=HOST")]
    forwards: Vec<OsString>,

    /// The host's name [default: the machine's]
    #[arg(long, value_name = "NAME")]
    hostname: Option<String>,

    /// Let the guest read its root filesystem, but not write to it
    #[arg(long)]
    read_only: bool,

    /// Set a kernel parameter of the guest
    #[arg(long = "sysctl", value_name = "NAME=VALUE")]
    sysctls: Vec<String>,

    /// Control groups on the guest's /sys/fs/cgroup
    #[arg(long, value_enum, default_value_t = CgroupMode::Auto)]
    cgroups: CgroupMode,

    /// Who is PID 1: the command itself, or a PID namespace's init around it
    #[arg(long, value_enum, default_value_t = Init::Auto)]
    init: Init,

    /// The machine's name [default: a random one]
    #[arg(long, value_name = "NAME", allow_hyphen_values = true)]
    name: Option<String>,

    /// Show on stderr when each phase began, and what the machine used
    #[arg(long)]
    timings: bool,

    /// Show the kernel's log on stderr
    #[arg(long)]
    kernel_log: bool,

    /// Append to the kernel's command line
    #[arg(
        long,
        value_name = "TEXT",
        default_value = "",
        hide_default_value = true
    )]
    append: String,

    /// How the guest sees its devices
    #[arg(long, value_enum, default_value_t = Bus::Pci)]
    transport: Bus,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Init {
    /// pid1 for an init system such as systemd, namespaced for all else
    Auto,
    Pid1,
    Namespaced,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum CgroupMode {
    /// none for systemd, v2 for all else
    Auto,
    None,
    V1,
    V2,
    /// v1, and v2 without controllers in `unified`
    Hybrid,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Bus {
    Pci,
    Mmio,
}

fn processors() -> RangedI64ValueParser<u8> {
    RangedI64ValueParser::new().range(1..=i64::from(MAX_CPUS))
}

impl RunArgs {
    pub(super) fn run(&self, started: u64) -> Result<ExitCode> {
        let spec = self.spec()?;
        let io = Io::inherited(self.process.interactive)
            .context("The standard streams cannot be used")?;
        let outcome = launch::run(&spec, io, started)?;
        if self.timings {
            super::show_timings(&outcome);
        }
        Ok(super::report(&outcome))
    }

    fn spec(&self) -> Result<LaunchSpec> {
        let name = match &self.name {
            Some(name) => name.clone(),
            None => launch::random_name().context("No name can be made up")?,
        };
        rundir::check_name(&name)?;
        let hostname = self.hostname.as_deref().unwrap_or(&name);
        ensure!(
            (1..=64).contains(&hostname.len()) && !hostname.contains(['\0', '/', ' ', '\n']),
            "--hostname \"{hostname}\" is no name: it must be 1 to 64 characters without spaces"
        );
        Ok(LaunchSpec {
            rootfs: self.rootfs.clone(),
            root_read_only: self.read_only,
            cache: Cache::Auto,
            sys_admin: false,
            kernel: self.kernel.clone(),
            cpus: self.cpus,
            memory: values::memory(&self.memory)?,
            huge_pages: false,
            process: self.process.process(Base::docker(hostname))?,
            init: match self.init {
                Init::Auto => InitMode::Auto,
                Init::Pid1 => InitMode::Pid1,
                Init::Namespaced => InitMode::Namespaced,
            },
            hostname: Some(ByteBuf::from(hostname.as_bytes())),
            domainname: None,
            sysctls: self
                .sysctls
                .iter()
                .map(|s| values::sysctl(s))
                .collect::<Result<_>>()?,
            cgroups: match self.cgroups {
                CgroupMode::Auto => Cgroups::Auto,
                CgroupMode::None => Cgroups::None,
                CgroupMode::V1 => Cgroups::V1,
                CgroupMode::V2 => Cgroups::V2,
                CgroupMode::Hybrid => Cgroups::Hybrid,
            },
            forwards: self
                .forwards
                .iter()
                .map(|f| values::forward(f))
                .collect::<Result<_>>()?,
            mounts: self.mounts()?,
            disks: self
                .disks
                .iter()
                .map(|d| values::disk(d, self.cpus))
                .collect::<Result<_>>()?,
            no_ipv6: false,
            nets: self
                .nets
                .iter()
                .map(|n| values::interface(n))
                .collect::<Result<_>>()?,
            append: self.append.clone(),
            transport: match self.transport {
                Bus::Pci => Transport::Pci,
                Bus::Mmio => Transport::Mmio,
            },
            kernel_log: self.kernel_log,
            account: self.timings,
            name,
        })
    }

    /// Volumes and tmpfs, parents before what is below them.
    fn mounts(&self) -> Result<Vec<MountSpec>> {
        let volumes = self.volumes.iter().map(|v| values::volume(v));
        let tmpfs = self.tmpfs.iter().map(|t| values::tmpfs(t));
        let mut mounts: Vec<_> = volumes.chain(tmpfs).collect::<Result<_>>()?;
        mounts.sort_by_key(|mount| {
            mount
                .target()
                .split(|&b| b == b'/')
                .filter(|p| !p.is_empty())
                .count()
        });
        Ok(mounts)
    }
}

#[cfg(test)]
mod tests;
