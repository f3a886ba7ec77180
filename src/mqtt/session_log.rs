//! What is said when a broker does not keep the bridge's session as asked. Pure, but for the log.

use super::Notice;
use super::link::Terms;
use tracing::warn;

/// What the connections before said.
#[derive(Debug, Default)]
pub(super) struct SessionLog {
    /// There was a connection, so the broker should have its session.
    was_connected: bool,
    /// How long the broker said it keeps it, if that was told.
    short: Option<u32>,
}

impl SessionLog {
    /// A connection was made; what to tell.
    pub(super) fn connected(&mut self, terms: &Terms, asked: u32, broker: &str) -> Vec<Notice> {
        let mut notices = Vec::new();
        let is_lost = std::mem::replace(&mut self.was_connected, true) && !terms.session_present;
        if is_lost {
            warn!(
                broker,
                "the broker has not kept the bridge's session: what clients published while the bridge was away, or was not \
                 acknowledged, is lost unless they publish it again"
            );
            notices.push(Notice::SessionLost);
        }
        let short = terms.session_expiry.filter(|seconds| *seconds < asked);
        if let Some(seconds) = short
            && self.short != short
        {
            warn!(
                broker,
                seconds,
                asked,
                "the broker keeps the bridge's session for less time than asked for: what clients publish is \
                 lost when the bridge is away for longer"
            );
            notices.push(Notice::SessionShort { seconds, asked });
        }
        self.short = short;
        notices
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mqtt::link::Retain;

    #[test]
    fn a_session_that_is_lost_or_short_is_told_of_and_a_new_one_is_not() {
        let terms = |session_present, session_expiry| Terms {
            session_present,
            session_expiry,
            receive_maximum: 1,
            max_packet_bytes: 1,
            retain: Retain::Kept,
        };
        let mut log = SessionLog::default();
        let mut told = |present, expiry| log.connected(&terms(present, expiry), 100, "broker");
        assert_eq!(told(false, None), [], "the first connection makes it");
        assert_eq!(told(true, Some(100)), []);
        assert_eq!(told(false, None), [Notice::SessionLost]);
        assert_eq!(told(true, Some(0)), [Notice::SessionShort { seconds: 0, asked: 100 }]);
        assert_eq!(told(true, Some(0)), [], "it was told");
        assert_eq!(told(false, Some(9)), [Notice::SessionLost, Notice::SessionShort { seconds: 9, asked: 100 }]);
    }
}
