//! Frames from the guest to the tap.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;

use vm_memory::GuestMemoryMmap;

use super::{HEADER_LEN, MAX_FRAME};
use crate::virtio::buffers::split_chain;
use crate::virtio::vring::{Chain, Served, Vring};

/// Sends what the guest has made available. Returns whether there is more, for which the tap
/// has no room now.
pub(super) fn transmit(vring: &mut Vring, memory: &GuestMemoryMmap, tap: &File) -> bool {
    let mut blocked = false;
    vring.serve(memory, |chain| match send(memory, chain, tap) {
        Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
            blocked = true;
            Served::Later
        }
        Err(error) => {
            log::debug!("frame dropped: {error}");
            Served::Used(0)
        }
        Ok(()) => Served::Used(0),
    });
    blocked
}

/// Sends one frame, as it lies in guest memory. The kernel checks its header.
fn send<'m>(memory: &'m GuestMemoryMmap, chain: Chain<'m>, tap: &File) -> io::Result<()> {
    let (frame, _) = split_chain(memory, chain).map_err(io::Error::other)?;
    let length_fits = (HEADER_LEN as u64 + 1..=MAX_FRAME as u64).contains(&frame.len());
    if !length_fits || !frame.fit_one_call() {
        return Err(io::ErrorKind::InvalidData.into());
    }
    // A tap takes a frame whole or not at all.
    frame.write_to(tap.as_fd())?;
    Ok(())
}
