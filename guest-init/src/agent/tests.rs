//! The agent with real children, spoken to over Unix sockets in place of vsock.

mod guest;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use nix::sched::CloneFlags;
use runcvm_protocol::frame;
use runcvm_protocol::{
    ByteBuf, ExitStatus, Limit, Output, Process, ToGuest, ToHost, User, WINDOW, WindowSize,
};

use self::guest::{Client, Guest, PATIENCE, command, sh};
use crate::test_support::isolated;

fn guest_test(test: impl FnOnce()) {
    isolated(CloneFlags::CLONE_NEWNS | CloneFlags::CLONE_NEWPID, test);
}

#[test]
fn streams_and_status_are_exact() {
    guest_test(|| {
        let guest = Guest::idle();
        let seen = guest.run("printf 'a\\0b'; printf c >&2; exit 7");
        assert_eq!(seen.stdout, b"a\0b");
        assert_eq!(seen.stderr, b"c");
        assert_eq!(seen.code(), 7);
        assert!(seen.pid > Some(1));
        assert_eq!(
            guest.run("kill -TERM $$").end,
            Some(Ok(ExitStatus::Signal(15)))
        );
        assert_eq!(
            guest.run("kill -40 $$").end,
            Some(Ok(ExitStatus::Signal(40)))
        );
        assert_eq!(guest.run("exit 255").code(), 255);
    });
}

#[test]
fn the_workload_is_pid_1_and_its_end_is_the_end_of_all() {
    guest_test(|| {
        let mut guest = Guest::idle();
        let mut other = guest.exec(sh("echo there; trap '' TERM HUP INT; sleep 1000"));
        assert!(matches!(other.next(), Some(ToHost::Started { pid: 2.. })));
        guest.workload.send(&ToGuest::Signal(15));
        assert_eq!(guest.workload.follow().code(), 3);
        let last = other.last();
        assert_eq!(last, Some(ToHost::Exited(ExitStatus::Signal(9))));
    });
}

#[test]
fn processes_see_the_namespace_and_no_more() {
    guest_test(|| {
        let guest = Guest::idle();
        assert_eq!(guest.run("cat /proc/1/comm").stdout(), "sh\n");
        let seen = guest.exec(command(["readlink", "/proc/self"])).follow();
        assert_eq!(seen.stdout().trim().parse(), Ok(seen.pid.unwrap()));
        // It, the workload, and what the workload waits for.
        let seen = guest.run("set -- /proc/[0-9]*; echo $#");
        assert!(["2\n", "3\n"].contains(&seen.stdout()), "{}", seen.stdout());
    });
}

#[test]
fn a_workload_that_cannot_start_is_reported() {
    guest_test(|| {
        let mut guest = Guest::start(command(["/nonexistent"]));
        assert_eq!(guest.workload.follow().failure().0, 127);
    });
}

#[test]
fn a_workload_ends_with_all_its_output() {
    guest_test(|| {
        let mut guest = Guest::start(sh("head -c 3000000 /dev/zero; (sleep 1000; echo) & exit 9"));
        let seen = guest.workload.follow();
        assert_eq!((seen.stdout.len(), seen.code()), (3_000_000, 9));
    });
}

#[test]
fn much_input_comes_back_unchanged() {
    guest_test(|| {
        let guest = Guest::idle();
        let input: Vec<u8> = (0..3_000_000u32)
            .map(|i| (i.wrapping_mul(i) >> 7).to_le_bytes()[0])
            .collect();
        let mut process = command(["cat"]);
        process.stdin = true;
        let seen = guest.exec(process).follow_feeding(&input);
        assert_eq!(seen.code(), 0);
        assert!(
            seen.stdout == input,
            "{} bytes of {}",
            seen.stdout.len(),
            input.len()
        );
    });
}

#[test]
fn input_that_nobody_reads_is_consumed() {
    guest_test(|| {
        let guest = Guest::idle();
        let mut process = sh("exec <&-; sleep 0.3; echo done");
        process.stdin = true;
        let seen = guest.exec(process).follow_feeding(&vec![b'x'; 1_000_000]);
        assert_eq!((seen.stdout(), seen.code()), ("done\n", 0));
    });
}

#[test]
fn without_stdin_there_is_its_end() {
    guest_test(|| {
        let guest = Guest::idle();
        assert_eq!(
            guest.run("cat; readlink /proc/self/fd/0").stdout(),
            "/dev/null\n"
        );
    });
}

#[test]
fn a_host_that_sends_more_than_a_window_is_cut_off() {
    guest_test(|| {
        let guest = Guest::idle();
        let mut process = command(["sleep", "1000"]);
        process.stdin = true;
        let mut client = guest.exec(process);
        for _ in 0..10 {
            let message = frame::encode(&ToGuest::Stdin(vec![0; 60_000])).unwrap();
            if client.stream.write_all(&message).is_err() {
                break;
            }
        }
        let mut rest = Vec::new();
        // Cut off with bytes unread, the stream may end in an error.
        let _ = client.stream.read_to_end(&mut rest);
        assert_eq!(guest.run("echo fine").stdout(), "fine\n");
    });
}

#[test]
fn a_stream_that_the_host_closes_is_closed_to_the_process() {
    guest_test(|| {
        let guest = Guest::idle();
        let mut client = guest.exec(sh("trap '' PIPE; while echo x; do :; done; echo left >&2"));
        while !matches!(client.next(), Some(ToHost::Output(..))) {}
        client.send(&ToGuest::OutputClosed(Output::Stdout));
        let seen = client.follow();
        assert!(seen.stderr.ends_with(b"left\n"), "{:?}", seen.stderr);
        assert_eq!(seen.code(), 0);
    });
}

#[test]
fn no_more_than_a_window_is_under_way() {
    guest_test(|| {
        let guest = Guest::idle();
        let mut client = guest.exec(sh("head -c 1000000 /dev/zero; echo end >&2"));
        let mut stdout = 0;
        let mut buffer = vec![0; 64 * 1024];
        // Nothing comes after the window, for which half a second is long enough.
        let silence = Duration::from_millis(500);
        while let Ok(n) = client.stream.read(&mut buffer) {
            client.decoder.feed(&buffer[..n]);
            while let Some(message) = client.decoder.next().unwrap() {
                client.check(&message);
                if let ToHost::Output(Output::Stdout, data) = message {
                    stdout += data.len();
                }
            }
            if stdout == WINDOW as usize {
                client.stream.set_read_timeout(Some(silence)).unwrap();
            }
        }
        assert_eq!(stdout, WINDOW as usize);
        client.stream.set_read_timeout(Some(PATIENCE)).unwrap();
        client.send(&ToGuest::Consumed(Output::Stdout, WINDOW));
        let seen = client.follow();
        assert_eq!(seen.stdout.len(), 1_000_000 - WINDOW as usize);
        assert_eq!(seen.stderr, b"end\n");
    });
}

#[test]
fn failures_have_the_statuses_of_docker() {
    guest_test(|| {
        let guest = Guest::idle();
        let dir = guest.dir.path();
        let file = |name: &str, mode, content: &str| {
            let path = dir.join(name);
            std::fs::write(&path, content).unwrap();
            std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode))
                .unwrap();
            path.to_str().unwrap().to_owned()
        };
        let plain = file("plain", 0o644, "");
        let binary = file("binary", 0o755, "no program\n");
        let orphan = file("orphan", 0o755, "#!/nonexistent/interpreter\n");
        let cases = [
            ("nonexistent", 127, "executable file not found in $PATH"),
            ("/nonexistent", 127, "no such file or directory"),
            ("/etc/passwd/x", 127, "no such file or directory"),
            ("", 127, "executable file not found"),
            ("/tmp", 126, "is a directory"),
            (plain.as_str(), 126, "permission denied"),
            (binary.as_str(), 126, "exec format error"),
            (orphan.as_str(), 127, "no such file or directory"),
        ];
        for (program, status, words) in cases {
            let seen = guest.exec(command([program])).follow();
            let (found, message) = seen.failure();
            assert_eq!(found, status, "{program}: {message}");
            assert!(message.contains(words), "{program}: {message}");
        }
        // What is found by PATH and cannot be executed counts as not found.
        let mut process = command(["plain"]);
        process.env = vec![ByteBuf::from(format!("PATH={}", dir.display()))];
        assert_eq!(guest.exec(process).follow().failure().0, 127);

        let mut process = command(["true"]);
        process.user = User::Named(ByteBuf::from("nobody-by-this-name"));
        let seen = guest.exec(process).follow();
        let expected =
            "unable to find user nobody-by-this-name: no matching entries in passwd file";
        assert_eq!(seen.failure(), (125, expected));

        let mut process = command(["true"]);
        process.cwd = ByteBuf::from("/etc/passwd");
        let seen = guest.exec(process).follow();
        let expected = "chdir to cwd (\"/etc/passwd\") failed: not a directory";
        assert_eq!(seen.failure(), (127, expected));
    });
}

#[test]
fn a_process_starts_clean() {
    guest_test(|| {
        let guest = Guest::idle();
        let seen = guest.run("exec ls /proc/self/fd");
        assert_eq!(seen.stdout(), "0\n1\n2\n3\n");
        let seen = guest.run("exec grep -E '^(SigBlk|SigIgn)' /proc/self/status");
        for line in seen.stdout().lines() {
            let set = u64::from_str_radix(line.split_once('\t').unwrap().1, 16).unwrap();
            // Two signals are the C library's own, and may come ignored from the harness.
            assert_eq!(set & !(0b11 << 31), 0, "{line}");
        }
        assert_eq!(seen.stdout().lines().count(), 2);
        let seen = guest.run("ulimit -n; umask; ps -o sid= -p $$ | tr -d ' '; echo $$");
        let lines: Vec<_> = seen.stdout().lines().collect();
        assert_eq!(lines[..2], ["1024", "0022"]);
    });
}

#[test]
fn environment_directory_and_user_are_as_asked() {
    guest_test(|| {
        let guest = Guest::idle();
        let odd = "A=line\nbreak 'quote' \u{e4} =";
        let mut process = command(["env", "-0"]);
        process.env.push(ByteBuf::from(odd));
        process.env.push(ByteBuf::from("EMPTY="));
        let expected = format!("PATH=/usr/local/bin:/usr/bin:/bin\0{odd}\0EMPTY=\0HOME=/root\0");
        assert_eq!(guest.exec(process).follow().stdout(), expected);

        let cwd = guest.dir.path().join("not-there");
        let mut process = command(["pwd"]);
        process.cwd = ByteBuf::from(cwd.to_str().unwrap());
        let expected = format!("chdir to cwd ({cwd:?}) failed: no such file or directory");
        let seen = guest.exec(process.clone()).follow();
        assert_eq!(seen.failure(), (127, expected.as_str()));
        assert!(!cwd.exists());
        std::fs::create_dir(&cwd).unwrap();
        let seen = guest.exec(process).follow();
        assert_eq!(seen.stdout().trim(), cwd.to_str().unwrap());

        let mut process = sh("id -u; id -g; id -G; echo $HOME; echo hi > /dev/stderr;
            grep -E '^Cap(Eff|Prm|Inh|Amb)' /proc/self/status");
        process.user = User::Named(ByteBuf::from("1234:5678"));
        let seen = guest.exec(process).follow();
        let caps = ["Inh", "Prm", "Eff", "Amb"].map(|set| format!("Cap{set}:\t{:016}\n", 0));
        assert_eq!(
            seen.stdout(),
            format!(
                "1234\n5678\n5678\n/\n{}{}{}{}",
                caps[0], caps[1], caps[2], caps[3]
            )
        );
        assert_eq!(seen.stderr, b"hi\n");
    });
}

#[test]
fn limits_mask_and_privileges_are_as_asked() {
    guest_test(|| {
        let guest = Guest::idle();
        let script = "ulimit -Sn; ulimit -Hn; ulimit -c; umask; cat /proc/self/oom_score_adj; \
            grep NoNewPrivs /proc/self/status; id -u; id -G";
        let mut process = sh(script);
        let seen = guest.exec(process.clone()).follow();
        let lines: Vec<_> = seen.stdout().lines().collect();
        assert_eq!(lines[3..6], ["0022", "0", "NoNewPrivs:\t0"]);

        let limit = |resource, soft, hard| Limit {
            resource,
            soft,
            hard,
        };
        process.limits = vec![
            limit(libc::RLIMIT_NOFILE, 100, 200),
            limit(libc::RLIMIT_CORE, 0, 0),
        ];
        process.umask = Some(0o7077);
        process.oom_score_adj = Some(321);
        process.no_new_privileges = true;
        process.user = User::Ids {
            uid: 1234,
            gid: 5678,
            groups: vec![9, 5678],
        };
        let seen = guest.exec(process.clone()).follow();
        let expected = "100\n200\n0\n0077\n321\nNoNewPrivs:\t1\n1234\n5678 9\n";
        assert_eq!(seen.stdout(), expected);

        process.limits = vec![limit(libc::RLIMIT_NOFILE, 200, 100)];
        let seen = guest.exec(process.clone()).follow();
        let expected = "cannot set ulimit nofile for sh: invalid argument";
        assert_eq!(seen.failure(), (125, expected));
        process.limits.clear();
        process.oom_score_adj = Some(1001);
        let (status, message) = (125, "OOM score adjustment 1001");
        let seen = guest.exec(process).follow();
        assert!(seen.failure().0 == status && seen.failure().1.contains(message));
    });
}

#[test]
fn limits_are_the_workloads_where_none_are_asked_for() {
    guest_test(|| {
        let mut workload = sh("sleep 1000");
        workload.limits = vec![Limit {
            resource: libc::RLIMIT_NOFILE,
            soft: 55,
            hard: 66,
        }];
        let guest = Guest::start(workload);
        assert_eq!(guest.run("ulimit -Sn; ulimit -Hn").stdout(), "55\n66\n");
        let mut process = sh("ulimit -Sn");
        process.limits = vec![Limit {
            resource: libc::RLIMIT_CORE,
            soft: 0,
            hard: 0,
        }];
        assert_eq!(guest.exec(process).follow().stdout(), "1024\n");
    });
}

fn terminal(script: &str) -> Process {
    let mut process = sh(script);
    let (rows, columns) = (33, 77);
    process.terminal = Some(WindowSize { rows, columns });
    process.stdin = true;
    process
}

#[test]
fn a_terminal_is_one() {
    guest_test(|| {
        let guest = Guest::idle();
        let script = "test -t 0 && test -t 1 && test -t 2 && stty size && tty >/dev/tty; echo $?";
        let seen = guest.exec(terminal(script)).follow();
        let lines: Vec<_> = seen.stdout().split("\r\n").collect();
        assert_eq!(lines[0], "33 77");
        assert!(lines[1].starts_with("/dev/pts/"), "{lines:?}");
        assert_eq!(lines[2], "0");
        assert_eq!(seen.stderr, b"");
    });
}

#[test]
fn a_terminal_takes_input_and_follows_its_size() {
    guest_test(|| {
        let guest = Guest::idle();
        let script = "stty -echo; trap 'changed=1' WINCH; echo ready; read line; echo got $line; \
            while test -z \"$changed\"; do sleep 0.05; done; stty size; \
            read line; echo got $line; cat; exit 4";
        let mut client = guest.exec(terminal(script));
        let mut seen = String::new();
        let mut wait_for = |client: &mut Client, text: &str| {
            while !seen.contains(text) {
                if let Some(ToHost::Output(_, data)) = client.next() {
                    seen.push_str(std::str::from_utf8(&data).unwrap());
                }
            }
        };
        wait_for(&mut client, "ready\r\n");
        client.send(&ToGuest::Stdin(b"one\n".to_vec()));
        wait_for(&mut client, "got one\r\n");
        let (rows, columns) = (50, 132);
        client.send(&ToGuest::Resize(WindowSize { rows, columns }));
        wait_for(&mut client, "50 132\r\n");
        client.send(&ToGuest::Stdin(b"two\n".to_vec()));
        wait_for(&mut client, "got two\r\n");
        client.send(&ToGuest::Stdin(b"three\n\x04".to_vec()));
        wait_for(&mut client, "three\r\n");
        let last = client.last();
        assert_eq!(last, Some(ToHost::Exited(ExitStatus::Code(4))));
    });
}

#[test]
fn a_terminal_interrupts_its_foreground_process() {
    guest_test(|| {
        let guest = Guest::idle();
        // No shell, which would take the signal for its child and wait for it.
        let mut process = terminal("");
        process.args = command(["sleep", "1000"]).args;
        let mut client = guest.exec(process);
        assert!(matches!(client.next(), Some(ToHost::Started { .. })));
        client.send(&ToGuest::Stdin(b"\x03".to_vec()));
        let last = client.last();
        assert_eq!(last, Some(ToHost::Exited(ExitStatus::Signal(2))));
    });
}

#[test]
fn children_left_behind_do_not_hold_a_session_for_ever() {
    guest_test(|| {
        let guest = Guest::idle();
        let start = Instant::now();
        let seen = guest.run("sleep 1000 & echo hi; exit 5");
        assert_eq!((seen.stdout(), seen.code()), ("hi\n", 5));
        let took = start.elapsed();
        assert!(
            took >= Duration::from_millis(1900) && took < Duration::from_secs(5),
            "{took:?}"
        );
        let seen = guest.run("(sleep 0.5; echo late) & echo hi");
        assert_eq!(seen.stdout(), "hi\nlate\n");
    });
}

#[test]
fn a_process_outlives_its_connection() {
    guest_test(|| {
        let guest = Guest::idle();
        let mark: PathBuf = guest.dir.path().join("mark");
        let script = format!(
            "head -c 2000000 /dev/zero; sleep 0.2; touch {}",
            mark.display()
        );
        let mut client = guest.exec(sh(&script));
        assert!(matches!(client.next(), Some(ToHost::Started { .. })));
        drop(client);
        let start = Instant::now();
        while !mark.exists() {
            assert!(
                start.elapsed() < PATIENCE,
                "the process went with its connection"
            );
            std::thread::sleep(Duration::from_millis(20));
        }
    });
}

#[test]
fn a_hundred_commands_at_once_are_each_exact() {
    guest_test(|| {
        let guest = Guest::idle();
        let process = |i: usize| {
            sh(&format!(
                "echo out {i}; echo err {i} >&2; head -c {} /dev/zero; exit {i}",
                i * 1000
            ))
        };
        let mut clients: Vec<_> = (0..100).map(|i| guest.exec(process(i))).collect();
        for (i, client) in clients.iter_mut().enumerate() {
            let seen = client.follow();
            assert_eq!(usize::from(seen.code()), i);
            assert_eq!(seen.stderr, format!("err {i}\n").as_bytes());
            let start = format!("out {i}\n");
            assert_eq!(&seen.stdout[..start.len()], start.as_bytes());
            assert_eq!(seen.stdout.len(), start.len() + i * 1000);
        }
    });
}

#[test]
fn a_connection_that_says_nothing_harms_nobody() {
    guest_test(|| {
        let guest = Guest::idle();
        let mut silent = guest.connect();
        let mut confused = guest.connect();
        confused.stream.write_all(&[0xff; 64]).unwrap();
        assert_eq!(confused.stream.read(&mut [0]).unwrap_or(0), 0);
        silent.send(&ToGuest::Signal(9));
        silent.send(&ToGuest::Stdin(vec![1, 2, 3]));
        drop(silent);
        assert_eq!(guest.run("echo fine").stdout(), "fine\n");
    });
}
