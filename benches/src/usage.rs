//! What ended child processes have used.

use anyhow::Result;
use nix::sys::resource::{UsageWho, getrusage};

/// Sums over processes.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Usage {
    /// Milliseconds of CPU time.
    pub(crate) cpu: f64,
    /// Page faults.
    pub(crate) faults: u32,
}

impl Usage {
    /// Of all children that this process has waited for.
    pub(crate) fn of_children() -> Result<Self> {
        let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
        let cpu = [usage.user_time(), usage.system_time()].map(|time| {
            std::time::Duration::from(nix::sys::time::TimeSpec::new(
                time.tv_sec(),
                time.tv_usec() * 1000,
            ))
        });
        let faults = usage.minor_page_faults() + usage.major_page_faults();
        Ok(Self {
            cpu: (cpu[0] + cpu[1]).as_secs_f64() * 1e3,
            faults: u32::try_from(faults).unwrap_or(u32::MAX),
        })
    }

    pub(crate) fn since(self, earlier: Self) -> Self {
        Self {
            cpu: self.cpu - earlier.cpu,
            faults: self.faults - earlier.faults,
        }
    }
}
