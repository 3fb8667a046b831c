//! The workload of a machine that is set up: its start, and the agent beside it.

use std::os::fd::{AsFd, FromRawFd, OwnedFd};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::{OFlag, openat};
use nix::sched::{CloneFlags, unshare};
use nix::sys::stat::Mode;
use nix::unistd::{ForkResult, Pid, UnlinkatFlags, fork, pause, setsid, unlinkat};
use runcvm_protocol::{AGENT_PORT, CONFIG_PATH, Limit, MODULES_PATH, Process, ToHost};

use crate::agent::{Agent, Ended};
use crate::clock::Clock;
use crate::connection::Connection;
use crate::modules::Modules;
use crate::mounts::Devices;
use crate::process::report::{ReportReader, report_pipe};
use crate::process::spawn::{Nursery, become_command, spawn};
use crate::process::{Command, STATUS_FAILED, limits};
use crate::rootdir::RootDir;
use crate::session::End;
use crate::{exit_file, kernel_log, marks, shutdown, survive, vsock};

/// The console of virtio, on which the host relays its user's terminal.
const VIRTIO_CONSOLE: &str = "hvc0";

/// All that is needed to start the workload and to serve it.
#[derive(Debug)]
pub(crate) struct Workload {
    pub(crate) command: Command,
    pub(crate) process: Process,
    pub(crate) root: RootDir,
    pub(crate) devices: Devices,
    /// Where it mounts the `/proc` of its PID namespace, if it gets one.
    pub(crate) own_proc: Option<OwnedFd>,
    /// The proc filesystem of this process's own PID namespace.
    pub(crate) procfs: RootDir,
    pub(crate) initramfs: Initramfs,
    pub(crate) connection: Connection,
    pub(crate) clock: Clock,
}

impl Workload {
    /// Runs it as PID 1 of its namespace, to its end.
    pub(crate) fn run_in_namespace(self) -> Result<Ended> {
        // Children are born into the namespace from now on, and this process stays out.
        unshare(CloneFlags::CLONE_NEWPID).context("cannot make a PID namespace")?;
        let limits = self.process.limits.clone();
        let mut agent = new_agent(self.root, self.devices, self.procfs, self.own_proc, limits)?;
        let child = spawn(&self.command, &self.process, agent.nursery());
        marks::disable();
        agent.nursery().proc = None;
        let session = agent.add(self.connection);
        session.keep(self.clock);
        match child {
            Ok(child) => {
                let pid = child.pid;
                session.adopt(self.command, child);
                agent.nursery().workload = Some(pidfd(pid)?);
                agent.listen(vsock::listen_on(AGENT_PORT)?);
                self.initramfs.finish();
            }
            Err(e) => session.fail(e),
        }
        let mut ended = agent.run()?;
        if let End::Exited(status) = &mut ended.end {
            *status = shutdown::namespace_end(*status);
            let root = RootDir::new(Path::new("/")).context("cannot open the root filesystem")?;
            *status = exit_file::status(&root, *status);
        }
        Ok(ended)
    }

    /// Makes it this process, the machine's PID 1. The agent goes on in a child, and only
    /// there this returns.
    pub(crate) fn run_as_init_system(mut self) -> Result<Ended> {
        let (name, console) = open_console(&self.devices.dev)?;
        if name == VIRTIO_CONSOLE {
            self.connection.queue(&ToHost::OnConsole);
        }
        let (report, reporter) = report_pipe()?;
        // SAFETY: there is one thread, so the child may do all that the parent may.
        match unsafe { fork() }.context("cannot start the agent")? {
            ForkResult::Parent { .. } => {
                become_command(&self.command, console.as_fd(), &self.procfs, &reporter);
                // The agent has been told, and switches the machine off.
                loop {
                    pause();
                }
            }
            ForkResult::Child => {
                drop(reporter);
                self.serve_init_system(report).or_else(|e| {
                    kernel_log::error(&format!("{e:#}"));
                    // The init system goes on without an agent.
                    std::process::exit(STATUS_FAILED.into())
                })
            }
        }
    }

    fn serve_init_system(self, report: ReportReader) -> Result<Ended> {
        marks::disable();
        let _ = setsid();
        survive::to_the_end(b"@runcvm-agent\0", &self.procfs);
        let init = Pid::from_raw(1);
        let mut agent = new_agent(
            self.root,
            self.devices,
            self.procfs,
            None,
            self.process.limits,
        )?;
        agent.nursery().workload = Some(pidfd(init)?);
        let session = agent.add(self.connection);
        session.keep(self.clock);
        session.follow(self.command, init.as_raw(), report);
        agent.listen(vsock::listen_on(AGENT_PORT)?);
        self.initramfs.finish();
        agent.run()
    }
}

fn new_agent(
    root: RootDir,
    devices: Devices,
    procfs: RootDir,
    proc: Option<OwnedFd>,
    limits: Vec<Limit>,
) -> Result<Agent> {
    limits::raise();
    let flags = OFlag::O_RDWR | OFlag::O_CLOEXEC;
    let null =
        openat(&devices.dev, "null", flags, Mode::empty()).context("cannot open /dev/null")?;
    let nursery = Nursery {
        null,
        pts: devices.pts,
        proc,
        workload: None,
        limits,
        procfs,
    };
    Agent::new(root, nursery)
}

fn pidfd(pid: Pid) -> Result<OwnedFd> {
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

/// What the kernel unpacked before it started this program.
#[derive(Debug)]
pub(crate) struct Initramfs {
    pub(crate) dir: RootDir,
    pub(crate) modules: Modules,
}

impl Initramfs {
    /// Loads what the workload did not wait for, and gives back the memory of what nobody
    /// needs any more.
    fn finish(&self) {
        self.modules.load_late(&self.dir);
        let others = [CONFIG_PATH, MODULES_PATH].map(Path::new);
        let modules = self.modules.paths().iter().map(PathBuf::as_path);
        for path in modules.chain(others) {
            let relative = path.strip_prefix("/").unwrap_or(path);
            let _ = unlinkat(&self.dir, relative, UnlinkatFlags::NoRemoveDir);
        }
    }
}
