//! Archives in the format newc, as the kernel unpacks them (Linux,
//! `Documentation/driver-api/early-userspace/buffer-format.rst`).

/// Kind of an entry.
#[derive(Clone, Copy, Debug)]
pub enum Kind {
    Directory,
    File,
}

/// Bytes that make `len` a multiple of 4, as every header and content must be.
pub fn padding(len: u64) -> usize {
    usize::try_from(len.wrapping_neg() % 4).expect("less than 4")
}

/// The header of root's entry called `name` (no leading slash), with content of `size`
/// bytes. The content and its [`padding`] follow.
pub fn header(name: &str, kind: Kind, permissions: u32, size: u32) -> Vec<u8> {
    let (kind, links) = match kind {
        Kind::Directory => (0o040_000, 2),
        Kind::File => (0o100_000, 1),
    };
    raw_header(name, kind | permissions & 0o7777, links, size)
}

/// The entry that ends an archive.
pub fn trailer() -> Vec<u8> {
    raw_header("TRAILER!!!", 0, 1, 0)
}

fn raw_header(name: &str, mode: u32, links: u32, size: u32) -> Vec<u8> {
    // Entries without hard links need no inode number, and the kernel takes neither owner
    // nor device numbers of 0 for special. This variant has no checksum.
    let (inode, owner, group, time, major, minor, check) = (0, 0, 0, 0, 0, 0, 0);
    let name_size = u32::try_from(name.len() + 1).unwrap_or(u32::MAX);
    let fields = [
        inode, mode, owner, group, links, time, size, major, minor, major, minor, name_size, check,
    ];
    let mut bytes = b"070701".to_vec();
    for field in fields {
        bytes.extend_from_slice(format!("{field:08x}").as_bytes());
    }
    bytes.extend_from_slice(name.as_bytes());
    bytes.push(0);
    pad(&mut bytes);
    bytes
}

fn pad(bytes: &mut Vec<u8>) {
    bytes.resize(bytes.len() + padding(bytes.len() as u64), 0);
}

/// Puts an archive together.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Adds a directory. The kernel makes no parents by itself.
    pub fn directory(&mut self, path: &str) {
        self.bytes.extend(header(path, Kind::Directory, 0o755, 0));
    }

    /// Adds a regular file of root's.
    ///
    /// # Panics
    /// If `content` has 4 GiB or more.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        let size = u32::try_from(content.len()).expect("files of 4 GiB are no part of a boot");
        self.bytes
            .extend(header(path, Kind::File, permissions, size));
        self.bytes.extend_from_slice(content);
        pad(&mut self.bytes);
    }

    /// The whole archive, a multiple of 4 bytes long.
    pub fn finish(mut self) -> Vec<u8> {
        self.bytes.extend(trailer());
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_archive_is_laid_out_as_the_kernel_reads_it() {
        let mut writer = Writer::default();
        writer.directory("lib");
        writer.file("lib/x", 0o644, b"abcde");
        let bytes = writer.finish();
        let lib = "070701 00000000 000041ed 00000000 00000000 00000002 00000000 00000000 \
                   00000000 00000000 00000000 00000000 00000004 00000000 lib\0\0\0";
        let file = "070701 00000000 000081a4 00000000 00000000 00000001 00000000 00000005 \
                    00000000 00000000 00000000 00000000 00000006 00000000 lib/x\0abcde\0\0\0";
        let trailer = "070701 00000000 00000000 00000000 00000000 00000001 00000000 00000000 \
                       00000000 00000000 00000000 00000000 0000000b 00000000 TRAILER!!!\0\0\0\0";
        let expected = [lib, file, trailer].concat().replace(' ', "");
        assert_eq!(String::from_utf8(bytes.clone()).unwrap(), expected);
        assert_eq!(bytes.len() % 4, 0);
    }
}
