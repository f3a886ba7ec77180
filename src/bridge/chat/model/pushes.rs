//! Which phone is pushed for what, what is taken back, and what is cleared.

use super::messages::{Kind, Message};
use super::steps::How;
use super::{DEVICES, GROUP, Model, NAMES, PHONES, USERS, now};
use crate::chat::id::{Owner, Sid};
use crate::chat::refusal::Decision;
use crate::store::tests::{accepted, refused, retry};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What is older is not decided about again after a start.
const UNDECIDED_MS: u64 = 3_600_000;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum State {
    Queued,
    InFlight(Sid),
    Over,
}

#[derive(Debug, Clone)]
pub(super) struct Push {
    /// `None`: a `clear`.
    message: Option<usize>,
    with: usize,
    user: usize,
    dev: usize,
    made_at: u64,
    pub(super) state: State,
    /// The device may show it.
    noted: bool,
    withdrawn: bool,
    /// The bridge was stopped while it was in flight.
    may_have_arrived: bool,
    silent: bool,
    /// It is over, and was not sent.
    unsent: bool,
    /// What it says of all that is unread.
    unread: Option<usize>,
}

impl Push {
    /// What waits goes; what is in flight goes on, and is not sent again. Whether it is sure that no device shows it.
    fn take_back(&mut self) -> bool {
        match self.state {
            State::Queued => {
                self.end_unsent();
                return !self.may_have_arrived;
            }
            State::InFlight(_) => self.withdrawn = true,
            State::Over => {}
        }
        false
    }

    fn end_unsent(&mut self) {
        (self.state, self.noted, self.unsent) = (State::Over, self.noted && self.may_have_arrived, true);
    }

    fn fall_back(&mut self) {
        if self.withdrawn {
            self.end_unsent();
        } else {
            self.state = State::Queued;
        }
    }
}

impl Model {
    pub(super) fn queued(&self) -> u64 {
        self.pushes.iter().filter(|push| push.state != State::Over).count() as u64
    }

    /// What was decided for all devices of a user, whatever they are: nothing is to be pushed.
    fn is_silenced(&self, message: &Message, user: usize) -> bool {
        let is_named = if message.is_of_two() { message.was_named } else { message.named.contains(&user) };
        let is_muted = match self.people[user].mute_level(message.with(user)) {
            "none" => true,
            "mentions" => !is_named,
            _ => false,
        };
        let is_quiet_reaction = message.kind == Kind::Reaction && message.wish != "always";
        message.wish == "never" || self.blocks(user, message.from) || is_muted || is_quiet_reaction
    }

    /// Every device that was not pushed waits, or is pushed now, or has had the push of its absence. Whether some wait.
    pub(super) fn decide(&mut self, which: usize, user: usize) -> bool {
        let message = &mut self.messages[which];
        message.waits.remove(&user);
        message.for_room.remove(&user);
        message.decided_at = now();
        let (wish, with) = (message.wish, message.with(user));
        if self.is_silenced(&self.messages[which], user) {
            return false;
        }
        let is_attended = self.people[user].is_attended() && wish != "always";
        for dev in 0..PHONES {
            let Some((_, wanted)) = self.people[user].devices[dev].registered else { continue };
            if self.messages[which].pushed.contains(&(user, dev)) {
                continue;
            }
            if is_attended {
                self.messages[which].waits.insert(user);
                continue;
            }
            let told = self.people[user].devices[dev].told.is_some_and(|push| !self.pushes[push].unsent);
            if wanted.first && told {
                continue;
            }
            if self.queued() >= self.room {
                self.messages[which].waits.insert(user);
                self.messages[which].for_room.insert(user);
                continue;
            }
            self.messages[which].pushed.insert((user, dev));
            if wanted.first {
                self.people[user].devices[dev].told = Some(self.pushes.len());
            }
            self.queue((Some(which), with), (user, dev), wanted.quiet || wish == "silent");
        }
        self.messages[which].waits.contains(&user)
    }

    fn queue(&mut self, (message, with): (Option<usize>, usize), (user, dev): (usize, usize), silent: bool) {
        let badge = self.people[user].devices[dev].registered.map(|(_, wanted)| wanted.badge);
        let unread = (badge != Some("off")).then(|| self.unread_in_all(user));
        let (made_at, state, noted) = (now(), State::Queued, message.is_some());
        self.pushes.push(Push {
            message,
            with,
            user,
            dev,
            made_at,
            state,
            noted,
            withdrawn: false,
            may_have_arrived: false,
            silent,
            unsent: false,
            unread,
        });
    }

    /// What waits to be decided by now is decided again.
    pub(super) async fn decide_rung(&mut self) {
        for user in 0..USERS {
            let again = self.people[user].poll();
            self.again.entry(user).or_default().extend(again);
        }
        let expected: Vec<_> = std::mem::take(&mut self.again)
            .into_iter()
            .filter(|(_, sids)| !sids.is_empty())
            .map(|(user, sids)| (user, sids.into_iter().collect::<Vec<_>>()))
            .collect();
        let rung = by_user(self.chat.decide_rung().await);
        assert_eq!(rung, expected);
        self.decide_again(rung);
    }

    /// After a start: what is neither confirmed nor pushed is decided about once more, unless it is old.
    pub(super) async fn decide_undecided(&mut self) {
        let mut expected = BTreeMap::<usize, Vec<Sid>>::new();
        for message in &mut self.messages {
            if message.at + UNDECIDED_MS < now() && (message.decided_at + UNDECIDED_MS < now() || message.to == GROUP) {
                message.waits.clear();
                message.waited.clear();
            }
            let waits = if message.to == GROUP { &message.waited } else { &message.waits };
            let is_received = |user: usize| match message.to {
                GROUP => !self.group.is_in(user) || self.group.has_received(user, message.sid),
                _ => message.received || message.for_room.contains(&user),
            };
            for user in waits.iter().copied().filter(|user| !is_received(*user)) {
                expected.entry(user).or_default().push(message.sid);
            }
        }
        for message in self.messages.iter_mut().filter(|m| m.to == GROUP) {
            let again =
                message.waited.iter().filter(|user| expected.get(user).is_some_and(|sids| sids.contains(&message.sid)));
            message.waits.extend(again.copied().collect::<Vec<_>>());
        }
        let undecided = by_user(self.chat.decide_undecided().await);
        // More may be looked at: what was deleted meanwhile.
        let is_looked_at =
            |user: usize, sid: &Sid| undecided.iter().any(|(of, sids)| *of == user && sids.contains(sid));
        for (user, sids) in expected {
            assert!(sids.iter().all(|sid| is_looked_at(user, sid)), "{}: {sids:?} in {undecided:?}", NAMES[user]);
        }
        self.decide_again(undecided);
    }

    /// What the bridge does while the queue has room to spare.
    pub(super) async fn decide_unpushed(&mut self) {
        if self.is_undecided {
            return;
        }
        let unpushed = by_user(self.chat.decide_unpushed().await);
        for message in &self.messages {
            for user in message.for_room.intersection(&message.waits) {
                let found = unpushed.iter().any(|(of, sids)| of == user && sids.contains(&message.sid));
                assert!(found, "the push for {} has room and is not made: {message:?}", NAMES[*user]);
            }
        }
        self.decide_again(unpushed);
    }

    fn decide_again(&mut self, due: Vec<(usize, Vec<Sid>)>) {
        for (user, sids) in due {
            let is_attended = self.people[user].is_attended();
            for sid in &sids {
                if is_attended {
                    assert_eq!(self.people[user].handle_given(*sid), None);
                }
            }
            for sid in sids {
                let which = self.messages.iter().position(|message| message.sid == sid).unwrap();
                let waits = self.still_waits(which, user) && self.decide(which, user);
                if !waits {
                    self.people[user].handle_taken_back(sid);
                    self.again.entry(user).or_default().remove(&sid);
                }
            }
        }
    }

    /// Whether there is still something to be pushed: the user can read it, and has not.
    fn still_waits(&self, which: usize, user: usize) -> bool {
        let message = &self.messages[which];
        message.waits.contains(&user) && (message.is_of_two() || self.group.is_in(user))
    }

    /// Nothing is to be seen of these any more at `user`: what was not sent is taken back, and devices that were pushed are
    /// cleared, but for those that see it themselves.
    pub(super) fn clear(&mut self, user: usize, messages: &[usize], spared: &[usize]) {
        let mut shown = BTreeSet::new();
        let mut with = GROUP;
        for at in messages.iter().copied() {
            self.messages[at].waits.remove(&user);
            self.messages[at].for_room.remove(&user);
            self.messages[at].waited.remove(&user);
            with = self.messages[at].with(user);
            for push in self.pushes.iter_mut().filter(|push| push.is_of(at, user)) {
                if !push.take_back() {
                    push.noted = false;
                    shown.insert(push.dev);
                }
            }
        }
        for dev in shown.into_iter().filter(|dev| !spared.contains(dev)) {
            if self.people[user].devices[dev].registered.is_some() {
                self.people[user].devices[dev].told = None;
                self.queue((None, with), (user, dev), true);
            }
        }
    }

    /// An attended device has the message.
    pub(super) fn take_back_pushes(&mut self, which: usize, user: usize) {
        for push in self.pushes.iter_mut().filter(|push| push.is_of(which, user)) {
            push.take_back();
        }
    }

    pub(super) fn unregistered(&mut self, user: usize, dev: usize) {
        self.people[user].devices[dev].told = None;
        if self.people[user].devices[dev].registered.take().is_some() {
            for push in self.pushes.iter_mut().filter(|push| push.user == user && push.dev == dev) {
                push.take_back();
                push.noted = false;
            }
        }
    }

    /// Each of those that go now was to be made, and says what is true.
    pub(super) async fn claim(&mut self) {
        for (sid, push) in self.chat.claim().await {
            let (user, dev) = push["target"]["token"].as_str().unwrap().split_once('_').unwrap();
            let (user, dev) = (position(&NAMES, user), position(&DEVICES, dev));
            let data = &push["data"];
            let of = data["sid"].as_str().unwrap();
            let message = match data["type"].as_str().unwrap() {
                "clear" => None,
                "message" => self.messages.iter().position(|message| message.sid.to_string() == of),
                kind => panic!("{kind}"),
            };
            let is_it = |made: &&mut Push| {
                (made.message, made.user, made.dev, made.state) == (message, user, dev, State::Queued)
            };
            let with = position(&NAMES, data["with"].as_str().unwrap());
            let is_it = |made: &&mut Push| is_it(made) && made.with == with;
            let made = self.pushes.iter_mut().find(is_it).unwrap_or_else(|| panic!("nobody asked for {push}"));
            made.state = State::InFlight(sid);
            assert_eq!(push["priority"], if made.silent { "normal" } else { "high" }, "{push}");
            assert_eq!(data["account"], NAMES[user]);
            let unread = data.get("unread").map(|unread| unread.as_str().unwrap().parse().unwrap());
            assert_eq!(unread, made.unread, "{push}");
            let Some(message) = message.map(|at| &self.messages[at]) else { continue };
            let body = data.get("body").and_then(Value::as_str);
            assert_eq!(body, Some(&*message.copies[&user].shown), "no text of before: {push}");
            assert_eq!(data.get("by").is_some(), message.to == GROUP);
        }
    }

    pub(super) async fn answer(&mut self, which: usize, how: How) {
        let in_flight = |push: &Push| if let State::InFlight(sid) = push.state { Some(sid) } else { None };
        let flights: Vec<_> =
            self.pushes.iter().enumerate().filter_map(|(at, push)| Some((at, in_flight(push)?))).collect();
        let Some((at, sid)) = flights.get(which % flights.len().max(1)).copied() else { return };
        let event = match how {
            How::Takes => accepted(),
            How::Later => retry(now()),
            How::Refuses => refused(Decision::FAIL, "INVALID"),
            How::Gone => refused(Decision::REMOVE_TOKEN, "UNREGISTERED"),
        };
        self.chat.record(sid, event).await;
        let push = &mut self.pushes[at];
        let (user, dev, made_at) = (push.user, push.dev, push.made_at);
        match how {
            How::Takes => push.state = State::Over,
            How::Later => push.fall_back(),
            How::Refuses | How::Gone => push.end_unsent(),
        }
        let is_older = self.people[user].devices[dev].registered.is_some_and(|(at, _)| at <= made_at);
        if how == How::Gone && is_older {
            self.unregistered(user, dev);
        }
    }

    /// What was in flight at a stop is sent again.
    pub(super) fn handle_pushes_back(&mut self) {
        let in_flight = self.pushes.iter_mut().filter(|push| matches!(push.state, State::InFlight(_)));
        in_flight.for_each(|push| {
            push.may_have_arrived = true;
            push.fall_back();
        });
    }
}

impl Push {
    fn is_of(&self, message: usize, user: usize) -> bool {
        self.noted && self.message == Some(message) && self.user == user
    }
}

fn position(names: &[&str], name: &str) -> usize {
    names.iter().position(|one| *one == name).unwrap()
}

fn by_user(due: Vec<(Owner, Vec<Sid>)>) -> Vec<(usize, Vec<Sid>)> {
    due.into_iter().map(|(user, sids)| (position(&NAMES, user.as_str()), sids)).collect()
}
