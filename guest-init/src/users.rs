//! Users and groups of the root filesystem, read from its own `/etc/passwd` and
//! `/etc/group`.

use std::io;
use std::path::Path;

use nix::errno::Errno;
use thiserror::Error;

use crate::rootdir::RootDir;

/// Greatest size of a user database that is read.
const MAX_DATABASE: u64 = 16 * 1024 * 1024;

/// Greatest user and group ID, as container runtimes have it.
const MAX_ID: u32 = i32::MAX as u32;

/// Why a user cannot be had.
#[derive(Debug, Error)]
pub(crate) enum UserError {
    #[error("unable to find user {0}: no matching entries in passwd file")]
    NoUser(String),
    #[error("unable to find group {0}: no matching entries in group file")]
    NoGroup(String),
    #[error("{0} is not between 0 and {MAX_ID}, as user and group IDs are")]
    OutOfRange(String),
    #[error("cannot read {path}")]
    Unreadable {
        path: &'static str,
        #[source]
        source: io::Error,
    },
}

/// Who a process runs as.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct User {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Supplementary groups; of a user with a name the primary one is the first.
    pub(crate) groups: Vec<u32>,
    pub(crate) home: Vec<u8>,
}

/// Whom a process runs as, by the databases of `root`.
pub(crate) fn find(user: &runcvm_protocol::User, root: &RootDir) -> Result<User, UserError> {
    match user {
        runcvm_protocol::User::Named(spec) => resolve(spec, root),
        runcvm_protocol::User::Ids { uid, gid, groups } => {
            let passwd = read(root, "/etc/passwd")?;
            let entry = lines(&passwd)
                .filter_map(PasswdEntry::parse)
                .find(|entry| entry.uid == *uid);
            let home = entry.map_or(&b"/"[..], |entry| entry.home);
            Ok(User {
                uid: *uid,
                gid: *gid,
                groups: groups.clone(),
                home: if home.is_empty() { b"/" } else { home }.to_vec(),
            })
        }
    }
}

/// Resolves `USER[:GROUP]`, each a name or a number, in the databases of `root`. No user
/// means root.
fn resolve(spec: &[u8], root: &RootDir) -> Result<User, UserError> {
    let passwd = read(root, "/etc/passwd")?;
    let group = read(root, "/etc/group")?;
    resolve_in(spec, &passwd, &group)
}

fn read(root: &RootDir, path: &'static str) -> Result<Vec<u8>, UserError> {
    match root.read_file(Path::new(path), MAX_DATABASE) {
        Ok(content) => Ok(content.unwrap_or_default()),
        // A symlink into nothing that can be followed is as good as no file.
        Err(e) if e.raw_os_error() == Some(Errno::ELOOP as i32) => Ok(Vec::new()),
        Err(source) => Err(UserError::Unreadable { path, source }),
    }
}

/// How docker and runc resolve it: the first line that fits by name or by number counts; a
/// number needs no line; supplementary groups come only with a user that has a line and
/// without a group given.
fn resolve_in(spec: &[u8], passwd: &[u8], group: &[u8]) -> Result<User, UserError> {
    let mut parts = spec.splitn(2, |&byte| byte == b':');
    let user_spec = parts.next().unwrap_or_default();
    let group_spec = parts.next().unwrap_or_default();

    let number = number(user_spec);
    let entry = lines(passwd).filter_map(PasswdEntry::parse).find(|entry| {
        if user_spec.is_empty() {
            entry.uid == 0
        } else {
            entry.name == user_spec || Some(entry.uid) == number
        }
    });
    let (uid, mut gid, home, name) = match (entry, number) {
        (Some(entry), _) => (entry.uid, entry.gid, entry.home.to_vec(), Some(entry.name)),
        (None, _) if user_spec.is_empty() => (0, 0, Vec::new(), None),
        (None, Some(uid)) => (uid, 0, Vec::new(), None),
        (None, None) => return Err(unknown(user_spec, UserError::NoUser)),
    };

    let mut supplementary = Vec::new();
    let mut entries = lines(group).filter_map(GroupEntry::parse);
    if group_spec.is_empty() {
        if let Some(name) = name {
            let of_user = entries.filter(|entry| entry.has_member(name));
            supplementary.extend(of_user.map(|entry| entry.gid));
        }
    } else {
        let number = self::number(group_spec);
        let entry = entries.find(|entry| entry.name == group_spec || Some(entry.gid) == number);
        gid = match entry.map(|entry| entry.gid).or(number) {
            Some(gid) => gid,
            None => return Err(unknown(group_spec, UserError::NoGroup)),
        };
    }

    let mut groups = vec![gid];
    for gid in supplementary {
        if !groups.contains(&gid) {
            groups.push(gid);
        }
    }
    let home = if home.is_empty() { b"/".to_vec() } else { home };
    Ok(User {
        uid,
        gid,
        groups,
        home,
    })
}

/// `spec` is neither in the database nor an ID.
fn unknown(spec: &[u8], not_found: fn(String) -> UserError) -> UserError {
    let text = String::from_utf8_lossy(spec).into_owned();
    let digits = spec.strip_prefix(b"-").unwrap_or(spec);
    if !digits.is_empty() && digits.iter().all(u8::is_ascii_digit) {
        UserError::OutOfRange(text)
    } else {
        not_found(text)
    }
}

fn number(text: &[u8]) -> Option<u32> {
    if !text.first()?.is_ascii_digit() {
        return None;
    }
    let number: u32 = std::str::from_utf8(text).ok()?.parse().ok()?;
    (number <= MAX_ID).then_some(number)
}

fn lines(file: &[u8]) -> impl Iterator<Item = &[u8]> {
    file.split(|&byte| byte == b'\n')
        .map(<[u8]>::trim_ascii)
        .filter(|line| !line.is_empty() && line[0] != b'#')
}

/// A line of `/etc/passwd`: `name:password:uid:gid:comment:home:shell`.
struct PasswdEntry<'a> {
    name: &'a [u8],
    uid: u32,
    gid: u32,
    home: &'a [u8],
}

impl<'a> PasswdEntry<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next()?;
        let uid = number(fields.nth(1)?)?;
        let gid = number(fields.next()?)?;
        let home = fields.nth(1).unwrap_or_default();
        Some(Self {
            name,
            uid,
            gid,
            home,
        })
    }
}

/// A line of `/etc/group`: `name:password:gid:member,member…`.
struct GroupEntry<'a> {
    name: &'a [u8],
    gid: u32,
    members: &'a [u8],
}

impl<'a> GroupEntry<'a> {
    fn parse(line: &'a [u8]) -> Option<Self> {
        let mut fields = line.split(|&byte| byte == b':');
        let name = fields.next()?;
        let gid = number(fields.nth(1)?)?;
        let members = fields.next().unwrap_or_default();
        Some(Self { name, gid, members })
    }

    fn has_member(&self, name: &[u8]) -> bool {
        self.members
            .split(|&byte| byte == b',')
            .any(|member| member == name)
    }
}

#[cfg(test)]
mod tests;
