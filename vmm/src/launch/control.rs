//! The control socket of a running machine: anybody who can reach it asks, one JSON line a
//! request, and gets one JSON line an answer, in order.

use std::io;
use std::os::unix::net::UnixListener;
use std::path::Path;

use nix::poll::PollFlags;

use super::lines::LineSocket;
use super::poll::PollSet;
use crate::control::{Reply, Request};

/// Connections at a time; more wait.
const MAX_CLIENTS: usize = 64;

/// A connection, while it lasts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct ClientId(u64);

/// The listening socket and its connections.
#[derive(Debug)]
pub(crate) struct ControlServer {
    listener: UnixListener,
    clients: Vec<(ClientId, LineSocket)>,
    next: u64,
}

impl ControlServer {
    /// Listens at `path`.
    pub(crate) fn new(path: &Path) -> io::Result<Self> {
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self {
            listener,
            clients: Vec::new(),
            next: 0,
        })
    }

    pub(crate) fn watch(&self, set: &mut PollSet) {
        if self.clients.len() < MAX_CLIENTS {
            set.watch(&self.listener, PollFlags::POLLIN);
        }
        for (_, client) in &self.clients {
            client.watch(set);
        }
    }

    /// Takes connections and requests. What is no request is answered here.
    pub(crate) fn step(&mut self, set: &PollSet) -> Vec<(ClientId, Request)> {
        let mut requests = Vec::new();
        for (id, client) in &mut self.clients {
            client.step(set);
            while let Some(line) = client.next_line() {
                match serde_json::from_slice(&line) {
                    Ok(request) => requests.push((*id, request)),
                    Err(e) => client.send(&Reply::Error {
                        message: format!("This is no request: {e}"),
                    }),
                }
            }
        }
        self.clients.retain(|(_, client)| !client.has_ended());
        if self.clients.len() < MAX_CLIENTS && set.readable(&self.listener) {
            let accepted = self.listener.accept().and_then(|(s, _)| LineSocket::new(s));
            if let Ok(client) = accepted {
                self.clients.push((ClientId(self.next), client));
                self.next += 1;
            }
        }
        requests
    }

    /// Answers a request; nothing happens if the client has gone.
    pub(crate) fn reply(&mut self, to: ClientId, reply: &Reply) {
        if let Some((_, client)) = self.clients.iter_mut().find(|(id, _)| *id == to) {
            client.send(reply);
        }
    }
}

#[cfg(test)]
mod tests;
