//! The workload is PID 1 and sees only what it started.

use runcvm_tests::Case;

use crate::pair;

#[test]
fn the_workload_is_pid_1_of_all_it_sees() {
    let script = "echo $$ $PPID; ps -e -o ppid=,pgid=,sid=,tty=,comm=; ls /proc | grep -c '^[0-9]'
        ls /proc/$$/fd; cat /proc/$$/comm; id";
    let output = Case::sh(script).agrees();
    assert!(output.out().starts_with("1 0\n"), "{}", output.out());
    let expected = "\n3\n0\n1\n2\nsh\nuid=0(root) gid=0(root) groups=0(root)\n";
    assert!(output.out().ends_with(expected), "{}", output.out());
}

#[test]
fn a_command_sees_the_workload() {
    let output = pair().agrees(&Case::new(["cat", "/proc/1/comm", "/proc/1/cmdline"]));
    assert_eq!(output.out(), "cat\ncat\0");
}

#[test]
fn a_command_leads_a_session_and_has_no_parent() {
    let script = "set -- $(ps -o pid=,ppid=,pgid=,sid=,tty= -p $$)
        echo $(($1 == $$)) $2 $(($3 == $$)) $(($4 == $$)) $5";
    assert_eq!(
        pair().agrees(&Case::sh(script)).succeeded().out(),
        "1 0 1 1 ?\n"
    );
}

#[test]
fn a_command_can_signal_another() {
    let output = pair().agrees(&Case::sh(
        "exec 2>/dev/null; sleep 60 & kill $!; wait $!; echo $?",
    ));
    assert_eq!(output.out(), "143\n");
}

/// Orphans become children of PID 1, which has to reap them: a shell does.
#[test]
fn orphans_are_the_workload_s() {
    let script = "(sleep 60 & echo $!) >/tmp/pid; read pid </tmp/pid
        ps -o ppid= -p $pid; kill $pid; sleep 1; /bin/true; ps -e -o stat= | grep -c Z";
    let output = Case::sh(script).agrees();
    assert_eq!(
        output.out().split_whitespace().collect::<Vec<_>>(),
        ["1", "0"]
    );
}

#[test]
fn orphans_of_a_command_are_the_workload_s_too() {
    let script = "(sleep 60 >/dev/null 2>&1 & echo $!) >/tmp/pid; read pid </tmp/pid
        ps -o ppid= -p $pid; kill $pid";
    let output = pair().agrees(&Case::sh(script));
    assert_eq!(output.out().trim(), "1");
}

/// Limits that a machine's kernel and a host's service manager set each in their own way, of
/// processes and soft of open files, are checked but not compared.
#[test]
fn limits_are_ordinary() {
    let script = "for limit in Hn Ss Hs Sd Sf St Sv; do echo $limit $(ulimit -$limit); done
        test $(ulimit -Sn) -ge 1024 || echo few files
        test $(ulimit -u) = unlimited || test $(ulimit -u) -ge 1024 || echo few processes";
    let case = Case::new(["bash", "-c", script]);
    for output in [
        pair().agrees(&case),
        pair().agrees(&case.clone().user("user")),
    ] {
        assert!(
            output.out().starts_with("Hn 1048576\nSs 8192\n"),
            "{}",
            output.out()
        );
        assert!(!output.out().contains("few"), "{}", output.out());
    }
}

#[test]
fn the_scheduler_treats_them_as_any() {
    let output = pair().agrees(&Case::sh(
        "nice; cat /proc/self/oom_score_adj; ps -o cls=,ni= -p $$",
    ));
    assert!(output.out().starts_with("0\n0\n"), "{}", output.out());
}

#[test]
fn new_files_are_the_owner_s_to_write() {
    let output = pair().agrees(&Case::sh(
        "umask; cd /srv; rm -rf u; mkdir u; touch u/f; stat -c %a u u/f",
    ));
    assert_eq!(output.out(), "0022\n755\n644\n");
}

#[test]
fn the_hostname_is_the_one_that_was_asked_for() {
    let output = pair().agrees(&Case::sh(
        "uname -n; cat /proc/sys/kernel/hostname; hostname 2>/dev/null || uname -n",
    ));
    assert_eq!(output.out(), "box\nbox\nbox\n");
}
