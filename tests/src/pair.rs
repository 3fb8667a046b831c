//! A machine and a container that stay, for commands in both.

use std::sync::Arc;

use crate::case::Case;
use crate::compare::assert_same;
use crate::process::{Output, Running};
use crate::rootfs::Rootfs;
use crate::runc::RunningContainer;
use crate::shared::Shared;
use crate::vm::RunningVm;

/// A machine and a container with the same workload, in which the same commands must do the
/// same.
#[derive(Debug)]
pub struct Pair {
    vm: RunningVm,
    container: RunningContainer,
}

impl Pair {
    /// The pair that all tests of this process share; it goes when the process ends.
    pub fn shared() -> Arc<Self> {
        static SHARED: Shared<Pair> = Shared::new();
        SHARED.get(Self::new)
    }

    /// A new pair, each over a private copy of the test root filesystem.
    #[track_caller]
    pub fn new() -> Self {
        // The workload ends with its stdin, which ends with us, however we do.
        let workload = Case::sh("echo ready; exec cat").stdin();
        let pair = Self {
            vm: workload.start_in_vm(&Rootfs::private()),
            container: workload.start_in_runc(&Rootfs::private()),
        };
        pair.container.wait_for("ready\n");
        pair.vm.wait_for("ready\n");
        pair
    }

    /// The machine.
    pub fn vm(&self) -> &RunningVm {
        &self.vm
    }

    /// The container.
    pub fn container(&self) -> &RunningContainer {
        &self.container
    }

    /// Runs a command in both, and returns what both did.
    ///
    /// # Panics
    ///
    /// They did not do the same.
    #[track_caller]
    pub fn agrees(&self, case: &Case) -> Output {
        self.agrees_while(case, |_| {})
    }

    /// As [`Self::agrees`], while somebody talks to the command.
    #[track_caller]
    pub fn agrees_while(&self, case: &Case, talk: impl Fn(&Running)) -> Output {
        let command = self.container.start_exec(case);
        talk(&command);
        let runc = command.wait();
        let command = case.exec_in_vm(&self.vm);
        talk(&command);
        assert_same(case, runc, command.wait())
    }
}

impl Default for Pair {
    fn default() -> Self {
        Self::new()
    }
}
