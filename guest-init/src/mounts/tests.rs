use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::PathBuf;

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
        let devices = mount_kernel_filesystems(root).unwrap();
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
        fs::create_dir_all(SCRATCH).unwrap();
        mount(Some(&share), SCRATCH, NOTHING, MsFlags::MS_BIND, NOTHING).unwrap();
        symlink("/etc/resolved", path.join("link")).unwrap();
        for (target, read_only) in [("/etc/new", false), ("/link", true)] {
            let fd = root.make_file(Path::new(target)).unwrap();
            bind_file(Path::new("/one"), &fd, read_only).unwrap();
        }
        assert_eq!(fs::read(path.join("etc/new")).unwrap(), b"shared");
        fs::write(path.join("etc/new"), "changed").unwrap();
        assert_eq!(fs::read(path.join("etc/resolved")).unwrap(), b"changed");
        let error = fs::write(path.join("etc/resolved"), "").unwrap_err();
        assert_eq!(error.raw_os_error(), Some(libc::EROFS));

        let fd = root.make_file(Path::new("/etc/third")).unwrap();
        let text = bind_file(Path::new("/dir"), &fd, false)
            .unwrap_err()
            .to_string();
        assert!(text.contains("is a directory"), "{text}");
        assert!(bind_file(Path::new("/none"), &fd, false).is_err());
        umount2(SCRATCH, MntFlags::MNT_DETACH).unwrap();
        fs::remove_dir(SCRATCH).unwrap();
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
