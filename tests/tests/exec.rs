//! Further commands in a running machine.

use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use runcvm_tests::{Case, Rootfs, Running, RunningVm, Vm, binary, home, vmm};

/// A hundred commands take their time in the lab.
const PATIENCE: Duration = Duration::from_secs(240);

/// A machine whose workload runs until its stdin ends.
fn machine() -> RunningVm {
    let vm = Vm::rootfs().timeout(PATIENCE).stdin();
    let vm = vm.start(["sh", "-c", "echo ready; cat"]);
    vm.wait_for("ready\n");
    vm
}

/// How many processes the workload's namespace has, but for those that count them.
fn processes(vm: &RunningVm) -> usize {
    let output = vm.exec().run(["sh", "-c", "ls /proc | grep -c '^[0-9]'"]);
    output.succeeded().out().trim().parse().unwrap()
}

#[test]
fn a_hundred_at_a_time_each_have_their_streams_and_status() {
    let vm = machine();
    let before = processes(&vm);
    let text = |n: usize| format!("input of {n}\n").repeat(n * 20);
    let script = "cat; echo \"errors of $1\" >&2; exit $1";
    let commands: Vec<Running> = (0..100)
        .map(|n| {
            let exec = vm.exec().timeout(PATIENCE).feed(text(n));
            exec.start(["sh", "-c", script, "sh", &n.to_string()])
        })
        .collect();
    for (n, command) in commands.into_iter().enumerate() {
        let output = command.wait();
        assert_eq!(output.err(), format!("errors of {n}\n"));
        assert_eq!(output.out(), text(n));
        assert_eq!(output.status, i32::try_from(n).unwrap());
    }
    assert_eq!(processes(&vm), before, "nothing stays behind");
    vm.close_stdin();
    assert_eq!(vm.wait().succeeded().out(), "ready\n");
}

#[test]
fn large_streams_do_not_hold_up_each_other() {
    let vm = machine();
    let megabytes = vec![b'x'; 2 << 20];
    // Nobody reads this one for a while: it must not matter to the others.
    let stuck = vm.exec().stdin().start(["sh", "-c", "sleep 60"]);
    stuck.write(vec![b'y'; 60_000]);
    let commands: Vec<Running> = (0..8)
        .map(|_| vm.exec().feed(&megabytes).start(["cat"]))
        .collect();
    for command in commands {
        assert!(command.wait().succeeded().stdout == megabytes);
    }
}

#[test]
fn terminals_are_their_own() {
    let vm = machine();
    let commands: Vec<Running> = (1..=5)
        .map(|n| {
            let command = vm.exec().terminal(10 * n, 20 * n).start([
                "sh",
                "-c",
                "stty size; tty; read line; echo \"<$line>\"",
            ]);
            (n, command)
        })
        .map(|(n, command)| {
            command.wait_for(format!("{} {}\r\n/dev/pts/", 10 * n, 20 * n));
            command
        })
        .collect();
    for (n, command) in commands.iter().enumerate() {
        command.write(format!("typed {n}\r"));
    }
    let mut names = Vec::new();
    for (n, command) in commands.into_iter().enumerate() {
        let output = command.wait().succeeded().out();
        assert!(output.ends_with(&format!("<typed {n}>\r\n")), "{output:?}");
        names.push(output.lines().nth(1).unwrap().to_owned());
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 5, "{names:?}");
}

#[test]
fn a_terminal_needs_no_terminal_here() {
    let vm = machine();
    let output = vm.exec().args(["-t"]).run([
        "sh",
        "-c",
        "test -t 0 && test -t 1 && test -t 2 && echo all",
    ]);
    assert_eq!(output.succeeded().out(), "all\r\n");
}

#[test]
fn can_be_asked_for_before_the_guest_booted() {
    let vm = Vm::rootfs().stdin().start(["cat"]);
    let deadline = Instant::now() + Duration::from_secs(60);
    while !vmm("list").run_bare().out().contains(vm.name()) {
        assert!(Instant::now() < deadline, "the machine is never listed");
    }
    let output = vm.exec().run(["sh", "-c", "cat /proc/1/comm; exit 3"]);
    assert_eq!(
        (output.out().as_str(), output.status),
        ("cat\n", 3),
        "{}",
        output.err()
    );
    vm.close_stdin();
    vm.wait().succeeded();
}

#[test]
fn a_machine_that_is_not_there_is_named() {
    for verb in ["exec", "stop", "kill", "pause", "resume", "status"] {
        let invocation = vmm(verb).args(["no-such-machine"]);
        let output = if verb == "exec" {
            invocation.run(["true"])
        } else {
            invocation.run_bare()
        };
        let message = output.refused();
        assert!(message.contains("\"no-such-machine\""), "{message}");
    }
    let vm = Vm::rootfs().start(["true"]);
    let exec = vm.exec();
    let name = vm.name().to_owned();
    vm.wait().succeeded();
    let message = exec.run(["true"]).refused();
    assert!(message.contains(&format!("\"{name}\"")), "{message}");
}

#[test]
fn the_workload_s_end_ends_them() {
    let vm = machine();
    let command = vm
        .exec()
        .start(["sh", "-c", "echo started; exec sleep 1000"]);
    command.wait_for("started\n");
    vm.close_stdin();
    vm.wait().succeeded();
    let output = command.wait();
    assert_eq!((output.out().as_str(), output.status), ("started\n", 137));
    assert!(output.err().lines().count() <= 1, "{}", output.err());
}

#[test]
fn the_machine_s_death_ends_them() {
    let vm = machine();
    let command = vm
        .exec()
        .start(["sh", "-c", "echo started; exec sleep 1000"]);
    command.wait_for("started\n");
    let killed = Instant::now();
    vm.signal(Signal::SIGKILL);
    let output = command.wait();
    assert!(killed.elapsed() < Duration::from_secs(30));
    assert_eq!((output.out().as_str(), output.status), ("started\n", 137));
    assert_eq!(output.err().lines().count(), 1, "{}", output.err());
}

#[test]
fn a_reader_that_leaves_ends_the_writer() {
    let vm = machine();
    let script = "\"$@\" | head -n 2; echo ${PIPESTATUS[0]}";
    let exec = [
        binary("runcvm-vmm").display().to_string(),
        "exec".into(),
        vm.name().into(),
        "--".into(),
        "yes".into(),
    ];
    let output = std::process::Command::new("bash")
        .args(["-c", script, "bash"])
        .args(exec)
        .env("RUNCVM_HOME", home())
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&output.stdout), "y\ny\n141\n");
}

#[test]
fn a_killed_client_disturbs_nobody() {
    let vm = machine();
    let script = "echo started; exec sleep 1000";
    for round in 0..20 {
        let command = vm.exec().start(["sh", "-c", script]);
        if round % 2 == 0 {
            command.wait_for("started\n");
        }
        command.signal(Signal::SIGKILL);
        assert_eq!(command.wait().status, 137);
    }
    let output = Case::sh("echo fine; exit 4").exec_in_vm(&vm).wait();
    assert_eq!((output.out().as_str(), output.status), ("fine\n", 4));
    vm.close_stdin();
    vm.wait().succeeded();
}

#[test]
fn they_share_files_and_processes_with_the_workload() {
    let rootfs = Rootfs::private();
    let vm = Vm::new(&rootfs)
        .args(["--tmpfs", "/scratch"])
        .stdin()
        .start([
            "sh",
            "-c",
            "echo ready; read name; cat /scratch/$name; sleep 0 & wait",
        ]);
    vm.wait_for("ready\n");
    let exec = |script: &str| vm.exec().run(["sh", "-c", script]).succeeded().out();
    exec("echo of a command >/scratch/file; echo on disk >/root/file");
    assert_eq!(
        std::fs::read_to_string(rootfs.path().join("root/file")).unwrap(),
        "on disk\n"
    );
    assert_eq!(
        exec("tr '\\0' ' ' </proc/1/cmdline | cut -c 1-5"),
        "sh -c\n"
    );
    assert_eq!(
        exec("readlink /proc/1/ns/pid"),
        exec("readlink /proc/self/ns/pid")
    );
    vm.write("file\n");
    assert_eq!(vm.wait().succeeded().out(), "ready\nof a command\n");
}
