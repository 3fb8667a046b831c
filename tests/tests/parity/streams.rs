//! stdout and stderr are two streams, complete and byte by byte.

use runcvm_tests::Case;

use crate::pair;

/// Writes 10 MiB of numbers, each only once, beginning at `$1`.
const TEN_MIB: &str = "ten() { perl -e '
    for ($n = $ARGV[0] << 24; $n < ($ARGV[0] << 24) + 2621440; $n += 16384) {
        print pack(\"N*\", $n .. $n + 16383)
    }' $1; }";

#[test]
fn are_separate() {
    let output = pair().agrees(&Case::sh(
        "echo out; echo err >&2; echo more; echo worse >&2",
    ));
    assert_eq!(output.out(), "out\nmore\n");
    assert_eq!(output.err(), "err\nworse\n");
}

#[test]
fn may_be_empty_or_end_without_a_newline() {
    let output = pair().agrees(&Case::sh("printf out; printf err >&2"));
    assert_eq!(
        (output.out().as_str(), output.err().as_str()),
        ("out", "err")
    );
    let output = pair().agrees(&Case::sh(":"));
    assert_eq!((output.out().as_str(), output.err().as_str()), ("", ""));
    let output = pair().agrees(&Case::sh("printf '\\n\\n\\n'; printf '\\n' >&2"));
    assert_eq!(
        (output.out().as_str(), output.err().as_str()),
        ("\n\n\n", "\n")
    );
}

#[test]
fn carry_every_byte() {
    let script = "print pack('C*', 0..255) x 3; print STDERR pack('C*', reverse 0..255)";
    let output = pair().agrees(&Case::new(["perl", "-e", script]));
    let all: Vec<u8> = (0..=255).collect();
    assert_eq!(output.stdout, all.repeat(3));
    assert_eq!(output.stderr.len(), 256);
}

#[test]
fn are_not_translated() {
    let output = pair().agrees(&Case::new(["printf", "a\\nb\\r\\nc\\r\\t\\033[0m\\f"]));
    assert_eq!(output.out(), "a\nb\r\nc\r\t\u{1b}[0m\u{c}");
}

#[test]
fn carry_ten_mebibytes() {
    let output = pair().agrees(&Case::sh(&format!("{TEN_MIB}; ten 1")));
    assert_eq!((output.stdout.len(), output.stderr.len()), (10 << 20, 0));
    let output = pair().agrees(&Case::sh(&format!("{TEN_MIB}; ten 2 >&2")));
    assert_eq!((output.stdout.len(), output.stderr.len()), (0, 10 << 20));
}

#[test]
fn carry_ten_mebibytes_both_at_once() {
    let script = format!("{TEN_MIB}; ten 1 & ten 2 >&2 & wait");
    let output = pair().agrees(&Case::sh(&script));
    assert_eq!(
        (output.stdout.len(), output.stderr.len()),
        (10 << 20, 10 << 20)
    );
}

/// The machine goes down after it: nothing of it may be lost with that.
#[test]
fn of_the_workload_are_complete_at_its_end() {
    let script = format!("{TEN_MIB}; ten 2 >&2 & ten 1; wait; printf end; printf END >&2; exit 9");
    let output = Case::sh(&script).agrees();
    assert!(output.stdout.ends_with(b"end") && output.stderr.ends_with(b"END"));
    assert_eq!(
        (output.stdout.len(), output.stderr.len()),
        ((10 << 20) + 3, (10 << 20) + 3)
    );
    assert_eq!(output.status, 9);
}

#[test]
fn may_be_closed_by_the_command() {
    let output = pair().agrees(&Case::sh("exec >&-; echo still >&2; exec 2>&-; exit 4"));
    assert_eq!(
        (output.out().as_str(), output.err().as_str(), output.status),
        ("", "still\n", 4)
    );
    let output = pair().agrees(&Case::sh("exec 2>&-; echo still"));
    assert_eq!(output.out(), "still\n");
}

#[test]
fn can_be_opened_by_name() {
    for user in ["", "user"] {
        let script = "echo out >/dev/stdout; echo err >/dev/stderr
            echo fd >/dev/fd/1; echo proc >/proc/self/fd/2";
        let output = pair().agrees(&Case::sh(script).user(user));
        assert_eq!(
            (output.out().as_str(), output.err().as_str()),
            ("out\nfd\n", "err\nproc\n")
        );
    }
}

#[test]
fn arrive_while_the_command_runs() {
    let case = Case::sh("echo first; read line; echo \"then $line\"").stdin();
    pair().agrees_while(&case, |command| {
        command.wait_for("first\n");
        command.write("typed\n");
        command.wait_for("then typed\n");
    });
}

/// What a command leaves running belongs to its output, until it too is gone.
#[test]
fn stay_open_for_what_the_command_started() {
    let output = pair().agrees(&Case::sh(
        "(sleep 0.5; echo late; echo later >&2) & echo early",
    ));
    assert_eq!(
        (output.out().as_str(), output.err().as_str()),
        ("early\nlate\n", "later\n")
    );
}

/// With PID 1 everything ends, so nothing holds its streams.
#[test]
fn of_the_workload_end_with_it() {
    let output = Case::sh("(sleep 60; echo late) & sleep 60 & echo early; exit 5").agrees();
    assert_eq!((output.out().as_str(), output.status), ("early\n", 5));
}

#[test]
fn are_the_only_open_files() {
    let output = pair().agrees(&Case::sh("ls /proc/$$/fd; exit"));
    assert_eq!(
        output.out().split_whitespace().count(),
        3,
        "{}",
        output.out()
    );
}
