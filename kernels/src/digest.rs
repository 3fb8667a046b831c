//! SHA-256 of files.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use sha2::{Digest, Sha256};

/// The digest of `bytes`, in hexadecimal.
pub(crate) fn of_bytes(bytes: &[u8]) -> String {
    hex(Sha256::digest(bytes).as_slice())
}

/// The digest of a file's content, in hexadecimal.
pub(crate) fn of_file(path: &Path) -> io::Result<String> {
    let mut file = File::open(path)?;
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match file.read(&mut buffer)? {
            0 => return Ok(hex(hasher.finalize().as_slice())),
            n => hasher.update(&buffer[..n]),
        }
    }
}

/// A digest of several things, each a name and its content, in hexadecimal.
pub(crate) fn of_parts<'a>(parts: impl IntoIterator<Item = (&'a [u8], &'a [u8])>) -> String {
    let mut hasher = Sha256::new();
    for (name, content) in parts {
        for bytes in [name, content] {
            // Nothing can pass for the end of one and the beginning of another.
            hasher.update((bytes.len() as u64).to_le_bytes());
            hasher.update(bytes);
        }
    }
    hex(hasher.finalize().as_slice())
}

/// A digest of the paths and contents of all regular files below `root`, in hexadecimal.
pub(crate) fn of_tree(root: &Path) -> io::Result<String> {
    let mut files = Vec::new();
    collect(root, &mut files)?;
    files.sort();
    let mut hasher = Sha256::new();
    for file in files {
        let relative = file.strip_prefix(root).unwrap_or(&file);
        hasher.update(relative.as_os_str().as_encoded_bytes());
        hasher.update([0]);
        hasher.update(of_file(&file)?);
    }
    Ok(hex(hasher.finalize().as_slice()))
}

fn collect(dir: &Path, files: &mut Vec<PathBuf>) -> io::Result<()> {
    for entry in dir.read_dir()? {
        let entry = entry?;
        let kind = entry.file_type()?;
        if kind.is_dir() {
            collect(&entry.path(), files)?;
        } else if kind.is_file() {
            files.push(entry.path());
        }
    }
    Ok(())
}

fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn digests_are_those_of_the_standard() {
        let abc = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        assert_eq!(of_bytes(b"abc"), abc);
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("f");
        fs::write(&file, "abc").unwrap();
        assert_eq!(of_file(&file).unwrap(), abc);
    }

    #[test]
    fn parts_have_borders() {
        let of = |parts: &[(&'static str, &'static str)]| {
            of_parts(parts.iter().map(|(a, b)| (a.as_bytes(), b.as_bytes())))
        };
        let others = [
            of(&[("a", "bc")]),
            of(&[("ab", "c")]),
            of(&[("a", "b"), ("", "c")]),
            of(&[("a", "b"), ("c", "")]),
            of(&[("abc", "")]),
        ];
        let distinct: std::collections::HashSet<_> = others.iter().collect();
        assert_eq!(distinct.len(), others.len());
        assert_eq!(of(&[("a", "bc")]), others[0]);
    }

    #[test]
    fn a_tree_changes_with_names_and_contents() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("d")).unwrap();
        fs::write(dir.path().join("d/a"), "1").unwrap();
        let first = of_tree(dir.path()).unwrap();
        fs::write(dir.path().join("d/a"), "2").unwrap();
        let second = of_tree(dir.path()).unwrap();
        fs::rename(dir.path().join("d/a"), dir.path().join("d/b")).unwrap();
        let third = of_tree(dir.path()).unwrap();
        assert!(first != second && second != third);
    }
}
