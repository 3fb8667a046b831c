//! Socket device (§5.10): stream sockets between programs of the host and of the guest,
//! without any help from the host's kernel.
//!
//! A host program connects to the device's Unix socket and writes `CONNECT <port>\n`. When a
//! program of the guest accepts at that port, the host program reads `OK <port>\n`, with the
//! port that its end has in the guest's eyes, and then both talk; else the connection closes.
//! A guest program that connects to port P of the host reaches the Unix socket `{prefix}_P`.
//!
//! The thread of `worker` owns everything. `table` finds the connection that a packet or
//! an event is for, `connection` is what the specification says of one, `stream` its Unix
//! socket.

mod connection;
mod handshake;
mod packet;
mod stream;
mod table;
mod worker;

use std::io;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use thiserror::Error;
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::worker::Worker;
use super::{ActivateError, Activation, DeviceType, VirtioDevice, copy_config};
use table::Table;
use worker::Handler;

/// Receive, transmit, event (§5.10.2).
const QUEUE_SIZES: [u16; 3] = [128, 128, 16];

/// The longest path that `sockaddr_un` holds, in bytes, with room for its terminating zero.
const MAX_PATH: usize = 107;

/// The longest that `_P` can be.
const MAX_SUFFIX: usize = "_4294967295".len();

/// What a socket device is made of.
#[derive(Debug)]
pub struct VsockSpec {
    /// The guest's address: 3 or more, and less than 2³² - 1.
    pub cid: u64,
    /// Where host programs connect. Connections that come before the guest's driver is ready
    /// wait in the listener's backlog.
    pub listener: UnixListener,
    /// The guest's connections to port P of the host go to the Unix socket `{prefix}_P`.
    pub prefix: PathBuf,
}

/// Why a socket device cannot be made.
#[derive(Debug, Error)]
pub enum VsockError {
    /// The CID is one that the specification keeps for itself (§5.10.4).
    #[error("CID {0} is reserved, it must be from 3 to 4294967294")]
    ReservedCid(u64),
    /// Paths of Unix sockets are short.
    #[error("Prefix {prefix} has {len} bytes, the most is {MAX_PREFIX}", len = .prefix.as_os_str().len())]
    LongPrefix { prefix: PathBuf },
    /// The listener is not one.
    #[error("The listening socket cannot be used")]
    Listener(#[source] io::Error),
}

const MAX_PREFIX: usize = MAX_PATH - MAX_SUFFIX;

/// A socket device.
#[derive(Debug)]
pub struct Vsock {
    spec: VsockSpec,
    worker: Option<Worker<Handler>>,
}

impl Vsock {
    /// A socket device with no connections.
    pub fn new(spec: VsockSpec) -> Result<Self, VsockError> {
        if !(3..u64::from(u32::MAX)).contains(&spec.cid) {
            return Err(VsockError::ReservedCid(spec.cid));
        }
        if spec.prefix.as_os_str().as_bytes().len() > MAX_PREFIX {
            return Err(VsockError::LongPrefix {
                prefix: spec.prefix,
            });
        }
        spec.listener
            .set_nonblocking(true)
            .map_err(VsockError::Listener)?;
        Ok(Self { spec, worker: None })
    }
}

impl VirtioDevice for Vsock {
    fn device_type(&self) -> DeviceType {
        DeviceType::Vsock
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        1 << VIRTIO_RING_F_INDIRECT_DESC | 1 << VIRTIO_RING_F_EVENT_IDX
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        // `struct virtio_vsock_config` (§5.10.4).
        copy_config(&self.spec.cid.to_le_bytes(), offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        let listener = self.spec.listener.try_clone()?;
        let table = Table::new(self.spec.cid, self.spec.prefix.clone());
        let handler = Handler::new(activation, listener, table)?;
        self.worker = Some(Worker::spawn("virtio-vsock", handler)?);
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(handler) = self.worker.take().and_then(Worker::stop) {
            handler.finish();
        }
    }
}

#[cfg(test)]
mod tests {
    mod guest;
    mod hostile;
    mod limits;
    mod talk;
}
