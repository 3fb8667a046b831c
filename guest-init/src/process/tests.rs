use super::*;

fn process(args: &[&str], env: &[&str]) -> Process {
    let bytes = |strings: &[&str]| strings.iter().map(|&s| ByteBuf::from(s)).collect();
    Process {
        args: bytes(args),
        env: bytes(env),
        ..Process::default()
    }
}

fn found(program: &str, env: &[&str]) -> Vec<String> {
    let paths = candidates(&process(&[program], env));
    paths
        .into_iter()
        .map(|path| String::from_utf8(path.into_vec()).unwrap())
        .collect()
}

#[test]
fn programs_are_sought_by_path() {
    let env = ["PATH=/a:/b/:c"];
    assert_eq!(found("x", &env), ["/a/x", "/b//x", "c/x"]);
    assert_eq!(found("/bin/x", &env), ["/bin/x"]);
    assert_eq!(found("./x", &env), ["./x"]);
    assert_eq!(found("d/x", &env), ["d/x"]);
}

#[test]
fn an_empty_element_of_path_is_the_working_directory() {
    assert_eq!(found("x", &["PATH=/a:"]), ["/a/x", "./x"]);
    assert_eq!(found("x", &["PATH=:/a"]), ["./x", "/a/x"]);
}

#[test]
fn without_a_path_nothing_is_found() {
    assert!(found("x", &[]).is_empty());
    assert!(found("x", &["PATH="]).is_empty());
    assert!(found("x", &["XPATH=/a", "PATHS=/b"]).is_empty());
    assert!(found("", &["PATH=/a"]).is_empty());
    assert!(candidates(&process(&[], &["PATH=/a"])).is_empty());
}

#[test]
fn of_two_paths_the_later_holds() {
    assert_eq!(found("x", &["PATH=/a", "PATH=/b"]), ["/b/x"]);
}

/// The environment that a command gets.
fn environment(env: &[&str]) -> Vec<String> {
    let root = RootDir::new(Path::new("/")).unwrap();
    let command = Command::new(&process(&["x"], env), &root).unwrap();
    let strings = command.env.strings.into_iter();
    strings
        .map(|string| string.into_string().unwrap())
        .collect()
}

#[test]
fn home_is_added_only_where_it_is_missing() {
    assert_eq!(environment(&["A=1"]), ["A=1", "HOME=/root"]);
    assert_eq!(environment(&["HOME=/x", "A="]), ["HOME=/x", "A="]);
    assert_eq!(environment(&["HOME=", "A="]), ["HOME=/root", "A="]);
}

#[test]
fn what_cannot_be_run_is_refused() {
    let root = RootDir::new(Path::new("/")).unwrap();
    for bad in [
        process(&[], &[]),
        process(&["a\0b"], &[]),
        process(&["a"], &["A=\0"]),
    ] {
        let error = Command::new(&bad, &root).unwrap_err();
        assert_eq!(error.status, STATUS_FAILED, "{error}");
    }
}
