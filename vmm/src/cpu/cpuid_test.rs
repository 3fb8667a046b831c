use super::*;

const CLOCK: Clock = Clock {
    tsc_khz: Some(2_900_000),
    deadline_timer: true,
};

fn entry(function: u32, index: u32, registers: [u32; 4]) -> kvm_cpuid_entry2 {
    let [eax, ebx, ecx, edx] = registers;
    kvm_cpuid_entry2 {
        function,
        index,
        eax,
        ebx,
        ecx,
        edx,
        ..Default::default()
    }
}

/// What an Intel host with 8 cores and 2 threads each may offer.
fn intel() -> Vec<kvm_cpuid_entry2> {
    vec![
        entry(0x0, 0, [0x1f, 0x756e_6547, 0x6c65_746e, 0x4965_6e69]),
        entry(
            0x1,
            0,
            [0x806f8, 0x0510_0800, 0x0100_8201 | 1 << 5, 0x178b_fbff],
        ),
        entry(0x4, 0, [0x1c00_4121, 0x2c0_003f, 63, 0]),
        entry(0x4, 1, [0x1c00_4122, 0x1c0_003f, 63, 0]),
        entry(0x4, 2, [0x1c00_4143, 0x3c0_003f, 2047, 0]),
        entry(0x4, 3, [0x1c03_c163, 0x380_003f, 0x9fff, 4]),
        entry(0x4, 4, [0, 0, 0, 0]),
        entry(0xa, 0, [0x0730_0802, 0, 0, 0x603]),
        entry(0xb, 0, [1, 2, 0x100, 5]),
        entry(0x1f, 0, [1, 2, 0x100, 5]),
        entry(HYPERVISOR, 0, [0x4000_0001, 0x4b4d_564b, 0x564b_4d56, 0x4d]),
        entry(0x4000_0001, 0, [0x0100_7efb, 0, 0, 0]),
        entry(0x8000_0000, 0, [0x8000_0008, 0, 0, 0]),
        entry(0x8000_0001, 0, [0, 0, 0x121, 0x2c10_0800]),
        entry(0x8000_0008, 0, [0x3039, 0, 0, 0]),
    ]
}

/// What an AMD host may offer.
fn amd() -> Vec<kvm_cpuid_entry2> {
    vec![
        entry(0x0, 0, [0x10, 0x6874_7541, 0x444d_4163, 0x6974_6e65]),
        entry(0x1, 0, [0xa00f11, 0x0310_0800, 0xf6f8_3203, 0x178b_fbff]),
        entry(0x8000_0000, 0, [0x8000_0026, 0, 0, 0]),
        entry(0x8000_0001, 0, [0xa00f11, 0, 0x75c2_37ff, 0x2fd3_fbff]),
        entry(0x8000_0008, 0, [0x3030, 0, 0x700f, 0]),
        entry(0x8000_001d, 0, [0x4121, 0, 0, 0]),
        entry(0x8000_001d, 3, [0x0003_c163, 0, 0, 0]),
        entry(0x8000_001e, 0, [5, 0x102, 0x300, 0]),
        entry(0x8000_0022, 0, [1, 6, 0, 0]),
        entry(0x8000_0026, 0, [1, 2, 0x100, 5]),
    ]
}

fn get(entries: &[kvm_cpuid_entry2], function: u32, index: u32) -> kvm_cpuid_entry2 {
    let found: Vec<_> = entries
        .iter()
        .filter(|entry| entry.function == function && entry.index == index)
        .collect();
    assert_eq!(found.len(), 1, "leaf {function:#x}.{index}");
    *found[0]
}

fn log2_up(cpus: u8) -> u32 {
    (0..).find(|bits| 1_u32 << bits >= u32::from(cpus)).unwrap()
}

#[test]
fn every_apic_id_is_told_alike_and_only_once() {
    for host in [intel(), amd()] {
        for cpus in 1..=64 {
            let template = Template::new(&host, cpus, CLOCK);
            for id in 0..cpus {
                let entries = template.entries_for(id);
                let id = u32::from(id);
                assert_eq!(get(&entries, 0x1, 0).ebx >> 24, id);
                assert!(id < 1 << log2_up(cpus));
                for index in 0..3 {
                    assert_eq!(get(&entries, 0xb, index).edx, id);
                }
                if host[0].eax >= 0x1f {
                    assert_eq!(get(&entries, 0x1f, 1).edx, id);
                } else {
                    assert_eq!(get(&entries, 0x8000_001e, 0).eax, id);
                    assert_eq!(get(&entries, 0x8000_001e, 0).ebx, id);
                }
            }
        }
    }
}

#[test]
fn counts_of_cores_agree_on_intel() {
    for cpus in 1..=64 {
        let entries = Template::new(&intel(), cpus, CLOCK).entries_for(0);
        let bits = log2_up(cpus);
        let features = get(&entries, 0x1, 0);
        assert_eq!(features.ebx >> 16 & 0xff, 1 << bits);
        assert_eq!(features.edx >> 28 & 1, u32::from(cpus > 1));
        for leaf in [0xb, 0x1f] {
            let threads = get(&entries, leaf, 0);
            assert_eq!((threads.eax, threads.ebx, threads.ecx), (0, 1, 0x100));
            let cores = get(&entries, leaf, 1);
            assert_eq!(
                (cores.eax, cores.ebx, cores.ecx),
                (bits, cpus.into(), 0x201)
            );
            let end = get(&entries, leaf, 2);
            assert_eq!((end.eax, end.ebx, end.ecx), (0, 0, 2));
        }
        for (index, sharers) in [(0, 1), (1, 1), (2, 1), (3, 1 << bits)] {
            let cache = get(&entries, 0x4, index);
            assert_eq!((cache.eax >> 14 & 0xfff) + 1, sharers, "cache {index}");
            assert_eq!((cache.eax >> 26) + 1, 1 << bits);
        }
        assert_eq!(get(&entries, 0x4, 4).eax, 0);
        assert_eq!(get(&entries, 0x8000_0008, 0).ecx, 0);
    }
}

#[test]
fn counts_of_cores_agree_on_amd() {
    for cpus in 1..=64 {
        let entries = Template::new(&amd(), cpus, CLOCK).entries_for(0);
        let bits = log2_up(cpus);
        let cores = get(&entries, 0x8000_0008, 0).ecx;
        assert_eq!((cores & 0xff) + 1, u32::from(cpus));
        assert_eq!(cores >> 12 & 0xf, bits);
        assert_eq!(
            get(&entries, 0x8000_0001, 0).ecx >> 1 & 1,
            u32::from(cpus > 1)
        );
        assert_eq!(get(&entries, 0x8000_001d, 0).eax >> 14, 0);
        assert_eq!(get(&entries, 0x8000_001d, 3).eax >> 14, (1 << bits) - 1);
        let id = get(&entries, 0x8000_001e, 0);
        assert_eq!((id.ebx >> 8, id.ecx), (0, 0));
    }
}

#[test]
fn performance_counters_are_hidden() {
    let entries = Template::new(&intel(), 2, CLOCK).entries_for(0);
    assert_eq!(get(&entries, 0xa, 0).eax, 0);
    assert_eq!(get(&entries, 0x1, 0).ecx >> 15 & 1, 0);
    let entries = Template::new(&amd(), 2, CLOCK).entries_for(0);
    let features = get(&entries, 0x8000_0001, 0).ecx;
    assert_eq!(features & (1 << 23 | 1 << 24 | 1 << 28), 0);
    assert!(entries.iter().all(|entry| entry.function != 0x8000_0022));
}

#[test]
fn the_guest_learns_its_hypervisor_and_clocks() {
    let entries = Template::new(&intel(), 1, CLOCK).entries_for(0);
    assert_eq!(get(&entries, HYPERVISOR, 0).eax, HYPERVISOR_TIMING);
    let timing = get(&entries, HYPERVISOR_TIMING, 0);
    assert_eq!((timing.eax, timing.ebx), (2_900_000, 1_000_000));
    let features = get(&entries, 0x1, 0).ecx;
    for wanted in [21, 24, 31] {
        assert_eq!(features >> wanted & 1, 1, "bit {wanted}");
    }
    let clock = Clock {
        tsc_khz: None,
        deadline_timer: false,
    };
    let entries = Template::new(&intel(), 1, clock).entries_for(0);
    assert_eq!(get(&entries, HYPERVISOR_TIMING, 0).eax, 0);
    assert_eq!(get(&entries, 0x1, 0).ecx >> 24 & 1, 0);
}

#[test]
fn nested_virtualisation_stays_as_the_host_offers_it() {
    let entries = Template::new(&intel(), 1, CLOCK).entries_for(0);
    assert_eq!(get(&entries, 0x1, 0).ecx >> 5 & 1, 1);
    let entries = Template::new(&amd(), 1, CLOCK).entries_for(0);
    assert_eq!(get(&entries, 0x8000_0001, 0).ecx >> 2 & 1, 1);
}
