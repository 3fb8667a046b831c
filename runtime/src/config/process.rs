//! Processes: what docker asks for is read, what runs in its place is written.

use std::path::PathBuf;

use anyhow::{Context, Result};
use oci_spec::runtime::Process;
use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::Host;
use crate::container::PROGRAM_FD;
use crate::{attach, supervise};

/// What a process has that means nothing in a machine, where the workload has all
/// capabilities. Newer kernels' values would not be understood, either.
const MEANINGLESS: [&str; 7] = [
    "apparmorProfile",
    "capabilities",
    "commandLine",
    "execCPUAffinity",
    "ioPriority",
    "scheduler",
    "selinuxLabel",
];

/// A capability, and its number in sets (linux/capability.h).
type Capability = (&'static str, u32);

/// What `supervise` needs: mounts and the machine's network for itself, and for the file
/// server all that a guest's root can do to files. It gives up what it can once it is set up.
const OF_SUPERVISE: [Capability; 15] = [
    ("CAP_CHOWN", 0),
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_DAC_READ_SEARCH", 2),
    ("CAP_FOWNER", 3),
    ("CAP_FSETID", 4),
    ("CAP_KILL", 5),
    ("CAP_SETGID", 6),
    ("CAP_SETUID", 7),
    ("CAP_SETPCAP", 8),
    ("CAP_NET_ADMIN", 12),
    ("CAP_SYS_CHROOT", 18),
    ("CAP_SYS_ADMIN", 21),
    ("CAP_SYS_RESOURCE", 24),
    ("CAP_MKNOD", 27),
    ("CAP_SETFCAP", 31),
];

/// What `attach` needs: the machine's socket belongs to another user.
const OF_ATTACH: [Capability; 1] = [("CAP_DAC_OVERRIDE", 1)];

/// The environment of what runs beside the machine: none of its programs is the image's.
const ENV: [&str; 4] = [
    "PATH=/bin:/opt/runcvm/bin:/opt/runcvm/libexec",
    "HOME=/",
    "RUNCVM_HOME=/opt/runcvm",
    "RUNCVM_RUN_DIR=/run/runcvm",
];

/// Reads the process of a container, or a further one.
pub(crate) fn read(process: Option<&Value>) -> Result<Process> {
    let process = process.context("process is missing")?;
    let mut pruned = process.clone();
    if let Some(fields) = pruned.as_object_mut() {
        for name in MEANINGLESS {
            fields.remove(name);
        }
        // The specification demands it, runc does not.
        fields.entry("user").or_insert(json!({"uid": 0, "gid": 0}));
        if fields.get("env") == Some(&Value::Null) {
            fields.remove("env");
        }
    }
    let process = Process::deserialize(pruned);
    let mut process = process.context("process is not as the OCI specification has it")?;
    if process.args().as_ref().is_none_or(Vec::is_empty) {
        anyhow::bail!("process.args is empty: there is nothing to run");
    }
    if process.cwd().as_os_str().is_empty() {
        process.set_cwd(PathBuf::from("/"));
    }
    Ok(process)
}

/// Takes podman's init from in front of a command: it is in `/dev`, of which the guest has its own,
/// and processes without a parent are looked after there anyway.
pub(super) fn without_podmans_init(process: &mut Process) {
    if let Some(args) = process.args()
        && let [init, dashes, command @ ..] = args.as_slice()
        && (init.as_str(), dashes.as_str()) == (PODMANS_INIT, "--")
        && !command.is_empty()
    {
        let command = command.to_vec();
        process.set_args(Some(command));
    }
}

/// Where podman mounts its init.
pub(super) const PODMANS_INIT: &str = "/dev/init";

/// Puts `supervise` in the place of a container's first process.
pub(super) fn replace_first(process: &mut Map<String, Value>, host: &Host) {
    replace(process, supervise::VERB, &OF_SUPERVISE, host.capabilities);
    // The file server has a file open for each that the guest knows. A core would hold the
    // guest's memory.
    process.insert(
        "rlimits".into(),
        json!([
            {"type": "RLIMIT_NOFILE", "soft": host.max_files, "hard": host.max_files},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        ]),
    );
}

/// Puts `attach` in the place of a further process.
pub(crate) fn replace_further(process: &mut Map<String, Value>, capabilities: u64) {
    replace(process, attach::VERB, &OF_ATTACH, capabilities);
    process.remove("rlimits");
}

/// Capabilities that are not in the set `ours` cannot be given.
fn replace(process: &mut Map<String, Value>, verb: &str, wanted: &[Capability], ours: u64) {
    let given = wanted.iter().filter(|(_, number)| ours >> number & 1 == 1);
    let capabilities: Vec<_> = given.map(|(name, _)| *name).collect();
    for name in MEANINGLESS {
        process.remove(name);
    }
    let program = format!("/proc/self/fd/{PROGRAM_FD}");
    process.insert("args".into(), json!([program, verb]));
    process.insert("cwd".into(), json!("/"));
    process.insert("env".into(), json!(ENV));
    process.insert("user".into(), json!({"uid": 0, "gid": 0}));
    process.insert("noNewPrivileges".into(), json!(false));
    process.insert(
        "capabilities".into(),
        json!({
            "bounding": capabilities,
            "effective": capabilities,
            "permitted": capabilities,
            "inheritable": [],
            "ambient": [],
        }),
    );
}

/// Has a further process run beside the machine: as root, at the root, with our programs.
pub(crate) fn run_beside(process: &mut Map<String, Value>, args: &[String]) {
    process.insert("args".into(), json!(args));
    process.insert("cwd".into(), json!("/"));
    process.insert("user".into(), json!({"uid": 0, "gid": 0}));
    let env = process.get("env").and_then(Value::as_array);
    let is_ours = |entry: &Value| {
        let name = entry.as_str().unwrap_or_default().split('=').next();
        ENV.iter().any(|ours| ours.split('=').next() == name)
    };
    let kept = env.into_iter().flatten().filter(|entry| !is_ours(entry));
    let env: Vec<Value> = kept.cloned().chain(ENV.map(Value::from)).collect();
    process.insert("env".into(), json!(env));
}
