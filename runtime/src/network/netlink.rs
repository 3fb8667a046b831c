//! Requests to the kernel's routing netlink socket (rtnetlink(7)).

use std::io;

use netlink_packet_core::{
    NLM_F_ACK, NLM_F_DUMP, NLM_F_DUMP_INTR, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::Socket;
use netlink_sys::protocols::NETLINK_ROUTE;

/// How often a list is asked for that changes while it is read.
const ATTEMPTS: u32 = 10;

/// A connection to routing netlink, in the network namespace in which it was opened.
pub(super) struct Netlink {
    socket: Socket,
    sequence: u32,
}

impl Netlink {
    pub(super) fn open() -> io::Result<Self> {
        Ok(Self {
            socket: Socket::new(NETLINK_ROUTE)?,
            sequence: 0,
        })
    }

    /// Has the kernel do something, with flags besides `NLM_F_REQUEST` and `NLM_F_ACK`.
    pub(super) fn execute(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.send(request, flags | NLM_F_ACK)?;
        self.receive(|_| {}).map(|_| ())
    }

    /// Asks for a list.
    pub(super) fn list(
        &mut self,
        request: &RouteNetlinkMessage,
    ) -> io::Result<Vec<RouteNetlinkMessage>> {
        for _ in 0..ATTEMPTS {
            self.send(request.clone(), NLM_F_DUMP)?;
            let mut entries = Vec::new();
            if self.receive(|entry| entries.push(entry))? {
                return Ok(entries);
            }
        }
        Err(io::Error::other("it changes all the time"))
    }

    fn send(&mut self, request: RouteNetlinkMessage, flags: u16) -> io::Result<()> {
        self.sequence += 1;
        let mut message = NetlinkMessage::from(request);
        message.header.flags = flags | NLM_F_REQUEST;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let mut bytes = vec![0; message.buffer_len()];
        message.serialize(&mut bytes);
        self.socket.send(&bytes, 0)?;
        Ok(())
    }

    /// Hands the entries of the answer to `take`, up to its end, and says whether they fit
    /// together.
    fn receive(&self, mut take: impl FnMut(RouteNetlinkMessage)) -> io::Result<bool> {
        let mut consistent = true;
        loop {
            let (bytes, _) = self.socket.recv_from_full()?;
            let mut rest = &bytes[..];
            while !rest.is_empty() {
                let message = NetlinkMessage::<RouteNetlinkMessage>::deserialize(rest)
                    .map_err(io::Error::other)?;
                let length = message.header.length as usize;
                rest = &rest[length.next_multiple_of(4).min(rest.len())..];
                if message.header.sequence_number != self.sequence {
                    continue;
                }
                consistent &= message.header.flags & NLM_F_DUMP_INTR == 0;
                match message.payload {
                    NetlinkPayload::InnerMessage(entry) => take(entry),
                    NetlinkPayload::Done(_) => return Ok(consistent),
                    NetlinkPayload::Error(error) if error.code.is_some() => {
                        return Err(error.to_io());
                    }
                    NetlinkPayload::Error(_) => return Ok(consistent),
                    _ => {}
                }
            }
        }
    }
}
