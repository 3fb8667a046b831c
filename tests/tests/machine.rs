//! Processors, memory, transports, kernels, and the control of a running machine.

use std::collections::HashMap;
use std::path::PathBuf;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use runcvm_tests::{Output, Rootfs, RunningVm, Tap, Vm, home, meminfo, scratch, vmm};

const MIB: u64 = 1 << 20;

/// Boots a machine of this shape with every device and looks whether it is as asked for.
#[track_caller]
fn has_shape(cpus: u64, memory: u64, transport: &str) {
    assert!(
        meminfo("MemTotal") >= memory * MIB,
        "this needs a host with more than {memory} MiB of memory"
    );
    let directory = scratch();
    let disk = directory.path().join("disk.img");
    std::fs::write(&disk, [b'd'; 65536]).unwrap();
    let tap = Tap::new(&["10.77.0.1/24"], 1500);
    let shared = directory.path().join("shared");
    std::fs::create_dir(&shared).unwrap();
    std::fs::write(shared.join("file"), "from the host").unwrap();

    let output = Vm::rootfs()
        .args(["--cpus", &cpus.to_string()])
        .args(["--memory", &format!("{memory}m")])
        .args(["--transport", transport])
        .args(["-v", &format!("{}:/shared", shared.display())])
        .args(["--disk", disk.to_str().unwrap()])
        .args(["--net", &format!("tap={},ip=10.77.0.2/24", tap.name())])
        .run(["python3", "-c", include_str!("../guest/shape.py")])
        .succeeded();
    let output = output.out();
    let said: HashMap<_, _> = output
        .lines()
        .filter_map(|line| line.split_once(": "))
        .collect();
    let numbers = |key| -> Vec<u64> {
        let words = said[key].split(' ');
        words.map(|word| word.parse().unwrap()).collect()
    };

    let all: Vec<u64> = (0..cpus).collect();
    assert_eq!(numbers("cpus"), all);
    assert_eq!(numbers("pinned"), all);
    // Of the 300 ticks in three seconds; the lab has one processor for all of them and others.
    assert!(numbers("busy").iter().all(|&ticks| ticks >= 10), "{output}");
    let total = numbers("memory")[0] * 1024;
    assert!(total <= memory * MIB, "{output}");
    assert!(
        total + total / 33 + 32 * MIB >= memory * MIB,
        "asked for {memory} MiB, got {} MiB",
        total / MIB
    );
    assert_eq!(said["transport"], transport);
    assert_eq!(
        said["drivers"],
        "virtio_blk virtio_net virtio_rng virtiofs virtiofs vmw_vsock_virtio_transport"
    );
    assert_eq!(said["share"], "from the host");
    assert_eq!(said["disk"], "dddd");
    assert_eq!(said["network"], "0");
    assert_eq!(said["random"], "16");
}

#[test]
fn one_processor_and_128_mib() {
    has_shape(1, 128, "pci");
}

#[test]
fn two_processors_and_512_mib_over_mmio() {
    has_shape(2, 512, "mmio");
}

#[test]
fn four_processors_and_one_gib() {
    has_shape(4, 1024, "pci");
}

#[test]
fn four_processors_and_two_gib_over_mmio() {
    has_shape(4, 2048, "mmio");
}

#[test]
fn two_processors_and_three_gib() {
    has_shape(2, 3072, "pci");
}

/// Some of it above the devices' addresses.
#[test]
fn two_processors_and_more_than_three_gib() {
    has_shape(2, 3584, "pci");
}

/// A command that is the machine's PID 1 speaks on the virtio console.
#[test]
fn the_console_works_with_both_transports() {
    for transport in ["pci", "mmio"] {
        // While devices go one after the other, it reads no more of its root filesystem.
        let vm = Vm::rootfs()
            .args(["--init", "pid1", "--transport", transport])
            .stdin()
            .start([
                "sh",
                "-c",
                "echo I am PID $$; read line; echo read: $line; \
                 tty; sync; echo o >/proc/sysrq-trigger; while :; do read line; done",
            ]);
        vm.wait_for("I am PID 1");
        vm.write("typed\n");
        vm.wait_for("read: typed");
        let output = vm.wait().succeeded().out();
        assert!(output.contains("/dev/hvc0"), "{output}");
    }
}

#[test]
fn every_installed_kernel_boots() {
    let mut kernels: Vec<PathBuf> = Vec::new();
    for name in std::fs::read_dir(home().join("kernels")).unwrap().flatten() {
        // Neither the lock nor the links that name the default and the latest ones.
        if name.file_type().unwrap().is_dir() {
            let versions = std::fs::read_dir(name.path()).unwrap().flatten();
            let versions = versions.filter(|v| v.file_type().unwrap().is_dir());
            kernels.extend(versions.map(|version| version.path()));
        }
    }
    assert!(!kernels.is_empty());
    for kernel in kernels {
        let manifest = std::fs::read(kernel.join("manifest.json")).unwrap();
        let manifest: serde_json::Value = serde_json::from_slice(&manifest).unwrap();
        let name = kernel.strip_prefix(home().join("kernels")).unwrap();
        let output = Vm::rootfs()
            .args(["--kernel", name.to_str().unwrap()])
            .run(["uname", "-r"])
            .succeeded();
        assert_eq!(output.out().trim(), manifest["release"].as_str().unwrap());
    }
}

#[test]
fn options_of_the_kernel_and_what_is_shown_of_a_boot() {
    let output = Vm::rootfs()
        .args(["--append", "mark=\"two words\" other", "--hostname", "box7"])
        .args(["--kernel-log", "--timings"])
        .run(["sh", "-c", "uname -n; cat /proc/cmdline"])
        .succeeded();
    let (out, err) = (output.out(), output.err());
    assert!(out.starts_with("box7\n"), "{out}");
    assert!(out.contains("mark=\"two words\" other"), "{out}");
    assert!(err.contains("Linux version "), "{err}");

    let mut last = 0.0;
    for phase in [
        "machine process",
        "KVM ready",
        "first entry",
        "kernel start",
        "PID 1",
        "command",
        "exit",
        "machine gone",
    ] {
        let row = err.lines().find_map(|line| line.strip_prefix(phase));
        let row = row.unwrap_or_else(|| panic!("no {phase:?} in: {err}"));
        let at = row.split_whitespace().next().unwrap();
        let at: f64 = at.parse().unwrap_or_else(|_| panic!("{phase}: {row}"));
        assert!(at >= last, "{phase} came before its predecessor: {err}");
        last = at;
    }
    assert!(last < 60_000.0, "{err}");
    let outside = err
        .lines()
        .find_map(|line| line.strip_prefix("memory outside the guest's: "));
    let outside = outside.and_then(|line| line.strip_suffix(" MiB"));
    let outside: f64 = outside.expect(&err).parse().unwrap();
    assert!((0.1..5.0).contains(&outside), "{outside} MiB");
}

/// A machine whose workload says "ready" and then waits for the end of its stdin.
fn waiting(vm: &Vm) -> RunningVm {
    let vm = vm.clone().stdin().start(["sh", "-c", "echo ready; cat"]);
    vm.wait_for("ready\n");
    vm
}

#[test]
fn a_machine_tells_how_it_is() {
    let vm = waiting(&Vm::rootfs().args(["--cpus", "2", "--memory", "256m"]));
    let status = vm.status();
    assert_eq!(status["name"], vm.name());
    assert_eq!(status["state"], "running");
    assert_eq!(status["cpus"], 2);
    assert_eq!(status["memory"], 256 * MIB);
    let exits = status["exits"].as_object().unwrap().values();
    assert!(exits.map(|n| n.as_u64().unwrap()).sum::<u64>() > 0);
    let overhead = status["overhead"].as_u64().unwrap();
    assert!((MIB / 10..5 * MIB).contains(&overhead), "{overhead} bytes");
    let command = format!("/proc/{}/comm", status["pid"]);
    assert_eq!(std::fs::read_to_string(command).unwrap(), "runcvm-vmm\n");

    let list = || vmm("list").run_bare().succeeded().out();
    assert!(list().lines().any(|line| line.starts_with(vm.name())));
    let json = vmm("list").args(["--json"]).run_bare().succeeded().out();
    let json: serde_json::Value = serde_json::from_str(&json).unwrap();
    let listed = json.as_array().unwrap().iter();
    assert!(listed.filter(|m| m["name"] == vm.name()).count() == 1);

    let rootfs = Rootfs::private();
    let same = vmm("run")
        .args([
            "--name",
            vm.name(),
            "--rootfs",
            rootfs.path().to_str().unwrap(),
        ])
        .run(["true"]);
    assert!(same.refused().contains(vm.name()));

    let name = vm.name().to_owned();
    vm.close_stdin();
    vm.wait().succeeded();
    assert!(!list().contains(&name));
    for verb in ["status", "stop", "kill", "pause", "resume"] {
        let message = vmm(verb).args([&name]).run_bare().refused();
        assert!(message.contains(&name), "{message}");
    }
}

/// By how much the guest's clock is ahead of ours: at least and at most, in seconds.
#[track_caller]
fn clock_ahead(vm: &RunningVm) -> (f64, f64) {
    let now = || {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap();
        now.as_secs_f64()
    };
    let before = now();
    let guest = vm.sh("date +%s.%N");
    let after = now();
    let guest: f64 = guest.trim().parse().unwrap();
    (guest - after, guest - before)
}

#[test]
fn a_paused_machine_stands_still_and_its_clock_does_not_suffer() {
    let vm = waiting(&Vm::rootfs().args(["--cpus", "2"]));
    // A guest whose host is too busy to tell it the time at once knows it to half a second.
    let (least, most) = clock_ahead(&vm);
    assert!(least < 0.5 && most > -0.5, "{least} s to {most} s ahead");
    let counting = vm
        .exec()
        .start(["sh", "-c", "while :; do echo on; sleep 0.05; done"]);
    counting.wait_for("on\n");

    vm.verb("pause").run_bare().succeeded();
    assert_eq!(vm.status()["state"], "paused");
    // What it wrote before is still on its way.
    sleep(Duration::from_secs(1));
    let before = counting.stdout().len();
    sleep(Duration::from_secs(5));
    assert_eq!(counting.stdout().len(), before, "a paused machine went on");

    vm.verb("resume").run_bare().succeeded();
    let (still_least, still_most) = clock_ahead(&vm);
    assert!(
        still_most >= least - 0.1 && still_least <= most + 0.1,
        "{least} s to {most} s ahead before the pause, {still_least} s to {still_most} s after it"
    );
    assert_eq!(vm.status()["state"], "running");
    let deadline = Instant::now() + Duration::from_secs(30);
    while counting.stdout().len() == before {
        assert!(Instant::now() < deadline, "a resumed machine did not go on");
        sleep(Duration::from_millis(20));
    }
    drop(counting);
    vm.close_stdin();
    vm.wait().succeeded();
}

#[track_caller]
fn stopped(vm: RunningVm, options: &[&str]) -> Output {
    vm.wait_for("ready\n");
    vm.verb("stop").args(options).run_bare().succeeded();
    vm.wait()
}

#[test]
fn stop_asks_the_workload_first() {
    let vm = Vm::rootfs().start([
        "sh",
        "-c",
        "trap 'echo asked to end; exit 7' TERM; echo ready; while :; do sleep 0.1; done",
    ]);
    let output = stopped(vm, &["--time", "30"]);
    assert_eq!(
        (output.out().as_str(), output.status),
        ("ready\nasked to end\n", 7)
    );

    let deaf = Vm::rootfs().start([
        "sh",
        "-c",
        "trap '' TERM; echo ready; while :; do sleep 0.1; done",
    ]);
    assert_eq!(stopped(deaf, &["--time", "1"]).status, 137);
}

#[test]
fn kill_asks_nobody() {
    let vm = waiting(&Vm::rootfs());
    let name = vm.name().to_owned();
    vm.verb("kill").run_bare().succeeded();
    let output = vm.wait();
    assert_eq!((output.err().as_str(), output.status), ("", 137));
    assert!(!vmm("list").run_bare().succeeded().out().contains(&name));
}
