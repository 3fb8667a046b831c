//! How large a machine is, and the limits of the container that holds it.

use anyhow::{Result, bail};
use oci_spec::runtime::{LinuxCpu, LinuxMemory};
use runcvm_vmm::launch::spec::{MAX_CPUS, MIB, MIN_MEMORY};
use serde_json::{Map, Value, json};

/// The size of a machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) cpus: u8,
    /// Guest memory in bytes.
    pub(crate) memory: u64,
}

/// Guest memory in bytes where nobody says: as much as it was with QEMU.
const DEFAULT_MEMORY: u64 = 512 * MIB;

/// What a container may use beyond its guest's memory, in bytes, whatever its size: the
/// monitor, the supervisor and the file server hold some 10 MiB, and the file server needs
/// buffers and the kernel inodes and dentries for what the guest does at a time.
const OVERHEAD: u64 = 128 * MIB;

/// One byte for so many of the guest's. Its memory is mapped by the monitor, by the file
/// server and by KVM, each with page tables of 1/512 of it.
const PAGE_TABLES: u64 = 128;

/// How many processes and threads are the machine's own, at most: vCPUs, devices' and the
/// file server's threads.
const OUR_TASKS: i64 = 1024;

/// Sizes the machine by `linux.resources`, or by `memory` bytes if given, and raises the
/// limits to hold it.
pub(crate) fn rewrite(
    resources: &mut Map<String, Value>,
    memory: Option<u64>,
    host_cpus: usize,
) -> Result<Machine> {
    let cpu = part::<LinuxCpu>(resources, "cpu")?;
    let asked = part::<LinuxMemory>(resources, "memory")?.unwrap_or_default();
    let limit = asked.limit().and_then(|limit| u64::try_from(limit).ok());
    let memory = guest_memory(memory, limit.filter(|&limit| limit > 0))?;
    raise_memory(resources, &asked, memory);
    raise_pids(resources);
    Ok(Machine {
        cpus: cpus(cpu.as_ref(), host_cpus),
        memory,
    })
}

fn part<T: serde::de::DeserializeOwned>(
    resources: &Map<String, Value>,
    name: &str,
) -> Result<Option<T>> {
    match resources.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match T::deserialize(value) {
            Ok(part) => Ok(Some(part)),
            Err(error) => {
                bail!("linux.resources.{name} is not as the OCI specification has it: {error}")
            }
        },
    }
}

fn guest_memory(option: Option<u64>, limit: Option<u64>) -> Result<u64> {
    let (name, asked) = match (option, limit) {
        (Some(asked), _) => ("RUNCVM_MEM_SIZE", asked),
        (None, Some(asked)) => ("--memory", asked),
        (None, None) => ("", DEFAULT_MEMORY),
    };
    if asked < MIN_MEMORY {
        bail!(
            "{name} is {} KiB, but a machine needs {} MiB at least",
            asked / 1024,
            MIN_MEMORY / MIB
        );
    }
    match asked.checked_next_multiple_of(MIB) {
        // Runtimes count in i64.
        Some(memory) if memory < 1 << 62 => Ok(memory),
        _ => bail!("{name} is {asked} bytes, which is more than any machine can have"),
    }
}

/// What a container may use whose guest has `memory` bytes.
fn limit_for(memory: u64) -> i64 {
    let limit = memory.saturating_add(OVERHEAD + memory / PAGE_TABLES);
    i64::try_from(limit).unwrap_or(i64::MAX)
}

/// Raises limits of a running container by what they were raised by when it was made.
pub(crate) fn update(resources: &mut Map<String, Value>) -> Result<()> {
    let asked = part::<LinuxMemory>(resources, "memory")?.unwrap_or_default();
    let limit = asked.limit().and_then(|limit| u64::try_from(limit).ok());
    if let Some(limit) = limit.filter(|&limit| limit > 0) {
        raise_memory(resources, &asked, limit);
    }
    raise_pids(resources);
    Ok(())
}

fn raise_memory(resources: &mut Map<String, Value>, asked: &LinuxMemory, memory: u64) {
    let limit = limit_for(memory);
    let mut fields = match resources.remove("memory") {
        Some(Value::Object(fields)) => fields,
        _ => Map::new(),
    };
    fields.insert("limit".into(), json!(limit));
    // `swap` counts memory and swap together; what was for swap alone remains.
    if let Some(swap) = asked.swap().filter(|&swap| swap > 0) {
        let beyond = swap - asked.limit().filter(|&l| l > 0).unwrap_or(swap).min(swap);
        fields.insert("swap".into(), json!(limit.saturating_add(beyond)));
    }
    if asked
        .reservation()
        .is_some_and(|reservation| reservation > limit)
    {
        fields.insert("reservation".into(), json!(limit));
    }
    // They would count what the machine's own kernel objects take.
    fields.remove("kernel");
    fields.remove("kernelTCP");
    resources.insert("memory".into(), Value::Object(fields));
}

/// The guest's processes are not the container's: its limit is there for ours alone.
fn raise_pids(resources: &mut Map<String, Value>) {
    let limit = resources
        .get_mut("pids")
        .and_then(|pids| pids.get_mut("limit"));
    if let Some(limit) = limit
        && let Some(asked) = limit.as_i64().filter(|&asked| asked > 0)
    {
        *limit = json!(asked.saturating_add(OUR_TASKS));
    }
}

/// As many vCPUs as can be busy at once: those of the quota, rounded up, but no more than the
/// CPUs that the container may use.
fn cpus(cpu: Option<&LinuxCpu>, host: usize) -> u8 {
    let set = cpu
        .and_then(|cpu| cpu.cpus().as_deref())
        .and_then(count_set);
    let usable = set.map_or(host, |set| set.min(host));
    let quota = cpu.and_then(|cpu| {
        let quota = u64::try_from(cpu.quota()?)
            .ok()
            .filter(|&quota| quota > 0)?;
        let period = cpu.period().filter(|&period| period > 0).unwrap_or(PERIOD);
        usize::try_from(quota.div_ceil(period)).ok()
    });
    let cpus = quota.map_or(usable, |quota| quota.min(usable));
    u8::try_from(cpus).unwrap_or(MAX_CPUS).clamp(1, MAX_CPUS)
}

/// The period of a quota, in microseconds, where it has none of its own: the kernel's.
const PERIOD: u64 = 100_000;

/// How many CPUs a list such as `0-2,5` names (cpuset(7), "List format").
fn count_set(list: &str) -> Option<usize> {
    let ranges = list
        .split(',')
        .map(str::trim)
        .filter(|part| !part.is_empty());
    let counts = ranges.map(|part| {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
        last.checked_sub(first)?.checked_add(1)
    });
    let count = counts.sum::<Option<usize>>()?;
    (count > 0).then_some(count)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rewritten(mut resources: Value, memory: Option<u64>) -> (Machine, Value) {
        let fields = resources.as_object_mut().unwrap();
        let machine = rewrite(fields, memory, 8).unwrap();
        (machine, resources)
    }

    const GIB: i64 = 1 << 30;

    fn limit_of(guest: i64) -> i64 {
        guest + (128 << 20) + guest / 128
    }

    #[test]
    fn memory_is_the_guests() {
        let (machine, resources) = rewritten(json!({"memory": {"limit": GIB, "x": 1}}), None);
        assert_eq!(machine.memory, 1 << 30);
        assert_eq!(resources["memory"]["limit"], limit_of(GIB));
        assert_eq!(resources["memory"]["x"], 1);
        let (machine, resources) = rewritten(json!({"memory": {}}), None);
        assert_eq!(machine.memory, 512 << 20);
        assert_eq!(resources["memory"], json!({"limit": limit_of(GIB / 2)}));
        let (machine, _) = rewritten(json!({"memory": {"limit": -1}}), None);
        assert_eq!(machine.memory, 512 << 20);
        let (machine, resources) = rewritten(json!({"memory": {"limit": GIB}}), Some(2 << 30));
        assert_eq!(machine.memory, 2 << 30);
        assert_eq!(resources["memory"]["limit"], limit_of(2 * GIB));
        let odd = json!({"memory": {"limit": GIB - 1}});
        assert_eq!(rewritten(odd, None).0.memory, 1 << 30);
    }

    #[test]
    fn other_limits_of_memory_are_consistent() {
        let memory = |memory: Value, option| {
            rewritten(json!({"memory": memory}), option).1["memory"].clone()
        };
        let both = memory(json!({"limit": GIB, "swap": 2 * GIB}), None);
        assert_eq!(both["swap"], limit_of(GIB) + GIB);
        let none = memory(json!({"limit": GIB, "swap": GIB}), None);
        assert_eq!(none["swap"], none["limit"]);
        let endless = memory(json!({"limit": GIB, "swap": -1}), None);
        assert_eq!(endless["swap"], -1);
        let more = memory(json!({"limit": GIB, "swap": 2 * GIB}), Some(4 << 30));
        assert_eq!(more["swap"], limit_of(4 * GIB) + GIB);
        let reserved = memory(json!({"limit": GIB, "reservation": GIB / 2}), None);
        assert_eq!(reserved["reservation"], GIB / 2);
        let less = memory(json!({"limit": GIB, "reservation": GIB}), Some(64 << 20));
        assert_eq!(less["reservation"], less["limit"]);
        let kernel = memory(
            json!({"limit": GIB, "kernel": 1, "disableOOMKiller": true}),
            None,
        );
        assert_eq!(kernel.get("kernel"), None);
        assert_eq!(kernel["disableOOMKiller"], true);
    }

    #[test]
    fn too_little_memory_is_refused() {
        let error = |resources: Value, memory| {
            let mut resources = resources;
            let fields = resources.as_object_mut().unwrap();
            rewrite(fields, memory, 8).unwrap_err().to_string()
        };
        let little = error(json!({"memory": {"limit": 32 << 20}}), None);
        assert_eq!(
            little,
            "--memory is 32768 KiB, but a machine needs 64 MiB at least"
        );
        assert!(error(json!({}), Some(1)).starts_with("RUNCVM_MEM_SIZE is 0 KiB"));
        assert!(error(json!({}), Some(u64::MAX)).contains("more than any machine"));
        assert!(error(json!({"memory": 5}), None).contains("linux.resources.memory"));
    }

    #[test]
    fn cpus_are_whole_and_no_more_than_can_be_used() {
        for (cpu, cpus) in [
            (json!({}), 8),
            (json!({"shares": 512, "quota": 0, "cpus": ""}), 8),
            (json!({"quota": -1, "period": 100_000}), 8),
            (json!({"quota": 50_000, "period": 100_000}), 1),
            (json!({"quota": 150_000, "period": 100_000}), 2),
            (json!({"quota": 200_000}), 2),
            (json!({"quota": 10_000, "period": 1000}), 8),
            (json!({"cpus": "0"}), 1),
            (json!({"cpus": "0-2, 5"}), 4),
            (json!({"cpus": "0-63"}), 8),
            (json!({"cpus": "5-2"}), 8),
            (
                json!({"cpus": "0-1", "quota": 300_000, "period": 100_000}),
                2,
            ),
        ] {
            let (machine, resources) = rewritten(json!({"cpu": cpu}), None);
            assert_eq!(machine.cpus, cpus, "{cpu}");
            assert_eq!(resources["cpu"], cpu);
        }
        let mut resources = Map::new();
        assert_eq!(rewrite(&mut resources, None, 300).unwrap().cpus, 64);
    }

    #[test]
    fn limits_of_running_containers_are_raised_alike() {
        let mut resources = json!({
            "memory": {"limit": GIB, "swap": 2 * GIB}, "cpu": {"shares": 5}, "pids": {"limit": 7}
        });
        update(resources.as_object_mut().unwrap()).unwrap();
        let expected = json!({
            "memory": {"limit": limit_of(GIB), "swap": limit_of(GIB) + GIB},
            "cpu": {"shares": 5}, "pids": {"limit": 1031}
        });
        assert_eq!(resources, expected);
        let mut others = json!({"memory": {"limit": 0}, "cpu": {"quota": 5}});
        update(others.as_object_mut().unwrap()).unwrap();
        assert_eq!(others, json!({"memory": {"limit": 0}, "cpu": {"quota": 5}}));
    }

    #[test]
    fn a_limit_of_processes_leaves_room_for_ours() {
        let (_, resources) = rewritten(json!({"pids": {"limit": 5}}), None);
        assert_eq!(resources["pids"]["limit"], 1029);
        let (_, resources) = rewritten(json!({"pids": {"limit": -1}}), None);
        assert_eq!(resources["pids"]["limit"], -1);
    }
}
