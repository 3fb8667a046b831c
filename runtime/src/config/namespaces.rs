//! Which namespaces a container has of its own, and which a machine cannot share.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use anyhow::{Result, bail};
use serde::Deserialize;
use serde_json::{Map, Value};

/// A namespace of `linux.namespaces` (OCI runtime specification, config-linux.md). Kinds that
/// we have never heard of are no business of ours.
#[derive(Deserialize)]
struct Namespace {
    #[serde(rename = "type")]
    kind: String,
    path: Option<String>,
}

impl Namespace {
    fn path(&self) -> Option<&str> {
        self.path.as_deref().filter(|path| !path.is_empty())
    }
}

fn list(linux: &Map<String, Value>) -> Result<Vec<Namespace>> {
    Ok(super::read(linux, "namespaces")?.unwrap_or_default())
}

/// The container has, or joins, a namespace of this kind other than its creator's.
pub(super) fn has(linux: &Map<String, Value>, kind: &str) -> bool {
    let namespaces = list(linux).unwrap_or_default();
    namespaces.iter().any(|namespace| namespace.kind == kind)
}

/// Refuses what a machine cannot share, and warns of what it does not.
pub(super) fn check(linux: &Map<String, Value>) -> Result<Vec<String>> {
    let namespaces = list(linux)?;
    let find = |kind: &str| namespaces.iter().find(|namespace| namespace.kind == kind);
    match find("network").map(Namespace::path) {
        None => bail!(HOST_NETWORK),
        Some(None) => {}
        Some(Some(path)) if is_of_process(path) => bail!(
            "a machine has a network of its own and cannot join that of another container: \
             connect both to one network in place of --network container:"
        ),
        Some(Some(path)) if is_ours(path, "net") => bail!(HOST_NETWORK),
        Some(Some(_)) => {}
    }
    match find("pid").map(Namespace::path) {
        None => bail!("a machine cannot see the host's processes: --pid host is not possible"),
        Some(Some(path)) if is_of_process(path) => bail!(
            "a machine cannot see the processes of another container: --pid container: is not \
             possible"
        ),
        Some(_) => {}
    }
    if find("user").is_some() {
        bail!("a container with a user namespace cannot hold a machine: run it with --userns host");
    }
    let mut warnings = Vec::new();
    if find("ipc").is_none_or(|ipc| ipc.path().is_some()) {
        warnings.push(
            "A machine shares no memory with the host or other containers: --ipc has no effect"
                .into(),
        );
    }
    Ok(warnings)
}

const HOST_NETWORK: &str = "a machine has a network of its own and cannot have the host's: \
    publish its ports with -p in place of --network host";

/// `path` is that of a namespace which some process is in, as engines name another container's.
fn is_of_process(path: &str) -> bool {
    let mut parts = Path::new(path).iter().skip(1).map(|part| part.to_str());
    let is_number = |part: Option<&str>| part.is_some_and(|part| part.parse::<u32>().is_ok());
    parts.next() == Some(Some("proc"))
        && parts.next().is_some_and(is_number)
        && parts.next() == Some(Some("ns"))
}

/// The namespace at `path` is the one that we are in.
fn is_ours(path: &str, kind: &str) -> bool {
    let identity = |path: &Path| {
        let metadata = fs::metadata(path).ok()?;
        Some((metadata.dev(), metadata.ino()))
    };
    let ours = identity(&Path::new("/proc/self/ns").join(kind));
    ours.is_some() && ours == identity(Path::new(path))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn checked(namespaces: Value) -> Result<Vec<String>> {
        check(json!({ "namespaces": namespaces }).as_object().unwrap())
    }

    fn error(namespaces: Value) -> String {
        checked(namespaces).unwrap_err().to_string()
    }

    #[test]
    fn namespaces_of_its_own_are_right() {
        let own = json!([
            {"type": "mount"}, {"type": "network"}, {"type": "uts"}, {"type": "pid"},
            {"type": "ipc"}, {"type": "cgroup"}, {"type": "of the future"}
        ]);
        assert_eq!(checked(own).unwrap(), Vec::<String>::new());
        let named = json!([
            {"type": "network", "path": "/run/netns/cni-1"}, {"type": "pid"},
            {"type": "ipc", "path": ""}
        ]);
        assert_eq!(checked(named).unwrap(), Vec::<String>::new());
    }

    #[test]
    fn the_network_of_others_is_refused() {
        assert!(error(json!([{"type": "pid"}])).contains("--network host"));
        let host = json!([{"type": "network", "path": "/proc/self/ns/net"}]);
        assert!(error(host).contains("--network host"));
        let other = json!([{"type": "network", "path": "/proc/1420/ns/net"}]);
        assert!(error(other).contains("--network container:"));
    }

    #[test]
    fn processes_of_others_are_refused() {
        assert!(error(json!([{"type": "network"}])).contains("--pid host"));
        let other = json!([{"type": "network"}, {"type": "pid", "path": "/proc/9/ns/pid"}]);
        assert!(error(other).contains("--pid container:"));
    }

    #[test]
    fn user_namespaces_are_refused_and_shared_memory_is_warned_of() {
        let user = json!([{"type": "network"}, {"type": "pid"}, {"type": "user"}]);
        assert!(error(user).contains("--userns host"));
        let no_ipc = json!([{"type": "network"}, {"type": "pid"}]);
        assert!(checked(no_ipc).unwrap()[0].contains("--ipc"));
        let ipc = json!([
            {"type": "network"}, {"type": "pid"}, {"type": "ipc", "path": "/proc/9/ns/ipc"}
        ]);
        assert!(checked(ipc).unwrap()[0].contains("--ipc"));
    }
}
