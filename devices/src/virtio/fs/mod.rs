//! File system device (§5.11): a directory of the host that a vhost-user backend, virtiofsd,
//! serves straight from guest memory. The device itself only introduces the two to each
//! other (`session`): kicks go from the hypervisor to the backend, and its interrupts back.

mod session;

use std::fmt;
use std::io;
use std::os::unix::net::UnixStream;

use thiserror::Error;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::{ActivateError, Activation, DeviceType, VirtioDevice, copy_config};
use session::Session;

/// The longest tag in bytes (§5.11.4).
const MAX_TAG: usize = 36;

/// High priority and requests (§5.11.2). A request queue of this size lets Linux put 1 MiB in
/// one request.
const QUEUE_SIZES: [u16; 2] = [128, 1024];

const REQUEST_QUEUES: u32 = 1;

/// What a file system device is made of.
#[derive(Debug)]
pub struct FsSpec {
    /// The name that the guest mounts: 1 to 36 bytes, none of them zero.
    pub tag: String,
    /// A connection to the backend's vhost-user socket. The backend need not answer before
    /// the guest's driver is ready.
    pub socket: UnixStream,
}

/// Why a file system device cannot be made.
#[derive(Debug, Error)]
pub enum FsError {
    /// The tag does not fit the configuration space.
    #[error("Tag {tag:?} has {len} bytes, it must have 1 to {MAX_TAG}", len = .tag.len())]
    TagLength { tag: String },
    /// The tag would end at its first zero.
    #[error("Tag {tag:?} has a zero byte in it")]
    TagZero { tag: String },
    /// The socket to the backend is not one.
    #[error("The socket to the vhost-user backend cannot be used")]
    Socket(#[source] io::Error),
}

/// A file system device.
pub struct Fs {
    /// `struct virtio_fs_config` without what notifications need (§5.11.4).
    config: [u8; MAX_TAG + 4],
    session: Session,
}

impl Fs {
    /// A file system device. Does not talk to the backend yet.
    pub fn new(spec: FsSpec) -> Result<Self, FsError> {
        let tag = spec.tag.as_bytes();
        if !(1..=MAX_TAG).contains(&tag.len()) {
            return Err(FsError::TagLength { tag: spec.tag });
        }
        if tag.contains(&0) {
            return Err(FsError::TagZero { tag: spec.tag });
        }
        let mut config = [0; MAX_TAG + 4];
        config[..tag.len()].copy_from_slice(tag);
        config[MAX_TAG..].copy_from_slice(&REQUEST_QUEUES.to_le_bytes());
        let session = Session::new(spec.socket, QUEUE_SIZES.len()).map_err(FsError::Socket)?;
        Ok(Self { config, session })
    }
}

impl fmt::Debug for Fs {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let tag = String::from_utf8_lossy(&self.config[..MAX_TAG]);
        f.debug_struct("Fs")
            .field("tag", &tag.trim_end_matches('\0'))
            .finish_non_exhaustive()
    }
}

impl VirtioDevice for Fs {
    fn device_type(&self) -> DeviceType {
        DeviceType::Fs
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        copy_config(&self.config, offset, data);
    }

    fn activate(&mut self, mut activation: Activation) -> Result<(), ActivateError> {
        let queues: [_; QUEUE_SIZES.len()] = activation.take_queues()?;
        self.session.start(&activation, &queues)
    }

    fn reset(&mut self) {
        self.session.stop();
    }
}

#[cfg(test)]
mod tests;
