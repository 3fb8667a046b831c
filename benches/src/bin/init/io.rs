//! Load on the first disk, past the guest's page cache.

use std::fs::{self, File, OpenOptions};
use std::io;
use std::os::fd::AsRawFd;
use std::os::unix::fs::{FileExt, OpenOptionsExt};

use nix::mount::{MsFlags, mount};

use crate::{say, since_boot};

const DISK: &str = "/dev/vda";
const MODULES: &str = "/modules";
const KIB: usize = 1024;

/// What is done to the disk: operations of one kind, one after the other.
struct Load {
    name: &'static str,
    count: u64,
    size: usize,
    kind: Kind,
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

/// Says "begin", and after each load "done NAME COUNT NANOSECONDS".
pub(crate) fn run() -> io::Result<()> {
    for module in fs::read_to_string(MODULES)?.lines() {
        insert(module)?;
    }
    fs::create_dir_all("/dev")?;
    mount(
        Some("devtmpfs"),
        "/dev",
        Some("devtmpfs"),
        MsFlags::empty(),
        None::<&str>,
    )?;
    let disk = OpenOptions::new()
        .read(true)
        .write(true)
        .custom_flags(libc::O_DIRECT)
        .open(DISK)?;
    let end = nix::unistd::lseek(&disk, 0, nix::unistd::Whence::SeekEnd)?;
    let end = u64::try_from(end).unwrap_or(0);
    say("begin");
    for load in LOADS {
        let start = since_boot();
        load.run(&disk, end)?;
        let took = since_boot() - start;
        say(&format!("done {} {} {took}", load.name, load.count));
    }
    Ok(())
}

impl Load {
    fn run(&self, disk: &File, end: u64) -> io::Result<()> {
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
                Kind::Read => disk.read_exact_at(buffer, place * size)?,
                Kind::Write | Kind::SyncedWrite => disk.write_all_at(buffer, place * size)?,
            }
            if self.kind == Kind::SyncedWrite {
                disk.sync_data()?;
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

/// Loads the module in the file `path`. One whose device is not there does no harm.
fn insert(path: &str) -> io::Result<()> {
    let file = File::open(path)?;
    // SAFETY: the parameters are an empty string, which lives on, and the kernel checks what
    // the file holds.
    let done = unsafe { libc::syscall(libc::SYS_finit_module, file.as_raw_fd(), c"".as_ptr(), 0) };
    match io::Error::last_os_error() {
        _ if done == 0 => Ok(()),
        // A processor without what a module is for, such as CRC instructions.
        error if error.raw_os_error() == Some(libc::ENODEV) => Ok(()),
        error => Err(io::Error::other(format!("{path}: {error}"))),
    }
}
