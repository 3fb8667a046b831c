//! Operations of one kind, one after the other.

use std::fs::{self, File};
use std::io::{self, Seek, SeekFrom};
use std::os::unix::fs::FileExt;
use std::path::Path;

use crate::{say, since_boot};

const KIB: usize = 1024;

struct Load {
    name: &'static str,
    count: u64,
    size: usize,
    kind: Kind,
    /// Anywhere, or in order.
    random: bool,
}

#[derive(PartialEq)]
enum Kind {
    Read,
    Write,
    /// Each write is followed by a flush.
    SyncedWrite,
}

const LOADS: [Load; 5] = [
    load("read-1m", 96, KIB * KIB, Kind::Read, false),
    load("write-1m", 96, KIB * KIB, Kind::Write, false),
    load("read-4k", 1500, 4 * KIB, Kind::Read, true),
    load("write-4k", 1500, 4 * KIB, Kind::Write, true),
    load("sync-4k", 200, 4 * KIB, Kind::SyncedWrite, true),
];

const fn load(name: &'static str, count: u64, size: usize, kind: Kind, random: bool) -> Load {
    Load {
        name,
        count,
        size,
        kind,
        random,
    }
}

/// Puts all loads on `file`, a disk or a file that was opened past the page cache. Names begin
/// with `what`.
pub(crate) fn run(what: &str, mut file: &File) -> io::Result<()> {
    let end = file.seek(SeekFrom::End(0))?;
    for load in LOADS {
        let name = format!("{what}-{}", load.name);
        timed(&name, load.count, || load.run(file, end))?;
    }
    Ok(())
}

/// Opens each file of `directory`, asks for its attributes, and closes it.
pub(crate) fn open_files(what: &str, directory: &Path) -> io::Result<()> {
    let entries = fs::read_dir(directory)?.collect::<Result<Vec<_>, _>>()?;
    timed(&format!("{what}-open"), entries.len() as u64, || {
        for entry in &entries {
            File::open(entry.path())?.metadata()?;
        }
        Ok(())
    })
}

fn timed(name: &str, count: u64, load: impl FnOnce() -> io::Result<()>) -> io::Result<()> {
    let start = since_boot();
    load().map_err(|error| io::Error::other(format!("{name}: {error}")))?;
    say(&format!("done {name} {count} {}", since_boot() - start));
    Ok(())
}

impl Load {
    fn run(&self, file: &File, end: u64) -> io::Result<()> {
        // As reading past the page cache wants it.
        const ALIGNED: usize = 4096;
        let mut buffer = vec![0x5a; self.size + ALIGNED];
        let offset = buffer.as_ptr().align_offset(ALIGNED);
        let buffer = &mut buffer[offset..offset + self.size];
        let size = self.size as u64;
        let places = end / size;
        if places == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        let mut random = Random(0x9e37_79b9_7f4a_7c15);
        for index in 0..self.count {
            let place = match self.random {
                true => random.next() % places,
                false => index % places,
            };
            match self.kind {
                Kind::Read => file.read_exact_at(buffer, place * size)?,
                Kind::Write | Kind::SyncedWrite => file.write_all_at(buffer, place * size)?,
            }
            if self.kind == Kind::SyncedWrite {
                file.sync_data()?;
            }
        }
        Ok(())
    }
}

/// Marsaglia's xorshift: the same places in every run.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }
}
