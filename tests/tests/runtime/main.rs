//! Containers made by runcvm-runtime, without docker: what the shim does with it.

mod disks;
mod kernels;
mod networks;
mod options;
mod verbs;

use std::fs;
use std::io::{Read, Write};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant};

use runcvm_tests::{Bundle, Case, Rootfs, RunningContainer, scratch};

/// A container whose workload runs until its stdin ends.
fn start(bundle: impl FnOnce(Bundle) -> Bundle) -> RunningContainer {
    start_case(&Case::sh("echo ready; exec cat"), bundle)
}

fn start_case(case: &Case, bundle: impl FnOnce(Bundle) -> Bundle) -> RunningContainer {
    start_over(case, &Rootfs::private(), bundle)
}

fn start_over(
    case: &Case,
    rootfs: &Rootfs,
    bundle: impl FnOnce(Bundle) -> Bundle,
) -> RunningContainer {
    let container = bundle(Bundle::over(&case.clone().stdin(), rootfs)).start();
    container.wait_for("ready\n");
    container
}

/// What a script of the shell in it writes; it must succeed.
#[track_caller]
fn sh(container: &RunningContainer, script: &str) -> String {
    container.exec(&Case::sh(script)).succeeded().out()
}

/// The same, beside the machine.
#[track_caller]
fn beside(container: &RunningContainer, script: &str) -> String {
    let case = Case::new(["---", "sh", "-c", script]);
    container.exec(&case).succeeded().out()
}

#[test]
fn streams_and_status_are_as_under_runc() {
    let case = Case::sh("echo out; echo err >&2; id; pwd; exit 3")
        .user("user")
        .cwd("/tmp/new");
    let bundle = Bundle::new(&case);
    let (runc, ours) = (bundle.run_by_runc(), bundle.run());
    assert_eq!(ours, runc);
    assert_eq!(ours.status, 3);
}

#[test]
fn a_container_tells_where_its_time_went() {
    let case = Case::sh("echo out; echo err >&2; exit 3").env("RUNCVM_TIMINGS", "1");
    let output = Bundle::new(&case).run();
    assert_eq!((output.out().as_str(), output.status), ("out\n", 3));
    let err = output.err();
    let (before, json) = err.split_once("runcvm: timings: ").expect(&err);
    assert_eq!(before, "err\n");
    let timings: serde_json::Value = serde_json::from_str(json).expect(json);
    let mut last = 0;
    for phase in [
        "start",
        "launch",
        "spawned",
        "kvm_ready",
        "first_entry",
        "kernel",
        "init",
        "command",
        "exit",
        "gone",
    ] {
        let at = timings[phase]
            .as_u64()
            .unwrap_or_else(|| panic!("{phase}: {json}"));
        assert!(at >= last, "{phase} came before its predecessor: {json}");
        last = at;
    }
}

#[test]
fn further_processes_have_their_streams_user_and_status() {
    let container = start(|bundle| bundle);
    let output = container.exec(
        &Case::sh("cat; id -un; pwd; echo err >&2; exit 9")
            .user("user")
            .cwd("/usr")
            .feed("typed\n"),
    );
    assert_eq!(output.out(), "typed\nuser\n/usr\n");
    assert_eq!((output.err().as_str(), output.status), ("err\n", 9));
    let output = container.exec(&Case::new(["no-such-program"]));
    assert_eq!(output.status, 127, "{}", output.err());
    assert!(output.err().contains("no-such-program"), "{}", output.err());
    assert_eq!(container.exec(&Case::new(["/etc"])).status, 126);
    assert_eq!(container.exec(&Case::sh("kill -9 $$")).status, 137);

    let terminal = container.start_exec(&Case::sh("stty size; read x; stty size").terminal(30, 90));
    // runc, which relays the terminal here, translates ends of lines once more.
    terminal.wait_for("30 90\r");
    terminal.resize(40, 100);
    std::thread::sleep(Duration::from_secs(1));
    terminal.write("x\r");
    terminal.wait_for("40 100\r");
    assert_eq!(terminal.wait().status, 0);

    container.close_stdin();
    assert_eq!(container.wait().succeeded().out(), "ready\n");
}

#[test]
fn all_signals_reach_the_workload() {
    // Those that a shell can catch.
    let numbers =
        "1 2 3 5 6 7 8 10 11 12 13 14 15 16 18 20 21 22 23 24 25 26 27 28 29 30 31 34 37 50 64";
    let script = format!(
        "use POSIX; $| = 1; \
         for my $n (qw({numbers})) {{ \
           POSIX::sigaction($n, POSIX::SigAction->new(sub {{ print \"got $n\\n\" }}, POSIX::SigSet->new, 0x10000000)); }} \
         print \"ready\\n\"; sleep 100 while 1;"
    );
    let case = Case::new(["perl", "-e", &script]);
    let container = start_case(&case, |bundle| bundle);
    for number in numbers.split(' ') {
        container.verb(&["kill"], &[number]).succeeded();
        container.wait_for(format!("got {number}\n"));
    }
    container.verb(&["kill"], &["KILL"]).succeeded();
    assert_eq!(container.wait().status, 137);
}

#[test]
fn a_stopped_container_ends_with_its_process() {
    let case = Case::sh("trap 'echo bye; exit 5' TERM; echo ready; while :; do sleep 0.1; done");
    let container = start_case(&case, |bundle| bundle);
    container.verb(&["kill"], &["TERM"]).succeeded();
    let output = container.wait();
    assert_eq!((output.out().as_str(), output.status), ("ready\nbye\n", 5));
}

#[test]
fn state_pause_resume_and_delete() {
    let container = start(|bundle| bundle);
    let state = |wanted: &str| {
        let state = container.verb(&["state"], &[]).succeeded().out();
        let state: serde_json::Value = serde_json::from_str(&state).unwrap();
        assert_eq!(state["status"], wanted);
    };
    state("running");
    container.verb(&["pause"], &[]).succeeded();
    state("paused");
    std::thread::sleep(Duration::from_secs(3));
    container.verb(&["resume"], &[]).succeeded();
    state("running");
    let now = sh(&container, "date +%s").trim().parse::<u64>().unwrap();
    let ours = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
    assert!(ours.as_secs().abs_diff(now) <= 2, "{now}");
    container.verb(&["delete", "--force"], &[]).succeeded();
    assert_eq!(container.wait().status, 137);
}

#[test]
fn volumes_are_the_hosts_and_nothing_else_is() {
    let dir = scratch();
    let path = |name: &str| dir.path().join(name);
    fs::create_dir_all(path("data/below")).unwrap();
    fs::write(path("data/file"), "one\n").unwrap();
    fs::write(path("hosts"), "10.0.0.1 somebody\n").unwrap();
    fs::create_dir(path("disks")).unwrap();
    fs::write(path("disks/secret"), "secret").unwrap();
    let container = start(|bundle| {
        bundle
            .bind(&path("data"), "/data", &["rw"])
            .bind(&path("data"), "/read/only", &["ro"])
            .bind(&path("hosts"), "/etc/hosts", &["rw"])
            .bind(&path("disks"), "/disks", &["rw"])
            .tmpfs("/mem", &["size=1m", "mode=1777", "nosuid"])
    });
    assert_eq!(
        sh(&container, "cat /data/file /etc/hosts"),
        "one\n10.0.0.1 somebody\n"
    );
    sh(
        &container,
        "echo two >/data/below/new; echo 1 x >/etc/hosts",
    );
    assert_eq!(fs::read_to_string(path("data/below/new")).unwrap(), "two\n");
    assert_eq!(fs::read_to_string(path("hosts")).unwrap(), "1 x\n");
    let output = container.exec(&Case::sh("echo x >/read/only/file"));
    assert!(
        output.err().contains("Read-only file system"),
        "{}",
        output.err()
    );
    fs::write(path("data/later"), "three\n").unwrap();
    assert_eq!(sh(&container, "cat /data/later"), "three\n");
    assert_eq!(
        sh(
            &container,
            "findmnt -rno FSTYPE,SIZE /mem; echo x >/mem/file; ls /disks"
        ),
        "tmpfs 1M\n"
    );
    assert!(!container.rootfs().path().join("mem/file").exists());

    // Beside the machine: the image's tree has the volumes alone.
    assert_eq!(beside(&container, "cat /disks/secret"), "secret");
    assert_eq!(
        beside(&container, "ls -A /vm/proc /vm/dev /vm/sys"),
        "/vm/dev:\n\n/vm/proc:\n\n/vm/sys:\n"
    );
    let mounts = beside(&container, "cut -d' ' -f2 /proc/mounts | grep ^/vm | sort");
    let mounts: Vec<_> = mounts.lines().filter(|m| !m.contains("modules")).collect();
    assert_eq!(
        mounts,
        ["/vm", "/vm/data", "/vm/etc/hosts", "/vm/read/only"]
    );
    for path in ["/x", "/opt/runcvm/x", "/opt/runcvm/kernels/x"] {
        let refused = beside(&container, &format!("touch {path} 2>&1 || true"));
        assert!(refused.contains("Read-only"), "{path}: {refused}");
    }
}

#[test]
fn our_processes_may_do_no_more_than_they_must() {
    let container = start(|bundle| bundle);
    let status = |name: &str, field: &str| {
        let script = format!(
            "for p in /proc/[0-9]*; do [ \"$(cat $p/comm)\" = {name} ] && grep {field}: $p/status; done; true"
        );
        let line = beside(&container, &script);
        line.split_once('\t').expect("it runs").1.trim().to_owned()
    };
    assert_eq!(status("runcvm-vmm", "Uid"), "65534\t65534\t65534\t65534");
    assert_eq!(status("runcvm-vmm", "CapPrm"), "0000000000000000");
    assert_eq!(status("runcvm-vmm", "Seccomp"), "2");
    assert_eq!(status("runcvm-runtime", "CapPrm"), "0000000000000020");
    assert_eq!(
        beside(&container, "ls -l /proc/1/exe | sed 's/.* //'"),
        "/opt/runcvm/bin/runcvm-runtime\n"
    );
    // What a further process leaves behind is not left for ever.
    beside(&container, "sh -c 'sleep 0.1 & exit' ; sleep 1");
    let zombies = beside(&container, "cat /proc/[0-9]*/stat | grep -c ') Z ' || true");
    assert_eq!(zombies, "0\n");
}

#[test]
fn a_read_only_root_has_writable_volumes() {
    let dir = scratch();
    let container = start(|bundle| {
        bundle
            .bind(dir.path(), "/srv/data", &["rw"])
            .tmpfs("/new/tmp", &[])
            .read_only()
    });
    sh(
        &container,
        "echo x >/srv/data/file; echo y >/new/tmp/file; echo z >/dev/shm/file",
    );
    assert_eq!(fs::read_to_string(dir.path().join("file")).unwrap(), "x\n");
    let output = container.exec(&Case::sh("echo x >/file"));
    assert!(
        output.err().contains("Read-only file system"),
        "{}",
        output.err()
    );
}

#[test]
fn sockets_of_the_host_can_be_connected_to() {
    let dir = scratch();
    let path = dir.path().join("service");
    let listener = UnixListener::bind(&path).unwrap();
    let service = std::thread::spawn(move || {
        for _ in 0..2 {
            let (mut stream, _) = listener.accept().unwrap();
            let mut question = String::new();
            stream.read_to_string(&mut question).unwrap();
            write!(stream, "answer to {question}").unwrap();
        }
    });
    let container = start(|bundle| bundle.bind(&path, "/run/service.sock", &["rw"]));
    for question in ["one", "two"] {
        let script = format!("printf {question} | socat -t 30 - UNIX-CONNECT:/run/service.sock");
        assert_eq!(sh(&container, &script), format!("answer to {question}"));
    }
    service.join().unwrap();
}

#[test]
fn no_image_leads_the_container_out() {
    let outside = scratch();
    let target = outside.path().to_str().unwrap();
    // Links at what is mounted or made.
    for place in ["srv", "mnt", "opt", "media"] {
        let rootfs = Rootfs::private();
        let link = rootfs.path().join(place);
        fs::remove_dir(&link).unwrap();
        symlink(format!("../../../../../../{target}"), &link).unwrap();
        let case = Case::sh("pwd; ls -A; echo x >file")
            .cwd(format!("/{place}/cwd"))
            .env(
                "RUNCVM_DISKS",
                format!("/{place}/disk,/{place}/dst,ext4,8M"),
            );
        let output = Bundle::over(&case, &rootfs)
            .tmpfs(&format!("/{place}/tmp"), &[])
            .run();
        assert_eq!(
            fs::read_dir(outside.path()).unwrap().count(),
            0,
            "{}",
            output.err()
        );
    }
    for place in ["dev", "proc", "sys"] {
        let rootfs = Rootfs::private();
        let link = rootfs.path().join(place);
        if fs::symlink_metadata(&link).is_ok() {
            fs::remove_dir_all(&link).unwrap();
        }
        symlink("/etc", &link).unwrap();
        let output = Bundle::over(&Case::new(["true"]), &rootfs).run();
        assert_ne!(output.status, 0, "/{place}");
        assert!(Path::new("/etc/passwd").exists());
    }
}

#[test]
fn the_end_of_any_process_of_ours_ends_the_container() {
    for name in ["runcvm-vmm", "virtiofsd", "runcvm-runtime"] {
        let container = start(|bundle| bundle);
        let init = container.verb(&["state"], &[]).succeeded().out();
        let init: serde_json::Value = serde_json::from_str(&init).unwrap();
        let init = init["pid"].as_u64().unwrap();
        let tree = fs::read_to_string(format!("/proc/{init}/task/{init}/children")).unwrap();
        let victim = tree
            .split_whitespace()
            .map(str::to_owned)
            .chain([init.to_string()])
            .find(|pid| {
                let comm = fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
                comm.trim() == name
            });
        let victim = victim
            .unwrap_or_else(|| panic!("no {name} runs"))
            .parse()
            .unwrap();
        let since = Instant::now();
        nix::sys::signal::kill(
            nix::unistd::Pid::from_raw(victim),
            nix::sys::signal::Signal::SIGKILL,
        )
        .unwrap();
        let output = container.wait();
        assert_ne!(output.status, 0, "{name}");
        assert!(since.elapsed() < Duration::from_secs(20), "{name}");
        assert!(!Path::new(&format!("/proc/{init}")).exists());
    }
}
