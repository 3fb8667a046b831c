//! Which kernel a container's machine boots.

use std::path::Path;

use anyhow::Result;
use runcvm_kernels::Store;

use crate::image::Image;

/// Where an image says which distribution it is, in the order of os-release(5).
const OS_RELEASE: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];

/// As much is read of it. Real ones have less than a thousand bytes.
const LIMIT: u64 = 16 * 1024;

/// The name of the bundle to boot: `asked` if given, which must be installed, else the one of
/// the image's distribution, or of one that it is like; `None`, the default, if none of them is
/// installed.
pub(crate) fn choose(
    asked: Option<&str>,
    store: &Store,
    image: Option<&Image>,
) -> Result<Option<String>> {
    if let Some(name) = asked {
        store.resolve(Some(name))?;
        return Ok(Some(name.into()));
    }
    let words = image.map(distributions).unwrap_or_default();
    let installed = store.names()?;
    let chosen = words.into_iter().find(|word| {
        let mut names = installed.iter();
        names.any(|name| name.distribution == *word)
    });
    if chosen.is_none() && store.default_name().is_none() {
        store.resolve(None)?;
    }
    Ok(chosen)
}

/// The image's distribution, then those that it is like, by their identifiers.
fn distributions(image: &Image) -> Vec<String> {
    let read = |path| image.read(Path::new(path), LIMIT);
    match OS_RELEASE.into_iter().find_map(read) {
        Some(text) => identifiers(&String::from_utf8_lossy(&text)),
        None => Vec::new(),
    }
}

/// The words of `ID` and `ID_LIKE`. Anything else in the text is of no interest, and it may
/// not be text at all.
fn identifiers(text: &str) -> Vec<String> {
    let value = |name: &str| {
        // Of repeated assignments the last counts (os-release(5)).
        let line = text
            .lines()
            .filter_map(|line| line.trim().strip_prefix(name))
            .next_back();
        line.unwrap_or_default().trim().trim_matches(['"', '\''])
    };
    let words = value("ID=")
        .split_whitespace()
        .chain(value("ID_LIKE=").split_whitespace());
    let is_identifier = |word: &&str| {
        let plain = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
        word.len() <= 64 && word.chars().all(plain)
    };
    words.filter(is_identifier).map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;

    use nix::sys::stat::Mode;
    use nix::unistd::mkfifo;
    use proptest::prelude::*;
    use runcvm_kernels::Prefix;

    use super::*;

    #[test]
    fn identifiers_are_words_of_two_lines() {
        for (text, expected) in [
            (
                "PRETTY_NAME=\"x\"\nID=debian\nVERSION_ID=\"12\"\n",
                &["debian"][..],
            ),
            ("ID=ubuntu\nID_LIKE=debian\n", &["ubuntu", "debian"]),
            (
                "ID_LIKE=\"rhel centos fedora\"\r\nID='Rocky'\r\n",
                &["rocky", "rhel", "centos", "fedora"],
            ),
            ("ID=a\nID=b", &["b"]),
            ("  ID=a  ", &["a"]),
            ("ID=../../x y/z w", &["w"]),
            ("ID=\"\nBUILD_ID=x", &[]),
            ("", &[]),
            ("\0\0ID=\0", &[]),
        ] {
            assert_eq!(identifiers(text), expected, "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_tolerated(bytes: Vec<u8>) {
            let text = String::from_utf8_lossy(&bytes);
            for word in identifiers(&format!("ID={text}\nID_LIKE={text}")) {
                prop_assert!(!word.is_empty() && !word.contains('/'));
            }
        }
    }

    /// A store with bundles of these names.
    fn store(dir: &Path, names: &[&str]) -> Store {
        for name in names {
            let path = dir.join("kernels").join(name);
            fs::create_dir_all(&path).unwrap();
            fs::write(path.join("manifest.json"), "{}").unwrap();
        }
        symlink(names[0], dir.join("kernels/default")).unwrap();
        Store::new(&Prefix::new(dir))
    }

    fn choice(store: &Store, root: &Path) -> Option<String> {
        let image = Image::open(root).unwrap();
        choose(None, store, Some(&image)).unwrap()
    }

    #[test]
    fn the_kernel_is_that_of_the_distribution_or_of_one_like_it() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), &["debian/6.1", "alpine/6.6"]);
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc");
        assert_eq!(choice(&store, root.path()), None);
        fs::create_dir(&etc).unwrap();
        for (text, expected) in [
            ("ID=alpine", Some("alpine")),
            ("ID=ubuntu\nID_LIKE=debian", Some("debian")),
            ("ID=fedora", None),
            ("", None),
            ("\u{1}\u{2}", None),
        ] {
            fs::write(etc.join("os-release"), text).unwrap();
            assert_eq!(choice(&store, root.path()).as_deref(), expected, "{text:?}");
        }
        fs::remove_file(etc.join("os-release")).unwrap();
        fs::create_dir_all(root.path().join("usr/lib")).unwrap();
        fs::write(root.path().join("usr/lib/os-release"), "ID=debian").unwrap();
        assert_eq!(choice(&store, root.path()).as_deref(), Some("debian"));
    }

    #[test]
    fn hostile_files_choose_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), &["debian/6.1"]);
        let secret = dir.path().join("secret");
        fs::write(&secret, "ID=debian").unwrap();
        let root = tempfile::tempdir().unwrap();
        let etc = root.path().join("etc");
        fs::create_dir(&etc).unwrap();
        let file = etc.join("os-release");
        let up = format!("{}{}", "../".repeat(30), secret.display());
        for target in [
            "/dev/zero",
            "/dev/stdin",
            "os-release",
            up.as_str(),
            secret.to_str().unwrap(),
        ] {
            symlink(target, &file).unwrap();
            assert_eq!(choice(&store, root.path()), None, "{target}");
            fs::remove_file(&file).unwrap();
        }
        mkfifo(&file, Mode::S_IRWXU).unwrap();
        assert_eq!(choice(&store, root.path()), None);
        fs::remove_file(&file).unwrap();
        let mut long = vec![b'#'; 1 << 20];
        long.extend(b"\nID=debian");
        fs::write(&file, long).unwrap();
        assert_eq!(choice(&store, root.path()), None);
    }

    #[test]
    fn a_machine_needs_some_kernel() {
        let dir = tempfile::tempdir().unwrap();
        let none = Store::new(&Prefix::new(dir.path()));
        let error = choose(None, &none, None).unwrap_err().to_string();
        assert!(error.contains("no kernel is installed"), "{error}");
    }

    #[test]
    fn a_kernel_that_is_asked_for_must_be_there() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path(), &["debian/6.1"]);
        let error = choose(Some("ol"), &store, None).unwrap_err().to_string();
        assert!(
            error.contains("\"ol\"") && error.contains("debian/6.1"),
            "{error}"
        );
    }
}
