//! A message with several deliveries: what they come to together, and what its sender is told of that.
//!
//! Pure, and beside [`super::delivery`], which is the life of each of them: a fault of one changes nothing for the others.
//! The sender hears of the first that was sent, of the first that was delivered, and, if none ever is, of the end of the
//! last. Each status is told once, and their rank only rises.

use super::delivery::{EXPIRED, Life, State};
use super::status::Status;
use serde::{Deserialize, Serialize};

/// How many of a message's deliveries stand where, and the last status that its sender was told. Its JSON is its form on
/// disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct FanOut {
    told: Status,
    /// Still to be pushed: due, waiting or in flight.
    #[serde(default, skip_serializing_if = "is_zero")]
    to_push: u32,
    /// Still to be taken out of an inbox, or to be put there.
    #[serde(default, skip_serializing_if = "is_zero")]
    to_read: u32,
    /// Taken by a push service; the receipt is still to come.
    #[serde(default, skip_serializing_if = "is_zero")]
    pushed: u32,
    /// Taken out of an inbox by a broker; the receipt of its reader is still to come.
    #[serde(default, skip_serializing_if = "is_zero")]
    taken: u32,
    /// Sent, and nothing more will be heard of it.
    #[serde(default, skip_serializing_if = "is_zero")]
    sent: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    delivered: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    failed: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    expired: u32,
    #[serde(default, skip_serializing_if = "is_zero")]
    cancelled: u32,
}

/// By what a delivery reaches its recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// A push service.
    Push,
    /// An inbox, where a client reads it.
    Inbox,
}

impl FanOut {
    /// A message whose deliveries are all still to be done.
    pub fn new(pushes: u32, inboxes: u32) -> Self {
        Self {
            told: Status::Accepted,
            to_push: pushes,
            to_read: inboxes,
            pushed: 0,
            taken: 0,
            sent: 0,
            delivered: 0,
            failed: 0,
            expired: 0,
            cancelled: 0,
        }
    }

    /// One of them was `from` and is `to` now. Returns what to tell the sender, in this order.
    pub fn moved(&mut self, by: By, from: Life, to: Life) -> &'static [Status] {
        let was = self.count(by, from);
        *was = was.saturating_sub(1);
        *self.count(by, to) += 1;
        let news: &[Status] = match (to.state, self.told) {
            (State::Delivered, Status::Accepted) => &[Status::Sent, Status::Delivered],
            (State::Delivered, Status::Sent) => &[Status::Delivered],
            (State::Sent, Status::Accepted) => &[Status::Sent],
            _ => self.last_word(),
        };
        self.told = news.last().copied().unwrap_or(self.told);
        news
    }

    /// What all of them have come to, if they have come to nothing: then one is told that was not before. What was sent,
    /// and of which nothing more will be heard, has arrived as far as anybody knows.
    fn last_word(&self) -> &'static [Status] {
        if !self.settled() || self.delivered > 0 || self.sent > 0 {
            &[]
        } else if self.expired > 0 {
            &[Status::Expired]
        } else if self.failed > 0 {
            &[Status::Failed]
        } else {
            &[Status::Cancelled]
        }
    }

    fn count(&mut self, by: By, life: Life) -> &mut u32 {
        match (life.state, by) {
            (State::Due | State::Waiting | State::InFlight, By::Push) => &mut self.to_push,
            (State::Due | State::Waiting | State::InFlight, By::Inbox) => &mut self.to_read,
            (State::Sent, _) if life.settled() => &mut self.sent,
            (State::Sent, By::Push) => &mut self.pushed,
            (State::Sent, By::Inbox) => &mut self.taken,
            (State::Delivered, _) => &mut self.delivered,
            (State::Failed, _) => &mut self.failed,
            (State::Expired, _) => &mut self.expired,
            (State::Cancelled, _) => &mut self.cancelled,
        }
    }

    /// Whether the final word is spoken of each of them. `delivered` may have been told long before.
    pub fn settled(&self) -> bool {
        self.to_push == 0 && self.to_read == 0 && self.pushed == 0 && self.taken == 0
    }

    /// Whether the next message of its order key waits for it: as long as a push is open and no final status was told. An
    /// inbox may lie unread for ever, so nothing waits for one.
    pub fn holds_order(&self) -> bool {
        (self.to_push > 0 || self.pushed > 0) && matches!(self.told, Status::Accepted | Status::Sent)
    }

    /// Whether any is still to be pushed.
    pub fn pushes(&self) -> bool {
        self.to_push > 0
    }

    /// Whether any of them still needs what the message says.
    pub fn unsent(&self) -> bool {
        self.to_push > 0 || self.to_read > 0
    }

    /// The last status that was told.
    pub fn status(&self) -> Status {
        self.told
    }

    /// Why it failed or expired, for its sender: the code, of which `failure` is that of the delivery that failed last; and
    /// how many did.
    pub fn reason<'a>(&self, failure: Option<&'a str>) -> (Option<&'a str>, String) {
        let code = if self.told == Status::Expired { Some(EXPIRED) } else { failure };
        let all = self.failed + self.expired + self.cancelled;
        (code, format!("of {all} deliveries {} failed and {} expired", self.failed, self.expired))
    }
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::delivery::{Event, Fate, Life};
    use crate::chat::refusal::{Decision, Refusal, RetryClock};
    use proptest::prelude::*;
    use std::time::Duration;

    /// One of which a receipt is wished.
    fn life(state: State) -> Life {
        Life::new(state, true)
    }

    /// Moves one of which a receipt is wished.
    fn move_one(fan_out: &mut FanOut, by: By, from: State, to: State) -> &'static [Status] {
        fan_out.moved(by, life(from), life(to))
    }

    /// Moves pushes of a message in this order, each out of flight; returns all that is told.
    fn run(receipt: bool, pushes: u32, ends: &[State]) -> (FanOut, Vec<Status>) {
        let mut fan_out = FanOut::new(pushes, 0);
        let life = |state| Life::new(state, receipt);
        let told = ends.iter().flat_map(|to| fan_out.moved(By::Push, life(State::InFlight), life(*to)));
        let told = told.copied().collect();
        (fan_out, told)
    }

    #[test]
    fn the_first_of_each_kind_is_told_and_no_other() {
        let mut fan_out = FanOut::new(2, 1);
        assert_eq!(move_one(&mut fan_out, By::Push, State::InFlight, State::Failed), []);
        assert_eq!(move_one(&mut fan_out, By::Inbox, State::InFlight, State::Sent), [Status::Sent]);
        assert_eq!(move_one(&mut fan_out, By::Push, State::InFlight, State::Sent), []);
        assert!(!fan_out.unsent() && !fan_out.settled());
        assert_eq!(move_one(&mut fan_out, By::Push, State::Sent, State::Delivered), [Status::Delivered]);
        assert!(!fan_out.settled(), "one may still be delivered");
        assert_eq!(move_one(&mut fan_out, By::Inbox, State::Sent, State::Expired), []);
        assert!(fan_out.settled());
        assert_eq!(fan_out.status(), Status::Delivered);
    }

    #[test]
    fn delivered_tells_that_it_was_sent_unless_that_was_told() {
        assert_eq!(run(true, 2, &[State::Delivered, State::Delivered]).1, [Status::Sent, Status::Delivered]);
    }

    #[test]
    fn where_none_is_delivered_the_end_of_the_last_is_the_last_word() {
        use State::{Cancelled, Expired, Failed, Sent};
        for (ends, told) in [
            (&[Failed, Failed][..], Status::Failed),
            (&[Failed, Expired], Status::Expired),
            (&[Expired, Failed], Status::Expired),
            (&[Failed, Cancelled], Status::Failed),
            (&[Cancelled, Cancelled], Status::Cancelled),
        ] {
            assert_eq!(run(true, 2, &ends[..1]).1, [], "one is open");
            assert_eq!(run(true, 2, ends).1, [told], "{ends:?}");
        }
        let (fan_out, told) = run(false, 2, &[Sent, Failed]);
        assert_eq!((told, fan_out.settled()), (vec![Status::Sent], true), "no receipt was wished");
        let (mut fan_out, _) = run(true, 2, &[Sent, Failed]);
        assert_eq!(move_one(&mut fan_out, By::Push, Sent, Expired), [Status::Expired]);
        assert_eq!(fan_out.reason(Some("X")), (Some("EXPIRED"), "of 2 deliveries 1 failed and 1 expired".to_owned()));
        let (fan_out, _) = run(true, 3, &[Failed, Cancelled, Failed]);
        assert_eq!(fan_out.reason(Some("X")), (Some("X"), "of 3 deliveries 2 failed and 0 expired".to_owned()));
    }

    #[test]
    fn each_delivery_has_its_own_wish_for_a_receipt() {
        let mut fan_out = FanOut::new(2, 0);
        let silent = |state| Life::new(state, false);
        assert_eq!(fan_out.moved(By::Push, silent(State::InFlight), silent(State::Sent)), [Status::Sent]);
        assert_eq!(move_one(&mut fan_out, By::Push, State::InFlight, State::Sent), []);
        assert!(!fan_out.settled(), "the other may still be delivered");
        assert_eq!(move_one(&mut fan_out, By::Push, State::Sent, State::Expired), []);
        assert!(fan_out.settled());
        assert_eq!(fan_out.status(), Status::Sent, "one was sent, and nothing more will be heard of it");
    }

    #[test]
    fn the_next_of_an_order_key_waits_for_pushes_until_a_final_status_and_for_no_inbox() {
        assert!(!FanOut::new(0, 2).holds_order());
        let mut fan_out = FanOut::new(1, 1);
        assert!(fan_out.holds_order());
        move_one(&mut fan_out, By::Push, State::InFlight, State::Sent);
        assert!(fan_out.holds_order(), "its receipt is still to come");
        move_one(&mut fan_out, By::Push, State::Sent, State::Expired);
        assert!(!fan_out.holds_order() && !fan_out.settled());
        let mut fan_out = FanOut::new(2, 1);
        move_one(&mut fan_out, By::Inbox, State::InFlight, State::Sent);
        assert!(fan_out.holds_order());
        move_one(&mut fan_out, By::Inbox, State::Sent, State::Delivered);
        assert!(!fan_out.holds_order() && fan_out.pushes());
    }

    #[test]
    fn the_stored_form_never_changes() {
        let mut fan_out = FanOut::new(4, 2);
        let stored = r#"{"told":"accepted","to_push":4,"to_read":2}"#;
        assert_eq!(serde_json::to_string(&fan_out).unwrap(), stored);
        move_one(&mut fan_out, By::Inbox, State::InFlight, State::Sent);
        move_one(&mut fan_out, By::Push, State::InFlight, State::Sent);
        fan_out.moved(By::Inbox, Life::new(State::InFlight, false), Life::new(State::Sent, false));
        let stored = r#"{"told":"sent","to_push":3,"pushed":1,"taken":1,"sent":1}"#;
        assert_eq!(serde_json::to_string(&fan_out).unwrap(), stored);
        move_one(&mut fan_out, By::Inbox, State::Sent, State::Delivered);
        move_one(&mut fan_out, By::Push, State::InFlight, State::Failed);
        move_one(&mut fan_out, By::Push, State::Due, State::Expired);
        move_one(&mut fan_out, By::Push, State::Waiting, State::Cancelled);
        let stored = r#"{"told":"delivered","pushed":1,"sent":1,"delivered":1,"failed":1,"expired":1,"cancelled":1}"#;
        assert_eq!(serde_json::to_string(&fan_out).unwrap(), stored);
        assert_eq!(serde_json::from_str::<FanOut>(stored).unwrap(), fan_out);
    }

    fn any_event() -> impl Strategy<Value = Event> {
        let clock = RetryClock { now_ms: 1_000, deadline_ms: 100_000, longest: Duration::from_secs(60), permille: 0 };
        let back = move |fate| Event::Back { fate, copies: 1, replays: 0, clock };
        prop_oneof![
            3 => Just(Event::Claimed),
            3 => Just(back(Fate::ACCEPTED)),
            2 => Just(Event::RECEIPT),
            1 => Just(back(Fate::Refused(Refusal::new(Decision::FAIL, "X", "")))),
            1 => Just(back(Fate::Lost)),
            1 => Just(Event::Turn),
            1 => Just(Event::Expired),
            1 => Just(Event::Cancelled),
            1 => Just(Event::Crashed),
        ]
    }

    proptest! {
        #[test]
        fn what_is_told_rises_once_and_is_what_the_deliveries_have_come_to(
            to in prop::collection::vec((prop_oneof![Just(By::Push), Just(By::Inbox)], any::<bool>()), 1..5),
            events in prop::collection::vec((0usize..4, any_event()), 0..60),
        ) {
            let count = |which| to.iter().filter(|(by, _)| *by == which).count() as u32;
            let mut fan_out = FanOut::new(count(By::Push), count(By::Inbox));
            let mut lives: Vec<_> = to.iter().map(|(_, receipt)| Life::new(State::Waiting, *receipt)).collect();
            let mut held = fan_out.holds_order();
            let mut told = vec![Status::Accepted];
            for (which, event) in &events {
                let which = which % lives.len();
                let Some(step) = lives[which].step(event) else { continue };
                prop_assert!(!fan_out.settled());
                told.extend(fan_out.moved(to[which].0, lives[which], step.life));
                lives[which] = step.life;
                prop_assert!(held || !fan_out.holds_order(), "a turn that was given is not taken back");
                held = fan_out.holds_order();
            }
            prop_assert!(told.windows(2).all(|pair| pair[0].rank() < pair[1].rank()), "{told:?}");
            prop_assert_eq!(fan_out.settled(), lives.iter().all(|life| life.settled()));
            prop_assert_eq!(fan_out.unsent(), lives.iter().any(|life| life.unsent()));
            let push = |open: fn(Life) -> bool| lives.iter().zip(&to).any(|(life, (by, _))| *by == By::Push && open(*life));
            prop_assert_eq!(fan_out.pushes(), push(Life::unsent));
            prop_assert_eq!(fan_out.status(), *told.last().unwrap());
            let any = |state| lives.iter().any(|life| life.state == state);
            prop_assert_eq!(held, push(|life| !life.settled()) && !any(State::Delivered));
            let expected = if any(State::Delivered) {
                Status::Delivered
            } else if !fan_out.settled() || any(State::Sent) {
                if told.contains(&Status::Sent) { Status::Sent } else { Status::Accepted }
            } else if any(State::Expired) {
                Status::Expired
            } else if any(State::Failed) {
                Status::Failed
            } else {
                Status::Cancelled
            };
            prop_assert_eq!(fan_out.status(), expected);
            prop_assert!(!any(State::Sent) || told.contains(&Status::Sent));
        }
    }
}
