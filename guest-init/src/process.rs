//! Processes that the host asks for: what to run, and how it is started.

mod child;
pub(crate) mod limits;
pub(crate) mod report;
pub(crate) mod spawn;
pub(crate) mod terminal;

use std::ffi::{CString, OsStr, c_char};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use runcvm_protocol::{ByteBuf, Limit, Process};
use thiserror::Error;

use crate::rootdir::RootDir;
use crate::users;

/// Statuses of a command that does not run, as docker and shells have them.
pub(crate) const STATUS_FAILED: u8 = 125;
pub(crate) const STATUS_NOT_EXECUTABLE: u8 = 126;
pub(crate) const STATUS_NOT_FOUND: u8 = 127;

/// File mode creation mask of a process for which none is asked.
const UMASK: u32 = 0o022;

/// Why a process does not start, as the host is told.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{message}")]
pub(crate) struct StartError {
    pub(crate) status: u8,
    pub(crate) message: String,
}

impl StartError {
    /// A failure before the program could be tried.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self {
            status: STATUS_FAILED,
            message: message.into(),
        }
    }
}

/// A process made ready, so that starting it needs no memory.
#[derive(Debug)]
pub(crate) struct Command {
    pub(super) args: CStrings,
    pub(super) env: CStrings,
    /// Where the program may be; the first that can be executed is.
    pub(super) programs: Vec<CString>,
    pub(super) cwd: CString,
    pub(super) uid: u32,
    pub(super) gid: u32,
    pub(super) groups: Vec<u32>,
    pub(super) limits: Vec<Limit>,
    pub(super) umask: libc::mode_t,
    /// As it is written to `/proc/self/oom_score_adj`.
    pub(super) oom_score_adj: String,
    pub(super) no_new_privileges: bool,
}

impl Command {
    /// Resolves `process` in `root`.
    pub(crate) fn new(process: &Process, root: &RootDir) -> Result<Self, StartError> {
        let user = users::find(&process.user, root).map_err(|e| {
            let source = std::error::Error::source(&e).map(|source| format!(": {source}"));
            StartError::failed(format!("{e}{}", source.unwrap_or_default()))
        })?;
        if process.args.is_empty() {
            return Err(StartError::failed("there is no command to run"));
        }
        let mut env = c_strings(&process.env, "environment")?;
        let home = || c_string(&[b"HOME=", &user.home[..]].concat(), "environment");
        let given = env
            .iter()
            .position(|variable| variable.to_bytes().starts_with(b"HOME="));
        match given {
            // As in a container, where an empty one counts for none.
            Some(at) if env[at].to_bytes() == b"HOME=" => env[at] = home()?,
            Some(_) => {}
            None => env.push(home()?),
        }
        let cwd: &[u8] = match process.cwd.as_slice() {
            b"" => b"/",
            cwd => cwd,
        };
        Ok(Self {
            args: CStrings::new(c_strings(&process.args, "arguments")?),
            env: CStrings::new(env),
            programs: c_strings(&candidates(process), "arguments")?,
            cwd: c_string(cwd, "working directory")?,
            uid: user.uid,
            gid: user.gid,
            groups: user.groups,
            limits: process.limits.clone(),
            umask: process.umask.unwrap_or(UMASK) & 0o777,
            oom_score_adj: process.oom_score_adj.unwrap_or(0).to_string(),
            no_new_privileges: process.no_new_privileges,
        })
    }

    /// Has it limited as others are, unless it is to be limited otherwise.
    pub(crate) fn inherit_limits(&mut self, others: &[Limit]) {
        if self.limits.is_empty() {
            self.limits.extend_from_slice(others);
        }
    }

    /// Makes the working directory if it is not there.
    pub(crate) fn make_cwd(&self, root: &RootDir) -> Result<(), StartError> {
        let path = self.cwd_path();
        match root.make_dir(&path) {
            Ok(_) => Ok(()),
            Err(e) => Err(StartError::failed(format!(
                "cannot make working directory {}: {e}",
                path.display()
            ))),
        }
    }

    fn cwd_path(&self) -> PathBuf {
        Path::new(OsStr::from_bytes(self.cwd.to_bytes())).to_owned()
    }

    /// The program as the user called it.
    fn name(&self) -> String {
        self.args.strings[0].to_string_lossy().into_owned()
    }
}

/// The paths at which the program of `process` may be, by `PATH` of its environment. An
/// empty element of `PATH` is the working directory.
pub(crate) fn candidates(process: &Process) -> Vec<ByteBuf> {
    let Some(program) = process.args.first() else {
        return Vec::new();
    };
    if program.contains(&b'/') {
        return vec![program.clone()];
    }
    let path = process
        .env
        .iter()
        .rev()
        .find_map(|variable| variable.strip_prefix(b"PATH="));
    match path {
        None | Some(b"") => Vec::new(),
        _ if program.is_empty() => Vec::new(),
        Some(path) => path
            .split(|&byte| byte == b':')
            .map(|dir| if dir.is_empty() { b".".as_slice() } else { dir })
            .map(|dir| ByteBuf::from([dir, b"/", program.as_slice()].concat()))
            .collect(),
    }
}

/// Strings in the form that execve(2) takes: a null-terminated array of pointers.
#[derive(Debug)]
pub(super) struct CStrings {
    strings: Vec<CString>,
    pointers: Vec<*const c_char>,
}

impl CStrings {
    fn new(strings: Vec<CString>) -> Self {
        let mut pointers: Vec<_> = strings.iter().map(|string| string.as_ptr()).collect();
        pointers.push(std::ptr::null());
        Self { strings, pointers }
    }

    /// Valid as long as `self`: what a `CString` points to does not move with it.
    pub(super) fn as_ptr(&self) -> *const *const c_char {
        self.pointers.as_ptr()
    }
}

fn c_strings(strings: &[ByteBuf], what: &str) -> Result<Vec<CString>, StartError> {
    strings
        .iter()
        .map(|string| c_string(string, what))
        .collect()
}

fn c_string(bytes: &[u8], what: &str) -> Result<CString, StartError> {
    CString::new(bytes)
        .map_err(|_| StartError::failed(format!("a NUL byte in the {what} cannot be passed on")))
}

#[cfg(test)]
mod tests;
