//! What the bridge says about itself: `_bridge/status`, `_bridge/stats`, `_bridge/events`.

use super::ErrorCode;
use crate::chat::id::{Sid, Token};
use serde::{Deserialize, Serialize, Serializer};
use std::collections::BTreeMap;

/// How the bridge is, retained. With `state` offline it is also the bridge's will.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct BridgeStatus {
    /// In one word.
    pub state: BridgeState,
    /// The program's version.
    pub version: String,
    /// When it started, in Unix milliseconds.
    pub started: u64,
    /// Every transport, and how it stands: `up`, `draining`, `down`, or why no message goes. What the document says of CCS
    /// alone follows from it.
    #[serde(flatten, serialize_with = "transports")]
    pub transports: BTreeMap<String, &'static str>,
    /// Which kind of broker is in use.
    pub broker: BrokerKind,
    /// When this was said, in Unix milliseconds; in the will: when the bridge connected.
    pub ts: u64,
}

/// The bridge in one word.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum BridgeState {
    /// All is well.
    Online,
    /// Messages are taken, but cannot be passed on now.
    Degraded,
    /// Not there.
    Offline,
}

/// The kind of broker in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BrokerKind {
    /// The bridge's own.
    Embedded,
    /// Another program.
    External,
}

/// Counters since the start, and gauges.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct BridgeStats {
    /// When this was said, in Unix milliseconds.
    pub ts: u64,
    /// Messages from devices, without repeated ones.
    pub upstream: u64,
    /// Messages to devices that were taken.
    pub downstream: u64,
    /// Messages to devices that the push service took.
    pub acks: u64,
    /// Messages to devices that it did not take, by its code. The number of different codes is for the caller to
    /// bound: they come from the peer.
    pub nacks: BTreeMap<String, u64>,
    /// Delivery receipts from the push service.
    pub receipts: u64,
    /// Repeated messages that were recognised, in both directions.
    pub duplicates: u64,
    /// Gauge: documents that wait to be published, most of them messages from devices whose BAL is away.
    pub spool: u64,
    /// Gauge: messages to devices that wait for the push service.
    pub queue: u64,
    /// Gauge: MQTT clients connected to the embedded broker.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sessions: Option<u64>,
    /// `ok`, or why nothing can be written.
    pub store: String,
    /// `taking`, or which limit stops the intake.
    pub intake: String,
    /// Every transport.
    pub transports: BTreeMap<String, TransportStats>,
}

/// A transport: counters since the start, and gauges.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct TransportStats {
    /// As in [`BridgeStatus::transports`].
    pub state: &'static str,
    /// Why no message goes, or fewer than could.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// Connections by how they stand, those that there are.
    pub connections: BTreeMap<&'static str, usize>,
    /// Messages on them that are not answered.
    pub unanswered: usize,
    /// How many of those they take.
    pub window: usize,
    /// Connections that were ended by the push service or the network.
    pub reconnects: u64,
    /// Connections that the push service began to drain.
    pub drains: u64,
    /// Messages that may go now, not counting those on their way.
    pub due: u64,
    /// Messages that are put off until a time.
    pub put_off: u64,
    /// Messages behind another of their recipient.
    pub behind: u64,
    /// How long ago the oldest of these was accepted, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub oldest: Option<u64>,
    /// How old the access token is, in seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub access_token_age: Option<u64>,
}

/// Something an operator wants to hear of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub enum BridgeEvent {
    /// A connection to the push service takes messages.
    Connected {
        /// By which way.
        transport: String,
        /// Which, counted from the start.
        connection: u64,
    },
    /// The push service is ending a connection; another one takes over.
    Draining {
        /// By which way.
        transport: String,
        /// Which.
        connection: u64,
    },
    /// A connection to the push service ended; the bridge connects again.
    Reconnect {
        /// By which way.
        transport: String,
        /// Which.
        connection: u64,
        /// Why it ended.
        detail: String,
    },
    /// The push service refused the credentials.
    AuthFailed {
        /// By which way.
        transport: String,
        /// In its own words.
        detail: String,
    },
    /// A message failed for a reason that only an operator can mend.
    Refused {
        /// The push service's code.
        code: String,
        /// The bridge's id of the message, as the program's `trace` takes it.
        #[serde(serialize_with = "text")]
        id: Sid,
    },
    /// The push service declared a token dead.
    TokenRemoved {
        /// The token's short hash: the token itself is a secret.
        #[serde(rename = "token_hash", serialize_with = "text")]
        token: Token,
        /// The push service's code.
        code: String,
    },
    /// The spool is full: the bridge has stopped acknowledging messages from devices.
    SpoolFull {
        /// Documents in it.
        rows: u64,
    },
    /// A message from a device could not be understood, and was acknowledged all the same.
    UpstreamRejected {
        /// By which way.
        transport: String,
        /// What is wrong with it.
        code: &'static str,
        /// The beginning of what came, without the device's token.
        sample: String,
        /// Which connection brought it, counted from the start.
        connection: u64,
    },
    /// A message from a device waits, because no BAL is configured for its app.
    NoRoute {
        /// The bridge's id of the message.
        #[serde(serialize_with = "text")]
        id: Sid,
        /// The app's package name, if there was one.
        #[serde(skip_serializing_if = "Option::is_none")]
        category: Option<String>,
    },
    /// A user tells of another one, whose messages are named.
    Reported {
        /// Who tells.
        by: String,
        /// Of whom.
        with: String,
        /// The ids of the messages.
        sids: Vec<String>,
        /// In the words of the user.
        #[serde(skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
    },
    /// So much waits for a session that messages of clients are not kept for it.
    QueueFull {
        /// The session, as the program's `sessions` shows it; of a shared subscription `{group}/{filter}`.
        session: String,
        /// Messages that were not kept since this was said last.
        refused: u64,
    },
    /// The external broker has not kept the bridge's session.
    SessionLost,
    /// The external broker keeps the bridge's session for less time than asked for.
    SessionShort {
        /// For how many seconds it keeps it.
        seconds: u32,
        /// For how many it was asked.
        asked: u32,
    },
    /// A document is bigger than a reader, or the external broker, takes: it waits for another one.
    DocumentSetAside {
        /// Its topic.
        topic: String,
        /// Its `id`, if it has one.
        #[serde(skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// How long its packet would be, in bytes.
        bytes: usize,
        /// The longest packet that is taken.
        most: usize,
    },
}

impl BridgeStatus {
    /// The document to publish.
    pub fn to_payload(&self) -> Vec<u8> {
        super::json(self)
    }
}

impl BridgeStats {
    /// The document to publish.
    pub fn to_payload(&self) -> Vec<u8> {
        super::json(self)
    }
}

impl BridgeEvent {
    /// The document to publish, said at `ts` (Unix milliseconds).
    pub fn to_payload(&self, ts: u64) -> Vec<u8> {
        let code = matches!(self, Self::NoRoute { .. }).then_some(ErrorCode::NoRoute);
        super::json(&Dated { event: self, code, ts })
    }
}

#[derive(Serialize)]
struct Dated<'a> {
    #[serde(flatten)]
    event: &'a BridgeEvent,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<ErrorCode>,
    ts: u64,
}

/// `ccs` is older than `transports`, and has three words only.
fn transports<S: Serializer>(transports: &BTreeMap<String, &'static str>, serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Transports<'a> {
        #[serde(skip_serializing_if = "Option::is_none")]
        ccs: Option<&'static str>,
        transports: &'a BTreeMap<String, &'static str>,
    }
    let known = |word: &&'static str| if matches!(*word, "up" | "draining") { *word } else { "down" };
    Transports { ccs: transports.get("ccs").map(known), transports }.serialize(serializer)
}

fn text<S: Serializer>(value: &impl ToString, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_str(&value.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::id::{SidSource, short_hash};
    use serde_json::{Value, json};

    fn read(payload: &[u8]) -> Value {
        serde_json::from_slice(payload).unwrap()
    }

    #[test]
    fn the_status_says_of_ccs_whether_it_is_up_down_or_draining() {
        for (word, ccs) in [("up", "up"), ("draining", "draining"), ("down", "down"), ("auth_failed", "down")] {
            let status = BridgeStatus {
                state: BridgeState::Degraded,
                version: "0.1.0".to_owned(),
                started: 1,
                transports: BTreeMap::from([("ccs".to_owned(), word)]),
                broker: BrokerKind::External,
                ts: 2,
            };
            let mut said = json!({
                "state": "degraded", "version": "0.1.0", "started": 1, "ccs": ccs, "transports": {"ccs": word},
                "broker": "external", "ts": 2,
            });
            assert_eq!(read(&status.to_payload()), said);
            let status = BridgeStatus { transports: BTreeMap::from([("fcm-v1".to_owned(), word)]), ..status };
            said["transports"] = json!({"fcm-v1": word});
            said.as_object_mut().unwrap().remove("ccs");
            assert_eq!(read(&status.to_payload()), said, "where CCS is not spoken nothing is said of it");
        }
    }

    #[test]
    fn stats_tell_of_sessions_only_where_they_are_known() {
        let nacks = BTreeMap::from([("DEVICE_UNREGISTERED".to_owned(), 2)]);
        let stats = BridgeStats { ts: 9, acks: 3, nacks, ..BridgeStats::default() };
        let document = read(&stats.to_payload());
        assert_eq!(document["nacks"], json!({"DEVICE_UNREGISTERED": 2}));
        assert_eq!((&document["acks"], &document["upstream"]), (&json!(3), &json!(0)));
        assert_eq!(document.get("sessions"), None);
        let stats = BridgeStats { sessions: Some(4), ..stats };
        assert_eq!(read(&stats.to_payload())["sessions"], 4);
    }

    #[test]
    fn events_have_a_name_a_time_and_no_token() {
        let id = SidSource::default().next(1_700_000_000_000, 1);
        let connected = BridgeEvent::Connected { transport: "ccs".to_owned(), connection: 3 };
        let expected = json!({"event": "connected", "transport": "ccs", "connection": 3, "ts": 5});
        assert_eq!(read(&connected.to_payload(5)), expected);
        let no_route = BridgeEvent::NoRoute { id, category: None };
        let expected = json!({"event": "no_route", "code": "NO_ROUTE", "id": id.to_string(), "ts": 5});
        assert_eq!(read(&no_route.to_payload(5)), expected);
        let token = Token::new("secret").unwrap();
        let removed = BridgeEvent::TokenRemoved { token, code: "DEVICE_UNREGISTERED".to_owned() };
        let expected = json!({
            "event": "token_removed", "token_hash": short_hash("secret"), "code": "DEVICE_UNREGISTERED", "ts": 5,
        });
        assert_eq!(read(&removed.to_payload(5)), expected);
    }
}
