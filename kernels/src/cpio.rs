//! Archives in the format newc, as the kernel unpacks them (Linux,
//! `Documentation/driver-api/early-userspace/buffer-format.rst`).

/// Puts an archive together.
#[derive(Debug, Default)]
pub struct Writer {
    bytes: Vec<u8>,
    entries: u32,
}

const DIRECTORY: u32 = 0o040_000;
const REGULAR: u32 = 0o100_000;

impl Writer {
    /// Adds a directory. The kernel makes no parents by itself.
    pub fn directory(&mut self, path: &str) {
        self.entry(path, DIRECTORY | 0o755, 2, &[]);
    }

    /// Adds a regular file of root's.
    ///
    /// # Panics
    /// If `content` has 4 GiB or more.
    pub fn file(&mut self, path: &str, permissions: u32, content: &[u8]) {
        self.entry(path, REGULAR | permissions, 1, content);
    }

    /// The whole archive, a multiple of 4 bytes long.
    pub fn finish(mut self) -> Vec<u8> {
        self.entries = 0;
        self.header("TRAILER!!!", 0, 0, 1, 0);
        self.bytes
    }

    fn entry(&mut self, path: &str, mode: u32, links: u32, content: &[u8]) {
        self.entries += 1;
        let size = u32::try_from(content.len()).expect("files of 4 GiB are no part of a boot");
        self.header(path, self.entries, mode, links, size);
        self.bytes.extend_from_slice(content);
        self.pad();
    }

    fn header(&mut self, path: &str, inode: u32, mode: u32, links: u32, size: u32) {
        let name_size = u32::try_from(path.len() + 1).expect("paths are short");
        let (owner, group, time, major, minor, check) = (0, 0, 0, 0, 0, 0);
        let fields = [
            inode, mode, owner, group, links, time, size, major, minor, major, minor, name_size,
            check,
        ];
        self.bytes.extend_from_slice(b"070701");
        for field in fields {
            self.bytes
                .extend_from_slice(format!("{field:08x}").as_bytes());
        }
        self.bytes.extend_from_slice(path.as_bytes());
        self.bytes.push(0);
        self.pad();
    }

    fn pad(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(4), 0);
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
        let lib = "070701 00000001 000041ed 00000000 00000000 00000002 00000000 00000000 \
                   00000000 00000000 00000000 00000000 00000004 00000000 lib\0\0\0";
        let file = "070701 00000002 000081a4 00000000 00000000 00000001 00000000 00000005 \
                    00000000 00000000 00000000 00000000 00000006 00000000 lib/x\0abcde\0\0\0";
        let trailer = "070701 00000000 00000000 00000000 00000000 00000001 00000000 00000000 \
                       00000000 00000000 00000000 00000000 0000000b 00000000 TRAILER!!!\0\0\0\0";
        let expected = [lib, file, trailer].concat().replace(' ', "");
        assert_eq!(String::from_utf8(bytes.clone()).unwrap(), expected);
        assert_eq!(bytes.len() % 4, 0);
    }
}
