use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use nix::sys::stat::Mode;
use nix::unistd::mkfifo;

use super::*;

/// A prefix with bundles of these names, the first of which is the default.
fn prefix(dir: &Path, names: &[&str]) -> Prefix {
    for name in names {
        let path = dir.join("kernels").join(name);
        fs::create_dir_all(&path).unwrap();
        fs::write(path.join("manifest.json"), "{}").unwrap();
    }
    symlink(names[0], dir.join("kernels/default")).unwrap();
    Prefix::new(dir)
}

/// The name of the bundle that is chosen for the image at `root`; none: the default.
fn choice(prefix: &Prefix, root: &Path) -> Option<String> {
    let image = Image::open(root).unwrap();
    let choice = choose(None, prefix, Some(&image)).unwrap();
    assert_eq!(choice.warning, None);
    match choice.kernel {
        Kernel::Default => None,
        Kernel::Bundle(name) => Some(name),
        Kernel::OfImage(path) => panic!("{}", path.display()),
    }
}

/// What distributions say of themselves, as far as it matters, and the bundle that suits them.
const OS_RELEASES: &[(&str, &str)] = &[
    // Debian and what is made of it.
    (
        "PRETTY_NAME=\"Debian GNU/Linux 11 (bullseye)\"\nNAME=\"Debian GNU/Linux\"\nVERSION_ID=\"11\"\nVERSION_CODENAME=bullseye\nID=debian\n",
        "debian",
    ),
    (
        "PRETTY_NAME=\"Debian GNU/Linux 12 (bookworm)\"\nVERSION_ID=\"12\"\nID=debian\nHOME_URL=\"https://www.debian.org/\"\n",
        "debian",
    ),
    (
        "PRETTY_NAME=\"Debian GNU/Linux trixie/sid\"\nVERSION_CODENAME=trixie\nID=debian\n",
        "debian",
    ),
    (
        "PRETTY_NAME=\"Raspbian GNU/Linux 12 (bookworm)\"\nID=raspbian\nID_LIKE=debian\n",
        "debian",
    ),
    (
        "PRETTY_NAME=\"Kali GNU/Linux Rolling\"\nID=kali\nVERSION_ID=\"2025.1\"\nID_LIKE=debian\n",
        "debian",
    ),
    (
        "PRETTY_NAME=\"Devuan GNU/Linux 5 (daedalus)\"\nID=devuan\nID_LIKE=debian\n",
        "debian",
    ),
    (
        "PRETTY_NAME=\"Parrot Security 6.0\"\nID=parrot\nID_LIKE=debian\n",
        "debian",
    ),
    ("NAME=\"PureOS\"\nID=pureos\nID_LIKE=debian\n", "debian"),
    // Distroless images and slim ones say that they are Debian.
    (
        "PRETTY_NAME=\"Distroless\"\nNAME=\"Debian GNU/Linux\"\nID=\"debian\"\nVERSION_ID=\"12\"\n",
        "debian",
    ),
    ("ID=deepin\nVERSION_ID=\"23\"\n", ""),
    // Ubuntu and what is made of it.
    (
        "NAME=\"Ubuntu\"\nVERSION=\"18.04.6 LTS (Bionic Beaver)\"\nID=ubuntu\nID_LIKE=debian\n",
        "ubuntu",
    ),
    (
        "PRETTY_NAME=\"Ubuntu 22.04.5 LTS\"\nID=ubuntu\nID_LIKE=debian\nUBUNTU_CODENAME=jammy\n",
        "ubuntu",
    ),
    (
        "PRETTY_NAME=\"Ubuntu 24.04.2 LTS\"\nID=ubuntu\nID_LIKE=debian\n",
        "ubuntu",
    ),
    (
        "NAME=\"Linux Mint\"\nID=linuxmint\nID_LIKE=\"ubuntu debian\"\n",
        "ubuntu",
    ),
    (
        "NAME=\"Pop!_OS\"\nID=pop\nID_LIKE=\"ubuntu debian\"\n",
        "ubuntu",
    ),
    (
        "NAME=\"elementary OS\"\nID=elementary\nID_LIKE=\"ubuntu debian\"\n",
        "ubuntu",
    ),
    (
        "NAME=\"KDE neon\"\nID=neon\nID_LIKE=\"ubuntu debian\"\n",
        "ubuntu",
    ),
    // Alpine and what is like it.
    (
        "NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.19.1\nPRETTY_NAME=\"Alpine Linux v3.19\"\n",
        "alpine",
    ),
    (
        "NAME=\"Alpine Linux\"\nID=alpine\nVERSION_ID=3.22_alpha20250108\n",
        "alpine",
    ),
    (
        "NAME=\"postmarketOS\"\nID=\"postmarketos\"\nID_LIKE=\"alpine\"\n",
        "alpine",
    ),
    (
        "NAME=\"OpenWrt\"\nVERSION=\"23.05.3\"\nID=\"openwrt\"\nID_LIKE=\"lede openwrt\"\n",
        "alpine",
    ),
    (
        "ID=wolfi\nNAME=\"Wolfi\"\nPRETTY_NAME=\"Wolfi\"\nVERSION_ID=\"20230201\"\n",
        "",
    ),
    ("ID=chainguard\nNAME=\"Chainguard\"\n", ""),
    // Fedora and the enterprise distributions.
    (
        "NAME=\"Fedora Linux\"\nVERSION=\"41 (Container Image)\"\nID=fedora\nVERSION_ID=41\n",
        "",
    ),
    (
        "NAME=\"Oracle Linux Server\"\nVERSION=\"9.4\"\nID=\"ol\"\nID_LIKE=\"fedora\"\n",
        "ol",
    ),
    (
        "NAME=\"Oracle Linux Server\"\nVERSION=\"7.9\"\nID=\"ol\"\nID_LIKE=\"fedora\"\n",
        "ol",
    ),
    (
        "NAME=\"Rocky Linux\"\nID=\"rocky\"\nID_LIKE=\"rhel centos fedora\"\n",
        "ol",
    ),
    (
        "NAME=\"AlmaLinux\"\nID=\"almalinux\"\nID_LIKE=\"rhel centos fedora\"\n",
        "ol",
    ),
    (
        "NAME=\"CentOS Stream\"\nID=\"centos\"\nID_LIKE=\"rhel fedora\"\n",
        "ol",
    ),
    (
        "NAME=\"CentOS Linux\"\nVERSION=\"7 (Core)\"\nID=\"centos\"\nID_LIKE=\"rhel fedora\"\n",
        "ol",
    ),
    (
        "NAME=\"Red Hat Enterprise Linux\"\nID=\"rhel\"\nID_LIKE=\"fedora\"\n",
        "ol",
    ),
    (
        "NAME=\"Amazon Linux\"\nVERSION=\"2\"\nID=\"amzn\"\nID_LIKE=\"centos rhel fedora\"\n",
        "ol",
    ),
    (
        "NAME=\"Amazon Linux\"\nVERSION=\"2023\"\nID=\"amzn\"\nID_LIKE=\"fedora\"\n",
        "",
    ),
    ("NAME=\"VMware Photon OS\"\nID=photon\nVERSION_ID=5.0\n", ""),
    ("NAME=\"Common Base Linux Mariner\"\nID=mariner\n", ""),
    (
        "NAME=\"Microsoft Azure Linux\"\nID=azurelinux\nVERSION_ID=\"3.0\"\n",
        "",
    ),
    // Others.
    (
        "NAME=\"openSUSE Leap\"\nID=\"opensuse-leap\"\nID_LIKE=\"suse opensuse\"\n",
        "suse",
    ),
    (
        "NAME=\"openSUSE Tumbleweed\"\nID=\"opensuse-tumbleweed\"\nID_LIKE=\"opensuse suse\"\n",
        "suse",
    ),
    (
        "NAME=\"SLES\"\nVERSION=\"15-SP6\"\nID=\"sles\"\nID_LIKE=\"suse\"\n",
        "suse",
    ),
    ("NAME=\"Arch Linux\"\nID=arch\nBUILD_ID=rolling\n", ""),
    ("NAME=\"Manjaro Linux\"\nID=manjaro\nID_LIKE=arch\n", ""),
    ("NAME=Gentoo\nID=gentoo\n", ""),
    ("NAME=NixOS\nID=nixos\nVERSION_ID=\"24.11\"\n", ""),
    ("NAME=\"Void\"\nID=\"void\"\n", ""),
    (
        "NAME=\"Clear Linux OS\"\nID=clear-linux-os\nID_LIKE=clear-linux-os\n",
        "",
    ),
    ("NAME=Slackware\nID=slackware\n", ""),
    (
        "NAME=\"Mageia\"\nID=mageia\nID_LIKE=\"mandriva fedora\"\n",
        "",
    ),
    ("NAME=Buildroot\nID=buildroot\nVERSION_ID=2024.02\n", ""),
    // Written by hand.
    ("# ID=ubuntu\nID=debian", "debian"),
    ("ID='debian'", "debian"),
    ("  ID=debian  \r\n", "debian"),
    ("ID=Debian", "debian"),
    ("ID=ubuntu\nID=alpine\n", "alpine"),
    ("VARIANT_ID=ubuntu\nBUILD_ID=alpine\n", ""),
    // Broken.
    ("", ""),
    ("\n\n\n", ""),
    ("ID", ""),
    ("ID=\n", ""),
    ("ID=\"\"", ""),
    ("ID=\"debian", "debian"),
    ("ID_LIKE=\"debian", "debian"),
    ("NAME=Debian\n", ""),
    ("<html>404 Not Found</html>", ""),
    // Hostile.
    ("ID=../../debian\n", ""),
    ("ID=/debian\n", ""),
    ("ID=debian/6.1\n", ""),
    ("ID=.\nID_LIKE=..\n", ""),
    ("ID=default\nID_LIKE=latest\n", ""),
    ("ID=$(reboot)\nID_LIKE=`reboot`\n", ""),
    ("ID=debian;reboot\n", ""),
    ("ID=\u{1b}[2J\nID_LIKE=\u{202e}\n", ""),
    ("\0\0ID=debian\0", ""),
    ("ID=--help\n", ""),
];

#[test]
fn every_distribution_has_a_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let bundles = [
        "runcvm/1", "alpine/1", "debian/1", "ol/1", "suse/1", "ubuntu/1",
    ];
    let prefix = prefix(dir.path(), &bundles);
    let root = tempfile::tempdir().unwrap();
    assert_eq!(choice(&prefix, root.path()), None, "without a file");
    let file = root.path().join("etc/os-release");
    fs::create_dir(root.path().join("etc")).unwrap();
    for (text, expected) in OS_RELEASES {
        fs::write(&file, text).unwrap();
        let chosen = choice(&prefix, root.path()).unwrap_or_default();
        assert_eq!(chosen, *expected, "{text}");
    }
}

#[test]
fn what_is_not_installed_is_not_chosen() {
    let dir = tempfile::tempdir().unwrap();
    let prefix = prefix(dir.path(), &["debian/1"]);
    let root = tempfile::tempdir().unwrap();
    let file = root.path().join("etc/os-release");
    fs::create_dir(root.path().join("etc")).unwrap();
    for (text, expected) in OS_RELEASES {
        let like_debian = text
            .lines()
            .any(|l| l.starts_with("ID_LIKE") && l.contains("debian"));
        let expected = (*expected == "debian" || like_debian).then_some("debian");
        fs::write(&file, text).unwrap();
        assert_eq!(choice(&prefix, root.path()).as_deref(), expected, "{text}");
    }
}

#[test]
fn the_other_file_counts_where_the_first_is_missing() {
    let dir = tempfile::tempdir().unwrap();
    let prefix = prefix(dir.path(), &["debian/6.1", "alpine/6.6"]);
    let root = tempfile::tempdir().unwrap();
    fs::create_dir_all(root.path().join("usr/lib")).unwrap();
    fs::write(root.path().join("usr/lib/os-release"), "ID=alpine").unwrap();
    assert_eq!(choice(&prefix, root.path()).as_deref(), Some("alpine"));
    fs::create_dir(root.path().join("etc")).unwrap();
    symlink("../usr/lib/os-release", root.path().join("etc/os-release")).unwrap();
    assert_eq!(choice(&prefix, root.path()).as_deref(), Some("alpine"));
}

#[test]
fn hostile_files_choose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let prefix = prefix(dir.path(), &["debian/6.1"]);
    let secret = dir.path().join("secret");
    fs::write(&secret, "ID=debian").unwrap();
    let root = tempfile::tempdir().unwrap();
    let etc = root.path().join("etc");
    fs::create_dir(&etc).unwrap();
    let file = etc.join("os-release");
    let up = format!("{}{}", "../".repeat(30), secret.display());
    for target in [
        "/dev/zero",
        "/dev/stdin",
        "os-release",
        up.as_str(),
        secret.to_str().unwrap(),
    ] {
        symlink(target, &file).unwrap();
        assert_eq!(choice(&prefix, root.path()), None, "{target}");
        fs::remove_file(&file).unwrap();
    }
    mkfifo(&file, Mode::S_IRWXU).unwrap();
    assert_eq!(choice(&prefix, root.path()), None);
    fs::remove_file(&file).unwrap();
    let mut long = vec![b'#'; 1 << 20];
    long.extend(b"\nID=debian");
    fs::write(&file, long).unwrap();
    assert_eq!(choice(&prefix, root.path()), None);
}

#[test]
fn a_kernel_of_the_image_that_is_of_no_use_is_warned_of() {
    let dir = tempfile::tempdir().unwrap();
    let prefix = prefix(dir.path(), &["debian/6.1"]);
    let root = tempfile::tempdir().unwrap();
    fs::create_dir(root.path().join("etc")).unwrap();
    fs::write(root.path().join("etc/os-release"), "ID=debian").unwrap();
    fs::write(root.path().join("vmlinuz"), "hello").unwrap();
    let image = Image::open(root.path()).unwrap();
    let choice = choose(None, &prefix, Some(&image)).unwrap();
    assert_eq!(choice.kernel, Kernel::Bundle("debian".into()));
    let warning = choice.warning.unwrap();
    assert!(warning.contains("/vmlinuz does not say"), "{warning}");
    let choice = choose(Some("debian/6.1"), &prefix, Some(&image));
    assert!(choice.is_err(), "the manifest is empty");
}

#[test]
fn a_machine_needs_some_kernel() {
    let dir = tempfile::tempdir().unwrap();
    let error = choose(None, &Prefix::new(dir.path()), None)
        .unwrap_err()
        .to_string();
    assert!(error.contains("no kernel is installed"), "{error}");
}

#[test]
fn a_kernel_that_is_asked_for_must_be_there() {
    let dir = tempfile::tempdir().unwrap();
    let prefix = prefix(dir.path(), &["debian/6.1"]);
    let error = choose(Some("ol"), &prefix, None).unwrap_err().to_string();
    assert!(
        error.contains("\"ol\"") && error.contains("debian/6.1"),
        "{error}"
    );
}
