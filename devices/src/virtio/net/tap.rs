//! Tap interfaces: the host's end of a network device.

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;

use thiserror::Error;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
};

use super::HEADER_LEN;
use crate::virtio::buffers::retry;

const TUN: &str = "/dev/net/tun";

/// Frames that may wait in a tap's queue, and more.
const QUEUED_FRAMES: usize = 4096;

/// Why a tap could not be opened.
#[derive(Debug, Error)]
pub enum TapError {
    /// No interface can have this name.
    #[error("'{0}' is no name for an interface: it takes 1 to 15 letters, digits, '-', '_', '.'")]
    BadName(String),
    /// The host has no tap interfaces.
    #[error("{TUN} is not there: the host's kernel lacks the tun module")]
    NoTun,
    /// Opening or attaching takes more rights.
    #[error("Tap {0} needs CAP_NET_ADMIN, or to be owned by this user")]
    NotPermitted(String),
    /// Another process has it.
    #[error("Tap {0} is in use by another process")]
    InUse(String),
    /// The name belongs to an interface of another kind.
    #[error("Interface {0} is there, but is no tap with a single queue")]
    NotATap(String),
    /// The host refused for another reason.
    #[error("Tap {name} cannot be opened")]
    Host {
        name: String,
        #[source]
        source: io::Error,
    },
}

/// Opens the tap interface `name`, with a virtio-net header before each frame. One that is
/// not there is created, and goes when the file is closed.
pub fn open_tap(name: &str) -> Result<File, TapError> {
    let allowed = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    if name.is_empty()
        || name.len() > 15
        || !name.bytes().all(allowed)
        || [".", ".."].contains(&name)
    {
        return Err(TapError::BadName(name.to_owned()));
    }
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_NONBLOCK)
        .open(TUN)
        .map_err(|error| match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENODEV | libc::ENXIO) => TapError::NoTun,
            _ => refusal(name, error),
        })?;
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_VNET_HDR;
    let mut request = interface_request(name);
    request.ifr_ifru.ifru_flags = i16::try_from(flags).expect("flags of 16 bits");
    // SAFETY: TUNSETIFF reads and writes an `ifreq`.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) } < 0 {
        return Err(refusal(name, io::Error::last_os_error()));
    }
    Ok(file)
}

fn refusal(name: &str, source: io::Error) -> TapError {
    let name = name.to_owned();
    match source.raw_os_error() {
        Some(libc::EPERM | libc::EACCES) => TapError::NotPermitted(name),
        Some(libc::EBUSY) => TapError::InUse(name),
        Some(libc::EINVAL) => TapError::NotATap(name),
        _ => TapError::Host { name, source },
    }
}

/// An `ifreq` for `name`, which is known to fit.
pub(super) fn interface_request(name: &str) -> libc::ifreq {
    // SAFETY: an `ifreq` is plain data, for which zeroes are a value.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = libc::c_char::from_ne_bytes([from]);
    }
    request
}

/// Whether `file` is a tap with virtio-net headers.
pub(super) fn is_usable(file: &File) -> bool {
    let mut request = interface_request("");
    // SAFETY: TUNGETIFF writes an `ifreq`.
    if unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNGETIFF, &raw mut request) } < 0 {
        return false;
    }
    // SAFETY: TUNGETIFF sets the flags.
    let flags = libc::c_int::from(unsafe { request.ifr_ifru.ifru_flags });
    let needed = libc::IFF_TAP | libc::IFF_VNET_HDR | libc::IFF_NO_PI;
    flags & needed == needed
}

/// Has reads and writes never wait.
pub(super) fn set_nonblocking(file: &File) -> io::Result<()> {
    // SAFETY: F_GETFL touches no memory.
    let flags = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_GETFL) };
    if flags < 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: neither does F_SETFL.
    let set = unsafe { libc::fcntl(file.as_raw_fd(), libc::F_SETFL, flags | libc::O_NONBLOCK) };
    if set < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}

/// Has the host send what the guest can take, by the features that its driver negotiated.
pub(super) fn configure(tap: &File, features: u64) -> io::Result<()> {
    let header_len = libc::c_int::try_from(HEADER_LEN).expect("12");
    // SAFETY: TUNSETVNETHDRSZ reads an int.
    let sized = unsafe {
        libc::ioctl(
            tap.as_raw_fd(),
            libc::TUNSETVNETHDRSZ,
            &raw const header_len,
        )
    };
    if sized < 0 {
        return Err(io::Error::last_os_error());
    }
    let mut offloads = 0;
    if features & (1 << VIRTIO_NET_F_GUEST_CSUM) != 0 {
        offloads |= libc::TUN_F_CSUM;
        for (bit, offload) in [
            (VIRTIO_NET_F_GUEST_TSO4, libc::TUN_F_TSO4),
            (VIRTIO_NET_F_GUEST_TSO6, libc::TUN_F_TSO6),
        ] {
            if features & (1 << bit) != 0 {
                offloads |= offload;
            }
        }
    }
    set_offloads(tap, offloads)
}

/// Has the host send plain frames only, and drops what it sent for the last driver, which the
/// next one may not be able to take.
pub(super) fn quiesce(tap: &File) {
    if let Err(error) = set_offloads(tap, 0) {
        log::warn!("cannot turn the offloads of a tap off: {error}");
    }
    // Reading less than a frame drops the rest of it.
    let mut header = [0u8; 64];
    for _ in 0..QUEUED_FRAMES {
        // SAFETY: the kernel writes at most `header.len()` bytes to it.
        let read = retry(|| unsafe {
            libc::read(tap.as_raw_fd(), header.as_mut_ptr().cast(), header.len())
        });
        if read.is_err() {
            break;
        }
    }
}

fn set_offloads(tap: &File, offloads: libc::c_uint) -> io::Result<()> {
    let offloads = libc::c_ulong::from(offloads);
    // SAFETY: TUNSETOFFLOAD takes its argument by value.
    if unsafe { libc::ioctl(tap.as_raw_fd(), libc::TUNSETOFFLOAD, offloads) } < 0 {
        return Err(io::Error::last_os_error());
    }
    Ok(())
}
