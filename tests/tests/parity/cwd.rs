//! The working directory.

use runcvm_tests::Case;

use crate::pair;

fn pwd() -> Case {
    Case::new(["pwd", "-P"])
}

#[test]
fn is_the_root_unless_asked_otherwise() {
    assert_eq!(pair().agrees(&pwd()).succeeded().out(), "/\n");
}

#[test]
fn is_what_was_asked_for() {
    for cwd in ["/usr/share", "/usr/share/", "//usr/./share/../share"] {
        assert_eq!(
            pair().agrees(&pwd().cwd(cwd)).succeeded().out(),
            "/usr/share\n",
            "{cwd}"
        );
    }
}

#[test]
fn follows_symbolic_links_of_the_root_filesystem() {
    pair().agrees(&Case::sh(
        "mkdir -p /srv/real && ln -sfn /srv/real /srv/absolute && ln -sfn real /srv/relative",
    ));
    for cwd in ["/srv/absolute", "/srv/relative"] {
        assert_eq!(
            pair().agrees(&pwd().cwd(cwd)).succeeded().out(),
            "/srv/real\n",
            "{cwd}"
        );
    }
}

#[test]
fn may_have_spaces_newlines_and_any_letters() {
    let odd = "/srv/a b\n日本 '\"$HOME";
    pair().agrees(&Case::new(["mkdir", "-p", odd]));
    assert_eq!(
        pair().agrees(&pwd().cwd(odd)).succeeded().out(),
        format!("{odd}\n")
    );
}

#[test]
fn may_be_one_that_only_root_can_enter() {
    let output = pair().agrees(&Case::sh("pwd -P; ls").cwd("/root").user("user"));
    assert_eq!(output.out(), "/root\n");
}

#[test]
fn is_where_relative_programs_are() {
    pair().agrees(&Case::sh(
        "mkdir -p /srv/bin; printf '#!/bin/sh\\npwd' >/srv/bin/here; chmod +x /srv/bin/here",
    ));
    assert_eq!(
        pair()
            .agrees(&Case::new(["./bin/here"]).cwd("/srv"))
            .succeeded()
            .out(),
        "/srv\n"
    );
}

#[test]
fn is_made_if_it_is_not_there() {
    let output = Case::sh("pwd -P; stat -c '%a %U %G' . ..; touch file")
        .cwd("/new/deep")
        .agrees();
    assert_eq!(output.out(), "/new/deep\n755 root root\n755 root root\n");
}

#[test]
fn is_root_s_if_it_had_to_be_made() {
    let case = Case::sh("stat -c '%a %U' .; touch file")
        .cwd("/new")
        .user("user");
    assert_eq!(case.agrees().out(), "755 root\n");
}
