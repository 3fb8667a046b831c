//! Machines boot, run a command and end.

use runcvm_tests::{Case, Rootfs, Vm};

#[test]
fn a_directory_boots_and_runs_a_command() {
    let output = Vm::rootfs().run(["uname", "-s"]).succeeded();
    assert_eq!(output.out(), "Linux\n");
    assert_eq!(output.err(), "");
}

#[test]
fn it_has_a_kernel_of_its_own() {
    let output = Vm::rootfs()
        .run(["cat", "/proc/sys/kernel/random/boot_id"])
        .succeeded();
    let host = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap();
    assert_ne!(output.out(), host);
}

#[test]
fn streams_and_status_are_as_under_runc() {
    let output = Case::sh("echo out; echo err >&2; exit 3").agrees();
    assert_eq!(output.stdout, b"out\n");
    assert_eq!(output.stderr, b"err\n");
    assert_eq!(output.status, 3);
}

#[test]
fn the_guest_writes_to_the_directory() {
    let rootfs = Rootfs::private();
    Vm::new(&rootfs)
        .run(["sh", "-c", "echo written inside >/root/file"])
        .succeeded();
    assert_eq!(
        std::fs::read_to_string(rootfs.path().join("root/file")).unwrap(),
        "written inside\n"
    );
}

#[test]
fn commands_run_in_a_running_machine() {
    let vm = Vm::rootfs().stdin().start(["cat"]);
    vm.write("hello\n");
    vm.wait_for("hello\n");
    let output = vm
        .exec()
        .args(["-u", "user"])
        .run(["id", "-un"])
        .succeeded();
    assert_eq!(output.out(), "user\n");
    vm.close_stdin();
    assert_eq!(vm.wait().succeeded().out(), "hello\n");
}
