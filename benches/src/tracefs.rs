//! Instances of the kernel's tracefs: tracers with events and buffers of their own
//! (Documentation/trace/ftrace.rst, "Instances").

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use nix::mount::{MsFlags, mount};

const TRACEFS: &str = "/sys/kernel/tracing";

/// An instance; removed when dropped.
#[derive(Debug)]
pub(crate) struct Instance(PathBuf);

impl Instance {
    /// Makes one for `purpose`, with `CLOCK_MONOTONIC` as its clock.
    ///
    /// # Errors
    ///
    /// The kernel has no tracefs, or this user may not use it.
    pub(crate) fn new(purpose: &str) -> Result<Self> {
        let instances = Path::new(TRACEFS).join("instances");
        if !instances.exists() {
            mount(
                Some("tracefs"),
                TRACEFS,
                Some("tracefs"),
                MsFlags::empty(),
                None::<&str>,
            )
            .context("the kernel's tracefs cannot be mounted; this needs root")?;
        }
        let path = instances.join(format!("runcvm-bench-{}-{purpose}", std::process::id()));
        fs::create_dir(&path).with_context(|| format!("{} cannot be made", path.display()))?;
        let instance = Self(path);
        instance.set("trace_clock", "mono")?;
        Ok(instance)
    }

    pub(crate) fn path(&self, file: &str) -> PathBuf {
        self.0.join(file)
    }

    /// Writes `value` to one of its files.
    pub(crate) fn set(&self, file: &str, value: &str) -> Result<()> {
        let path = self.path(file);
        fs::write(&path, value).with_context(|| format!("{} refuses {value:?}", path.display()))
    }

    pub(crate) fn read(&self, file: &str) -> io::Result<String> {
        fs::read_to_string(self.path(file))
    }
}

impl Drop for Instance {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir(&self.0) {
            eprintln!("runcvm-bench: {} is left behind: {error}", self.0.display());
        }
    }
}
