//! A disk on a block device of the host: a loop device. Where none can be had, this test says
//! so and passes.

use std::fs::OpenOptions;
use std::process::Command;

use tempfile::NamedTempFile;

use super::*;

struct LoopDevice {
    backing: NamedTempFile,
    path: String,
}

impl LoopDevice {
    fn new(len: u64) -> Option<Self> {
        let backing = NamedTempFile::new().unwrap();
        backing.as_file().set_len(len).unwrap();
        let made = Command::new("losetup")
            .args(["--find", "--show", "--sector-size", "4096"])
            .arg(backing.path())
            .output()
            .ok()
            .filter(|output| output.status.success())?;
        let path = String::from_utf8(made.stdout).unwrap().trim().to_owned();
        Some(Self { backing, path })
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        let _ = Command::new("losetup")
            .args(["--detach", &self.path])
            .status();
    }
}

#[test]
fn block_devices_are_disks() {
    const LEN: u64 = 8 << 20;
    let Some(device) = LoopDevice::new(LEN) else {
        eprintln!("skipped: no loop device can be made");
        return;
    };
    let file = OpenOptions::new()
        .read(true)
        .write(true)
        .open(&device.path)
        .unwrap();
    let mut disk = Started::new(file, |_| {}, |features| features);
    let mut config = [0; 8];
    disk.device.read_config(0, &mut config);
    assert_eq!(u64::from_le_bytes(config), LEN / 512);
    let mut block_size = [0; 4];
    disk.device.read_config(20, &mut block_size);
    assert_eq!(u32::from_le_bytes(block_size), 4096);

    let mut write = header(1, 0);
    write.extend(vec![5; 1 << 20]);
    assert_eq!(disk.status(&write), OK);
    assert_eq!(disk.status(&header(4, 0)), OK);
    let backing = device.backing.as_file();
    assert_eq!(content(backing, 0, 2048), vec![5; 1 << 20]);
    let before = backing.metadata().unwrap().blocks();

    let mut discard = header(11, 0);
    discard.extend(range(0, 1024, 0));
    assert_eq!(disk.status(&discard), OK);
    assert!(backing.metadata().unwrap().blocks() < before);
    for (sector, flags) in [(1024, 0), (1032, 1)] {
        let mut zeroes = header(13, 0);
        zeroes.extend(range(sector, 8, flags));
        assert_eq!(disk.status(&zeroes), OK);
        assert_eq!(disk.request(&header(0, sector), 4096).1, [0; 4096]);
    }
    assert_eq!(disk.request(&header(0, 1040), 512).1, [5; 512]);
    assert_eq!(disk.request(&header(0, LEN / 512), 512).0, IO_ERROR);
    disk.device.reset();
}
