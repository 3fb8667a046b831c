//! Signals reach the command, which does with them what it would do anywhere.

use nix::sys::signal::Signal;
use runcvm_tests::{Case, Running};

use crate::pair;

const ALL: [(Signal, &str); 6] = [
    (Signal::SIGHUP, "HUP"),
    (Signal::SIGINT, "INT"),
    (Signal::SIGQUIT, "QUIT"),
    (Signal::SIGUSR1, "USR1"),
    (Signal::SIGUSR2, "USR2"),
    (Signal::SIGTERM, "TERM"),
];

/// A shell that names every signal it gets, until it gets SIGALRM.
const NAMES: &str = "for s in HUP INT QUIT USR1 USR2 TERM; do trap \"echo got $s\" $s; done
    trap 'echo bye; exit 7' ALRM; echo ready; while :; do sleep 0.1; done";

fn send_all(command: &Running) {
    command.wait_for("ready\n");
    for (signal, name) in ALL {
        command.signal(signal);
        command.wait_for(format!("got {name}\n"));
    }
    command.signal(Signal::SIGALRM);
}

#[test]
fn reach_the_workload() {
    let output = Case::sh(NAMES).agrees_while(send_all);
    assert_eq!(output.status, 7);
    assert!(
        output.out().ends_with("got TERM\nbye\n"),
        "{}",
        output.out()
    );
}

#[test]
fn reach_a_command() {
    let output = pair().agrees_while(&Case::sh(NAMES), send_all);
    assert_eq!(output.status, 7);
}

/// The kernel keeps from PID 1 what it has no handler for, as everywhere.
#[test]
fn do_nothing_to_a_workload_that_does_not_handle_them() {
    // A shell would not do: some handle SIGINT.
    let script = "$| = 1; print qq(ready\n); print 'survived ', scalar <STDIN>";
    let case = Case::new(["perl", "-e", script]).stdin();
    let output = case.agrees_while(|workload| {
        workload.wait_for("ready\n");
        for (signal, _) in ALL {
            workload.signal(signal);
        }
        std::thread::sleep(std::time::Duration::from_millis(500));
        workload.write("all\n");
    });
    assert_eq!(
        (output.out().as_str(), output.status),
        ("ready\nsurvived all\n", 0)
    );
}

#[test]
fn end_a_command_that_does_not_handle_them() {
    for (signal, name) in ALL {
        let output = pair().agrees_while(&Case::sh("echo ready; exec sleep 60"), |command| {
            command.wait_for("ready\n");
            // The shell has said so before it became what ends.
            std::thread::sleep(std::time::Duration::from_millis(200));
            command.signal(signal);
        });
        assert_eq!(output.status, 128 + signal as i32, "SIG{name}");
    }
}

#[test]
fn do_nothing_to_a_command_that_ignores_them() {
    let case = Case::sh("trap '' TERM INT HUP; echo ready; read line; echo survived").stdin();
    let output = pair().agrees_while(&case, |command| {
        command.wait_for("ready\n");
        for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
            command.signal(signal);
        }
        std::thread::sleep(std::time::Duration::from_millis(200));
        command.write("\n");
    });
    assert_eq!(output.out(), "ready\nsurvived\n");
}

#[test]
fn reach_the_command_s_own_process_alone() {
    let script = "trap 'echo child got it' TERM
        (trap 'echo grandchild got it' TERM; sleep 1) & echo ready; wait; wait";
    let output = pair().agrees_while(&Case::sh(script), |command| {
        command.wait_for("ready\n");
        command.signal(Signal::SIGTERM);
    });
    assert_eq!(output.out(), "ready\nchild got it\n");
}

/// But for the two that glibc keeps to itself, and ignores in what it spawns.
#[test]
fn are_neither_blocked_nor_ignored_at_first() {
    let script = "while read -r name mask; do case $name in SigBlk:|SigIgn:)
        echo $name $((0x$mask & ~0x180000000));; esac; done </proc/self/status";
    let case = Case::sh(script);
    assert_eq!(
        pair().agrees(&case).succeeded().out(),
        "SigBlk: 0\nSigIgn: 0\n"
    );
}

#[test]
fn of_a_broken_pipe_end_the_writer() {
    let output = pair().agrees(&Case::new([
        "bash",
        "-c",
        "yes | head -n 1; echo ${PIPESTATUS[0]}",
    ]));
    assert_eq!(output.out(), "y\n141\n");
}
