//! Block device (§5.2): a raw file or block device of the host as the guest's disk.

use std::fs::File;
use std::sync::Arc;

use thiserror::Error;
use virtio_bindings::virtio_blk::{
    VIRTIO_BLK_F_BLK_SIZE, VIRTIO_BLK_F_DISCARD, VIRTIO_BLK_F_FLUSH, VIRTIO_BLK_F_MQ,
    VIRTIO_BLK_F_RO, VIRTIO_BLK_F_SEG_MAX, VIRTIO_BLK_F_WRITE_ZEROES,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::worker::Worker;
use super::{ActivateError, Activation, DeviceType, VirtioDevice, copy_config};
use disk::Disk;
use handler::Handler;

mod disk;
mod handler;
mod request;

/// Bytes of a sector: the unit of all positions and of the capacity (§5.2.4).
const SECTOR: u64 = 512;

/// Bytes of the answer to GET_ID (§5.2.6).
const ID_LEN: usize = 20;

const QUEUE_SIZE: u16 = 256;

/// Buffers of data in one request: a chain that fills the queue, less header and status.
const SEG_MAX: u32 = QUEUE_SIZE as u32 - 2;

/// Sectors in one range of a discard: 2 GiB.
const MAX_DISCARD_SECTORS: u32 = 1 << 22;

/// Ranges in one discard.
const MAX_DISCARD_RANGES: u32 = 64;

/// Sectors in one write of zeroes, 64 MiB: a file system that cannot do it otherwise has them
/// written out, and a reset waits for that.
const MAX_WRITE_ZEROES_SECTORS: u32 = 1 << 17;

const CONFIG_LEN: usize = 60;

/// What a disk is made of.
#[derive(Debug)]
pub struct BlockSpec {
    /// A regular file or block device, open for reading and, unless `read_only`, writing. Its
    /// content is the disk's, byte for byte: no format is looked for.
    pub file: File,
    /// Whether the guest may only read.
    pub read_only: bool,
    /// The serial number that the guest sees, of which 20 bytes count; it names the disk in
    /// errors.
    pub id: String,
    /// How many virtqueues, each with a thread of its own.
    pub queues: u16,
}

/// Why a file cannot be a disk.
#[derive(Debug, Error)]
pub enum BlockError {
    /// The file's properties could not be had.
    #[error("Disk {id} cannot be examined")]
    Examine {
        id: String,
        #[source]
        source: std::io::Error,
    },
    /// It is a directory, a pipe or the like.
    #[error("Disk {id} is neither a regular file nor a block device")]
    NotADisk { id: String },
    /// It holds nothing.
    #[error("Disk {id} is empty, but must have at least 512 bytes")]
    Empty { id: String },
    /// It does not consist of whole sectors.
    #[error("Disk {id} has {size} bytes, which is not a multiple of 512")]
    PartialSector { id: String, size: u64 },
    /// The guest is to write, but the file descriptor cannot.
    #[error("Disk {id} is not read-only, but its file was not opened for writing")]
    NotWritable { id: String },
    /// There must be a queue.
    #[error("Disk {id} has 0 queues, but needs at least 1")]
    NoQueues { id: String },
}

/// A disk.
#[derive(Debug)]
pub struct Block {
    disk: Arc<Disk>,
    features: u64,
    config: [u8; CONFIG_LEN],
    queue_sizes: Vec<u16>,
    workers: Vec<Worker<Handler>>,
}

impl Block {
    /// Makes a disk of `spec`. Its size is taken now, and does not change.
    pub fn new(spec: BlockSpec) -> Result<Self, BlockError> {
        if spec.queues == 0 {
            return Err(BlockError::NoQueues { id: spec.id });
        }
        let queue_sizes = vec![QUEUE_SIZE; usize::from(spec.queues)];
        let queues = spec.queues;
        let disk = Disk::new(spec)?;
        let mut features = 1 << VIRTIO_BLK_F_SEG_MAX
            | 1 << VIRTIO_BLK_F_BLK_SIZE
            | 1 << VIRTIO_BLK_F_FLUSH
            | 1 << VIRTIO_RING_F_INDIRECT_DESC
            | 1 << VIRTIO_RING_F_EVENT_IDX;
        if queues > 1 {
            features |= 1 << VIRTIO_BLK_F_MQ;
        }
        if disk.read_only() {
            features |= 1 << VIRTIO_BLK_F_RO;
        } else {
            features |= 1 << VIRTIO_BLK_F_WRITE_ZEROES;
            if disk.can_discard() {
                features |= 1 << VIRTIO_BLK_F_DISCARD;
            }
        }
        Ok(Self {
            config: config_space(&disk, queues),
            disk: Arc::new(disk),
            features,
            queue_sizes,
            workers: Vec::new(),
        })
    }
}

/// `struct virtio_blk_config` (§5.2.4).
fn config_space(disk: &Disk, queues: u16) -> [u8; CONFIG_LEN] {
    let mut config = [0; CONFIG_LEN];
    let mut put = |offset: usize, bytes: &[u8]| {
        config[offset..offset + bytes.len()].copy_from_slice(bytes);
    };
    put(0, &disk.sectors().to_le_bytes());
    put(12, &SEG_MAX.to_le_bytes());
    put(20, &disk.block_size().to_le_bytes());
    put(34, &queues.to_le_bytes());
    if !disk.read_only() {
        let sectors_per_block = disk.block_size() / 512;
        put(36, &MAX_DISCARD_SECTORS.to_le_bytes());
        put(40, &MAX_DISCARD_RANGES.to_le_bytes());
        put(44, &sectors_per_block.to_le_bytes());
        put(48, &MAX_WRITE_ZEROES_SECTORS.to_le_bytes());
        // Ranges in one write of zeroes, and that it may unmap them.
        put(52, &1u32.to_le_bytes());
        put(56, &[1]);
    }
    config
}

impl VirtioDevice for Block {
    fn device_type(&self) -> DeviceType {
        DeviceType::Block
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &self.queue_sizes
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        copy_config(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        if activation.queues.is_empty() {
            return Err(ActivateError::MissingQueue(0));
        }
        // Without FLUSH the driver takes every write for durable (§5.2.6.2).
        let write_through = !activation.has(VIRTIO_BLK_F_FLUSH);
        for queue in activation.queues {
            let name = format!("virtio-blk-{}", queue.index);
            let handler = Handler::new(
                self.disk.clone(),
                activation.memory.clone(),
                super::vring::Vring::new(queue, activation.interrupt.clone()),
                write_through,
            );
            match Worker::spawn(&name, handler) {
                Ok(worker) => self.workers.push(worker),
                Err(error) => {
                    self.reset();
                    return Err(error.into());
                }
            }
        }
        Ok(())
    }

    fn reset(&mut self) {
        for worker in self.workers.drain(..) {
            worker.stop();
        }
    }
}

#[cfg(test)]
mod tests;
