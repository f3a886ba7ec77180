//! What goes over rumqttd's sockets: either MQTT version on one port, and nothing of what is known to end rumqttd for
//! all, as far as a packet shows it.
//!
//! rumqttd asks a [`Protocol`] for each packet of a connection, one clone for each. This one leaves reading and writing
//! to rumqttd's own two, finds out from the CONNECT which of them is meant, and keeps from rumqttd 0.20 what it was
//! measured not to stand:
//!
//! * A client that the router refuses, for its id or because there are too many, stays known as one that has a will;
//!   when it tries again, a lock is poisoned and nobody can log in any more. It is turned away before.
//! * A member of a `$share` group with a persistent session that leaves a message unacknowledged panics the router. It
//!   is turned away.
//! * A DISCONNECT lets the router forget a connection that still speaks: of what it says then, one word panics the
//!   router, and another disconnects whoever has its number by now. A client without a will just ends instead; one with
//!   a will cannot, or the will would go out.
//! * A publication with properties panics the task of a 3.1.1 client, and again whenever the client comes back for it.
//!   It goes there without them.
//! * A client that takes topic aliases gets one alias for each filter, so wrong topics where the filter has wildcards. It
//!   gets none.

use ::rumqttd::protocol::v4::V4;
use ::rumqttd::protocol::v5::V5;
use ::rumqttd::protocol::{Connect, ConnectProperties, Error, Packet, PingReq, Protocol, Subscribe};
use bytes::BytesMut;
use std::sync::Arc;

/// In its client id.
const REFUSED_BY_THE_ROUTER: [char; 4] = ['+', '$', '#', '/'];
/// The protocol level of MQTT 3.1.1 in its CONNECT (3.1.2.2).
const LEVEL_311: u8 = 4;

/// The packets of one connection.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    /// Nothing until the CONNECT has come.
    talk: Option<Talk>,
    /// As many as there are connections, and one with the listener.
    open: Arc<()>,
    connections: usize,
}

#[derive(Debug, Clone)]
struct Talk {
    version: Version,
    session: Session,
    goodbye: Goodbye,
}

#[derive(Debug, Clone, Copy)]
enum Version {
    V311,
    V5,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Session {
    Clean,
    Kept,
}

/// What becomes of a DISCONNECT.
///
/// ```text
///   ToRouter
///   Here ── DISCONNECT ──► Said ── "no more for now" ──► Over: an error, which ends the connection
/// ```
///
/// In one step what came with it would be lost: rumqttd tells its router of packets that it has read when there are no
/// more of them, and not when there is an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Goodbye {
    ToRouter,
    Here,
    Said,
    Over,
}

impl Wire {
    /// For a listener that takes up to `connections` clients.
    pub(super) fn new(connections: usize) -> Self {
        Self { talk: None, open: Arc::new(()), connections }
    }

    fn read_connect(&mut self, stream: &mut BytesMut, max_size: usize) -> Result<Packet, Error> {
        // The reader takes the packet off the stream before it looks at the version.
        let mut copy = stream.clone();
        let (packet, version) = match V5.read_mut(&mut copy, max_size) {
            Err(Error::InvalidProtocolLevel(LEVEL_311)) => (V4.read_mut(stream, max_size)?, Version::V311),
            read => {
                let packet = read?;
                *stream = copy;
                (packet, Version::V5)
            }
        };
        let Packet::Connect(connect, properties, will, will_properties, login) = packet else {
            return Err(Error::InvalidProtocol);
        };
        self.admit(&connect)?;
        self.talk = Some(Talk {
            version,
            session: if connect.clean_session { Session::Clean } else { Session::Kept },
            goodbye: if will.is_some() { Goodbye::ToRouter } else { Goodbye::Here },
        });
        let properties = properties.map(|told| ConnectProperties { topic_alias_max: None, ..told });
        Ok(Packet::Connect(connect, properties, will, will_properties, login))
    }

    fn admit(&self, connect: &Connect) -> Result<(), Error> {
        if connect.client_id.contains(REFUSED_BY_THE_ROUTER) {
            return Err(turned_away("its client id has one of + $ # / in it"));
        }
        let listener = 1;
        if Arc::strong_count(&self.open) - listener > self.connections {
            return Err(turned_away("there are limits.broker_connections clients"));
        }
        Ok(())
    }
}

impl Protocol for Wire {
    fn read_mut(&mut self, stream: &mut BytesMut, max_size: usize) -> Result<Packet, Error> {
        match &mut self.talk {
            Some(talk) => talk.read(stream, max_size),
            None => self.read_connect(stream, max_size),
        }
    }

    fn write(&self, packet: Packet, buffer: &mut BytesMut) -> Result<usize, Error> {
        match (&self.talk, packet) {
            (Some(Talk { version: Version::V5, .. }), packet) => V5.write(packet, buffer),
            (_, Packet::Publish(publish, _)) => V4.write(Packet::Publish(publish, None), buffer),
            (_, packet) => V4.write(packet, buffer),
        }
    }
}

impl Talk {
    fn read(&mut self, stream: &mut BytesMut, max_size: usize) -> Result<Packet, Error> {
        match self.goodbye {
            Goodbye::ToRouter | Goodbye::Here => {}
            Goodbye::Said => {
                self.goodbye = Goodbye::Over;
                return Err(Error::InsufficientBytes(1));
            }
            Goodbye::Over => return Err(Error::InvalidProtocol),
        }
        let packet = match self.version {
            Version::V311 => V4.read_mut(stream, max_size)?,
            Version::V5 => V5.read_mut(stream, max_size)?,
        };
        match &packet {
            Packet::Subscribe(subscribe, _) if self.session == Session::Kept && shares(subscribe) => {
                Err(turned_away("it has a persistent session and subscribes to a $share group"))
            }
            Packet::Disconnect(..) if self.goodbye == Goodbye::Here => {
                self.goodbye = Goodbye::Said;
                // Some packet must be there in its place; this one does nothing.
                Ok(Packet::PingReq(PingReq))
            }
            _ => Ok(packet),
        }
    }
}

fn shares(subscribe: &Subscribe) -> bool {
    subscribe.filters.iter().any(|filter| filter.path.starts_with("$share/"))
}

/// The connection ends without a word: at this place rumqttd has none to give.
fn turned_away(reason: &'static str) -> Error {
    tracing::warn!(reason, "a client was turned away from rumqttd");
    Error::InvalidProtocol
}
