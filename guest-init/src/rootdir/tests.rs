use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};

use super::*;

/// A root with a neighbour that nothing in it may reach.
struct Tree {
    dir: tempfile::TempDir,
    root: RootDir,
}

impl Tree {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("root")).unwrap();
        fs::create_dir(dir.path().join("outside")).unwrap();
        fs::write(dir.path().join("outside/secret"), "secret").unwrap();
        let root = RootDir::new(&dir.path().join("root")).unwrap();
        Self { dir, root }
    }

    fn path(&self, path: &str) -> PathBuf {
        self.dir.path().join("root").join(path)
    }

    fn link(&self, target: &str, path: &str) {
        symlink(target, self.path(path)).unwrap();
    }

    fn make_dir(&self, path: &str) -> io::Result<(OwnedFd, bool)> {
        self.root.make_dir(Path::new(path))
    }

    fn outside(&self) -> Vec<OsString> {
        let entries = fs::read_dir(self.dir.path().join("outside")).unwrap();
        entries.map(|entry| entry.unwrap().file_name()).collect()
    }
}

fn inode(fd: &OwnedFd) -> u64 {
    fstat(fd).unwrap().st_ino
}

#[test]
fn directories_are_made_with_their_parents() {
    let tree = Tree::new();
    for path in ["/a/b/c", "d/e", "/f//g/", "/h/./i"] {
        let (fd, existed) = tree.make_dir(path).unwrap();
        assert!(!existed, "{path}");
        let made = fs::metadata(tree.path(path.trim_start_matches('/'))).unwrap();
        assert_eq!(
            (made.ino(), made.permissions().mode() & 0o777),
            (inode(&fd), 0o755)
        );
        let (again, existed) = tree.make_dir(path).unwrap();
        assert!(existed);
        assert_eq!(inode(&again), inode(&fd));
    }
}

#[test]
fn files_are_made_with_their_parents() {
    let tree = Tree::new();
    let fd = tree.root.make_file(Path::new("/x/y")).unwrap();
    assert_eq!(fs::metadata(tree.path("x/y")).unwrap().ino(), inode(&fd));
    fs::write(tree.path("x/y"), "kept").unwrap();
    tree.root.make_file(Path::new("/x/y")).unwrap();
    assert_eq!(fs::read(tree.path("x/y")).unwrap(), b"kept");
}

#[test]
fn no_link_leads_outside() {
    let tree = Tree::new();
    tree.link("/outside", "absolute");
    tree.link("../outside", "relative");
    tree.link("../../../../../../..", "up");
    tree.link(tree.dir.path().join("outside").to_str().unwrap(), "full");
    for path in [
        "absolute/new",
        "relative/new",
        "up/new",
        "full/new",
        "../outside/new",
    ] {
        let (fd, _) = tree.make_dir(path).unwrap();
        let path = Path::new(path);
        let file = tree.root.make_file(&path.with_file_name("file")).unwrap();
        drop((fd, file));
        assert_eq!(tree.outside(), ["secret"], "{}", path.display());
    }
    for path in ["absolute/secret", "relative/secret", "full/secret"] {
        assert_eq!(
            tree.root.read_file(Path::new(path), 100).unwrap(),
            None,
            "{path}"
        );
    }
    assert!(tree.path("outside/new").is_dir());
}

#[test]
fn dangling_links_are_followed_in_the_root() {
    let tree = Tree::new();
    tree.link("/run", "var-run");
    tree.link("deep/er", "relative");
    let (fd, _) = tree.make_dir("/var-run/lock").unwrap();
    assert_eq!(
        fs::metadata(tree.path("run/lock")).unwrap().ino(),
        inode(&fd)
    );
    let fd = tree.root.make_file(Path::new("/relative/file")).unwrap();
    assert_eq!(
        fs::metadata(tree.path("deep/er/file")).unwrap().ino(),
        inode(&fd)
    );
}

#[test]
fn what_cannot_be_made_is_an_error() {
    let tree = Tree::new();
    fs::write(tree.path("file"), "").unwrap();
    fs::create_dir(tree.path("dir")).unwrap();
    tree.link("loop", "loop");
    tree.link("two", "one");
    tree.link("one", "two");
    tree.link("missing/../../x", "odd");
    let code = |result: io::Result<(OwnedFd, bool)>| {
        result
            .map(drop)
            .map_err(|e| Errno::from_raw(e.raw_os_error().unwrap()))
    };
    assert_eq!(code(tree.make_dir("file")), Err(Errno::ENOTDIR));
    assert_eq!(code(tree.make_dir("file/below")), Err(Errno::ENOTDIR));
    assert_eq!(code(tree.make_dir("loop")), Err(Errno::ELOOP));
    assert_eq!(code(tree.make_dir("loop/below")), Err(Errno::ELOOP));
    assert_eq!(code(tree.make_dir("one/below")), Err(Errno::ELOOP));
    assert_eq!(code(tree.make_dir("missing/..")), Err(Errno::ENOENT));
    let file = tree.root.make_file(Path::new("dir"));
    assert_eq!(file.unwrap_err().raw_os_error(), Some(Errno::EISDIR as i32));
    assert_eq!(tree.outside(), ["secret"]);
}

#[test]
fn a_chain_of_dangling_links_ends() {
    let tree = Tree::new();
    for i in 0..100 {
        tree.link(&format!("link{}/x", i + 1), &format!("link{i}"));
    }
    assert!(tree.make_dir("link0").is_err());
    tree.link("self/more", "self");
    assert!(tree.make_dir("self").is_err());
}

#[test]
fn magic_links_are_not_followed() {
    // A root in which /proc is, as the machine's has.
    let root = RootDir::new(Path::new("/")).unwrap();
    let opened = root.open(Path::new("/proc/self/root/etc"), OFlag::O_PATH);
    assert_eq!(opened.unwrap_err(), Errno::ELOOP);
}

#[test]
fn only_regular_files_of_a_size_are_read() {
    let tree = Tree::new();
    fs::write(tree.path("file"), "12345").unwrap();
    fs::create_dir(tree.path("dir")).unwrap();
    let read = |path: &str, limit| tree.root.read_file(Path::new(path), limit);
    assert_eq!(read("file", 5).unwrap().unwrap(), b"12345");
    assert!(read("file", 4).is_err());
    assert!(read("dir", 4).is_err());
    assert_eq!(read("none", 4).unwrap(), None);
    assert_eq!(read("file/none", 4).unwrap(), None);
}
