use clap::Parser;
use runcvm_protocol::User;

use super::*;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    run: RunArgs,
}

fn spec(args: &[&str]) -> Result<LaunchSpec> {
    let args = ["run"].iter().chain(args).chain(&["--", "cmd", "arg"]);
    Line::try_parse_from(args)?.run.spec()
}

#[test]
fn defaults_are_small_and_safe() {
    let spec = spec(&[]).unwrap();
    assert_eq!(spec.rootfs, PathBuf::from("."));
    assert_eq!((spec.cpus, spec.memory), (1, 512 << 20));
    assert_eq!(spec.transport, Transport::Pci);
    assert_eq!(spec.init, InitMode::Auto);
    assert_eq!(spec.process.args, ["cmd", "arg"]);
    assert_eq!(spec.process.cwd, "/");
    assert!(spec.name.starts_with("vm-"));
    assert_eq!(spec.hostname.unwrap(), spec.name.as_bytes());
}

#[test]
fn every_option_arrives() {
    let spec = spec(&[
        "--rootfs",
        "/r",
        "--kernel",
        "debian/6.12",
        "--cpus",
        "4",
        "--memory",
        "1g",
        "-e",
        "A=1",
        "-w",
        "/w",
        "-u",
        "me:us",
        "-v",
        "/s:/d/e:ro",
        "--tmpfs",
        "/d",
        "--disk",
        "x.img,ro",
        "--net",
        "tap=t0",
        "--hostname",
        "h",
        "-it",
        "--init",
        "pid1",
        "--name",
        "n",
        "--timings",
        "--kernel-log",
        "--append",
        "a=b c",
        "--transport",
        "mmio",
    ])
    .unwrap();
    assert_eq!(spec.name, "n");
    assert_eq!(spec.hostname.unwrap(), "h");
    assert_eq!(spec.kernel.unwrap(), "debian/6.12");
    assert_eq!((spec.cpus, spec.memory), (4, 1 << 30));
    assert_eq!(spec.init, InitMode::Pid1);
    assert_eq!(spec.transport, Transport::Mmio);
    assert_eq!(spec.append, "a=b c");
    assert!(spec.kernel_log && spec.account);
    assert!(spec.process.stdin && spec.process.terminal.is_some());
    assert_eq!(spec.process.user, User::Named(ByteBuf::from("me:us")));
    // What is mounted over goes first.
    assert!(matches!(&spec.mounts[0], MountSpec::Tmpfs { target, .. } if target == "/d"));
    assert!(matches!(&spec.mounts[1], MountSpec::Volume { target, .. } if target == "/d/e"));
    assert!(spec.disks[0].read_only);
    assert_eq!(spec.disks[0].queues, 4);
    assert_eq!(spec.nets[0].tap, "t0");
}

#[test]
fn bad_values_are_refused() {
    for bad in [
        &["--name", "a/b"][..],
        &["--name", "-a"],
        &["--memory", "much"],
        &["--hostname", ""],
        &["--hostname", "a b"],
        &["-e", "=x"],
        &["-w", "relative"],
        &["-v", "x"],
        &["--disk", ",ro"],
        &["--net", "tap="],
        &["--cpus", "many"],
        &["--transport", "isa"],
    ] {
        assert!(spec(bad).is_err(), "{bad:?}");
    }
}
