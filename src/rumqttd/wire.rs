//! What goes over rumqttd's sockets: either MQTT version on one port, and nothing that is known to end rumqttd for all.
//!
//! rumqttd asks a [`Protocol`] for each packet of a connection, one clone for each. This one leaves the reading and
//! writing to rumqttd's own two, finds out from the CONNECT which of them is meant, and turns clients away before their
//! packets do harm (each measured with rumqttd 0.20):
//!
//! * A client that the router refuses, for its id or because there are too many, is remembered as one with a will; when
//!   it tries again, a lock is poisoned and nobody can log in any more.
//! * A member of a `$share` group with a persistent session that leaves a message unacknowledged panics the router.
//! * A publication with properties, to a 3.1.1 client: its task panics, and again whenever it comes back for the message.
//! * A client of MQTT 5 that takes topic aliases gets one alias per filter, so wrong topics where the filter has wildcards.

use ::rumqttd::protocol::v4::V4;
use ::rumqttd::protocol::v5::V5;
use ::rumqttd::protocol::{Connect, ConnectProperties, Error, Packet, Protocol, Subscribe};
use bytes::BytesMut;
use std::sync::Arc;

/// In its client id.
const REFUSED_BY_THE_ROUTER: [char; 4] = ['+', '$', '#', '/'];
/// The protocol level of MQTT 3.1.1 in its CONNECT (3.1.2.2).
const LEVEL_311: u8 = 4;

/// The packets of one connection.
#[derive(Debug, Clone)]
pub(super) struct Wire {
    state: State,
    /// As many as there are connections, and one with the listener.
    open: Arc<()>,
    connections: usize,
}

#[derive(Debug, Clone, Copy)]
enum State {
    /// The CONNECT has not come.
    Silent,
    Talking(Version, Session),
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

impl Wire {
    /// For a listener that takes up to `connections` clients.
    pub(super) fn new(connections: usize) -> Self {
        Self { state: State::Silent, open: Arc::new(()), connections }
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
        self.state = State::Talking(version, if connect.clean_session { Session::Clean } else { Session::Kept });
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
        let (packet, session) = match self.state {
            State::Silent => return self.read_connect(stream, max_size),
            State::Talking(Version::V311, session) => (V4.read_mut(stream, max_size)?, session),
            State::Talking(Version::V5, session) => (V5.read_mut(stream, max_size)?, session),
        };
        match &packet {
            Packet::Subscribe(subscribe, _) if session == Session::Kept && shares(subscribe) => {
                Err(turned_away("it has a persistent session and subscribes to a $share group"))
            }
            _ => Ok(packet),
        }
    }

    fn write(&self, packet: Packet, buffer: &mut BytesMut) -> Result<usize, Error> {
        match (self.state, packet) {
            (State::Talking(Version::V5, _), packet) => V5.write(packet, buffer),
            (_, Packet::Publish(publish, _)) => V4.write(Packet::Publish(publish, None), buffer),
            (_, packet) => V4.write(packet, buffer),
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
