//! Resource limits: those that are asked for, and those that a container inherits.

use nix::sys::resource::{Resource, getrlimit};
use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType as Type, Process};
use runcvm_protocol::Limit;

/// All that there are.
const KINDS: [(Type, Resource); 16] = [
    (Type::RlimitCpu, Resource::RLIMIT_CPU),
    (Type::RlimitFsize, Resource::RLIMIT_FSIZE),
    (Type::RlimitData, Resource::RLIMIT_DATA),
    (Type::RlimitStack, Resource::RLIMIT_STACK),
    (Type::RlimitCore, Resource::RLIMIT_CORE),
    (Type::RlimitRss, Resource::RLIMIT_RSS),
    (Type::RlimitNproc, Resource::RLIMIT_NPROC),
    (Type::RlimitNofile, Resource::RLIMIT_NOFILE),
    (Type::RlimitMemlock, Resource::RLIMIT_MEMLOCK),
    (Type::RlimitAs, Resource::RLIMIT_AS),
    (Type::RlimitLocks, Resource::RLIMIT_LOCKS),
    (Type::RlimitSigpending, Resource::RLIMIT_SIGPENDING),
    (Type::RlimitMsgqueue, Resource::RLIMIT_MSGQUEUE),
    (Type::RlimitNice, Resource::RLIMIT_NICE),
    (Type::RlimitRtprio, Resource::RLIMIT_RTPRIO),
    (Type::RlimitRttime, Resource::RLIMIT_RTTIME),
];

/// Our own limits, which a container's processes would have had from us.
pub(crate) fn inherited() -> Vec<PosixRlimit> {
    let limits = KINDS.into_iter().filter_map(|(kind, resource)| {
        let (soft, hard) = getrlimit(resource).ok()?;
        let builder = PosixRlimitBuilder::default()
            .typ(kind)
            .soft(soft)
            .hard(hard);
        builder.build().ok()
    });
    limits.collect()
}

/// Adds those of `inherited` to `process` that it does not ask for.
pub(crate) fn complete(process: &mut Process, inherited: &[PosixRlimit]) {
    let mut limits = process.rlimits().clone().unwrap_or_default();
    let asked: Vec<_> = limits.iter().map(PosixRlimit::typ).collect();
    let others = inherited
        .iter()
        .filter(|limit| !asked.contains(&limit.typ()));
    limits.extend(others.copied());
    process.set_rlimits(Some(limits));
}

/// The limit as the guest is told of it.
pub(crate) fn of_guest(limit: &PosixRlimit) -> Option<Limit> {
    let mut kinds = KINDS.into_iter();
    let (_, resource) = kinds.find(|(kind, _)| *kind == limit.typ())?;
    Some(Limit {
        // nix's values are the kernel's (asm-generic/resource.h).
        resource: resource as u32,
        soft: limit.soft(),
        hard: limit.hard(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn limit(kind: Type, soft: u64, hard: u64) -> PosixRlimit {
        let builder = PosixRlimitBuilder::default();
        builder.typ(kind).soft(soft).hard(hard).build().unwrap()
    }

    #[test]
    fn each_kind_is_inherited_once() {
        let mut kinds: Vec<_> = inherited()
            .iter()
            .map(|l| of_guest(l).unwrap().resource)
            .collect();
        kinds.sort_unstable();
        assert_eq!(kinds, (0..16).collect::<Vec<_>>());
    }

    #[test]
    fn what_is_asked_for_counts() {
        let mut process = Process::default();
        process.set_rlimits(Some(vec![limit(Type::RlimitNofile, 1, 2)]));
        let ours = [
            limit(Type::RlimitNofile, 3, 4),
            limit(Type::RlimitNproc, 5, 6),
        ];
        complete(&mut process, &ours);
        let expected = vec![
            limit(Type::RlimitNofile, 1, 2),
            limit(Type::RlimitNproc, 5, 6),
        ];
        assert_eq!(process.rlimits(), &Some(expected));
    }
}
