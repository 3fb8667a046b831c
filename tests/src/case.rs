//! One command, run in a machine and under runc.

use std::ffi::{OsStr, OsString};

use crate::process::{Input, Output, Running};
use crate::rootfs::Rootfs;
use crate::runc;
use crate::vm::Vm;

/// A command with all that a container runtime lets one choose for it.
#[derive(Clone, Debug)]
pub struct Case {
    pub(crate) args: Vec<OsString>,
    pub(crate) env: Vec<(OsString, OsString)>,
    pub(crate) cwd: OsString,
    pub(crate) user: String,
    pub(crate) input: Option<Vec<u8>>,
    pub(crate) terminal: Option<(u16, u16)>,
}

impl Case {
    /// This command as root in `/`, with docker's `PATH`, nothing on stdin.
    pub fn new(args: impl IntoIterator<Item: AsRef<OsStr>>) -> Self {
        let path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
        Self {
            args: args
                .into_iter()
                .map(|arg| arg.as_ref().to_owned())
                .collect(),
            env: vec![("PATH".into(), path.into())],
            cwd: "/".into(),
            user: String::new(),
            input: None,
            terminal: None,
        }
    }

    /// This script, run by the shell.
    pub fn sh(script: &str) -> Self {
        Self::new(["/bin/sh", "-c", script])
    }

    /// With a variable.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env.retain(|(old, _)| old != name.as_ref());
        self.env
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
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
        self.input = Some(bytes.as_ref().to_owned());
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
    pub fn start_in_vm(&self, rootfs: &Rootfs) -> crate::vm::RunningVm {
        let mut vm = Vm::new(rootfs)
            .args(["--hostname", runc::HOSTNAME, "-w"])
            .args([&self.cwd]);
        for (name, value) in &self.env {
            let mut pair = name.clone();
            pair.push("=");
            pair.push(value);
            vm = vm.args([OsStr::new("-e"), &pair]);
        }
        if !self.user.is_empty() {
            vm = vm.args(["-u", &self.user]);
        }
        if let Some(bytes) = &self.input {
            vm = vm.feed(bytes);
        }
        if let Some((rows, columns)) = self.terminal {
            vm = vm.terminal(rows, columns);
        }
        vm.start(&self.args)
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
        let runc = self.in_runc(&Rootfs::private());
        let vm = self.in_vm(&Rootfs::private());
        assert!(
            runc == vm,
            "{:?} differs\n--- runc: status {}\nstdout: {}\nstderr: {}\n--- runcvm: status {}\nstdout: {}\nstderr: {}",
            self.args,
            runc.status,
            runc.stdout.escape_ascii(),
            runc.stderr.escape_ascii(),
            vm.status,
            vm.stdout.escape_ascii(),
            vm.stderr.escape_ascii(),
        );
        vm
    }

    pub(crate) fn spawn(&self, process: std::process::Command) -> Running {
        let input = self.input.clone().map_or(Input::Null, Input::Bytes);
        Running::start(
            process,
            input,
            self.terminal,
            std::time::Duration::from_secs(60),
        )
    }
}
