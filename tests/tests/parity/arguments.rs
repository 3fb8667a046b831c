//! argv arrives byte by byte.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;

use runcvm_tests::{Case, Rootfs, Vm};

use crate::pair;

/// The longest string that Linux takes, without its zero (`MAX_ARG_STRLEN`).
const LONGEST: usize = 128 * 1024 - 1;

/// A command that shows each argument between angle brackets, followed by a newline.
fn show(arguments: &[&str]) -> Case {
    Case::new([&["/usr/bin/printf", "<%s>\\n"], arguments].concat())
}

#[track_caller]
fn arrive(arguments: &[&str]) {
    let output = pair().agrees(&show(arguments));
    let expected: String = arguments.iter().map(|a| format!("<{a}>\n")).collect();
    assert_eq!(output.out(), expected);
}

#[test]
fn spaces_tabs_and_newlines() {
    arrive(&[
        " ", "  a  b ", "\t", "\n", "\n\n", "a\nb\n", "\r\n", " \t\n",
    ]);
}

#[test]
fn quotes_and_backslashes() {
    arrive(&[
        "'", "\"", "`", "'\"'", "\\", "\\\\", "\\n", "a\\ b", "\"a b\"", "'a b'",
    ]);
}

#[test]
fn what_shells_expand() {
    arrive(&[
        "$HOME", "${PATH}", "$(id)", "`id`", "*", "/*", "~", "!", "a;b", "a|b", "a&b", "#", ">x",
    ]);
}

#[test]
fn empty_strings() {
    arrive(&[""]);
    arrive(&["", "a", "", "", "b", ""]);
}

#[test]
fn what_looks_like_options() {
    arrive(&["--", "-e", "-x", "--help", "-", "--name=x", "-it"]);
}

#[test]
fn utf8() {
    arrive(&[
        "äöüß",
        "日本語",
        "🦀",
        "a\u{301}",
        "\u{feff}",
        "\u{200b}",
        "\u{10ffff}",
    ]);
}

#[test]
fn control_characters() {
    let all: String = (1..=0x1f).chain([0x7f]).map(char::from).collect();
    arrive(&[&all, "\u{1b}[31m", "\u{4}"]);
}

/// The configuration of a container is JSON, which cannot carry these.
#[test]
fn bytes_that_are_no_utf8() {
    let argument = OsString::from_vec((1..=0xff).collect());
    let mut expected = argument.clone().into_vec();
    expected.extend(b"\xff\xfe");
    let case = Case::new([
        "/usr/bin/printf".into(),
        "%s".into(),
        argument,
        OsString::from_vec(vec![0xff, 0xfe]),
    ]);
    let output = case.exec_in_vm(pair().vm()).wait().succeeded();
    assert_eq!(output.stdout, expected);
}

#[test]
fn a_long_argument() {
    let output = pair().agrees(&show(&[&"0123456789 \n".repeat(100 * 1024 / 12)]));
    assert_eq!(output.stdout.len(), 100 * 1024 / 12 * 12 + 3);
    let longest = "x".repeat(LONGEST);
    let output = pair().agrees(&Case::new(["/bin/sh", "-c", "echo ${#1}", "sh", &longest]));
    assert_eq!(output.out(), format!("{LONGEST}\n"));
}

#[test]
fn many_arguments() {
    let numbers: Vec<_> = (0..5000).map(|n| format!("argument {n}")).collect();
    let numbers: Vec<_> = numbers.iter().map(String::as_str).collect();
    arrive(&numbers);
}

#[test]
fn the_command_is_called_as_it_was_asked_for() {
    for program in ["/usr/bin/head", "head", "../usr/bin/head"] {
        let case = Case::new([program, "-n", "1", "/proc/self/cmdline"]).cwd("/tmp");
        let output = pair().agrees(&case);
        assert_eq!(
            output.out(),
            format!("{program}\0-n\x001\0/proc/self/cmdline\0")
        );
    }
}

#[test]
fn the_workload_s_own() {
    let odd = [
        "",
        " a\n b ",
        "'\"$x`",
        "日本\u{1}",
        &"y".repeat(100 * 1024),
    ];
    let script = "cat /proc/$$/cmdline";
    let case = Case::new([&["/bin/sh", "-c", script, "--"], &odd[..]].concat());
    let output = case.agrees();
    assert!(output.stdout.ends_with(&[b'y', 0]), "{}", output.out());
}

#[test]
fn the_workload_s_own_bytes_that_are_no_utf8() {
    let argument = OsString::from_vec(b"\xff\xfe \x80".into());
    let output = Vm::new(&Rootfs::private())
        .run(["/usr/bin/printf".into(), "%s".into(), argument])
        .succeeded();
    assert_eq!(output.stdout, b"\xff\xfe \x80");
}
