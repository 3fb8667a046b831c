use super::*;

fn read(env: &[&str]) -> Result<Environment> {
    let env: Vec<_> = env.iter().map(ToString::to_string).collect();
    Environment::read(&env)
}

fn options(env: &[&str]) -> Options {
    let environment = read(env).unwrap();
    assert_eq!(environment.rest, Vec::<String>::new());
    environment.options
}

fn error(entry: &str) -> String {
    read(&[entry]).unwrap_err().to_string()
}

#[test]
fn what_is_not_ours_stays_as_it_is() {
    let env = [
        "PATH=/bin",
        "EMPTY=",
        "ODD",
        "=x",
        "XRUNCVM_KERNEL=a",
        "A=RUNCVM_X=1",
    ];
    let environment = read(&env).unwrap();
    assert_eq!(environment.rest, env);
    assert_eq!(environment.options, Options::default());
    assert_eq!(environment.warnings, Vec::<String>::new());
}

#[test]
fn every_option_is_understood() {
    let all = options(&[
        "RUNCVM_KERNEL=debian/6.1",
        "RUNCVM_KERNEL_APPEND=apparmor=0 quiet",
        "RUNCVM_KERNEL_DEBUG=1",
        "RUNCVM_KERNEL_MOUNT_LIB_MODULES=yes",
        "RUNCVM_DISKS=/disks/a,/b,ext4,1G",
        "RUNCVM_DISPLAY_MODE=serial",
        "RUNCVM_CGROUPFS=mixed",
        "RUNCVM_SYS_ADMIN=1",
        "RUNCVM_HUGETLB=on",
        "RUNCVM_BREAK=preqemu,prenet",
        "RUNCVM_RUNTIME_DEBUG=1",
        "RUNCVM_TIMINGS=1",
        "RUNCVM_INIT=1",
        "RUNCVM_VIRTIOFSD_CACHE=none",
        "RUNCVM_MEM_SIZE=768M",
    ]);
    let disk = all.disks[0].clone();
    let expected = Options {
        kernel: Some("debian/6.1".into()),
        kernel_append: "apparmor=0 quiet".into(),
        kernel_debug: true,
        mount_lib_modules: true,
        disks: vec![disk],
        display: Display::Serial,
        vnc_display: None,
        cgroups: Cgroups::Hybrid,
        sys_admin: true,
        hugetlb: true,
        breaks: vec![Break::PreNet, Break::PreMachine],
        runtime_debug: true,
        timings: true,
        init: InitMode::Pid1,
        cache: Cache::Never,
        memory: Some(768 << 20),
    };
    assert_eq!(all, expected);
    let json = serde_json::to_string(&all).unwrap();
    assert_eq!(serde_json::from_str::<Options>(&json).unwrap(), expected);
}

#[test]
fn an_empty_value_is_none() {
    assert_eq!(
        options(&["RUNCVM_KERNEL=", "RUNCVM_CGROUPFS=", "RUNCVM_KERNEL_DEBUG="]),
        Options::default()
    );
}

#[test]
fn memory_is_in_dockers_units() {
    for (value, bytes) in [
        ("67108864", 64 << 20),
        ("65536k", 64 << 20),
        ("512m", 512 << 20),
        ("512MB", 512 << 20),
        ("2G", 2 << 30),
        ("1T", 1 << 40),
    ] {
        let entry = format!("RUNCVM_MEM_SIZE={value}");
        assert_eq!(options(&[&entry]).memory, Some(bytes), "{value}");
    }
}

#[test]
fn bad_values_are_named_with_what_would_be_right() {
    for (entry, part) in [
        (
            "RUNCVM_KERNEL_DEBUG=2",
            "RUNCVM_KERNEL_DEBUG=2 must be 1 or 0",
        ),
        ("RUNCVM_CGROUPFS=3", "must be one of none, systemd, 1"),
        (
            "RUNCVM_DISPLAY_MODE=tv",
            "must be one of headless, serial, vnc",
        ),
        (
            "RUNCVM_VIRTIOFSD_CACHE=some",
            "one of auto, none, never, always",
        ),
        (
            "RUNCVM_BREAK=postnet,later",
            "RUNCVM_BREAK=later must be one of prenet",
        ),
        ("RUNCVM_MEM_SIZE=lots", "such as 512M"),
        ("RUNCVM_MEM_SIZE=99999999999T", "such as 512M"),
        ("RUNCVM_MEM_SIZE=-1", "such as 512M"),
        ("RUNCVM_MEM_SIZE=+1", "such as 512M"),
        ("RUNCVM_QEMU_VNC_DISPLAY=60000", "number of a VNC display"),
        ("RUNCVM_KERNEL_APPEND=a\nb", "one line"),
        ("RUNCVM_DISKS=x", "RUNCVM_DISKS: x has 1 fields"),
    ] {
        let error = error(entry);
        assert!(error.contains(part), "{entry}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
    let long = format!("RUNCVM_KERNEL_APPEND={}", "a".repeat(2000));
    assert!(error(&long).contains("2000 bytes"));
}

#[test]
fn what_has_no_effect_is_warned_of() {
    for (entry, part) in [
        ("RUNCVM_QEMU_VGA=std", "RUNCVM_QEMU_VGA has no effect"),
        ("RUNCVM_BIOS=EFI", "RUNCVM_BIOS has no effect"),
        ("RUNCVM_KERNEL_DEBU=1", "did you mean RUNCVM_KERNEL_DEBUG?"),
        ("RUNCVM_DISK=x", "did you mean RUNCVM_DISKS?"),
        ("RUNCVM_SYSADMIN=1", "did you mean RUNCVM_SYS_ADMIN?"),
        (
            "RUNCVM_COFFEE_MACHINE=1",
            "RUNCVM_COFFEE_MACHINE is not known to runcvm",
        ),
        ("RUNCVM_DISPLAY_MODE=vnc", "no screen"),
    ] {
        let environment = read(&[entry]).unwrap();
        assert_eq!(environment.warnings.len(), 1, "{entry}");
        assert!(
            environment.warnings[0].contains(part),
            "{}",
            environment.warnings[0]
        );
    }
    let unlike = &read(&["RUNCVM_COFFEE_MACHINE=1"]).unwrap().warnings[0];
    assert!(!unlike.contains("did you mean"), "{unlike}");
}

#[test]
fn a_vnc_display_has_a_number() {
    assert_eq!(options(&["RUNCVM_DISPLAY_MODE=vnc"]).vnc_display, Some(0));
    let both = options(&["RUNCVM_DISPLAY_MODE=vnc", "RUNCVM_QEMU_VNC_DISPLAY=3"]);
    assert_eq!(both.vnc_display, Some(3));
}

#[test]
fn an_environment_of_a_megabyte_is_read() {
    let mut env: Vec<String> = (0..9000)
        .map(|i| format!("V{i}={}", "x".repeat(110)))
        .collect();
    env.push("RUNCVM_HUGETLB=1".into());
    let environment = Environment::read(&env).unwrap();
    assert!(environment.options.hugetlb);
    assert_eq!(environment.rest, env[..9000]);
}
