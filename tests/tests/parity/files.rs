//! What programs expect below /dev, /proc and /sys, beside the files of the root filesystem.

use runcvm_tests::Case;

use crate::pair;

#[test]
fn device_nodes() {
    let script = "cd /dev; for d in null zero full random urandom tty; do
        stat -c '%n %F %t:%T %a %U %G' $d; done";
    let output = pair().agrees(&Case::sh(script));
    assert_eq!(
        output.out().lines().count(),
        6,
        "{}{}",
        output.out(),
        output.err()
    );
}

#[test]
fn links_to_streams() {
    let output = pair().agrees(&Case::sh(
        "cd /dev; for l in fd stdin stdout stderr; do echo $l $(readlink $l); done",
    ));
    assert_eq!(
        output.out(),
        "fd /proc/self/fd\nstdin /proc/self/fd/0\nstdout /proc/self/fd/1\nstderr /proc/self/fd/2\n"
    );
}

#[test]
fn devices_work_for_everybody() {
    for user in ["", "user"] {
        let script = "echo x >/dev/null && wc -c </dev/null; head -c 5 /dev/zero | od -An -tx1
            head -c 9 /dev/urandom | wc -c; head -c 9 /dev/random | wc -c; echo x >/dev/full; : >/dev/tty";
        let output = pair().agrees(&Case::sh(script).user(user));
        assert_eq!(output.out(), "0\n 00 00 00 00 00\n9\n9\n");
    }
}

#[test]
fn shared_memory_is_everybody_s() {
    let script = "stat -c '%a %F' /dev/shm; stat -f -c %T /dev/shm
        echo x >/dev/shm/file.$$ && cat /dev/shm/file.$$; rm /dev/shm/file.$$
        python3 -c 'from multiprocessing import Lock; Lock(); print(\"semaphore\")'
        cp /bin/true /dev/shm/true && /dev/shm/true; rm -f /dev/shm/true";
    let output = pair().agrees(&Case::sh(script).user("user"));
    assert!(
        output.out().starts_with("1777 directory\ntmpfs\nx\n"),
        "{}{}",
        output.out(),
        output.err()
    );
}

#[test]
fn terminals_can_be_made_by_everybody() {
    let script = "import os
m, s = os.openpty()
print(os.ttyname(s)[:9])
os.write(s, b'x\\n')
read = b''
while not read.endswith(b'\\n'): read += os.read(m, 9)
print(read)";
    for user in ["", "user"] {
        let output = pair().agrees(&Case::new(["python3", "-c", script]).user(user));
        assert_eq!(output.out(), "/dev/pts/\nb'x\\r\\n'\n");
    }
    let output = pair().agrees(&Case::sh(
        "stat -L -c '%t:%T %a' /dev/ptmx; stat -f -c %T /dev/pts",
    ));
    assert_eq!(output.out(), "5:2 666\ndevpts\n");
}

#[test]
fn message_queues() {
    let output = pair().agrees(&Case::sh(
        "stat -f -c %T /dev/mqueue; stat -c %a /dev/mqueue",
    ));
    assert_eq!(output.out(), "mqueue\n1777\n");
}

/// What these filesystems show differs: it is the machine's own kernel that shows it.
#[test]
fn kernel_filesystems() {
    let script = "stat -f -c '%n %T' /proc /sys
        cd /sys/fs/cgroup && test -e cgroup.controllers -o -e memory && echo control groups";
    let output = pair().agrees(&Case::sh(script));
    assert_eq!(output.out(), "/proc proc\n/sys sysfs\ncontrol groups\n");
    let script = "while read -r device point type options rest; do case $point in
        /|/proc|/sys|/dev|/dev/pts|/dev/shm|/dev/mqueue) echo $point ${options%%,*};;
        esac; done </proc/mounts | sort";
    let output = pair().agrees(&Case::sh(&format!("{script} | grep -v /sys")));
    assert_eq!(output.out().lines().count(), 6, "{}", output.out());
}

#[test]
fn mount_options_keep_programs_and_devices_out() {
    let script = "while read -r device point type options rest; do case $point in
        /proc|/dev/pts|/dev/shm|/dev/mqueue) for word in nosuid noexec nodev; do
            case ,$options, in *,$word,*) echo $point $word;; esac; done;; esac; done </proc/mounts | sort";
    let output = pair().agrees(&Case::sh(script));
    assert!(
        output
            .out()
            .contains("/proc nodev\n/proc noexec\n/proc nosuid\n"),
        "{}",
        output.out()
    );
}

#[test]
fn the_root_filesystem_can_be_written_and_its_programs_run() {
    let script = "cp /bin/echo /usr/local/bin/copy && copy copied
        ln /usr/local/bin/copy /srv/hard; stat -c %h /srv/hard
        ln -s nowhere /srv/soft; readlink /srv/soft; mkfifo /srv/fifo; stat -c %F /srv/fifo
        mv /srv/hard /srv/moved; rm -r /srv/moved /srv/soft /srv/fifo /usr/local/bin/copy";
    let output = pair().agrees(&Case::sh(script));
    assert_eq!(output.out(), "copied\n2\nnowhere\nfifo\n");
}

#[test]
fn times_are_the_host_s() {
    let now = || {
        std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)
            .unwrap()
            .as_secs()
    };
    let case = Case::new(["date", "+%s"]);
    let before = now();
    let output = case.exec_in_vm(pair().vm()).wait().succeeded();
    let time: u64 = output.out().trim().parse().unwrap();
    assert!(
        (before.saturating_sub(2)..=now() + 2).contains(&time),
        "{time} is not about {before}"
    );
}

#[test]
fn the_loopback_interface_is_up() {
    let output = pair().agrees(&Case::new(["ip", "-brief", "address", "show", "dev", "lo"]));
    assert!(output.out().contains("127.0.0.1/8"), "{}", output.out());
    let script = "import socket
s = socket.create_server(('127.0.0.1', 0))
c = socket.create_connection(s.getsockname())
c.send(b'x')
print(s.accept()[0].recv(1))";
    assert_eq!(
        pair()
            .agrees(&Case::new(["python3", "-c", script]))
            .succeeded()
            .out(),
        "b'x'\n"
    );
}

#[test]
fn root_can_use_low_ports() {
    let script = "import socket; s = socket.socket(); s.bind(('127.0.0.1', 80)); print('bound')";
    assert_eq!(
        pair()
            .agrees(&Case::new(["python3", "-c", script]))
            .succeeded()
            .out(),
        "bound\n"
    );
}
