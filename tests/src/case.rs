//! One command, run in a machine and under runc.

use std::ffi::{OsStr, OsString};

use crate::compare::assert_same;
use crate::invocation::{Invocation, TIMEOUT};
use crate::process::{Input, Output, Running};
use crate::rootfs::Rootfs;
use crate::runc;
use crate::vm::{RunningVm, Vm};

/// A command with all that a container runtime lets one choose for it.
#[derive(Clone, Debug)]
pub struct Case {
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) cwd: OsString,
    pub(crate) user: String,
    input: Input,
    pub(crate) terminal: Option<(u16, u16)>,
}

impl Case {
    /// This command as root in `/`, with docker's `PATH` and `HOSTNAME`, nothing on stdin.
    pub fn new(args: impl IntoIterator<Item: AsRef<OsStr>>) -> Self {
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        Self {
            args: args
                .into_iter()
                .map(|arg| arg.as_ref().to_owned())
                .collect(),
            env: vec![
                ("PATH".into(), path.into()),
                ("HOSTNAME".into(), runc::HOSTNAME.into()),
            ],
            cwd: "/".into(),
            user: String::new(),
            input: Input::Null,
            terminal: None,
        }
    }

    /// This script, run by the shell.
    pub fn sh(script: &str) -> Self {
        Self::new(["/bin/sh", "-c", script])
    }

    /// With a variable, which takes the place of an older one of its name.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        let (name, value) = (name.as_ref(), value.as_ref());
        match self.env.iter_mut().find(|(old, _)| old == name) {
            Some((_, old)) => value.clone_into(old),
            None => self.env.push((name.to_owned(), value.to_owned())),
        }
        self
    }

    /// In this directory.
    #[must_use]
    pub fn cwd(mut self, cwd: impl AsRef<OsStr>) -> Self {
        self.cwd = cwd.as_ref().to_owned();
        self
    }

    /// As `USER[:GROUP]`.
    #[must_use]
    pub fn user(mut self, user: &str) -> Self {
        user.clone_into(&mut self.user);
        self
    }

    /// With these bytes on stdin.
    #[must_use]
    pub fn feed(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.input = Input::Bytes(bytes.as_ref().to_owned());
        self
    }

    /// With a stdin that stays open: see [`Running::write`] and [`Running::close_stdin`].
    #[must_use]
    pub fn stdin(mut self) -> Self {
        self.input = Input::Open;
        self
    }

    /// On a terminal of this size.
    #[must_use]
    pub fn terminal(mut self, rows: u16, columns: u16) -> Self {
        self.terminal = Some((rows, columns));
        self.env("TERM", "xterm")
    }

    /// Runs it in a machine over `rootfs`.
    #[track_caller]
    pub fn in_vm(&self, rootfs: &Rootfs) -> Output {
        self.start_in_vm(rootfs).wait()
    }

    /// Starts it in a machine over `rootfs`.
    pub fn start_in_vm(&self, rootfs: &Rootfs) -> RunningVm {
        Vm::new(rootfs)
            .args(["--hostname", runc::HOSTNAME])
            .map(|invocation| self.ask(invocation))
            .start(&self.args)
    }

    /// Starts it in a machine that runs already.
    pub fn exec_in_vm(&self, vm: &RunningVm) -> Running {
        self.ask(vm.exec()).start(&self.args)
    }

    /// Asks `runcvm-vmm run` or `exec` for all but the command itself.
    fn ask(&self, invocation: Invocation) -> Invocation {
        let mut invocation = invocation.args([OsStr::new("-w"), &self.cwd]);
        for (name, value) in &self.env {
            let mut pair = name.clone();
            pair.push("=");
            pair.push(value);
            invocation = invocation.args([OsStr::new("-e"), &pair]);
        }
        if !self.user.is_empty() {
            invocation = invocation.args(["-u", &self.user]);
        }
        if let Some((rows, columns)) = self.terminal {
            return invocation.terminal(rows, columns);
        }
        match &self.input {
            Input::Null => invocation,
            Input::Open => invocation.stdin(),
            Input::Bytes(bytes) => invocation.feed(bytes),
        }
    }

    /// Runs it under runc over `rootfs`.
    #[track_caller]
    pub fn in_runc(&self, rootfs: &Rootfs) -> Output {
        self.start_in_runc(rootfs).wait()
    }

    /// Starts it under runc over `rootfs`.
    pub fn start_in_runc(&self, rootfs: &Rootfs) -> runc::RunningContainer {
        runc::start(self, rootfs)
    }

    /// Runs it both ways, each over a private copy of the test root filesystem, and returns
    /// what both did.
    ///
    /// # Panics
    ///
    /// They did not do the same.
    #[track_caller]
    pub fn agrees(&self) -> Output {
        self.agrees_while(|_| {})
    }

    /// As [`Self::agrees`], while somebody talks to it.
    #[track_caller]
    pub fn agrees_while(&self, talk: impl Fn(&Running)) -> Output {
        let container = self.start_in_runc(&Rootfs::private());
        talk(&container);
        let runc = container.wait();
        let vm = self.start_in_vm(&Rootfs::private());
        talk(&vm);
        assert_same(self, runc, vm.wait())
    }

    /// Starts a program of runc's for this command.
    pub(crate) fn spawn(&self, process: std::process::Command) -> Running {
        Running::start(process, self.input.clone(), self.terminal, TIMEOUT)
    }
}
