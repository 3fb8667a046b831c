//! Verbs as a person types them, under both runtimes that can be below.

use std::time::Duration;

use runcvm_tests::{Bundle, Case, RunningContainer};

use super::{sh, start, start_case};

fn by_hand(
    container: &RunningContainer,
    options: &[&str],
    command: &[&str],
) -> runcvm_tests::Output {
    let verb: Vec<_> = ["exec"].iter().chain(options).copied().collect();
    container.verb(&verb, command)
}

#[test]
fn exec_by_arguments() {
    let container = start(|bundle| bundle);
    let output = by_hand(
        &container,
        &[
            "--env",
            "A=b c",
            "--cwd",
            "/usr",
            "--user",
            "1000:2000",
            "--additional-gids",
            "7",
        ],
        &[
            "sh",
            "-c",
            "echo \"$A\"; pwd; id -u; id -G; echo err >&2; exit 4",
        ],
    );
    // The container's own groups are kept, as runc does.
    assert_eq!(output.out(), "b c\n/usr\n1000\n2000 0 7\n");
    assert_eq!((output.err().as_str(), output.status), ("err\n", 4));
    let terminal = container.start_verb(
        &Case::new([""; 0]).terminal(33, 99),
        &["exec", "--tty"],
        &["sh", "-c", "tty; stty size; read x; echo got $x"],
    );
    terminal.wait_for("33 99\r");
    terminal.write("y\r");
    terminal.wait_for("got y");
    assert_eq!(terminal.wait().status, 0);
    let output = by_hand(
        &container,
        &["--detach"],
        &["sh", "-c", "sleep 1; echo x >/detached"],
    );
    assert_eq!(output.succeeded().out(), "");
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(sh(&container, "cat /detached"), "x\n");
    let refused = by_hand(&container, &[], &[]);
    assert!(
        refused.err().contains("command is missing"),
        "{}",
        refused.err()
    );
}

#[test]
fn run_has_a_terminal() {
    let case = Case::sh("tty; stty size; read x; stty size; echo got $x; exit 6").terminal(20, 70);
    let container = Bundle::new(&case).start();
    container.wait_for("/dev/pts/0\r");
    container.wait_for("20 70\r");
    container.resize(25, 75);
    std::thread::sleep(Duration::from_secs(1));
    container.write("line\r");
    container.wait_for("got line");
    let output = container.wait();
    assert_eq!(output.status, 6);
    assert!(output.out().contains("25 75"), "{}", output.out());
}

#[test]
fn crun_can_be_below_too() {
    let case = Case::sh("echo ready; cat; exit 5");
    let container = start_case(&case, |bundle| bundle.below("crun"));
    let output = container.exec(&Case::sh("cat; id -un; exit 9").user("user").feed("typed\n"));
    assert_eq!((output.out().as_str(), output.status), ("typed\nuser\n", 9));
    let output = by_hand(
        &container,
        &["--env", "A=b", "--cwd", "/usr"],
        &["sh", "-c", "echo $A; pwd"],
    );
    assert_eq!(output.succeeded().out(), "b\n/usr\n");
    let terminal = container.start_exec(&Case::sh("stty size; read x").terminal(30, 90));
    terminal.wait_for("30 90\r");
    terminal.write("\r");
    assert_eq!(terminal.wait().status, 0);
    let beside = Case::new(["---", "sh", "-c", "ls -d /vm"]);
    assert_eq!(container.exec(&beside).succeeded().out(), "/vm\n");
    let state = container.verb(&["state"], &[]).succeeded().out();
    assert!(state.contains("\"running\""), "{state}");
    container.verb(&["pause"], &[]).succeeded();
    container.verb(&["resume"], &[]).succeeded();
    assert_eq!(sh(&container, "echo on"), "on\n");
    container.close_stdin();
    let output = container.wait();
    assert_eq!((output.out().as_str(), output.status), ("ready\n", 5));

    let case = Case::sh("trap 'echo bye; exit 7' TERM; echo ready; while :; do sleep 0.1; done");
    let container = start_case(&case, |bundle| bundle.below("crun"));
    container.verb(&["kill"], &["TERM"]).succeeded();
    assert_eq!(container.wait().status, 7);
    let case = Case::sh("tty; echo out; exit 6").terminal(20, 70);
    let output = Bundle::new(&case).below("crun").run();
    assert!(output.out().contains("/dev/pts/0\r"), "{}", output.out());
    assert_eq!(output.status, 6);
}
