//! The newc cpio format, as the kernel unpacks it
//! (Documentation/driver-api/early-userspace/buffer-format.rst).

/// Kind of an entry, in the bits of `st_mode`.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Directory,
    File,
}

/// Bytes that make `len` a multiple of 4, as every header and content must be.
pub(super) fn padding(len: u64) -> usize {
    usize::try_from(len.wrapping_neg() % 4).expect("less than 4")
}

/// The header of an entry called `name` (no leading slash), with content of `size` bytes.
/// The content and its [`padding`] follow.
pub(super) fn header(name: &str, kind: Kind, permissions: u32, size: u32) -> Vec<u8> {
    let (kind, links) = match kind {
        Kind::Directory => (0o040_000, 2),
        Kind::File => (0o100_000, 1),
    };
    raw_header(name, kind | permissions & 0o7777, links, size)
}

/// The entry that ends an archive.
pub(super) fn trailer() -> Vec<u8> {
    raw_header("TRAILER!!!", 0, 1, 0)
}

fn raw_header(name: &str, mode: u32, links: u32, size: u32) -> Vec<u8> {
    // With its NUL. Paths are a few bytes long; the kernel takes 4096.
    let name_len = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
    let fields = [
        0, // inode: entries with one link need none
        mode, 0, // owner
        0, // group
        links, 0, // modification time
        size, 0, 0, 0, 0, // device numbers
        name_len, 0, // checksum, not used by this variant
    ];
    let mut bytes = b"070701".to_vec();
    for field in fields {
        bytes.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(0);
    bytes.resize(bytes.len() + padding(bytes.len() as u64), 0);
    bytes
}
