//! One table of cases, run on each transport.

use virtio_queue::QueueT;

use super::driver::{
    ACKNOWLEDGE, DRIVER, DRIVER_OK, FAILED, FEATURES, FEATURES_OK, Machine, NEEDS_RESET, SIZES,
    VERSION_1, rings,
};
use crate::virtio::transport::testing::{MEMORY_SIZE, signals};

type Case = (&'static str, fn(&Machine));

const CASES: &[Case] = &[
    ("a device without a driver is quiet", fresh),
    ("a good driver gets what it asked for", good_driver),
    ("the transport's feature is added, others' removed", offered),
    ("only offered features are agreed to", unoffered_features),
    ("VERSION_1 must be taken", legacy_driver),
    ("a refused driver can try again", second_negotiation),
    (
        "features are accepted only while negotiating",
        late_features,
    ),
    ("status is reached step by step", skipped_steps),
    ("status bits stay until a reset", sticky_status),
    ("FAILED ends initialization", failed_driver),
    ("a driver cannot set NEEDS_RESET", forged_needs_reset),
    ("queues past the last one do not exist", no_such_queue),
    ("queues are not configured before FEATURES_OK", early_queue),
    ("an enabled queue is fixed", fixed_when_enabled),
    ("everything is fixed at DRIVER_OK", fixed_when_running),
    ("queues that are left out stay out", partial_queues),
    ("a size of a queue must be possible", bad_sizes),
    ("rings must be aligned", bad_alignment),
    ("rings must be in guest memory", outside_memory),
    ("rings may end where memory ends", at_the_end_of_memory),
    ("a device that does not start needs a reset", failing_device),
    ("event index is as negotiated", event_index),
    ("reset and start over", restart),
    ("reset forgets the driver", forgetful_reset),
    ("shutdown resets", shutdown),
    ("configuration space", config_space),
    ("the configuration's generation", generation),
    ("kicks", kicks),
    ("interrupts", interrupts),
    ("a call eventfd raises the interrupt", call_fds),
    ("a device that breaks tells its driver", needs_reset),
];

#[test]
fn both_transports_behave_alike() {
    for (case, run) in CASES {
        for machine in Machine::both() {
            println!("{}: {case}", machine.name);
            run(&machine);
        }
    }
}

const INITIALIZED: u8 = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;

fn fresh(m: &Machine) {
    assert_eq!(m.driver.status(), 0);
    assert_eq!([0, 1, 2].map(|queue| m.driver.max_size(queue)), SIZES);
    assert!((0..3).all(|queue| !m.driver.enabled(queue)));
    let record = m.record();
    assert_eq!((record.activations, record.resets), (0, 0));
}

fn good_driver(m: &Machine) {
    m.start();
    assert_eq!(m.driver.status(), INITIALIZED);
    let record = m.record();
    let active = record.active.as_ref().unwrap();
    assert_eq!(active.features, FEATURES | 1 << 32);
    assert_eq!(active.queues.len(), 3);
    for (index, queue) in (0..).zip(&active.queues) {
        assert_eq!(queue.index, index);
        assert_eq!(queue.queue.size(), SIZES[usize::from(index)]);
        let addresses = [
            queue.queue.desc_table(),
            queue.queue.avail_ring(),
            queue.queue.used_ring(),
        ];
        assert_eq!(addresses, rings(index));
    }
}

fn offered(m: &Machine) {
    assert_eq!(u64::from(m.driver.offered(0)), FEATURES);
    assert_eq!(m.driver.offered(1), VERSION_1);
    for page in [2, 3, 31, u32::MAX] {
        assert_eq!(m.driver.offered(page), 0, "page {page}");
    }
}

fn negotiate(m: &Machine, features: [u32; 2]) {
    m.driver.set_status(ACKNOWLEDGE | DRIVER);
    m.driver.accept(0, features[0]);
    m.driver.accept(1, features[1]);
    m.driver.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
}

fn unoffered_features(m: &Machine) {
    // A bit of the device, a reserved one, the packed ring, and one for another transport.
    for features in [[1 << 2, 1], [1 << 30, 1], [2, 1 << 2 | 1], [2, 1 << 8 | 1]] {
        negotiate(m, features);
        assert_eq!(m.driver.status(), ACKNOWLEDGE | DRIVER, "{features:x?}");
    }
}

fn legacy_driver(m: &Machine) {
    negotiate(m, [2, 0]);
    assert_eq!(m.driver.status(), ACKNOWLEDGE | DRIVER);
    m.finish();
    assert_eq!(m.driver.status(), ACKNOWLEDGE | DRIVER);
    assert_eq!(m.record().activations, 0);
}

fn second_negotiation(m: &Machine) {
    negotiate(m, [4, 1]);
    negotiate(m, [2, 1]);
    assert_eq!(m.driver.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK);
    m.finish();
    assert_eq!(m.record().active.as_ref().unwrap().features, 1 << 32 | 2);
}

fn late_features(m: &Machine) {
    // Not before DRIVER:
    m.driver.accept(0, 1 << 16);
    m.driver.set_status(ACKNOWLEDGE);
    m.driver.accept(0, 1 << 16);
    m.driver.set_status(ACKNOWLEDGE | DRIVER);
    // Not in a page that does not exist:
    m.driver.accept(1, VERSION_1);
    m.driver.accept(2, 1 << 16);
    m.driver.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
    assert_eq!(m.driver.status(), ACKNOWLEDGE | DRIVER | FEATURES_OK);
    // Not after FEATURES_OK:
    m.driver.accept(0, 1 << 16);
    m.finish();
    m.driver.accept(0, 1 << 16);
    assert_eq!(m.record().active.as_ref().unwrap().features, 1 << 32);
}

fn skipped_steps(m: &Machine) {
    for status in [
        DRIVER,
        FEATURES_OK,
        DRIVER_OK,
        DRIVER | FEATURES_OK | DRIVER_OK,
    ] {
        m.driver.set_status(status);
        assert_eq!(m.driver.status(), 0, "after {status:#x}");
    }
    m.driver.set_status(ACKNOWLEDGE | FEATURES_OK | DRIVER_OK);
    assert_eq!(m.driver.status(), ACKNOWLEDGE);
    assert_eq!(m.record().activations, 0);
}

fn sticky_status(m: &Machine) {
    m.start();
    for status in [ACKNOWLEDGE, DRIVER, FEATURES_OK, DRIVER_OK, INITIALIZED] {
        m.driver.set_status(status);
        assert_eq!(m.driver.status(), INITIALIZED, "after {status:#x}");
    }
    let record = m.record();
    assert_eq!((record.activations, record.resets), (1, 1));
}

fn failed_driver(m: &Machine) {
    m.negotiate();
    m.driver.set_status(FAILED);
    let failed = ACKNOWLEDGE | DRIVER | FEATURES_OK | FAILED;
    assert_eq!(m.driver.status(), failed);
    m.driver.enable(0);
    assert!(!m.driver.enabled(0));
    m.driver.set_status(failed | DRIVER_OK);
    assert_eq!(m.driver.status(), failed);
    m.start();
    assert_eq!(m.driver.status(), INITIALIZED);
}

fn forged_needs_reset(m: &Machine) {
    m.driver.set_status(ACKNOWLEDGE | NEEDS_RESET);
    assert_eq!(m.driver.status(), ACKNOWLEDGE);
}

fn no_such_queue(m: &Machine) {
    m.negotiate();
    for queue in [3, 4, 0x100, 0xffff] {
        m.driver.set_size(queue, 8);
        m.driver.set_rings(queue, rings(0));
        m.driver.enable(queue);
        assert_eq!(m.driver.max_size(queue), 0, "queue {queue}");
        assert!(!m.driver.enabled(queue), "queue {queue}");
    }
    m.finish();
    assert_eq!(m.record().active.as_ref().unwrap().queues.len(), 0);
}

fn early_queue(m: &Machine) {
    for status in [0, ACKNOWLEDGE, ACKNOWLEDGE | DRIVER] {
        m.driver.set_status(status);
        m.driver.enable(0);
        assert!(!m.driver.enabled(0), "at {status:#x}");
    }
}

fn queue_of(m: &Machine, index: usize) -> (u16, [u64; 3]) {
    let record = m.record();
    let queue = &record.active.as_ref().unwrap().queues[index].queue;
    let rings = [queue.desc_table(), queue.avail_ring(), queue.used_ring()];
    (queue.size(), rings)
}

fn fixed_when_enabled(m: &Machine) {
    m.negotiate();
    m.set_up_queue(0);
    m.driver.set_size(0, 2);
    m.driver.set_rings(0, rings(7));
    m.finish();
    assert_eq!(queue_of(m, 0), (SIZES[0], rings(0)));
}

fn fixed_when_running(m: &Machine) {
    m.negotiate();
    m.set_up_queue(0);
    m.finish();
    for queue in 0..2 {
        m.driver.set_size(queue, 0);
        m.driver.set_rings(queue, [MEMORY_SIZE; 3]);
        m.driver.enable(queue);
    }
    assert!(m.driver.enabled(0));
    assert!(!m.driver.enabled(1));
    m.finish();
    assert_eq!(queue_of(m, 0), (SIZES[0], rings(0)));
    assert_eq!(m.record().activations, 1);
}

fn partial_queues(m: &Machine) {
    m.negotiate();
    m.set_up_queue(2);
    m.set_up_queue(0);
    m.finish();
    let record = m.record();
    let queues = record.active.as_ref().unwrap().queues.iter();
    assert_eq!(queues.map(|q| q.index).collect::<Vec<_>>(), [0, 2]);
}

/// The device is not activated with such a queue; its driver is told.
fn refused(m: &Machine, size: u16, rings: [u64; 3]) {
    let before = m.record().activations;
    m.negotiate();
    m.set_up_queue(0);
    m.driver.set_size(1, size);
    m.driver.set_rings(1, rings);
    m.driver.enable(1);
    m.driver.set_up_interrupts();
    m.driver.config_interrupts();
    m.finish();
    let what = format!("size {size}, rings {rings:x?}");
    assert_eq!(m.driver.status(), INITIALIZED | NEEDS_RESET, "{what}");
    assert_eq!(m.record().activations, before, "{what}");
    assert_eq!(m.driver.config_interrupts(), 1, "{what}");
}

fn bad_sizes(m: &Machine) {
    for size in [0, 3, 48, 63, 128, 0x8000, 0xffff] {
        refused(m, size, rings(1));
    }
    m.start();
    assert_eq!(m.driver.status(), INITIALIZED);
}

fn bad_alignment(m: &Machine) {
    let [desc, avail, used] = rings(1);
    for offsets in [[8, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 2], [0, 0, 1]] {
        refused(
            m,
            64,
            [desc + offsets[0], avail + offsets[1], used + offsets[2]],
        );
    }
}

fn outside_memory(m: &Machine) {
    let bad = [MEMORY_SIZE - 16, MEMORY_SIZE, 1 << 32, 1 << 63, !0xf];
    for address in bad {
        for ring in 0..3 {
            let mut rings = rings(1);
            rings[ring] = address;
            refused(m, 64, rings);
        }
    }
}

fn at_the_end_of_memory(m: &Machine) {
    m.negotiate();
    let rings = [MEMORY_SIZE - 16 * 64, 0x1000, 0x2000];
    m.driver.set_size(1, 64);
    m.driver.set_rings(1, rings);
    m.driver.enable(1);
    m.finish();
    assert_eq!(queue_of(m, 0), (64, rings));
}

fn failing_device(m: &Machine) {
    m.record().failing = true;
    m.start();
    assert_eq!(m.driver.status(), INITIALIZED | NEEDS_RESET);
    assert_eq!(m.driver.config_interrupts(), 1);
    m.finish();
    assert_eq!(m.record().activations, 1);
    m.record().failing = false;
    m.start();
    assert_eq!(m.driver.status(), INITIALIZED);
}

fn event_index(m: &Machine) {
    for bit in [0, 1 << 29] {
        m.driver.set_status(0);
        negotiate(m, [bit, VERSION_1]);
        m.set_up_queue(0);
        m.finish();
        let record = m.record();
        let queue = &record.active.as_ref().unwrap().queues[0].queue;
        assert_eq!(queue.event_idx_enabled(), bit != 0);
    }
}

fn restart(m: &Machine) {
    for round in 1..4 {
        m.start();
        let record = m.record();
        assert_eq!((record.activations, record.resets), (round, round));
        assert_eq!(record.active.as_ref().unwrap().queues.len(), 3);
    }
    m.driver.set_status(0);
    assert!(m.record().active.is_none());
}

fn forgetful_reset(m: &Machine) {
    m.start();
    m.record().interrupt().needs_reset();
    m.record().interrupt().queue_used(0);
    m.driver.set_status(0);
    fresh_again(m);
    // Nor are features remembered:
    m.driver.set_status(ACKNOWLEDGE | DRIVER | FEATURES_OK);
    assert_eq!(m.driver.status(), ACKNOWLEDGE | DRIVER);
}

fn fresh_again(m: &Machine) {
    assert_eq!(m.driver.status(), 0);
    assert_eq!([0, 1, 2].map(|queue| m.driver.max_size(queue)), SIZES);
    assert!((0..3).all(|queue| !m.driver.enabled(queue)));
}

fn shutdown(m: &Machine) {
    m.start();
    m.transport.shutdown();
    assert!(m.record().active.is_none());
    assert_eq!(m.record().resets, 2);
    fresh_again(m);
}

fn config_space(m: &Machine) {
    m.negotiate();
    let mut data = [0xa5; 8];
    m.driver.read_config(8, &mut data);
    assert_eq!(data, [8, 9, 10, 11, 0, 0, 0, 0]);
    m.driver.write_config(3, &[0x33]);
    m.driver.write_config(6, &[0x66, 0x77]);
    m.driver.write_config(0xe00, &[1; 8]);
    m.driver.read_config(0, &mut data);
    assert_eq!(data, [0, 1, 2, 0x33, 4, 5, 0x66, 0x77]);
    let mut last = [0xa5; 1];
    m.driver.read_config(0xeff, &mut last);
    assert_eq!(last, [0]);
}

fn generation(m: &Machine) {
    m.start();
    let before = m.driver.generation();
    assert_eq!(m.driver.generation(), before);
    m.record().interrupt().config_changed();
    assert_ne!(m.driver.generation(), before);
    assert_eq!(m.driver.config_interrupts(), 1);
    assert_eq!(m.driver.status(), INITIALIZED);
}

fn kicks(m: &Machine) {
    let at = [0, 1, 2].map(|queue| m.driver.kick_address(queue));
    assert_eq!(m.hypervisor.kick_addresses(), at);
    m.start();
    let record = m.record();
    let queues = &record.active.as_ref().unwrap().queues;
    let seen = || [0, 1, 2].map(|queue: usize| signals(&queues[queue].kick));
    m.hypervisor.kick(at[1]);
    assert_eq!(seen(), [0, 1, 0]);
    m.driver.kick(2);
    assert_eq!(seen(), [0, 0, 1]);
    [3, 4, 0xff]
        .into_iter()
        .for_each(|queue| m.driver.kick(queue));
    assert_eq!(seen(), [0, 0, 0]);
}

fn interrupts(m: &Machine) {
    m.start();
    assert_eq!([0, 1, 2].map(|queue| m.driver.interrupts(queue)), [0; 3]);
    for queue in 0..3 {
        m.record().interrupt().queue_used(queue);
        assert_eq!(m.driver.interrupts(queue), 1, "queue {queue}");
        assert_eq!(m.driver.config_interrupts(), 0);
    }
    m.record().interrupt().config_changed();
    assert_eq!(m.driver.interrupts(0), 0);
    assert_eq!(m.driver.config_interrupts(), 1);
    // A device's mistake:
    m.record().interrupt().queue_used(77);
}

fn call_fds(m: &Machine) {
    m.start();
    let call = m.record().interrupt().call_fd(1).unwrap();
    call.write(1).unwrap();
    match m.name {
        "virtio-pci" => assert_eq!(m.driver.interrupts(1), 1),
        // The status says so before and after it is acknowledged, until a reset.
        _ => assert_eq!(m.hypervisor.line_signals(5), 1),
    }
}

fn needs_reset(m: &Machine) {
    m.start();
    m.record().interrupt().needs_reset();
    assert_eq!(m.driver.status(), INITIALIZED | NEEDS_RESET);
    assert_eq!(m.driver.config_interrupts(), 1);
    m.driver.set_status(INITIALIZED);
    assert_eq!(m.driver.status(), INITIALIZED | NEEDS_RESET);
    assert_eq!(m.record().activations, 1);
    m.start();
    assert_eq!(m.driver.status(), INITIALIZED);
}
