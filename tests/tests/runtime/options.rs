//! `RUNCVM_*`: each does what is said of it.

use std::fs;
use std::path::Path;

use runcvm_tests::{Bundle, Case, Rootfs};

use super::{beside, sh, start_case, start_over};

/// Field `name` of the status of the process that is called `comm`, beside the machine.
fn command_line(container: &runcvm_tests::RunningContainer, comm: &str) -> String {
    let script = format!(
        "for p in /proc/[0-9]*; do [ \"$(cat $p/comm)\" = {comm} ] && tr '\\0' ' ' <$p/cmdline; done; true"
    );
    beside(container, &script)
}

#[test]
fn many_options_at_once() {
    let rootfs = Rootfs::private();
    let modules = rootfs.path().join("lib/modules");
    fs::create_dir_all(modules.join("of-the-image")).unwrap();
    let case = [
        ("RUNCVM_KERNEL", "debian"),
        ("RUNCVM_KERNEL_APPEND", "apparmor=0 my.own=1"),
        ("RUNCVM_KERNEL_DEBUG", "1"),
        ("RUNCVM_KERNEL_MOUNT_LIB_MODULES", "1"),
        ("RUNCVM_MEM_SIZE", "384M"),
        ("RUNCVM_SYS_ADMIN", "1"),
        ("RUNCVM_VIRTIOFSD_CACHE", "none"),
        ("RUNCVM_RUNTIME_DEBUG", "1"),
        ("RUNCVM_QEMU_VGA", "std"),
        ("RUNCVM_DISPLAY_MODE", "vnc"),
        ("RUNCVM_KERNEL_DEBU", "1"),
        ("RUNCVM_CGROUPFS", ""),
    ]
    .iter()
    .fold(Case::sh("echo ready; exec cat"), |case, (name, value)| {
        case.env(name, value)
    });
    let logs = || {
        let names = fs::read_dir("/tmp").unwrap().map(|entry| entry.unwrap());
        let names = names.map(|entry| entry.file_name().into_string().unwrap());
        let logs = names.filter(|name| name.starts_with("runcvm-") && name.ends_with(".log"));
        logs.collect::<Vec<_>>()
    };
    let before = logs();
    let container = start_over(&case, &rootfs, |bundle| bundle);

    let cmdline = sh(&container, "cat /proc/cmdline");
    assert!(cmdline.ends_with(" apparmor=0 my.own=1\n"), "{cmdline}");
    // Over all of it, not beside what the image has.
    let script = "[ \"$(ls /lib/modules)\" = \"$(uname -r)\" ] && ls /lib/modules/*/modules.dep";
    sh(&container, script);
    let memory = sh(&container, "awk '/^MemTotal:/ { print $2 }' /proc/meminfo");
    let memory: u32 = memory.trim().parse().unwrap();
    assert!((300_000..=384 << 10).contains(&memory), "{memory} KiB");
    sh(&container, "touch /f && setfattr -n trusted.mark -v 1 /f");
    let virtiofsd = command_line(&container, "virtiofsd");
    assert!(virtiofsd.contains("--cache never"), "{virtiofsd}");
    assert_eq!(sh(&container, "env | grep RUNCVM_ || true"), "");
    let log = logs().into_iter().find(|name| !before.contains(name));
    let log = fs::read_to_string(Path::new("/tmp").join(log.expect("a log"))).unwrap();
    let log: serde_json::Value = serde_json::from_str(&log).unwrap();
    assert_eq!(log["original"]["process"]["args"][0], "/bin/sh");
    assert_eq!(log["rewritten"]["process"]["args"][1], "supervise");

    container.close_stdin();
    let output = container.wait().succeeded();
    assert_eq!(output.out(), "ready\n");
    let err = output.err();
    let warnings: Vec<_> = err.lines().filter(|l| l.contains("warning: ")).collect();
    let expected = [
        "runcvm: warning: RUNCVM_QEMU_VGA has no effect: runcvm's machines are not QEMU's any more",
        "runcvm: warning: RUNCVM_KERNEL_DEBU is not known to runcvm; did you mean RUNCVM_KERNEL_DEBUG?",
        "runcvm: warning: This version of runcvm has no screen: the machine runs without VNC",
    ];
    assert_eq!(warnings, expected);
    assert!(err.contains("Linux version "), "{err}");
}

#[test]
fn without_options_none_of_them_holds() {
    let container = start_case(&Case::sh("echo ready; exec cat"), |bundle| bundle);
    let script = "ls -A /lib/modules /.runcvm; cd /lib/modules/$(uname -r) && cat modules.order";
    let modules = sh(&container, script);
    assert!(modules.contains("/ext4.ko"), "{modules}");
    let output = container.exec(&Case::sh("touch /f; setfattr -n trusted.mark -v 1 /f"));
    assert_ne!(output.status, 0, "the file server has too many rights");
    let virtiofsd = command_line(&container, "virtiofsd");
    assert!(virtiofsd.contains("--cache auto"), "{virtiofsd}");
    let script = "for m in /dev/shm /dev /dev/pts /dev/mqueue /proc /sys /sys/fs/cgroup; do echo $m $(findmnt -rno FSTYPE $m); done";
    assert_eq!(
        sh(&container, script),
        "/dev/shm tmpfs\n/dev devtmpfs\n/dev/pts devpts\n/dev/mqueue mqueue\n/proc proc\n/sys sysfs\n/sys/fs/cgroup cgroup2\n"
    );
    let root = container.rootfs().clone();
    container.close_stdin();
    assert_eq!(container.wait().succeeded().err(), "");
    // Nothing of ours stays in the image.
    for path in ["usr/lib/modules", ".runcvm"] {
        assert!(!root.path().join(path).exists(), "{path}");
    }
}

#[test]
fn a_status_and_the_serial_port_can_be_written() {
    let case = Case::sh("echo by serial >/dev/ttyS0; echo 77 >/.runcvm/exit-code")
        .env("RUNCVM_DISPLAY_MODE", "serial");
    let output = Bundle::new(&case).run();
    assert_eq!((output.out().as_str(), output.status), ("", 77));
    let err = output.err();
    assert!(
        err.contains("by serial") && err.contains("Linux version "),
        "{err}"
    );
}

#[test]
fn control_groups_are_mounted_as_wanted() {
    let script = "findmnt -Rrno TARGET,FSTYPE /sys/fs/cgroup; cat /sys/fs/cgroup/cgroup.controllers 2>/dev/null; true";
    let run = |value: &str| {
        let case = Case::sh(script).env("RUNCVM_CGROUPFS", value);
        Bundle::new(&case).run().succeeded().out()
    };
    assert_eq!(run("none"), "");
    let unified = run("cgroup2");
    let (mount, controllers) = unified.split_once('\n').unwrap();
    assert_eq!(mount, "/sys/fs/cgroup cgroup2");
    assert!(controllers.contains("memory"), "{controllers}");
    let old = "/sys/fs/cgroup/pids cgroup";
    let first = run("1");
    assert!(first.starts_with("/sys/fs/cgroup tmpfs\n"), "{first}");
    assert!(first.lines().any(|line| line == old), "{first}");
    assert!(!first.contains("cgroup2"), "{first}");
    let mixed = run("mixed");
    for line in [
        "/sys/fs/cgroup tmpfs",
        old,
        "/sys/fs/cgroup/unified cgroup2",
    ] {
        assert!(mixed.lines().any(|found| found == line), "{mixed}");
    }
    let case = Case::sh("true").env("RUNCVM_CGROUPFS", "3");
    let error = Bundle::new(&case).run();
    assert!(
        error
            .err()
            .contains("RUNCVM_CGROUPFS=3 must be one of none, systemd, 1, cgroup1"),
        "{}",
        error.err()
    );
}

#[test]
fn the_start_can_be_watched_from_a_shell() {
    let case = Case::sh("echo $((6 * 7))")
        .env("RUNCVM_BREAK", "prenet,postnet,preqemu")
        .terminal(24, 80);
    let container = Bundle::new(&case).start();
    for (moment, expected) in [
        ("prenet", "before"),
        ("postnet", "after"),
        ("preqemu", "last"),
    ] {
        container.wait_for(format!("runcvm: {moment}: "));
        container.write(format!(
            "ls /vm/etc/passwd; echo {expected}-$((1 + 1)); exit\r"
        ));
        container.wait_for(format!("{expected}-2"));
    }
    let output = container.wait().succeeded();
    assert!(output.out().contains("42"), "{}", output.out());

    let case = Case::sh("echo on").env("RUNCVM_BREAK", "postnet");
    let output = Bundle::new(&case).run().succeeded();
    assert_eq!(output.out(), "on\n");
    assert!(
        output
            .err()
            .contains("RUNCVM_BREAK has no effect without a terminal")
    );
}

#[test]
fn the_machines_first_process_can_be_chosen() {
    let script = "echo $$ $(readlink /proc/1/exe) $(ls -d /.dockerenv*); exit 3";
    let rootfs = Rootfs::private();
    fs::write(rootfs.path().join(".dockerenv"), "").unwrap();
    let run = |args: &[&str], init: &str| {
        let case = Case::new(args).env("RUNCVM_INIT", init);
        Bundle::over(&case, &rootfs).run()
    };
    let output = run(&["/bin/sh", "-c", script], "0");
    assert_eq!(
        (output.out().as_str(), output.status),
        ("1 /usr/bin/dash /.dockerenv\n", 3)
    );
    // Something called as an init system is, which does without being the machine's first.
    fs::create_dir_all(rootfs.path().join("opt/sbin")).unwrap();
    std::os::unix::fs::symlink("/bin/sh", rootfs.path().join("opt/sbin/init")).unwrap();
    let output = run(&["/opt/sbin/init", "-c", script], "0");
    assert_eq!(
        (output.out().as_str(), output.status),
        ("1 /usr/bin/dash /.dockerenv\n", 3)
    );
    let pid1 = "echo $$ $(cat /proc/2/comm) $(ls -d /.dockerenv*); echo o >/proc/sysrq-trigger; while :; do :; done";
    for (args, init) in [
        (["/bin/sh", "-c", pid1], "1"),
        (["/opt/sbin/init", "-c", pid1], ""),
    ] {
        let output = run(&args, init);
        assert_eq!(
            output.out().trim_end(),
            "1 kthreadd /.dockerenv.runcvm",
            "{}",
            output.err()
        );
        assert_eq!(output.status, 0, "{}", output.err());
        let name = rootfs.path().join(".dockerenv");
        fs::rename(rootfs.path().join(".dockerenv.runcvm"), name).unwrap();
    }
}

#[test]
fn memory_can_be_of_huge_pages() {
    let pages = "/proc/sys/vm/nr_hugepages";
    let free = || {
        let text = fs::read_to_string("/proc/meminfo").unwrap();
        let line = text.lines().find_map(|l| l.strip_prefix("HugePages_Free:"));
        line.unwrap().trim().parse::<u32>().unwrap()
    };
    let case = Case::sh("echo ready; exec cat")
        .env("RUNCVM_HUGETLB", "1")
        .env("RUNCVM_MEM_SIZE", "256M");
    let error = Bundle::new(&case).run();
    assert!(error.err().contains("huge pages"), "{}", error.err());
    assert_eq!(error.err().lines().count(), 1, "{}", error.err());

    fs::write(pages, "160").unwrap();
    let before = free();
    assert!(before >= 128, "the lab has {before} huge pages");
    let container = start_case(&case, |bundle| bundle);
    assert!(free() <= before - 128, "{before} to {}", free());
    container.close_stdin();
    container.wait().succeeded();
    assert_eq!(free(), before);
    fs::write(pages, "0").unwrap();
}
