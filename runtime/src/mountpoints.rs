//! Directories that the machine has something mounted on and that few images have. They are
//! made before the container, and removed by a hook of it behind its end, so that they are no
//! change that the user made to the image.

use std::env;
use std::ffi::OsString;
use std::io::{self, Read};
use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{Mode, UtimensatFlags, fstat, mkdirat, utimensat};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use runcvm_kernels::rootfs::{self, Image};

/// The verb of the hook.
pub(crate) const VERB: &str = "tidy";

/// Those of one container.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Mountpoints {
    /// The image.
    root: PathBuf,
    /// Parents before what is in them.
    made: Vec<Made>,
}

/// A directory that was made.
#[derive(Debug, Serialize, Deserialize)]
struct Made {
    /// In the image, without links.
    path: PathBuf,
    /// When its parent was changed last before that, and by it.
    before: Time,
    after: Time,
}

/// No state has more bytes.
const MAX_STATE: u64 = 1 << 20;

/// Seconds and nanoseconds.
type Time = (i64, i64);

impl Mountpoints {
    /// Makes those of `paths` that `image` does not have, as far as that is possible.
    pub(crate) fn make(image: &Image, paths: &[PathBuf]) -> Result<Self> {
        let mut this = Self {
            root: rootfs::path_of(image)?,
            made: Vec::new(),
        };
        for path in paths {
            let mut ancestors: Vec<_> = path.ancestors().collect();
            ancestors.reverse();
            for ancestor in ancestors {
                match image.find(ancestor) {
                    Ok(_) => {}
                    Err(Errno::ENOENT) if !image.is_link(ancestor) => {
                        let Ok(made) = make(image, ancestor) else {
                            break;
                        };
                        this.made.push(made);
                    }
                    Err(_) => break,
                }
            }
        }
        Ok(this)
    }

    /// Has the container of this configuration remove them behind its end.
    pub(crate) fn add_hook(&self, config: &mut Value) -> Result<()> {
        if self.made.is_empty() {
            return Ok(());
        }
        let program = env::current_exe().context("our own program has no path")?;
        let message = serde_json::to_string(self)?;
        let hook = json!({"path": program, "args": ["runcvm-runtime", VERB, message]});
        let empty = |field: &mut Value, value: Value| {
            if field.is_null() {
                *field = value;
            }
        };
        let hooks = &mut config["hooks"];
        empty(hooks, Value::Object(Map::new()));
        let hooks = hooks
            .as_object_mut()
            .context("hooks is not a JSON object")?;
        let hooks = hooks.entry("poststop").or_insert(Value::Null);
        empty(hooks, json!([]));
        let hooks = hooks.as_array_mut();
        hooks
            .context("hooks.poststop is not a JSON array")?
            .push(hook);
        Ok(())
    }

    /// Removes those that are empty. Whatever the container made of its image, nothing else
    /// is removed.
    fn remove(&self) -> Result<()> {
        let image = Image::open(&self.root)?;
        for made in self.made.iter().rev() {
            // What is gone, full or something else by now is not ours.
            let _ = made.remove(&image);
        }
        Ok(())
    }
}

fn make(image: &Image, path: &Path) -> Result<Made> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Errno::EINVAL.into());
    };
    let parent = image.find(parent)?;
    let place = image.real_path(&parent).context("it has no path")?;
    let before = changed(&parent)?;
    mkdirat(&parent, name, Mode::from_bits_truncate(0o755))?;
    Ok(Made {
        path: place.join(name),
        before,
        after: changed(&parent)?,
    })
}

impl Made {
    fn remove(&self, image: &Image) -> nix::Result<()> {
        let (Some(parent), Some(name)) = (self.path.parent(), self.path.file_name()) else {
            return Err(Errno::EINVAL);
        };
        let parent = image.find_plain(parent)?;
        let unchanged = changed(&parent)? == self.after;
        unlinkat(&parent, name, UnlinkatFlags::RemoveDir)?;
        if unchanged {
            let by_number = format!("/proc/self/fd/{}", parent.as_fd().as_raw_fd());
            let (seconds, nanoseconds) = self.before;
            let time = TimeSpec::new(seconds, nanoseconds);
            let follow = UtimensatFlags::FollowSymlink;
            utimensat(
                AT_FDCWD,
                by_number.as_str(),
                &TimeSpec::UTIME_OMIT,
                &time,
                follow,
            )?;
        }
        Ok(())
    }
}

/// When a directory was changed last.
fn changed(directory: impl AsFd) -> nix::Result<Time> {
    let stat = fstat(directory)?;
    Ok((stat.st_mtime, stat.st_mtime_nsec))
}

/// The hook. The runtime writes the container's state to its stdin.
pub(crate) fn tidy(message: Option<&OsString>) -> ExitCode {
    // Not to be read to the end could be taken for a failure.
    let _ = io::copy(&mut io::stdin().lock().take(MAX_STATE), &mut io::sink());
    let result = || -> Result<()> {
        let message = message.and_then(|message| message.to_str());
        let mountpoints: Mountpoints = serde_json::from_str(message.context("no message")?)?;
        mountpoints.remove()
    }();
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(_) => ExitCode::FAILURE,
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::{MetadataExt, symlink};

    use super::*;

    const PATHS: [&str; 2] = ["/lib/modules/6.12", "/.runcvm"];

    fn image() -> (tempfile::TempDir, Image) {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("usr/lib")).unwrap();
        symlink("usr/lib", dir.path().join("lib")).unwrap();
        let old = TimeSpec::new(1_000_000_000, 5);
        let follow = UtimensatFlags::FollowSymlink;
        utimensat(AT_FDCWD, &dir.path().join("usr/lib"), &old, &old, follow).unwrap();
        let image = Image::open(dir.path()).unwrap();
        (dir, image)
    }

    fn make(image: &Image) -> Mountpoints {
        let made = Mountpoints::make(image, &PATHS.map(PathBuf::from)).unwrap();
        let message = serde_json::to_string(&made).unwrap();
        serde_json::from_str(&message).unwrap()
    }

    fn changed(dir: &tempfile::TempDir) -> (i64, i64) {
        let metadata = fs::metadata(dir.path().join("usr/lib")).unwrap();
        (metadata.mtime(), metadata.mtime_nsec())
    }

    #[test]
    fn what_was_made_leaves_no_trace() {
        let (dir, image) = image();
        let made = make(&image);
        assert_eq!(made.made.len(), 3);
        assert!(dir.path().join("usr/lib/modules/6.12").is_dir());
        assert!(dir.path().join(".runcvm").is_dir());
        assert_ne!(changed(&dir), (1_000_000_000, 5));
        assert_eq!(make(&image).made.len(), 0);
        made.remove().unwrap();
        assert!(!dir.path().join("usr/lib/modules").exists());
        assert!(!dir.path().join(".runcvm").exists());
        assert_eq!(changed(&dir), (1_000_000_000, 5));
        made.remove().unwrap();
    }

    #[test]
    fn what_the_container_left_stays() {
        let (dir, image) = image();
        let made = make(&image);
        let lib = dir.path().join("usr/lib");
        fs::write(lib.join("modules/new"), "").unwrap();
        fs::write(lib.join("another"), "").unwrap();
        let outside = tempfile::tempdir().unwrap();
        fs::create_dir(outside.path().join("6.12")).unwrap();
        fs::remove_dir(dir.path().join(".runcvm")).unwrap();
        symlink(outside.path(), dir.path().join(".runcvm")).unwrap();
        made.remove().unwrap();
        assert!(lib.join("modules/new").exists() && !lib.join("modules/6.12").exists());
        assert_ne!(changed(&dir), (1_000_000_000, 5));
        assert!(dir.path().join(".runcvm").is_symlink());
        // A link where a parent was.
        fs::rename(lib.join("modules"), dir.path().join("old")).unwrap();
        symlink(outside.path(), lib.join("modules")).unwrap();
        made.remove().unwrap();
        assert!(outside.path().join("6.12").is_dir());
    }

    #[test]
    fn what_cannot_be_made_is_left_to_others() {
        let (dir, image) = image();
        symlink("/nowhere", dir.path().join("usr/lib/modules")).unwrap();
        fs::write(dir.path().join(".runcvm"), "").unwrap();
        assert_eq!(make(&image).made.len(), 0);
    }

    #[test]
    fn the_hook_stands_behind_others() {
        let (_dir, image) = image();
        let made = make(&image);
        for (hooks, count) in [
            (Value::Null, 1),
            (json!({"prestart": []}), 1),
            (json!({"poststop": [{"path": "/x"}]}), 2),
        ] {
            let mut config = json!({ "hooks": hooks });
            made.add_hook(&mut config).unwrap();
            let hooks = config["hooks"]["poststop"].as_array().unwrap();
            assert_eq!(hooks.len(), count);
            assert_eq!(hooks[count - 1]["args"][1], "tidy");
        }
        let mut config = json!({});
        made.add_hook(&mut config).unwrap();
        made.remove().unwrap();
        let mut config = json!({});
        let none = Mountpoints {
            root: "/".into(),
            made: Vec::new(),
        };
        none.add_hook(&mut config).unwrap();
        assert_eq!(config, json!({}));
        made.add_hook(&mut json!({"hooks": []})).unwrap_err();
    }
}
