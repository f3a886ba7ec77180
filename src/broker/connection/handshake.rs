//! The beginning of a connection: from its first byte to the CONNACK.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;

use tokio::io::AsyncReadExt;
use tokio::time::{Instant, timeout_at};
use tracing::debug;

use super::closing::{LINGER, close};
use super::handle::ConnectionHandle;
use super::out::Out;
use super::{Connection, Stream};
use crate::broker::hub::{Admitted, Hub, Leaving};
use crate::broker::refusals::{Refusal, Refused, Who};
use crate::broker::session::aliases::TOPIC_ALIASES;
use crate::broker::wire::{self, CONNECT, ClientEncoding, Connack, Connect, Framing, PacketError, Version};
use crate::ops::metrics::Metric;

/// The biggest CONNECT: whoever has not shown who they are gets no room for more.
const CONNECT_LIMIT: usize = 64 * 1024;
/// Room for what is read at once.
const CHUNK: usize = 1024;

/// Why a connection does not come to its CONNECT.
#[derive(Debug)]
pub(crate) enum HandshakeError {
    /// The client hung up.
    HungUp(io::Error),
    Refused(Refused),
}

impl From<PacketError> for HandshakeError {
    fn from(error: PacketError) -> Self {
        Self::Refused(error.into())
    }
}

impl From<io::Error> for HandshakeError {
    fn from(error: io::Error) -> Self {
        Self::HungUp(error)
    }
}

/// Waits for the CONNECT and lets the client in. None if that came to nothing, of which everybody was told.
pub(crate) async fn open(
    hub: &Arc<Hub>,
    mut stream: Box<dyn Stream>,
    peer: SocketAddr,
    deadline: Instant,
) -> Option<Box<Connection>> {
    let (handle, mut input) = (&ConnectionHandle::new(peer), Vec::new());
    let limit = CONNECT_LIMIT.min(hub.limits.packet_bytes);
    let (body, total) = match timeout_at(deadline, read_connect(&mut stream, &mut input, limit)).await {
        Ok(Ok(Framing::Whole { body, total, .. })) => (body, total),
        Ok(Ok(Framing::Incomplete { .. })) => return None,
        Ok(Err(error)) => return MqttHandshake { hub, handle, stream }.refuse_unread(&input, error).await,
        Err(_late) => {
            hub.refusals.report(Refusal::ConnectTimeout, &handle.who(), "");
            return None;
        }
    };
    let handshake = MqttHandshake { hub, handle, stream };
    let connect = match wire::connect(input.get(body).unwrap_or_default(), &super::wire_limits(&hub.limits)) {
        Ok(connect) => connect,
        Err(refused) => {
            handshake.name(&refused.seen);
            let encoding = refused.version.map(|version| ClientEncoding { version, ..refused.seen.encoding() });
            return handshake.refuse_connect(encoding, &refused.error.into()).await;
        }
    };
    handshake.name(&connect);
    if let Some(will) = connect.will.as_ref().filter(|will| will.over_limit) {
        return handshake.refuse_connect(Some(connect.encoding()), &Refusal::TopicLimit.with(will.topic)).await;
    }
    // On the heap: hashing a password keeps much at hand.
    match Box::pin(hub.admit(&connect, handle)).await {
        Ok(admitted) => handshake.let_in(&connect, admitted, input.get(total..).unwrap_or_default()).await,
        Err(refused) => handshake.refuse(Some(connect.encoding()), &refused).await,
    }
}

/// Reads up to the end of a CONNECT, and perhaps some of what follows it.
async fn read_connect(
    stream: &mut Box<dyn Stream>,
    input: &mut Vec<u8>,
    limit: usize,
) -> Result<Framing, HandshakeError> {
    loop {
        if let Some(kind) = input.first().map(|first| first >> 4).filter(|kind| *kind != CONNECT) {
            return Err(PacketError::FirstPacket(kind).into());
        }
        match wire::frame(input, Version::V311, limit)? {
            whole @ Framing::Whole { .. } => return Ok(whole),
            Framing::Incomplete { .. } => {}
        }
        input.reserve(CHUNK);
        if stream.read_buf(input).await? == 0 {
            return Err(HandshakeError::HungUp(io::ErrorKind::UnexpectedEof.into()));
        }
    }
}

/// Somebody who is not in yet.
struct MqttHandshake<'a> {
    hub: &'a Arc<Hub>,
    handle: &'a Arc<ConnectionHandle>,
    stream: Box<dyn Stream>,
}

impl MqttHandshake<'_> {
    /// From now on lines say who the client says it is.
    fn name(&self, connect: &Connect<'_>) {
        let address = self.handle.who().address;
        self.handle.set_who(Who::named(address, connect.user, connect.client));
    }

    /// The CONNECT itself cannot be served.
    async fn refuse_connect(self, encoding: Option<ClientEncoding>, refused: &Refused) -> Option<Box<Connection>> {
        self.hub.refusals.metrics().count(Metric::BrokerHandshakesFailed);
        self.refuse(encoding, refused).await
    }

    /// The CONNECT did not come whole.
    async fn refuse_unread(self, input: &[u8], error: HandshakeError) -> Option<Box<Connection>> {
        let refused = match error {
            HandshakeError::HungUp(error) => {
                self.hub.refusals.metrics().count(Metric::BrokerHandshakesFailed);
                debug!(%error, "connection closed before its CONNECT");
                return None;
            }
            HandshakeError::Refused(refused) => refused,
        };
        if refused.refusal != Refusal::PacketSize {
            return self.refuse_connect(None, &refused).await;
        }
        // What came of one that is too big says who it is, and in which version that can be told.
        let body = input.iter().skip(1).position(|length| length & 0x80 == 0).map_or(0, |last| last + 2);
        let limits = super::wire_limits(&self.hub.limits);
        let encoding = match wire::connect(input.get(body..).unwrap_or_default(), &limits) {
            Ok(seen) => {
                self.name(&seen);
                Some(seen.encoding())
            }
            Err(unread) => {
                self.name(&unread.seen);
                unread.version.map(|version| ClientEncoding { version, ..unread.seen.encoding() })
            }
        };
        self.refuse_connect(encoding, &refused).await
    }

    /// The client is not let in, and is told so, if it speaks a version in which that can be said.
    async fn refuse(self, encoding: Option<ClientEncoding>, refused: &Refused) -> Option<Box<Connection>> {
        self.hub.refusals.report(refused.refusal, &self.handle.who(), &refused.detail);
        let mut out = Out::default();
        let code = encoding.and_then(|encoding| match encoding.version {
            Version::V5 => Some(refused.code),
            Version::V311 => refused.refusal.connack(),
        });
        if let (Some(encoding), Some(code)) = (encoding, code) {
            let connack = Connack { code, reason: Some(&refused.reason), ..Connack::default() };
            // If not even the shortest fits, there is nothing to be said.
            let _ = wire::connack(out.buffer(), encoding, &connack);
        }
        close(self.stream, out, self.handle, LINGER).await;
        None
    }

    /// The client gets its CONNACK, and what it sent behind its CONNECT is read.
    async fn let_in(self, connect: &Connect<'_>, admitted: Admitted, rest: &[u8]) -> Option<Box<Connection>> {
        let limits = &self.hub.limits;
        let encoding = connect.encoding();
        let longest = limits.keep_alive;
        let is_too_long = longest > 0 && (connect.keep_alive == 0 || connect.keep_alive > longest);
        // 3.1.1 has no word for it.
        let told = Some(longest).filter(|_| is_too_long && encoding.version == Version::V5);
        let connack = Connack {
            session_present: admitted.present,
            session_expiry_s: Some(admitted.expiry_s).filter(|granted| *granted != connect.session_expiry_s),
            receive_maximum: Some(limits.held_acks),
            max_packet: Some(limits.packet_bytes.try_into().unwrap_or(u32::MAX)),
            assigned_client: admitted.assigned.as_deref(),
            topic_alias_maximum: Some(TOPIC_ALIASES),
            keep_alive: told,
            ..Connack::default()
        };
        let mut out = Out::default();
        if wire::connack(out.buffer(), encoding, &connack) {
            self.handle.set_keep_alive(told.unwrap_or(connect.keep_alive));
            self.handle.packet_received();
            return Some(Connection::new(self.hub, self.handle, (self.stream, out), (connect, admitted), rest).into());
        }
        let Admitted { session, packet_ids, .. } = admitted;
        let unseen = Leaving::Goodbye { with_will: false, expiry_s: None };
        self.hub.leave(&session, self.handle, packet_ids, unseen).await;
        let why = format!("no CONNACK fits into the {} bytes that the client takes", encoding.max_packet);
        self.refuse(Some(encoding), &Refusal::PacketSize.with(why)).await
    }
}
