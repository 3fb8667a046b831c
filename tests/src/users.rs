//! `USER[:GROUP]` as docker understands it, which does this on behalf of runc.

use std::path::Path;

/// Who a process is.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    pub(crate) groups: Vec<u32>,
}

/// Looks `user` up in the root filesystem's user database.
pub(crate) fn resolve(rootfs: &Path, user: &str) -> Identity {
    let read = |name| std::fs::read_to_string(rootfs.join(name)).unwrap_or_default();
    look_up(&read("etc/passwd"), &read("etc/group"), user)
}

fn look_up(passwd: &str, group: &str, user: &str) -> Identity {
    let (user, group_name) = user.split_once(':').unwrap_or((user, ""));
    let user = if user.is_empty() { "0" } else { user };
    let mut identity = Identity {
        uid: user.parse().unwrap_or(0),
        ..Identity::default()
    };
    let mut login = None;
    for fields in passwd
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
    {
        if let [name, _, uid, gid, ..] = fields[..]
            && (name == user || uid == user)
        {
            identity.uid = uid.parse().expect("a number");
            identity.gid = gid.parse().expect("a number");
            login = Some(name);
            break;
        }
    }
    if let Ok(gid) = group_name.parse() {
        identity.gid = gid;
    }
    for fields in group
        .lines()
        .map(|line| line.split(':').collect::<Vec<_>>())
    {
        let [name, _, gid, members] = fields[..] else {
            continue;
        };
        let gid = gid.parse().expect("a number");
        if group_name.is_empty() {
            if members.split(',').any(|member| Some(member) == login) {
                identity.groups.push(gid);
            }
        } else if name == group_name {
            identity.gid = gid;
        }
    }
    // Without its own group among the others a process could drop it to get around a file's
    // permissions (CVE-2022-36109).
    identity.groups.insert(0, identity.gid);
    identity
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWD: &str = "root:x:0:0::/root:/bin/sh\nuser:x:1000:1000::/home/user:/bin/sh\n";
    const GROUP: &str = "root:x:0:\ncrew:x:2000:other,user\nusers:x:100:\nuser:x:1000:\n";

    fn identity(uid: u32, gid: u32, groups: &[u32]) -> Identity {
        Identity {
            uid,
            gid,
            groups: groups.to_vec(),
        }
    }

    #[test]
    fn users_and_groups_resolve_as_docker_does() {
        for (user, expected) in [
            ("", identity(0, 0, &[0])),
            ("user", identity(1000, 1000, &[1000, 2000])),
            ("1000", identity(1000, 1000, &[1000, 2000])),
            ("user:users", identity(1000, 100, &[100])),
            ("user:7", identity(1000, 7, &[7])),
            ("4321", identity(4321, 0, &[0])),
            (":crew", identity(0, 2000, &[2000])),
        ] {
            assert_eq!(look_up(PASSWD, GROUP, user), expected, "{user:?}");
        }
    }
}
