//! Whether a container's program is there, told before anything is started and in the words
//! of runc, by which docker knows to exit with 127 or 126.

use std::ffi::OsStr;
use std::path::{Component, Path, PathBuf};

use nix::errno::Errno;

use runcvm_kernels::rootfs::Image;

/// What a container sees of its image.
#[derive(Debug)]
pub(crate) struct View<'a> {
    image: &'a Image,
    /// Where something else is mounted, as it was given and where that really is.
    covered: Vec<PathBuf>,
    /// Something is mounted, nobody knows where.
    uncertain: bool,
}

/// What became of looking for a program.
enum Look {
    Executable,
    /// It is another thing, or may not be executed.
    Denied,
    Missing(Errno),
    /// Only the guest can know.
    Unknown,
}

/// Why `program` cannot be executed with `env` in the directory `cwd`, if that is certain.
pub(crate) fn missing(
    view: &View<'_>,
    program: &str,
    env: &[String],
    cwd: &Path,
) -> Option<String> {
    if program.contains('/') {
        let path = cwd.join(program);
        return match view.look(&path) {
            Look::Executable | Look::Unknown => None,
            Look::Denied => Some(format!("exec: {program:?}: permission denied")),
            Look::Missing(error) => Some(format!(
                "exec: {program:?}: stat {program}: {}",
                error.desc().to_lowercase()
            )),
        };
    }
    let path = env
        .iter()
        .rev()
        .find_map(|entry| entry.strip_prefix("PATH="))?;
    for dir in std::env::split_paths(OsStr::new(path)) {
        match view.look(&cwd.join(dir).join(program)) {
            Look::Executable | Look::Unknown => return None,
            Look::Denied | Look::Missing(_) => {}
        }
    }
    Some(format!(
        "exec: {program:?}: executable file not found in $PATH"
    ))
}

impl<'a> View<'a> {
    /// The view of `image` with other things mounted at these absolute paths.
    pub(crate) fn new(image: &'a Image, mounts: impl Iterator<Item = PathBuf>) -> Self {
        let mut view = Self {
            image,
            covered: Vec::new(),
            uncertain: false,
        };
        for mount in mounts {
            match view.settle(&mount) {
                Some(real) => view.covered.push(real),
                None => view.uncertain = true,
            }
            view.covered.push(mount);
        }
        view
    }

    fn look(&self, path: &Path) -> Look {
        let real = self.settle(path);
        let Some(real) = real.filter(|real| !self.is_covered(path) && !self.is_covered(real))
        else {
            return Look::Unknown;
        };
        match self.image.find(&real) {
            Ok(found) if found.is_executable() => Look::Executable,
            Ok(_) => Look::Denied,
            Err(_) if self.uncertain => Look::Unknown,
            Err(error @ (Errno::ENOENT | Errno::ENOTDIR)) => Look::Missing(error),
            Err(_) => Look::Unknown,
        }
    }

    /// Where `path` is without links, as far as it is there; `None` if that is behind a link
    /// to something that is not in the image.
    fn settle(&self, path: &Path) -> Option<PathBuf> {
        for ancestor in path.ancestors() {
            let rest = path.strip_prefix(ancestor).ok()?;
            if let Ok(found) = self.image.find(ancestor) {
                let real = self.image.real_path(&found)?;
                let mut parts = rest.components();
                let is_plain = parts.all(|part| matches!(part, Component::Normal(_)));
                return is_plain.then(|| match rest.as_os_str().is_empty() {
                    true => real,
                    false => real.join(rest),
                });
            }
            if self.image.is_link(ancestor) {
                return None;
            }
        }
        None
    }

    fn is_covered(&self, path: &Path) -> bool {
        self.covered.iter().any(|mount| path.starts_with(mount))
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{PermissionsExt, symlink};

    use super::*;

    fn root() -> tempfile::TempDir {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path();
        fs::create_dir_all(path.join("usr/bin")).unwrap();
        fs::create_dir_all(path.join("opt")).unwrap();
        symlink("usr/bin", path.join("bin")).unwrap();
        let file = |name: &str, mode| {
            fs::write(path.join(name), "").unwrap();
            fs::set_permissions(path.join(name), fs::Permissions::from_mode(mode)).unwrap();
        };
        file("usr/bin/tool", 0o755);
        file("usr/bin/text", 0o644);
        symlink("/opt/data/tool", path.join("usr/bin/far")).unwrap();
        symlink("/usr/bin/tool", path.join("usr/bin/near")).unwrap();
        dir
    }

    fn look(covered: &[&str], program: &str) -> Option<String> {
        let dir = root();
        let image = Image::open(dir.path()).unwrap();
        let view = View::new(&image, covered.iter().map(PathBuf::from));
        let env = ["PATH=/nowhere:/bin:/opt".to_owned()];
        missing(&view, program, &env, Path::new("/usr"))
    }

    #[test]
    fn programs_that_are_there_are_found() {
        for program in [
            "tool",
            "near",
            "/bin/tool",
            "/usr/bin/near",
            "bin/tool",
            "./bin/../bin/tool",
        ] {
            assert_eq!(look(&[], program), None, "{program}");
            assert_eq!(look(&["/etc/hosts", "/proc"], program), None, "{program}");
        }
    }

    #[test]
    fn what_is_missing_is_told_as_runc_does() {
        for (program, message) in [
            (
                "nosuch",
                "exec: \"nosuch\": executable file not found in $PATH",
            ),
            ("text", "exec: \"text\": executable file not found in $PATH"),
            (
                "/bin/nosuch",
                "exec: \"/bin/nosuch\": stat /bin/nosuch: no such file or directory",
            ),
            (
                "bin/no",
                "exec: \"bin/no\": stat bin/no: no such file or directory",
            ),
            (
                "/bin/tool/x",
                "exec: \"/bin/tool/x\": stat /bin/tool/x: not a directory",
            ),
            ("/bin/text", "exec: \"/bin/text\": permission denied"),
            ("/opt", "exec: \"/opt\": permission denied"),
        ] {
            assert_eq!(look(&[], program).as_deref(), Some(message));
            let ordinary = ["/etc/hosts", "/proc", "/srv/data"];
            assert_eq!(look(&ordinary, program).as_deref(), Some(message));
        }
    }

    #[test]
    fn what_a_volume_may_hold_is_left_to_the_guest() {
        for (covered, program) in [
            ("/usr/bin", "nosuch"),
            ("/usr", "/bin/nosuch"),
            ("/bin", "/usr/bin/nosuch"),
            ("/opt", "nosuch"),
            ("/nowhere", "nosuch"),
            ("/opt/data", "far"),
            ("/opt/data", "/usr/bin/far"),
            ("/usr/bin/text", "/bin/text"),
            ("/usr/bin/far", "/data/x"),
            ("/etc/hosts", "/bin/none/../x"),
        ] {
            assert_eq!(look(&[covered], program), None, "{covered} {program}");
        }
    }

    #[test]
    fn without_a_path_nothing_is_known() {
        let dir = root();
        let image = Image::open(dir.path()).unwrap();
        let view = View::new(&image, std::iter::empty());
        assert_eq!(missing(&view, "nosuch", &[], Path::new("/")), None);
    }
}
