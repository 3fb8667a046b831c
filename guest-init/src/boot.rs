//! From the kernel's first process to the workload.

use std::ffi::OsStr;
use std::fs;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::time::{ClockId, clock_gettime};
use nix::unistd::{ForkResult, Pid, UnlinkatFlags, fork, pause, sethostname, setsid, unlinkat};
use runcvm_protocol::{
    AGENT_PORT, BootMark, CONFIG_PATH, GuestConfig, MODULES_PATH, ToHost, WORKLOAD_PORT,
};

use crate::agent::{Agent, Ended};
use crate::connection::Connection;
use crate::mounts::{self, Devices};
use crate::process::report::{ReportReader, report_pipe};
use crate::process::spawn::{Nursery, become_command, spawn};
use crate::process::{Command, STATUS_FAILED, limits};
use crate::rootdir::RootDir;
use crate::session::End;
use crate::{cgroups, init_mode, kernel_log, marks, modules, network, shutdown, vsock};

/// The console of virtio, on which the host relays its user's terminal.
const VIRTIO_CONSOLE: &str = "hvc0";

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
    let modules = modules::load(Path::new(MODULES_PATH));
    host.socket = Some(vsock::start_connect(WORKLOAD_PORT)?);
    let config = fs::read(CONFIG_PATH).with_context(|| format!("cannot read {CONFIG_PATH}"))?;
    let config = GuestConfig::decode(&config)
        .map_err(|e| anyhow!("{CONFIG_PATH} is not a guest configuration: {e}"))?;

    let root = mounts::mount_root(&config.root_tag)?;
    let pid1 = init_mode::is_pid1(config.init, &config.process, &root);
    if !pid1 {
        // Children are born into the namespace, /proc shows it, and this process stays out.
        unshare(CloneFlags::CLONE_NEWPID).context("cannot make a PID namespace")?;
    }
    let devices = mounts::mount_kernel_filesystems(&root)?;
    if !pid1 {
        mounts::mount_kernel_filesystem(&root, &cgroups::UNIFIED)?;
    }
    for mount in &config.mounts {
        mounts::mount_for_user(&root, mount)?;
    }
    let command = Command::new(&config.process, &root)?;
    command.make_cwd(&root)?;
    if config.root_read_only {
        mounts::make_root_read_only(&root)?;
    }
    let initramfs = RootDir::new(Path::new("/")).context("cannot open the initramfs")?;
    mounts::switch_root(&root)?;
    if let Some(name) = &config.hostname {
        sethostname(OsStr::from_bytes(name)).context("cannot set the hostname")?;
    }
    network::set_up(&config.interfaces, &root)?;
    network::relax_limits(&root);

    let connection = host.connect()?;
    let cleanup = || free_initramfs(&initramfs, &modules);
    match pid1 {
        true => run_init_system(command, root, devices, connection, cleanup),
        false => run_workload(command, &config, root, devices, connection, cleanup),
    }
}

/// Runs the workload as PID 1 of its namespace.
fn run_workload(
    command: Command,
    config: &GuestConfig,
    root: RootDir,
    devices: Devices,
    connection: Connection,
    cleanup: impl FnOnce(),
) -> Result<Ended> {
    let mut agent = new_agent(root, devices)?;
    let child = spawn(&command, &config.process, agent.nursery());
    marks::disable();
    let session = agent.add(connection);
    match child {
        Ok(child) => {
            let pid = child.pid;
            session.adopt(command, child);
            agent.nursery().workload = Some(pidfd(pid)?);
            agent.listen(vsock::listen_on(AGENT_PORT)?);
            cleanup();
        }
        Err(e) => session.fail(e),
    }
    let mut ended = agent.run()?;
    if let End::Exited(status) = &mut ended.end {
        *status = shutdown::namespace_end(*status);
    }
    Ok(ended)
}

/// Makes this process, the machine's PID 1, the init system. The agent goes on in a child.
fn run_init_system(
    command: Command,
    root: RootDir,
    devices: Devices,
    mut connection: Connection,
    cleanup: impl FnOnce(),
) -> Result<Ended> {
    let (name, console) = open_console(&devices.dev)?;
    if name == VIRTIO_CONSOLE {
        connection.queue(&ToHost::OnConsole);
    }
    let (report, reporter) = report_pipe()?;
    // SAFETY: there is one thread, so the child may do all that the parent may.
    match unsafe { fork() }.context("cannot start the agent")? {
        ForkResult::Parent { .. } => {
            become_command(&command, console.as_fd(), &reporter);
            // The agent has been told, and switches the machine off.
            loop {
                pause();
            }
        }
        ForkResult::Child => {
            drop(reporter);
            Ok(
                serve_init_system(command, root, devices, connection, report, cleanup)
                    .unwrap_or_else(|e| {
                        kernel_log::error(&format!("{e:#}"));
                        // The init system goes on without an agent.
                        std::process::exit(STATUS_FAILED.into())
                    }),
            )
        }
    }
}

fn serve_init_system(
    command: Command,
    root: RootDir,
    devices: Devices,
    connection: Connection,
    report: ReportReader,
    cleanup: impl FnOnce(),
) -> Result<Ended> {
    marks::disable();
    let _ = setsid();
    stay_until_the_end();
    let init = Pid::from_raw(1);
    let mut agent = new_agent(root, devices)?;
    agent.nursery().workload = Some(pidfd(init)?);
    agent.add(connection).follow(command, init.as_raw(), report);
    agent.listen(vsock::listen_on(AGENT_PORT)?);
    cleanup();
    agent.run()
}

fn new_agent(root: RootDir, devices: Devices) -> Result<Agent> {
    limits::raise();
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let null =
        openat(&devices.dev, "null", flags, Mode::empty()).context("cannot open /dev/null")?;
    let nursery = Nursery {
        null,
        pts: devices.pts,
        workload: None,
    };
    Agent::new(root, nursery)
}

fn pidfd(pid: Pid) -> Result<OwnedFd> {
    use std::os::fd::FromRawFd;

    // SAFETY: takes numbers only.
    let fd = unsafe { libc::syscall(libc::SYS_pidfd_open, pid.as_raw(), 0) };
    let fd = i32::try_from(Errno::result(fd).context("cannot watch the workload")?)?;
    // SAFETY: the system call has just made this descriptor, and nobody else knows it.
    Ok(unsafe { OwnedFd::from_raw_fd(fd) })
}

/// The terminal on which an init system speaks, and its name: the virtio console where there
/// is one.
fn open_console(dev: &OwnedFd) -> Result<(&'static str, OwnedFd)> {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    [VIRTIO_CONSOLE, "ttyS0", "console", "null"]
        .into_iter()
        .find_map(|name| Some((name, openat(dev, name, flags, Mode::empty()).ok()?)))
        .context("there is no console")
}

/// Makes this process's command line begin with `@`, by which systemd knows a process that
/// it must not kill before the machine is down.
fn stay_until_the_end() {
    const NAME: &[u8] = b"@runcvm-agent\0";
    let start = NAME.as_ptr() as libc::c_ulong;
    let end = start + NAME.len() as libc::c_ulong;
    // The start goes first: what it marks is below the stack, where both are now.
    let both = [
        (libc::PR_SET_MM_ARG_START, start),
        (libc::PR_SET_MM_ARG_END, end),
    ];
    for (which, address) in both {
        // SAFETY: changes what others read as our command line, which lives forever.
        let done = unsafe { libc::prctl(libc::PR_SET_MM, which, address, 0, 0) };
        if done != 0 {
            kernel_log::error(&format!("cannot rename the agent: {}", Errno::last()));
        }
    }
}

/// Gives back the memory of what the initramfs held and nobody needs any more.
fn free_initramfs(initramfs: &RootDir, modules: &[PathBuf]) {
    let others = [CONFIG_PATH, MODULES_PATH].map(Path::new);
    for path in modules.iter().map(PathBuf::as_path).chain(others) {
        let relative = path.strip_prefix("/").unwrap_or(path);
        let _ = unlinkat(initramfs, relative, UnlinkatFlags::NoRemoveDir);
    }
}
