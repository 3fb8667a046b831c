//! Users and groups are those of the root filesystem.

use runcvm_tests::Case;

use crate::pair;

#[track_caller]
fn is(user: &str, expected: &str) {
    let output = pair().agrees(&Case::new(["id"]).user(user));
    assert_eq!(output.out(), format!("{expected}\n"), "{user:?}");
}

const USER: &str = "uid=1000(user) gid=1000(user) groups=1000(user),60(games),2000(crew)";

#[test]
fn by_name() {
    is("user", USER);
    is(
        "other",
        "uid=1001(other) gid=1001(other) groups=1001(other)",
    );
    is(
        "nobody",
        "uid=65534(nobody) gid=65534(nogroup) groups=65534(nogroup)",
    );
    is("root", "uid=0(root) gid=0(root) groups=0(root)");
}

#[test]
fn by_number() {
    is("1000", USER);
    is("0", "uid=0(root) gid=0(root) groups=0(root)");
}

#[test]
fn by_a_number_that_nobody_has() {
    is("4321", "uid=4321 gid=0(root) groups=0(root)");
    is("4321:8765", "uid=4321 gid=8765 groups=8765");
    is(
        "2147483647:2147483647",
        "uid=2147483647 gid=2147483647 groups=2147483647",
    );
}

#[test]
fn with_a_group_in_place_of_all_others() {
    is(
        "user:crew",
        "uid=1000(user) gid=2000(crew) groups=2000(crew)",
    );
    is("user:60", "uid=1000(user) gid=60(games) groups=60(games)");
    is(
        "1001:other",
        "uid=1001(other) gid=1001(other) groups=1001(other)",
    );
    is("0:crew", "uid=0(root) gid=2000(crew) groups=2000(crew)");
}

#[test]
fn real_effective_saved_and_filesystem_ids() {
    let case = Case::new(["grep", "-E", "^(Uid|Gid|Groups)", "/proc/self/status"]);
    let output = pair().agrees(&case.user("user"));
    assert!(
        output.out().contains("Uid:\t1000\t1000\t1000\t1000\n"),
        "{}",
        output.out()
    );
}

/// Root's capabilities are another matter: a machine has a kernel of its own, and need not
/// keep any from its root.
#[test]
fn an_ordinary_user_has_no_capabilities() {
    let case = Case::new([
        "grep",
        "-E",
        "^(CapInh|CapPrm|CapEff|CapAmb|NoNewPrivs)",
        "/proc/self/status",
    ]);
    let output = pair().agrees(&case.user("user"));
    assert!(
        output.out().contains("CapEff:\t0000000000000000\n"),
        "{}",
        output.out()
    );
}

#[test]
fn permissions_hold() {
    let script = "cat /etc/shadow; touch /file; echo mine >~/file && cat ~/file
        stat -c '%U %G %a' ~/file; ls /root";
    let output = pair().agrees(&Case::sh(script).user("user"));
    assert_eq!(output.out(), "mine\nuser user 644\n");
    let output = pair().agrees(&Case::sh(
        "touch /srv/roots && stat -c '%U %G %a' /srv/roots; wc -l </etc/shadow >/dev/null",
    ));
    assert_eq!(output.out(), "root root 644\n");
}

#[test]
fn set_user_id_programs_work() {
    pair().agrees(&Case::sh(
        "cp /usr/bin/id /usr/local/bin/suid-id; chmod 4755 /usr/local/bin/suid-id",
    ));
    let output = pair().agrees(&Case::new(["suid-id", "-u"]).user("user"));
    assert_eq!(output.out(), "0\n");
}

#[test]
fn the_workload_s_own() {
    let output = Case::sh("id; echo $HOME; umask; touch ~/file; stat -c '%U %a' ~/file /proc/1")
        .user("user")
        .agrees();
    assert_eq!(
        output.out(),
        format!("{USER}\n/home/user\n0022\nuser 644\nuser 555\n")
    );
}
