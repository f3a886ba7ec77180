//! What a broker takes that does not say so, as far as it can be learned. Pure.
//!
//! A broker of MQTT 3.1.1 closes the connection at a packet that is too big for it, without a word, and does so each time the
//! document comes again; nothing else would ever pass. So where several connections in a row are cut with the same document
//! as the biggest one on its way, what is as big counts as too big from then on.

use super::link::Failure;
use std::time::Duration;

/// So many connections in a row are cut before a document is suspected.
const CUTS: u32 = 3;
/// A smaller document is never suspected: brokers take that much, and connections are cut for other reasons, too.
const LEAST_BYTES: usize = 8 * 1024;

/// What is known of the biggest packet that a broker takes.
#[derive(Debug, Default)]
pub(super) struct PacketSuspect {
    /// The biggest publication on its way when the last connection was cut: how many bytes, and on which topic.
    biggest: Option<(usize, String)>,
    cuts: u32,
    most: Option<usize>,
}

impl PacketSuspect {
    /// The longest packet that the broker is thought to take, in bytes; none: any.
    pub(super) fn most(&self) -> Option<usize> {
        self.most
    }

    /// A connection has ended. `biggest`: the biggest publication that it leaves unanswered. `held`: the connection was up
    /// for long, so that the broker may be another one now.
    pub(super) fn ended(&mut self, failure: &Failure, biggest: Option<(usize, String)>, held: bool) {
        if held && self.most.take().is_some() {
            // Once more is enough to know it again.
            self.cuts = CUTS - 1;
        }
        if !matches!(failure, Failure::Network(_) | Failure::Closed(_)) {
            return;
        }
        let Some(biggest) = biggest.filter(|(bytes, _)| *bytes >= LEAST_BYTES) else { return };
        self.cuts = if self.biggest.as_ref() == Some(&biggest) { self.cuts + 1 } else { 1 };
        if self.cuts >= CUTS {
            self.most = Some(biggest.0 - 1);
        }
        self.biggest = Some(biggest);
    }

    /// Whether a connection was up for so long that what it ended with says little of those before.
    pub(super) fn is_long(open: Option<Duration>, retry_max: Duration) -> bool {
        open.is_some_and(|open| open >= 2 * retry_max)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn cut() -> Failure {
        Failure::Network("closed without a word".into())
    }

    fn big(bytes: usize) -> Option<(usize, String)> {
        Some((bytes, "shop/others/messages".to_owned()))
    }

    #[test]
    fn the_document_with_which_three_connections_in_a_row_are_cut_is_too_big() {
        let mut suspect = PacketSuspect::default();
        suspect.ended(&cut(), big(30_000), false);
        suspect.ended(&cut(), big(20_000), false);
        for _ in 0..2 {
            assert_eq!(suspect.most(), None);
            suspect.ended(&cut(), big(20_000), false);
        }
        assert_eq!(suspect.most(), Some(19_999));
        suspect.ended(&cut(), None, false);
        suspect.ended(&Failure::TakenOver, big(10_000), false);
        assert_eq!(suspect.most(), Some(19_999));
    }

    #[test]
    fn after_a_connection_that_held_it_is_tried_once_more() {
        let mut suspect = PacketSuspect::default();
        for _ in 0..3 {
            suspect.ended(&cut(), big(20_000), false);
        }
        suspect.ended(&cut(), None, true);
        assert_eq!(suspect.most(), None);
        suspect.ended(&cut(), big(20_000), false);
        assert_eq!(suspect.most(), Some(19_999));
    }

    #[test]
    fn what_every_broker_takes_is_never_suspected() {
        let mut suspect = PacketSuspect::default();
        for _ in 0..9 {
            suspect.ended(&cut(), big(LEAST_BYTES - 1), false);
        }
        assert_eq!(suspect.most(), None);
    }
}
