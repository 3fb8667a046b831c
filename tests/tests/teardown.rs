//! Nothing is left of a machine, whatever kills which part of it when.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::thread::sleep;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runcvm_tests::{Cgroup, Member, Output, Rootfs, RunningVm, Vm, scratch};
use tempfile::TempDir;

/// The command lines of a machine's processes have these parts.
const MACHINE: &str = "runcvm-vmm machine";
const VIRTIOFSD: &str = "virtiofsd --";

/// How long an end may take that needs no time by itself, on a busy host.
const PATIENCE: Duration = Duration::from_secs(30);

/// A machine with a share, a disk and a tap of its own making, and all places where it could
/// leave something.
struct Site {
    cgroup: Cgroup,
    /// Run directory, temporary directory, share, disk.
    directory: TempDir,
    tap: String,
    rootfs: Rootfs,
}

impl Site {
    fn new(tap: &str) -> Self {
        let directory = scratch();
        for name in ["run", "tmp", "share"] {
            fs::create_dir(directory.path().join(name)).unwrap();
        }
        let disk = File::create(directory.path().join("disk")).unwrap();
        disk.set_len(64 << 20).unwrap();
        Self {
            cgroup: Cgroup::new(),
            directory,
            tap: format!("{tap}{}", std::process::id()),
            rootfs: Rootfs::private(),
        }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn vm(&self) -> Vm {
        Vm::new(&self.rootfs)
            .within(&self.cgroup)
            .env("RUNCVM_RUN_DIR", self.path("run"))
            .env("TMPDIR", self.path("tmp"))
            .args(["--memory", "192m"])
            .args(["-v", &format!("{}:/share", self.path("share").display())])
            .args(["--disk", self.path("disk").to_str().unwrap()])
            .args(["--net", &format!("tap={},ip=10.90.0.2/24", self.tap)])
    }

    /// Boots it, and waits until its workload runs.
    #[track_caller]
    fn idle(&self) -> RunningVm {
        let vm = self.vm().start(["sh", "-c", "echo ready; sleep 1000"]);
        vm.wait_for("ready\n");
        vm
    }

    /// Boots it, and waits until it reads and writes wherever it can.
    #[track_caller]
    fn busy(&self) -> RunningVm {
        let vm = self.vm().start([
            "sh",
            "-c",
            "while :; do dd if=/dev/urandom of=/dev/vda bs=1M count=32 conv=fsync 2>/dev/null; done &
            while :; do head -c 8M /dev/zero >/share/file; md5sum /share/file >/root/sum; done &
            while :; do ls -lR /usr/lib >/dev/null; done &
            sleep 1; echo ready; yes",
        ]);
        vm.wait_for("ready\n");
        vm
    }

    #[track_caller]
    fn find(&self, part: &str) -> Member {
        self.cgroup.wait_for(part)
    }

    #[track_caller]
    fn kill(&self, part: &str) {
        kill(self.find(part).pid, Signal::SIGKILL).unwrap();
    }

    /// Nothing is left, and everything can be used again.
    #[track_caller]
    fn is_clean(&self) {
        self.cgroup.wait_until_empty();
        // A process is counted out before the kernel has closed its files.
        let deadline = Instant::now() + PATIENCE;
        loop {
            let left = self.left();
            if left.is_empty() {
                return;
            }
            assert!(Instant::now() < deadline, "left behind: {left:#?}");
            sleep(Duration::from_millis(10));
        }
    }

    /// All that is still there.
    fn left(&self) -> Vec<String> {
        let mut left = Vec::new();
        for name in ["run", "tmp"] {
            let entries = fs::read_dir(self.path(name)).unwrap().flatten();
            left.extend(entries.map(|entry| entry.path().display().to_string()));
        }
        let own = self.directory.path().to_str().unwrap();
        for table in ["/proc/net/unix", "/proc/self/mountinfo"] {
            let table = fs::read_to_string(table).unwrap();
            left.extend(table.lines().filter(|l| l.contains(own)).map(str::to_owned));
        }
        if Path::new("/sys/class/net").join(&self.tap).exists() {
            left.push(format!("the tap {}", self.tap));
        }
        if File::open(self.path("disk")).unwrap().try_lock().is_err() {
            left.push("a lock on the disk".into());
        }
        left
    }
}

/// The end of a launcher that could still tell about it.
#[track_caller]
fn failed(vm: RunningVm, words: &str) -> Output {
    let started = Instant::now();
    let output = vm.wait();
    assert!(started.elapsed() < PATIENCE, "{:?}", started.elapsed());
    assert_eq!(output.status, 125, "{}", output.err());
    let message = output.err();
    assert!(message.starts_with("runcvm-vmm: "), "{message}");
    assert!(message.contains(words), "no {words:?} in: {message}");
    output
}

#[test]
fn a_killed_machine_process_takes_all_along() {
    let site = Site::new("ta");
    for start in [Site::idle, Site::busy] {
        let vm = start(&site);
        site.kill(MACHINE);
        let output = failed(vm, "The machine was ended by signal 9");
        assert_eq!(output.err().lines().count(), 1, "{}", output.err());
        site.is_clean();
    }
}

#[test]
fn a_killed_virtiofsd_takes_all_along() {
    let site = Site::new("tb");
    let share = site.path("share");
    for (start, inner) in [
        (Site::idle as fn(&Site) -> RunningVm, false),
        (Site::busy, true),
    ] {
        let vm = start(&site);
        // The volume's is the last that was started. It serves from a process in namespaces
        // of its own, whose parent waits for it.
        let members = site.cgroup.members();
        let own = children(vm.pid());
        let daemons = members.iter().filter(|m| m.command.contains(VIRTIOFSD));
        let outer = daemons.map(|m| m.pid).filter(|pid| own.contains(pid)).max();
        let outer = outer.unwrap_or_else(|| panic!("no virtiofsd among {members:#?}"));
        let victim = if inner { children(outer)[0] } else { outer };
        kill(victim, Signal::SIGKILL).unwrap();
        let output = failed(vm, "The virtiofsd that shares");
        let message = output.err();
        assert_eq!(message.lines().count(), 1, "{message}");
        assert!(message.contains(share.to_str().unwrap()), "{message}");
        assert!(message.contains("signal 9"), "{message}");
        site.is_clean();
    }
}

/// The processes that `parent` started.
fn children(parent: Pid) -> Vec<Pid> {
    let list = fs::read_to_string(format!("/proc/{parent}/task/{parent}/children")).unwrap();
    let pids = list.split_whitespace().map(|pid| pid.parse().unwrap());
    pids.map(Pid::from_raw).collect()
}

#[test]
fn a_killed_launcher_leaves_nothing() {
    let site = Site::new("tc");
    for start in [Site::idle, Site::busy] {
        let vm = start(&site);
        vm.signal(Signal::SIGKILL);
        assert_eq!(vm.wait().status, 137);
        site.is_clean();
    }
}

#[test]
fn whatever_is_killed_during_the_boot_nothing_is_left() {
    let site = Site::new("td");
    // From before the machine exists to about where its command starts.
    for wait in [0, 20, 60, 150, 400, 1000, 2000] {
        for victim in ["launcher", MACHINE, VIRTIOFSD] {
            let vm = site.vm().start(["sleep", "1000"]);
            if victim == "launcher" {
                sleep(Duration::from_millis(wait));
                vm.signal(Signal::SIGKILL);
                assert_eq!(vm.wait().status, 137);
            } else {
                let member = site.find(victim);
                sleep(Duration::from_millis(wait));
                kill(member.pid, Signal::SIGKILL).unwrap();
                let words = if victim == MACHINE {
                    "machine"
                } else {
                    "virtiofsd"
                };
                failed(vm, words);
            }
            site.is_clean();
        }
    }
}

#[test]
fn a_signal_during_the_boot_ends_it() {
    let site = Site::new("te");
    for (signal, status) in [
        (Signal::SIGTERM, 143),
        (Signal::SIGINT, 130),
        (Signal::SIGHUP, 129),
    ] {
        let vm = site.vm().start(["sleep", "1000"]);
        site.find(MACHINE);
        sleep(Duration::from_millis(200));
        vm.signal(signal);
        let output = vm.wait();
        assert_eq!((output.status, output.err().as_str()), (status, ""));
        site.is_clean();
    }
}

/// Lines of the guest's kernel below the message.
#[track_caller]
fn panicked(vm: RunningVm) -> String {
    let output = failed(vm, "The guest's kernel panicked");
    let message = output.err();
    let log: Vec<_> = message.lines().skip(1).collect();
    assert!((1..=20).contains(&log.len()), "{message}");
    log.join("\n")
}

#[test]
fn a_crash_of_the_guest_shows_its_last_words() {
    let site = Site::new("tf");
    for start in [Site::idle, Site::busy] {
        let vm = start(&site);
        let crash = vm.exec().run(["sh", "-c", "echo c >/proc/sysrq-trigger"]);
        assert_ne!(crash.status, 0);
        let log = panicked(vm);
        assert!(
            log.contains("Kernel panic - not syncing: sysrq triggered crash"),
            "{log}"
        );
        site.is_clean();
    }

    let vm = site
        .vm()
        .args(["--append", "rdinit=/nothing root=/dev/none"]);
    let log = panicked(vm.start(["true"]));
    assert!(log.contains("Kernel panic - not syncing"), "{log}");
    site.is_clean();
}

#[test]
fn a_machine_that_ends_itself_is_no_failure_but_a_triple_fault_is() {
    let site = Site::new("tg");
    let trigger = |append: &str, key: &str| {
        let script = format!("echo before; sync; echo {key} >/proc/sysrq-trigger; sleep 1000");
        site.vm()
            .args(["--append", append])
            .start(["sh", "-c", &script])
    };
    for (append, key) in [("", "o"), ("", "b"), ("reboot=acpi", "b")] {
        let output = trigger(append, key).wait();
        assert_eq!(
            (output.out().as_str(), output.status),
            ("before\n", 0),
            "{}",
            output.err()
        );
        assert_eq!(output.err(), "");
        site.is_clean();
    }
    let vm = trigger("reboot=triple", "b");
    vm.wait_for("before\n");
    let output = failed(vm, "triple fault");
    assert_eq!(output.out(), "before\n");
    site.is_clean();
}

#[test]
fn the_name_of_a_dead_machine_is_free_at_once() {
    let site = Site::new("th");
    let vm = site.vm();
    let first = vm.start(["sh", "-c", "echo ready; sleep 1000"]);
    first.wait_for("ready\n");
    first.signal(Signal::SIGKILL);
    assert_eq!(first.wait().status, 137);
    assert_eq!(vm.run(["echo", "again"]).succeeded().out(), "again\n");
    site.is_clean();
}
