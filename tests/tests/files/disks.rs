//! Disks.

use std::fs::{self, File};
use std::io::{Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::process::Command;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use runcvm_tests::{Vm, md5, scratch};
use tempfile::TempDir;

/// A sparse file of this many MiB.
fn disk(directory: &TempDir, name: &str, mib: u64) -> String {
    let path = directory.path().join(name);
    File::create(&path).unwrap().set_len(mib << 20).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn disks_are_what_they_were_asked_to_be_and_keep_their_data() {
    let directory = scratch();
    let data = disk(&directory, "data.img", 256);
    let fixed = disk(&directory, "fixed.img", 1);
    let mut file = File::options().write(true).open(&fixed).unwrap();
    file.write_all(b"fixed").unwrap();
    file.seek(SeekFrom::End(-3)).unwrap();
    file.write_all(b"end").unwrap();
    let queued = disk(&directory, "queued, with a comma", 16);
    let vm = Vm::rootfs()
        .args(["--cpus", "2"])
        .args(["--disk", &format!("{data},id=data")])
        .args(["--disk", &format!("{fixed},ro,id=a-serial-of-20-bytes")])
        .args(["--disk", &format!("{queued},queues=2")])
        .stdin()
        .start(["sh", "-c", "echo ready; cat"]);
    vm.wait_for("ready\n");
    let serials = vm.sh("cd /sys/block; for d in vda vdb vdc; do cat $d/serial; echo; done");
    let serials: Vec<_> = serials.lines().filter(|l| !l.is_empty()).collect();
    assert_eq!(
        serials,
        ["data", "a-serial-of-20-bytes", "queued,withacomma"]
    );
    assert_eq!(vm.sh("cat /sys/block/vd?/size"), "524288\n2048\n32768\n");
    assert_eq!(vm.sh("cat /sys/block/vd?/ro"), "0\n1\n0\n");
    assert_eq!(
        vm.sh("ls /sys/block/vdc/mq; ls /sys/block/vda/mq | wc -l"),
        "0\n1\n2\n"
    );

    // What is read-only.
    assert_eq!(vm.sh("head -c 5 /dev/vdb; tail -c 3 /dev/vdb"), "fixedend");
    let write =
        "blockdev --setrw /dev/vdb; echo changed >/dev/vdb && blockdev --flushbufs /dev/vdb";
    vm.exec().run(["sh", "-c", write]);
    vm.sh("sync");
    assert_eq!(&fs::read(&fixed).unwrap()[..5], b"fixed");

    // Both queues carry the right bytes at once.
    vm.sh(
        "for cpu in 0 1; do
            taskset -c $cpu sh -c \"yes queue $cpu | head -c 6M | dd of=/dev/vdc oflag=direct bs=64k seek=$((cpu * 128)) iflag=fullblock 2>&1\" &
        done; wait",
    );
    let written = fs::read(directory.path().join("queued, with a comma")).unwrap();
    for cpu in 0..2 {
        let part = &written[cpu * (8 << 20)..][..6 << 20];
        let line = format!("queue {cpu}\n").into_bytes();
        assert!(
            part.chunks_exact(line.len()).all(|chunk| chunk == line),
            "queue {cpu}"
        );
    }

    // Discarding gives the host its room back.
    let blocks = || {
        fs::metadata(directory.path().join("queued, with a comma"))
            .unwrap()
            .blocks()
    };
    let before = blocks();
    vm.sh("blkdiscard --offset 0 --length 6M /dev/vdc");
    assert!(
        blocks() + 10_000 < before,
        "{before} blocks, then {}",
        blocks()
    );
    vm.sh("blkdiscard --zeroout --offset 8M --length 6M /dev/vdc");
    assert_eq!(vm.sh("head -c 14M /dev/vdc | tr -d '\\0' | wc -c"), "0\n");

    // A filesystem, and its data at the next boot.
    let sums = vm.sh("mkfs.ext4 -q /dev/vda
        mkdir /mnt/data && mount /dev/vda /mnt/data
        head -c 32M /dev/urandom >/mnt/data/random
        cp -a /usr/bin /mnt/data/
        cd /mnt/data && find . -type f -print0 | sort -z | xargs -0 md5sum >/tmp/sums
        cat /tmp/sums; cd /; umount /mnt/data");
    assert!(sums.lines().count() > 100, "{sums}");
    vm.close_stdin();
    vm.wait().succeeded();

    let check = Command::new("/sbin/e2fsck")
        .args(["-fn", &data])
        .output()
        .unwrap();
    assert!(
        check.status.success(),
        "{}",
        String::from_utf8_lossy(&check.stdout)
    );
    let again = Vm::rootfs()
        .args(["--disk", &data, "--transport", "mmio"])
        .feed(&sums)
        .run([
            "sh",
            "-ec",
            "mount /dev/vda /mnt; cd /mnt; md5sum --quiet -c -; fstrim -v /mnt",
        ])
        .succeeded();
    assert!(again.out().contains("trimmed"), "{}", again.out());
}

#[test]
fn what_was_synced_survives_the_death_of_the_machine() {
    let directory = scratch();
    let data = disk(&directory, "data.img", 128);
    let vm = Vm::rootfs().args(["--disk", &data]).start([
        "sh",
        "-ec",
        "mkfs.ext4 -q /dev/vda; mount /dev/vda /mnt; sync
        python3 -c '
import os
file = open(\"/mnt/kept\", \"wb\")
for i in range(4096):
    file.write(b\"%07d\\n\" % i * 512)
file.flush()
os.fsync(file.fileno())
os.fsync(os.open(\"/mnt\", os.O_RDONLY))
print(\"synced\", flush=True)
while True:
    file.write(os.urandom(65536))
'",
    ]);
    vm.wait_for("synced\n");
    let pid = vm.status()["pid"].as_i64().unwrap();
    let pid = Pid::from_raw(i32::try_from(pid).unwrap());
    kill(pid, Signal::SIGKILL).unwrap();
    assert_eq!(vm.wait().status, 125);

    let output = Vm::rootfs()
        .args(["--disk", &data])
        .run([
            "sh",
            "-ec",
            "mount /dev/vda /mnt; head -c 16M /mnt/kept | md5sum",
        ])
        .succeeded();
    let expected = directory.path().join("expected");
    let lines = (0..4096).map(|i| format!("{i:07}\n").repeat(512));
    fs::write(&expected, lines.collect::<String>()).unwrap();
    assert_eq!(output.out()[..32], md5(&expected));
}
