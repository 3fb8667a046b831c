//! Mounts: which the guest mounts by itself, which it sees through the file server, and which
//! are the container's own.

use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use nix::sys::statfs::{TMPFS_MAGIC, statfs};
use oci_spec::runtime::Mount;
use serde::Deserialize;
use serde_json::{Map, Value};

use super::normal;
use super::process::PODMANS_INIT;
use crate::container::Tmpfs;

/// The mounts of a container.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Mounts {
    /// See [`crate::container::ContainerSpec::volumes`].
    pub(super) volumes: Vec<PathBuf>,
    /// See [`crate::container::ContainerSpec::tmpfs`].
    pub(super) tmpfs: Vec<Tmpfs>,
    pub(super) warnings: Vec<String>,
}

/// Below these, mounts are the container's own: the guest has its own filesystems there.
const OF_SYSTEM: [&str; 3] = ["/dev", "/proc", "/sys"];

/// Where files of disks can be that the guest does not see.
const DISKS: &str = "/disks";

/// The size of `/dev/shm` in bytes where nothing else is known: docker's default.
const SHM_SIZE: u64 = 64 << 20;

/// What a mount becomes.
enum Fate {
    /// The container's own.
    Own,
    /// As that, but its user expects it in the guest.
    Hidden,
    Volume,
    /// The guest mounts it, the container does not.
    Guest(Tmpfs),
}

/// Divides the mounts of a configuration, and takes those from it that the guest mounts.
pub(super) fn divide(config: &mut Map<String, Value>) -> Result<Mounts> {
    let list = match config.get_mut("mounts") {
        None | Some(Value::Null) => return Ok(Mounts::default()),
        Some(Value::Array(list)) => list,
        Some(_) => bail!("mounts is not a JSON array"),
    };
    let mounts: Vec<Mount> = list
        .iter()
        .map(Mount::deserialize)
        .collect::<Result<_, _>>()
        .context("mounts is not as the OCI specification has it")?;
    let targets: Vec<PathBuf> = mounts.iter().map(|m| normal(m.destination())).collect();
    let mut divided = Mounts::default();
    let mut keep = Vec::new();
    for (index, (mount, target)) in mounts.iter().zip(&targets).enumerate() {
        // What is below it would be hidden from the guest by what the guest mounts.
        let is_parent = || {
            let mut later = targets[index + 1..].iter();
            later.any(|other| other != target && other.starts_with(target))
        };
        let fate = fate(mount, target, is_parent);
        keep.push(!matches!(fate, Fate::Guest(_)));
        match fate {
            Fate::Own => {}
            Fate::Hidden => divided.warnings.push(format!(
                "{} is not mounted: the machine has its own {}",
                target.display(),
                target.iter().take(2).collect::<PathBuf>().display()
            )),
            Fate::Volume => divided.volumes.push(target.clone()),
            Fate::Guest(tmpfs) => divided.tmpfs.push(tmpfs),
        }
    }
    let mut keep = keep.into_iter();
    list.retain(|_| keep.next().unwrap_or(true));
    // A path is behind those that it begins with.
    divided.volumes.sort();
    divided.volumes.dedup();
    Ok(divided)
}

fn fate(mount: &Mount, target: &Path, is_parent: impl Fn() -> bool) -> Fate {
    let kind = mount.typ().as_deref().unwrap_or_default();
    let options = mount.options().as_deref().unwrap_or_default();
    let is_bind = kind == "bind" || options.iter().any(|o| o == "bind" || o == "rbind");
    if target == Path::new("/dev/shm") {
        return Fate::Guest(match is_bind {
            true => shared_memory(mount.source().as_deref()),
            false => tmpfs(target, options),
        });
    }
    let below = |dir: &str| target.starts_with(dir);
    if below(DISKS) {
        return Fate::Own;
    }
    match OF_SYSTEM.into_iter().find(|dir| below(dir)) {
        Some("/dev") if kind == "tmpfs" && target != Path::new("/dev") => {
            Fate::Guest(tmpfs(target, options))
        }
        // Images of init systems ask for it; their control groups are the machine's.
        Some(_) if is_bind && !below("/sys/fs/cgroup") && !below(PODMANS_INIT) => Fate::Hidden,
        Some(_) => Fate::Own,
        None if kind == "tmpfs" && !is_parent() => Fate::Guest(tmpfs(target, options)),
        None => Fate::Volume,
    }
}

/// Describes a tmpfs without what only a runtime understands.
fn tmpfs(target: &Path, options: &[String]) -> Tmpfs {
    let known = options.iter().map(String::as_str).filter(|option| {
        !matches!(
            *option,
            "private"
                | "rprivate"
                | "shared"
                | "rshared"
                | "slave"
                | "rslave"
                | "unbindable"
                | "runbindable"
                | "notmpcopyup"
        )
    });
    Tmpfs {
        target: target.into(),
        options: known.collect::<Vec<_>>().join(","),
    }
}

/// A `/dev/shm` as large as the one at `source`, which docker made to be shared.
fn shared_memory(source: Option<&Path>) -> Tmpfs {
    let found = source.and_then(|source| statfs(source).ok());
    let found = found.filter(|found| found.filesystem_type() == TMPFS_MAGIC);
    let size = found.and_then(|found| {
        let block = u64::try_from(found.block_size()).ok()?;
        found.blocks().checked_mul(block)
    });
    Tmpfs {
        target: "/dev/shm".into(),
        options: format!(
            "nosuid,noexec,nodev,mode=1777,size={}",
            size.unwrap_or(SHM_SIZE)
        ),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn divided(mounts: Value) -> (Mounts, Vec<String>) {
        let mut config = json!({ "mounts": mounts });
        let divided = divide(config.as_object_mut().unwrap()).unwrap();
        let kept = config["mounts"].as_array().unwrap().iter();
        let kept = kept.map(|m| m["destination"].as_str().unwrap().to_owned());
        (divided, kept.collect())
    }

    fn bind(target: &str) -> Value {
        json!({"destination": target, "type": "bind", "source": "/x", "options": ["rbind"]})
    }

    fn memory(target: &str, options: &[&str]) -> Value {
        json!({"destination": target, "type": "tmpfs", "source": "tmpfs", "options": options})
    }

    #[test]
    fn volumes_are_what_the_user_mounts() {
        let plain = json!({
            "destination": "srv/../opt", "type": "none", "source": "/x", "options": ["bind", "ro"]
        });
        let (mounts, kept) = divided(json!([
            bind("/var/lib/x"),
            bind("/etc/hosts"),
            bind("/var/lib"),
            bind("/disks"),
            bind("/disks/a"),
            plain,
            {"destination": "/proc", "type": "proc", "source": "proc"},
            {"destination": "/dev", "type": "tmpfs", "source": "tmpfs"},
            {"destination": "/dev/mqueue", "type": "mqueue", "source": "mqueue"},
            {"destination": "/sys/fs/cgroup", "type": "cgroup", "source": "cgroup"},
            bind("/sys/fs/cgroup"),
        ]));
        let volumes = ["/etc/hosts", "/opt", "/var/lib", "/var/lib/x"].map(PathBuf::from);
        assert_eq!(mounts.volumes, volumes);
        assert_eq!(mounts.tmpfs, []);
        assert_eq!(mounts.warnings, Vec::<String>::new());
        assert_eq!(kept.len(), 11);
    }

    #[test]
    fn the_guest_mounts_memory() {
        let (mounts, kept) = divided(json!([
            memory(
                "/t",
                &["nosuid", "rprivate", "size=1m", "tmpcopyup", "uid=5"]
            ),
            memory("/dev", &["mode=755"]),
            memory("/dev/shm", &["nosuid", "mode=1777", "size=33554432"]),
            memory("/dev/x", &[]),
            memory("/proc/acpi", &["ro"]),
            memory("/disks/m", &[]),
        ]));
        assert_eq!(kept, ["/dev", "/proc/acpi", "/disks/m"]);
        let found: Vec<_> = mounts
            .tmpfs
            .iter()
            .map(|t| (t.target.to_str().unwrap(), t.options.as_str()))
            .collect();
        let expected = [
            ("/t", "nosuid,size=1m,tmpcopyup,uid=5"),
            ("/dev/shm", "nosuid,mode=1777,size=33554432"),
            ("/dev/x", ""),
        ];
        assert_eq!(found, expected);
    }

    #[test]
    fn memory_with_a_mount_below_it_is_served_as_a_volume() {
        let (mounts, kept) = divided(json!([memory("/run", &[]), bind("/run/a.sock")]));
        assert_eq!(mounts.volumes, ["/run", "/run/a.sock"].map(PathBuf::from));
        assert_eq!((mounts.tmpfs.len(), kept.len()), (0, 2));
        let (mounts, _) = divided(json!([memory("/run", &[]), bind("/runner")]));
        assert_eq!(mounts.tmpfs.len(), 1);
    }

    #[test]
    fn shared_memory_becomes_the_guests_own_of_that_size() {
        let shm = json!({
            "destination": "/dev/shm", "type": "bind", "source": "/nonexistent", "options": ["rbind"]
        });
        let (mounts, kept) = divided(json!([shm]));
        assert!(kept.is_empty());
        assert!(mounts.tmpfs[0].options.ends_with(",size=67108864"));
        // Any tmpfs will do.
        let size = shared_memory(Some(Path::new("/dev/shm"))).options;
        assert!(size.contains("size="), "{size}");
    }

    #[test]
    fn what_the_machine_has_of_its_own_is_warned_of() {
        let (mounts, kept) = divided(json!([bind("/dev/foo"), bind("/proc/meminfo")]));
        assert_eq!(kept.len(), 2);
        assert_eq!(
            mounts.warnings,
            [
                "/dev/foo is not mounted: the machine has its own /dev",
                "/proc/meminfo is not mounted: the machine has its own /proc"
            ]
        );
    }

    #[test]
    fn paths_are_normal() {
        for (path, expected) in [
            ("a", "/a"),
            ("/a//b/./c/", "/a/b/c"),
            ("/../../a/../b", "/b"),
            ("", "/"),
        ] {
            assert_eq!(normal(Path::new(path)), Path::new(expected), "{path}");
        }
    }
}
