//! A hundred machines, two at a time, leave nothing behind. Alone in its process, which looks
//! at the whole host.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::path::Path;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

use runcvm_tests::{Cgroup, Rootfs, Vm, meminfo, scratch};

const MIB: i64 = 1 << 20;

/// What there is of everything that a machine takes.
#[derive(Debug)]
struct Inventory {
    counts: BTreeMap<&'static str, usize>,
    /// Bytes.
    available: i64,
    shared: i64,
    kernel: i64,
}

impl Inventory {
    fn take(places: &[&Path]) -> Self {
        // What may be forgotten is no leak.
        let _ = fs::write("/proc/sys/vm/drop_caches", "3");
        let entries = |path: &Path| fs::read_dir(path).map_or(0, Iterator::count);
        let lines = |path| fs::read_to_string(path).map_or(0, |text| text.lines().count());
        let processes = fs::read_dir("/proc").unwrap().flatten();
        // Kernel threads come and go: they have no command line.
        let processes = processes.filter(|process| {
            fs::read(process.path().join("cmdline")).is_ok_and(|line| !line.is_empty())
        });
        let bytes = |name| i64::try_from(meminfo(name)).unwrap();
        Self {
            counts: BTreeMap::from([
                ("processes", processes.count()),
                (
                    "descriptors of this process",
                    entries(Path::new("/proc/self/fd")),
                ),
                ("mounts", lines("/proc/self/mountinfo")),
                ("Unix sockets", lines("/proc/net/unix")),
                ("file locks", lines("/proc/locks")),
                ("network interfaces", entries(Path::new("/sys/class/net"))),
                (
                    "loop devices in use",
                    fs::read_dir("/sys/block")
                        .unwrap()
                        .flatten()
                        .filter(|block| block.path().join("loop/backing_file").exists())
                        .count(),
                ),
                (
                    "machines known to KVM",
                    entries(Path::new("/sys/kernel/debug/kvm")),
                ),
                ("files", places.iter().map(|place| entries(place)).sum()),
            ]),
            available: bytes("MemAvailable"),
            shared: bytes("Shmem"),
            kernel: bytes("SUnreclaim") + bytes("KernelStack") + bytes("PageTables"),
        }
    }
}

#[test]
fn a_hundred_machines_leave_nothing() {
    let directory = scratch();
    let path = |name: &str| directory.path().join(name);
    for name in ["run", "tmp"] {
        fs::create_dir(path(name)).unwrap();
    }
    let rootfs = Rootfs::private();
    let cgroup = Cgroup::new();
    let started = Instant::now();
    let boot = |number: usize| {
        let vm = Vm::new(&rootfs)
            .within(&cgroup)
            .env("RUNCVM_RUN_DIR", path("run"))
            .env("TMPDIR", path("tmp"))
            .args(["--memory", "128m"]);
        // Every fourth one has all devices.
        let vm = if number.is_multiple_of(4) {
            let disk = path(&format!("tmp/disk{number}"));
            File::create(&disk)
                .unwrap()
                .set_len(MIB.unsigned_abs())
                .unwrap();
            let tap = format!("h{}-{number}", std::process::id());
            vm.args(["--disk", disk.to_str().unwrap()])
                .args(["--net", &format!("tap={tap},ip=10.91.0.2/24")])
                .args(["-v", "/usr/share:/mnt:ro"])
        } else {
            vm
        };
        let output = vm.run(["echo", &number.to_string()]).succeeded();
        assert_eq!(output.out(), format!("{number}\n"));
        if number % 10 == 9 {
            eprintln!("machine {number} after {} s", started.elapsed().as_secs());
        }
        let _ = fs::remove_file(path(&format!("tmp/disk{number}")));
    };
    let take = || {
        cgroup.wait_until_empty();
        // The kernel takes a moment to free the memory of what has ended.
        sleep(Duration::from_secs(1));
        Inventory::take(&[
            &path("run"),
            &path("tmp"),
            Path::new("/tmp"),
            Path::new("/run"),
            Path::new("/dev/shm"),
        ])
    };

    boot_all(0..10, boot);
    let before = take();
    boot_all(10..100, boot);
    let after = take();
    eprintln!("{before:#?}\n{after:#?}\n{} s", started.elapsed().as_secs());

    assert_eq!(after.counts, before.counts);
    // A page a machine would be a third of a MiB.
    assert!(after.shared <= before.shared + MIB / 4, "shared memory");
    assert!(after.kernel <= before.kernel + 8 * MIB, "kernel memory");
    assert!(after.available >= before.available - 32 * MIB, "memory");
}

/// Boots these, two at a time.
fn boot_all(numbers: std::ops::Range<usize>, boot: impl Fn(usize) + Sync) {
    let boot = &boot;
    thread::scope(|scope| {
        for first in 0..2 {
            let numbers = numbers.clone().skip(first).step_by(2);
            scope.spawn(move || numbers.for_each(boot));
        }
    });
}
