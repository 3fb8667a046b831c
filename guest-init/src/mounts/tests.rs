use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use nix::mount::{MntFlags, umount2};
use nix::sched::CloneFlags;
use nix::sys::statfs::{FsType, PROC_SUPER_MAGIC, TMPFS_MAGIC, statfs};
use runcvm_protocol::ByteBuf;

use super::*;
use crate::test_support::isolated;

/// A root filesystem in a tmpfs of its own, in a mount namespace of its own.
fn mount_test(test: impl FnOnce(&RootDir, PathBuf)) {
    isolated(CloneFlags::CLONE_NEWNS, || {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("root");
        fs::create_dir(&path).unwrap();
        mount(
            Some("root"),
            &path,
            Some("tmpfs"),
            MsFlags::empty(),
            NOTHING,
        )
        .unwrap();
        test(&RootDir::new(&path).unwrap(), path.clone());
        chdir("/").unwrap();
        // Moved away by a test, it goes with the namespace.
        let _ = umount2(&path, MntFlags::MNT_DETACH);
    });
}

fn tmpfs(target: &str, options: &str, read_only: bool) -> Mount {
    Mount {
        source: MountSource::Tmpfs {
            options: ByteBuf::from(options),
        },
        target: ByteBuf::from(target),
        read_only,
    }
}

fn kind(path: &Path) -> FsType {
    statfs(path).unwrap().filesystem_type()
}

#[test]
fn kernel_filesystems_and_devices_are_there() {
    mount_test(|root, path| {
        mount_kernel_filesystem(root, &PROC).unwrap();
        let devices = mount_kernel_filesystems(root, &[]).unwrap();
        assert_eq!(kind(&path.join("proc")), PROC_SUPER_MAGIC);
        assert!(path.join("proc/self/status").exists());
        assert!(path.join("sys/class").exists());
        assert!(path.join("dev/null").exists());
        assert!(path.join("dev/pts/ptmx").exists());
        assert_eq!(
            fs::metadata(path.join("dev/shm")).unwrap().mode() & 0o7777,
            0o1777
        );
        for (target, name) in DEVICE_LINKS {
            assert_eq!(
                fs::read_link(path.join("dev").join(name)).unwrap(),
                Path::new(target)
            );
        }
        let id = |fd: &OwnedFd| fstat(fd).unwrap().st_dev;
        assert_eq!(
            id(&devices.dev),
            fs::metadata(path.join("dev")).unwrap().dev()
        );
        assert_eq!(
            id(&devices.pts),
            fs::metadata(path.join("dev/pts")).unwrap().dev()
        );
    });
}

#[test]
fn mountpoints_that_are_links_stay_in_the_root() {
    mount_test(|root, path| {
        let outside = path.parent().unwrap().join("outside");
        fs::create_dir(&outside).unwrap();
        symlink(&outside, path.join("proc")).unwrap();
        symlink("../../../../../tmp", path.join("data")).unwrap();
        fs::create_dir(path.join("tmp")).unwrap();
        mount_kernel_filesystem(root, &PROC).unwrap();
        mount_for_user(root, &tmpfs("/data/x", "", false)).unwrap();
        assert!(!outside.join("self").exists());
        let inside = outside.strip_prefix("/").unwrap();
        assert_eq!(kind(&path.join(inside)), PROC_SUPER_MAGIC);
        assert!(path.join("tmp/x").is_dir());
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        let below = format!(" {}", path.display());
        let of_test = mounts.lines().filter(|line| line.contains(&below));
        assert_eq!(of_test.count(), 3, "{mounts}");
    });
}

#[test]
fn a_tmpfs_has_its_options() {
    mount_test(|root, path| {
        let mounts = [
            tmpfs("/a/b", "size=1m,mode=1750,uid=5,gid=6,noexec", false),
            tmpfs("/old", "size=64k", false),
            tmpfs("/ro", "", true),
        ];
        fs::create_dir(path.join("old")).unwrap();
        fs::set_permissions(path.join("old"), PermissionsExt::from_mode(0o710)).unwrap();
        for mount in &mounts {
            mount_for_user(root, mount).unwrap();
        }
        let found = fs::metadata(path.join("a/b")).unwrap();
        assert_eq!(
            (found.mode() & 0o7777, found.uid(), found.gid()),
            (0o1750, 5, 6)
        );
        let size = statfs(&path.join("a/b")).unwrap();
        assert_eq!(
            size.blocks() * u64::try_from(size.block_size()).unwrap(),
            1 << 20
        );
        assert_eq!(
            fs::metadata(path.join("old")).unwrap().mode() & 0o7777,
            0o710
        );
        assert_eq!(kind(&path.join("ro")), TMPFS_MAGIC);
        let error = fs::write(path.join("ro/file"), "").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
    });
}

#[test]
fn a_tmpfs_of_the_user_takes_the_place_of_shared_memory() {
    mount_test(|root, path| {
        let own = tmpfs("/dev/shm/", "size=4k,mode=1777", false);
        mount_kernel_filesystems(root, std::slice::from_ref(&own)).unwrap();
        mount_for_user(root, &own).unwrap();
        let mounts = fs::read_to_string("/proc/self/mounts").unwrap();
        let shm = format!(" {} tmpfs ", path.join("dev/shm").display());
        let found: Vec<_> = mounts.lines().filter(|line| line.contains(&shm)).collect();
        assert!(
            found.len() == 1 && found[0].contains("size=4k"),
            "{found:?}"
        );
        fs::remove_dir(path.join("dev/shm")).unwrap_err();
    });
}

#[test]
fn a_tmpfs_may_begin_with_what_is_below_it() {
    mount_test(|root, path| {
        let old = path.join("old");
        fs::create_dir_all(old.join("a/b")).unwrap();
        fs::write(old.join("a/b/file"), "content").unwrap();
        std::os::unix::fs::chown(old.join("a/b/file"), Some(3), Some(4)).unwrap();
        fs::set_permissions(old.join("a/b/file"), PermissionsExt::from_mode(0o4710)).unwrap();
        std::os::unix::fs::chown(&old, Some(7), Some(8)).unwrap();
        std::os::unix::fs::lchown(old.join("a"), Some(5), Some(6)).unwrap();
        symlink("/etc/passwd", old.join("link")).unwrap();
        nix::unistd::mkfifo(&old.join("fifo"), nix::sys::stat::Mode::S_IRUSR).unwrap();
        mount_for_user(root, &tmpfs("/old", "tmpcopyup,ro,size=1m", false)).unwrap();
        fs::remove_dir(&old).unwrap_err();

        assert_eq!(kind(&old), TMPFS_MAGIC);
        let owner = |name: &str| {
            let found = fs::symlink_metadata(old.join(name)).unwrap();
            (found.uid(), found.gid(), found.mode() & 0o7777)
        };
        assert_eq!(owner(""), (7, 8, 0o755));
        assert_eq!(owner("a"), (5, 6, 0o755));
        assert_eq!(owner("a/b/file"), (3, 4, 0o4710));
        assert_eq!(owner("fifo").2, 0o400);
        assert_eq!(fs::read(old.join("a/b/file")).unwrap(), b"content");
        let link = fs::read_link(old.join("link")).unwrap();
        assert_eq!(link, Path::new("/etc/passwd"));
        let error = fs::write(old.join("new"), "").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));

        fs::create_dir(path.join("big")).unwrap();
        fs::write(path.join("big/file"), vec![1; 100_000]).unwrap();
        let error = mount_for_user(root, &tmpfs("/big", "tmpcopyup,size=64k", false)).unwrap_err();
        let text = format!("{error:#}");
        assert!(
            text.contains("/big") && text.contains("No space left"),
            "{text}"
        );
    });
}

#[test]
fn what_the_host_mounted_is_writable_in_a_root_that_is_not() {
    mount_test(|root, path| {
        fs::create_dir_all(path.join("data/dir")).unwrap();
        fs::create_dir_all(path.join("etc")).unwrap();
        for name in ["etc/hosts", "etc/hostname"] {
            fs::write(path.join(name), "").unwrap();
        }
        let mounted = path.join("data/dir");
        mount(
            Some("x"),
            &mounted,
            Some("tmpfs"),
            MsFlags::empty(),
            NOTHING,
        )
        .unwrap();
        for (target, read_only) in [
            ("/data", false),
            ("/data/dir", true),
            ("/etc/hosts", false),
            ("/etc/hostname", true),
        ] {
            let submount = Mount {
                source: MountSource::Submount,
                target: ByteBuf::from(target),
                read_only,
            };
            mount_for_user(root, &submount).unwrap();
        }
        make_root_read_only(root).unwrap();
        let write = |name: &str| fs::write(path.join(name), "x").map_err(|e| e.raw_os_error());
        write("data/file").unwrap();
        write("etc/hosts").unwrap();
        for name in ["file", "etc/hostname", "data/dir/file"] {
            assert_eq!(write(name), Err(Some(libc::EROFS)), "{name}");
        }
        let missing = Mount {
            source: MountSource::Submount,
            target: ByteBuf::from("/none"),
            read_only: false,
        };
        mount_for_user(root, &missing).unwrap_err();
        for name in ["data", "etc/hosts", "etc/hostname"] {
            umount2(&path.join(name), MntFlags::MNT_DETACH).unwrap();
        }
    });
}

#[test]
fn what_the_host_mounted_is_seen_over_other_mounts() {
    mount_test(|root, path| {
        fs::create_dir_all(path.join("run/data")).unwrap();
        fs::write(path.join("run/data/file"), "data").unwrap();
        fs::write(path.join("run/one"), "one").unwrap();
        let submount = |target: &str, read_only| Mount {
            source: MountSource::Submount,
            target: ByteBuf::from(target),
            read_only,
        };
        let mounts = [
            tmpfs("/run", "", false),
            submount("/run/data", false),
            submount("/var/one", true),
            submount("/etc", true),
        ];
        symlink("run", path.join("var")).unwrap();
        fs::create_dir(path.join("etc")).unwrap();
        mount_all_for_user(root, &mounts).unwrap();
        assert_eq!(kind(&path.join("run")), TMPFS_MAGIC);
        assert_eq!(fs::read(path.join("run/data/file")).unwrap(), b"data");
        fs::write(path.join("run/data/new"), "").unwrap();
        assert_eq!(fs::read(path.join("run/one")).unwrap(), b"one");
        let error = fs::write(path.join("run/one"), "").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
        let error = fs::write(path.join("etc/x"), "").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));
        umount2(&path.join("etc"), MntFlags::MNT_DETACH).unwrap();
        umount2(&path.join("run"), MntFlags::MNT_DETACH).unwrap();
        assert!(path.join("run/data/new").exists());
    });
}

#[test]
fn bad_options_and_targets_are_named() {
    mount_test(|root, path| {
        fs::write(path.join("file"), "").unwrap();
        let message = |mount| format!("{:#}", mount_for_user(root, &mount).unwrap_err());
        let text = message(tmpfs("/x", "sise=1", false));
        assert!(text.contains("/x") && text.contains("\"sise=1\""), "{text}");
        let text = message(tmpfs("/x", "size=nonsense", false));
        assert!(text.contains("size=nonsense"), "{text}");
        let text = message(tmpfs("/file", "", false));
        assert!(
            text.contains("/file") && text.contains("Not a directory"),
            "{text}"
        );
    });
}

#[test]
fn a_file_is_mounted_over_a_file() {
    mount_test(|root, path| {
        let share = path.join("share");
        fs::create_dir_all(share.join("dir")).unwrap();
        fs::write(share.join("one"), "shared").unwrap();
        // What a share of virtiofs would be.
        let stage = path.join("stage");
        fs::create_dir(&stage).unwrap();
        mount(Some(&share), &stage, NOTHING, MsFlags::MS_BIND, NOTHING).unwrap();
        let bind_file = |file, target: &OwnedFd, read_only| {
            bind_file(&stage, Path::new(file), target, read_only)
        };
        symlink("/etc/resolved", path.join("link")).unwrap();
        for (target, read_only) in [("/etc/new", false), ("/link", true)] {
            let fd = root.make_file(Path::new(target)).unwrap();
            bind_file("/one", &fd, read_only).unwrap();
        }
        assert_eq!(fs::read(path.join("etc/new")).unwrap(), b"shared");
        fs::write(path.join("etc/new"), "changed").unwrap();
        assert_eq!(fs::read(path.join("etc/resolved")).unwrap(), b"changed");
        let error = fs::write(path.join("etc/resolved"), "").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));

        let fd = root.make_file(Path::new("/etc/third")).unwrap();
        let text = bind_file("/dir", &fd, false).unwrap_err().to_string();
        assert!(text.contains("is a directory"), "{text}");
        assert!(bind_file("/none", &fd, false).is_err());
        umount2(&stage, MntFlags::MNT_DETACH).unwrap();
    });
}

#[test]
fn disks_are_in_the_table_of_filesystems() {
    mount_test(|root, path| {
        let disk = |target: &str| Mount {
            source: MountSource::Disk {
                serial: "disk0".into(),
                filesystem: "ext4".into(),
                options: ByteBuf::from("noatime"),
            },
            target: ByteBuf::from(target),
            read_only: false,
        };
        let block = path.join("sys/block/vdc");
        fs::create_dir_all(&block).unwrap();
        fs::write(block.join("serial"), "disk0").unwrap();
        fs::write(block.join("dev"), "254:32\n").unwrap();
        fstab::mount(root, &[tmpfs("/x", "", false)], false).unwrap();
        assert!(!path.join("etc/fstab").exists());

        fs::create_dir(path.join("etc")).unwrap();
        symlink("real", path.join("etc/fstab")).unwrap();
        fs::write(path.join("etc/real"), "# the image's").unwrap();
        fstab::mount(root, &[disk("/a b"), tmpfs("/x", "", false)], false).unwrap();
        let table = "# the image's\n/dev/vdc /a\\040b ext4 defaults,noatime 0 0\n";
        assert_eq!(fs::read_to_string(path.join("etc/fstab")).unwrap(), table);
        umount2(&path.join("etc/real"), MntFlags::MNT_DETACH).unwrap();
        let own = fs::read_to_string(path.join("etc/real")).unwrap();
        assert_eq!(own, "# the image's");
    });
}

#[test]
fn the_root_becomes_the_root_and_read_only() {
    mount_test(|root, path| {
        fs::write(path.join("here"), "").unwrap();
        make_root_read_only(root).unwrap();
        isolated(CloneFlags::empty(), || {
            switch_root(root).unwrap();
            assert!(Path::new("/here").exists());
            assert!(!Path::new("/proc").exists());
            let error = fs::write("/new", "").unwrap_err();
            assert_eq!(error.raw_os_error(), Some(libc::EROFS));
        });
    });
}
