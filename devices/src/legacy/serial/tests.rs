use std::io::Read;
use std::os::fd::OwnedFd;
use std::time::Instant;

use vmm_sys_util::eventfd::EFD_NONBLOCK;

use super::*;

const DATA: u64 = 0;
const INTERRUPT_ENABLE: u64 = 1;
const MODEM_CONTROL: u64 = 4;
const LINE_STATUS: u64 = 5;

fn port(out: Option<File>) -> (Serial, EventFd) {
    let irq = EventFd::new(EFD_NONBLOCK).unwrap();
    let serial = Serial::new(out, irq.try_clone().unwrap());
    (serial, irq)
}

fn write(serial: &Serial, text: &[u8]) {
    for byte in text {
        serial.write(DATA, &[*byte]);
    }
}

fn read(serial: &Serial, offset: u64) -> u8 {
    let mut data = [0];
    serial.read(offset, &mut data);
    data[0]
}

fn has_input(serial: &Serial) -> bool {
    read(serial, LINE_STATUS) & 1 != 0
}

#[test]
fn output_goes_to_the_file_and_the_log() {
    let (mut reader, writer) = io::pipe().unwrap();
    let (serial, _irq) = port(Some(OwnedFd::from(writer).into()));
    let log = serial.log();
    write(&serial, b"Linux\r\nversion \xff");
    drop(serial);
    let mut out = Vec::new();
    reader.read_to_end(&mut out).unwrap();
    assert_eq!(out, b"Linux\r\nversion \xff");
    assert_eq!(log.last_lines(2), "Linux\nversion \u{fffd}");
}

#[test]
fn output_without_a_file_is_logged() {
    let (serial, _irq) = port(None);
    write(&serial, b"Kernel panic\n");
    assert!(serial.log().contains("panic"));
}

#[test]
fn an_output_that_is_not_read_holds_the_guest_up_but_once() {
    let (mut reader, writer) = io::pipe().unwrap();
    let (serial, _irq) = port(Some(OwnedFd::from(writer).into()));
    let start = Instant::now();
    let text = vec![b'.'; 70_000];
    write(&serial, &text);
    assert!(start.elapsed() >= PATIENCE);
    assert!(start.elapsed() < 8 * PATIENCE);
    let mut taken = vec![0; 65_536];
    reader.read_exact(&mut taken).unwrap();
    write(&serial, b"again\n");
    drop(serial);
    let mut rest = Vec::new();
    reader.read_to_end(&mut rest).unwrap();
    assert_eq!(rest, b"again\n");
}

#[test]
fn an_output_that_is_closed_is_no_matter() {
    let (reader, writer) = io::pipe().unwrap();
    drop(reader);
    let (serial, _irq) = port(Some(OwnedFd::from(writer).into()));
    write(&serial, b"a\nb\n");
    assert_eq!(serial.log().last_lines(9), "a\nb");
}

#[test]
fn input_arrives_in_order_and_is_bounded() {
    let (serial, irq) = port(None);
    serial.write(INTERRUPT_ENABLE, &[1]);
    let _ = irq.read();
    let input: Vec<u8> = (0..10_000u32)
        .map(|i| u8::try_from(i % 251).unwrap())
        .collect();
    let taken = serial.enqueue_input(&input);
    assert!((INPUT_LIMIT..INPUT_LIMIT + 100).contains(&taken));
    assert!(irq.read().is_ok(), "an interrupt announces input");
    let mut received = Vec::new();
    while has_input(&serial) {
        received.push(read(&serial, DATA));
    }
    assert_eq!(received, input[..taken]);
    assert_eq!(serial.enqueue_input(b"x"), 1);
    assert_eq!(read(&serial, DATA), b'x');
}

#[test]
fn input_waits_while_the_port_loops_back() {
    let (serial, _irq) = port(None);
    serial.write(MODEM_CONTROL, &[0x10]);
    assert_eq!(serial.enqueue_input(b"ab"), 2);
    assert!(!has_input(&serial));
    serial.write(DATA, b"z");
    assert_eq!(read(&serial, DATA), b'z');
    serial.write(MODEM_CONTROL, &[0]);
    assert_eq!(read(&serial, LINE_STATUS) & 0x60, 0x60);
    assert_eq!((read(&serial, DATA), read(&serial, DATA)), (b'a', b'b'));
}

#[test]
fn accesses_of_any_width_do_no_harm() {
    let (serial, _irq) = port(None);
    for offset in 0..=LEN {
        for len in [1, 2, 4, 8] {
            serial.write(offset, &vec![0xff; len]);
            serial.read(offset, &mut vec![0; len]);
        }
    }
}
