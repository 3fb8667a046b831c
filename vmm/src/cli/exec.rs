//! `runcvm-vmm exec`.

use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Args;

use super::process::{Base, ProcessArgs};
use crate::launch::{self, ExecSpec, Io};

/// Run a further command in a running machine
#[derive(Debug, Args)]
#[command(after_help = "Examples:
  runcvm-vmm exec box -- ps ax
  runcvm-vmm exec -it box -- bash
  runcvm-vmm exec -i -u postgres box -- psql < dump.sql

Exit status: the command's own; 128 + N if signal N ended it; 126 if it could not be
executed; 127 if it was not found; 125 if runcvm failed; 137 if the machine ended first.")]
pub(super) struct ExecArgs {
    /// The machine's name
    name: String,

    #[command(flatten)]
    process: ProcessArgs,
}

impl ExecArgs {
    pub(super) fn run(&self) -> Result<ExitCode> {
        let base = Base::beside(launch::workload_of(&self.name)?);
        let spec = ExecSpec {
            name: self.name.clone(),
            process: self.process.process(base)?,
        };
        let io = Io::inherited(self.process.interactive)
            .context("The standard streams cannot be used")?;
        Ok(super::report(&launch::exec(&spec, io)?))
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        exec: ExecArgs,
    }

    #[test]
    fn the_name_comes_before_the_command_and_options_anywhere_before_that() {
        for args in [&["-it", "box", "-w", "/x"][..], &["box", "-it", "-w", "/x"]] {
            let args = ["exec"].iter().chain(args).chain(&["--", "a", "-b"]);
            let exec = Line::parse_from(args).exec;
            assert_eq!(exec.name, "box");
            let process = exec.process.process(Base::docker("box")).unwrap();
            assert_eq!(process.args, ["a", "-b"]);
            assert_eq!(process.cwd, "/x");
        }
        assert!(Line::try_parse_from(["exec", "box", "a"]).is_err());
    }
}
