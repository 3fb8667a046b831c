//! Very many small files. `tests/guest/tree.py` makes them, and says what each is like.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use crate::sharing::Sharing;

const COUNT: u32 = 10_000;
const WORKERS: u32 = 4;
const MODES: [u32; 5] = [0o644, 0o600, 0o755, 0o440, 0o666];
const SPECIAL_MODES: [u32; 4] = [0o4711, 0o2750, 0o1777, 0];

fn is_special(i: u32) -> bool {
    i.is_multiple_of(10)
}

fn owner(i: u32) -> (u32, u32) {
    if is_special(i) {
        (3000 + i % 7, 4000 + i % 5)
    } else {
        (1000 + i % WORKERS, 2000 + i % WORKERS)
    }
}

fn mode(i: u32) -> u32 {
    if is_special(i) {
        SPECIAL_MODES[i as usize / 10 % 4]
    } else {
        MODES[i as usize % 5]
    }
}

fn created(i: u32) -> String {
    format!("d{:02}/f{i:05}", i / 100)
}

fn renamed(i: u32) -> String {
    format!("e{:02}/g{i:05}", (i + 100 * (i % 2)) % COUNT / 100)
}

/// The further name of file `i`, if it has one: a hard link or a symbolic one.
fn link(i: u32, stage: char) -> Option<String> {
    let name = match i % 10 {
        1 => "hard",
        2 | 3 => "soft",
        _ => return None,
    };
    Some(format!("{stage}{:02}/{name}{i:05}", i / 100))
}

#[test]
fn ten_thousand_files_are_the_same_on_both_sides() {
    let sharing = Sharing::machine();
    let data = sharing.host("data");

    step(&sharing, "create");
    let mut names = BTreeSet::new();
    let mut numbers = BTreeMap::new();
    for i in 0..COUNT {
        check_created(&data, i);
        names.insert(created(i));
        names.extend(link(i, 'd'));
        if is_special(i) {
            numbers.insert(created(i), i.to_string());
        }
    }
    assert_eq!(names_below(&data, 'd'), names);
    assert_eq!(numbers_below(&data), numbers);

    step(&sharing, "rename");
    let links: BTreeSet<_> = (0..COUNT).filter_map(|i| link(i, 'e')).collect();
    let all: BTreeSet<_> = (0..COUNT).map(renamed).collect();
    assert_eq!(names_below(&data, 'e'), &all | &links);
    assert_eq!(names_below(&data, 'd'), BTreeSet::new());

    step(&sharing, "delete");
    let left = (0..COUNT).filter(|i| i % 3 != 0).map(renamed);
    assert_eq!(names_below(&data, 'e'), &left.collect() | &links);
    step(&sharing, "check");
}

/// Runs a step in the guest, and says how long it took.
#[track_caller]
fn step(sharing: &Sharing, name: &str) {
    let started = Instant::now();
    let script = include_str!("../../guest/tree.py");
    sharing
        .vm
        .exec()
        .timeout(Duration::from_secs(400))
        .run(["python3", "-c", script, name])
        .succeeded();
    eprintln!("{name}: {:.1} s", started.elapsed().as_secs_f64());
}

fn check_created(data: &Path, i: u32) {
    let path = data.join(created(i));
    let what = path.display();
    let found = fs::metadata(&path).unwrap_or_else(|e| panic!("{what}: {e}"));
    assert_eq!(found.mode() & 0o7777, mode(i), "{what}");
    assert_eq!((found.uid(), found.gid()), owner(i), "{what}");
    if is_special(i) {
        let modified = (i64::from(1_600_000_000 + i), i64::from(i * 1000));
        assert_eq!((found.mtime(), found.mtime_nsec()), modified, "{what}");
        let read = (modified.0 + 1, modified.1);
        assert_eq!((found.atime(), found.atime_nsec()), read, "{what}");
    }
    assert_eq!(found.nlink(), if i % 10 == 1 { 2 } else { 1 }, "{what}");
    let content = format!("file {i}\n").repeat(1 + i as usize % 50);
    assert_eq!(fs::read_to_string(&path).unwrap(), content, "{what}");

    let Some(link) = link(i, 'd') else {
        return;
    };
    let path = data.join(&link);
    let linked = fs::symlink_metadata(&path).unwrap();
    let leads_to = || fs::read_link(&path).unwrap();
    match i % 10 {
        1 => assert_eq!(linked.ino(), found.ino(), "{link}"),
        2 => {
            assert_eq!((linked.uid(), linked.gid()), owner(i), "{link}");
            assert_eq!(leads_to(), Path::new(&format!("f{i:05}")));
        }
        _ => assert_eq!(leads_to(), Path::new("/no/such\nplace")),
    }
}

/// Names of all that is in the directories of `path` whose names begin with `stage`.
fn names_below(path: &Path, stage: char) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for directory in fs::read_dir(path).unwrap().flatten() {
        let directory = directory.file_name().into_string().unwrap();
        if directory.starts_with(stage) {
            let files = fs::read_dir(path.join(&directory)).unwrap().flatten();
            let files = files.map(|file| file.file_name().into_string().unwrap());
            names.extend(files.map(|file| format!("{directory}/{file}")));
        }
    }
    names
}

/// The attribute `user.number` of all files below `path` that have it.
fn numbers_below(path: &Path) -> BTreeMap<String, String> {
    let output = Command::new("getfattr")
        .args(["--recursive", "--physical", "--dump", "."])
        .current_dir(path)
        .output()
        .expect("attr is installed");
    let text = String::from_utf8(output.stdout).unwrap();
    let mut file = "";
    let mut numbers = BTreeMap::new();
    for line in text.lines() {
        if let Some(name) = line.strip_prefix("# file: ") {
            file = name;
        } else if let Some(value) = line.strip_prefix("user.number=") {
            numbers.insert(file.to_owned(), value.trim_matches('"').to_owned());
        }
    }
    numbers
}
