//! The header of every vsock packet (§5.10.6) and the constants in it.

/// Length of a header on the wire in bytes.
pub(super) const HEADER_LEN: u32 = 44;

/// A header on the wire.
pub(super) type HeaderBytes = [u8; HEADER_LEN as usize];

/// The host's CID (§5.10.4).
pub(super) const HOST_CID: u64 = 2;

/// Socket types (§5.10.6). The only one that the device offers.
pub(super) const TYPE_STREAM: u16 = 1;

/// What a packet does (§5.10.6).
pub(super) mod op {
    pub(crate) const REQUEST: u16 = 1;
    pub(crate) const RESPONSE: u16 = 2;
    pub(crate) const RST: u16 = 3;
    pub(crate) const SHUTDOWN: u16 = 4;
    pub(crate) const RW: u16 = 5;
    pub(crate) const CREDIT_UPDATE: u16 = 6;
    pub(crate) const CREDIT_REQUEST: u16 = 7;
}

/// Flags of a SHUTDOWN packet (§5.10.6.6.2): what its sender will do no more.
pub(super) mod shutdown {
    pub(crate) const RECEIVE: u32 = 1;
    pub(crate) const SEND: u32 = 2;
    pub(crate) const BOTH: u32 = RECEIVE | SEND;
}

/// `struct virtio_vsock_hdr` (§5.10.6): little-endian, in this order, without padding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Header {
    pub(super) src_cid: u64,
    pub(super) dst_cid: u64,
    pub(super) src_port: u32,
    pub(super) dst_port: u32,
    /// Length of the payload in bytes.
    pub(super) len: u32,
    /// The socket type.
    pub(super) kind: u16,
    pub(super) op: u16,
    pub(super) flags: u32,
    /// Size of the sender's receive buffer for this connection in bytes.
    pub(super) buf_alloc: u32,
    /// How many bytes left that buffer so far, modulo 2³².
    pub(super) fwd_cnt: u32,
}

/// The two ports that name a connection. The CIDs are always the host's and the guest's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct Ports {
    pub(super) host: u32,
    pub(super) guest: u32,
}

impl Header {
    pub(super) fn from_bytes(bytes: &HeaderBytes) -> Self {
        let mut rest = &bytes[..];
        Self {
            src_cid: u64::from_le_bytes(take(&mut rest)),
            dst_cid: u64::from_le_bytes(take(&mut rest)),
            src_port: u32::from_le_bytes(take(&mut rest)),
            dst_port: u32::from_le_bytes(take(&mut rest)),
            len: u32::from_le_bytes(take(&mut rest)),
            kind: u16::from_le_bytes(take(&mut rest)),
            op: u16::from_le_bytes(take(&mut rest)),
            flags: u32::from_le_bytes(take(&mut rest)),
            buf_alloc: u32::from_le_bytes(take(&mut rest)),
            fwd_cnt: u32::from_le_bytes(take(&mut rest)),
        }
    }

    pub(super) fn to_bytes(self) -> HeaderBytes {
        let mut bytes = [0; HEADER_LEN as usize];
        let mut rest = &mut bytes[..];
        put(&mut rest, self.src_cid.to_le_bytes());
        put(&mut rest, self.dst_cid.to_le_bytes());
        put(&mut rest, self.src_port.to_le_bytes());
        put(&mut rest, self.dst_port.to_le_bytes());
        put(&mut rest, self.len.to_le_bytes());
        put(&mut rest, self.kind.to_le_bytes());
        put(&mut rest, self.op.to_le_bytes());
        put(&mut rest, self.flags.to_le_bytes());
        put(&mut rest, self.buf_alloc.to_le_bytes());
        put(&mut rest, self.fwd_cnt.to_le_bytes());
        bytes
    }

    /// The ports of a packet that the guest sent.
    pub(super) fn ports(&self) -> Ports {
        Ports {
            host: self.dst_port,
            guest: self.src_port,
        }
    }

    /// The RST that answers this packet: from where it went, to where it came from.
    pub(super) fn reset(&self) -> Self {
        Self {
            src_cid: self.dst_cid,
            dst_cid: self.src_cid,
            src_port: self.dst_port,
            dst_port: self.src_port,
            kind: self.kind,
            op: op::RST,
            ..Self::default()
        }
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> [u8; N] {
    let (field, tail) = rest
        .split_first_chunk()
        .expect("the fields fill the header");
    *rest = tail;
    *field
}

fn put<const N: usize>(rest: &mut &mut [u8], field: [u8; N]) {
    let (head, tail) = std::mem::take(rest)
        .split_first_chunk_mut()
        .expect("the fields fill the header");
    *head = field;
    *rest = tail;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_lie_where_the_specification_has_them() {
        let header = Header {
            src_cid: 0x0102_0304_0506_0708,
            dst_cid: 2,
            src_port: 0x1112_1314,
            dst_port: 0x2122_2324,
            len: 0x3132_3334,
            kind: 0x4142,
            op: 0x5152,
            flags: 0x6162_6364,
            buf_alloc: 0x7172_7374,
            fwd_cnt: 0x8182_8384,
        };
        let bytes = header.to_bytes();
        assert_eq!(bytes[..8], [8, 7, 6, 5, 4, 3, 2, 1]);
        assert_eq!(bytes[16..20], [0x14, 0x13, 0x12, 0x11]);
        assert_eq!(bytes[24..28], [0x34, 0x33, 0x32, 0x31]);
        assert_eq!(bytes[28..32], [0x42, 0x41, 0x52, 0x51]);
        assert_eq!(bytes[40..], [0x84, 0x83, 0x82, 0x81]);
        assert_eq!(Header::from_bytes(&bytes), header);
    }

    #[test]
    fn a_reset_goes_back_to_the_sender() {
        let header = Header {
            src_cid: 3,
            dst_cid: 2,
            src_port: 5,
            dst_port: 7,
            len: 9,
            kind: 8,
            ..Header::default()
        };
        let reset = header.reset();
        assert_eq!((reset.src_cid, reset.dst_cid), (2, 3));
        assert_eq!((reset.src_port, reset.dst_port), (7, 5));
        assert_eq!((reset.op, reset.kind, reset.len), (op::RST, 8, 0));
    }
}
