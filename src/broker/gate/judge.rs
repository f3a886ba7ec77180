//! What a client may ask for, as far as sizes go: topics, filters, and how many of them. Pure.
//!
//! The engine has no such limits. Where MQTT has an answer for a refusal, the client gets it and stays; where it has
//! none, the connection ends.

use std::ops::Range;

use super::super::frames::{FiltersFault, Frame, Kind, Version};
use super::super::refusals::Refusal;

const PUBACK: u8 = 0x40;
const PUBREC: u8 = 0x50;
/// Topics of the broker itself, on which a bridge of mosquitto says how it is.
const SYS: &[u8] = b"$SYS";
/// A filter that the engine refuses with 0x8F (topic filter invalid; 3.1.1: 0x80) because `#` must come last
/// [MQTT-4.7.1-1]. It takes the place of one that we refuse, so that all the others of the packet are served.
pub(in crate::broker) const REFUSED_FILTER: &str = "#/";
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
    /// The engine gets it without the filters that are over a limit, which stood in these places.
    Trimmed(Frame, Vec<Range<usize>>),
    /// The engine never sees it; this acknowledgement answers it, if there is one.
    Refuse(Option<Frame>, Refusal),
    /// The connection ends.
    End(Refusal),
}

/// Looks at one packet.
pub(super) fn judge(frame: Frame, version: Version, limits: &TopicLimits) -> Verdict {
    match frame.kind() {
        Kind::Connect => judge_connect(frame, limits),
        Kind::Publish => judge_publish(frame, version, limits),
        Kind::Subscribe | Kind::Unsubscribe => judge_filters(frame, version, limits),
        _ => Verdict::Pass(frame),
    }
}

fn judge_connect(frame: Frame, limits: &TopicLimits) -> Verdict {
    match frame.hello().and_then(|hello| hello.will_topic) {
        Some(topic) if !limits.allow(topic.as_bytes()) => Verdict::End(Refusal::TopicLimit),
        _ => Verdict::Pass(frame),
    }
}

fn judge_publish(frame: Frame, version: Version, limits: &TopicLimits) -> Verdict {
    let Some(publish) = frame.publish(version) else {
        return Verdict::Pass(frame);
    };
    let kind = if frame.qos() == 1 { PUBACK } else { PUBREC };
    let answer = |id: u16, code: &[u8]| Frame::new(kind, &[&id.to_be_bytes(), code].concat());
    match (limits.allow(publish.topic), version, publish.id) {
        // 3.1.1 has no word for a refusal but the end of the connection, and a bridge of mosquitto would come back only to
        // say the same again.
        (true, Version::V311, id) if is_of_the_broker(publish.topic) => {
            Verdict::Refuse(id.map(|id| answer(id, &[])), Refusal::SysTopic)
        }
        (true, ..) => Verdict::Pass(frame),
        (false, Version::V5, Some(id)) => {
            let refusal = Refusal::TopicLimit;
            Verdict::Refuse(Some(answer(id, &[refusal.code()])), refusal)
        }
        (false, ..) => Verdict::End(Refusal::TopicLimit),
    }
}

/// Whether the topic is [`SYS`] or below it.
fn is_of_the_broker(topic: &[u8]) -> bool {
    topic.strip_prefix(SYS).is_some_and(|rest| rest.is_empty() || rest.starts_with(b"/"))
}

fn judge_filters(frame: Frame, version: Version, limits: &TopicLimits) -> Verdict {
    let mut refused = match frame.filters(version, limits.filters) {
        Ok(places) => places,
        Err(FiltersFault::Malformed) => return Verdict::Pass(frame),
        Err(FiltersFault::TooMany) => return Verdict::End(Refusal::FilterCount),
    };
    refused.retain(|place| !limits.allow(&frame.bytes()[place.clone()]));
    if refused.is_empty() {
        return Verdict::Pass(frame);
    }
    Verdict::Trimmed(frame.with_filters_replaced(&refused, REFUSED_FILTER.as_bytes()), refused)
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
        let answer = |first, code| Verdict::Refuse(Some(Frame::new(first, &[0, 9, code])), Refusal::TopicLimit);
        assert_eq!(judge(publish(Version::V5, 1, long), Version::V5, &LIMITS), answer(0x40, 0x90));
        assert_eq!(judge(publish(Version::V5, 2, long), Version::V5, &LIMITS), answer(0x50, 0x90));
        let end = Verdict::End(Refusal::TopicLimit);
        assert_eq!(judge(publish(Version::V5, 0, long), Version::V5, &LIMITS), end);
        for qos in 0..3 {
            assert_eq!(judge(publish(Version::V311, qos, long), Version::V311, &LIMITS), end);
        }
    }

    #[test]
    fn what_3_1_1_says_on_a_topic_of_the_broker_is_acknowledged_and_dropped() {
        for topic in ["$SYS", "$SYS/x", "$SYS/"] {
            let dropped = |qos| judge(publish(Version::V311, qos, topic.as_bytes()), Version::V311, &LIMITS);
            assert_eq!(dropped(0), Verdict::Refuse(None, Refusal::SysTopic));
            assert_eq!(dropped(1), Verdict::Refuse(Some(Frame::new(0x40, &[0, 9])), Refusal::SysTopic));
            assert_eq!(dropped(2), Verdict::Refuse(Some(Frame::new(0x50, &[0, 9])), Refusal::SysTopic));
            // MQTT 5 has a reason code, with which the access rules answer.
            let publish = publish(Version::V5, 1, topic.as_bytes());
            assert_eq!(judge(publish.clone(), Version::V5, &LIMITS), Verdict::Pass(publish));
        }
        for topic in ["$SYSTEM/x", "a/$SYS", "$sys/x"] {
            let publish = publish(Version::V311, 1, topic.as_bytes());
            assert_eq!(judge(publish.clone(), Version::V311, &LIMITS), Verdict::Pass(publish), "{topic}");
        }
    }

    #[test]
    fn filters_over_a_limit_are_replaced_and_the_others_stay() {
        for version in [Version::V311, Version::V5] {
            let asked = subscribe(version, &[b"a", b"a/b/c/d", b"123456789012345678901"]);
            let served = subscribe(version, &[b"a", b"#/", b"#/"]);
            let Verdict::Trimmed(frame, places) = judge(asked.clone(), version, &LIMITS) else {
                panic!("not trimmed");
            };
            let replaced: Vec<_> = places.into_iter().map(|place| &asked.bytes()[place]).collect();
            assert_eq!(replaced, [&b"a/b/c/d"[..], b"123456789012345678901"]);
            assert_eq!(frame, served);
            let mut framer = Framer::new(1000);
            framer.push(frame.bytes());
            assert_eq!(framer.next_frame(), Ok(Some(frame)), "the length is that of the new packet");
        }
    }

    #[test]
    fn too_many_filters_end_the_connection() {
        let many: &[&[u8]] = &[b"a", b"b", b"c", b"d"];
        for version in [Version::V311, Version::V5] {
            let end = Verdict::End(Refusal::FilterCount);
            assert_eq!(judge(subscribe(version, many), version, &LIMITS), end);
        }
    }

    #[test]
    fn a_will_over_a_limit_keeps_its_client_out() {
        let long = b"123456789012345678901";
        for version in [Version::V311, Version::V5] {
            let end = Verdict::End(Refusal::TopicLimit);
            assert_eq!(judge(connect(version, Some(long)), version, &LIMITS), end);
        }
    }
}
