//! Random chat with crashes in between, against a model in memory.
//!
//! What must hold: each side has every message once without a mark, and counts them without holes; what is unread is what
//! lies behind the read position; `delivered` is told at the first confirmation and once; no device is pushed twice for a
//! message; what was taken back is not sent again; and exactly the devices that were pushed for what is read are cleared. What
//! is to be sent at a time is written then, once, if nobody took it back; what is to be deleted at a time is deleted, keeps its
//! place, and is unread no longer. A push for which the queue has no room is made once there is; a device that wants one push for
//! an absence gets no second one; and by night a push shows nothing.

use super::chat::{Chat, code, devices, owner, peer, received, registers, registration, writer};
use super::*;
use crate::chat::attention::Attended;
use crate::chat::message::ErrorCode;
use proptest::prelude::*;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

const USERS: [&str; 3] = ["alice", "bob", "carol"];
const DEVICES: [&str; 2] = ["phone", "tablet"];
/// So many pushes have room in the queue; a `clear` needs none.
const ROOM: u64 = 8;
const HALF_A_MINUTE: u64 = 30_000;
const MINUTE: u64 = 60_000;

#[derive(Debug, Clone)]
enum Op {
    Write {
        from: usize,
        to: usize,
        id: u8,
        attended: bool,
        when: When,
    },
    /// The n-th message that waits for its time is taken back.
    TakeBack {
        which: usize,
    },
    /// Minutes pass, and what is due by then is sent, or deleted.
    Pass {
        minutes: u64,
    },
    /// The queue has room for the pushes that wait for it.
    DecideUnpushed,
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
    Register {
        user: usize,
        dev: usize,
        on: bool,
        how: Wanted,
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

/// When a message is to be sent, and to be deleted, in minutes from now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct When {
    sent: Option<u64>,
    deleted: Option<u64>,
}

/// How a device wants to be pushed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Wanted {
    first: bool,
    quiet: bool,
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
        10 => (user(), user(), 0..18_u8, prop::bool::weighted(0.3), when())
            .prop_map(|(from, to, id, attended, when)| Op::Write { from, to, id, attended, when }),
        1 => which().prop_map(|which| Op::TakeBack { which }),
        3 => (0..5_u64).prop_map(|minutes| Op::Pass { minutes }),
        3 => Just(Op::DecideUnpushed),
        4 => (which(), dev(), any::<(bool, bool)>())
            .prop_map(|(which, dev, (attended, up_to))| Op::Confirm { which, dev, attended, up_to }),
        4 => (which(), dev()).prop_map(|(which, dev)| Op::Read { which, dev }),
        1 => (user(), user(), any::<bool>()).prop_map(|(user, other, on)| Op::Block { user, other, on }),
        3 => (user(), dev(), prop::bool::weighted(0.8), wanted())
            .prop_map(|(user, dev, on, how)| Op::Register { user, dev, on, how }),
        3 => (user(), prop::bool::weighted(0.3)).prop_map(|(user, attended)| Op::DecideAgain { user, attended }),
        3 => Just(Op::Claim),
        4 => (which(), how).prop_map(|(which, how)| Op::Answer { which, how }),
        1 => Just(Op::Crash),
        1 => Just(Op::Reopen),
    ]
}

fn when() -> impl Strategy<Value = When> {
    let minutes = || prop_oneof![3 => Just(None), 1 => (1..6_u64).prop_map(Some)];
    (minutes(), minutes())
        .prop_map(|(sent, deleted)| When { sent, deleted: deleted.map(|after| sent.unwrap_or(0) + after) })
}

fn wanted() -> impl Strategy<Value = Wanted> {
    (prop::bool::weighted(0.3), prop::bool::weighted(0.3)).prop_map(|(first, quiet)| Wanted { first, quiet })
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
    /// Some push of it waits for room.
    for_room: bool,
    /// Devices that were pushed for it, whatever came of that.
    pushed: BTreeSet<usize>,
    document: Value,
    /// When it is to be deleted.
    expires: Option<u64>,
    deleted: bool,
}

/// A message that waits for its time.
#[derive(Debug, Clone)]
struct Waiting {
    from: usize,
    to: usize,
    id: u8,
    not_before: u64,
    document: Value,
    expires: Option<u64>,
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
    silent: bool,
    /// It is over, and was not sent.
    unsent: bool,
}

struct Model {
    chat: Chat,
    messages: Vec<Message>,
    pushes: Vec<Push>,
    contacts: BTreeSet<(usize, usize)>,
    blocked: BTreeSet<(usize, usize)>,
    read: BTreeMap<(usize, usize), Sid>,
    /// When each device was registered last, and how it wants to be pushed.
    registered: BTreeMap<(usize, usize), (u64, Wanted)>,
    /// The push of the absence of each device that wants one.
    absences: BTreeMap<(usize, usize), usize>,
    waiting: Vec<Waiting>,
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
            Op::Write { from, to, id, attended, when } => self.write((from, to), id, attended, when).await,
            Op::TakeBack { which } if which < self.waiting.len() => {
                let Waiting { from, id, .. } = self.waiting.remove(which);
                assert!(self.chat.cancel_of(USERS[from], &format!("m{id}")).await);
            }
            Op::Pass { minutes } => self.pass(minutes).await,
            Op::DecideUnpushed => self.decide_unpushed().await,
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
                if is_own {
                    self.absences.remove(&(to, dev));
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
            Op::Register { user, dev, on, how } => self.register((user, dev), on, how).await,
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
            Op::Confirm { .. } | Op::Read { .. } | Op::Block { .. } | Op::TakeBack { .. } => {}
        }
        self
    }

    fn unread(&self, user: usize, with: usize) -> usize {
        let read = self.read.get(&(user, with));
        let is_unread = |m: &&Message| {
            m.from == with && m.to == user && !m.hidden && !m.deleted && read.is_none_or(|read| m.sid > *read)
        };
        self.messages.iter().filter(is_unread).count()
    }

    fn may_hear(&self, writer: usize, reader: usize) -> bool {
        let blocks = |user, other| self.blocked.contains(&(user, other));
        self.contacts.contains(&(reader, writer)) && !blocks(reader, writer) && !blocks(writer, reader)
    }

    fn known(&self, from: usize, id: u8) -> Option<&Message> {
        self.messages.iter().find(|message| message.from == from && message.id == id)
    }

    async fn write(&mut self, (from, to): (usize, usize), id: u8, is_attended: bool, when: When) {
        let mut document = json!({ "id": format!("m{id}"), "to": USERS[to], "body": format!("body {id}") });
        // Half a minute off, so that nothing is due at the moment at which it is looked for.
        let expires = when.deleted.map(|minutes| self.chat.at + minutes * MINUTE + HALF_A_MINUTE);
        if let Some(expires) = expires {
            document["expires"] = expires.into();
        }
        let mut written = document.clone();
        let not_before = when.sent.map(|minutes| self.chat.at + minutes * MINUTE - HALF_A_MINUTE);
        if let Some(not_before) = not_before {
            written["not_before"] = not_before.into();
        }
        let reader = peer(USERS[to], attended(is_attended));
        let (sid, outcome) = self.chat.send(writer(USERS[from]), reader, &written).await;
        if self.waiting.iter().any(|waiting| waiting.from == from && waiting.id == id) {
            return assert_eq!(code(&outcome), Some(ErrorCode::Duplicate));
        }
        if let Some(known) = self.known(from, id) {
            // Of what is deleted nobody knows what it said.
            match known.document == document || known.deleted {
                true => assert_eq!(outcome, ChatOutcome::Repeated),
                false => assert_eq!(code(&outcome), Some(ErrorCode::Duplicate)),
            }
            return;
        }
        if let Some(not_before) = not_before {
            let count = self.waiting.iter().filter(|waiting| waiting.from == from).count();
            if count >= self.chat.policy.scheduled_max as usize {
                return assert_eq!(code(&outcome), Some(ErrorCode::RateLimited));
            }
            assert_eq!(outcome, ChatOutcome::Scheduled);
            return self.waiting.push(Waiting { from, to, id, not_before, document, expires });
        }
        let written = Waiting { from, to, id, not_before: 0, document, expires };
        self.written(sid, written, is_attended, true);
        let ChatOutcome::Done { waits, .. } = outcome else { panic!("{outcome:?}") };
        assert_eq!(waits, self.messages[self.messages.len() - 1].waits);
    }

    /// A message comes in; with `reads` its writer has read the conversation.
    fn written(&mut self, sid: Sid, written: Waiting, is_attended: bool, reads: bool) {
        let Waiting { from, to, id, document, expires, .. } = written;
        let hidden = from == to || self.blocked.contains(&(to, from));
        if from != to {
            let is_seen = !self.blocked.contains(&(from, to)) && !self.blocked.contains(&(to, from));
            if self.contacts.insert((from, to)) && is_seen {
                self.tell_contact(from, to);
            }
            if reads {
                let last = self.messages.iter().rfind(|m| m.from == to && m.to == from && !m.hidden);
                if let Some(last) = last.map(|last| last.sid) {
                    self.reads((from, to), last, Some(0));
                }
                self.read.insert((from, to), sid);
            }
        }
        let (received, waits, for_room, deleted, pushed) = (false, false, false, false, BTreeSet::new());
        self.messages.push(Message {
            sid,
            from,
            to,
            id,
            hidden,
            received,
            waits,
            for_room,
            pushed,
            document,
            expires,
            deleted,
        });
        if !hidden {
            self.decide(self.messages.len() - 1, is_attended);
        }
    }

    async fn pass(&mut self, minutes: u64) {
        self.chat.at += minutes * MINUTE;
        let now = self.chat.at;
        let mut due: Vec<Waiting> = self.waiting.extract_if(.., |waiting| waiting.not_before <= now).collect();
        due.sort_by_key(|waiting| waiting.not_before);
        let sent = self.chat.send_due().await;
        assert_eq!(sent.len(), due.len(), "each once, and none before its time");
        for (waiting, (sid, outcome)) in due.into_iter().zip(sent) {
            if waiting.expires.is_some_and(|expires| expires <= now) {
                assert_eq!(code(&outcome), Some(ErrorCode::BadField));
                continue;
            }
            self.written(sid, waiting, false, false);
            let ChatOutcome::Done { waits, .. } = outcome else { panic!("{outcome:?}") };
            assert_eq!(waits, self.messages[self.messages.len() - 1].waits);
        }
        while self.chat.sweep(u64::MAX, u64::MAX).await {}
        let mut over: Vec<usize> = (0..self.messages.len())
            .filter(|at| {
                !self.messages[*at].deleted && self.messages[*at].expires.is_some_and(|expires| expires <= now)
            })
            .collect();
        over.sort_by_key(|at| self.messages[*at].expires);
        for at in over {
            self.delete(at);
        }
    }

    fn delete(&mut self, which: usize) {
        let message = &mut self.messages[which];
        (message.deleted, message.waits) = (true, false);
        let user = message.to;
        let mut shown = BTreeSet::new();
        for push in self.pushes.iter_mut().filter(|push| push.message == Some(which) && push.noted) {
            if !take_back(push) {
                push.noted = false;
                shown.insert(push.dev);
            }
        }
        self.clear(user, shown, None);
    }

    /// The devices that may show something are cleared, but for the one that reads.
    fn clear(&mut self, user: usize, shown: BTreeSet<usize>, by: Option<usize>) {
        let (made_at, state) = (self.chat.at, State::Queued);
        for dev in shown.into_iter().filter(|dev| Some(*dev) != by && self.registered.contains_key(&(user, *dev))) {
            self.absences.remove(&(user, dev));
            let (noted, withdrawn, silent, unsent) = (false, false, true, false);
            self.pushes.push(Push { message: None, user, dev, made_at, state, noted, withdrawn, silent, unsent });
        }
    }

    /// Every device that was not pushed waits, or is pushed now, or has had the push of its absence.
    fn decide(&mut self, which: usize, is_attended: bool) {
        let Message { from, to, .. } = self.messages[which];
        let blocked = self.blocked.contains(&(to, from));
        (self.messages[which].waits, self.messages[which].for_room) = (false, false);
        for dev in 0..DEVICES.len() {
            let done = self.messages[which].pushed.contains(&dev);
            let Some((_, wanted)) = self.registered.get(&(to, dev)).copied().filter(|_| !done && !blocked) else {
                continue;
            };
            if is_attended {
                self.messages[which].waits = true;
                continue;
            }
            let told = self.absences.get(&(to, dev)).is_some_and(|push| !self.pushes[*push].unsent);
            if wanted.first && told {
                continue;
            }
            let queued = self.pushes.iter().filter(|push| push.state != State::Over).count() as u64;
            if queued >= ROOM {
                (self.messages[which].waits, self.messages[which].for_room) = (true, true);
                continue;
            }
            self.messages[which].pushed.insert(dev);
            if wanted.first {
                self.absences.insert((to, dev), self.pushes.len());
            }
            let (message, user, made_at, state) = (Some(which), to, self.chat.at, State::Queued);
            let (noted, withdrawn, silent, unsent) = (true, false, wanted.quiet, false);
            self.pushes.push(Push { message, user, dev, made_at, state, noted, withdrawn, silent, unsent });
        }
    }

    /// What the bridge does while the queue has room to spare.
    async fn decide_unpushed(&mut self) {
        let unpushed = self.chat.rig.store.chat_unpushed(1_000).await.unwrap().await.unwrap();
        let found: BTreeSet<Sid> = unpushed.iter().flat_map(|of| of.sids.clone()).collect();
        for message in self.messages.iter().filter(|message| message.waits && message.for_room) {
            assert!(found.contains(&message.sid), "{message:?}");
        }
        for Undecided { user, sids } in unpushed {
            let call = self.chat.call();
            let more = (0..2 * sids.len()).map(|_| self.chat.rig.sids.next(self.chat.at, 0));
            let call = ChatCall { push_sids: call.push_sids.iter().copied().chain(more).collect(), ..call };
            let again = self.chat.rig.store.chat_decide_again(user, sids.clone(), Attended::default(), call);
            again.await.unwrap().await.unwrap();
            for sid in sids {
                let at = self.messages.iter().position(|message| message.sid == sid).unwrap();
                if self.messages[at].waits {
                    self.decide(at, false);
                }
            }
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
        let (speaks, dev) = (dev, devices(&[DEVICES[dev]]).pop());
        let outcome =
            self.chat.receipt(NewReceipt { dev, attended: is_attended, of, ..received(USERS[to], &[]) }).await;
        assert_eq!(code(&outcome), hidden.then_some(ErrorCode::NotFound));
        if hidden {
            return;
        }
        self.absences.remove(&(to, speaks));
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
        let mut shown = BTreeSet::new();
        for at in 0..self.messages.len() {
            let message = &mut self.messages[at];
            if message.from != with || message.to != user || message.hidden || message.sid > sid {
                continue;
            }
            (message.received, message.waits) = (true, false);
            for push in self.pushes.iter_mut().filter(|push| push.message == Some(at) && push.noted) {
                if !take_back(push) {
                    push.noted = false;
                    shown.insert(push.dev);
                }
            }
        }
        self.clear(user, shown, by);
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

    async fn register(&mut self, (user, dev): (usize, usize), on: bool, how: Wanted) {
        let token = format!("{}_{}", USERS[user], DEVICES[dev]);
        let hour = |off: u64| format!("{:02}:00", (NOW / (60 * MINUTE) + off) % 24);
        let mut more = json!({ "first": how.first });
        if how.quiet {
            more["quiet"] = json!({ "from": hour(23), "to": hour(12), "tz": "UTC" });
        }
        let registration = on.then(|| registration(&token, &more));
        self.chat.change_device(registers(USERS[user], DEVICES[dev], registration)).await;
        if on {
            self.registered.insert((user, dev), (self.chat.at, how));
            self.absences.remove(&(user, dev));
        } else {
            self.unregistered(user, dev);
        }
    }

    fn unregistered(&mut self, user: usize, dev: usize) {
        self.absences.remove(&(user, dev));
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
            let push = self.pushes.iter_mut().find(is_it).unwrap_or_else(|| panic!("nobody asked for {claimed:?}"));
            push.state = State::InFlight(claimed.sid);
            assert_eq!(claimed.push["priority"], if push.silent { "normal" } else { "high" });
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
            How::Refuses | How::Gone => (push.state, push.noted, push.unsent) = (State::Over, false, true),
        }
        let is_older = self.registered.get(&(user, dev)).is_some_and(|(registered, _)| *registered <= made_at);
        if how == How::Gone && is_older {
            self.unregistered(user, dev);
        }
    }

    fn restarted(&mut self) {
        let crashed = self.pushes.iter_mut().filter(|push| matches!(push.state, State::InFlight(_)));
        crashed.for_each(fall_back);
    }

    async fn finish(mut self) {
        self.decide_unpushed().await;
        while self.pushes.iter().any(|push| push.state != State::Over) {
            let before = self.pushes.iter().filter(|push| push.state == State::Over).count();
            self.claim().await;
            while self.pushes.iter().any(|push| matches!(push.state, State::InFlight(_))) {
                self.answer(0, How::Takes).await;
            }
            let after = self.pushes.iter().filter(|push| push.state == State::Over).count();
            assert!(after > before, "a push does not go: {:?}", self.pushes);
            self.decide_unpushed().await;
        }
        assert!(!self.messages.iter().any(|message| message.waits && message.for_room), "there is room");
        assert!(self.chat.pushes().await.is_empty());
        for (user, name) in USERS.iter().enumerate() {
            self.check_copies(user).await;
            let told = self.chat.told(name, "receipts").await;
            let told: Vec<_> = told
                .iter()
                .filter(|receipt| ["delivered", "read"].contains(&receipt["status"].as_str().unwrap()))
                .map(|receipt| (receipt["sid"].as_str().unwrap().to_owned(), receipt["status"].as_str().unwrap()))
                .collect();
            let expected = self.receipts.iter().filter(|(writer, ..)| *writer == user);
            let expected: Vec<_> = expected.map(|(_, sid, status)| (sid.to_string(), *status)).collect();
            assert_eq!(told, expected, "{name}");
        }
    }

    /// Every message that a user has: once without a mark, and in its place.
    async fn check_copies(&self, user: usize) {
        let mut counts = BTreeMap::<usize, u64>::new();
        let (mut expected, mut left) = (Vec::new(), Vec::new());
        for message in self.messages.iter().filter(|m| m.from == user || m.to == user && !m.hidden) {
            let count = counts.entry(if message.from == user { message.to } else { message.from }).or_default();
            *count += 1;
            expected.push((message.sid.to_string(), *count));
            left.extend((!message.deleted).then(|| (message.sid.to_string(), *count)));
        }
        let place = |copy: &Value| (copy["sid"].as_str().unwrap().to_owned(), copy["n"].as_u64().unwrap());
        let copies = self.chat.told(USERS[user], "messages").await;
        let unmarked = copies.iter().filter(|copy| copy["redelivered"] != true).map(place).collect::<Vec<_>>();
        assert_eq!(unmarked, left);
        let page = self.chat.rig.store.chat_sync(owner(USERS[user]), None).await.unwrap().await.unwrap();
        let items: Vec<Value> = page.items.iter().map(|item| serde_json::from_slice(item).unwrap()).collect();
        assert_eq!(items.iter().map(place).collect::<Vec<_>>(), expected);
    }
}

/// What waits goes; what is in flight goes on, and is not sent again. Whether it is gone.
fn take_back(push: &mut Push) -> bool {
    match push.state {
        State::Queued => {
            (push.state, push.noted, push.unsent) = (State::Over, false, true);
            return true;
        }
        State::InFlight(_) => push.withdrawn = true,
        State::Over => {}
    }
    false
}

fn fall_back(push: &mut Push) {
    if push.withdrawn {
        (push.state, push.noted, push.unsent) = (State::Over, false, true);
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
            let chat = Chat::with(&USERS, Limits { queue_rows: ROOM, ..Limits::default() }).await;
            let model = Model {
                chat,
                messages: Vec::new(),
                pushes: Vec::new(),
                contacts: BTreeSet::new(),
                blocked: BTreeSet::new(),
                read: BTreeMap::new(),
                told: BTreeMap::new(),
                registered: BTreeMap::new(),
                absences: BTreeMap::new(),
                waiting: Vec::new(),
                receipts: Vec::new(),
            };
            model.run(ops).await;
        });
    }
}
