//! The initramfs, composed in the guest's memory from archives and single files. The kernel
//! unpacks archives one after the other, each compressed or not; what comes later wins.

use std::collections::BTreeSet;
use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use thiserror::Error;
use vm_memory::{Bytes, GuestAddress, GuestMemoryError, GuestMemoryMmap};

use crate::layout;
use crate::memory;
use crate::spec::{Content, InitramfsPart};
use runcvm_kernels::cpio::{self, Kind};

const PAGE: u64 = 4096;
/// Permission bits of directories that files are put in.
const DIRECTORY: u32 = 0o755;

/// Why the initramfs could not be composed.
#[derive(Debug, Error)]
pub enum InitramfsError {
    #[error("Cannot read {}", .path.display())]
    Read {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("The path {path:?} of a file in it is not absolute, or has an empty or '..' part")]
    BadPath { path: String },
    #[error("{path:?} in it would be larger than 4 GiB")]
    FileTooBig { path: String },
    #[error(
        "It is {len} bytes long, and {room} bytes are left of the machine's {} MiB of memory \
         beside the kernel", .memory >> 20
    )]
    TooBig { len: u64, room: u64, memory: u64 },
    #[error("Cannot copy it to the guest's memory")]
    Memory(#[source] GuestMemoryError),
}

/// A piece of the initramfs as it will lie in memory.
#[derive(Debug)]
enum Piece {
    Bytes(Vec<u8>),
    File { path: PathBuf, file: File, len: u64 },
}

/// Pieces one after the other, without gaps.
#[derive(Debug, Default)]
struct Composition {
    pieces: Vec<Piece>,
    len: u64,
    /// Directories that single files of the archive now open are in.
    directories: BTreeSet<String>,
    /// The pieces end with a file entry, and a trailer must come before another archive.
    open: bool,
}

impl Composition {
    fn bytes(&mut self, bytes: Vec<u8>) {
        self.len = self.len.saturating_add(bytes.len() as u64);
        self.pieces.push(Piece::Bytes(bytes));
    }

    fn file(&mut self, path: &Path, file: File, len: u64) {
        self.len = self.len.saturating_add(len);
        let path = path.to_owned();
        self.pieces.push(Piece::File { path, file, len });
    }

    fn align(&mut self) {
        let padding = cpio::padding(self.len);
        if padding > 0 {
            self.bytes(vec![0; padding]);
        }
    }

    fn archive(&mut self, path: &Path) -> Result<(), InitramfsError> {
        self.finish();
        let (file, len) = open(path)?;
        self.file(path, file, len);
        self.align();
        Ok(())
    }

    fn entry(&mut self, path: &str, mode: u32, content: &Content) -> Result<(), InitramfsError> {
        let name = check_path(path)?;
        for (at, _) in name.match_indices('/') {
            let directory = &name[..at];
            if self.directories.insert(directory.to_owned()) {
                self.bytes(cpio::header(directory, Kind::Directory, DIRECTORY, 0));
            }
        }
        let size = |len: u64| {
            u32::try_from(len).map_err(|_| InitramfsError::FileTooBig {
                path: path.to_owned(),
            })
        };
        match content {
            Content::Path(source) => {
                let (file, len) = open(source)?;
                self.bytes(cpio::header(name, Kind::File, mode, size(len)?));
                self.file(source, file, len);
            }
            Content::Bytes(bytes) => {
                let len = size(bytes.len() as u64)?;
                self.bytes(cpio::header(name, Kind::File, mode, len));
                self.bytes(bytes.clone());
            }
        }
        self.align();
        self.open = true;
        Ok(())
    }

    /// Ends the archive that single files are in.
    fn finish(&mut self) {
        if self.open {
            self.bytes(cpio::trailer());
            self.open = false;
            self.directories.clear();
        }
    }

    fn write(&self, memory: &GuestMemoryMmap, at: GuestAddress) -> Result<(), InitramfsError> {
        let mut at = at;
        for piece in &self.pieces {
            let len = match piece {
                Piece::Bytes(bytes) => {
                    memory
                        .write_slice(bytes, at)
                        .map_err(InitramfsError::Memory)?;
                    bytes.len() as u64
                }
                Piece::File { path, file, len } => {
                    memory::fill(memory, at, file, 0, *len).map_err(|source| {
                        let path = path.clone();
                        InitramfsError::Read { path, source }
                    })?;
                    *len
                }
            };
            at.0 += len;
        }
        Ok(())
    }
}

/// Composes the initramfs at the upper end of RAM below 4 GiB; where it is, and its length.
/// Memory below `kernel_end` is taken.
pub(super) fn load(
    memory: &GuestMemoryMmap,
    size: u64,
    kernel_end: u64,
    parts: &[InitramfsPart],
) -> Result<Option<(GuestAddress, u64)>, InitramfsError> {
    let composition = compose(parts)?;
    let len = composition.len;
    if len == 0 {
        return Ok(None);
    }
    let (low, _) = layout::ram(size);
    let room = low.end.saturating_sub(kernel_end.next_multiple_of(PAGE));
    // The address is rounded down to a page; both ends of the room are pages already.
    let Some(at) = low.end.checked_sub(len).filter(|_| len <= room) else {
        return Err(InitramfsError::TooBig {
            len,
            room,
            memory: size,
        });
    };
    let at = GuestAddress(at / PAGE * PAGE);
    composition.write(memory, at)?;
    Ok(Some((at, len)))
}

fn compose(parts: &[InitramfsPart]) -> Result<Composition, InitramfsError> {
    let mut composition = Composition::default();
    for part in parts {
        match part {
            InitramfsPart::Archive(path) => composition.archive(path)?,
            InitramfsPart::File {
                path,
                mode,
                content,
            } => composition.entry(path, *mode, content)?,
        }
    }
    composition.finish();
    Ok(composition)
}

fn open(path: &Path) -> Result<(File, u64), InitramfsError> {
    let opened = File::open(path).and_then(|file| {
        let metadata = file.metadata()?;
        if !metadata.is_file() {
            return Err(io::Error::other("it is not a regular file"));
        }
        Ok((file, metadata.len()))
    });
    opened.map_err(|source| InitramfsError::Read {
        path: path.to_owned(),
        source,
    })
}

/// The name in the archive of an absolute path.
fn check_path(path: &str) -> Result<&str, InitramfsError> {
    path.strip_prefix('/')
        .filter(|name| !name.contains('\0'))
        .filter(|name| name.split('/').all(|part| !matches!(part, "" | "." | "..")))
        .ok_or_else(|| InitramfsError::BadPath {
            path: path.to_owned(),
        })
}

#[cfg(test)]
#[path = "initramfs_test.rs"]
mod tests;
