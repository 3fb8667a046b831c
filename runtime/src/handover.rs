//! What the container's processes inherit from us through runc, and becoming runc.

use std::convert::Infallible;
use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Seek, Write};
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd, RawFd};
use std::path::Path;

use anyhow::{Context, Result};
use nix::fcntl::{FcntlArg, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use rustix::fs::CWD;
use rustix::mount::{OpenTreeFlags, open_tree};
use serde::Serialize;
use serde_json::Value;

use crate::container::{MESSAGE_FD, PREFIX_FD, PROGRAM_FD};
use crate::delegate;

/// A document that runc reads: no file on disk is needed. It does not reach the container.
const DOCUMENT_FD: RawFd = PREFIX_FD + 1;

/// Above all numbers that we give.
const ABOVE: RawFd = DOCUMENT_FD + 1;

/// Files that the next program gets, by number.
#[derive(Debug)]
pub(crate) struct Handover {
    files: Vec<(RawFd, OwnedFd)>,
}

impl Handover {
    /// Our own program, and the message for it.
    pub(crate) fn new(message: &impl Serialize) -> Result<Self> {
        let program = File::open("/proc/self/exe").context("our own program cannot be opened")?;
        let mut this = Self::none();
        this.add(PROGRAM_FD, program.into())?;
        this.add(MESSAGE_FD, sealed(&serde_json::to_vec(message)?)?)?;
        Ok(this)
    }

    /// Nothing for the container.
    pub(crate) fn none() -> Self {
        Self { files: Vec::new() }
    }

    /// Also a mount, attached to nothing yet, of the directory where we are installed with all
    /// that is mounted in it.
    pub(crate) fn with_prefix(mut self, prefix: &Path) -> Result<Self> {
        let flags = OpenTreeFlags::OPEN_TREE_CLONE
            | OpenTreeFlags::OPEN_TREE_CLOEXEC
            | OpenTreeFlags::AT_RECURSIVE;
        let tree = open_tree(CWD, prefix, flags)
            .with_context(|| format!("{} cannot be mounted in containers", prefix.display()))?;
        self.add(PREFIX_FD, tree)?;
        Ok(self)
    }

    /// Also a JSON document for runc alone. Returns the path by which runc finds it.
    pub(crate) fn add_document(&mut self, document: &Value) -> Result<OsString> {
        self.add(DOCUMENT_FD, sealed(&serde_json::to_vec(document)?)?)?;
        Ok(format!("/proc/self/fd/{DOCUMENT_FD}").into())
    }

    /// How many files from 3 on a container's process gets.
    fn preserved(&self) -> usize {
        self.files
            .iter()
            .filter(|(number, _)| *number < DOCUMENT_FD)
            .count()
    }

    fn add(&mut self, number: RawFd, file: OwnedFd) -> Result<()> {
        // Out of the way of the numbers to come.
        let raw = fcntl(&file, FcntlArg::F_DUPFD_CLOEXEC(ABOVE)).context("no file is to be had")?;
        // SAFETY: the descriptor was just made, and nobody else has it.
        self.files
            .push((number, unsafe { OwnedFd::from_raw_fd(raw) }));
        Ok(())
    }

    /// Becomes `runtime` with the global options, the verb and its arguments.
    pub(crate) fn exec(
        self,
        runtime: &Path,
        globals: &[OsString],
        verb: &str,
        arguments: Vec<OsString>,
    ) -> Result<Infallible> {
        let mut args = globals.to_vec();
        args.push(verb.into());
        if self.preserved() > 0 {
            args.extend(["--preserve-fds".into(), self.preserved().to_string().into()]);
        }
        args.extend(arguments);
        for (number, file) in &self.files {
            // SAFETY: we are about to become another program, and whatever of ours has this
            // number is not used before that: our files are all above.
            let done = unsafe { libc::dup2(file.as_raw_fd(), *number) };
            if done != *number {
                return Err(io::Error::last_os_error()).context("no file can be handed over");
            }
        }
        delegate::exec(runtime, &args)
    }
}

/// A file in memory with this content, which nobody can change.
fn sealed(content: &[u8]) -> Result<OwnedFd> {
    let flags = MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING;
    let mut file = File::from(memfd_create(c"runcvm", flags).context("there is no memory file")?);
    let written = file.write_all(content).and_then(|()| file.rewind());
    written.context("the memory file cannot be written")?;
    let seals = SealFlag::F_SEAL_SEAL
        | SealFlag::F_SEAL_SHRINK
        | SealFlag::F_SEAL_GROW
        | SealFlag::F_SEAL_WRITE;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals)).context("the memory file cannot be sealed")?;
    Ok(file.into())
}
