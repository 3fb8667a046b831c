//! The frontend's half of the vhost-user protocol
//! (<https://qemu-project.gitlab.io/qemu/interop/vhost-user.html>).

use std::io;
use std::net::Shutdown;
use std::os::unix::net::UnixStream;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use vhost::vhost_user::message::{
    VhostUserHeaderFlag, VhostUserProtocolFeatures, VhostUserVirtioFeatures,
};
use vhost::vhost_user::{Error, Frontend, VhostUserFrontend};
use vhost::{VhostBackend, VhostUserMemoryRegionInfo, VringConfigData};
use virtio_queue::QueueT;
use vm_memory::{GuestAddress, GuestMemoryBackend, GuestMemoryMmap};

use super::super::{ActivateError, Activation, ActiveQueue};

/// How long the backend may take to start up and to be told of the queues, while the vCPU
/// that runs the driver waits.
const START_TIME: Duration = Duration::from_secs(10);

/// How long it may take to let go of the queues.
const STOP_TIME: Duration = Duration::from_secs(5);

/// A conversation with a backend, over as many lives of the driver as there are.
pub(super) struct Session {
    frontend: Frontend,
    /// The same socket, to end a conversation that takes too long.
    socket: UnixStream,
    start_time: Duration,
    queue_count: u64,
    /// Features of the backend, once it has been asked.
    features: Option<u64>,
    /// How many queues the backend serves now.
    running: usize,
}

impl Session {
    pub(super) fn new(socket: UnixStream, queue_count: usize) -> io::Result<Self> {
        let queue_count = queue_count as u64;
        Ok(Self {
            frontend: Frontend::from_stream(socket.try_clone()?, queue_count),
            socket,
            start_time: START_TIME,
            queue_count,
            features: None,
            running: 0,
        })
    }

    #[cfg(test)]
    pub(super) fn set_start_time(&mut self, time: Duration) {
        self.start_time = time;
    }

    /// Gives the backend guest memory and the queues, which it serves from now on.
    pub(super) fn start(
        &mut self,
        activation: &Activation,
        queues: &[ActiveQueue],
    ) -> Result<(), ActivateError> {
        let socket = self.socket.try_clone()?;
        within(&socket, self.start_time, || {
            self.negotiate(activation.features)?;
            self.share_memory(&activation.memory)?;
            for queue in queues {
                self.hand_over(activation, queue)?;
            }
            self.enable(queues.len())
        })?
    }

    fn negotiate(&mut self, wanted: u64) -> Result<(), ActivateError> {
        let wanted = wanted | VhostUserVirtioFeatures::PROTOCOL_FEATURES.bits();
        let offered = match self.features {
            Some(features) => features,
            None => {
                self.frontend.set_owner().map_err(backend)?;
                self.frontend.get_features().map_err(backend)?
            }
        };
        if wanted & !offered != 0 {
            self.features = Some(offered);
            return Err(ActivateError::BackendFeatures(wanted & !offered));
        }
        if self.features.is_none() {
            self.negotiate_protocol()?;
            self.features = Some(offered);
        }
        self.frontend.set_features(wanted).map_err(backend)
    }

    fn negotiate_protocol(&mut self) -> Result<(), ActivateError> {
        let known = VhostUserProtocolFeatures::MQ | VhostUserProtocolFeatures::REPLY_ACK;
        let frontend = &mut self.frontend;
        let features = frontend.get_protocol_features().map_err(backend)? & known;
        frontend.set_protocol_features(features).map_err(backend)?;
        if features.contains(VhostUserProtocolFeatures::MQ)
            && frontend.get_queue_num().map_err(backend)? < self.queue_count
        {
            return Err(ActivateError::Backend(Error::InvalidOperation(
                "it has too few queues",
            )));
        }
        Ok(())
    }

    fn share_memory(&self, memory: &GuestMemoryMmap) -> Result<(), ActivateError> {
        let regions = memory
            .iter()
            .map(VhostUserMemoryRegionInfo::from_guest_region)
            .collect::<Result<Vec<_>, _>>()
            .map_err(backend)?;
        self.frontend.set_mem_table(&regions).map_err(backend)?;
        Ok(())
    }

    fn hand_over(
        &self,
        activation: &Activation,
        active: &ActiveQueue,
    ) -> Result<(), ActivateError> {
        let queue = &active.queue;
        let index = usize::from(active.index);
        let address = |guest: u64| {
            activation
                .memory
                .get_host_address(GuestAddress(guest))
                .map(|pointer| pointer.addr() as u64)
                .map_err(io::Error::other)
        };
        let rings = VringConfigData {
            queue_max_size: queue.max_size(),
            queue_size: queue.size(),
            flags: 0,
            desc_table_addr: address(queue.desc_table())?,
            used_ring_addr: address(queue.used_ring())?,
            avail_ring_addr: address(queue.avail_ring())?,
            log_addr: None,
        };
        let call = activation.interrupt.call_fd(active.index)?;
        let frontend = &self.frontend;
        frontend
            .set_vring_num(index, queue.size())
            .and_then(|()| frontend.set_vring_addr(index, &rings))
            .and_then(|()| frontend.set_vring_base(index, queue.next_avail()))
            .and_then(|()| frontend.set_vring_call(index, &call))
            .and_then(|()| frontend.set_vring_kick(index, &active.kick))
            .map_err(backend)
    }

    /// Starts the queues. The backend handles messages in order and ends the conversation at
    /// one that it cannot follow, so its answer to these covers all that came before.
    fn enable(&mut self, count: usize) -> Result<(), ActivateError> {
        self.running = count;
        self.frontend.set_hdr_flags(VhostUserHeaderFlag::NEED_REPLY);
        let enabled = (0..count).try_for_each(|index| self.frontend.set_vring_enable(index, true));
        self.frontend.set_hdr_flags(VhostUserHeaderFlag::empty());
        enabled.map_err(backend)
    }

    /// Takes the queues back. When this returns the backend serves none of them: one that does
    /// not answer is hung up on, upon which it ends.
    pub(super) fn stop(&mut self) {
        let running = std::mem::take(&mut self.running);
        if running == 0 {
            return;
        }
        let stopped = within(&self.socket, STOP_TIME, || {
            (0..running).try_for_each(|index| self.frontend.get_vring_base(index).map(drop))
        });
        let error = match stopped {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(error) => error.to_string(),
        };
        log::warn!("The vhost-user backend did not stop its queues: {error}");
        let _ = self.socket.shutdown(Shutdown::Both);
    }
}

/// Runs `talk`, and hangs up `socket` when it takes longer than `limit`, which makes it fail.
///
/// A timeout of the socket itself would not do: `vhost` takes it for an interruption, and
/// tries again for ever.
fn within<T>(socket: &UnixStream, limit: Duration, talk: impl FnOnce() -> T) -> io::Result<T> {
    let (done, wait) = mpsc::channel::<()>();
    thread::scope(|scope| {
        thread::Builder::new()
            .name("vhost-user-wait".to_owned())
            .spawn_scoped(scope, move || {
                if wait.recv_timeout(limit) == Err(RecvTimeoutError::Timeout) {
                    log::warn!("The vhost-user backend did not answer in {limit:?}");
                    let _ = socket.shutdown(Shutdown::Both);
                }
            })?;
        let result = talk();
        drop(done);
        Ok(result)
    })
}

fn backend(error: vhost::Error) -> ActivateError {
    match error {
        vhost::Error::VhostUserProtocol(error) => ActivateError::Backend(error),
        error => ActivateError::Host(io::Error::other(error)),
    }
}
