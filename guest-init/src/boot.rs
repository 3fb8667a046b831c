//! From the kernel's first process to the workload.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::sethostname;
use runcvm_protocol::{BootMark, CONFIG_PATH, GuestConfig, MODULES_PATH, ToHost, WORKLOAD_PORT};

use crate::agent::Ended;
use crate::clock::Clock;
use crate::connection::Connection;
use crate::forwards::Forwards;
use crate::init_mode::Identity;
use crate::modules::Modules;
use crate::process::{Command, STATUS_FAILED, limits};
use crate::rootdir::RootDir;
use crate::workload::{Initramfs, Workload};
use crate::{
    cgroups, exit_file, init_mode, kernel_log, marks, mounts, network, procfs, shutdown, sysctl,
    vsock,
};

/// How long the host may take to hear of a failure.
const LAST_WORDS: Duration = Duration::from_secs(2);

/// Runs the machine from its start to its end.
pub(crate) fn run() -> ! {
    marks::enable();
    marks::report(BootMark::Init);
    let mut host = Host {
        uptime: clock_gettime(ClockId::CLOCK_BOOTTIME).map_or(Duration::ZERO, Into::into),
        socket: None,
        greeted: false,
    };
    kernel_log::open();
    match run_machine(&mut host) {
        Ok(ended) => shutdown::finish(ended),
        Err(e) => host.fail(&format!("{e:#}")),
    }
    shutdown::power_off()
}

/// The connection with the host, kept to tell of failures.
struct Host {
    uptime: Duration,
    socket: Option<OwnedFd>,
    greeted: bool,
}

impl Host {
    /// Waits until it is there and says hello.
    fn connect(&mut self) -> Result<Connection> {
        let socket = self
            .socket
            .as_ref()
            .context("there is no connection with the host")?;
        vsock::finish_connect(socket)?;
        let mut connection = Connection::new(socket.try_clone()?);
        if !std::mem::replace(&mut self.greeted, true) {
            let uptime_ns = u64::try_from(self.uptime.as_nanos()).unwrap_or(u64::MAX);
            connection.queue(&ToHost::Hello { uptime_ns });
        }
        Ok(connection)
    }

    /// Tells the host, or at least the log, that the machine cannot be set up.
    fn fail(mut self, message: &str) {
        kernel_log::error(message);
        if let Ok(mut connection) = self.connect() {
            connection.queue(&ToHost::Failed {
                status: STATUS_FAILED,
                message: message.to_owned(),
            });
            connection.deliver(Instant::now() + LAST_WORDS);
        }
    }
}

fn run_machine(host: &mut Host) -> Result<Ended> {
    let initramfs = Initramfs {
        dir: RootDir::new(Path::new("/")).context("cannot open the initramfs")?,
        modules: Modules::read(Path::new(MODULES_PATH)),
    };
    initramfs.modules.load_early(&initramfs.dir);
    host.socket = Some(vsock::start_connect(WORKLOAD_PORT)?);
    let config = fs::read(CONFIG_PATH).with_context(|| format!("cannot read {CONFIG_PATH}"))?;
    let config = GuestConfig::decode(&config)
        .map_err(|e| anyhow!("{CONFIG_PATH} is not a guest configuration: {e}"))?;

    let root = mounts::mount_root(&config.root_tag)?;
    let Identity { pid1, systemd } = init_mode::identify(config.init, &config.process, &root);
    let mut own_proc = None;
    if pid1 {
        mounts::mount_kernel_filesystem(&root, &mounts::PROC)?;
    } else {
        own_proc = Some(mounts::make_proc_mountpoint(&root)?);
    }
    let devices = mounts::mount_kernel_filesystems(&root, &config.mounts)?;
    cgroups::mount(&root, config.cgroups, systemd)?;
    if pid1 {
        init_mode::hide_container(&root);
    } else {
        exit_file::prepare(&root)?;
    }
    let mut forwards = Forwards::new(&config.forwards, &root);
    mounts::mount_all_for_user(&root, &config.mounts)?;
    if let Err(e) = mounts::fstab::mount(&root, &config.mounts, systemd) {
        // They are mounted all the same.
        kernel_log::error(&format!("cannot add disks to /etc/fstab: {e:#}"));
    }
    forwards.mount_sockets(&root)?;
    let command = Command::new(&config.process, &root)?;
    command.make_cwd(&root)?;
    if config.root_read_only {
        mounts::make_root_read_only(&root)?;
    }
    mounts::switch_root(&root)?;
    if let Some(name) = &config.hostname {
        sethostname(OsStr::from_bytes(name)).context("cannot set the hostname")?;
    }
    if let Some(name) = &config.domainname {
        set_domainname(name).context("cannot set the domain name")?;
    }
    let procfs = procfs::open().context("cannot open a proc filesystem")?;
    network::set_up(&config.interfaces, config.no_ipv6, &procfs)?;
    network::relax_limits(&procfs);
    limits::make_room(&config.process.limits, &procfs);
    sysctl::apply(&config.sysctls, &procfs)?;
    forwards.start(&procfs)?;

    let mut connection = host.connect()?;
    let clock = Clock::synchronize(&mut connection);
    let workload = Workload {
        command,
        process: config.process,
        root,
        devices,
        own_proc,
        procfs,
        initramfs,
        connection,
        clock,
    };
    match pid1 {
        true => workload.run_as_init_system(),
        false => workload.run_in_namespace(),
    }
}

fn set_domainname(name: &[u8]) -> nix::Result<()> {
    // SAFETY: the bytes are valid for their length.
    Errno::result(unsafe { libc::setdomainname(name.as_ptr().cast(), name.len()) }).map(drop)
}
