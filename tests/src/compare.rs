//! What a machine did beside what runc did.

use crate::case::Case;
use crate::process::Output;

/// Bytes of a stream that a message shows.
const SHOWN: usize = 2000;

/// Returns what both did.
///
/// # Panics
///
/// They did not do the same.
#[track_caller]
pub(crate) fn assert_same(case: &Case, mut runc: Output, vm: Output) -> Output {
    if case.terminal.is_some() {
        runc.stdout = without_doubled_returns(&runc.stdout);
    }
    assert!(
        runc == vm,
        "{} differs\n--- runc: status {}\n{}{}--- runcvm: status {}\n{}{}",
        shown(
            "the command",
            &case
                .args
                .join(std::ffi::OsStr::new(" "))
                .into_encoded_bytes(),
            0
        ),
        runc.status,
        stream("stdout", &runc.stdout, &vm.stdout),
        stream("stderr", &runc.stderr, &vm.stderr),
        vm.status,
        stream("stdout", &vm.stdout, &runc.stdout),
        stream("stderr", &vm.stderr, &runc.stderr),
    );
    vm
}

/// Undoes what runc does to the first lines on a terminal: it tells the container's not to
/// add a return to newlines, as the user's does so, but only while the command runs already.
fn without_doubled_returns(bytes: &[u8]) -> Vec<u8> {
    let mut kept = Vec::with_capacity(bytes.len());
    for &byte in bytes {
        if byte == b'\n' && kept.ends_with(b"\r\r") {
            kept.pop();
        }
        kept.push(byte);
    }
    kept
}

/// A stream, from a little before it differs from the other side's.
fn stream(name: &str, bytes: &[u8], other: &[u8]) -> String {
    let same = bytes.iter().zip(other).take_while(|(a, b)| a == b).count();
    let from = if bytes.len() > SHOWN {
        same.saturating_sub(SHOWN / 4)
    } else {
        0
    };
    shown(name, bytes, from) + "\n"
}

fn shown(name: &str, bytes: &[u8], from: usize) -> String {
    let part = &bytes[from..bytes.len().min(from + SHOWN)];
    let text = part.escape_ascii();
    if part.len() == bytes.len() {
        format!("{name}: {text}")
    } else {
        format!("{name}, {} bytes, from byte {from}: {text}", bytes.len())
    }
}
