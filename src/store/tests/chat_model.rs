//! Random chat with crashes in between, against a model in memory.
//!
//! What must hold: each side has every message once without a mark, and counts them without holes; what is unread is what
//! lies behind the read position and is neither retracted nor deleted; every item has its newest text, or is a tombstone; `delivered` is told at the first confirmation and once; no device is pushed twice for a
//! message; what was taken back is not sent again; and exactly the devices that were pushed for what is read are cleared.

use super::chat::{Chat, code, devices, owner, peer, received, registers, registration, writer};
use super::*;
use crate::chat::attention::Attended;
use crate::chat::contact::MuteLevel;
use crate::chat::message::ErrorCode;
use crate::chat::suffix::requests::DeletionOf;
use proptest::prelude::*;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

const USERS: [&str; 3] = ["alice", "bob", "carol"];
const DEVICES: [&str; 2] = ["phone", "tablet"];

#[derive(Debug, Clone)]
enum Op {
    Write {
        from: usize,
        to: usize,
        id: u8,
        attended: bool,
        named: bool,
    },
    /// The n-th message is confirmed by a device of its reader.
    Confirm {
        which: usize,
        dev: usize,
        attended: bool,
        up_to: bool,
    },
    Read {
        which: usize,
        dev: usize,
    },
    Block {
        user: usize,
        other: usize,
        on: bool,
    },
    Mute {
        user: usize,
        other: usize,
        level: MuteLevel,
    },
    /// The n-th message is edited or retracted, by its writer or by its reader.
    Amend {
        which: usize,
        retract: bool,
        by_writer: bool,
    },
    /// The writer or the reader of the n-th message deletes the own copy: of it, or of all of its conversation.
    Delete {
        which: usize,
        by_writer: bool,
        all: bool,
    },
    Register {
        user: usize,
        dev: usize,
        on: bool,
    },
    DecideAgain {
        user: usize,
        attended: bool,
    },
    Claim,
    /// What the push service says of the n-th push in flight.
    Answer {
        which: usize,
        how: How,
    },
    Crash,
    Reopen,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum How {
    Takes,
    Later,
    Refuses,
    Gone,
}

fn op() -> impl Strategy<Value = Op> {
    let user = || 0..USERS.len();
    let (dev, which) = (|| 0..DEVICES.len(), || 0..30_usize);
    let how = prop_oneof![4 => Just(How::Takes), 2 => Just(How::Later), 1 => Just(How::Refuses), 1 => Just(How::Gone)];
    prop_oneof![
        8 => (user(), user(), 0..12_u8, prop::bool::weighted(0.3), prop::bool::weighted(0.3))
            .prop_map(|(from, to, id, attended, named)| Op::Write { from, to, id, attended, named }),
        3 => (which(), any::<bool>(), prop::bool::weighted(0.9))
            .prop_map(|(which, retract, by_writer)| Op::Amend { which, retract, by_writer }),
        3 => (which(), any::<bool>(), prop::bool::weighted(0.3))
            .prop_map(|(which, by_writer, all)| Op::Delete { which, by_writer, all }),
        1 => (user(), user(), prop_oneof![Just(MuteLevel::All), Just(MuteLevel::Mentions), Just(MuteLevel::None)])
            .prop_map(|(user, other, level)| Op::Mute { user, other, level }),
        4 => (which(), dev(), any::<(bool, bool)>())
            .prop_map(|(which, dev, (attended, up_to))| Op::Confirm { which, dev, attended, up_to }),
        4 => (which(), dev()).prop_map(|(which, dev)| Op::Read { which, dev }),
        1 => (user(), user(), any::<bool>()).prop_map(|(user, other, on)| Op::Block { user, other, on }),
        3 => (user(), dev(), prop::bool::weighted(0.8)).prop_map(|(user, dev, on)| Op::Register { user, dev, on }),
        3 => (user(), prop::bool::weighted(0.3)).prop_map(|(user, attended)| Op::DecideAgain { user, attended }),
        3 => Just(Op::Claim),
        4 => (which(), how).prop_map(|(which, how)| Op::Answer { which, how }),
        1 => Just(Op::Crash),
        1 => Just(Op::Reopen),
    ]
}

#[derive(Debug, Clone)]
struct Message {
    sid: Sid,
    from: usize,
    to: usize,
    id: u8,
    hidden: bool,
    received: bool,
    waits: bool,
    /// It names its reader.
    named: bool,
    /// What its writer has of it, and what its reader.
    copies: [Copy; 2],
    amendments: Vec<Amended>,
    /// Devices that were pushed for it, whatever came of that.
    pushed: BTreeSet<usize>,
}

/// What one side has of a message.
#[derive(Debug, Clone)]
struct Copy {
    shown: String,
    is_tombstone: bool,
    edited: bool,
    deleted: bool,
    deleted_with_all: bool,
}

impl Copy {
    fn has(&self) -> bool {
        !self.deleted && !self.deleted_with_all
    }
}

/// An edit or retract, as each side has it.
#[derive(Debug, Clone)]
struct Amended {
    sid: Sid,
    reader_has: bool,
    shown: [String; 2],
}

impl Message {
    fn side_of(&self, user: usize) -> usize {
        usize::from(self.from != user)
    }

    fn is_of(&self, user: usize) -> bool {
        self.from == user || self.to == user && !self.hidden
    }

    fn copy_of(&self, user: usize) -> &Copy {
        &self.copies[self.side_of(user)]
    }

    /// Unread at its reader, if that has not read up to it.
    fn counts(&self) -> bool {
        !self.hidden && self.copies[1].has() && !self.copies[1].is_tombstone
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Queued,
    InFlight(Sid),
    Over,
}

#[derive(Debug, Clone)]
struct Push {
    /// `None`: a `clear`.
    message: Option<usize>,
    user: usize,
    dev: usize,
    made_at: u64,
    state: State,
    /// The device may show it.
    noted: bool,
    withdrawn: bool,
}

struct Model {
    chat: Chat,
    messages: Vec<Message>,
    pushes: Vec<Push>,
    contacts: BTreeSet<(usize, usize)>,
    blocked: BTreeSet<(usize, usize)>,
    muted: BTreeMap<(usize, usize), MuteLevel>,
    read: BTreeMap<(usize, usize), Sid>,
    /// When each device was registered last.
    registered: BTreeMap<(usize, usize), u64>,
    /// Up to where each writer was told of each reader that its messages are delivered, and read.
    told: BTreeMap<(usize, usize), (Option<Sid>, Option<Sid>)>,
    /// Receipts but for `sent`, as they are expected: writer, sid, status.
    receipts: Vec<(usize, Sid, &'static str)>,
}

fn attended(any: bool) -> &'static [&'static str] {
    if any { &["laptop"] } else { &[] }
}

impl Model {
    async fn run(mut self, ops: Vec<Op>) {
        for op in ops {
            self = self.apply(op).await;
            for (user, name) in USERS.iter().enumerate() {
                let sql = format!("SELECT unread FROM users WHERE user = '{name}'");
                let unread = (0..USERS.len()).map(|with| self.unread(user, with)).sum::<usize>();
                assert_eq!(self.chat.count(&sql), unread as i64, "{name}");
            }
            let queued = self.pushes.iter().filter(|push| push.state != State::Over).count();
            assert_eq!(self.chat.rig.store.figures().queue_rows, queued as u64);
        }
        self.finish().await;
    }

    async fn apply(mut self, op: Op) -> Self {
        match op {
            Op::Write { from, to, id, attended, named } => self.write((from, to), id, attended, named).await,
            Op::Amend { which, retract, by_writer } if which < self.messages.len() => {
                self.amend(which, retract, by_writer).await;
            }
            Op::Delete { which, by_writer, all } if which < self.messages.len() => {
                self.delete(which, by_writer, all).await;
            }
            Op::Mute { user, other, level } if user != other => {
                let mute = EntryChange::Mute(Some((u64::MAX, level)));
                self.chat.set(USERS[user], SettingChange::About(owner(USERS[other]), mute)).await;
                self.muted.insert((user, other), level);
            }
            Op::Confirm { which, dev, attended, up_to } if which < self.messages.len() => {
                self.confirm(which, dev, attended, up_to).await;
            }
            Op::Read { which, dev } if which < self.messages.len() => {
                let Message { sid, from, to, .. } = self.messages[which];
                let of = ReceiptOf::In(owner(USERS[from]), sid);
                let at = NewReceipt { dev: devices(&[DEVICES[dev]]).pop(), ..received(USERS[to], &[]) };
                let outcome = self.chat.receipt(NewReceipt { read: true, of, ..at }).await;
                let is_own = !self.messages[which].hidden || from == to;
                assert_eq!(code(&outcome), (!is_own).then_some(ErrorCode::NotFound));
                if is_own && from != to {
                    self.reads((to, from), sid, Some(dev));
                }
            }
            Op::Block { user, other, on } if user != other => {
                self.chat.block(USERS[user], USERS[other], on).await;
                if on {
                    self.blocked.insert((user, other))
                } else {
                    self.blocked.remove(&(user, other))
                };
            }
            Op::Register { user, dev, on } => self.register(user, dev, on).await,
            Op::DecideAgain { user, attended } => self.decide_again(user, attended).await,
            Op::Claim => self.claim().await,
            Op::Answer { which, how } => self.answer(which, how).await,
            Op::Crash => {
                self.chat.rig = self.chat.rig.crash();
                self.restarted();
            }
            Op::Reopen => {
                self.chat.rig = self.chat.rig.reopen().await;
                self.restarted();
            }
            Op::Confirm { .. } | Op::Read { .. } | Op::Block { .. } => {}
            Op::Amend { .. } | Op::Delete { .. } | Op::Mute { .. } => {}
        }
        self
    }

    fn unread(&self, user: usize, with: usize) -> usize {
        let read = self.read.get(&(user, with));
        let is_unread =
            |m: &&Message| m.from == with && m.to == user && m.counts() && read.is_none_or(|read| m.sid > *read);
        self.messages.iter().filter(is_unread).count()
    }

    fn mentions(&self, user: usize, with: usize) -> usize {
        let read = self.read.get(&(user, with));
        let is_of = |m: &&Message| m.named && m.from == with && m.to == user && m.counts();
        self.messages.iter().filter(is_of).filter(|m| read.is_none_or(|read| m.sid > *read)).count()
    }

    fn may_hear(&self, writer: usize, reader: usize) -> bool {
        let blocks = |user, other| self.blocked.contains(&(user, other));
        self.contacts.contains(&(reader, writer)) && !blocks(reader, writer) && !blocks(writer, reader)
    }

    fn known(&self, from: usize, id: u8) -> Option<&Message> {
        self.messages.iter().find(|message| message.from == from && message.id == id)
    }

    async fn write(&mut self, (from, to): (usize, usize), id: u8, is_attended: bool, named: bool) {
        let named = self.known(from, id).map_or(named, |known| known.named) && from != to;
        let body = format!("body {id}");
        let mut document = json!({ "id": format!("m{id}"), "to": USERS[to], "body": body });
        if named {
            document["mentions"] = json!([USERS[to], "nobody"]);
        }
        let reader = peer(USERS[to], attended(is_attended));
        let (sid, outcome) = self.chat.send(writer(USERS[from]), reader, &document).await;
        if let Some(known) = self.known(from, id) {
            // Of what was changed since, nobody knows what it said.
            match known.to == to && known.named == named || known.copies[0].edited || known.copies[0].is_tombstone {
                true => assert_eq!(outcome, ChatOutcome::Repeated),
                false => assert_eq!(code(&outcome), Some(ErrorCode::Duplicate)),
            }
            return;
        }
        let hidden = from == to || self.blocked.contains(&(to, from));
        if from != to {
            let is_seen = !self.blocked.contains(&(from, to)) && !self.blocked.contains(&(to, from));
            if self.contacts.insert((from, to)) && is_seen {
                self.tell_contact(from, to);
            }
            if let Some(last) = self.messages.iter().rfind(|m| m.from == to && m.to == from && !m.hidden) {
                self.reads((from, to), last.sid, Some(0));
            }
            self.read.insert((from, to), sid);
        }
        let copy = Copy { shown: body, is_tombstone: false, edited: false, deleted: false, deleted_with_all: false };
        let message = Message {
            sid,
            from,
            to,
            id,
            hidden,
            received: false,
            waits: false,
            named,
            copies: [copy.clone(), copy],
            amendments: Vec::new(),
            pushed: BTreeSet::new(),
        };
        self.messages.push(message);
        if !hidden {
            self.decide(self.messages.len() - 1, is_attended);
        }
        let ChatOutcome::Done { waits, .. } = outcome else { panic!("{outcome:?}") };
        assert_eq!(waits, self.messages[self.messages.len() - 1].waits);
    }

    /// Every device that was not pushed waits, or is pushed now.
    fn decide(&mut self, which: usize, is_attended: bool) {
        let Message { from, to, named, .. } = self.messages[which];
        let muted = match self.muted.get(&(to, from)) {
            Some(MuteLevel::None) => true,
            Some(MuteLevel::Mentions) => !named,
            Some(MuteLevel::All) | None => false,
        };
        let blocked = self.blocked.contains(&(to, from)) || muted;
        self.messages[which].waits = false;
        for dev in 0..DEVICES.len() {
            let done = self.messages[which].pushed.contains(&dev);
            if done || blocked || !self.registered.contains_key(&(to, dev)) {
                continue;
            }
            if is_attended {
                self.messages[which].waits = true;
                continue;
            }
            self.messages[which].pushed.insert(dev);
            let made_at = self.chat.at;
            let state = State::Queued;
            self.pushes.push(Push {
                message: Some(which),
                user: to,
                dev,
                made_at,
                state,
                noted: true,
                withdrawn: false,
            });
        }
    }

    async fn decide_again(&mut self, user: usize, is_attended: bool) {
        let waiting: Vec<_> = (0..self.messages.len()).filter(|at| self.messages[*at].to == user).collect();
        // Enough ids for all of them, and also those that never waited.
        let call = self.chat.call();
        let more = (0..2 * self.messages.len()).map(|_| self.chat.rig.sids.next(self.chat.at, 0));
        let call = ChatCall { push_sids: call.push_sids.iter().copied().chain(more).collect(), ..call };
        let sids = waiting.iter().map(|at| self.messages[*at].sid).collect();
        let looks = Attended { devices: devices(attended(is_attended)) };
        let left = self.chat.rig.store.chat_decide_again(owner(USERS[user]), sids, looks, call);
        let left = left.await.unwrap().await.unwrap();
        for at in waiting.iter().copied() {
            if self.messages[at].waits {
                self.decide(at, is_attended);
            }
        }
        let expected: Vec<_> =
            waiting.iter().map(|at| &self.messages[*at]).filter(|m| m.waits).map(|m| m.sid).collect();
        assert_eq!(left, expected);
    }

    async fn confirm(&mut self, which: usize, dev: usize, is_attended: bool, up_to: bool) {
        let Message { sid, from, to, hidden, .. } = self.messages[which];
        let of = if up_to { ReceiptOf::UpTo(sid) } else { ReceiptOf::Each(vec![sid]) };
        let dev = devices(&[DEVICES[dev]]).pop();
        let outcome =
            self.chat.receipt(NewReceipt { dev, attended: is_attended, of, ..received(USERS[to], &[]) }).await;
        assert_eq!(code(&outcome), hidden.then_some(ErrorCode::NotFound));
        if hidden {
            return;
        }
        let is_meant =
            |m: &Message| m.from == from && m.to == to && !m.hidden && if up_to { m.sid <= sid } else { m.sid == sid };
        let meant: Vec<_> = (0..self.messages.len()).filter(|at| is_meant(&self.messages[*at])).collect();
        if let Some(newest) = meant.iter().rev().find(|at| !self.messages[**at].received)
            && self.may_hear(from, to)
        {
            let newest = self.messages[*newest].sid;
            let told = &mut self.told.entry((from, to)).or_default().0;
            *told = (*told).max(Some(newest));
            self.receipts.push((from, newest, "delivered"));
        }
        for at in meant {
            self.messages[at].received = true;
            if is_attended {
                self.messages[at].waits = false;
                for push in self.pushes.iter_mut().filter(|push| push.message == Some(at) && push.noted) {
                    take_back(push);
                }
            }
        }
    }

    /// `user` reads up to here what `with` has written.
    fn reads(&mut self, (user, with): (usize, usize), sid: Sid, by: Option<usize>) {
        if self.read.get(&(user, with)).is_some_and(|read| *read >= sid) {
            return;
        }
        self.read.insert((user, with), sid);
        if self.may_hear(with, user) {
            self.tell_read(with, user, sid);
        }
        let is_read = |m: &Message| m.from == with && m.to == user && !m.hidden && m.sid <= sid;
        let read: Vec<_> = (0..self.messages.len()).filter(|at| is_read(&self.messages[*at])).collect();
        for at in &read {
            self.messages[*at].received = true;
        }
        self.clear(user, &read, by);
    }

    /// Nothing is to be seen of these any more at `user`, but at the device `by`.
    fn clear(&mut self, user: usize, messages: &[usize], by: Option<usize>) {
        let mut shown = BTreeSet::new();
        for at in messages.iter().copied() {
            self.messages[at].waits = false;
            for push in self.pushes.iter_mut().filter(|push| push.message == Some(at) && push.noted) {
                if !take_back(push) {
                    push.noted = false;
                    shown.insert(push.dev);
                }
            }
        }
        let made_at = self.chat.at;
        for dev in shown.into_iter().filter(|dev| Some(*dev) != by && self.registered.contains_key(&(user, *dev))) {
            let state = State::Queued;
            self.pushes.push(Push { message: None, user, dev, made_at, state, noted: false, withdrawn: false });
        }
    }

    async fn amend(&mut self, which: usize, retract: bool, by_writer: bool) {
        let Message { sid, from, to, hidden, .. } = self.messages[which];
        let (by, peer_of) = if by_writer { (from, to) } else { (to, from) };
        let text = format!("text {}", self.chat.at);
        let mut document = json!({ "type": "retract", "ref": sid.to_string() });
        if !retract {
            document["type"] = json!("edit");
            document["body"] = json!(text);
        }
        let (own, outcome) = self.chat.amend(USERS[by], USERS[peer_of], &document).await;
        let expected = match (by == from, self.messages[which].copies[0].is_tombstone) {
            (false, _) if hidden => Some(ErrorCode::NotFound),
            (false, _) => Some(ErrorCode::Forbidden),
            (true, true) if retract => Some(ErrorCode::Duplicate),
            (true, true) => Some(ErrorCode::NotFound),
            (true, false) => None,
        };
        assert_eq!(code(&outcome), expected, "{outcome:?}");
        if expected.is_some() {
            return;
        }
        let swallowed = self.blocked.contains(&(to, from)) && from != to;
        let message = &mut self.messages[which];
        let why = if retract { "retracted" } else { "edited" };
        for earlier in &mut message.amendments {
            earlier.shown[0] = why.to_owned();
            if !swallowed {
                earlier.shown[1] = why.to_owned();
            }
        }
        let reader_has = !swallowed && !hidden;
        let shown = if retract { String::new() } else { text.clone() };
        message.amendments.push(Amended { sid: own, reader_has, shown: [shown.clone(), shown] });
        for copy in message.copies.iter_mut().take(1 + usize::from(reader_has)) {
            copy.shown = if retract { "retracted".to_owned() } else { text.clone() };
            (copy.is_tombstone, copy.edited) = (retract, !retract);
        }
        if reader_has && retract {
            self.clear(to, &[which], None);
        }
    }

    async fn delete(&mut self, which: usize, by_writer: bool, all: bool) {
        let Message { sid, from, to, hidden, .. } = self.messages[which];
        let (user, with) = if by_writer { (from, to) } else { (to, from) };
        let is_own = self.messages[which].is_of(user);
        let of = if all { DeletionOf::All(owner(USERS[with])) } else { DeletionOf::Each(vec![sid]) };
        let outcome = self.chat.delete(USERS[user], of).await;
        let of_pair = |m: &Message| (m.from == user && m.to == with) || (m.from == with && m.to == user);
        let meant: Vec<usize> = if all {
            let is_meant = |at: &usize| of_pair(&self.messages[*at]) && self.messages[*at].is_of(user);
            (0..self.messages.len()).filter(is_meant).collect()
        } else {
            assert_eq!(outcome.is_err(), !is_own, "{hidden}");
            if is_own && self.messages[which].copy_of(user).has() { vec![which] } else { Vec::new() }
        };
        for at in &meant {
            let message = &mut self.messages[*at];
            let side = message.side_of(user);
            if all {
                message.copies[side].deleted_with_all = true;
            } else {
                message.copies[side].deleted = true;
            }
            let nobody_else = message.hidden || !message.copies[1 - side].has();
            if nobody_else && !(message.copies[0].is_tombstone && message.copies[1].is_tombstone) {
                for copy in &mut message.copies {
                    (copy.shown, copy.is_tombstone) = ("deleted".to_owned(), true);
                }
            }
        }
        let of_others: Vec<_> = meant.into_iter().filter(|at| self.messages[*at].from != user).collect();
        self.clear(user, &of_others, None);
    }

    /// Reading is the first confirmation of what no device has confirmed, and that is told first.
    fn tell_read(&mut self, writer: usize, reader: usize, sid: Sid) {
        let (delivered, read) = self.told.entry((writer, reader)).or_default();
        if *delivered < Some(sid) {
            self.receipts.push((writer, sid, "delivered"));
            *delivered = Some(sid);
        }
        *read = (*read).max(Some(sid));
        self.receipts.push((writer, sid, "read"));
    }

    /// The writer is a contact of the reader now, and may hear of what was before.
    fn tell_contact(&mut self, reader: usize, writer: usize) {
        let of = |m: &&Message| m.from == writer && m.to == reader && !m.hidden;
        let received = self.messages.iter().filter(of).filter(|m| m.received).map(|m| m.sid).max();
        let (delivered, told_read) = self.told.get(&(writer, reader)).copied().unwrap_or_default();
        if let Some(received) = received.filter(|received| delivered < Some(*received)) {
            self.receipts.push((writer, received, "delivered"));
            self.told.entry((writer, reader)).or_default().0 = Some(received);
        }
        let position = self.read.get(&(reader, writer)).copied();
        let is_read = |m: &&Message| Some(m.sid) <= position && told_read < Some(m.sid);
        if let Some(last) = self.messages.iter().filter(of).filter(is_read).map(|m| m.sid).max() {
            self.tell_read(writer, reader, last);
        }
    }

    async fn register(&mut self, user: usize, dev: usize, on: bool) {
        let token = format!("{}_{}", USERS[user], DEVICES[dev]);
        let registration = on.then(|| registration(&token, &json!({})));
        self.chat.change_device(registers(USERS[user], DEVICES[dev], registration)).await;
        if on {
            self.registered.insert((user, dev), self.chat.at);
        } else {
            self.unregistered(user, dev);
        }
    }

    fn unregistered(&mut self, user: usize, dev: usize) {
        if self.registered.remove(&(user, dev)).is_some() {
            for push in self.pushes.iter_mut().filter(|push| push.user == user && push.dev == dev) {
                take_back(push);
                push.noted = false;
            }
        }
    }

    async fn claim(&mut self) {
        for claimed in self.chat.claim(self.chat.at).await {
            let token: Vec<_> = claimed.token.split('_').collect();
            let user = USERS.iter().position(|user| *user == token[0]).unwrap();
            let dev = DEVICES.iter().position(|dev| *dev == token[1]).unwrap();
            let sid = claimed.data("sid");
            let message = match claimed.data("type") {
                "clear" => None,
                _ => Some(self.messages.iter().position(|message| message.sid.to_string() == sid).unwrap()),
            };
            let is_it = |push: &&mut Push| {
                push.message == message && push.user == user && push.dev == dev && push.state == State::Queued
            };
            if let Some(message) = message {
                assert_eq!(claimed.data("body"), self.messages[message].copies[1].shown, "no text of before");
            }
            let push = self.pushes.iter_mut().find(is_it).unwrap_or_else(|| panic!("nobody asked for {claimed:?}"));
            push.state = State::InFlight(claimed.sid);
        }
    }

    async fn answer(&mut self, which: usize, how: How) {
        let in_flight = |push: &Push| if let State::InFlight(sid) = push.state { Some(sid) } else { None };
        let flights: Vec<_> =
            self.pushes.iter().enumerate().filter_map(|(at, push)| Some((at, in_flight(push)?))).collect();
        let Some((at, sid)) = flights.get(which % flights.len().max(1)).copied() else { return };
        let event = match how {
            How::Takes => accepted(),
            How::Later => retry(self.chat.at),
            How::Refuses => refused(Decision::FAIL, "INVALID"),
            How::Gone => refused(Decision::REMOVE_TOKEN, "UNREGISTERED"),
        };
        self.chat.rig.record(sid, event, self.chat.at).await;
        let push = &mut self.pushes[at];
        let (user, dev, made_at) = (push.user, push.dev, push.made_at);
        match how {
            How::Takes => push.state = State::Over,
            How::Later => fall_back(push),
            How::Refuses | How::Gone => (push.state, push.noted) = (State::Over, false),
        }
        let is_older = self.registered.get(&(user, dev)).is_some_and(|registered| *registered <= made_at);
        if how == How::Gone && is_older {
            self.unregistered(user, dev);
        }
    }

    fn restarted(&mut self) {
        let crashed = self.pushes.iter_mut().filter(|push| matches!(push.state, State::InFlight(_)));
        crashed.for_each(fall_back);
    }

    async fn finish(mut self) {
        while self.pushes.iter().any(|push| push.state != State::Over) {
            let before = self.pushes.iter().filter(|push| push.state == State::Over).count();
            self.claim().await;
            while self.pushes.iter().any(|push| matches!(push.state, State::InFlight(_))) {
                self.answer(0, How::Takes).await;
            }
            let after = self.pushes.iter().filter(|push| push.state == State::Over).count();
            assert!(after > before, "a push does not go: {:?}", self.pushes);
        }
        assert!(self.chat.pushes().await.is_empty());
        for (user, name) in USERS.iter().enumerate() {
            self.check_copies(user).await;
            let told = self.chat.told(name, "receipts").await;
            let told: Vec<_> = told
                .iter()
                .map(|receipt| (receipt["sid"].as_str().unwrap().to_owned(), receipt["status"].as_str().unwrap()))
                .filter(|(_, status)| *status != "sent")
                .collect();
            let expected = self.receipts.iter().filter(|(writer, ..)| *writer == user);
            let expected: Vec<_> = expected.map(|(_, sid, status)| (sid.to_string(), *status)).collect();
            assert_eq!(told, expected, "{name}");
        }
    }

    /// Every message that a user has: once without a mark, and in its place.
    async fn check_copies(&self, user: usize) {
        let mut counts = BTreeMap::<usize, u64>::new();
        let mut expected = Vec::new();
        for message in self.messages.iter().filter(|m| m.from == user || m.to == user && !m.hidden) {
            let count = counts.entry(if message.from == user { message.to } else { message.from }).or_default();
            *count += 1;
            expected.push((message.sid.to_string(), *count));
        }
        let copies = self.chat.told(USERS[user], "messages").await;
        let place = |copy: &Value| Some((copy["sid"].as_str().unwrap().to_owned(), copy["n"].as_u64()?));
        let unmarked = copies.iter().filter(|copy| copy["redelivered"] != true);
        assert_eq!(unmarked.filter_map(place).collect::<Vec<_>>(), expected);
        let places: BTreeMap<_, _> = expected.into_iter().collect();
        self.check_items(user, &places).await;
        self.check_conversations(user).await;
    }

    /// What a user who forgot everything gets: all that is neither deleted nor of somebody else, with its newest text.
    async fn check_items(&self, user: usize, places: &BTreeMap<String, u64>) {
        let shown = |item: &Value| {
            let text = item["why"].as_str().or_else(|| item["body"].as_str()).unwrap_or_default().to_owned();
            (item["sid"].as_str().unwrap().to_owned(), item["n"].as_u64(), text)
        };
        let (mut items, mut changes) = (Vec::new(), Vec::new());
        for message in self.messages.iter().filter(|m| m.is_of(user) && !m.copy_of(user).deleted_with_all) {
            let (sid, copy) = (message.sid.to_string(), message.copy_of(user));
            let text = if copy.deleted { "deleted" } else { &copy.shown };
            items.push((sid.clone(), places.get(&sid).copied(), text.to_owned()));
            let side = message.side_of(user);
            let has = |amended: &&Amended| copy.has() && (side == 0 || amended.reader_has);
            let change = |amended: &Amended| (amended.sid.to_string(), None, amended.shown[side].clone());
            changes.extend(message.amendments.iter().filter(has).map(change));
        }
        let mut all = [items.clone(), changes].concat();
        all.sort();
        assert_eq!(self.chat.synced(USERS[user]).await.iter().map(shown).collect::<Vec<_>>(), all);
        let mut history = Vec::new();
        for with in USERS {
            history.extend(self.chat.history(USERS[user], with).await.iter().map(shown));
        }
        history.sort();
        assert_eq!(history, items);
    }

    async fn check_conversations(&self, user: usize) {
        let newest = |with: usize| {
            let of_pair = |m: &&Message| (m.from == user && m.to == with) || (m.from == with && m.to == user);
            let its = self.messages.iter().filter(of_pair).filter(|m| m.is_of(user) && m.copy_of(user).has());
            its.map(|m| m.sid).max()
        };
        let mut expected: Vec<_> = (0..USERS.len()).filter_map(|with| Some((newest(with)?, with))).collect();
        expected.sort_by_key(|(sid, _)| std::cmp::Reverse(*sid));
        let expected: Vec<_> = expected
            .into_iter()
            .map(|(sid, with)| (USERS[with], sid, self.unread(user, with), self.mentions(user, with)))
            .collect();
        let page = self.chat.conversations(USERS[user]).await;
        let item = |item: &ConversationItem| {
            let with = USERS.iter().copied().find(|name| *name == item.with.as_str()).unwrap();
            (with, item.place, item.unread as usize, item.mentions as usize)
        };
        assert_eq!(page.items.iter().map(item).collect::<Vec<_>>(), expected);
        assert_eq!(page.mentions as usize, (0..USERS.len()).map(|with| self.mentions(user, with)).sum::<usize>());
    }
}

/// What waits goes; what is in flight goes on, and is not sent again. Whether it is gone.
fn take_back(push: &mut Push) -> bool {
    match push.state {
        State::Queued => {
            (push.state, push.noted) = (State::Over, false);
            return true;
        }
        State::InFlight(_) => push.withdrawn = true,
        State::Over => {}
    }
    false
}

fn fall_back(push: &mut Push) {
    if push.withdrawn {
        (push.state, push.noted) = (State::Over, false);
    } else {
        push.state = State::Queued;
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 300, ..ProptestConfig::default() })]

    #[test]
    fn random_chat_with_crashes_agrees_with_a_model(ops in prop::collection::vec(op(), 1..45)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        runtime.block_on(async {
            let chat = Chat::of(&USERS).await;
            let model = Model {
                chat,
                messages: Vec::new(),
                pushes: Vec::new(),
                contacts: BTreeSet::new(),
                blocked: BTreeSet::new(),
                muted: BTreeMap::new(),
                read: BTreeMap::new(),
                told: BTreeMap::new(),
                registered: BTreeMap::new(),
                receipts: Vec::new(),
            };
            model.run(ops).await;
        });
    }
}
