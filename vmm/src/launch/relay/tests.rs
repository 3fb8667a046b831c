//! The relay against a guest that the test plays itself.

use std::fs::File;
use std::io::{self, PipeReader, PipeWriter};
use std::time::Duration;

use super::*;

/// A session with all ends in the test's hands.
struct Bench {
    relay: Relay,
    guest: UnixStream,
    stdin: Option<PipeWriter>,
    stdout: Option<PipeReader>,
    stderr: Option<PipeReader>,
}

impl Bench {
    fn new() -> Self {
        let (socket, guest) = UnixStream::pair().unwrap();
        let (stdin_read, stdin) = io::pipe().unwrap();
        let (stdout, stdout_write) = io::pipe().unwrap();
        let (stderr, stderr_write) = io::pipe().unwrap();
        let io = Io {
            stdin: Some(stdin_read.into()),
            stdout: stdout_write.into(),
            stderr: stderr_write.into(),
        };
        guest
            .set_read_timeout(Some(Duration::from_secs(10)))
            .unwrap();
        Self {
            relay: Relay::new(socket, io, false).unwrap(),
            guest,
            stdin: Some(stdin),
            stdout: Some(stdout),
            stderr: Some(stderr),
        }
    }

    fn started() -> Self {
        let mut bench = Self::new();
        bench.say(&ToHost::Hello { uptime_ns: 7 });
        bench.say(&ToHost::Started { pid: 1 });
        bench.turn();
        assert!(bench.relay.has_started());
        bench
    }

    fn say(&mut self, message: &ToHost) {
        frame::write(&mut self.guest, message).unwrap();
    }

    fn hear(&mut self) -> ToGuest {
        frame::read(&mut self.guest).unwrap().unwrap()
    }

    /// Lets the relay do what there is to do now.
    fn turn(&mut self) {
        for _ in 0..50 {
            let mut set = PollSet::default();
            self.relay.watch(&mut set);
            set.wait(Some(Duration::from_millis(1))).unwrap();
            self.relay.step(&set);
        }
    }

    fn run_to_end(&mut self) -> End {
        while !(self.relay.end().is_some() && self.relay.is_drained()) {
            let mut set = PollSet::default();
            self.relay.watch(&mut set);
            set.wait(Some(Duration::from_secs(10))).unwrap();
            self.relay.step(&set);
        }
        self.relay.end().unwrap().clone()
    }
}

fn pattern(len: usize) -> Vec<u8> {
    (0..=250).cycle().take(len).collect()
}

#[test]
fn output_arrives_whole_and_apart_before_the_end() {
    let mut bench = Bench::started();
    let out = pattern(3 * WINDOW as usize + 17);
    let err = pattern(70_001);
    let mut guest = bench.guest.try_clone().unwrap();
    let (to_send, err_to_send) = (out.clone(), err.clone());
    // A guest that keeps to its windows.
    let sender = std::thread::spawn(move || {
        let mut room = WINDOW as usize;
        let message = ToHost::Output(Output::Stderr, err_to_send);
        frame::write(&mut guest, &message).unwrap();
        for chunk in to_send.chunks(MAX_DATA) {
            while room < chunk.len() {
                match frame::read(&mut guest).unwrap().unwrap() {
                    ToGuest::Consumed(Output::Stdout, n) => room += n as usize,
                    ToGuest::Consumed(Output::Stderr, _) => {}
                    other => panic!("{other:?}"),
                }
            }
            room -= chunk.len();
            let message = ToHost::Output(Output::Stdout, chunk.to_vec());
            frame::write(&mut guest, &message).unwrap();
        }
        for output in [Output::Stdout, Output::Stderr] {
            frame::write(&mut guest, &ToHost::OutputEnd(output)).unwrap();
        }
        let exited = ToHost::Exited(ExitStatus::Code(3));
        frame::write(&mut guest, &exited).unwrap();
        guest
    });
    let read = |pipe: Option<PipeReader>| {
        std::thread::spawn(move || {
            let mut bytes = Vec::new();
            pipe.unwrap().read_to_end(&mut bytes).unwrap();
            bytes
        })
    };
    let (stdout, stderr) = (read(bench.stdout.take()), read(bench.stderr.take()));
    assert_eq!(bench.run_to_end(), End::Exited(ExitStatus::Code(3)));
    drop(bench);
    assert_eq!(stdout.join().unwrap(), out);
    assert_eq!(stderr.join().unwrap(), err);
    sender.join().unwrap();
}

#[test]
fn stdin_waits_for_the_process_keeps_to_its_window_and_ends() {
    let mut bench = Bench::new();
    let input = pattern(2 * WINDOW as usize + 5);
    let mut stdin = bench.stdin.take().unwrap();
    let to_write = input.clone();
    let writer = std::thread::spawn(move || stdin.write_all(&to_write).unwrap());
    bench.turn();
    bench.guest.set_nonblocking(true).unwrap();
    let early = bench.guest.read(&mut [0; 1]).unwrap_err();
    assert_eq!(early.kind(), io::ErrorKind::WouldBlock);
    bench.guest.set_nonblocking(false).unwrap();

    bench.say(&ToHost::Started { pid: 1 });
    let mut guest = bench.guest.try_clone().unwrap();
    let taker = std::thread::spawn(move || {
        let mut taken = Vec::new();
        let mut unconsumed = 0;
        loop {
            match frame::read(&mut guest).unwrap().unwrap() {
                ToGuest::Stdin(bytes) => {
                    unconsumed += bytes.len();
                    assert!(unconsumed <= WINDOW as usize);
                    taken.extend(bytes);
                    if unconsumed == WINDOW as usize {
                        std::thread::sleep(Duration::from_millis(20));
                        let n = u32::try_from(unconsumed).unwrap();
                        frame::write(&mut guest, &ToHost::StdinConsumed(n)).unwrap();
                        unconsumed = 0;
                    }
                }
                ToGuest::StdinEnd => break,
                other => panic!("{other:?}"),
            }
        }
        let exited = ToHost::Exited(ExitStatus::Signal(9));
        frame::write(&mut guest, &exited).unwrap();
        (guest, taken)
    });
    assert_eq!(bench.run_to_end(), End::Exited(ExitStatus::Signal(9)));
    writer.join().unwrap();
    assert_eq!(taker.join().unwrap().1, input);
}

#[test]
fn signals_and_sizes_wait_for_the_process() {
    let mut bench = Bench::new();
    bench.relay.terminal = true;
    bench.relay.signal(10);
    let size = WindowSize {
        rows: 5,
        columns: 6,
    };
    bench.relay.resize(size);
    bench.say(&ToHost::Started { pid: 1 });
    bench.turn();
    bench.relay.signal(12);
    bench.turn();
    assert_eq!(bench.hear(), ToGuest::Signal(10));
    assert_eq!(bench.hear(), ToGuest::Resize(size));
    assert_eq!(bench.hear(), ToGuest::Signal(12));
}

#[test]
fn a_terminal_is_raw_until_all_output_is_written() {
    let pty = nix::pty::openpty(None, None).unwrap();
    let slave = || pty.slave.try_clone().unwrap();
    let io = Io {
        stdin: Some(slave()),
        stdout: slave(),
        stderr: slave(),
    };
    let (socket, guest) = UnixStream::pair().unwrap();
    let mut bench = Bench {
        relay: Relay::new(socket, io, true).unwrap(),
        guest,
        stdin: None,
        stdout: None,
        stderr: None,
    };
    // All at once, so that the end is known before the output is written.
    bench.say(&ToHost::Started { pid: 1 });
    bench.say(&ToHost::Output(Output::Stdout, b"line\r\n".into()));
    bench.say(&ToHost::Exited(ExitStatus::Code(0)));
    bench.run_to_end();
    let mut seen = [0; 32];
    let read = File::from(pty.master).read(&mut seen).unwrap();
    assert_eq!(seen[..read].escape_ascii().to_string(), "line\\r\\n");
}

#[test]
fn a_reader_that_leaves_is_reported_and_the_rest_goes_on() {
    let mut bench = Bench::started();
    drop(bench.stdout.take());
    bench.say(&ToHost::Output(Output::Stdout, pattern(1000)));
    bench.turn();
    let heard = [bench.hear(), bench.hear()];
    assert_eq!(
        heard,
        [
            ToGuest::Consumed(Output::Stdout, 1000),
            ToGuest::OutputClosed(Output::Stdout)
        ]
    );
    // What was under way is dropped, but acknowledged.
    bench.say(&ToHost::Output(Output::Stdout, pattern(10)));
    bench.say(&ToHost::Output(Output::Stderr, b"still here".to_vec()));
    bench.turn();
    assert_eq!(bench.hear(), ToGuest::Consumed(Output::Stdout, 10));
    let mut text = [0; 10];
    bench
        .stderr
        .as_mut()
        .unwrap()
        .read_exact(&mut text)
        .unwrap();
    assert_eq!(&text, b"still here");
    bench.say(&ToHost::Exited(ExitStatus::Code(0)));
    assert_eq!(bench.run_to_end(), End::Exited(ExitStatus::Code(0)));
    assert!(bench.relay.take_write_error().is_none());
}

#[test]
fn a_full_disk_is_an_error() {
    let mut bench = Bench::started();
    let full = File::options().write(true).open("/dev/full").unwrap();
    bench.relay.outputs[0].sink = Sink::new(full.into());
    bench.say(&ToHost::Output(Output::Stdout, pattern(10)));
    bench.say(&ToHost::Exited(ExitStatus::Code(0)));
    assert_eq!(bench.run_to_end(), End::Exited(ExitStatus::Code(0)));
    let error = bench.relay.take_write_error().unwrap();
    assert_eq!(error.raw_os_error(), Some(libc::ENOSPC));
}

#[test]
fn a_guest_that_leaves_its_turn_ends_the_session() {
    let window = WINDOW as usize;
    let too_much = (0..=window / MAX_DATA)
        .map(|_| ToHost::Output(Output::Stdout, vec![0; MAX_DATA]))
        .collect();
    let cases: [Vec<ToHost>; 4] = [
        too_much,
        vec![ToHost::StdinConsumed(1)],
        vec![ToHost::Started { pid: 2 }],
        vec![
            ToHost::OutputEnd(Output::Stdout),
            ToHost::Output(Output::Stdout, vec![1]),
        ],
    ];
    for messages in cases {
        let mut bench = Bench::started();
        // Nobody reads stdout, so nothing of it is consumed beyond the pipe's own room.
        let (_reader, writer) = io::pipe().unwrap();
        nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
        bench.relay.outputs[0].sink = Sink::new(writer.into());
        let mut guest = bench.guest.try_clone().unwrap();
        let shown = format!("{:.80?}", messages[0]);
        let sender = std::thread::spawn(move || {
            for message in messages {
                // The relay may hang up before all is sent.
                let _ = frame::write(&mut guest, &message);
            }
        });
        while bench.relay.end().is_none() {
            bench.turn();
        }
        assert!(
            matches!(bench.relay.end(), Some(End::Violated(_))),
            "{shown}"
        );
        drop(bench);
        sender.join().unwrap();
    }
}

#[test]
fn garbage_and_a_lost_connection_end_the_session() {
    let mut bench = Bench::started();
    bench.guest.write_all(&[0xFF; 8]).unwrap();
    assert!(matches!(bench.run_to_end(), End::Violated(_)));

    let mut bench = Bench::started();
    bench.say(&ToHost::Output(Output::Stdout, b"last words".to_vec()));
    drop(bench.guest);
    let (_, guest) = UnixStream::pair().unwrap();
    bench.guest = guest;
    assert_eq!(bench.run_to_end(), End::Lost);
    let mut text = String::new();
    let mut stdout = bench.stdout.take().unwrap();
    drop(bench);
    stdout.read_to_string(&mut text).unwrap();
    assert_eq!(text, "last words");
}

#[test]
fn a_process_that_cannot_start_says_why() {
    let mut bench = Bench::new();
    bench.say(&ToHost::Failed {
        status: 127,
        message: "no such program".into(),
    });
    assert_eq!(
        bench.run_to_end(),
        End::Failed {
            status: 127,
            message: "no such program".into()
        }
    );
}

proptest::proptest! {
    #[test]
    fn no_bytes_from_the_guest_make_the_relay_panic(bytes: Vec<u8>) {
        let mut bench = Bench::new();
        bench.guest.write_all(&bytes).unwrap();
        drop(std::mem::replace(&mut bench.guest, UnixStream::pair().unwrap().0));
        bench.run_to_end();
    }
}

#[test]
fn two_streams_into_one_full_pipe_do_not_block_the_loop() {
    let mut bench = Bench::started();
    let (mut reader, writer) = io::pipe().unwrap();
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETPIPE_SZ(4096)).unwrap();
    bench.relay.outputs[0].sink = Sink::new(writer.try_clone().unwrap().into());
    bench.relay.outputs[1].sink = Sink::new(writer.into());
    bench.say(&ToHost::Output(Output::Stdout, vec![1; 10_000]));
    bench.say(&ToHost::Output(Output::Stderr, vec![2; 10_000]));
    // Nobody reads: this must come back.
    bench.turn();
    let reader = std::thread::spawn(move || {
        let mut bytes = Vec::new();
        reader.read_to_end(&mut bytes).unwrap();
        bytes
    });
    bench.say(&ToHost::Exited(ExitStatus::Code(0)));
    bench.run_to_end();
    drop(bench);
    let bytes = reader.join().unwrap();
    let of = |value| bytes.iter().filter(|&&b| b == value).count();
    assert_eq!((of(1), of(2)), (10_000, 10_000));
}

#[test]
fn a_guest_that_asks_for_the_time_is_told_and_cannot_have_it_pile_up() {
    let mut bench = Bench::new();
    bench.say(&ToHost::AskTime);
    bench.turn();
    let ToGuest::Time { unix_ns } = bench.hear() else {
        panic!("another message");
    };
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap();
    let then = Duration::from_nanos(unix_ns);
    assert!(then <= now && now - then < Duration::from_secs(60));
    let question = frame::encode(&ToHost::AskTime).unwrap();
    for _ in 0..8 {
        bench.guest.write_all(&question.repeat(10_000)).unwrap();
        bench.turn();
        assert!(bench.relay.outgoing.len() <= SEND_AHEAD + 100);
    }
}
