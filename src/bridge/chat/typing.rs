//! Who is writing: passed on while it is true, to those who look, and never stored.

use crate::bridge::context::Context;
use crate::chat::id::Owner;
use crate::chat::suffix::chatstate::{ChatState, PER_SECOND, REPEATED_MS, State};
use crate::chat::topic::inbox_topic;
use crate::mqtt::Outbound;
use crate::ops::clock::now_ms;
use std::collections::HashMap;

/// Most writers of whom it is remembered what they said last. Beyond it all are forgotten: a state may be passed on that is
/// a repetition.
const WRITERS_MAX: usize = 10_000;

/// For how long a state is of use, in milliseconds: a broker that comes back to a reader later drops it.
const OF_USE_MS: u64 = 10_000;

/// What each writer said last, so that repetitions and floods are not passed on.
#[derive(Debug, Default)]
pub(super) struct Typing(HashMap<Owner, Said>);

#[derive(Debug)]
struct Said {
    /// To whom, what, and when, in Unix milliseconds.
    last: (Owner, State, u64),
    /// How many were passed on in the second that began then.
    second: (u64, u32),
}

impl Typing {
    /// Whether a state is to be passed on.
    pub(super) fn passes(&mut self, writer: &Owner, state: &ChatState, now_ms: u64) -> bool {
        if self.0.len() >= WRITERS_MAX && !self.0.contains_key(writer) {
            self.0.clear();
        }
        let last = (state.to.clone(), state.state, now_ms);
        let Some(said) = self.0.get_mut(writer) else {
            self.0.insert(writer.clone(), Said { last, second: (now_ms, 1) });
            return true;
        };
        let (to, what, at) = &said.last;
        if *to == state.to && *what == state.state && now_ms < at.saturating_add(REPEATED_MS) {
            return false;
        }
        if now_ms >= said.second.0.saturating_add(1_000) {
            said.second = (now_ms, 0);
        }
        if said.second.1 >= PER_SECOND {
            return false;
        }
        said.second.1 += 1;
        said.last = last;
        true
    }
}

/// Publishes a state to the devices of its reader that are there now.
pub(super) async fn pass_on(context: &Context, writer: &Owner, reader: &Owner, state: &ChatState) {
    let now = now_ms();
    let attended = context.attentions.attended(reader, now);
    if !attended.any() {
        return;
    }
    let devices = attended.devices.iter().map(|device| device.as_str().into()).collect();
    let (outbound, _outcome) = Outbound::new(inbox_topic(reader, "chatstate"), state.to_payload(writer));
    // If the broker is gone, so is everybody who would look.
    let expires_at = Some(now.saturating_add(OF_USE_MS));
    let _ = context.publish.send(Outbound { qos: 0, devices: Some(devices), expires_at, ..outbound }).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state(to: &str, state: State) -> ChatState {
        ChatState { to: Owner::new(to).unwrap(), state, dev: None }
    }

    #[test]
    fn a_repetition_within_three_seconds_and_the_sixth_of_a_second_are_dropped() {
        let (mut typing, alice) = (Typing::default(), Owner::new("alice").unwrap());
        assert!(typing.passes(&alice, &state("bob", State::Composing), 0));
        assert!(!typing.passes(&alice, &state("bob", State::Composing), REPEATED_MS - 1));
        assert!(typing.passes(&alice, &state("bob", State::Composing), REPEATED_MS));
        let passed = |typing: &mut Typing, n: u64| {
            let what = if n.is_multiple_of(2) { State::Paused } else { State::Composing };
            typing.passes(&alice, &state("bob", what), 10_000 + n)
        };
        assert_eq!((0..20).filter(|n| passed(&mut typing, *n)).count(), PER_SECOND as usize);
        assert!(typing.passes(&alice, &state("carol", State::Active), 11_000));
    }

    #[test]
    fn memory_is_bounded() {
        let mut typing = Typing::default();
        for n in 0..=WRITERS_MAX {
            assert!(typing.passes(&Owner::new(format!("u{n}")).unwrap(), &state("bob", State::Active), 0));
        }
        assert!(typing.0.len() <= WRITERS_MAX);
    }
}
