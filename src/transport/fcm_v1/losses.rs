//! What messages lose on their way to v1: to the log once, and to the sender with each message that it concerns.

use crate::chat::status::DETAIL_MAX;
use crate::fcm::loss::{LOSSES_MAX, Loss, Why};
use std::collections::HashSet;

/// Most different losses that are remembered as told. Fields are named by applications, so there is no end to them.
const TOLD_MAX: usize = 256;
/// Longest name of a field that a sender is told, in characters; of a longer one the beginning.
const NAME_MAX: usize = 64;
/// What the count of the fields that are not named takes at most, in characters.
const COUNT_MAX: usize = "; and at least 99 more".len();

/// About the keys that the bridge itself adds to `data`: no field of the sender's is concerned.
const OF_OWN_KEYS: [Why; 3] = [Why::ID_IN_DATA, Why::APP_CONFIRMS, Why::NO_RECEIPTS];

/// What the log has been told already.
#[derive(Debug, Default)]
pub(super) struct LoggedLosses {
    told: HashSet<Loss>,
}

impl LoggedLosses {
    /// Takes note of what one message loses. Returns what its sender is to hear of it: what does not travel at all.
    pub(super) fn note(&mut self, losses: Vec<Loss>) -> Option<String> {
        let dropped = summary(&losses);
        for loss in losses.into_iter().filter(|loss| !OF_OWN_KEYS.contains(&loss.why)) {
            if self.told.len() < TOLD_MAX && !self.told.contains(&loss) {
                tracing::info!(field = %loss.field, why = %loss.why, "field of a message without an equal in v1; not said again");
                self.told.insert(loss);
            }
        }
        dropped
    }
}

/// The fields that do not travel, each reason once, within [`DETAIL_MAX`]; those that find no place are counted.
fn summary(losses: &[Loss]) -> Option<String> {
    let mut groups: Vec<(Why, Vec<String>)> = Vec::new();
    let (mut length, mut more) = (0, 0);
    for loss in losses.iter().filter(|loss| loss.why.is_dropped()) {
        let name = quoted(&loss.field);
        let group = groups.iter().position(|(why, _)| *why == loss.why);
        // ", " before the name, or ": " behind the name and "; " before it.
        let words = group.map_or_else(|| loss.why.to_string().chars().count() + 4, |_| 2);
        let longer = length + words + name.chars().count();
        if longer + COUNT_MAX > DETAIL_MAX {
            more += 1;
            continue;
        }
        length = longer;
        match group.and_then(|place| groups.get_mut(place)) {
            Some((_, names)) => names.push(name),
            None => groups.push((loss.why, vec![name])),
        }
    }
    let mut parts: Vec<String> = groups.iter().map(|(why, names)| format!("{}: {why}", names.join(", "))).collect();
    if more > 0 {
        // Beyond those nobody counts.
        let least = if losses.len() < LOSSES_MAX { "" } else { "at least " };
        parts.push(format!("and {least}{more} more"));
    }
    (!parts.is_empty()).then(|| parts.join("; "))
}

/// A field's name, as messages to humans have it.
fn quoted(name: &str) -> String {
    match name.char_indices().nth(NAME_MAX) {
        Some((end, _)) => format!("`{}...`", &name[..end]),
        None => format!("`{name}`"),
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
        let mut logged_losses = LoggedLosses::default();
        let losses = || {
            vec![loss("delay_while_idle", Why::IGNORED), loss("message_id", Why::ID_IN_DATA), loss("x", Why::UNKNOWN)]
        };
        for _ in 0..2 {
            let dropped = logged_losses.note(losses()).unwrap();
            assert!(dropped.starts_with("`delay_while_idle`: ignored since 2016"), "{dropped}");
            assert!(dropped.contains("; `x`: unknown in v1") && !dropped.contains("message_id"), "{dropped}");
            assert_eq!(logged_losses.told.len(), 2);
        }
        assert_eq!(logged_losses.note(vec![loss("message_id", Why::ID_IN_DATA)]), None);
    }

    #[test]
    fn the_log_hears_nothing_of_the_keys_that_the_bridge_adds() {
        let mut logged_losses = LoggedLosses::default();
        for (field, why) in
            [("data.mid", Why::ID_IN_DATA), ("data.ack", Why::APP_CONFIRMS), ("data.ack", Why::NO_RECEIPTS)]
        {
            assert_eq!(logged_losses.note(vec![loss(field, why)]), None);
        }
        assert!(logged_losses.told.is_empty());
        // A key that the sender gave is its own field.
        assert!(logged_losses.note(vec![loss("data.mid", Why::KEY_TAKEN)]).is_some());
        assert_eq!(logged_losses.told.len(), 1);
    }

    #[test]
    fn each_reason_is_told_once_and_what_finds_no_place_is_counted() {
        let unknown = |count: usize| (0..count).map(|n| loss(&format!("a{n}"), Why::UNKNOWN)).collect::<Vec<_>>();
        let told = summary(&unknown(3)).unwrap();
        assert_eq!(told, format!("`a0`, `a1`, `a2`: {}", Why::UNKNOWN));
        let mut many = unknown(4);
        many.insert(2, loss("delay_while_idle", Why::IGNORED));
        let told = summary(&many).unwrap();
        assert_eq!(told, format!("`a0`, `a1`, `a2`, `a3`: {}; `delay_while_idle`: {}", Why::UNKNOWN, Why::IGNORED));
        let told = summary(&unknown(LOSSES_MAX - 1)).unwrap();
        let named = told.matches("`a").count();
        assert!(named > 15 && told.ends_with(&format!("; and {} more", LOSSES_MAX - 1 - named)), "{told}");
        let told = summary(&unknown(LOSSES_MAX)).unwrap();
        assert!(told.ends_with(&format!("; and at least {} more", LOSSES_MAX - named)), "{told}");
    }

    #[test]
    fn no_name_is_too_long_to_be_told() {
        for name in ["x".repeat(5_000), "\u{e9}".repeat(5_000)] {
            let told = summary(&[loss(&name, Why::UNKNOWN), loss("y", Why::UNKNOWN)]).unwrap();
            assert!(told.chars().count() <= DETAIL_MAX && told.contains("...`, `y`: unknown"), "{told}");
        }
    }

    #[test]
    fn invented_fields_do_not_fill_the_memory() {
        let mut logged_losses = LoggedLosses::default();
        for number in 0..TOLD_MAX + 10 {
            logged_losses.note(vec![loss(&number.to_string(), Why::UNKNOWN)]);
        }
        assert_eq!(logged_losses.told.len(), TOLD_MAX);
    }
}
