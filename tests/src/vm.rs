//! Machines of `runcvm-vmm`.

use std::ffi::{OsStr, OsString};
use std::ops::Deref;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::cgroup::Cgroup;
use crate::invocation::Invocation;
use crate::process::{Output, Running};
use crate::project::{binary, home};
use crate::rootfs::Rootfs;

/// A machine to be started: `runcvm-vmm run --rootfs DIR`.
#[derive(Clone, Debug)]
pub struct Vm {
    invocation: Invocation,
    name: String,
    env: Vec<(OsString, OsString)>,
}

impl Vm {
    /// A machine over this root filesystem, with a name of its own.
    pub fn new(rootfs: &Rootfs) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        Self::named(&format!("test-{}-{count}", std::process::id()), rootfs)
    }

    /// A machine over this root filesystem, with this name.
    pub fn named(name: &str, rootfs: &Rootfs) -> Self {
        let invocation = vmm("run")
            .args([&format!("--name={name}"), "--rootfs"])
            .args([rootfs.path()])
            .keep(rootfs.clone());
        Self {
            invocation,
            name: name.to_owned(),
            env: Vec::new(),
        }
    }

    /// A machine over a private copy of the test root filesystem.
    pub fn rootfs() -> Self {
        Self::new(&Rootfs::private())
    }

    /// Adds options of `runcvm-vmm run`.
    #[must_use]
    pub fn args(self, options: impl IntoIterator<Item: AsRef<OsStr>>) -> Self {
        self.map(|invocation| invocation.args(options))
    }

    /// Sets a variable for `runcvm-vmm` itself, for this machine's other verbs too.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let pair = (name.as_ref().to_owned(), value.as_ref().to_owned());
        self.env.push(pair);
        self.map(|invocation| invocation.env(name, value))
    }

    /// See [`Invocation::within`].
    #[must_use]
    pub fn within(self, cgroup: &Cgroup) -> Self {
        self.map(|invocation| invocation.within(cgroup))
    }

    /// See [`Invocation::under`].
    #[must_use]
    pub fn under(self, wrapper: &[&str]) -> Self {
        self.map(|invocation| invocation.under(wrapper))
    }

    /// See [`Invocation::timeout`].
    #[must_use]
    pub fn timeout(self, timeout: Duration) -> Self {
        self.map(|invocation| invocation.timeout(timeout))
    }

    /// See [`Invocation::stdin`].
    #[must_use]
    pub fn stdin(self) -> Self {
        self.map(Invocation::stdin)
    }

    /// See [`Invocation::feed`].
    #[must_use]
    pub fn feed(self, bytes: impl AsRef<[u8]>) -> Self {
        self.map(|invocation| invocation.feed(bytes))
    }

    /// See [`Invocation::terminal`].
    #[must_use]
    pub fn terminal(self, rows: u16, columns: u16) -> Self {
        self.map(|invocation| invocation.terminal(rows, columns))
    }

    /// Boots it, runs the command in it to its end.
    #[track_caller]
    pub fn run(&self, command: impl IntoIterator<Item: AsRef<OsStr>>) -> Output {
        self.invocation.run(command)
    }

    /// Runs the program with the options alone, without a command.
    #[track_caller]
    pub fn run_bare(&self) -> Output {
        self.invocation.run_bare()
    }

    /// Boots it in the background.
    pub fn start(&self, command: impl IntoIterator<Item: AsRef<OsStr>>) -> RunningVm {
        let running = self.invocation.start(command);
        RunningVm {
            running,
            name: self.name.clone(),
            env: self.env.clone(),
            _invocation: self.invocation.clone(),
        }
    }

    pub(crate) fn map(self, change: impl FnOnce(Invocation) -> Invocation) -> Self {
        Self {
            invocation: change(self.invocation),
            ..self
        }
    }
}

/// A machine in the background; also a [`Running`]. Dropping it kills it.
#[derive(Debug)]
pub struct RunningVm {
    running: Running,
    name: String,
    env: Vec<(OsString, OsString)>,
    /// It keeps the root filesystem until the machine is gone.
    _invocation: Invocation,
}

impl RunningVm {
    /// Its name, for `runcvm-vmm exec` and others.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Another command in it: `vm.exec().args(["-u", "user"]).run(["id"])`.
    pub fn exec(&self) -> Invocation {
        self.verb("exec")
    }

    /// `runcvm-vmm VERB` for it: `vm.verb("stop").run_bare()`.
    pub fn verb(&self, verb: &str) -> Invocation {
        self.env
            .iter()
            .fold(vmm(verb), |invocation, (name, value)| {
                invocation.env(name, value)
            })
            .operand(&self.name)
    }

    /// What `runcvm-vmm status` says of it.
    #[track_caller]
    pub fn status(&self) -> serde_json::Value {
        let output = self.verb("status").run_bare().succeeded();
        serde_json::from_slice(&output.stdout).expect("the status is JSON")
    }

    /// Runs a script of the shell in it, which must succeed, and returns what it wrote.
    #[track_caller]
    pub fn sh(&self, script: &str) -> String {
        self.exec()
            .run(["sh", "-e", "-c", script])
            .succeeded()
            .out()
    }

    /// Waits for its end.
    #[track_caller]
    pub fn wait(self) -> Output {
        self.running.wait()
    }
}

impl Deref for RunningVm {
    type Target = Running;

    fn deref(&self) -> &Running {
        &self.running
    }
}

/// `runcvm-vmm VERB` of the development prefix.
pub fn vmm(verb: &str) -> Invocation {
    Invocation::new(binary("runcvm-vmm"))
        .env("RUNCVM_HOME", home())
        .args([verb])
}
