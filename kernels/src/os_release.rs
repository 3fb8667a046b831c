//! Which distribution a root filesystem is of.

use std::path::Path;

use crate::rootfs::Image;

/// Where a root filesystem says so, in the order of os-release(5).
const FILES: [&str; 2] = ["/etc/os-release", "/usr/lib/os-release"];

/// As much is read of it. Real ones have less than a thousand bytes.
const LIMIT: u64 = 16 * 1024;

/// The distribution of `image`, then those that it is like, by their identifiers.
pub fn distributions(image: &Image) -> Vec<String> {
    let read = |path| image.read(Path::new(path), LIMIT);
    match FILES.into_iter().find_map(read) {
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
    use proptest::prelude::*;

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
}
