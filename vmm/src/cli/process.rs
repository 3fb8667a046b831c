//! Options on the process to run, the same for `run` and `exec`.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt;

use anyhow::{Result, ensure};
use clap::Args;
use runcvm_protocol::{ByteBuf, Process, User};

use super::values;
use crate::launch::terminal;

/// The search path of a process that was given none, as in docker.
const PATH: &[u8] = b"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

#[derive(Debug, Args)]
pub(super) struct ProcessArgs {
    /// Give the command a terminal that follows ours
    #[arg(short = 't', long = "tty")]
    pub(super) terminal: bool,

    /// Feed our stdin to the command
    #[arg(short = 'i', long)]
    pub(super) interactive: bool,

    /// Set an environment variable; without a value, to the one that it has here
    #[arg(short = 'e', long = "env", value_name = "NAME[=VALUE]")]
    env: Vec<OsString>,

    /// Working directory; made for run if it is not there [default: / or, for exec, the machine's]
    #[arg(short = 'w', long = "workdir", value_name = "DIR")]
    cwd: Option<OsString>,

    /// User and group of the guest, by name or number [default: root or, for exec, the machine's]
    #[arg(short = 'u', long, value_name = "USER[:GROUP]")]
    user: Option<OsString>,

    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD")]
    args: Vec<OsString>,
}

/// What a process has if its options say nothing else.
#[derive(Debug)]
pub(super) struct Base {
    env: Vec<ByteBuf>,
    cwd: ByteBuf,
    user: User,
}

impl Base {
    /// For the workload of a machine with this name.
    pub(super) fn docker(hostname: &str) -> Self {
        Self {
            env: vec![
                ByteBuf::from(PATH),
                ByteBuf::from(format!("HOSTNAME={hostname}").into_bytes()),
            ],
            cwd: ByteBuf::from("/"),
            user: User::default(),
        }
    }

    /// For a further process beside `workload`.
    pub(super) fn beside(workload: Process) -> Self {
        Self {
            env: workload.env,
            cwd: workload.cwd,
            user: workload.user,
        }
    }
}

impl ProcessArgs {
    /// The process that the options ask for, over `base`.
    pub(super) fn process(&self, base: Base) -> Result<Process> {
        if let Some(cwd) = &self.cwd {
            ensure!(
                cwd.as_bytes().starts_with(b"/"),
                "-w \"{}\" is no working directory: it must be an absolute path",
                cwd.to_string_lossy()
            );
        }
        let bytes = |s: &OsString| ByteBuf::from(s.as_bytes());
        Ok(Process {
            args: self.args.iter().map(bytes).collect(),
            env: self.environment(base.env, |name| std::env::var_os(name))?,
            cwd: self.cwd.as_ref().map_or(base.cwd, bytes),
            user: match &self.user {
                Some(user) => User::Named(bytes(user)),
                None => base.user,
            },

            terminal: self
                .terminal
                .then(|| terminal::own_size().unwrap_or_default()),
            stdin: self.interactive,
            ..Process::default()
        })
    }

    /// `env`, overridden and followed by what was asked for.
    fn environment(
        &self,
        mut env: Vec<ByteBuf>,
        ours: impl Fn(&OsStr) -> Option<OsString>,
    ) -> Result<Vec<ByteBuf>> {
        if self.terminal && !env.iter().any(|pair| name_of(pair) == b"TERM") {
            env.push(ByteBuf::from(&b"TERM=xterm"[..]));
        }
        for text in &self.env {
            let name = name_of(text.as_bytes());
            let pair = values::env(text, &ours)?;
            let old = env.iter().position(|p| name_of(p) == name);
            match (pair, old) {
                (Some(pair), Some(at)) => env[at] = pair,
                (Some(pair), None) => env.push(pair),
                // A variable that we do not have is one that it shall not have.
                (None, Some(at)) => drop(env.remove(at)),
                (None, None) => {}
            }
        }
        Ok(env)
    }
}

fn name_of(pair: &[u8]) -> &[u8] {
    pair.split(|&b| b == b'=').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use std::os::unix::ffi::OsStringExt;

    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        process: ProcessArgs,
    }

    fn parse(args: &[&[u8]]) -> ProcessArgs {
        let args = args.iter().map(|a| OsString::from_vec(a.to_vec()));
        Line::parse_from([OsString::from("x")].into_iter().chain(args)).process
    }

    fn environment(args: &[&[u8]]) -> Vec<ByteBuf> {
        let ours = |name: &OsStr| (name == "HERE").then(|| OsString::from_vec(vec![0xFF]));
        parse(args)
            .environment(Base::docker("box").env, ours)
            .unwrap()
    }

    #[test]
    fn the_environment_is_docker_s() {
        assert_eq!(environment(&[b"--", b"x"]), [PATH, b"HOSTNAME=box"]);
        assert_eq!(
            environment(&[
                b"-t", b"-e", b"A=1", b"-e", b"HERE", b"-e", b"GONE", b"--", b"x"
            ]),
            [PATH, b"HOSTNAME=box", b"TERM=xterm", b"A=1", b"HERE=\xFF"]
        );
        assert_eq!(
            environment(&[
                b"-e",
                b"PATH=/x",
                b"-e",
                b"HOSTNAME",
                b"-e",
                b"A=",
                b"-e",
                b"A=b=c\n",
                b"--",
                b"x"
            ]),
            [&b"PATH=/x"[..], b"A=b=c\n"]
        );
    }

    #[test]
    fn arguments_are_bytes_and_may_be_empty_or_look_like_options() {
        let args = parse(&[
            b"-it", b"-u", b"a:b", b"-w", b"/\xFF", b"--", b"-x", b"", b"\xFE \n",
        ]);
        let process = args.process(Base::docker("box")).unwrap();
        assert_eq!(process.args, [&b"-x"[..], b"", b"\xFE \n"]);
        assert_eq!(process.cwd, &b"/\xFF"[..]);
        assert_eq!(process.user, User::Named(ByteBuf::from(b"a:b")));
        assert!(process.stdin && process.terminal.is_some());
        assert!(
            parse(&[b"-w", b"tmp", b"--", b"x"])
                .process(Base::docker("box"))
                .is_err()
        );
    }

    #[test]
    fn a_further_process_has_what_the_workload_has() {
        let workload = parse(&[b"-e", b"A=1", b"-w", b"/srv", b"-u", b"me", b"--", b"x"]);
        let workload = workload.process(Base::docker("box")).unwrap();
        let further = parse(&[b"-e", b"B=2", b"--", b"y"]);
        let process = further.process(Base::beside(workload.clone())).unwrap();
        assert_eq!(process.env, [PATH, b"HOSTNAME=box", b"A=1", b"B=2"]);
        assert_eq!(process.cwd, "/srv");
        assert_eq!(process.user, User::Named(ByteBuf::from("me")));
        let other = parse(&[b"-u", b"", b"-w", b"/", b"--", b"y"]);
        let process = other.process(Base::beside(workload)).unwrap();
        assert_eq!(process.cwd, "/");
        assert_eq!(process.user, User::Named(ByteBuf::from("")));
    }
}
