//! What cannot be done is refused in one sentence that names it, with status 125, and leaves
//! nothing behind.

use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::{Mutex, MutexGuard, PoisonError};

use runcvm_tests::{Output, Rootfs, Tap, Traces, Vm, home, scratch, vmm};

/// Tests of this suite run one after the other: each looks at what the whole host has.
fn alone() -> MutexGuard<'static, ()> {
    static ALONE: Mutex<()> = Mutex::new(());
    ALONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A machine that would boot, but for what the test adds.
fn sound() -> Vm {
    Vm::named("refused", &Rootfs::template())
}

fn entries(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).into_iter().flatten().flatten();
    entries
        .map(|entry| entry.file_name().to_string_lossy().into_owned())
        .collect()
}

/// Does what is to be refused, with a run directory of its own.
#[track_caller]
fn refused_by(act: impl FnOnce(&Path) -> Output, said: &[&str]) {
    let runs = scratch();
    let before = Traces::now();
    let output = act(runs.path());
    assert_eq!(output.out(), "");
    let message = output.refused();
    for part in said {
        assert!(message.contains(part), "{part:?} is not in: {message}");
    }
    assert!(message.starts_with("runcvm-vmm: "), "{message}");
    assert!(
        !message.contains("os error") && !message.contains("Error"),
        "{message}"
    );
    assert_eq!(entries(runs.path()), [""; 0], "{message}");
    assert_eq!(Traces::now(), before, "{message}");
}

#[track_caller]
fn refused(vm: &Vm, said: &[&str]) {
    refused_by(
        |runs| vm.clone().env("RUNCVM_RUN_DIR", runs).run(["true"]),
        said,
    );
}

/// Each of these options must be refused with a sentence that has these parts.
#[track_caller]
fn options_are_refused(cases: &[(&[&str], &[&str])]) {
    let _alone = alone();
    for (options, said) in cases {
        refused(&sound().args(*options), said);
    }
}

#[test]
fn kernels() {
    let files = scratch();
    let write = |name: &str, content: &[u8]| {
        let path = files.path().join(name);
        std::fs::write(&path, content).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let vmlinux = std::fs::read(home().join("kernels/default/vmlinux")).unwrap();
    let text = write(
        "text",
        b"I am no kernel, however long I am.\n"
            .repeat(1000)
            .as_slice(),
    );
    let empty = write("empty", b"");
    let cut = write("cut", &vmlinux[..vmlinux.len() / 2]);
    let header = write("header", &vmlinux[..100]);
    let mut other = vmlinux[..1 << 20].to_vec();
    other[18] = 183; // e_machine: AArch64
    let other = write("other", &other);
    let directory = files.path().to_str().unwrap();
    options_are_refused(&[
        (&["--kernel", "/no/such/kernel"], &["/no/such/kernel"]),
        (&["--kernel", "no-such-bundle"], &["no-such-bundle"]),
        (&["--kernel", "../kernels"], &["../kernels"]),
        (&["--kernel", ""], &["kernel"]),
        (&["--kernel", directory], &[directory]),
        (&["--kernel", &text], &[&text]),
        (&["--kernel", &empty], &[&empty]),
        (&["--kernel", &cut], &[&cut]),
        (&["--kernel", &header], &[&header]),
        (&["--kernel", &other], &[&other]),
        (&["--kernel", "/bin/true"], &["/bin/true"]),
        (&["--kernel", "/dev/null"], &["/dev/null"]),
    ]);
}

#[test]
fn root_filesystems() {
    let files = scratch();
    let file = files.path().join("file");
    std::fs::write(&file, "").unwrap();
    let _alone = alone();
    for path in ["/no/such/directory", file.to_str().unwrap(), "/dev/null"] {
        refused(&Vm::named("refused", &Rootfs::at(path)), &[path]);
    }
}

#[test]
fn disks() {
    let files = scratch();
    let path = |name: &str| files.path().join(name).to_str().unwrap().to_owned();
    for (name, length) in [
        ("empty", 0),
        ("small", 511),
        ("odd", 10_000),
        ("good", 4096),
    ] {
        std::fs::write(path(name), vec![0; length]).unwrap();
    }
    let (empty, small, odd, good) = (path("empty"), path("small"), path("odd"), path("good"));
    let long = format!("{good},id={}", "x".repeat(21));
    let spaced = format!("{good},id=a b");
    let queues = format!("{good},queues=0");
    let directory = files.path().to_str().unwrap();
    options_are_refused(&[
        (&["--disk", "/no/such/disk"], &["/no/such/disk"]),
        (&["--disk", directory], &[directory]),
        (&["--disk", "/dev/null"], &["/dev/null"]),
        (&["--disk", &empty], &[&empty, "small"]),
        (&["--disk", &small], &[&small, "small"]),
        (&["--disk", &odd], &[&odd, "512"]),
        (&["--disk", ""], &["--disk"]),
        (&["--disk", ",ro"], &["--disk", ",ro"]),
        (&["--disk", &long], &["id", "20"]),
        (&["--disk", &spaced], &["id"]),
        (&["--disk", &queues], &["queues"]),
        (&["--disk", &good, "--disk", &good], &[&good, "in use"]),
    ]);
}

#[test]
fn memory() {
    options_are_refused(&[
        (&["--memory", "0"], &["memory", "0"]),
        (&["--memory", ""], &["--memory"]),
        (&["--memory", "lots"], &["--memory", "lots"]),
        (&["--memory", "512q"], &["512q"]),
        (&["--memory", "1.5.2g"], &["1.5.2g"]),
        (&["--memory=-512m"], &["-512m"]),
        (&["--memory", "64k"], &["memory"]),
        (&["--memory", "1m"], &["memory"]),
        (&["--memory", "16t"], &["16777216 MiB"]),
        (
            &["--memory", "99999999999999999999g"],
            &["99999999999999999999g"],
        ),
    ]);
}

#[test]
fn processors() {
    options_are_refused(&[
        (&["--cpus", "0"], &["--cpus", "64"]),
        (&["--cpus", "65"], &["65", "64"]),
        (&["--cpus", "300"], &["--cpus", "300"]),
        (&["--cpus", "two"], &["--cpus", "two"]),
        (&["--cpus=-1"], &["--cpus", "-1"]),
        (&["--cpus", "1.5"], &["--cpus", "1.5"]),
    ]);
}

#[test]
fn volumes_and_tmpfs() {
    options_are_refused(&[
        (&["-v", ""], &["-v"]),
        (&["-v", "/srv"], &["-v", "/srv"]),
        (&["-v", "/srv:relative"], &["/srv:relative"]),
        (&["-v", ":/srv"], &[":/srv"]),
        (&["-v", "/srv:"], &["/srv:"]),
        (&["-v", "/srv:/srv:rx"], &["/srv:/srv:rx"]),
        (&["-v", "/srv:/srv:ro:z"], &["/srv:/srv:ro:z"]),
        (&["-v", "/srv:/"], &["/srv:/"]),
        (&["-v", "/no/such/source:/srv"], &["/no/such/source"]),
        (&["-v", "/dev/null:/srv"], &["/dev/null"]),
        (&["--tmpfs", ""], &["--tmpfs"]),
        (&["--tmpfs", "relative"], &["--tmpfs", "relative"]),
        (&["--tmpfs", "/"], &["--tmpfs", "/"]),
        (&["--tmpfs", ":size=1m"], &["--tmpfs", ":size=1m"]),
    ]);
}

#[test]
fn environment_and_working_directory() {
    options_are_refused(&[
        (&["-e", ""], &["-e"]),
        (&["-e", "=value"], &["-e", "=value"]),
        (&["-w", "relative"], &["-w", "relative"]),
        (&["-w", ""], &["-w"]),
    ]);
}

#[test]
fn interfaces() {
    options_are_refused(&[
        (&["--net", ""], &["--net"]),
        (&["--net", "tap0"], &["--net", "tap0"]),
        (&["--net", "mac=02:00:00:00:00:01"], &["--net", "tap"]),
        (&["--net", "tap="], &["tap"]),
        (
            &["--net", "tap=longer-than-15-characters"],
            &["longer-than-15-characters"],
        ),
        (&["--net", "tap=a/b"], &["a/b"]),
        (
            &["--net", "tap=rt0,mac=02:00:00:00:00"],
            &["mac", "02:00:00:00:00"],
        ),
        (
            &["--net", "tap=rt0,mac=01:00:00:00:00:01"],
            &["mac", "01:00:00:00:00:01"],
        ),
        (&["--net", "tap=rt0,ip=10.0.0.2"], &["ip", "10.0.0.2"]),
        (&["--net", "tap=rt0,ip=10.0.0.2/33"], &["10.0.0.2/33"]),
        (&["--net", "tap=rt0,ip=10.0.0.256/24"], &["10.0.0.256/24"]),
        (&["--net", "tap=rt0,gw=router"], &["gw", "router"]),
        (
            &["--net", "tap=rt0,gw=10.0.0.1,gw=10.0.0.2"],
            &["gw", "10.0.0.2"],
        ),
        (&["--net", "tap=rt0,mtu=0"], &["mtu"]),
        (&["--net", "tap=rt0,mtu=65536"], &["mtu", "65536"]),
        (&["--net", "tap=rt0,speed=1"], &["speed"]),
        (&["--net", "tap=lo"], &["lo", "tap"]),
    ]);
}

#[test]
fn names() {
    let long = "x".repeat(65);
    let _alone = alone();
    for name in [
        "", ".", "..", "a/b", "/a", "a b", "-a", ".a", "größe", &long,
    ] {
        refused(&Vm::named(name, &Rootfs::template()), &["name", name]);
    }
    for hostname in ["", "a b", "a/b", &long] {
        refused(
            &sound().args([format!("--hostname={hostname}")]),
            &["--hostname", hostname],
        );
    }
}

#[test]
fn command_lines() {
    options_are_refused(&[
        (&["--no-such-option"], &["--no-such-option"]),
        (&["--init", "systemd"], &["--init", "systemd"]),
        (&["--transport", "isa"], &["--transport", "isa"]),
        (&["stray"], &["stray"]),
    ]);
    let _alone = alone();
    refused_by(|_| sound().run_bare(), &["CMD"]);
    refused_by(|_| sound().run([""; 0]), &["CMD"]);
    refused_by(|_| sound().args(["--cpus"]).run_bare(), &["--cpus"]);
    refused_by(|_| vmm("fly").run_bare(), &["fly"]);
    refused_by(
        |_| vmm("--no-such-option").run_bare(),
        &["--no-such-option"],
    );
    refused_by(|_| vmm("stop").run_bare(), &["NAME"]);
    refused_by(|_| vmm("exec").args(["name"]).run_bare(), &["CMD"]);
}

/// Only the guest can know of these: it boots for them.
#[test]
fn users_and_what_else_the_guest_refuses() {
    let _alone = alone();
    for user in ["nobody-knows-me", "user:no-such-group", "1000000000000"] {
        refused(
            &sound().args(["-u", user]),
            &[user.split(':').next_back().unwrap()],
        );
    }
    refused(&sound().args(["-w", "/etc/passwd"]), &["/etc/passwd"]);
    refused(
        &sound().args(["--tmpfs", "/srv:size=huge"]),
        &["/srv", "size=huge"],
    );
    refused(&sound().args(["-v", "/srv:/etc/passwd"]), &["/etc/passwd"]);
}

#[test]
fn what_a_running_machine_uses() {
    let _alone = alone();
    let files = scratch();
    let disk = files.path().join("disk").display().to_string();
    std::fs::write(&disk, vec![0; 1 << 20]).unwrap();
    let before = Traces::now();
    let tap = Tap::new(&[], 1500);
    let runs = files.path().join("runs");
    let vm = Vm::named("taken", &Rootfs::template())
        .env("RUNCVM_RUN_DIR", &runs)
        .args(["--disk", &disk, "--net", &format!("tap={}", tap.name())])
        .stdin()
        .start(["sh", "-c", "echo ready; cat"]);
    vm.wait_for("ready\n");
    refused(&sound().args(["--disk", &disk]), &[&disk, "in use"]);
    refused(
        &sound().args(["--disk", &format!("{disk},ro")]),
        &[&disk, "in use"],
    );
    let net = format!("tap={}", tap.name());
    refused(&sound().args(["--net", &net]), &[tap.name(), "in use"]);
    let taken = Vm::named("taken", &Rootfs::template()).env("RUNCVM_RUN_DIR", &runs);
    refused_by(|_| taken.run(["true"]), &["\"taken\"", "in use"]);
    assert_eq!(entries(&runs), ["taken"]);
    vm.close_stdin();
    vm.wait().succeeded();
    drop(tap);
    assert_eq!(entries(&runs), [""; 0]);
    assert_eq!(Traces::now(), before);
}

/// Runs the monitor where this script has changed what it sees of the host.
#[track_caller]
fn refused_where(changes: &str, said: &[&str]) {
    let _alone = alone();
    let script = format!("{changes}; exec \"$@\"");
    let vm = sound().under(&["unshare", "--mount", "sh", "-ec", &script, "sh"]);
    refused(&vm, said);
}

/// A `/dev` without KVM.
const BARE_DEV: &str = "mkdir /tmp/dev.$$; mount -t tmpfs none /tmp/dev.$$
    for d in null zero urandom net; do
        if [ -d /dev/$d ]; then mkdir /tmp/dev.$$/$d; else touch /tmp/dev.$$/$d; fi
        mount --rbind /dev/$d /tmp/dev.$$/$d
    done
    mount --move /tmp/dev.$$ /dev; rmdir /tmp/dev.$$";

#[test]
fn hosts_without_kvm() {
    refused_where(BARE_DEV, &["/dev/kvm"]);
}

#[test]
fn hosts_where_kvm_is_something_else() {
    refused_where("mount --bind /dev/null /dev/kvm", &["/dev/kvm is not KVM"]);
}

#[test]
fn hosts_whose_kvm_is_for_others() {
    let _alone = alone();
    let runs = scratch();
    std::fs::set_permissions(runs.path(), std::fs::Permissions::from_mode(0o777)).unwrap();
    let user = [
        "setpriv",
        "--reuid=65534",
        "--regid=65534",
        "--clear-groups",
    ];
    let script = "mount -t tmpfs none /mnt; mknod -m 600 /mnt/kvm c 10 232
        mount --bind /mnt/kvm /dev/kvm; exec \"$@\"";
    let vm = sound()
        .under(&user)
        .under(&["unshare", "--mount", "sh", "-ec", script, "sh"]);
    let output = vm.env("RUNCVM_RUN_DIR", runs.path()).run(["true"]);
    let message = output.refused();
    assert!(
        message.contains("/dev/kvm") && message.contains("permission"),
        "{message}"
    );
}

/// Such as one nested in a machine that has no nested virtualisation itself.
#[test]
fn hosts_whose_kvm_is_software() {
    let changes = "mount -t tmpfs none /mnt
        sed -E 's/ (svm|vmx)( |$)/ /g' /proc/cpuinfo >/mnt/cpuinfo
        mount --bind /mnt/cpuinfo /proc/cpuinfo";
    refused_where(changes, &["software KVM"]);
}

#[test]
fn installations_that_are_incomplete() {
    let _alone = alone();
    let prefix = scratch();
    let vm = sound().env("RUNCVM_HOME", prefix.path());
    refused(&vm, &[prefix.path().to_str().unwrap()]);
    let libexec = prefix.path().join("libexec");
    std::os::unix::fs::symlink(home().join("libexec"), libexec).unwrap();
    refused(&vm, &["kernel"]);
}

#[test]
fn run_directories() {
    let _alone = alone();
    let files = scratch();
    let file = files.path().join("file");
    std::fs::write(&file, "").unwrap();
    let long = files.path().join("x".repeat(100));
    for path in [file, long, Path::new("/proc/none").to_owned()] {
        let vm = sound().env("RUNCVM_RUN_DIR", &path);
        refused_by(|_| vm.run(["true"]), &[path.to_str().unwrap()]);
    }
}

/// An empty directory boots, but has nothing to run.
#[test]
fn a_root_filesystem_without_the_program_is_another_matter() {
    let _alone = alone();
    let empty = scratch();
    let output = Vm::new(&Rootfs::at(empty.path())).run(["/bin/sh"]);
    assert_eq!(output.status, 127, "{}", output.err());
    assert!(output.err().contains("/bin/sh"), "{}", output.err());
    assert_eq!(output.err().lines().count(), 1, "{}", output.err());
}
