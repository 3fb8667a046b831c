use std::io::{self, PipeReader, PipeWriter, Read, Write};
use std::os::fd::OwnedFd;
use std::thread;
use std::time::Duration;

use super::*;
use crate::virtio::testing::{Buffer, Descriptor, Driver, NEXT, OUTSIDE, WRITE};

const RECEIVE: usize = 0;
const TRANSMIT: usize = 1;

struct Started {
    device: Console,
    handle: ConsoleHandle,
    driver: Driver,
    /// What the guest reads comes from here, and what it writes goes there.
    input: Option<PipeWriter>,
    output: PipeReader,
}

fn start() -> Started {
    let (input_reader, input) = io::pipe().unwrap();
    let (output, output_writer) = io::pipe().unwrap();
    let (mut device, handle) = Console::new(ConsoleSpec {
        input: Some(OwnedFd::from(input_reader).into()),
        output: OwnedFd::from(output_writer).into(),
    });
    let driver = Driver::for_device(&device);
    device.activate(driver.activation()).unwrap();
    Started {
        device,
        handle,
        driver,
        input: Some(input),
        output,
    }
}

impl Started {
    fn type_in(&mut self, text: &[u8]) {
        self.input.as_mut().unwrap().write_all(text).unwrap();
    }

    fn expect_output(&mut self, expected: &[u8]) {
        let mut data = vec![0; expected.len()];
        self.output.read_exact(&mut data).unwrap();
        assert_eq!(data, expected);
    }
}

#[test]
fn output_is_written_in_order() {
    let mut console = start();
    let (_, len) = console.driver.queues[TRANSMIT].request(&[
        Buffer::Readable(b"hel"),
        Buffer::Readable(b""),
        Buffer::Readable(b"lo "),
    ]);
    assert_eq!(len, 0);
    console.driver.queues[TRANSMIT].request(&[Buffer::Readable(b"world")]);
    console.expect_output(b"hello world");
}

#[test]
fn input_fills_the_buffers_that_there_are() {
    let mut console = start();
    let queue = &mut console.driver.queues[RECEIVE];
    let first = queue.add(&[Buffer::Writable(2), Buffer::Writable(2)]);
    let second = queue.add(&[Buffer::Writable(10)]);
    queue.kick();
    console.type_in(b"abcdef");
    assert_eq!(console.driver.queues[RECEIVE].wait_used(), (first.head, 4));
    assert_eq!(console.driver.queues[RECEIVE].wait_used(), (second.head, 2));
    assert_eq!(console.driver.read(first.buffers[0].0, 2), b"ab");
    assert_eq!(console.driver.read(first.buffers[1].0, 2), b"cd");
    assert_eq!(console.driver.read(second.buffers[0].0, 3), b"ef\0");
}

#[test]
fn input_waits_for_buffers() {
    let mut console = start();
    console.type_in(b"typed ahead");
    let (sent, len) = console.driver.queues[RECEIVE].request(&[Buffer::Writable(5)]);
    assert_eq!(len, 5);
    assert_eq!(console.driver.read(sent.buffers[0].0, 5), b"typed");
    let (sent, len) = console.driver.queues[RECEIVE].request(&[Buffer::Writable(50)]);
    assert_eq!(len, 6);
    assert_eq!(console.driver.read(sent.buffers[0].0, 6), b" ahead");
}

#[test]
fn buffers_from_before_the_start_are_used() {
    let (input_reader, mut input) = io::pipe().unwrap();
    let (mut device, _handle) = Console::new(ConsoleSpec {
        input: Some(OwnedFd::from(input_reader).into()),
        output: tempfile::tempfile().unwrap(),
    });
    let mut driver = Driver::for_device(&device);
    driver.queues[RECEIVE].add(&[Buffer::Writable(8)]);
    device.activate(driver.activation()).unwrap();
    input.write_all(b"x").unwrap();
    assert_eq!(driver.queues[RECEIVE].wait_used().1, 1);
}

#[test]
fn the_end_of_input_is_quiet_and_output_goes_on() {
    let mut console = start();
    console.type_in(b"last");
    console.input = None;
    assert_eq!(
        console.driver.queues[RECEIVE]
            .request(&[Buffer::Writable(9)])
            .1,
        4
    );
    console.driver.queues[RECEIVE].add(&[Buffer::Writable(9)]);
    console.driver.queues[RECEIVE].kick();
    console.driver.queues[TRANSMIT].request(&[Buffer::Readable(b"bye")]);
    console.expect_output(b"bye");
    assert_eq!(console.driver.queues[RECEIVE].try_used(), None);
}

#[test]
fn files_that_cannot_be_polled_are_read_and_written() {
    let mut input = tempfile::NamedTempFile::new().unwrap();
    input.write_all(b"from a file").unwrap();
    let output = tempfile::NamedTempFile::new().unwrap();
    let (mut device, _handle) = Console::new(ConsoleSpec {
        input: Some(File::open(input.path()).unwrap()),
        output: output.reopen().unwrap(),
    });
    let mut driver = Driver::for_device(&device);
    device.activate(driver.activation()).unwrap();
    let (sent, len) = driver.queues[RECEIVE].request(&[Buffer::Writable(100)]);
    assert_eq!(driver.read(sent.buffers[0].0, len as usize), b"from a file");
    driver.queues[RECEIVE].add(&[Buffer::Writable(100)]);
    driver.queues[RECEIVE].kick();
    driver.queues[TRANSMIT].request(&[Buffer::Readable(b"to a file")]);
    assert_eq!(std::fs::read(output.path()).unwrap(), b"to a file");
    assert_eq!(driver.queues[RECEIVE].try_used(), None);
}

#[test]
fn a_slow_reader_gets_everything_and_input_does_not_wait_for_it() {
    let mut console = start();
    let text: Vec<u8> = (0..300_000u32)
        .map(|i| u8::try_from(i % 253).unwrap())
        .collect();
    let queue = &mut console.driver.queues[TRANSMIT];
    let sent: Vec<_> = text
        .chunks(100_000)
        .map(|part| {
            queue
                .add(&[Buffer::Readable(&part[..7]), Buffer::Readable(&part[7..])])
                .head
        })
        .collect();
    queue.kick();
    // The pipe is full now, or soon.
    console.type_in(b"^C");
    assert_eq!(
        console.driver.queues[RECEIVE]
            .request(&[Buffer::Writable(9)])
            .1,
        2
    );
    thread::sleep(Duration::from_millis(20));
    assert_eq!(console.driver.queues[TRANSMIT].try_used(), None);
    console.expect_output(&text);
    for head in sent {
        assert_eq!(console.driver.queues[TRANSMIT].wait_used(), (head, 0));
    }
}

#[test]
fn a_full_output_does_not_hold_a_reset_up() {
    let mut console = start();
    console.driver.queues[TRANSMIT].add(&[Buffer::Readable(&[b'x'; 200_000])]);
    console.driver.queues[TRANSMIT].kick();
    thread::sleep(Duration::from_millis(20));
    console.device.reset();
    for queue in &mut console.driver.queues {
        queue.restart();
    }
    console
        .device
        .activate(console.driver.activation())
        .unwrap();
    let mut rest = vec![0; 65_536];
    console.output.read_exact(&mut rest).unwrap();
    console.driver.queues[TRANSMIT].request(&[Buffer::Readable(b"new")]);
    console.expect_output(b"new");
}

#[test]
fn an_output_that_is_gone_does_not_hold_the_guest_up() {
    let mut console = start();
    console.output = io::pipe().unwrap().0;
    for _ in 0..3 {
        console.driver.queues[TRANSMIT].request(&[Buffer::Readable(b"lost")]);
    }
    console.type_in(b"y");
    assert_eq!(
        console.driver.queues[RECEIVE]
            .request(&[Buffer::Writable(1)])
            .1,
        1
    );
}

#[test]
fn a_new_size_is_announced() {
    let console = start();
    let size = |device: &Console| {
        let mut data = [0xff; 8];
        device.read_config(0, &mut data);
        data
    };
    assert_eq!(size(&console.device), [0; 8]);
    let handle = console.handle.clone();
    thread::spawn(move || handle.resize(50, 0x101))
        .join()
        .unwrap();
    console
        .driver
        .interrupt
        .wait("a configuration change", |raised| raised.config == 1);
    assert_eq!(size(&console.device), [1, 1, 50, 0, 0, 0, 0, 0]);
    let mut rows = [0; 2];
    console.device.read_config(2, &mut rows);
    assert_eq!(rows, [50, 0]);
}

#[test]
fn a_driver_that_does_not_know_sizes_is_not_bothered() {
    let (mut device, handle) = Console::new(ConsoleSpec {
        input: None,
        output: tempfile::tempfile().unwrap(),
    });
    handle.resize(1, 2);
    let driver = Driver::new(device.queue_max_sizes(), 0);
    device.activate(driver.activation()).unwrap();
    handle.resize(3, 4);
    device.reset();
    handle.resize(5, 6);
    assert_eq!(driver.interrupt.raised().config, 0);
}

#[test]
fn what_a_driver_gets_wrong_is_used_and_the_console_goes_on() {
    let mut console = start();
    console.type_in(b"input");
    let looped = |queue: &mut crate::virtio::testing::DriverQueue, flags| {
        let next = queue.next_descriptor();
        queue.add_raw(&[Descriptor {
            addr: 0x8_0000,
            len: 1,
            flags: NEXT | flags,
            next,
        }]);
        queue.kick();
        assert_eq!(queue.wait_used(), (next, 0));
    };
    let queue = &mut console.driver.queues[RECEIVE];
    looped(queue, WRITE);
    for buffer in [
        Buffer::Readable(b"wrong way"),
        Buffer::Writable(0),
        Buffer::WritableAt(OUTSIDE, 10),
        Buffer::WritableAt(0, u32::MAX),
    ] {
        assert_eq!(queue.request(&[buffer]).1, 0);
    }
    assert_eq!(queue.request(&[Buffer::Writable(10)]).1, 5);

    let queue = &mut console.driver.queues[TRANSMIT];
    looped(queue, 0);
    for buffer in [
        Buffer::Writable(10),
        Buffer::Readable(b""),
        Buffer::ReadableAt(OUTSIDE, 10),
        Buffer::ReadableAt(0x1000, u32::MAX),
    ] {
        assert_eq!(queue.request(&[buffer]).1, 0);
    }
    queue.request(&[Buffer::Readable(b"right")]);
    console.expect_output(b"right");
}

#[test]
fn both_queues_are_needed() {
    let (mut device, _handle) = Console::new(ConsoleSpec {
        input: None,
        output: tempfile::tempfile().unwrap(),
    });
    let mut activation = Driver::for_device(&device).activation();
    activation.queues.remove(0);
    let refused = device.activate(activation).unwrap_err();
    assert!(matches!(refused, ActivateError::MissingQueue(0)));
}
