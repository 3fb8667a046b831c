use std::io::{self, Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use vhost::vhost_user::Listener;
use vhost::vhost_user::message::{VhostUserProtocolFeatures, VhostUserVirtioFeatures};
use vhost_user_backend::{VhostUserBackendMut, VhostUserDaemon, VringRwLock, VringT};
use virtio_queue::QueueOwnedT;
use vm_memory::{GuestAddressSpace, GuestMemoryAtomic, GuestMemoryMmap};
use vmm_sys_util::epoll::EventSet;
use vmm_sys_util::event::{
    EventConsumer, EventFlag, EventNotifier, new_event_consumer_and_notifier,
};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

use super::*;
use crate::virtio::Interrupt;
use crate::virtio::testing::{Buffer, Driver, wait_for};

const VERSION_1: u64 = 1 << 32;
const PROTOCOL: u64 = VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();

/// A backend that answers every request with its bytes in upper case.
struct Shouter {
    memory: GuestMemoryAtomic<GuestMemoryMmap>,
    features: u64,
    queues: usize,
}

impl VhostUserBackendMut for Shouter {
    type Bitmap = ();
    type Vring = VringRwLock;

    fn num_queues(&self) -> usize {
        self.queues
    }

    fn max_queue_size(&self) -> usize {
        1024
    }

    fn features(&self) -> u64 {
        self.features
    }

    fn protocol_features(&self) -> VhostUserProtocolFeatures {
        VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK
    }

    fn set_event_idx(&mut self, enabled: bool) {
        assert!(enabled);
    }

    fn update_memory(&mut self, memory: GuestMemoryAtomic<GuestMemoryMmap>) -> io::Result<()> {
        self.memory = memory;
        Ok(())
    }

    fn exit_event(&self, _thread: usize) -> Option<(EventConsumer, EventNotifier)> {
        Some(new_event_consumer_and_notifier(EventFlag::empty()).unwrap())
    }

    fn handle_event(
        &mut self,
        queue: u16,
        _events: EventSet,
        vrings: &[VringRwLock],
        _thread: usize,
    ) -> io::Result<()> {
        let vring = &vrings[usize::from(queue)];
        let memory = self.memory.memory();
        loop {
            let chains: Vec<_> = vring
                .get_mut()
                .get_queue_mut()
                .iter(memory.clone())
                .unwrap()
                .collect();
            for chain in chains {
                let mut text = Vec::new();
                let reader = chain.clone().reader::<()>(&memory);
                reader.unwrap().read_to_end(&mut text).unwrap();
                let mut writer = chain.clone().writer::<()>(&memory).unwrap();
                writer.write_all(&text.to_ascii_uppercase()).unwrap();
                let len = u32::try_from(text.len()).unwrap();
                vring.add_used(chain.head_index(), len).unwrap();
                vring.signal_used_queue().unwrap();
            }
            if !vring.enable_notification().unwrap() {
                return Ok(());
            }
        }
    }
}

/// What the device and its backend speak through.
fn sockets() -> (UnixStream, UnixListener) {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("socket");
    let listener = UnixListener::bind(&path).unwrap();
    (UnixStream::connect(&path).unwrap(), listener)
}

fn serve(
    listener: UnixListener,
    features: u64,
    queues: usize,
) -> VhostUserDaemon<Arc<Mutex<Shouter>>> {
    let memory = GuestMemoryAtomic::new(GuestMemoryMmap::new());
    let shouter = Arc::new(Mutex::new(Shouter {
        memory: memory.clone(),
        features,
        queues,
    }));
    let mut daemon = VhostUserDaemon::new("shouter".to_owned(), shouter, memory).unwrap();
    daemon.start(&mut Listener::from(listener)).unwrap();
    daemon
}

fn device(socket: UnixStream) -> Fs {
    Fs::new(FsSpec {
        tag: "root".to_owned(),
        socket,
    })
    .unwrap()
}

/// Interrupts that only a backend raises.
#[derive(Debug)]
struct Calls([EventFd; 2]);

impl Interrupt for Calls {
    fn queue_used(&self, index: u16) {
        panic!("queue {index} was used by the device itself");
    }

    fn config_changed(&self) {
        panic!("the configuration changed");
    }

    fn needs_reset(&self) {
        panic!("the device asks for a reset");
    }

    fn call_fd(&self, index: u16) -> io::Result<EventFd> {
        self.0[usize::from(index)].try_clone()
    }
}

/// A driver for `device`, its activation, and the eventfds that its backend signals.
fn driver(device: &Fs) -> (Driver, Activation, Arc<Calls>) {
    let calls = Arc::new(Calls([(); 2].map(|()| EventFd::new(EFD_NONBLOCK).unwrap())));
    let driver = Driver::new(device.queue_max_sizes(), device.features() | VERSION_1);
    let activation = activation(&driver, &calls);
    (driver, activation, calls)
}

fn activation(driver: &Driver, calls: &Arc<Calls>) -> Activation {
    Activation {
        interrupt: calls.clone(),
        ..driver.activation()
    }
}

fn check_shouts(driver: &mut Driver, calls: &Calls, queue: usize, text: &str) {
    let len = u32::try_from(text.len()).unwrap();
    let request = [Buffer::Readable(text.as_bytes()), Buffer::Writable(len)];
    let (sent, used) = driver.queues[queue].request(&request);
    assert_eq!(used, len);
    let answer = driver.read(sent.buffers[1].0, text.len());
    assert_eq!(answer, text.to_uppercase().into_bytes());
    wait_for("a call", || calls.0[queue].read().ok());
}

#[test]
fn requests_reach_the_backend_and_its_answers_the_driver() {
    let (socket, listener) = sockets();
    let backend = thread::spawn(|| {
        // It may take a while to come up.
        thread::sleep(Duration::from_millis(50));
        serve(listener, !0, 2)
    });
    let mut fs = device(socket);
    let (mut driver, activation, calls) = driver(&fs);
    // Made available before the backend is there.
    let early = driver.queues[1].add(&[Buffer::Readable(b"early"), Buffer::Writable(5)]);
    driver.queues[1].kick();
    fs.activate(activation).unwrap();
    assert_eq!(driver.queues[1].wait_used(), (early.head, 5));
    for i in 0..300 {
        check_shouts(&mut driver, &calls, i % 2, &format!("request {i}"));
    }
    drop(backend.join().unwrap());
}

#[test]
fn after_a_reset_the_backend_is_still_until_the_next_driver() {
    let (socket, listener) = sockets();
    let backend = thread::spawn(|| serve(listener, !0, 2));
    let mut fs = device(socket);
    fs.reset();
    let (mut driver, first, calls) = driver(&fs);
    fs.activate(first).unwrap();
    check_shouts(&mut driver, &calls, 1, "first life");

    for life in ["second life", "third life"] {
        fs.reset();
        driver.queues[1].add(&[Buffer::Readable(b"x"), Buffer::Writable(1)]);
        driver.queues[1].kick();
        thread::sleep(Duration::from_millis(30));
        assert_eq!(driver.queues[1].try_used(), None);

        for queue in &mut driver.queues {
            queue.restart();
        }
        fs.activate(activation(&driver, &calls)).unwrap();
        check_shouts(&mut driver, &calls, 0, life);
        check_shouts(&mut driver, &calls, 1, life);
    }
    drop(backend.join().unwrap());
}

#[test]
fn a_backend_that_ends_before_the_driver_is_an_error() {
    let (socket, listener) = sockets();
    drop(listener);
    let mut fs = device(socket);
    let (driver, first, calls) = driver(&fs);
    let second = activation(&driver, &calls);
    assert!(matches!(fs.activate(first), Err(ActivateError::Backend(_))));
    fs.reset();
    assert!(matches!(
        fs.activate(second),
        Err(ActivateError::Backend(_))
    ));
}

#[test]
fn a_backend_that_hangs_up_halfway_is_an_error() {
    // After so many bytes: within the first message, and within later ones.
    for len in [1, 12, 13, 100, 300] {
        let (socket, listener) = sockets();
        let backend = thread::spawn(move || {
            let (mut socket, _) = listener.accept().unwrap();
            let mut asked = vec![0; len];
            let _ = socket.set_read_timeout(Some(Duration::from_millis(100)));
            let _ = socket.read_exact(&mut asked);
        });
        let mut fs = device(socket);
        let (_driver, activation, _calls) = driver(&fs);
        let error = fs.activate(activation).unwrap_err();
        assert!(matches!(error, ActivateError::Backend(_)), "{error:?}");
        backend.join().unwrap();
    }
}

#[test]
fn a_backend_that_talks_nonsense_is_an_error() {
    let (socket, listener) = sockets();
    let backend = thread::spawn(move || {
        let (mut socket, _) = listener.accept().unwrap();
        let _ = socket.write_all(&[0xa5; 64]);
        let _ = socket.read_to_end(&mut Vec::new());
    });
    let mut fs = device(socket);
    let (_driver, activation, _calls) = driver(&fs);
    let error = fs.activate(activation).unwrap_err();
    assert!(matches!(error, ActivateError::Backend(_)), "{error:?}");
    drop(fs);
    backend.join().unwrap();
}

#[test]
fn a_backend_that_does_not_answer_is_an_error_in_time() {
    let (socket, _listener) = sockets();
    let mut fs = device(socket);
    fs.session.set_start_time(Duration::from_millis(100));
    let (_driver, activation, _calls) = driver(&fs);
    let start = Instant::now();
    let error = fs.activate(activation).unwrap_err();
    assert!(matches!(error, ActivateError::Backend(_)), "{error:?}");
    assert!(start.elapsed() < Duration::from_secs(5));
}

#[test]
fn a_backend_that_ends_later_does_not_hold_up_a_reset() {
    let (socket, listener) = sockets();
    let backend = thread::spawn(|| serve(listener, !0, 2));
    let mut fs = device(socket);
    let (_driver, activation, _calls) = driver(&fs);
    fs.activate(activation).unwrap();
    drop(backend.join().unwrap());
    let start = Instant::now();
    fs.reset();
    assert!(start.elapsed() < Duration::from_secs(1));
}

#[test]
fn a_backend_that_lacks_features_is_refused() {
    let event_idx = 1 << VIRTIO_RING_F_EVENT_IDX;
    for (offered, lacking) in [
        (!event_idx, event_idx),
        (!PROTOCOL, PROTOCOL),
        (
            PROTOCOL,
            VERSION_1 | event_idx | 1 << VIRTIO_RING_F_INDIRECT_DESC,
        ),
    ] {
        let (socket, listener) = sockets();
        let backend = thread::spawn(move || serve(listener, offered, 2));
        let mut fs = device(socket);
        let (driver, first, calls) = driver(&fs);
        for activation in [first, activation(&driver, &calls)] {
            match fs.activate(activation).unwrap_err() {
                ActivateError::BackendFeatures(bits) => assert_eq!(bits, lacking),
                error => panic!("{error:?}"),
            }
            fs.reset();
        }
        drop(backend.join().unwrap());
    }
}

#[test]
fn a_backend_with_too_few_queues_is_refused() {
    let (socket, listener) = sockets();
    let backend = thread::spawn(|| serve(listener, !0, 1));
    let mut fs = device(socket);
    let (_driver, activation, _calls) = driver(&fs);
    let error = fs.activate(activation).unwrap_err();
    assert!(matches!(error, ActivateError::Backend(_)), "{error:?}");
    drop(backend.join().unwrap());
}

#[test]
fn memory_that_cannot_be_shared_is_refused() {
    let (socket, listener) = sockets();
    let backend = thread::spawn(|| serve(listener, !0, 2));
    let mut fs = device(socket);
    let (_driver, mut activation, _calls) = driver(&fs);
    let range = (vm_memory::GuestAddress(0), 1 << 20);
    activation.memory = Arc::new(GuestMemoryMmap::from_ranges(&[range]).unwrap());
    let error = fs.activate(activation).unwrap_err();
    assert!(matches!(error, ActivateError::Host(_)), "{error:?}");
    drop(backend.join().unwrap());
}

#[test]
fn a_driver_without_all_queues_is_refused() {
    let (socket, _listener) = sockets();
    let mut fs = device(socket);
    let (_driver, mut activation, _calls) = driver(&fs);
    activation.queues.truncate(1);
    let error = fs.activate(activation).unwrap_err();
    assert!(matches!(error, ActivateError::MissingQueue(1)), "{error:?}");
}

#[test]
fn the_tag_is_in_the_configuration_space() {
    let (socket, _listener) = sockets();
    let fs = device(socket);
    let mut config = [0xff; 44];
    fs.read_config(0, &mut config);
    assert_eq!(&config[..5], b"root\0");
    assert_eq!(config[5..36], [0; 31]);
    assert_eq!(config[36..40], [1, 0, 0, 0]);
    assert_eq!(config[40..], [0; 4]);
    assert_eq!(format!("{fs:?}"), "Fs { tag: \"root\", .. }");
}

#[test]
fn bad_tags_are_refused() {
    let make = |tag: &str| {
        let (socket, _listener) = sockets();
        Fs::new(FsSpec {
            tag: tag.to_owned(),
            socket,
        })
    };
    make(&"é".repeat(18)).unwrap();
    for tag in [String::new(), "é".repeat(18) + "x"] {
        assert!(matches!(make(&tag), Err(FsError::TagLength { .. })));
    }
    assert!(matches!(make("a\0b"), Err(FsError::TagZero { .. })));
}
