//! The threads of a machine's vCPUs as one: started, paused, resumed and stopped together.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::thread::JoinHandleExt;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use kvm_ioctls::VcpuFd;
use vmm_sys_util::signal::{SIGRTMIN, register_signal_handler};

use super::exits::Exits;
use super::run::{Buses, Runner, kicked};
use crate::control::End;

/// How long vCPUs may take to leave the guest and finish an access to a device.
const PATIENCE: Duration = Duration::from_secs(5);

/// What vCPUs are to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub(super) enum Order {
    Run,
    Pause,
    Stop,
}

/// The order in force, and how many threads follow it.
#[derive(Debug)]
pub(super) struct Orders {
    order: AtomicU8,
    counts: Mutex<Counts>,
    changed: Condvar,
}

#[derive(Debug)]
struct Counts {
    /// Threads that have not left for good.
    alive: usize,
    /// Of those, threads that wait in [`Orders::park`].
    parked: usize,
}

impl Orders {
    fn new(threads: usize) -> Self {
        let counts = Counts {
            alive: threads,
            parked: 0,
        };
        Self {
            order: AtomicU8::new(Order::Run as u8),
            counts: Mutex::new(counts),
            changed: Condvar::new(),
        }
    }

    pub(super) fn current(&self) -> Order {
        const PAUSE: u8 = Order::Pause as u8;
        const STOP: u8 = Order::Stop as u8;
        match self.order.load(Ordering::Acquire) {
            PAUSE => Order::Pause,
            STOP => Order::Stop,
            _ => Order::Run,
        }
    }

    fn give(&self, order: Order) {
        let counts = self.counts();
        self.order.store(order as u8, Ordering::Release);
        drop(counts);
        self.changed.notify_all();
    }

    /// Waits for as long as the order is to pause.
    pub(super) fn park(&self) {
        let mut counts = self.counts();
        counts.parked += 1;
        self.changed.notify_all();
        while self.current() == Order::Pause {
            counts = self
                .changed
                .wait(counts)
                .unwrap_or_else(PoisonError::into_inner);
        }
        counts.parked -= 1;
        self.changed.notify_all();
    }

    /// The calling thread leaves for good.
    fn leave(&self) {
        self.counts().alive -= 1;
        self.changed.notify_all();
    }

    /// Waits until `done`; whether it came to that in time.
    fn wait(&self, done: impl Fn(&Counts) -> bool) -> bool {
        let deadline = Instant::now() + PATIENCE;
        let mut counts = self.counts();
        while !done(&counts) {
            let Some(rest) = deadline.checked_duration_since(Instant::now()) else {
                return false;
            };
            let (next, _) = self
                .changed
                .wait_timeout(counts, rest)
                .unwrap_or_else(PoisonError::into_inner);
            counts = next;
        }
        true
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The running vCPUs of a machine.
#[derive(Debug)]
pub struct Threads {
    orders: Arc<Orders>,
    vcpus: Vec<(JoinHandle<()>, Arc<Exits>)>,
}

impl Threads {
    /// Starts a thread for each of `vcpus`. When one of them ends the machine, it says so by
    /// `report` and leaves.
    pub fn start(
        vcpus: Vec<VcpuFd>,
        buses: &Arc<Buses>,
        report: &Arc<dyn Fn(End) + Send + Sync>,
    ) -> io::Result<Self> {
        register_signal_handler(SIGRTMIN(), kicked)?;
        let orders = Arc::new(Orders::new(vcpus.len()));
        let mut threads = Self {
            orders: Arc::clone(&orders),
            vcpus: Vec::with_capacity(vcpus.len()),
        };
        for (id, vcpu) in vcpus.into_iter().enumerate() {
            let exits = Arc::new(Exits::default());
            let runner = Runner {
                id,
                vcpu,
                buses: Arc::clone(buses),
                exits: Arc::clone(&exits),
                orders: Arc::clone(&orders),
            };
            let orders = Arc::clone(&orders);
            let report = Arc::clone(report);
            let thread = thread::Builder::new()
                .name(format!("vcpu{id}"))
                .spawn(move || {
                    if let Some(end) = runner.run() {
                        report(end);
                    }
                    orders.leave();
                })?;
            threads.vcpus.push((thread, exits));
        }
        Ok(threads)
    }

    /// Gets all vCPUs out of the guest and keeps them out. False if one has not come out in
    /// time; it will not enter again in any case.
    pub fn pause(&self) -> bool {
        self.orders.give(Order::Pause);
        self.kick();
        self.orders.wait(|counts| counts.parked == counts.alive)
    }

    /// Lets paused vCPUs run again.
    pub fn resume(&self) {
        self.orders.give(Order::Run);
    }

    /// Gets all vCPUs out of the guest for good. False as with [`Self::pause`].
    pub fn stop(&self) -> bool {
        self.orders.give(Order::Stop);
        self.kick();
        self.orders.wait(|counts| counts.alive == 0)
    }

    /// Exits of all vCPUs by reason.
    pub fn exits(&self) -> BTreeMap<String, u64> {
        let mut sums = BTreeMap::new();
        for (_, exits) in &self.vcpus {
            exits.add_to(&mut sums);
        }
        sums
    }

    fn kick(&self) {
        for (thread, _) in &self.vcpus {
            // SAFETY: The thread has not been joined, so its ID is valid, even if it has
            // ended; the signal has a handler.
            unsafe { libc::pthread_kill(thread.as_pthread_t(), SIGRTMIN()) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Threads that follow orders without a vCPU.
    fn followers(count: usize) -> (Arc<Orders>, Vec<JoinHandle<()>>) {
        let orders = Arc::new(Orders::new(count));
        let threads = (0..count)
            .map(|_| {
                let orders = Arc::clone(&orders);
                thread::spawn(move || {
                    loop {
                        match orders.current() {
                            Order::Run => thread::yield_now(),
                            Order::Pause => orders.park(),
                            Order::Stop => break orders.leave(),
                        }
                    }
                })
            })
            .collect();
        (orders, threads)
    }

    #[test]
    fn all_threads_park_go_on_and_leave() {
        let (orders, threads) = followers(8);
        for _ in 0..100 {
            orders.give(Order::Pause);
            assert!(orders.wait(|counts| counts.parked == 8));
            orders.give(Order::Run);
            assert!(orders.wait(|counts| counts.parked == 0));
        }
        orders.give(Order::Pause);
        orders.give(Order::Stop);
        assert!(orders.wait(|counts| counts.alive == 0));
        for thread in threads {
            thread.join().unwrap();
        }
    }

    #[test]
    fn a_pause_does_not_wait_for_those_that_left() {
        let orders = Orders::new(1);
        orders.leave();
        orders.give(Order::Pause);
        assert!(orders.wait(|counts| counts.parked == counts.alive));
    }
}
