//! The docker daemon of a suite.

use std::env;
use std::fs::{self, File};
use std::os::unix::fs::symlink;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use nix::mount::{MsFlags, mount};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::project::{home, project};
use crate::shared::Shared;

/// Where our programs are installed for the daemon.
pub(super) const PREFIX: &str = "/opt/runcvm";

const LOG: &str = "/tmp/dockerd.log";

/// A running dockerd that knows our runtime and, by the disk that the lab began with, the suites' images.
#[derive(Debug)]
pub struct Daemon(Child);

impl Daemon {
    /// The one that all tests of this process share; it goes when the process ends.
    ///
    /// # Panics
    ///
    /// It does not start, or this is not the lab: nobody's own docker is touched.
    pub fn shared() -> Arc<Self> {
        static SHARED: Shared<Daemon> = Shared::new();
        static TRIED: AtomicBool = AtomicBool::new(false);
        SHARED.get(|| {
            // Hundreds of tests would wait in vain.
            let tried = TRIED.swap(true, Ordering::Relaxed);
            assert!(!tried, "docker did not start for another test");
            let daemon = Self::start();
            TRIED.store(false, Ordering::Relaxed);
            daemon
        })
    }

    fn start() -> Self {
        assert!(
            Path::new("/run/lab").is_dir(),
            "the docker suites run only in the lab: make e2e SUITE=docker"
        );
        // `RUNCVM_TEST_KERNEL` names one that all containers are to boot, whatever their images.
        install(PREFIX, env::var("RUNCVM_TEST_KERNEL").ok().as_deref());
        let log = File::create(LOG).expect("/tmp can be written");
        let daemon = Command::new("dockerd")
            .args(["--host", "unix:///run/docker.sock"])
            .stdin(Stdio::null())
            .stdout(log.try_clone().expect("a file descriptor is left"))
            .stderr(log)
            .spawn()
            .expect("the lab's image has docker");
        let mut daemon = Self(daemon);
        daemon.wait_until_ready();
        // As its user would tell it, who may think better of it, too.
        let runtime = format!("{PREFIX}/bin/runcvm-runtime");
        for verb in ["install", "uninstall", "install"] {
            command(&[&runtime, verb]);
        }
        daemon
    }

    fn wait_until_ready(&mut self) {
        let deadline = Instant::now() + Duration::from_secs(120);
        let ready = || {
            let mut version = Command::new("docker");
            version
                .arg("version")
                .stdout(Stdio::null())
                .stderr(Stdio::null());
            version.status().is_ok_and(|status| status.success())
        };
        while !ready() {
            let ended = self.0.try_wait().expect("it is our child");
            assert!(
                ended.is_none() && Instant::now() < deadline,
                "dockerd is not ready ({ended:?}):\n{}",
                fs::read_to_string(LOG).unwrap_or_default()
            );
            std::thread::sleep(Duration::from_millis(200));
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It ends its containers, and its containerd.
        let pid = i32::try_from(self.0.id()).expect("process IDs are positive");
        let _ = kill(Pid::from_raw(pid), Signal::SIGTERM);
        let _ = self.0.wait();
    }
}

/// Installs our programs to `prefix`, with all kernels or with those called `kernel` alone. They stay
/// where they are: copying their thousands of modules would take longer than some cases do.
pub(crate) fn install(prefix: &str, kernel: Option<&str>) {
    command(&[&project().join("packaging/place").to_string_lossy(), prefix]);
    let (mut source, mut target) = (home().join("kernels"), Path::new(prefix).join("kernels"));
    if let Some(kernel) = kernel {
        (source, target) = (source.join(kernel), target.join(kernel));
    }
    assert!(source.is_dir(), "{} is missing", source.display());
    fs::create_dir_all(&target).expect("the lab's tree can be written");
    mount(
        Some(&source),
        &target,
        None::<&str>,
        MsFlags::MS_BIND,
        None::<&str>,
    )
    .expect("the lab is root's");
    if let Some(kernel) = kernel {
        let default = target.with_file_name("default");
        symlink(format!("{kernel}/latest"), default).expect("the lab's tree can be written");
    }
}

/// Runs a command that must succeed.
#[track_caller]
fn command(words: &[&str]) {
    let output = Command::new(words[0])
        .args(&words[1..])
        .stdin(Stdio::null())
        .output()
        .unwrap_or_else(|error| panic!("{words:?} does not start: {error}"));
    assert!(
        output.status.success(),
        "{words:?}: {}\n{}",
        output.status,
        String::from_utf8_lossy(&output.stderr)
    );
}
