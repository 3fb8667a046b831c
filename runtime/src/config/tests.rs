use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::container::Tmpfs;

const PLAIN: &str = include_str!("samples/docker-20.10.json");
const OPTIONS: &str = include_str!("samples/docker-20.10-options.json");
const NEWER: &str = include_str!("samples/docker-26.json");

fn host() -> Host {
    Host {
        cpus: 4,
        hostname: "host".into(),
        max_files: 1 << 20,
        capabilities: !(1 << 24),
        limits: Vec::new(),
    }
}

fn parse(sample: &str) -> Value {
    serde_json::from_str(sample).unwrap()
}

fn rewritten(mut config: Value) -> (ContainerSpec, Value) {
    let spec = rewrite(&mut config, "c0ffee", &host()).unwrap();
    (spec, config)
}

fn error(config: Value) -> String {
    let mut config = config;
    let error = rewrite(&mut config, "c0ffee", &host()).unwrap_err();
    format!("{error:#}")
}

#[test]
fn a_plain_container_of_docker_20() {
    let (spec, config) = rewritten(parse(PLAIN));
    assert_eq!(spec.id, "c0ffee");
    assert_eq!(spec.process.args(), &Some(vec!["/bin/true".into()]));
    assert_eq!(spec.hostname.as_deref(), Some("c0ffee"));
    assert_eq!(spec.domainname, None);
    assert!(!spec.root_read_only);
    let files = ["/etc/hostname", "/etc/hosts", "/etc/resolv.conf"].map(PathBuf::from);
    assert_eq!(spec.volumes, files);
    let shm = Tmpfs {
        target: "/dev/shm".into(),
        options: "nosuid,noexec,nodev,mode=1777,size=67108864".into(),
    };
    assert_eq!(spec.tmpfs, [shm]);
    assert_eq!((spec.cpus, spec.memory), (4, 512 << 20));
    assert_eq!(spec.kernel, Kernel::Default);
    assert_eq!(spec.warnings, Vec::<String>::new());
    let sysctls: Vec<_> = spec.sysctls.iter().map(|(name, _)| name.as_str()).collect();
    let expected = [
        "net.ipv4.ip_unprivileged_port_start",
        "net.ipv4.ping_group_range",
    ];
    assert_eq!(sysctls, expected);

    let process = &config["process"];
    assert_eq!(process["args"], json!(["/proc/self/fd/3", "supervise"]));
    assert_eq!(process["user"], json!({"uid": 0, "gid": 0}));
    assert_eq!(process["cwd"], "/");
    assert_eq!(process["oomScoreAdj"], 0);
    let capabilities = &process["capabilities"];
    assert_eq!(capabilities["bounding"], capabilities["permitted"]);
    assert!(
        capabilities["bounding"]
            .as_array()
            .unwrap()
            .contains(&json!("CAP_NET_ADMIN"))
    );
    // The host itself lacks that one.
    assert!(
        !capabilities["bounding"]
            .to_string()
            .contains("CAP_SYS_RESOURCE")
    );
    assert_eq!(capabilities["ambient"], json!([]));
    assert_eq!(config["linux"].get("seccomp"), None);
    let sysctls = json!({"net.ipv4.ip_local_port_range": "61440 62463"});
    assert_eq!(config["linux"]["sysctl"], sysctls);
    assert_eq!(config["linux"]["devices"].as_array().unwrap().len(), 2);
    // What is not the machine's stays as it was.
    let before = parse(PLAIN);
    for kept in [
        "/root",
        "/hostname",
        "/hooks",
        "/ociVersion",
        "/linux/namespaces",
    ] {
        assert_eq!(config.pointer(kept), before.pointer(kept), "{kept}");
    }
    for kept in ["cgroupsPath", "maskedPaths", "readonlyPaths"] {
        assert_eq!(config["linux"][kept], before["linux"][kept], "{kept}");
    }
    let mounts = |config: &Value| config["mounts"].as_array().unwrap().len();
    assert_eq!(mounts(&config), mounts(&before) - 1);
}

#[test]
fn every_option_of_docker_run() {
    let (spec, config) = rewritten(parse(OPTIONS));
    let process = &spec.process;
    assert_eq!(
        process.args().as_deref().unwrap(),
        ["/sbin/docker-init", "--", "/bin/true"]
    );
    assert_eq!((process.user().uid(), process.user().gid()), (1, 2));
    assert_eq!(process.user().additional_gids(), &Some(vec![2, 7]));
    assert_eq!(process.cwd(), Path::new("/work"));
    assert_eq!(process.no_new_privileges(), Some(true));
    assert_eq!(process.oom_score_adj(), Some(100));
    let limit = &process.rlimits().as_ref().unwrap()[0];
    assert_eq!((limit.soft(), limit.hard()), (100, 200));
    assert!(spec.root_read_only);
    assert_eq!(spec.domainname.as_deref(), Some("d"));
    assert_eq!(spec.hostname.as_deref(), Some("h"));
    let sysctls: BTreeMap<_, _> = spec.sysctls.into_iter().collect();
    assert_eq!(sysctls["kernel.msgmax"], "1000");
    assert_eq!(sysctls["net.ipv4.ip_forward"], "1");
    assert!(!sysctls.contains_key("kernel.domainname"));
    let tmpfs = spec.tmpfs.iter();
    let tmpfs: Vec<_> = tmpfs
        .map(|t| (t.target.to_str().unwrap(), t.options.as_str()))
        .collect();
    let expected = [
        ("/dev/shm", "nosuid,noexec,nodev,mode=1777,size=33554432"),
        ("/t", "noexec,nosuid,nodev,size=1m,uid=5"),
        ("/t2", "noexec,nosuid,nodev"),
    ];
    assert_eq!(tmpfs, expected);
    let volumes: Vec<_> = spec.volumes.iter().map(|v| v.to_str().unwrap()).collect();
    let expected = [
        "/data",
        "/etc/hostname",
        "/etc/hosts",
        "/etc/resolv.conf",
        "/sbin/docker-init",
        "/vol",
    ];
    assert_eq!(volumes, expected);
    // One CPU of the set, 1.5 of quota.
    assert_eq!((spec.cpus, spec.memory), (1, 1 << 30));
    let resources = &config["linux"]["resources"];
    assert_eq!(resources["cpu"]["quota"], 150_000);
    let memory = &resources["memory"];
    let limit = memory["limit"].as_i64().unwrap();
    assert!(limit > 1 << 30);
    assert_eq!(memory["swap"].as_i64().unwrap(), limit + (1 << 30));
    assert_eq!(memory["reservation"], 734_003_200);
    let limits = json!([
        {"type": "RLIMIT_NOFILE", "soft": 1 << 20, "hard": 1 << 20},
        {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
    ]);
    assert_eq!(config["process"]["rlimits"], limits);
    assert_eq!(config["process"]["noNewPrivileges"], false);
}

#[test]
fn a_container_of_docker_26_with_fields_from_the_future() {
    let (spec, config) = rewritten(parse(NEWER));
    assert_eq!(spec.process.terminal(), Some(true));
    assert_eq!(spec.domainname.as_deref(), Some("example.org"));
    assert_eq!(config["process"]["terminal"], true);
    assert_eq!(
        config["process"]["consoleSize"],
        json!({"height": 24, "width": 80})
    );
    assert_eq!(config["process"].get("apparmorProfile"), None);
    let before = parse(NEWER);
    for kept in [
        "/ofTheFuture",
        "/annotations",
        "/linux/netDevices",
        "/linux/resources/unified",
    ] {
        assert!(before.pointer(kept).is_some(), "{kept}");
        assert_eq!(config.pointer(kept), before.pointer(kept), "{kept}");
    }
}

#[test]
fn what_was_asked_for_is_kept_and_rewritten_the_same_again() {
    let (_, once) = rewritten(parse(OPTIONS));
    assert_eq!(original(once.clone()), parse(OPTIONS));
    assert_eq!(original(parse(OPTIONS)), parse(OPTIONS));
    let (_, twice) = rewritten(original(once.clone()));
    assert_eq!(twice, once);
}

#[test]
fn our_variables_do_not_reach_the_process() {
    let mut config = parse(PLAIN);
    config["process"]["env"] = json!([
        "A=1",
        "RUNCVM_MEM_SIZE=1g",
        "RUNCVM_KERNEL=alpine",
        "RUNCVM_KERNLE_APPEND=x",
        "B="
    ]);
    let (spec, config) = rewritten(config);
    assert_eq!(spec.process.env().as_deref().unwrap(), ["A=1", "B="]);
    assert_eq!(spec.memory, 1 << 30);
    assert_eq!(spec.options.kernel.as_deref(), Some("alpine"));
    assert!(
        spec.warnings[0].contains("RUNCVM_KERNEL_APPEND"),
        "{:?}",
        spec.warnings
    );
    let env = config["process"]["env"].to_string();
    assert!(!env.contains("A=1") && !env.contains("MEM_SIZE"), "{env}");
}

#[test]
fn podmans_init_is_left_out() {
    let mut config = parse(PLAIN);
    config["process"]["args"] = json!(["/dev/init", "--", "sh", "-c", "true"]);
    let init =
        json!({"destination": "/dev/init", "type": "bind", "source": "/x", "options": ["bind"]});
    config["mounts"].as_array_mut().unwrap().push(init);
    let (spec, _) = rewritten(config);
    assert_eq!(
        spec.process.args().as_deref().unwrap(),
        ["sh", "-c", "true"]
    );
    assert_eq!(spec.warnings, Vec::<String>::new());
}

#[test]
fn arguments_and_environments_of_any_size_and_bytes() {
    let mut config = parse(PLAIN);
    let bytes: String = (1..=255_u8).map(char::from).collect();
    config["process"]["args"] = json!(["sh", bytes, "", "\n", "\u{20ac}"]);
    let variable = format!("V={}", "x".repeat(1 << 20));
    config["process"]["env"] = json!([variable]);
    let (spec, _) = rewritten(config);
    let message = serde_json::to_vec(&spec).unwrap();
    let spec: ContainerSpec = serde_json::from_slice(&message).unwrap();
    assert_eq!(spec.process.args().as_ref().unwrap()[1], bytes);
    assert_eq!(spec.process.env().as_deref().unwrap(), [variable]);
}

#[test]
fn the_least_configuration() {
    let config = json!({
        "ociVersion": "1.0.2",
        "process": {"args": ["x"], "cwd": "/"},
        "root": {"path": "rootfs"},
        "linux": {"namespaces": [{"type": "network"}, {"type": "pid"}, {"type": "ipc"}]},
    });
    let (spec, config) = rewritten(config);
    assert_eq!(spec.hostname.as_deref(), Some("host"));
    assert_eq!(spec.process.user().uid(), 0);
    assert!(config["linux"]["resources"]["memory"]["limit"].is_number());
}

#[test]
fn what_is_no_configuration_is_refused_in_one_sentence() {
    for (pointer, value, part) in [
        ("", json!([]), "not a JSON object"),
        ("/process", Value::Null, "process"),
        ("/process/args", json!([]), "process.args is empty"),
        (
            "/process/args",
            json!("sh"),
            "process is not as the OCI specification has it",
        ),
        (
            "/process/env",
            json!(["RUNCVM_HUGETLB=maybe"]),
            "RUNCVM_HUGETLB=maybe must be 1 or 0",
        ),
        ("/mounts", json!({}), "mounts is not a JSON array"),
        ("/mounts", json!([{"destination": 5}]), "mounts is not as"),
        ("/linux", json!("x"), "linux is not a JSON object"),
        ("/linux/namespaces", json!([{}]), "namespaces is not as"),
        (
            "/linux/resources/memory",
            json!({"limit": "x"}),
            "linux.resources.memory",
        ),
        ("/root", Value::Null, "root is missing"),
    ] {
        let mut config = parse(PLAIN);
        *config.pointer_mut(pointer).unwrap() = value;
        let error = error(config);
        assert!(error.contains(part), "{pointer}: {error}");
        assert!(!error.contains('\n'), "{error}");
    }
}

/// Paths of all values in `value` (RFC 6901).
fn pointers(value: &Value, at: &str, found: &mut Vec<String>) {
    found.push(at.to_owned());
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                pointers(field, &format!("{at}/{name}"), found);
            }
        }
        Value::Array(list) => {
            for (index, item) in list.iter().enumerate() {
                pointers(item, &format!("{at}/{index}"), found);
            }
        }
        _ => {}
    }
}

proptest! {
    #[test]
    fn no_configuration_makes_us_panic(
        picked: Vec<(prop::sample::Index, prop::sample::Index)>
    ) {
        let strange = [
            Value::Null, json!(true), json!(-1), json!(u64::MAX), json!(i64::MAX), json!(0.5),
            json!(""), json!("/../.."), json!([]), json!([null]), json!({}), json!({"": []}),
        ];
        let mut config = parse(OPTIONS);
        let mut all = Vec::new();
        pointers(&config, "", &mut all);
        for (place, value) in picked.iter().take(3) {
            if let Some(place) = config.pointer_mut(place.get::<String>(&all)) {
                *place = value.get(&strange).clone();
            }
        }
        let _ = rewrite(&mut config, "c0ffee", &host());
    }
}
