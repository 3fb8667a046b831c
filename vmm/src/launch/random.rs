//! Random bytes, for names and addresses.

use std::io;

/// Bytes from the kernel's generator.
pub(crate) fn bytes<const N: usize>() -> io::Result<[u8; N]> {
    let mut bytes = [0; N];
    // SAFETY: the pointer and length are those of `bytes`.
    let n = unsafe { libc::getrandom(bytes.as_mut_ptr().cast(), N, 0) };
    // Up to 256 bytes are never cut short (getrandom(2)).
    if usize::try_from(n) == Ok(N) {
        Ok(bytes)
    } else {
        Err(io::Error::last_os_error())
    }
}

/// A name for a machine that was given none.
pub(crate) fn name() -> io::Result<String> {
    let number = u32::from_le_bytes(bytes()?);
    Ok(format!("vm-{number:08x}"))
}
