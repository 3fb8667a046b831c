//! Shared directories and files, and memory filesystems.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt, symlink};
use std::thread::sleep;
use std::time::Duration;

use runcvm_tests::md5;

use crate::sharing::Sharing;

#[test]
fn half_a_gibibyte_arrives_whole_both_ways() {
    let sharing = Sharing::machine();
    let (made_there, made_here) = (sharing.host("other/there"), sharing.host("other/here"));
    // Every page differs from every other.
    let there = sharing.vm.sh("python3 -c '
import os
page = os.urandom(1 << 20)
with open(\"/other/deep/there\", \"wb\") as file:
    for i in range(512):
        file.write(page[i * 7:] + page[:i * 7])
'
        md5sum </other/deep/there");
    assert_eq!(fs::metadata(&made_there).unwrap().len(), 512 << 20);
    assert_eq!(md5(&made_there), there[..32]);
    fs::remove_file(&made_there).unwrap();

    let mut file = File::create(&made_here).unwrap();
    let mut page: Vec<u8> = (0..1 << 20)
        .map(|i: u32| (i.wrapping_mul(2_654_435_761) >> 24) as u8)
        .collect();
    for _ in 0..512 {
        page.rotate_left(4097);
        file.write_all(&page).unwrap();
    }
    drop(file);
    let here = sharing.vm.sh("md5sum </other/deep/here");
    assert_eq!(md5(&made_here), here[..32]);
    fs::remove_file(&made_here).unwrap();
}

/// What the guest has just looked at it may remember for a second, names and attributes.
#[test]
fn the_guest_sees_what_the_host_changes() {
    let sharing = Sharing::machine();
    let (vm, other) = (&sharing.vm, sharing.host("other"));
    let news = other.join("news");
    let look = || vm.sh("cat /other/deep/news 2>&1 || true");
    let forget = || sleep(Duration::from_millis(1100));
    assert!(look().contains("No such file"));
    // That there was none is not remembered.
    fs::write(&news, "first").unwrap();
    assert_eq!(look(), "first");
    forget();
    fs::write(&news, "second, and longer").unwrap();
    assert_eq!(look(), "second, and longer");
    forget();
    fs::write(other.join("later"), "replaced").unwrap();
    fs::rename(other.join("later"), &news).unwrap();
    assert_eq!(look(), "replaced");
    forget();
    fs::set_permissions(&news, PermissionsExt::from_mode(0o751)).unwrap();
    assert_eq!(vm.sh("stat -c %a /other/deep/news"), "751\n");
    forget();
    fs::remove_file(&news).unwrap();
    assert!(look().contains("No such file"));

    fs::create_dir(other.join("new")).unwrap();
    symlink("elsewhere", other.join("new/link")).unwrap();
    assert_eq!(
        vm.sh("ls /other/deep/new; readlink /other/deep/new/link"),
        "link\nelsewhere\n"
    );
    forget();
    fs::remove_dir_all(other.join("new")).unwrap();
    assert_eq!(vm.sh("ls /other/deep | grep -c new || true"), "0\n");
}

#[test]
fn unusual_files_and_operations_work() {
    let sharing = Sharing::machine();
    let odd = sharing.host("other/odd");
    sharing.vm.sh(r#"mkdir /other/deep/odd && cd /other/deep/odd
        mkfifo fifo && mknod device c 1 3 && touch "new
line" 'ünïcode ☃' "$(printf 'x%.0s' $(seq 255))"
        python3 -c '
import fcntl, mmap, os, socket
socket.socket(socket.AF_UNIX).bind("socket")
with open("mapped", "w+b") as file:
    file.truncate(8192)
    with mmap.mmap(file.fileno(), 8192) as view:
        view[4090:4102] = b"across pages"
with open("appended", "ab") as one, open("appended", "ab") as two:
    for part in (b"1", b"2", b"3"):
        one.write(part); one.flush(); two.write(part); two.flush()
with open("locked", "wb") as one, open("locked", "wb") as two:
    fcntl.flock(one, fcntl.LOCK_EX)
    try:
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        raise SystemExit("two exclusive locks")
    except BlockingIOError:
        pass
with open("unlinked", "w+b") as file:
    file.write(b"still here"); file.flush()
    os.unlink("unlinked")
    file.seek(0)
    assert file.read() == b"still here"
try:
    open("x" * 256, "w")
    raise SystemExit("a name of 256 bytes")
except OSError as error:
    assert error.errno == 36, error
os.truncate("mapped", 6000)
'
        fallocate --length 1M room && fallocate --punch-hole --offset 64K --length 512K room
        cp --sparse=always room sparse
        setfattr -n user.empty room && setfattr -n user.long -v "$(printf 'v%.0s' $(seq 2000))" room
        setfattr -x user.empty room"#);
    let kind = |name: &str| fs::symlink_metadata(odd.join(name)).unwrap().file_type();
    assert!(kind("fifo").is_fifo());
    assert!(kind("device").is_char_device());
    assert!(kind("socket").is_socket());
    assert!(kind("new\nline").is_file());
    assert!(kind("ünïcode ☃").is_file());
    assert!(kind(&"x".repeat(255)).is_file());
    let mapped = fs::read(odd.join("mapped")).unwrap();
    assert_eq!(mapped.len(), 6000);
    assert_eq!(&mapped[4090..4102], b"across pages");
    assert_eq!(fs::read(odd.join("appended")).unwrap(), b"112233");
    assert!(!odd.join("unlinked").exists());
    let room = fs::metadata(odd.join("room")).unwrap();
    assert_eq!(room.len(), 1 << 20);
    assert!(room.blocks() <= 1100, "{} blocks", room.blocks());
    assert!(fs::metadata(odd.join("sparse")).unwrap().blocks() < 16);
    fs::remove_dir_all(odd).unwrap();
}

#[test]
fn permissions_are_those_of_the_user() {
    let sharing = Sharing::machine();
    let private = sharing.host("other/private");
    fs::write(&private, "for root\n").unwrap();
    fs::set_permissions(&private, PermissionsExt::from_mode(0o600)).unwrap();
    let as_user = |script: &str| {
        sharing
            .vm
            .exec()
            .args(["-u", "user"])
            .run(["sh", "-c", script])
    };
    let denied = as_user("cat /other/deep/private");
    assert_eq!(denied.status, 1);
    assert!(
        denied.err().contains("Permission denied"),
        "{}",
        denied.err()
    );
    assert_eq!(as_user("touch /other/deep/mine").status, 1);

    let home = sharing.host("other/home");
    fs::create_dir(&home).unwrap();
    std::os::unix::fs::chown(&home, Some(1000), Some(1000)).unwrap();
    as_user("umask 027; echo mine >/other/deep/home/file").succeeded();
    let file = fs::metadata(home.join("file")).unwrap();
    assert_eq!(
        (file.uid(), file.gid(), file.mode() & 0o7777),
        (1000, 1000, 0o640)
    );
}

#[test]
fn what_is_read_only_cannot_be_written() {
    let sharing = Sharing::machine();
    for script in [
        "echo changed >/fixed/file",
        "echo new >/fixed/new",
        "rm /fixed/file",
        "mkdir /fixed/new",
        "chmod 777 /fixed/file",
        "setfattr -n user.x -v y /fixed/file",
        "mount -o remount,rw /fixed && echo changed >/fixed/file",
        "echo changed >/etc/sealed",
        "chmod 777 /etc/sealed",
        "mount -o remount,rw /etc/sealed && echo changed >/etc/sealed",
    ] {
        let output = sharing.vm.exec().run(["sh", "-c", script]);
        assert_ne!(output.status, 0, "{script}");
    }
    assert_eq!(
        sharing.vm.sh("cat /fixed/file /etc/sealed"),
        "fixed/file\nsealed\n"
    );
    assert_eq!(
        fs::read_to_string(sharing.host("fixed/file")).unwrap(),
        "fixed/file\n"
    );
    assert_eq!(
        fs::read_to_string(sharing.host("sealed")).unwrap(),
        "sealed\n"
    );
    assert_eq!(fs::read_dir(sharing.host("fixed")).unwrap().count(), 1);
    let mode = fs::metadata(sharing.host("fixed/file")).unwrap().mode();
    assert_eq!(mode & 0o777, 0o644);
}

#[test]
fn a_single_file_is_shared_without_its_neighbours() {
    let sharing = Sharing::machine();
    let vm = &sharing.vm;
    assert_eq!(vm.sh("cat /etc/one"), "one\n");
    vm.sh("echo from the guest >>/etc/one");
    assert_eq!(
        fs::read_to_string(sharing.host("one")).unwrap(),
        "one\nfrom the guest\n"
    );
    sleep(Duration::from_millis(1100));
    fs::write(sharing.host("one"), "from the host\n").unwrap();
    assert_eq!(vm.sh("cat /etc/one"), "from the host\n");
    // A mountpoint cannot be removed.
    assert_ne!(vm.exec().run(["rm", "/etc/one"]).status, 0);
    // The place in the root filesystem was made; what is in it is the share's alone.
    let place = fs::metadata(sharing.rootfs.path().join("etc/one")).unwrap();
    assert_eq!(place.len(), 0);
}

#[test]
fn memory_filesystems_have_their_options() {
    let sharing = Sharing::machine();
    let vm = &sharing.vm;
    assert_eq!(
        vm.sh("stat -f -c %T /memory /plain; stat -c %a /memory"),
        "tmpfs\ntmpfs\n1770\n"
    );
    assert_eq!(
        vm.sh("findmnt -n -o OPTIONS /memory | tr , '\n' | grep -x -e noexec -e size=1024k"),
        "noexec\nsize=1024k\n"
    );
    let full = vm.exec().run([
        "dd",
        "if=/dev/zero",
        "of=/memory/file",
        "bs=64k",
        "count=32",
    ]);
    assert!(full.err().contains("No space left"), "{}", full.err());
    vm.sh("rm /memory/file; cp /bin/true /memory/true; cp /bin/true /plain/true; /plain/true");
    assert_eq!(vm.exec().run(["/memory/true"]).status, 126);
    // None of it is in the root filesystem.
    let below = sharing.rootfs.path().join("memory");
    assert_eq!(fs::read_dir(below).unwrap().count(), 0);
}
