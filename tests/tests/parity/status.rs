//! The exit status is the command's.

use runcvm_tests::{Case, Output, Rootfs};

use crate::pair;

#[test]
fn of_a_command_that_exits() {
    for status in [0, 1, 2, 3, 124, 125, 126, 127, 128, 129, 137, 143, 254, 255] {
        let output = pair().agrees(&Case::sh(&format!("exit {status}")));
        assert_eq!(output.status, status);
        assert_eq!(output.err(), "", "nothing is said about status {status}");
    }
}

#[test]
fn is_its_lowest_byte() {
    let output = pair().agrees(&Case::new(["perl", "-e", "exit 256 + 7"]));
    assert_eq!(output.status, 7);
}

#[test]
fn of_a_command_that_a_signal_killed() {
    for (signal, number) in [
        ("HUP", 1),
        ("INT", 2),
        ("QUIT", 3),
        ("ILL", 4),
        ("ABRT", 6),
        ("KILL", 9),
        ("USR1", 10),
        ("SEGV", 11),
        ("PIPE", 13),
        ("ALRM", 14),
        ("TERM", 15),
        ("SYS", 31),
    ] {
        let output = pair().agrees(&Case::new([
            "perl",
            "-e",
            &format!("kill {signal} => $$; sleep 9"),
        ]));
        assert_eq!(output.status, 128 + number, "SIG{signal}");
    }
    let output = pair().agrees(&Case::new(["perl", "-e", "kill 37 => $$; sleep 9"]));
    assert_eq!(output.status, 128 + 37, "SIGRTMIN+3");
}

#[test]
fn of_a_workload_that_exits() {
    let output = Case::sh("exit 255").agrees();
    assert_eq!((output.status, output.err().as_str()), (255, ""));
}

/// PID 1 of a namespace is not killed by its own signals, but by its own faults.
#[test]
fn of_a_workload_that_crashes() {
    let script = "$| = 1; kill KILL => $$; kill TERM => $$; print qq(alive\n);
        print unpack('P8', pack('Q', 1))";
    let output = Case::new(["perl", "-e", script]).agrees();
    assert_eq!(
        (output.out().as_str(), output.status),
        ("alive\n", 128 + 11)
    );
}

/// Docker makes these statuses of what its runtime says, which only fails.
#[track_caller]
fn fails_to_start(command: &[&str], cwd: &str, status: i32, said: &str) {
    let check = |output: &Output| {
        let message = output.err();
        assert_eq!(output.status, status, "{message}");
        assert!(message.contains(said), "{message}");
        assert_eq!(message.lines().count(), 1, "not one sentence: {message}");
        assert_eq!(output.out(), "");
    };
    let case = Case::new(command).cwd(cwd);
    assert_ne!(pair().container().exec(&case).status, 0);
    check(&case.exec_in_vm(pair().vm()).wait());
}

#[test]
fn is_127_for_a_command_that_is_not_there() {
    fails_to_start(&["no-such-program"], "/", 127, "\"no-such-program\"");
    fails_to_start(&["/no/such/program"], "/", 127, "\"/no/such/program\"");
    fails_to_start(&["/bin/ls/x"], "/", 127, "\"/bin/ls/x\"");
    fails_to_start(&["./ls"], "/", 127, "\"./ls\"");
    fails_to_start(&[""], "/", 127, "\"\"");
}

#[test]
fn is_126_for_a_command_that_cannot_be_executed() {
    fails_to_start(&["/etc/passwd"], "/", 126, "/etc/passwd");
    fails_to_start(&["/etc"], "/", 126, "/etc");
    fails_to_start(&["./passwd"], "/etc", 126, "./passwd");
}

#[test]
fn is_126_for_a_file_that_is_no_program() {
    pair().agrees(&Case::sh(
        "echo no program >/srv/text; chmod +x /srv/text; : >/srv/empty; chmod +x /srv/empty",
    ));
    fails_to_start(&["/srv/text"], "/", 126, "/srv/text");
    fails_to_start(&["/srv/empty"], "/", 126, "/srv/empty");
}

#[test]
fn of_a_workload_that_does_not_start() {
    for (program, status) in [("no-such-program", 127), ("/etc/passwd", 126)] {
        let case = Case::new([program]);
        let output = case.in_vm(&Rootfs::private());
        assert_ne!(case.in_runc(&Rootfs::private()).status, 0);
        assert_eq!(
            (output.status, output.out().as_str()),
            (status, ""),
            "{}",
            output.err()
        );
        assert!(output.err().contains(program), "{}", output.err());
        assert_eq!(
            output.err().lines().count(),
            1,
            "not one sentence: {}",
            output.err()
        );
    }
}
