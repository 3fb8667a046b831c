use std::collections::BTreeMap;

use tempfile::TempDir;

use super::*;

fn store() -> (TempDir, Store) {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::new(&Prefix::new(dir.path()));
    (dir, store)
}

fn name(text: &str) -> BundleName {
    text.parse().unwrap()
}

fn install(store: &Store, text: &str) {
    let name = name(text);
    let _lock = store.lock().unwrap();
    let scratch = store.scratch().unwrap();
    let made = scratch.path().join("bundle");
    fs::create_dir_all(made.join("modules/lib/modules/r")).unwrap();
    fs::write(made.join("vmlinux"), "kernel").unwrap();
    let sha256 = [
        ("vmlinux".into(), digest::of_bytes(b"kernel")),
        (
            "modules".into(),
            digest::of_tree(&made.join("modules")).unwrap(),
        ),
    ];
    let manifest = Manifest {
        format: 0,
        name: name.distribution.clone(),
        version: name.version.clone(),
        release: "r".into(),
        source: Vec::new(),
        sha256: sha256.into(),
        boot: BTreeMap::new(),
        features: BTreeMap::new(),
        missing: Vec::new(),
    };
    let json = serde_json::to_vec(&manifest).unwrap();
    fs::write(made.join("manifest.json"), json).unwrap();
    store.install(&made, &name).unwrap();
}

fn resolved(store: &Store, name: Option<&str>) -> String {
    match store.resolve(name) {
        Ok(bundle) => format!("{}/{}", bundle.name, bundle.version),
        Err(e) => e.to_string(),
    }
}

#[test]
fn an_empty_store_says_how_to_fill_it() {
    let (_dir, store) = store();
    let empty = "no kernel is installed; `runcvm-kernels add debian` adds one";
    assert_eq!(resolved(&store, None), empty);
    assert_eq!(resolved(&store, Some("debian")), empty);
    assert!(store.list().unwrap().is_empty());
}

#[test]
fn names_lead_to_bundles() {
    let (dir, store) = store();
    install(&store, "debian/6.1.0-9-amd64");
    install(&store, "debian/6.12.3-amd64");
    install(&store, "debian/6.1.0-56-amd64");
    install(&store, "cloud/1");
    for (asked, found) in [
        (None, "debian/6.12.3-amd64"),
        (Some("debian"), "debian/6.12.3-amd64"),
        (Some("debian/latest"), "debian/6.12.3-amd64"),
        (Some("debian/6.1.0-9-amd64"), "debian/6.1.0-9-amd64"),
        (Some("cloud"), "cloud/1"),
    ] {
        assert_eq!(resolved(&store, asked), found, "{asked:?}");
    }
    let bundle = store.resolve(None).unwrap();
    assert_eq!(fs::read(&bundle.vmlinux).unwrap(), b"kernel");
    assert!(bundle.modules.ends_with("modules/lib/modules/r") && bundle.modules.is_dir());
    let names: Vec<_> = store
        .names()
        .unwrap()
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        names,
        [
            "cloud/1",
            "debian/6.12.3-amd64",
            "debian/6.1.0-56-amd64",
            "debian/6.1.0-9-amd64"
        ]
    );
    for unknown in [
        "nix",
        "debian/7",
        "../etc",
        "debian/../..",
        "default",
        "a/b/c",
        "",
    ] {
        let error = resolved(&store, Some(unknown));
        assert!(
            error.starts_with(&format!("there is no kernel {unknown:?}")),
            "{error}"
        );
        assert!(
            error.contains("installed: cloud/1, debian/6.12.3-amd64, "),
            "{error}"
        );
        assert!(error.contains("`runcvm-kernels add debian`"), "{error}");
    }
    drop(dir);
}

#[test]
fn the_default_can_be_chosen_and_outlives_removals() {
    let (_dir, store) = store();
    install(&store, "debian/1");
    install(&store, "debian/2");
    install(&store, "cloud/1");
    install(&store, "alpine/1");
    store.set_default("debian/1").unwrap();
    assert_eq!(resolved(&store, None), "debian/1");
    store.remove(&name("debian/1")).unwrap();
    assert_eq!(resolved(&store, None), "debian/2");
    store.set_default("cloud").unwrap();
    install(&store, "cloud/2");
    assert_eq!(resolved(&store, None), "cloud/2");
    store.remove(&name("cloud/2")).unwrap();
    assert_eq!(resolved(&store, Some("cloud")), "cloud/1");
    store.remove(&name("cloud/1")).unwrap();
    assert_eq!(resolved(&store, None), "debian/2");
    install(&store, "runcvm/1");
    store.remove(&name("debian/2")).unwrap();
    assert_eq!(resolved(&store, None), "runcvm/1");
    store.remove(&name("runcvm/1")).unwrap();
    assert_eq!(resolved(&store, None), "alpine/1");
    store.remove(&name("alpine/1")).unwrap();
    assert!(matches!(store.resolve(None), Err(StoreError::Empty)));
    assert!(store.remove(&name("debian/2")).is_err());
    let left: Vec<_> = store
        .root
        .read_dir()
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .collect();
    assert_eq!(left, [".lock"]);
}

#[test]
fn a_bundle_is_replaced_as_a_whole() {
    let (_dir, store) = store();
    install(&store, "debian/1");
    let path = store.path_of(&name("debian/1"));
    fs::write(path.join("stale"), "").unwrap();
    install(&store, "debian/1");
    assert!(path.join("vmlinux").exists() && !path.join("stale").exists());
}

#[test]
fn damage_is_found() {
    let (_dir, store) = store();
    install(&store, "debian/1");
    let bundle = store.resolve(None).unwrap();
    store.verify(&bundle).unwrap();
    fs::write(bundle.modules.join("extra.ko"), "x").unwrap();
    let error = store.verify(&bundle).unwrap_err().to_string();
    assert_eq!(
        error,
        "the kernel debian/1 is damaged: modules is not what was installed"
    );
    fs::remove_file(bundle.modules.join("extra.ko")).unwrap();
    fs::write(&bundle.vmlinux, "kernal").unwrap();
    assert!(
        store
            .verify(&bundle)
            .unwrap_err()
            .to_string()
            .contains("vmlinux")
    );
    fs::write(bundle.path.join("manifest.json"), "{").unwrap();
    assert!(matches!(
        store.resolve(None),
        Err(StoreError::Manifest { .. })
    ));
}

#[test]
fn leftovers_of_killed_additions_vanish_with_the_next_change() {
    let (_dir, store) = store();
    install(&store, "debian/1");
    let leftover = store.root.join(format!("{SCRATCH}dead"));
    fs::create_dir_all(leftover.join("bundle")).unwrap();
    assert_eq!(store.names().unwrap().len(), 1);
    install(&store, "debian/2");
    assert!(!leftover.exists());
}
