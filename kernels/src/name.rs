//! Names of bundles: `DISTRIBUTION/VERSION`, such as `debian/6.12.117+deb12-amd64`.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

use thiserror::Error;

/// The name of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct BundleName {
    /// Where the kernel is from, such as `debian` or `debian-cloud`.
    pub distribution: String,
    /// Its version among those of the distribution.
    pub version: String,
}

/// Why a name is none.
#[derive(Debug, Error)]
#[error(
    "{0:?} is not the name of a kernel: it must be DISTRIBUTION/VERSION, each of letters, digits \
     and ._+~-, beginning with a letter or digit, and neither `latest` nor `default`"
)]
pub struct BadName(String);

impl BundleName {
    /// A name of these two parts.
    pub fn new(distribution: &str, version: &str) -> Result<Self, BadName> {
        if is_component(distribution) && is_component(version) {
            Ok(Self {
                distribution: distribution.into(),
                version: version.into(),
            })
        } else {
            Err(BadName(format!("{distribution}/{version}")))
        }
    }
}

impl FromStr for BundleName {
    type Err = BadName;

    fn from_str(name: &str) -> Result<Self, BadName> {
        match name.split_once('/') {
            Some((distribution, version)) => Self::new(distribution, version),
            None => Err(BadName(name.into())),
        }
    }
}

impl fmt::Display for BundleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.distribution, self.version)
    }
}

/// `text` can be one part of a name: it is a plain file name, and no word with a meaning of
/// its own.
pub(crate) fn is_component(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_alphanumeric() || "._+~-".contains(c);
    text.len() <= 128
        && text.starts_with(|c: char| c.is_ascii_alphanumeric())
        && text.chars().all(plain)
        && text != "latest"
        && text != "default"
}

/// Orders versions as Debian does (Debian policy, §5.6.12): runs of digits by their value, all
/// else by character, letters before other characters and `~` before the end.
pub fn compare_versions(a: &str, b: &str) -> Ordering {
    let (mut a, mut b) = (a.as_bytes(), b.as_bytes());
    while !a.is_empty() || !b.is_empty() {
        let (text_a, text_b);
        (text_a, a) = split_while(a, |c| !c.is_ascii_digit());
        (text_b, b) = split_while(b, |c| !c.is_ascii_digit());
        let ranks = |text: &[u8]| text.iter().map(|&c| rank(c)).chain([0]).collect::<Vec<_>>();
        let (digits_a, digits_b);
        (digits_a, a) = split_while(a, |c| c.is_ascii_digit());
        (digits_b, b) = split_while(b, |c| c.is_ascii_digit());
        let (value_a, value_b) = (significant(digits_a), significant(digits_b));
        let order = ranks(text_a)
            .cmp(&ranks(text_b))
            .then(value_a.len().cmp(&value_b.len()))
            .then(value_a.cmp(value_b));
        if order.is_ne() {
            return order;
        }
    }
    Ordering::Equal
}

fn split_while(text: &[u8], keep: impl Fn(&u8) -> bool) -> (&[u8], &[u8]) {
    let end = text.iter().position(|c| !keep(c)).unwrap_or(text.len());
    text.split_at(end)
}

fn significant(digits: &[u8]) -> &[u8] {
    split_while(digits, |&c| c == b'0').1
}

/// The end of the text ranks 0.
fn rank(c: u8) -> i32 {
    match c {
        b'~' => -1,
        c if c.is_ascii_alphabetic() => i32::from(c),
        c => i32::from(c) + 256,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_two_plain_file_names() {
        let name: BundleName = "debian/6.12.117+deb12-amd64".parse().unwrap();
        assert_eq!(name.distribution, "debian");
        assert_eq!(name.version, "6.12.117+deb12-amd64");
        assert_eq!(name.to_string(), "debian/6.12.117+deb12-amd64");
        for bad in [
            "",
            "debian",
            "/",
            "debian/",
            "/1",
            "a/b/c",
            "../x",
            "a/..",
            "a/.b",
            "a/latest",
            "default/1",
            "a b/c",
            "a/b\n",
            "a/\u{e9}",
            "-a/b",
        ] {
            assert!(bad.parse::<BundleName>().is_err(), "{bad:?}");
        }
    }

    #[test]
    fn versions_are_ordered_as_debian_does() {
        let ordered = [
            "6.1.0-9-amd64",
            "6.1.0-56-amd64",
            "6.12.9+deb12-amd64",
            "6.12.100~rc1",
            "6.12.100",
            "6.12.100+deb12-amd64",
            "6.12.117+deb12-amd64",
            "7.0",
        ];
        for (i, a) in ordered.iter().enumerate() {
            for (j, b) in ordered.iter().enumerate() {
                assert_eq!(compare_versions(a, b), i.cmp(&j), "{a} and {b}");
            }
        }
        assert_eq!(compare_versions("1.00", "1.0"), Ordering::Equal);
    }
}
