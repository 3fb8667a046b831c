use super::*;

#[test]
fn a_name_in_use_is_refused_and_free_again_afterwards() {
    let base = tempfile::tempdir().unwrap();
    let first = RunDir::acquire(base.path(), "web").unwrap();
    assert!(matches!(
        RunDir::acquire(base.path(), "web"),
        Err(Error::InUse(_))
    ));
    assert_eq!(running(base.path()).unwrap(), ["web"]);
    assert!(find(base.path(), "web").is_ok());
    drop(first);
    assert!(!base.path().join("web").exists());
    assert!(matches!(
        find(base.path(), "web"),
        Err(Error::NotRunning(_))
    ));
    RunDir::acquire(base.path(), "web").unwrap();
}

#[test]
fn what_a_dead_launcher_left_is_taken_over() {
    let base = tempfile::tempdir().unwrap();
    let stale = base.path().join("web");
    fs::create_dir_all(stale.join("share-0")).unwrap();
    fs::write(stale.join("control.sock"), "").unwrap();
    let dir = RunDir::acquire(base.path(), "web").unwrap();
    assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
}

#[test]
fn listing_removes_what_dead_launchers_left() {
    let base = tempfile::tempdir().unwrap();
    let _alive = RunDir::acquire(base.path(), "alive").unwrap();
    fs::create_dir(base.path().join("dead")).unwrap();
    assert_eq!(running(base.path()).unwrap(), ["alive"]);
    assert!(!base.path().join("dead").exists());
    assert!(running(&base.path().join("nothing")).unwrap().is_empty());
}

#[test]
fn one_of_many_launchers_gets_a_name() {
    let base = tempfile::tempdir().unwrap();
    for _ in 0..50 {
        fs::create_dir(base.path().join("web")).unwrap();
        let barrier = std::sync::Barrier::new(4);
        let got: Vec<_> = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4)
                .map(|_| {
                    scope.spawn(|| {
                        barrier.wait();
                        running(base.path()).unwrap();
                        RunDir::acquire(base.path(), "web")
                    })
                })
                .collect();
            threads.into_iter().map(|t| t.join().unwrap()).collect()
        });
        assert_eq!(got.iter().filter(|r| r.is_ok()).count(), 1, "{got:?}");
    }
}

#[test]
fn names_that_are_paths_or_too_long_are_refused() {
    for bad in [
        "",
        ".",
        "..",
        "-x",
        "_x",
        "a/b",
        "a b",
        "é",
        &"x".repeat(65),
    ] {
        assert!(matches!(check_name(bad), Err(Error::BadName(_))), "{bad}");
    }
    for good in ["a", "0", "web-1.prod_x", &"x".repeat(64)] {
        assert!(check_name(good).is_ok(), "{good}");
    }
}

#[test]
fn a_base_that_leaves_no_room_for_sockets_is_refused() {
    let base = tempfile::tempdir().unwrap();
    let long = base.path().join("x".repeat(60)).join("y".repeat(30));
    assert!(matches!(
        RunDir::acquire(&long, "web"),
        Err(Error::TooLong(_))
    ));
    assert!(!long.exists());
}
