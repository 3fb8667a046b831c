//! Resource limits: those that are asked for, and those that a container inherits.

use std::mem::MaybeUninit;

use oci_spec::runtime::{PosixRlimit, PosixRlimitBuilder, PosixRlimitType as Type, Process};
use runcvm_protocol::Limit;

/// All that there are, by the kernel's numbers (asm-generic/resource.h).
const NUMBERS: [(Type, u32); 16] = [
    (Type::RlimitCpu, libc::RLIMIT_CPU),
    (Type::RlimitFsize, libc::RLIMIT_FSIZE),
    (Type::RlimitData, libc::RLIMIT_DATA),
    (Type::RlimitStack, libc::RLIMIT_STACK),
    (Type::RlimitCore, libc::RLIMIT_CORE),
    (Type::RlimitRss, libc::RLIMIT_RSS),
    (Type::RlimitNproc, libc::RLIMIT_NPROC),
    (Type::RlimitNofile, libc::RLIMIT_NOFILE),
    (Type::RlimitMemlock, libc::RLIMIT_MEMLOCK),
    (Type::RlimitAs, libc::RLIMIT_AS),
    (Type::RlimitLocks, libc::RLIMIT_LOCKS),
    (Type::RlimitSigpending, libc::RLIMIT_SIGPENDING),
    (Type::RlimitMsgqueue, libc::RLIMIT_MSGQUEUE),
    (Type::RlimitNice, libc::RLIMIT_NICE),
    (Type::RlimitRtprio, libc::RLIMIT_RTPRIO),
    (Type::RlimitRttime, libc::RLIMIT_RTTIME),
];

/// Our own limits, which a container's processes would have had from us.
pub(crate) fn inherited() -> Vec<PosixRlimit> {
    let limits = NUMBERS.iter().filter_map(|&(kind, number)| {
        let mut limit = MaybeUninit::<libc::rlimit>::uninit();
        // SAFETY: the structure is valid for writing.
        let done = unsafe { libc::getrlimit(number, limit.as_mut_ptr()) };
        // SAFETY: the call has filled it.
        let limit = (done == 0).then(|| unsafe { limit.assume_init() })?;
        let builder = PosixRlimitBuilder::default()
            .typ(kind)
            .soft(limit.rlim_cur)
            .hard(limit.rlim_max);
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
    let mut numbers = NUMBERS.iter();
    let (_, resource) = numbers.find(|(kind, _)| *kind == limit.typ())?;
    Some(Limit {
        resource: *resource,
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
