//! The thread that serves one device's queues.

use std::io;
use std::thread::{self, JoinHandle};

use event_manager::{EventManager, MutEventSubscriber, SubscriberOps};
use vmm_sys_util::eventfd::{EFD_NONBLOCK, EventFd};

/// A thread that dispatches file-descriptor events to one handler, and gives the handler
/// back when it is stopped.
#[derive(Debug)]
pub struct Worker<H> {
    stop: EventFd,
    thread: JoinHandle<H>,
}

impl<H: MutEventSubscriber + Send + 'static> Worker<H> {
    /// Starts a thread called `name` (15 bytes at most are shown by the host) that runs
    /// `handler` until [`Self::stop`].
    pub fn spawn(name: &str, handler: H) -> io::Result<Self> {
        let stop = EventFd::new(EFD_NONBLOCK)?;
        let stopped = stop.try_clone()?;
        let thread = thread::Builder::new()
            .name(name.to_owned())
            .spawn(move || run(handler, stopped))?;
        Ok(Self { stop, thread })
    }

    /// Stops the thread and returns the handler with all that it owns. A handler that is
    /// busy finishes what it does first.
    pub fn stop(self) -> Option<H> {
        // An eventfd's counter cannot be full here: this is its only write.
        let _ = self.stop.write(1);
        self.thread.join().ok()
    }
}

fn run<H: MutEventSubscriber>(handler: H, stop: EventFd) -> H {
    let mut manager = EventManager::<Either<H>>::new().expect("an epoll instance");
    let handler = manager.add_subscriber(Either::Handler(handler));
    let stop = manager.add_subscriber(Either::Stop {
        fd: stop,
        seen: false,
    });
    loop {
        // EINTR is the only error that epoll_wait has for a valid instance.
        let _ = manager.run();
        if matches!(
            manager.subscriber_mut(stop),
            Ok(Either::Stop { seen: true, .. })
        ) {
            break;
        }
    }
    match manager.remove_subscriber(handler) {
        Ok(Either::Handler(handler)) => handler,
        _ => unreachable!("the handler was added above and is removed once"),
    }
}

/// The two subscribers of a worker's loop, told apart without dynamic dispatch so that the
/// handler can be had back by value.
enum Either<H> {
    Handler(H),
    Stop { fd: EventFd, seen: bool },
}

impl<H: MutEventSubscriber> MutEventSubscriber for Either<H> {
    fn process(&mut self, events: event_manager::Events, ops: &mut event_manager::EventOps) {
        match self {
            Self::Handler(handler) => handler.process(events, ops),
            Self::Stop { seen, .. } => *seen = true,
        }
    }

    fn init(&mut self, ops: &mut event_manager::EventOps) {
        match self {
            Self::Handler(handler) => handler.init(ops),
            Self::Stop { fd, .. } => {
                let events = event_manager::Events::new(fd, event_manager::EventSet::IN);
                ops.add(events).expect("a fresh eventfd can be watched");
            }
        }
    }
}
