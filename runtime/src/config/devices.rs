//! Device nodes: the machine's monitor needs two, and the guest has its own.

use anyhow::{Result, bail};
use serde::Deserialize;
use serde_json::{Map, Value, json};

/// The part of an entry of `linux.devices` that tells which device it is.
#[derive(Deserialize)]
struct Device {
    path: String,
    #[serde(rename = "type")]
    kind: String,
    #[serde(default)]
    major: i64,
    #[serde(default)]
    minor: i64,
}

/// A rule of `linux.resources.devices`.
#[derive(Deserialize)]
struct Rule {
    allow: bool,
    #[serde(rename = "type")]
    kind: Option<String>,
    major: Option<i64>,
    access: Option<String>,
}

/// Devices that every guest has at these places (Linux, admin-guide/devices.txt).
const IN_GUEST: [(&str, i64, i64); 10] = [
    ("/dev/full", 1, 7),
    ("/dev/fuse", 10, 229),
    ("/dev/kmsg", 1, 11),
    ("/dev/kvm", 10, 232),
    ("/dev/net/tun", 10, 200),
    ("/dev/null", 1, 3),
    ("/dev/random", 1, 8),
    ("/dev/tty", 5, 0),
    ("/dev/urandom", 1, 9),
    ("/dev/zero", 1, 5),
];

const KVM: (i64, i64) = (10, 232);
const TUN: (i64, i64) = (10, 200);

/// Devices that may be used beside the machine: those of every container, and ours. Pseudo
/// terminals have any minor number.
const ALLOWED: [(i64, Option<i64>); 10] = [
    (1, Some(3)),
    (1, Some(5)),
    (1, Some(7)),
    (1, Some(8)),
    (1, Some(9)),
    (5, Some(0)),
    (5, Some(2)),
    (136, None),
    (KVM.0, Some(KVM.1)),
    (TUN.0, Some(TUN.1)),
];

/// Leaves the container the devices that its machine needs, of all those that it asks for,
/// and refuses those that its user expects to work in the guest.
pub(super) fn replace(linux: &mut Map<String, Value>) -> Result<()> {
    let devices: Vec<Device> = super::read(linux, "devices")?.unwrap_or_default();
    let resources = super::object(linux, "resources")?;
    let rules: Vec<Rule> = super::read(resources, "devices")?.unwrap_or_default();
    if !rules.iter().any(allows_everything) {
        devices.iter().try_for_each(check)?;
    }
    let allowed = ALLOWED.map(|(major, minor)| match minor {
        Some(minor) => {
            json!({"allow": true, "type": "c", "major": major, "minor": minor, "access": "rwm"})
        }
        None => json!({"allow": true, "type": "c", "major": major, "access": "rwm"}),
    });
    let mut rules = vec![json!({"allow": false, "access": "rwm"})];
    rules.extend(allowed);
    resources.insert("devices".into(), rules.into());
    let node = |path: &str, (major, minor): (i64, i64)| {
        json!({
            "path": path, "type": "c", "major": major, "minor": minor,
            "fileMode": 0o600, "uid": 0, "gid": 0,
        })
    };
    let ours = json!([node("/dev/kvm", KVM), node("/dev/net/tun", TUN)]);
    linux.insert("devices".into(), ours);
    Ok(())
}

/// As `--privileged` has it: then all of the host's devices are listed, and nobody asked for
/// any one of them.
fn allows_everything(rule: &Rule) -> bool {
    let any_kind = rule.kind.as_deref().is_none_or(|kind| kind == "a");
    let any_access = rule.access.as_deref().is_none_or(|access| access == "rwm");
    rule.allow && any_kind && any_access && rule.major.is_none_or(|major| major < 0)
}

fn check(device: &Device) -> Result<()> {
    let same = |&(path, major, minor): &(&str, i64, i64)| {
        (path, major, minor) == (device.path.as_str(), device.major, device.minor)
    };
    if IN_GUEST.iter().any(same) {
        return Ok(());
    }
    let path = &device.path;
    match device.kind.as_str() {
        "b" => bail!(
            "a machine cannot have the block device {path} of the host: a file as a disk, with \
             RUNCVM_DISKS, it can"
        ),
        _ => bail!(
            "a machine has devices of its own and cannot have {path} of the host: --device is not \
             possible"
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(devices: Value, rules: Value) -> Result<Value> {
        let mut linux = json!({"devices": devices, "resources": {"devices": rules, "x": 1}});
        replace(linux.as_object_mut().unwrap())?;
        Ok(linux)
    }

    #[test]
    fn the_container_gets_what_the_machine_needs() {
        let docker = json!([{"allow": false, "access": "rwm"}]);
        let linux = replaced(Value::Null, docker).unwrap();
        let paths: Vec<_> = linux["devices"].as_array().unwrap().iter().collect();
        assert_eq!(paths[0]["path"], "/dev/kvm");
        assert_eq!(paths[1]["path"], "/dev/net/tun");
        let rules = linux["resources"]["devices"].as_array().unwrap();
        assert_eq!(rules[0], json!({"allow": false, "access": "rwm"}));
        let kvm = json!({"allow": true, "type": "c", "major": 10, "minor": 232, "access": "rwm"});
        assert!(rules.contains(&kvm));
        assert_eq!(linux["resources"]["x"], 1);
    }

    #[test]
    fn devices_of_the_host_are_refused_by_name() {
        let error = |device: Value| {
            replaced(json!([device]), json!([]))
                .unwrap_err()
                .to_string()
        };
        let serial = error(json!({"path": "/dev/ttyS0", "type": "c", "major": 4, "minor": 64}));
        assert!(serial.contains("/dev/ttyS0 of the host"), "{serial}");
        let disk = error(json!({"path": "/dev/sdb", "type": "b", "major": 8, "minor": 16}));
        assert!(
            disk.contains("/dev/sdb") && disk.contains("RUNCVM_DISKS"),
            "{disk}"
        );
        let renamed = error(json!({"path": "/dev/mynull", "type": "c", "major": 1, "minor": 3}));
        assert!(renamed.contains("/dev/mynull"), "{renamed}");
    }

    #[test]
    fn what_every_guest_has_may_be_asked_for() {
        let fuse = json!([{"path": "/dev/fuse", "type": "c", "major": 10, "minor": 229}]);
        let linux = replaced(fuse, json!([])).unwrap();
        assert_eq!(linux["devices"].as_array().unwrap().len(), 2);
    }

    #[test]
    fn privileged_containers_list_all_devices_and_get_none_of_them() {
        let sda = json!([{"path": "/dev/sda", "type": "b", "major": 8, "minor": 0}]);
        let linux = replaced(sda, json!([{"allow": true, "access": "rwm"}])).unwrap();
        assert_eq!(linux["devices"].as_array().unwrap().len(), 2);
        let rules = linux["resources"]["devices"].as_array().unwrap();
        assert!(!rules.contains(&json!({"allow": true, "access": "rwm"})));
    }
}
