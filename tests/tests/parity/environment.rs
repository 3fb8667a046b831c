//! The environment arrives byte by byte, complete and with nothing added but `HOME`.

use std::ffi::OsString;
use std::os::unix::ffi::{OsStrExt, OsStringExt};

use runcvm_tests::{Case, Output};

use crate::pair;

/// A command that prints its environment as the kernel gave it.
fn show() -> Case {
    Case::new(["cat", "/proc/self/environ"])
}

fn value(output: &Output, name: &str) -> Option<Vec<u8>> {
    let prefix = format!("{name}=");
    let variables = output.stdout.split(|&byte| byte == 0);
    variables
        .filter_map(|variable| variable.strip_prefix(prefix.as_bytes()))
        .next_back()
        .map(<[u8]>::to_owned)
}

#[track_caller]
fn arrives(text: &str) {
    let output = pair().agrees(&show().env("ODD", text));
    assert_eq!(value(&output, "ODD").as_deref(), Some(text.as_bytes()));
}

#[test]
fn nothing_is_added_but_home() {
    let output = pair().agrees(&show());
    let path = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    assert_eq!(output.out(), format!("{path}\0HOSTNAME=box\0HOME=/root\0"));
}

#[test]
fn the_workload_s_own() {
    let output = show()
        .env("B", "2\n")
        .env("A", "")
        .env("日", "本 ")
        .agrees();
    assert!(
        output.out().contains("\0B=2\n\0A=\0日=本 \0"),
        "{}",
        output.out()
    );
}

#[test]
fn values_with_spaces_and_newlines() {
    arrives(" a  b\n\nc\t\r\n");
}

#[test]
fn values_with_quotes_and_equals_signs() {
    arrives("'\"`\\$HOME=a==b=");
}

#[test]
fn empty_values() {
    arrives("");
}

#[test]
fn utf8_values_and_names() {
    arrives("äöü 日本語 🦀 a\u{301}");
    pair().agrees(&show().env("größe", "1").env("日本", "2"));
}

#[test]
fn odd_names() {
    pair().agrees(
        &show()
            .env("1st", "a")
            .env("a.b-c", "b")
            .env("a b", "c")
            .env("lower", "d")
            .env("_", "e"),
    );
}

/// The configuration of a container is JSON, which cannot carry these.
#[test]
fn values_that_are_no_utf8() {
    let bytes: Vec<u8> = (1..=0xff).collect();
    let case = show().env("ODD", OsString::from_vec(bytes.clone()));
    let output = case.exec_in_vm(pair().vm()).wait().succeeded();
    assert_eq!(value(&output, "ODD"), Some(bytes));
}

#[test]
fn a_long_value() {
    arrives(&"0123456789\n".repeat(100 * 1024 / 11));
}

#[test]
fn many_variables() {
    let case = (0..2000).fold(show(), |case, n| {
        case.env(format!("VARIABLE_{n}"), format!("value {n}"))
    });
    let output = pair().agrees(&case);
    assert_eq!(
        value(&output, "VARIABLE_1999").as_deref(),
        Some("value 1999".as_bytes())
    );
}

#[test]
fn home_is_the_user_s() {
    for (user, home) in [
        ("", "/root"),
        ("user", "/home/user"),
        ("1001", "/home/other"),
        ("4321", "/"),
        ("0:1000", "/root"),
    ] {
        let output = pair().agrees(&show().user(user));
        assert_eq!(
            value(&output, "HOME").as_deref(),
            Some(home.as_bytes()),
            "{user:?}"
        );
    }
}

#[test]
fn home_can_be_chosen() {
    let output = pair().agrees(&show().env("HOME", "/else where").user("user"));
    assert_eq!(value(&output, "HOME").as_deref(), Some(&b"/else where"[..]));
}

#[test]
fn an_empty_home_is_none() {
    let output = pair().agrees(&show().env("HOME", "").user("user"));
    assert_eq!(value(&output, "HOME").as_deref(), Some(&b"/home/user"[..]));
}

#[test]
fn programs_are_found_by_the_path_that_was_given() {
    let script =
        "mkdir -p /tmp/own && printf '#!/bin/sh\necho own' >/tmp/own/ls && chmod +x /tmp/own/ls";
    pair().agrees(&Case::sh(script));
    let output = pair().agrees(&Case::new(["ls"]).env("PATH", "/nowhere:/tmp/own:/bin"));
    assert_eq!(output.out(), "own\n");
    let output = pair().agrees(&Case::new(["ls", "-d", "/tmp"]).env("PATH", "/bin:/tmp/own"));
    assert_eq!(output.out(), "/tmp\n");
    let bytes = value(&pair().agrees(&show().env("PATH", "/nowhere:/bin")), "PATH");
    assert_eq!(
        bytes.as_deref().map(OsStrExt::from_bytes),
        Some(std::ffi::OsStr::new("/nowhere:/bin"))
    );
}
