//! The event loop of the process that serves the forwards.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::rc::Rc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use nix::errno::Errno;
use nix::sys::epoll::{Epoll, EpollCreateFlags, EpollEvent, EpollFlags, EpollTimeout};

use super::datagram::Query;
use super::link::{Link, Side, unblock};
use super::{Listener, Service};
use crate::events::Watched;
use crate::kernel_log;

/// Greatest number of streams at a time; others wait to be accepted. With those of
/// [`MAX_QUERIES`] as many as the host takes.
const MAX_LINKS: usize = 384;

/// Greatest number of datagrams that wait for an answer; others wait in their socket.
const MAX_QUERIES: usize = 128;

/// Bytes that are carried in one go; no datagram is longer.
const BUFFER: usize = 64 * 1024;

/// Events that are taken at a time.
const EVENTS: usize = 64;

/// Begins to connect to a vsock port of the host.
type Connect = fn(u32) -> Result<OwnedFd>;

/// Serves forwards.
#[derive(Debug)]
pub(super) struct Server {
    epoll: Rc<Epoll>,
    connect: Connect,
    services: Vec<Watched<Listener>>,
    ports: Vec<u32>,
    links: BTreeMap<u32, Link>,
    /// In the order of their deadlines, as all have the same time.
    queries: BTreeMap<u32, Query>,
    next: u32,
    buffer: Vec<u8>,
    /// A connection has failed; it is said once.
    complained: bool,
}

/// What an event is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    Service,
    Guest,
    Host,
    Query,
}

fn token(role: Role, id: u32) -> u64 {
    u64::from(id) << 8 | role as u64
}

fn parse(token: u64) -> Option<(Role, u32)> {
    let role = match token & 0xff {
        0 => Role::Service,
        1 => Role::Guest,
        2 => Role::Host,
        3 => Role::Query,
        _ => return None,
    };
    Some((role, u32::try_from(token >> 8).ok()?))
}

impl Server {
    pub(super) fn new(services: Vec<Service>, connect: Connect) -> Result<Self> {
        let epoll = Rc::new(Epoll::new(EpollCreateFlags::EPOLL_CLOEXEC)?);
        let ports = services.iter().map(|service| service.port).collect();
        let services = (0..)
            .zip(services)
            .map(|(id, service)| Watched::new(service.listener, &epoll, token(Role::Service, id)))
            .collect();
        Ok(Self {
            epoll,
            connect,
            services,
            ports,
            links: BTreeMap::new(),
            queries: BTreeMap::new(),
            next: 0,
            buffer: vec![0; BUFFER],
            complained: false,
        })
    }

    /// Serves for ever, unless events cannot be waited for.
    pub(super) fn run(mut self) -> Result<()> {
        loop {
            self.listen();
            let mut events = [EpollEvent::empty(); EVENTS];
            let count = match self.epoll.wait(&mut events, self.timeout()) {
                Err(Errno::EINTR) => 0,
                result => result.context("cannot wait for events")?,
            };
            for event in &events[..count] {
                if let Some((role, id)) = parse(event.data()) {
                    self.handle(role, id, event.events());
                }
            }
            let now = Instant::now();
            self.queries.retain(|_, query| query.deadline > now);
        }
    }

    fn timeout(&self) -> EpollTimeout {
        let Some((_, query)) = self.queries.first_key_value() else {
            return EpollTimeout::NONE;
        };
        // A millisecond more, as what is left is rounded down.
        let left = query.deadline.saturating_duration_since(Instant::now());
        EpollTimeout::try_from(left + Duration::from_millis(1)).unwrap_or(EpollTimeout::MAX)
    }

    /// Waits for those whom it can serve.
    fn listen(&mut self) {
        for service in &mut self.services {
            let room = match **service {
                Listener::Udp(_) => self.queries.len() < MAX_QUERIES,
                _ => self.links.len() < MAX_LINKS,
            };
            service.want(match room {
                true => EpollFlags::EPOLLIN,
                false => EpollFlags::empty(),
            });
        }
    }

    fn handle(&mut self, role: Role, id: u32, events: EpollFlags) {
        match role {
            Role::Service => {
                if let Err(e) = self.serve(id)
                    && !std::mem::replace(&mut self.complained, true)
                {
                    kernel_log::error(&format!("cannot forward a connection: {e:#}"));
                }
            }
            Role::Guest | Role::Host => {
                let side = if role == Role::Guest {
                    Side::Guest
                } else {
                    Side::Host
                };
                // Of an event of this turn the link may be gone already.
                if let Some(link) = self.links.get_mut(&id)
                    && link.handle(side, events, &mut self.buffer).is_err()
                {
                    self.links.remove(&id);
                }
            }
            Role::Query => self.answer(id),
        }
    }

    /// Takes one connection or datagram.
    fn serve(&mut self, service: u32) -> Result<()> {
        let index = usize::try_from(service)?;
        let guest = match &*self.services[index] {
            Listener::Udp(socket) => {
                let (len, asker) = match socket.recv_from(&mut self.buffer) {
                    Err(e) if is_passing(&e) => return Ok(()),
                    result => result.context("cannot receive a datagram")?,
                };
                let host = (self.connect)(self.ports[index])?;
                let id = self.new_id();
                let host = Watched::new(host, &self.epoll, token(Role::Query, id));
                let query = Query::new(host, &self.buffer[..len], asker, service);
                self.queries.extend(query.map(|query| (id, query)));
                return Ok(());
            }
            Listener::Unix(listener) => listener.accept().map(|(stream, _)| stream.into()),
            Listener::Tcp(listener) => listener.accept().map(|(stream, _)| {
                // Who sends little at a time waits for answers.
                let _ = stream.set_nodelay(true);
                stream.into()
            }),
        };
        let guest = match guest {
            Err(e) if is_passing(&e) => return Ok(()),
            result => unblock(result.context("cannot accept")?)?,
        };
        let host = (self.connect)(self.ports[index])?;
        let id = self.new_id();
        let guest = Watched::new(guest, &self.epoll, token(Role::Guest, id));
        let host = Watched::new(host, &self.epoll, token(Role::Host, id));
        self.links.insert(id, Link::new(guest, host));
        Ok(())
    }

    fn new_id(&mut self) -> u32 {
        self.next = self.next.wrapping_add(1);
        self.next
    }

    fn answer(&mut self, id: u32) {
        let Some(query) = self.queries.get_mut(&id) else {
            return;
        };
        let (asker, service) = (query.asker, query.service);
        match query.handle(&mut self.buffer) {
            Ok(None) => return,
            Ok(Some(answer)) => {
                let service = self
                    .services
                    .get(usize::try_from(service).unwrap_or(usize::MAX));
                if let Some(Listener::Udp(socket)) = service.map(|service| &**service) {
                    // Who is gone needs no answer.
                    let _ = socket.send_to(answer, asker);
                }
            }
            Err(_) => {}
        }
        self.queries.remove(&id);
    }
}

/// Nothing is wrong but with this one connection.
fn is_passing(e: &io::Error) -> bool {
    matches!(
        e.kind(),
        io::ErrorKind::WouldBlock
            | io::ErrorKind::Interrupted
            | io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionRefused
    )
}
