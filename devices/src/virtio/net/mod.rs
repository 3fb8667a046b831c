//! Network device (§5.1) on a tap interface of the host. Checksums and segmentation are left
//! to whichever side is cheaper, by the header that virtio-net and taps share.

use std::fs::File;
use std::io;
use std::sync::Arc;

use thiserror::Error;
use virtio_bindings::virtio_net::{
    VIRTIO_NET_F_CSUM, VIRTIO_NET_F_GUEST_CSUM, VIRTIO_NET_F_GUEST_TSO4, VIRTIO_NET_F_GUEST_TSO6,
    VIRTIO_NET_F_HOST_TSO4, VIRTIO_NET_F_HOST_TSO6, VIRTIO_NET_F_MAC, VIRTIO_NET_F_MRG_RXBUF,
    VIRTIO_NET_F_MTU,
};
use virtio_bindings::virtio_ring::{VIRTIO_RING_F_EVENT_IDX, VIRTIO_RING_F_INDIRECT_DESC};

use super::worker::Worker;
use super::{ActivateError, Activation, DeviceType, VirtioDevice, copy_config};
use handler::Handler;

pub use tap::{TapError, open_tap};

mod handler;
mod receive;
mod tap;
mod transmit;

/// Bytes of `struct virtio_net_hdr` before each frame (§5.1.6). With VERSION_1 it always has
/// `num_buffers`.
const HEADER_LEN: usize = 12;

/// Bytes around the payload of a frame: Ethernet's header and a VLAN tag.
const FRAME_OVERHEAD: usize = 18;

/// The longest frame that segmentation offload makes, with its header: a whole IP packet.
const MAX_FRAME: usize = HEADER_LEN + FRAME_OVERHEAD + u16::MAX as usize;

const DEFAULT_MTU: u16 = 1500;

/// IPv4's least (RFC 791), and the least that drivers take.
const MIN_MTU: u16 = 68;

/// To the guest, from the guest.
const QUEUE_SIZES: [u16; 2] = [256, 256];

const CONFIG_LEN: usize = 12;

/// What a network interface of the guest is made of.
#[derive(Debug)]
pub struct NetSpec {
    /// A tap with virtio-net headers, as [`open_tap`] gives it.
    pub tap: File,
    /// The guest's hardware address.
    pub mac: [u8; 6],
    /// The longest IP packet, in bytes, for the guest to set; its own default if none.
    pub mtu: Option<u16>,
}

/// Why there can be no such network interface.
#[derive(Debug, Error)]
pub enum NetError {
    /// The file is something else.
    #[error("The file is no tap with virtio-net headers (IFF_TAP, IFF_NO_PI and IFF_VNET_HDR)")]
    NotATap,
    /// The host refused to set the tap up.
    #[error("The tap cannot be set up")]
    Tap(#[source] io::Error),
    /// No interface has this address.
    #[error("{} is no hardware address of an interface: it is zero or for a group", mac_text(.0))]
    BadMac([u8; 6]),
    /// Too small.
    #[error("An MTU of {0} is too small: it must be {MIN_MTU} to 65535")]
    BadMtu(u16),
}

fn mac_text(mac: &[u8; 6]) -> String {
    mac.map(|byte| format!("{byte:02x}")).join(":")
}

/// A network interface.
#[derive(Debug)]
pub struct Net {
    tap: Arc<File>,
    mtu: Option<u16>,
    config: [u8; CONFIG_LEN],
    worker: Option<Worker<Handler>>,
}

impl Net {
    /// Makes a network interface of `spec`.
    pub fn new(spec: NetSpec) -> Result<Self, NetError> {
        let NetSpec { tap, mac, mtu } = spec;
        let group = mac[0] & 1 != 0;
        if group || mac == [0; 6] {
            return Err(NetError::BadMac(mac));
        }
        if let Some(mtu) = mtu
            && mtu < MIN_MTU
        {
            return Err(NetError::BadMtu(mtu));
        }
        if !tap::is_usable(&tap) {
            return Err(NetError::NotATap);
        }
        tap::set_nonblocking(&tap).map_err(NetError::Tap)?;
        // `struct virtio_net_config` (§5.1.4): the address, what belongs to features that are
        // not offered, and the MTU.
        let mut config = [0; CONFIG_LEN];
        config[..6].copy_from_slice(&mac);
        config[10..].copy_from_slice(&mtu.unwrap_or_default().to_le_bytes());
        Ok(Self {
            tap: Arc::new(tap),
            mtu,
            config,
            worker: None,
        })
    }
}

impl VirtioDevice for Net {
    fn device_type(&self) -> DeviceType {
        DeviceType::Net
    }

    fn queue_max_sizes(&self) -> &[u16] {
        &QUEUE_SIZES
    }

    fn features(&self) -> u64 {
        let offered = [
            VIRTIO_NET_F_CSUM,
            VIRTIO_NET_F_GUEST_CSUM,
            VIRTIO_NET_F_GUEST_TSO4,
            VIRTIO_NET_F_GUEST_TSO6,
            VIRTIO_NET_F_HOST_TSO4,
            VIRTIO_NET_F_HOST_TSO6,
            VIRTIO_NET_F_MRG_RXBUF,
            VIRTIO_NET_F_MAC,
            VIRTIO_RING_F_INDIRECT_DESC,
            VIRTIO_RING_F_EVENT_IDX,
        ];
        let mtu = self.mtu.map(|_| VIRTIO_NET_F_MTU);
        offered
            .into_iter()
            .chain(mtu)
            .fold(0, |features, bit| features | 1 << bit)
    }

    fn read_config(&self, offset: u64, data: &mut [u8]) {
        copy_config(&self.config, offset, data);
    }

    fn activate(&mut self, activation: Activation) -> Result<(), ActivateError> {
        tap::configure(&self.tap, activation.features)?;
        let handler = Handler::new(self.tap.clone(), self.mtu, activation)?;
        self.worker = Some(Worker::spawn("virtio-net", handler)?);
        Ok(())
    }

    fn reset(&mut self) {
        if let Some(worker) = self.worker.take() {
            worker.stop();
            tap::quiesce(&self.tap);
        }
    }
}

#[cfg(test)]
mod tests;
