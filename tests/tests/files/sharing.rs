//! The machine that the tests on shares use together.

use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use runcvm_tests::{Rootfs, RunningVm, Shared, Vm, scratch};
use tempfile::TempDir;

/// A machine with shares, which the tests on them use together.
pub(crate) struct Sharing {
    pub(crate) vm: RunningVm,
    /// Directories and files of the host: `data` on `/data`, `other` on `/other/deep`, `fixed`
    /// on `/fixed`, which cannot be written, and the files `one` and `sealed` on `/etc/one`
    /// and `/etc/sealed`, which cannot be written either.
    host: TempDir,
    pub(crate) rootfs: Rootfs,
}

impl Sharing {
    pub(crate) fn machine() -> Arc<Self> {
        static SHARED: Shared<Sharing> = Shared::new();
        SHARED.get(Self::new)
    }

    fn new() -> Self {
        let host = scratch();
        let path = |name: &str| host.path().join(name);
        for name in ["data", "other", "fixed"] {
            fs::create_dir(path(name)).unwrap();
        }
        for name in ["fixed/file", "one", "sealed"] {
            fs::write(path(name), format!("{name}\n")).unwrap();
        }
        let rootfs = Rootfs::private();
        let mut vm = Vm::new(&rootfs)
            .args(["--tmpfs", "/memory:size=1m,mode=1770,noexec"])
            .args(["--tmpfs", "/plain"])
            .timeout(Duration::from_secs(400))
            .stdin();
        for (name, target) in [
            ("data", "/data"),
            ("other", "/other/deep"),
            ("fixed", "/fixed:ro"),
            ("one", "/etc/one"),
            ("sealed", "/etc/sealed:ro"),
        ] {
            vm = vm.args(["-v", &format!("{}:{target}", path(name).display())]);
        }
        let vm = vm.start(["sh", "-c", "echo ready; exec cat"]);
        vm.wait_for("ready\n");
        Self { vm, host, rootfs }
    }

    /// A path of the host.
    pub(crate) fn host(&self, name: &str) -> PathBuf {
        self.host.path().join(name)
    }
}
