use std::ffi::OsString;

use super::*;

const GIB: u64 = 1024 * MIB;

#[test]
fn sizes_are_docker_s() {
    for (text, expected) in [
        ("512m", 512 * MIB),
        ("512M", 512 * MIB),
        ("512MiB", 512 * MIB),
        ("512mb", 512 * MIB),
        ("2g", 2 * GIB),
        ("1.5g", 1536 * MIB),
        ("0.25g", 256 * MIB),
        ("131072k", 128 * MIB),
        ("1t", 1024 * GIB),
        ("134217728", 128 * MIB),
        ("134217729b", 129 * MIB),
        ("512 m", 512 * MIB),
        ("0", 0),
    ] {
        assert_eq!(memory(text).unwrap(), expected, "{text}");
    }
    for text in [
        "",
        "m",
        "-1m",
        "1x",
        "1mm",
        "1.2.3m",
        ".m",
        "1,5g",
        "0x10m",
        "1e3m",
        "99999999999999999999m",
        "18446744073709551615t",
        "1.1234567g",
        "１m",
    ] {
        let error = memory(text).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("--memory \"{text}\" is no size")),
            "{error}"
        );
    }
}

#[test]
fn volumes_are_bytes_with_an_absolute_destination() {
    let parse = |bytes: &[u8]| volume(&OsString::from_vec(bytes.to_vec()));
    let expected = |source: &[u8], target: &[u8], read_only| MountSpec::Volume {
        source: OsStr::from_bytes(source).into(),
        target: ByteBuf::from(target),
        read_only,
    };
    assert_eq!(parse(b"/a:/b").unwrap(), expected(b"/a", b"/b", false));
    assert_eq!(
        parse(b"a b:/\xFF:ro").unwrap(),
        expected(b"a b", b"/\xFF", true)
    );
    assert_eq!(parse(b"/a:/b:rw").unwrap(), expected(b"/a", b"/b", false));
    for bad in [
        &b"/a"[..],
        b"",
        b":/b",
        b"/a:",
        b"/a:b",
        b"/a:/",
        b"/a:/.//",
        b"/a:/b:xx",
        b"/a:/b:ro:z",
    ] {
        let error = parse(bad).unwrap_err().to_string();
        assert!(error.starts_with("-v \""), "{error}");
    }
}

#[test]
fn tmpfs_options_follow_the_first_colon() {
    let expected = |target: &str, options: &str| MountSpec::Tmpfs {
        target: ByteBuf::from(target.as_bytes()),
        options: ByteBuf::from(options.as_bytes()),
    };
    assert_eq!(tmpfs("/tmp".as_ref()).unwrap(), expected("/tmp", ""));
    assert_eq!(
        tmpfs("/run:size=1m,mode=1777".as_ref()).unwrap(),
        expected("/run", "size=1m,mode=1777")
    );
    for bad in ["", "tmp", "/", ":size=1"] {
        assert!(tmpfs(bad.as_ref()).is_err(), "{bad}");
    }
}

#[test]
fn disk_options_are_read_from_the_end() {
    let parse = |text: &str| disk(text.as_ref(), 3);
    let plain = parse("/d/data.img").unwrap();
    assert_eq!(
        plain,
        DiskSpec {
            no_links: false,
            path: "/d/data.img".into(),
            read_only: false,
            id: "data.img".into(),
            queues: 3
        }
    );
    let full = parse("a,b,queues=2,id=x-1,ro").unwrap();
    assert_eq!(full.path, PathBuf::from("a,b"));
    assert_eq!((full.read_only, full.queues), (true, 2));
    assert_eq!(full.id, "x-1");
    // What is no option belongs to the path, whose absence will name it.
    assert_eq!(parse("a,rw").unwrap().path, PathBuf::from("a,rw"));
    for bad in [
        "",
        ",ro",
        "a,queues=0",
        "a,queues=65",
        "a,queues=x",
        "a,id=",
        "a,id=a b",
        "a,id=123456789012345678901",
    ] {
        let error = parse(bad).unwrap_err().to_string();
        assert!(error.starts_with(&format!("--disk \"{bad}\" ")), "{error}");
    }
}

#[test]
fn interfaces_take_all_their_parts() {
    let spec = interface(
        "tap=tap0,mac=02:00:00:00:00:0a,ip=10.0.0.2/24,ip=fd00::2/64,gw=10.0.0.1,gw=fd00::1,mtu=9000",
    )
    .unwrap();
    assert_eq!(spec.tap, "tap0");
    assert_eq!(spec.mac, Some([2, 0, 0, 0, 0, 10]));
    assert_eq!(spec.addresses[0], ("10.0.0.2".parse().unwrap(), 24));
    assert_eq!(spec.addresses[1], ("fd00::2".parse().unwrap(), 64));
    assert_eq!(spec.gateways.len(), 2);
    assert_eq!(spec.mtu, Some(9000));
    for bad in [
        "",
        "tap=",
        "tap0",
        "mac=02:00:00:00:00:01",
        "tap=a/b",
        "tap=sixteen-letters-",
        "tap=..",
        "tap=t,mac=03:00:00:00:00:01",
        "tap=t,mac=00:00:00:00:00:00",
        "tap=t,mac=2:0:0:0:0:1",
        "tap=t,mac=02:00:00:00:00:01:02",
        "tap=t,ip=10.0.0.2",
        "tap=t,ip=10.0.0.2/33",
        "tap=t,ip=fd00::2/129",
        "tap=t,ip=10.0.0/24",
        "tap=t,gw=10.0.0.1,gw=10.0.0.2",
        "tap=t,gw=x",
        "tap=t,mtu=67",
        "tap=t,mtu=65536",
        "tap=t,ip=fd00::2/64,mtu=1279",
        "tap=t,what=1",
    ] {
        let error = interface(bad).unwrap_err().to_string();
        assert!(error.starts_with(&format!("--net \"{bad}\" ")), "{error}");
    }
}

#[test]
fn variables_need_a_name() {
    let none = |_: &OsStr| None;
    assert_eq!(env("A=".as_ref(), none).unwrap().unwrap(), &b"A="[..]);
    assert_eq!(env("A".as_ref(), none).unwrap(), None);
    assert!(env("".as_ref(), none).is_err());
    assert!(env("=x".as_ref(), none).is_err());
}

#[test]
fn kernel_parameters_have_a_name_and_a_value() {
    let expected = ("net.core.somaxconn".to_owned(), "a=b".to_owned());
    assert_eq!(sysctl("net.core.somaxconn=a=b").unwrap(), expected);
    assert!(sysctl("vm.swappiness").is_err());
    assert!(sysctl("=1").is_err());
}

#[test]
fn forwards_have_two_places_of_a_kind() {
    let parse = |text: &str| forward(text.as_ref());
    let unix = parse("unix:/run/a.sock=unix:/b=c.sock").unwrap();
    assert_eq!(unix.at, ForwardAt::Unix(ByteBuf::from("/run/a.sock")));
    assert_eq!(unix.to, ForwardTo::Unix("/b=c.sock".into()));
    let mixed = parse("tcp:[::1]:80=unix:b.sock").unwrap();
    assert_eq!(mixed.at, ForwardAt::Tcp("[::1]:80".parse().unwrap()));
    let udp = parse("udp:127.0.0.11:53=udp:127.0.0.1:5353").unwrap();
    assert_eq!(udp.to, ForwardTo::Udp("127.0.0.1:5353".parse().unwrap()));
    for bad in [
        "",
        "unix:/a",
        "unix:=unix:/b",
        "unix:a=unix:/b",
        "tcp:127.0.0.1=unix:/b",
        "tcp:localhost:80=unix:/b",
        "udp:127.0.0.1:53=tcp:127.0.0.1:53",
        "tcp:127.0.0.1:53=udp:127.0.0.1:53",
        "pipe:/a=unix:/b",
    ] {
        let error = parse(bad).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("--forward \"{bad}\" ")),
            "{error}"
        );
    }
}
