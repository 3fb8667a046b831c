//! `RUNCVM_DISKS`.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};

use runcvm_tests::{Bundle, Case, Rootfs, scratch};

#[test]
fn disks_are_made_filled_and_used_again() {
    let dir = scratch();
    let rootfs = Rootfs::private();
    let home = rootfs.path().join("srv/home");
    fs::create_dir(&home).unwrap();
    fs::write(home.join("file"), "content\n").unwrap();
    chown(home.join("file"), Some(1234), Some(5678)).unwrap();
    chown(&home, Some(42), Some(43)).unwrap();
    fs::set_permissions(&home, fs::Permissions::from_mode(0o1770)).unwrap();
    let disks = "/disks/a/one,/srv/home,ext4,64M;/two,/new/place,ext2,16M";
    let script = "stat -c '%u:%g %a' /srv/home /srv/home/file; cat /srv/home/file; \
                  for m in /srv/home /new/place; do findmnt -rno SOURCE,FSTYPE $m; done; \
                  cat /srv/home/count 2>/dev/null; echo x >>/srv/home/count";
    let run = || {
        let case = Case::sh(script).env("RUNCVM_DISKS", disks);
        Bundle::over(&case, &rootfs)
            .bind(dir.path(), "/disks", &["rw"])
            .run()
            .succeeded()
            .out()
    };
    let expected = "42:43 1770\n1234:5678 644\ncontent\n/dev/vda ext4\n/dev/vdb ext2\n";
    assert_eq!(run(), expected);
    assert_eq!(run(), format!("{expected}x\n"));
    let disk = fs::metadata(dir.path().join("a/one")).unwrap();
    assert_eq!(disk.len(), 64 << 20);
    assert!(
        disk.blocks() * 512 < 32 << 20,
        "it is sparse: {}",
        disk.blocks()
    );
    assert_eq!(fs::read_dir(&home).unwrap().count(), 1);

    for (spec, part) in [
        ("/x,/srv/home,ext4", "needs a size"),
        ("/etc,/srv/home,ext4,1G", "/etc is no file"),
        ("/x,/srv/home,xfs,1G", "ext2, ext3, ext4"),
        ("/x,/etc/hostname,ext4,1G", "/etc/hostname"),
        ("/x,/srv/home,ext4,8K", "mke2fs failed"),
    ] {
        let case = Case::new(["true"]).env("RUNCVM_DISKS", spec);
        let error = Bundle::over(&case, &rootfs).run().refused();
        assert!(error.contains(spec) && error.contains(part), "{error}");
    }
}

#[test]
fn the_guest_knows_its_disks() {
    let rootfs = Rootfs::private();
    let root = rootfs.path();
    fs::create_dir_all(root.join("srv/real/inner")).unwrap();
    fs::write(root.join("srv/real/inner/file"), "seed\n").unwrap();
    symlink("/srv/real", root.join("link")).unwrap();
    fs::write(root.join("etc/fstab"), "# the image's").unwrap();
    let disks = "/one,/link/inner,ext4,16M;/two,/mem/place,ext3,16M;/disks/three,/a b,ext2,16M";
    let script = "\
        cat /etc/fstab; \
        for m in /srv/real/inner /mem/place '/a b'; do findmnt -nro SOURCE,FSTYPE \"$m\"; done; \
        cat /link/inner/file; \
        df --output=source,target | grep /dev/vd | tr -s ' '; \
        mount -a && echo all; \
        umount /link/inner && ! ls /link/inner/lost+found 2>/dev/null && \
            mount /link/inner && cat /srv/real/inner/file; \
        blkid -o value -s TYPE /dev/vdb";
    let case = Case::sh(script).env("RUNCVM_DISKS", disks);
    let output = Bundle::over(&case, &rootfs)
        .tmpfs("/mem", &["size=1m"])
        .run()
        .succeeded()
        .out();
    let expected = "\
        # the image's\n\
        /dev/vdc /a\\040b ext2 defaults,noatime 0 0\n\
        /dev/vda /link/inner ext4 defaults,noatime 0 0\n\
        /dev/vdb /mem/place ext3 defaults,noatime 0 0\n\
        /dev/vda ext4\n/dev/vdb ext3\n/dev/vdc ext2\n\
        seed\n\
        /dev/vdc /a b\n/dev/vda /srv/real/inner\n/dev/vdb /mem/place\n\
        all\n\
        seed\n\
        ext3\n";
    assert_eq!(output, expected);
    assert_eq!(
        fs::read_to_string(root.join("etc/fstab")).unwrap(),
        "# the image's"
    );

    // One that holds another filesystem than is said.
    let case = Case::new(["true"]).env("RUNCVM_DISKS", "/one,/srv/real,ext2");
    let error = Bundle::over(&case, &rootfs).run().refused();
    assert!(error.contains("/srv/real"), "{error}");
}
