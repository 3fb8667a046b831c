//! A program that runs a command elsewhere: `PROGRAM OPTION… -- COMMAND…`.

use std::any::Any;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::cgroup::Cgroup;
use crate::process::{Input, Output, Running};

/// How long a command may take unless the test says otherwise. The lab is slow, and its host may
/// be busy; only what hangs takes so long.
pub(crate) const TIMEOUT: Duration = Duration::from_secs(240);

/// `PROGRAM OPTION… -- COMMAND…`, with what its streams are.
#[derive(Clone)]
pub struct Invocation {
    program: OsString,
    options: Vec<OsString>,
    operand: Option<OsString>,
    env: Vec<(OsString, OsString)>,
    input: Input,
    terminal: Option<(u16, u16)>,
    timeout: Duration,
    cgroup: Option<Cgroup>,
    keep: Vec<Arc<dyn Any + Send + Sync>>,
}

impl fmt::Debug for Invocation {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            program, options, ..
        } = self;
        formatter
            .debug_struct("Invocation")
            .field("program", program)
            .field("options", options)
            .finish()
    }
}

impl Invocation {
    pub(crate) fn new(program: impl Into<OsString>) -> Self {
        Self {
            program: program.into(),
            options: Vec::new(),
            operand: None,
            env: Vec::new(),
            input: Input::Null,
            terminal: None,
            timeout: TIMEOUT,
            cgroup: None,
            keep: Vec::new(),
        }
    }

    /// Adds options.
    #[must_use]
    pub fn args(mut self, options: impl IntoIterator<Item: AsRef<OsStr>>) -> Self {
        self.options
            .extend(options.into_iter().map(|option| option.as_ref().to_owned()));
        self
    }

    /// What stands between the options and `--`.
    pub(crate) fn operand(mut self, operand: impl AsRef<OsStr>) -> Self {
        self.operand = Some(operand.as_ref().to_owned());
        self
    }

    /// Lets another program run this one, which it finds after its own arguments.
    #[must_use]
    pub fn under(mut self, wrapper: &[&str]) -> Self {
        let mut options: Vec<OsString> = wrapper.iter().map(OsString::from).collect();
        options.push(self.program);
        options.append(&mut self.options);
        self.program = options.remove(0);
        self.options = options;
        self
    }

    /// Sets a variable for the program itself.
    #[must_use]
    pub fn env(mut self, name: impl AsRef<OsStr>, value: impl AsRef<OsStr>) -> Self {
        self.env
            .push((name.as_ref().to_owned(), value.as_ref().to_owned()));
        self
    }

    /// The command may take this long, boot included.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Keeps the command's stdin open: see [`Running::write`] and [`Running::close_stdin`].
    #[must_use]
    pub fn stdin(mut self) -> Self {
        self.input = Input::Open;
        self.args(["-i"])
    }

    /// Feeds the command's stdin, and then closes it.
    #[must_use]
    pub fn feed(mut self, bytes: impl AsRef<[u8]>) -> Self {
        self.input = Input::Bytes(bytes.as_ref().to_owned());
        self.args(["-i"])
    }

    /// Runs it on a terminal of this size.
    #[must_use]
    pub fn terminal(mut self, rows: u16, columns: u16) -> Self {
        self.terminal = Some((rows, columns));
        self.args(["-t", "-i"])
    }

    /// Starts it, and so all that come from it, in `cgroup`.
    #[must_use]
    pub fn within(mut self, cgroup: &Cgroup) -> Self {
        self.cgroup = Some(cgroup.clone());
        self
    }

    /// Keeps a thing for as long as the invocation runs.
    pub(crate) fn keep(mut self, thing: impl Any + Send + Sync) -> Self {
        self.keep.push(Arc::new(thing));
        self
    }

    /// Runs the command to its end.
    #[track_caller]
    pub fn run(&self, command: impl IntoIterator<Item: AsRef<OsStr>>) -> Output {
        self.start(command).wait()
    }

    /// Starts the command in the background.
    pub fn start(&self, command: impl IntoIterator<Item: AsRef<OsStr>>) -> Running {
        let mut process = Command::new(&self.program);
        process
            .args(&self.options)
            .args(&self.operand)
            .arg("--")
            .args(command);
        self.spawn(process)
    }

    /// Runs the program with its options alone.
    #[track_caller]
    pub fn run_bare(&self) -> Output {
        let mut process = Command::new(&self.program);
        process.args(&self.options).args(&self.operand);
        self.spawn(process).wait()
    }

    fn spawn(&self, mut process: Command) -> Running {
        process.envs(self.env.iter().map(|(name, value)| (name, value)));
        if let Some(cgroup) = &self.cgroup {
            cgroup.contain(&mut process).expect("the group is there");
        }
        Running::start(process, self.input.clone(), self.terminal, self.timeout)
    }
}
