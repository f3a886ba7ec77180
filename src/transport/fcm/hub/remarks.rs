//! What messages lose on their way to v1: to the log once, and to the sender with each message that it concerns.

use crate::fcm::loss::Loss;
use std::collections::HashSet;

/// Most different losses that are remembered as told. Fields are named by applications, so there is no end to them.
const TOLD_MAX: usize = 256;

/// What the log has been told already.
#[derive(Debug, Default)]
pub(super) struct Remarks {
    told: HashSet<Loss>,
}

impl Remarks {
    /// Takes note of what one message loses. Returns what its sender is to hear of it: what does not travel at all.
    pub(super) fn note(&mut self, losses: Vec<Loss>) -> Option<String> {
        let mut dropped = String::new();
        for loss in losses {
            if loss.why.is_dropped() {
                let separator = if dropped.is_empty() { "" } else { "; " };
                dropped.push_str(separator);
                dropped.push_str(&loss.to_string());
            }
            if self.told.len() < TOLD_MAX && !self.told.contains(&loss) {
                tracing::info!(field = %loss.field, why = %loss.why, "field of a message without an equal in v1; not said again");
                self.told.insert(loss);
            }
        }
        (!dropped.is_empty()).then_some(dropped)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fcm::loss::Why;

    fn loss(field: &str, why: Why) -> Loss {
        Loss { field: field.to_owned().into(), why }
    }

    #[test]
    fn the_sender_hears_of_what_does_not_travel_each_time_and_the_log_once() {
        let mut remarks = Remarks::default();
        let losses = || {
            vec![loss("delay_while_idle", Why::IGNORED), loss("message_id", Why::ID_IN_DATA), loss("x", Why::UNKNOWN)]
        };
        for _ in 0..2 {
            let dropped = remarks.note(losses()).unwrap();
            assert!(dropped.starts_with("`delay_while_idle`: ignored since 2016"), "{dropped}");
            assert!(dropped.contains("; `x`: unknown in v1") && !dropped.contains("message_id"), "{dropped}");
            assert_eq!(remarks.told.len(), 3);
        }
        assert_eq!(remarks.note(vec![loss("message_id", Why::ID_IN_DATA)]), None);
    }

    #[test]
    fn invented_fields_do_not_fill_the_memory() {
        let mut remarks = Remarks::default();
        for number in 0..TOLD_MAX + 10 {
            remarks.note(vec![loss(&number.to_string(), Why::UNKNOWN)]);
        }
        assert_eq!(remarks.told.len(), TOLD_MAX);
    }
}
