//! stdin arrives byte by byte, and ends when it ends.

use runcvm_tests::Case;

use crate::pair;

const MIB: usize = 1 << 20;

/// Bytes that no compression or repetition of blocks could pass for.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 0x2545_f491_u32;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 17;
        state ^= state << 5;
        state.to_le_bytes()[0]
    };
    (0..length).map(|_| next()).collect()
}

#[test]
fn is_empty_unless_given() {
    let output = pair().agrees(&Case::sh("cat; echo end"));
    assert_eq!(output.out(), "end\n");
}

#[test]
fn may_be_given_and_empty() {
    let output = pair().agrees(&Case::sh("cat; echo end").feed(""));
    assert_eq!(output.out(), "end\n");
}

#[test]
fn carries_every_byte() {
    let bytes: Vec<u8> = (0..=255).collect();
    let output = pair().agrees(&Case::new(["cat"]).feed(&bytes));
    assert_eq!(output.stdout, bytes);
}

#[test]
fn may_be_large() {
    let bytes = noise(10 * MIB);
    let output = pair().agrees(&Case::sh("sha256sum; wc -c </dev/null").feed(&bytes));
    assert_eq!(output.status, 0);
    let output = pair().agrees(&Case::new(["cat"]).feed(&bytes));
    assert!(
        output.stdout == bytes,
        "{} bytes came back",
        output.stdout.len()
    );
}

#[test]
fn of_the_workload_may_be_large() {
    let output = Case::sh("cat | sha256sum; cat; echo end")
        .feed(noise(4 * MIB))
        .agrees();
    assert!(output.out().ends_with("-\nend\n"), "{}", output.out());
}

#[test]
fn need_not_be_read() {
    let output = pair().agrees(&Case::sh("exit 3").feed(noise(MIB)));
    assert_eq!(output.status, 3);
}

#[test]
fn need_not_be_read_to_its_end() {
    let output = pair().agrees(&Case::sh("head -c 5; exit 4").feed("0123456789".repeat(MIB / 10)));
    assert_eq!((output.out().as_str(), output.status), ("01234", 4));
}

#[test]
fn is_shared_by_what_reads_it_in_turn() {
    let case = Case::sh("read a; read b; echo \"$b $a\"; head -c 3; echo; cat")
        .feed("one\ntwo\nthree\nfour");
    let output = pair().agrees(&case);
    assert!(
        output.out().starts_with("two one\nthr\n"),
        "{}",
        output.out()
    );
}

#[test]
fn may_be_closed_by_the_command() {
    let case = Case::sh("exec <&-; cat; echo $?");
    let output = pair().agrees(&case);
    assert_eq!(output.out(), "1\n");
    // runc, which writes into the closed pipe then, hands its own SIGPIPE on to the command.
    let fed = case.feed(noise(MIB)).exec_in_vm(pair().vm()).wait();
    assert_eq!(fed, output);
}

#[test]
fn need_not_end_for_the_command_to() {
    let case = Case::sh("echo done; exit 6").stdin();
    let output = pair().agrees(&case);
    assert_eq!(output.status, 6);
    let output = case.agrees();
    assert_eq!((output.out().as_str(), output.status), ("done\n", 6));
}

#[test]
fn ends_when_it_is_closed_and_not_before() {
    let case =
        Case::sh("while read -r line; do printf '<%s>\\n' \"$line\"; done; echo end").stdin();
    pair().agrees_while(&case, |command| {
        command.write("a\n");
        command.wait_for("<a>\n");
        command.write(" b\\");
        command.write("c\n");
        command.wait_for("<b\\c>\n");
        assert!(!command.stdout().ends_with(b"end\n"));
        command.close_stdin();
        command.wait_for("end\n");
    });
}

#[test]
fn can_be_opened_by_name() {
    for user in ["", "user"] {
        for name in ["/dev/stdin", "/dev/fd/0", "/proc/self/fd/0"] {
            let output = pair().agrees(&Case::new(["cat", name]).user(user).feed("fed"));
            assert_eq!(output.out(), "fed", "{name} as {user:?}");
        }
    }
}

#[test]
fn passes_through_a_pipeline() {
    let case = Case::sh("tr a-z A-Z | sort -r | head -n 2").feed("b\na\nc\n");
    assert_eq!(pair().agrees(&case).succeeded().out(), "C\nB\n");
}
