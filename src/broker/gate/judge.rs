//! What a client may ask for, as far as sizes go: topics, filters, and how many of them. Pure.
//!
//! The engine has no such limits. Where MQTT has an answer for a refusal, the client gets it and stays; where it has
//! none, the connection ends.

use bytes::Bytes;

use super::super::frames::{FiltersFault, Frame, Kind, Version};

/// Reason codes of MQTT 5 (2.4).
const MALFORMED_PACKET: u8 = 0x81;
const TOPIC_NAME_INVALID: u8 = 0x90;
const PACKET_TOO_LARGE: u8 = 0x95;
const QUOTA_EXCEEDED: u8 = 0x97;
const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
const CONNACK: u8 = 0x20;
const DISCONNECT: u8 = 0xe0;
/// A filter that the engine refuses with 0x8F (topic filter invalid; 3.1.1: 0x80) because `#` must come last
/// [MQTT-4.7.1-1]. It takes the place of one that we refuse, so that all the others of the packet are served.
const REFUSED_FILTER: &[u8] = b"#/";
/// What comes before the group name in a filter of a shared subscription. Neither counts as a level.
const SHARED: &[u8] = b"$share/";

/// Limits of topics and filters.
#[derive(Debug, Clone, Copy)]
pub(in crate::broker) struct TopicLimits {
    /// The longest topic or filter, in bytes.
    pub(in crate::broker) bytes: usize,
    /// Levels of a topic or filter.
    pub(in crate::broker) levels: usize,
    /// Filters in one packet.
    pub(in crate::broker) filters: usize,
}

/// What is to be done with a packet of a client.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// The engine gets it.
    Pass(Frame),
    /// The engine gets it without the filters that are over a limit.
    Trimmed(Frame),
    /// The engine never sees it; this acknowledgement answers it.
    Refuse(Frame),
    /// The connection ends, after these words if there are any for it.
    End(Bytes),
}

/// Looks at one packet.
pub(super) fn judge(frame: Frame, version: Version, limits: &TopicLimits) -> Verdict {
    match frame.kind() {
        Kind::Connect => judge_connect(frame, version, limits),
        Kind::Publish => judge_publish(frame, version, limits),
        Kind::Subscribe | Kind::Unsubscribe => judge_filters(frame, version, limits),
        _ => Verdict::Pass(frame),
    }
}

/// The last words to a client whose stream makes no sense.
pub(super) fn malformed(version: Version) -> Bytes {
    disconnect(version, MALFORMED_PACKET)
}

/// The last words to a client whose packet is too big.
pub(super) fn too_large(version: Version) -> Bytes {
    disconnect(version, PACKET_TOO_LARGE)
}

fn judge_connect(frame: Frame, version: Version, limits: &TopicLimits) -> Verdict {
    match frame.will_topic(version) {
        Some(topic) if !limits.allow(topic) => Verdict::End(refused(version, TOPIC_NAME_INVALID)),
        _ => Verdict::Pass(frame),
    }
}

fn judge_publish(frame: Frame, version: Version, limits: &TopicLimits) -> Verdict {
    let Some(publish) = frame.publish(version) else {
        return Verdict::Pass(frame);
    };
    if limits.allow(publish.topic) {
        return Verdict::Pass(frame);
    }
    match (version, publish.id) {
        (Version::V5, Some(id)) => {
            let kind = if frame.qos() == 1 { PUBACK } else { PUBREC };
            let [high, low] = id.to_be_bytes();
            Verdict::Refuse(Frame::new(kind, &[high, low, TOPIC_NAME_INVALID]))
        }
        _ => Verdict::End(disconnect(version, TOPIC_NAME_INVALID)),
    }
}

fn judge_filters(frame: Frame, version: Version, limits: &TopicLimits) -> Verdict {
    let mut refused = match frame.filters(version, limits.filters) {
        Ok(places) => places,
        Err(FiltersFault::Malformed) => return Verdict::Pass(frame),
        Err(FiltersFault::TooMany) => return Verdict::End(disconnect(version, QUOTA_EXCEEDED)),
    };
    refused.retain(|place| !limits.allow(&frame.bytes()[place.clone()]));
    if refused.is_empty() {
        return Verdict::Pass(frame);
    }
    Verdict::Trimmed(frame.with_filters_replaced(&refused, REFUSED_FILTER))
}

/// The answer to a CONNECT that is wrong in itself. No return code of 3.1.1 means that (3.2.2.3).
pub(super) fn refused(version: Version, reason: u8) -> Bytes {
    let (no_session, no_properties) = (0, 0);
    match version {
        Version::V5 => Frame::new(CONNACK, &[no_session, reason, no_properties]).into_bytes(),
        Version::V311 => Bytes::new(),
    }
}

/// A server of 3.1.1 has no DISCONNECT to send.
pub(super) fn disconnect(version: Version, reason: u8) -> Bytes {
    match version {
        Version::V5 => Frame::new(DISCONNECT, &[reason]).into_bytes(),
        Version::V311 => Bytes::new(),
    }
}

impl TopicLimits {
    fn allow(&self, topic: &[u8]) -> bool {
        if topic.len() > self.bytes {
            return false;
        }
        let after_group = |shared: &[u8]| shared.iter().position(|&byte| byte == b'/').map(|at| at + 1);
        let levels = match topic.strip_prefix(SHARED) {
            Some(shared) => &shared[after_group(shared).unwrap_or(0)..],
            None => topic,
        };
        levels.iter().filter(|&&byte| byte == b'/').count() < self.levels
    }
}

#[cfg(test)]
mod tests {
    use super::super::super::frames::Framer;
    use super::*;

    const LIMITS: TopicLimits = TopicLimits { bytes: 20, levels: 3, filters: 3 };

    fn prefixed(field: &[u8]) -> Vec<u8> {
        [&u16::try_from(field.len()).unwrap().to_be_bytes()[..], field].concat()
    }

    fn publish(version: Version, qos: u8, topic: &[u8]) -> Frame {
        let id: &[u8] = if qos == 0 { &[] } else { &[0, 9] };
        let properties: &[u8] = if version == Version::V5 { &[0] } else { &[] };
        Frame::new(0x30 | qos << 1, &[&prefixed(topic), id, properties, b"body"].concat())
    }

    fn subscribe(version: Version, filters: &[&[u8]]) -> Frame {
        let mut body = vec![0, 7];
        if version == Version::V5 {
            body.push(0);
        }
        for filter in filters {
            body.extend(prefixed(filter));
            body.push(1);
        }
        Frame::new(0x82, &body)
    }

    fn connect(version: Version, will: Option<&[u8]>) -> Frame {
        let level = if version == Version::V5 { 5 } else { 4 };
        let mut body = prefixed(b"MQTT");
        body.extend([level, if will.is_some() { 0b110 } else { 0b010 }, 0, 60]);
        if version == Version::V5 {
            body.push(0);
        }
        body.extend(prefixed(b"client"));
        if let Some(topic) = will {
            if version == Version::V5 {
                // A will delay, whose bytes look like a length.
                body.extend([5, 0x18, 0, 1, 0, 1]);
            }
            body.extend(prefixed(topic));
            body.extend(prefixed(b"bye"));
        }
        Frame::new(0x10, &body)
    }

    #[test]
    fn bytes_and_levels_count_without_the_share() {
        for topic in ["", "a/b/c", "12345678901234567890", "$share/group/a/b/c", "$share/a", "$share"] {
            assert!(LIMITS.allow(topic.as_bytes()), "{topic}");
        }
        for topic in ["a/b/c/d", "///", "123456789012345678901", "$share/g/a/b/c/d"] {
            assert!(!LIMITS.allow(topic.as_bytes()), "{topic}");
        }
    }

    #[test]
    fn what_is_within_the_limits_passes_unchanged() {
        for version in [Version::V311, Version::V5] {
            let packets = [
                connect(version, None),
                connect(version, Some(b"a/b/c")),
                publish(version, 0, b"a/b/c"),
                publish(version, 2, b"a"),
                subscribe(version, &[b"a", b"b/#", b"$share/g/a/b/c"]),
                Frame::new(0xc0, &[]),
            ];
            for packet in packets {
                assert_eq!(judge(packet.clone(), version, &LIMITS), Verdict::Pass(packet));
            }
        }
    }

    #[test]
    fn a_publish_over_a_limit_is_refused_or_ends_the_connection() {
        let long = b"a/b/c/d";
        let answer = |first, code| Verdict::Refuse(Frame::new(first, &[0, 9, code]));
        assert_eq!(judge(publish(Version::V5, 1, long), Version::V5, &LIMITS), answer(0x40, 0x90));
        assert_eq!(judge(publish(Version::V5, 2, long), Version::V5, &LIMITS), answer(0x50, 0x90));
        let said = Verdict::End(Bytes::from_static(&[0xe0, 1, 0x90]));
        assert_eq!(judge(publish(Version::V5, 0, long), Version::V5, &LIMITS), said);
        for qos in 0..3 {
            let silent = Verdict::End(Bytes::new());
            assert_eq!(judge(publish(Version::V311, qos, long), Version::V311, &LIMITS), silent);
        }
    }

    #[test]
    fn filters_over_a_limit_are_replaced_and_the_others_stay() {
        for version in [Version::V311, Version::V5] {
            let asked = subscribe(version, &[b"a", b"a/b/c/d", b"123456789012345678901"]);
            let served = subscribe(version, &[b"a", b"#/", b"#/"]);
            let Verdict::Trimmed(frame) = judge(asked, version, &LIMITS) else {
                panic!("not trimmed");
            };
            assert_eq!(frame, served);
            let mut framer = Framer::new(1000);
            framer.push(frame.bytes());
            assert_eq!(framer.next_frame(), Ok(Some(frame)), "the length is that of the new packet");
        }
    }

    #[test]
    fn too_many_filters_end_the_connection() {
        let many: &[&[u8]] = &[b"a", b"b", b"c", b"d"];
        let said = Verdict::End(Bytes::from_static(&[0xe0, 1, 0x97]));
        assert_eq!(judge(subscribe(Version::V5, many), Version::V5, &LIMITS), said);
        assert_eq!(judge(subscribe(Version::V311, many), Version::V311, &LIMITS), Verdict::End(Bytes::new()));
    }

    #[test]
    fn a_will_over_a_limit_keeps_its_client_out() {
        let long = b"123456789012345678901";
        let said = Verdict::End(Bytes::from_static(&[0x20, 3, 0, 0x90, 0]));
        assert_eq!(judge(connect(Version::V5, Some(long)), Version::V5, &LIMITS), said);
        assert_eq!(judge(connect(Version::V311, Some(long)), Version::V311, &LIMITS), Verdict::End(Bytes::new()));
    }
}
