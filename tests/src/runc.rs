//! The same under a plain container runtime, as docker would ask for it. What docker itself
//! decides, such as status 126 and 127, is not here: runc says 1.

use std::ops::Deref;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::case::Case;
use crate::process::{Output, Running};
use crate::rootfs::{Rootfs, scratch};
use crate::users;

/// The host's name inside.
pub(crate) const HOSTNAME: &str = "box";

/// Docker's default capabilities.
const CAPABILITIES: [&str; 14] = [
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FSETID",
    "CAP_FOWNER",
    "CAP_MKNOD",
    "CAP_NET_RAW",
    "CAP_SETGID",
    "CAP_SETUID",
    "CAP_SETFCAP",
    "CAP_SETPCAP",
    "CAP_NET_BIND_SERVICE",
    "CAP_SYS_CHROOT",
    "CAP_KILL",
    "CAP_AUDIT_WRITE",
];

/// A program that takes runc's arguments.
#[derive(Clone, Debug)]
pub(crate) struct Runtime {
    pub(crate) program: PathBuf,
    /// What it is to use, if it is ours and not to use runc.
    pub(crate) below: Option<&'static str>,
}

impl Runtime {
    fn command(&self) -> Command {
        let mut command = Command::new(&self.program);
        command.envs(self.below.map(|below| ("RUNCVM_OCI_RUNTIME", below)));
        command
    }
}

impl From<&str> for Runtime {
    fn from(program: &str) -> Self {
        Self {
            program: program.into(),
            below: None,
        }
    }
}

/// A container in the background; also a [`Running`]. Dropping it kills it.
#[derive(Debug)]
pub struct RunningContainer {
    running: Option<Running>,
    runtime: Runtime,
    id: String,
    bundle: TempDir,
    rootfs: Rootfs,
}

impl RunningContainer {
    /// Waits for its end.
    #[track_caller]
    pub fn wait(mut self) -> Output {
        self.running.take().expect("taken only here").wait()
    }

    /// Another command in it.
    #[track_caller]
    pub fn exec(&self, case: &Case) -> Output {
        self.start_exec(case).wait()
    }

    /// Another command in it, in the background.
    pub fn start_exec(&self, case: &Case) -> Running {
        let process = self
            .bundle
            .path()
            .join(format!("process-{}.json", number()));
        write(&process, &self::process(case, &self.rootfs));
        let mut command = self.runtime.command();
        command
            .args(["exec", "--process"])
            .arg(&process)
            .arg(&self.id);
        case.spawn(command)
    }

    /// Another verb for it, with options before its name and arguments behind.
    #[track_caller]
    pub fn verb(&self, verb: &[&str], args: &[&str]) -> Output {
        self.start_verb(&Case::new([""; 0]), verb, args).wait()
    }

    /// As [`Self::verb`], in the background, with the streams of `case`.
    pub fn start_verb(&self, case: &Case, verb: &[&str], args: &[&str]) -> Running {
        let mut command = self.runtime.command();
        command.args(verb).arg(&self.id).args(args);
        case.spawn(command)
    }

    /// Its root filesystem.
    pub fn rootfs(&self) -> &Rootfs {
        &self.rootfs
    }
}

impl Deref for RunningContainer {
    type Target = Running;

    fn deref(&self) -> &Running {
        self.running.as_ref().expect("taken only by wait")
    }
}

impl Drop for RunningContainer {
    fn drop(&mut self) {
        if self.running.is_some() {
            let _ = self
                .runtime
                .command()
                .args(["delete", "--force", &self.id])
                .stdin(Stdio::null())
                .output();
        }
    }
}

pub(crate) fn start(case: &Case, rootfs: &Rootfs) -> RunningContainer {
    start_by("runc".into(), case, rootfs, |_| {})
}

/// Starts it by `runtime`; `change` has the last word on
/// its `config.json`.
pub(crate) fn start_by(
    runtime: Runtime,
    case: &Case,
    rootfs: &Rootfs,
    change: impl FnOnce(&mut Value),
) -> RunningContainer {
    let id = format!("runcvm-test-{}-{}", std::process::id(), number());
    let bundle = scratch();
    let mut config = config(case, rootfs);
    change(&mut config);
    write(&bundle.path().join("config.json"), &config);
    let mut command = runtime.command();
    command
        .arg("run")
        .arg("--bundle")
        .arg(bundle.path())
        .arg(&id);
    let running = Some(case.spawn(command));
    RunningContainer {
        running,
        runtime,
        id,
        bundle,
        rootfs: rootfs.clone(),
    }
}

/// One that was not given before.
fn number() -> u32 {
    static COUNT: AtomicU32 = AtomicU32::new(0);
    COUNT.fetch_add(1, Ordering::Relaxed)
}

fn write(path: &std::path::Path, value: &Value) {
    std::fs::write(path, value.to_string()).expect("the scratch directory can be written");
}

/// `process` of the OCI runtime specification's `config.json`.
fn process(case: &Case, rootfs: &Rootfs) -> Value {
    let text = |text: &std::ffi::OsString| -> String {
        text.to_str()
            .expect("JSON carries only UTF-8; runc cannot be asked for this")
            .to_owned()
    };
    let identity = users::resolve(rootfs.path(), &case.user);
    let env: Vec<_> = case
        .env
        .iter()
        .map(|(name, value)| format!("{}={}", text(name), text(value)))
        .collect();
    json!({
        "terminal": case.terminal.is_some(),
        "user": { "uid": identity.uid, "gid": identity.gid, "additionalGids": identity.groups },
        "args": case.args.iter().map(text).collect::<Vec<_>>(),
        "env": env,
        "cwd": text(&case.cwd),
        "capabilities": {
            "bounding": CAPABILITIES,
            "effective": CAPABILITIES,
            "permitted": CAPABILITIES,
        },
        "rlimits": [{ "type": "RLIMIT_NOFILE", "soft": 1_048_576, "hard": 1_048_576 }],
    })
}

/// The whole `config.json`, with the mounts and namespaces that docker gives a container.
fn config(case: &Case, rootfs: &Rootfs) -> Value {
    let mount = |target: &str, kind: &str, options: &[&str]| json!({ "destination": target, "type": kind, "source": kind, "options": options });
    let namespaces =
        ["mount", "network", "uts", "pid", "ipc", "cgroup"].map(|kind| json!({ "type": kind }));
    json!({
        "ociVersion": "1.0.2",
        "process": process(case, rootfs),
        "root": { "path": rootfs.path() },
        "hostname": HOSTNAME,
        "mounts": [
            mount("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            mount("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            mount("/dev/pts", "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"]),
            mount("/sys", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
            mount("/sys/fs/cgroup", "cgroup", &["ro", "nosuid", "noexec", "nodev"]),
            mount("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            mount("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", "size=67108864"]),
        ],
        "linux": {
            "namespaces": namespaces,
        },
    })
}
