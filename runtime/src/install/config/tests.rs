use super::*;

const PROGRAM: &str = "/opt/runcvm/bin/runcvm-runtime";

/// A file with this text, or none.
fn file(text: Option<&str>) -> (tempfile::TempDir, PathBuf) {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("daemon.json");
    if let Some(text) = text {
        fs::write(&path, text).unwrap();
    }
    (directory, path)
}

fn added(text: Option<&str>) -> String {
    let (_directory, path) = file(text);
    let mut config = Config::read(&path).unwrap();
    assert!(config.add("runcvm", Path::new(PROGRAM)).unwrap());
    config.write().unwrap();
    fs::read_to_string(&path).unwrap()
}

#[test]
fn a_file_is_made() {
    let expected = "{\n  \"runtimes\": {\n    \"runcvm\": {\n      \"path\": \"/opt/runcvm/bin/runcvm-runtime\"\n    }\n  }\n}\n";
    for text in [None, Some(""), Some(" \n"), Some("{}\n")] {
        let made = added(text);
        assert_eq!(made.trim_end(), expected.trim_end());
    }
}

#[test]
fn order_and_indentation_stay() {
    let text = "{\n\t\"zeta\": 1.50,\n\t\"log-opts\": {\n\t\t\"max-size\": \"10m\"\n\t},\n\t\"runtimes\": {\n\t\t\"x\": {\n\t\t\t\"path\": \"/x\"\n\t\t}\n\t},\n\t\"alpha\": []\n}";
    let expected = text
        .replace(
            "\"/x\"\n\t\t}\n",
            "\"/x\"\n\t\t},\n\t\t\"runcvm\": {\n\t\t\t\"path\": \"/opt/runcvm/bin/runcvm-runtime\"\n\t\t}\n",
        )
        .replace("1.50", "1.5");
    assert_eq!(added(Some(text)), expected);
}

#[test]
fn options_of_an_older_entry_stay() {
    let text = added(Some(
        r#"{"runtimes":{"runcvm":{"path":"/old","runtimeArgs":["--debug"]}}}"#,
    ));
    let value: Value = serde_json::from_str(&text).unwrap();
    assert_eq!(
        value["runtimes"]["runcvm"],
        json!({"path": PROGRAM, "runtimeArgs": ["--debug"]})
    );
}

#[test]
fn removing_undoes_adding() {
    for text in [
        "{\n  \"debug\": true\n}\n",
        "{\n    \"runtimes\": {\n        \"x\": {\n            \"path\": \"/x\"\n        }\n    }\n}",
    ] {
        let (_directory, path) = file(Some(text));
        let mut config = Config::read(&path).unwrap();
        assert!(config.add("runcvm", Path::new(PROGRAM)).unwrap());
        config.write().unwrap();
        let mut config = Config::read(&path).unwrap();
        assert!(!config.add("runcvm", Path::new(PROGRAM)).unwrap());
        assert!(config.remove("runcvm").unwrap());
        config.tidy();
        config.write().unwrap();
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
        assert!(!config.remove("runcvm").unwrap());
    }
}

#[test]
fn a_file_of_ours_alone_goes() {
    let (_directory, path) = file(None);
    let mut config = Config::read(&path).unwrap();
    config.add("runcvm", Path::new(PROGRAM)).unwrap();
    config.write().unwrap();
    config.remove("runcvm").unwrap();
    config.write().unwrap();
    let left: Value = serde_json::from_str(&fs::read_to_string(&path).unwrap()).unwrap();
    assert_eq!(left, json!({"runtimes": {}}));
    config.tidy();
    config.write().unwrap();
    assert!(!path.exists());
}

#[test]
fn mode_and_link_stay() {
    let (directory, path) = file(Some("{}"));
    fs::set_permissions(&path, Permissions::from_mode(0o600)).unwrap();
    let link = directory.path().join("link");
    std::os::unix::fs::symlink("daemon.json", &link).unwrap();
    let mut config = Config::read(&link).unwrap();
    config.add("runcvm", Path::new(PROGRAM)).unwrap();
    config.write().unwrap();
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    assert_eq!(fs::metadata(&path).unwrap().mode() & 0o7777, 0o600);
    assert!(fs::read_to_string(&path).unwrap().contains(PROGRAM));
}

#[test]
fn what_is_broken_is_refused_and_stays() {
    for (text, said) in [
        ("{\"a\": 1,}", "is not JSON"),
        ("[]", "holds no JSON object"),
        ("{\"runtimes\": []}", "\"runtimes\" in"),
        ("{\"runtimes\": {\"runcvm\": 1}}", "is no JSON object"),
    ] {
        let (_directory, path) = file(Some(text));
        let error = Config::read(&path)
            .and_then(|mut config| config.add("runcvm", Path::new(PROGRAM)))
            .unwrap_err()
            .to_string();
        assert!(error.contains(said), "{error}");
        assert_eq!(error.lines().count(), 1);
        assert_eq!(fs::read_to_string(&path).unwrap(), text);
    }
}

#[test]
fn the_default_runtime_is_not_removed() {
    let text = r#"{"default-runtime": "runcvm", "runtimes": {"runcvm": {"path": "/x"}}}"#;
    let (_directory, path) = file(Some(text));
    let error = Config::read(&path).unwrap().remove("runcvm").unwrap_err();
    assert!(
        error.to_string().contains("choose another first"),
        "{error}"
    );
}
