//! Containers made by our runtime itself, without docker.

use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use serde_json::{Value, json};

use crate::case::Case;
use crate::docker::daemon::install;
use crate::process::Output;
use crate::rootfs::{Rootfs, scratch};
use crate::runc::{self, RunningContainer, Runtime};

/// An OCI bundle for a command.
///
/// ```no_run
/// use runcvm_tests::{Bundle, Case};
///
/// let output = Bundle::new(&Case::sh("ls /data"))
///     .bind("/srv/data".as_ref(), "/data", &["ro"])
///     .run();
/// assert_eq!(output.out(), "file\n");
/// ```
#[derive(Clone, Debug)]
pub struct Bundle {
    case: Case,
    rootfs: Rootfs,
    mounts: Vec<Value>,
    read_only: bool,
    below: Option<&'static str>,
    network: Option<String>,
}

impl Bundle {
    /// The command in a private copy of the test root filesystem.
    pub fn new(case: &Case) -> Self {
        Self::over(case, &Rootfs::private())
    }

    /// The command in `rootfs`.
    pub fn over(case: &Case, rootfs: &Rootfs) -> Self {
        Self {
            case: case.clone(),
            rootfs: rootfs.clone(),
            mounts: Vec::new(),
            read_only: false,
            below: None,
            network: None,
        }
    }

    /// With a directory, file or socket of the host at `target`.
    #[must_use]
    pub fn bind(mut self, source: &Path, target: &str, options: &[&str]) -> Self {
        let options: Vec<_> = ["rbind", "rprivate"].iter().chain(options).collect();
        self.mounts.push(json!({
            "destination": target, "type": "bind", "source": source, "options": options,
        }));
        self
    }

    /// With memory at `target`.
    #[must_use]
    pub fn tmpfs(mut self, target: &str, options: &[&str]) -> Self {
        self.mounts.push(json!({
            "destination": target, "type": "tmpfs", "source": "tmpfs", "options": options,
        }));
        self
    }

    /// With a root filesystem that cannot be written.
    #[must_use]
    pub fn read_only(mut self) -> Self {
        self.read_only = true;
        self
    }

    /// In the network namespace at this path.
    #[must_use]
    pub fn network(mut self, path: &str) -> Self {
        self.network = Some(path.to_owned());
        self
    }

    /// With this runtime below ours, in place of runc.
    #[must_use]
    pub fn below(mut self, runtime: &'static str) -> Self {
        self.below = Some(runtime);
        self
    }

    /// Runs it with our runtime.
    #[track_caller]
    pub fn run(&self) -> Output {
        self.start().wait()
    }

    /// Starts it with our runtime.
    pub fn start(&self) -> RunningContainer {
        self.start_by(runtime())
    }

    /// Runs it with runc.
    #[track_caller]
    pub fn run_by_runc(&self) -> Output {
        self.start_by("runc".into()).wait()
    }

    fn start_by(&self, runtime: PathBuf) -> RunningContainer {
        let runtime = Runtime {
            program: runtime,
            below: self.below,
        };
        runc::start_by(runtime, &self.case, &self.rootfs, |config| {
            let mounts = config["mounts"].as_array_mut().expect("it is a list");
            mounts.extend(self.mounts.iter().cloned());
            config["root"]["readonly"] = self.read_only.into();
            let namespaces = config["linux"]["namespaces"].as_array_mut();
            let namespaces = namespaces.expect("it is a list").iter_mut();
            for namespace in namespaces.filter(|namespace| namespace["type"] == "network") {
                if let Some(path) = &self.network {
                    namespace["path"] = path.as_str().into();
                }
            }
        })
    }
}

/// Our runtime, in an installation for this process.
fn runtime() -> PathBuf {
    static RUNTIME: OnceLock<PathBuf> = OnceLock::new();
    RUNTIME
        .get_or_init(|| {
            // Kernels are mounted there, so it outlives us: the lab does not.
            let prefix = scratch().keep();
            let path = prefix.to_str();
            install(path.expect("scratch directories have plain names"), None);
            prefix.join("bin/runcvm-runtime")
        })
        .clone()
}
