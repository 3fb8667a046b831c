use super::*;

const PASSWD: &[u8] = b"root:x:0:0:root:/root:/bin/sh\n\
    # a comment\n\
    daemon:x:1:1::/usr/sbin:/usr/sbin/nologin\n\
    \n\
    broken line\n\
    alice:x:1000:1001:Alice,,,:/home/alice:/bin/sh\n\
    1234:x:2000:2000::/home/digits:/bin/sh\n\
    homeless:x:1500:1500:::\n\
    short:x:1600:1600\n";

const GROUP: &[u8] = b"root:x:0:\n\
    users:x:100:alice,root\n\
    alice:x:1001:\n\
    wheel:x:10:root,alice\n\
    primary:x:1001:alice\n\
    bad:x:nan:alice\n";

fn resolve(spec: &str) -> Result<User, String> {
    resolve_in(spec.as_bytes(), PASSWD, GROUP).map_err(|e| e.to_string())
}

fn user(uid: u32, gid: u32, groups: &[u32], home: &str) -> Result<User, String> {
    Ok(User {
        uid,
        gid,
        groups: groups.to_vec(),
        home: home.into(),
    })
}

#[test]
fn users_are_found_by_name_and_number() {
    let cases = [
        ("", user(0, 0, &[0, 100, 10], "/root")),
        ("root", user(0, 0, &[0, 100, 10], "/root")),
        ("0", user(0, 0, &[0, 100, 10], "/root")),
        ("alice", user(1000, 1001, &[1001, 100, 10], "/home/alice")),
        ("1000", user(1000, 1001, &[1001, 100, 10], "/home/alice")),
        ("daemon", user(1, 1, &[1], "/usr/sbin")),
        // A name of digits goes before the number, as it comes first in the file.
        ("1234", user(2000, 2000, &[2000], "/home/digits")),
        ("homeless", user(1500, 1500, &[1500], "/")),
        ("short", user(1600, 1600, &[1600], "/")),
        ("4321", user(4321, 0, &[0], "/")),
        ("2147483647", user(2147483647, 0, &[0], "/")),
    ];
    for (spec, expected) in cases {
        assert_eq!(resolve(spec), expected, "{spec}");
    }
}

#[test]
fn a_group_that_is_given_is_the_only_one() {
    let cases = [
        ("alice:users", user(1000, 100, &[100], "/home/alice")),
        ("alice:10", user(1000, 10, &[10], "/home/alice")),
        ("alice:4242", user(1000, 4242, &[4242], "/home/alice")),
        (":users", user(0, 100, &[100], "/root")),
        ("77:88", user(77, 88, &[88], "/")),
        ("alice:", user(1000, 1001, &[1001, 100, 10], "/home/alice")),
    ];
    for (spec, expected) in cases {
        assert_eq!(resolve(spec), expected, "{spec}");
    }
}

#[test]
fn what_is_unknown_is_named() {
    let cases = [
        (
            "bob",
            "unable to find user bob: no matching entries in passwd file",
        ),
        (
            "broken line",
            "unable to find user broken line: no matching entries in passwd file",
        ),
        (
            "alice:nogroup",
            "unable to find group nogroup: no matching entries in group file",
        ),
        (
            "alice:bad",
            "unable to find group bad: no matching entries in group file",
        ),
        (
            "-1",
            "-1 is not between 0 and 2147483647, as user and group IDs are",
        ),
        (
            "2147483648",
            "2147483648 is not between 0 and 2147483647, as user and group IDs are",
        ),
        (
            "0:99999999999999999999",
            "99999999999999999999 is not between 0 and 2147483647, as user and group IDs are",
        ),
    ];
    for (spec, expected) in cases {
        assert_eq!(resolve(spec), Err(expected.to_owned()), "{spec}");
    }
}

#[test]
fn without_databases_there_are_numbers_and_root() {
    let resolve = |spec: &[u8]| resolve_in(spec, b"", b"").map_err(|e| e.to_string());
    assert_eq!(resolve(b""), user(0, 0, &[0], "/"));
    assert_eq!(resolve(b"5:6"), user(5, 6, &[6], "/"));
    resolve(b"root").unwrap_err();
}

#[test]
fn databases_are_read_in_the_root_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("etc")).unwrap();
    std::fs::write(dir.path().join("etc/real"), "eve:x:7:8::/eve:\n").unwrap();
    std::os::unix::fs::symlink("/etc/real", dir.path().join("etc/passwd")).unwrap();
    // A FIFO must neither block nor pass for a file.
    let fifo = dir.path().join("etc/group");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let root = RootDir::new(dir.path()).unwrap();
    let error = super::resolve(b"eve", &root).unwrap_err();
    assert_eq!(error.to_string(), "cannot read /etc/group");
    std::fs::remove_file(&fifo).unwrap();
    assert_eq!(super::resolve(b"eve", &root).unwrap().uid, 7);
    std::os::unix::fs::symlink("/etc/group", &fifo).unwrap();
    assert_eq!(super::resolve(b"eve", &root).unwrap().gid, 8);
}
