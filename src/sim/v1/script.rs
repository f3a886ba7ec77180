//! Tokens that say what becomes of messages to them: `sim-{word}[+SECONDS|@SECONDS][~MILLISECONDS]:{anything}`.
//!
//! The word is one of [`FaultKind`]. `+` puts a `Retry-After` in seconds into the answer and `@` one as a date; `~` makes
//! the answer late. `sim-unavailable+7:alice` gives 503 with `Retry-After: 7`; `sim-accept~2000:bob` is taken and
//! answered after two seconds; `sim-unregistered:carol` is dead.

use super::fault::RetryAfter;
use super::fault_kind::FaultKind;

const MARK: &str = "sim-";

/// What is to become of a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Script {
    /// What goes wrong.
    pub kind: FaultKind,
    /// What the answer says about trying again.
    pub retry_after: RetryAfter,
    /// How much later than usual the answer comes, in milliseconds.
    pub delay_ms: u64,
}

impl Script {
    /// What `token` says; `None` for an ordinary one.
    pub fn of(token: &str) -> Option<Self> {
        let (head, _) = token.strip_prefix(MARK)?.split_once(':')?;
        let (head, delay_ms) = match head.split_once('~') {
            Some((head, delay)) => (head, delay.parse().ok()?),
            None => (head, 0),
        };
        let (word, retry_after) = match (head.split_once('+'), head.split_once('@')) {
            (Some((word, seconds)), _) => (word, RetryAfter::Seconds(seconds.parse().ok()?)),
            (None, Some((word, seconds))) => (word, RetryAfter::Date(seconds.parse().ok()?)),
            (None, None) => (head, RetryAfter::Absent),
        };
        Some(Self { kind: FaultKind::of(word)?, retry_after, delay_ms })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_token_says_what_it_wants() {
        let script = |kind, retry_after, delay_ms| Some(Script { kind, retry_after, delay_ms });
        for (token, wanted) in [
            ("sim-unregistered:x", script(FaultKind::Unregistered, RetryAfter::Absent, 0)),
            ("sim-unavailable+7:x", script(FaultKind::Unavailable, RetryAfter::Seconds(7), 0)),
            ("sim-device-quota@60~5:x:y", script(FaultKind::DeviceQuota, RetryAfter::Date(60), 5)),
            ("sim-accept~2000:", script(FaultKind::Accept, RetryAfter::Absent, 2_000)),
        ] {
            assert_eq!(Script::of(token), wanted, "{token}");
        }
        for token in ["", "sim-", "sim-unregistered", "sim-sunshine:x", "sim-internal+x:y", "APA91b:sim-internal:"] {
            assert_eq!(Script::of(token), None, "{token}");
        }
    }
}
