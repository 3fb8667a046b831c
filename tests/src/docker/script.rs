//! Scripts of docker commands.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use super::masked::masked;
use super::{Daemon, Runtime, Station};
use crate::process::{Input, Output, Running};
use crate::project::project;

/// How long a script may take: the lab is slow, and two run at once.
const TIMEOUT: Duration = Duration::from_secs(150);

/// A bash script of docker commands, which is run with a runtime.
#[derive(Clone, Debug)]
pub struct Script {
    name: String,
    text: String,
    variables: Vec<(String, String)>,
    stations: &'static [Station],
    terminal: Option<(u16, u16)>,
    keeping: bool,
    timeout: Duration,
}

impl Script {
    /// A script; `name` is in `$n`, for containers, networks and volumes of its own.
    pub fn new(name: &str, text: &str) -> Self {
        Self {
            name: name.to_owned(),
            text: text.to_owned(),
            variables: Vec::new(),
            stations: &[],
            terminal: None,
            keeping: false,
            timeout: TIMEOUT,
        }
    }

    /// With these containers by their names.
    #[must_use]
    pub fn stations(mut self, stations: &'static [Station]) -> Self {
        self.stations = stations;
        self
    }

    /// On a terminal of this size.
    #[must_use]
    pub fn terminal(mut self, rows: u16, columns: u16) -> Self {
        self.terminal = Some((rows, columns));
        self
    }

    /// With so much time in place of two minutes and a half.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// With a variable.
    #[must_use]
    pub fn variable(mut self, name: &str, value: &str) -> Self {
        self.variables.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Its containers stay.
    #[must_use]
    pub(super) fn keeping(mut self) -> Self {
        self.keeping = true;
        self
    }

    /// Starts it with this runtime.
    #[track_caller]
    pub fn start(&self, runtime: Runtime) -> Running {
        Daemon::shared();
        let prelude = project().join("tests/docker/prelude.sh");
        let mut command = Command::new("bash");
        command
            .arg("-c")
            .arg(format!("source {}\n{}", prelude.display(), self.text))
            .current_dir(self.directory(runtime))
            .env("RUNTIME", runtime.name())
            .env("LANG", "C.UTF-8")
            .env("n", &self.name)
            .env("keeping", if self.keeping { "yes" } else { "" });
        for (name, value) in &self.variables {
            command.env(name, value);
        }
        for station in self.stations {
            if self.names(station) {
                station.ensure(runtime);
                command.env(station.name, station.container(runtime));
            }
        }
        Running::start(command, Input::Null, self.terminal, self.timeout)
    }

    /// A directory of its own on the host, new and empty.
    fn directory(&self, runtime: Runtime) -> PathBuf {
        let path = PathBuf::from(format!("/tmp/case/{}{}", self.name, runtime.suffix()));
        // There is one already if the script runs once more.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).expect("/tmp can be written");
        path
    }

    fn names(&self, station: &Station) -> bool {
        self.text.match_indices('$').any(|(at, _)| {
            self.text[at + 1..]
                .trim_start_matches('{')
                .strip_prefix(station.name)
                .is_some_and(|after| !after.starts_with(|c: char| c.is_alphanumeric() || c == '_'))
        })
    }

    /// Runs it with this runtime.
    #[track_caller]
    pub fn run(&self, runtime: Runtime) -> Output {
        self.start(runtime).wait()
    }

    /// Runs it with each runtime, and returns what both did.
    ///
    /// # Panics
    ///
    /// They did not do the same.
    #[track_caller]
    pub fn agrees(&self) -> Output {
        self.agrees_while(|_| {})
    }

    /// As [`Self::agrees`], while somebody talks to it.
    ///
    /// # Panics
    ///
    /// They did not do the same.
    #[track_caller]
    pub fn agrees_while(&self, talk: impl Fn(&Running)) -> Output {
        let [runc, ours] = self.each_while(talk);
        assert!(
            runc == ours,
            "{}\n{}\n--- runc: status {}\n{}{}--- runcvm: status {}\n{}{}---",
            self.name,
            self.text,
            runc.status,
            runc.out(),
            runc.err(),
            ours.status,
            ours.out(),
            ours.err(),
        );
        ours
    }

    /// Runs it with each runtime while somebody talks to it, without comparing them.
    #[track_caller]
    pub fn each_while(&self, talk: impl Fn(&Running)) -> [Output; 2] {
        [Runtime::Runc, Runtime::Runcvm].map(|runtime| {
            let running = self.start(runtime);
            talk(&running);
            let output = running.wait();
            Output {
                stdout: masked(&output.stdout, runtime),
                stderr: masked(&output.stderr, runtime),
                ..output
            }
        })
    }
}
