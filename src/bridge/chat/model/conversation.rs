//! A conversation of two: who hears of what, and how far each has got.

use super::messages::{Kind, Message, Waiting};
use super::people::Document;
use super::steps::Change;
use super::{DEVICES, GROUP, Model, NAMES};
use crate::chat::id::Sid;
use crate::store::AckedBy;
use serde_json::{Value, json};
use std::collections::BTreeMap;

impl Model {
    /// A message to one comes in; with `reads` its writer has the conversation before the eyes.
    pub(super) fn written(&mut self, sid: Sid, new: Waiting, reads: bool) {
        let (from, to, dev) = (new.draft.from, new.draft.to, new.draft.dev);
        let is_hidden = from == to || self.blocks(to, from);
        let is_attended = self.people[to].is_attended();
        if from != to {
            let is_seen = !self.blocks(from, to) && !self.blocks(to, from);
            if self.people[from].contacts.insert(to) && is_seen {
                self.tell_contact(from, to);
            }
            if reads {
                if let Some(last) = self.nth(0, |m| m.from == to && m.to == from && m.copies.contains_key(&from)) {
                    self.reads((from, to), self.messages[last].sid, Some(dev));
                }
                self.read.insert((from, to), sid);
            }
        }
        let kind = if new.document["type"] == "reaction" { Kind::Reaction } else { Kind::Text };
        let place = |user: usize, with: usize| {
            let its = self.messages.iter().filter(|m| m.with(user) == with && m.copies.contains_key(&user));
            its.count() as u64 + 1
        };
        let mut places = BTreeMap::from([(from, place(from, to))]);
        if !is_hidden {
            places.insert(to, place(to, from));
        }
        let message = self.new_message(sid, kind, new, places);
        let which = self.deliver(message);
        let waits = !is_hidden && self.decide(which, to);
        self.given(to, sid, (is_attended, waits));
    }

    /// A message waits for whoever looks, if its push does.
    pub(super) fn given(&mut self, user: usize, sid: Sid, (is_attended, waits): (bool, bool)) {
        if is_attended && waits {
            assert_eq!(self.people[user].handle_given(sid), None);
        }
    }

    /// Messages to a user, be it in the group.
    fn to(&self, user: usize, back: usize) -> Option<usize> {
        self.nth(back, |m| m.from != user && (m.to == user || m.to == GROUP))
    }

    /// A device says that it has a message, and with `up_to` all of the conversation before it.
    pub(super) async fn confirm_one(&mut self, user: usize, dev: Option<usize>, back: usize, up_to: bool) {
        let Some(which) = self.to(user, back) else { return };
        let sid = self.messages[which].sid;
        let document = json!({ "sid": sid.to_string(), "status": "received", "up_to": up_to });
        let refused = self.chat.says((NAMES[user], dev.map(|dev| DEVICES[dev])), "receipts", &document).await;
        let waited = if up_to { self.waited_before(user, dev, which) } else { Vec::new() };
        let mut is_attended = self.people[user].handle_confirmed(dev, sid);
        let has = self.messages[which].copies.contains_key(&user);
        assert_eq!(refused.as_deref(), (!has).then_some("NOT_FOUND"));
        if !has {
            return;
        }
        is_attended |= !waited.is_empty();
        self.received(user, which, up_to);
        if is_attended {
            self.withdraw(user, which, up_to);
        }
        if let Some(dev) = dev {
            self.people[user].devices[dev].told = None;
        }
        for sid in waited {
            self.people[user].handle_confirmed(dev, sid);
        }
    }

    /// What the device was given of the conversation before a message.
    fn waited_before(&self, user: usize, dev: Option<usize>, which: usize) -> Vec<Sid> {
        let message = &self.messages[which];
        let with = message.with(user);
        let is_before = |sid: &Sid| {
            let of = self.messages.iter().find(|m| m.sid == *sid);
            *sid < message.sid
                && of.is_some_and(|of| of.with(user) == with && of.from != user && of.copies.contains_key(&user))
        };
        self.people[user].waited_for(dev, message.sid).into_iter().filter(is_before).collect()
    }

    /// A device takes all that waits for it, in its order and without a hole, and acknowledges it.
    pub(super) async fn acknowledge(&mut self, user: usize, dev: usize) {
        if !self.people[user].devices[dev].is_connected() {
            return;
        }
        for document in self.take(user).await.into_iter().filter(|document| !document.own) {
            let Document { sid, n, which, .. } = document;
            self.chat.acknowledges(NAMES[user], DEVICES[dev], sid).await;
            let is_attended = self.people[user].handle_confirmed(Some(dev), sid);
            let is_readable = self.messages[which].copies.contains_key(&user);
            if is_attended && is_readable && n.is_some() {
                self.withdraw(user, which, false);
            }
            if is_readable || !is_attended {
                self.people[user].devices[dev].told = None;
            }
        }
    }

    /// All that waits in an inbox, each once.
    pub(super) async fn take(&mut self, user: usize) -> Vec<Document> {
        let waiting = self.chat.waiting(NAMES[user], "messages").await;
        let copies: Vec<Value> = waiting.iter().map(|copy| serde_json::from_slice(&copy.payload).unwrap()).collect();
        let unmarked = copies.iter().filter(|copy| copy["redelivered"] != true);
        let got: Vec<_> = unmarked.map(|copy| (copy["sid"].as_str().unwrap().to_owned(), copy["n"].as_u64())).collect();
        let mut inbox = std::mem::take(&mut self.people[user].inbox);
        inbox.retain(|document| !self.is_gone_with_all(user, document));
        let expected: Vec<_> = inbox.iter().map(|document| (document.sid.to_string(), document.n)).collect();
        assert_eq!(got, expected, "{}", NAMES[user]);
        self.chat.settle(&waiting, AckedBy::Owner).await;
        for Document { n, which, .. } in inbox.iter().filter(|document| !document.own) {
            // Of a change nothing is told.
            if n.is_some() {
                self.received(user, *which, false);
            }
        }
        inbox
    }

    /// Of a message of the group that was edited since there is nothing any more for who has deleted everything.
    fn is_gone_with_all(&self, user: usize, document: &Document) -> bool {
        let message = &self.messages[document.which];
        let is_edited = message.copies.get(&message.from).is_some_and(|copy| copy.edited && !copy.is_tombstone);
        document.is_shared && is_edited && self.group.has_deleted(user, message.sid)
    }

    /// The first confirmation is told, if the writer may hear of it.
    fn received(&mut self, user: usize, which: usize, up_to: bool) {
        let Message { sid, from, to, kind, .. } = self.messages[which];
        if to == GROUP {
            if kind != Kind::Notice || up_to {
                self.group.handle_received(user, sid);
            }
            return;
        }
        let is_meant = |m: &Message| {
            m.from == from
                && m.to == user
                && m.copies.contains_key(&user)
                && if up_to { m.sid <= sid } else { m.sid == sid }
        };
        let meant: Vec<_> = (0..self.messages.len()).filter(|at| is_meant(&self.messages[*at])).collect();
        if let Some(newest) = meant.iter().rev().find(|at| !self.messages[**at].received)
            && self.may_hear(from, user)
        {
            let newest = self.messages[*newest].sid;
            let told = &mut self.told.entry((from, user)).or_default().0;
            *told = (*told).max(Some(newest));
            self.receipts.push((from, newest, "delivered"));
        }
        meant.into_iter().for_each(|at| self.messages[at].received = true);
    }

    /// An attended device has it: no push of it is made any more, nor sent.
    fn withdraw(&mut self, user: usize, which: usize, up_to: bool) {
        let (with, sid) = (self.messages[which].with(user), self.messages[which].sid);
        for at in 0..self.messages.len() {
            let message = &mut self.messages[at];
            let is_meant = message.with(user) == with && if up_to { message.sid <= sid } else { message.sid == sid };
            if is_meant && message.from != user {
                message.waits.remove(&user);
                message.for_room.remove(&user);
                self.take_back_pushes(at, user);
            }
        }
    }

    pub(super) async fn read_one(&mut self, user: usize, dev: usize, back: usize) {
        let Some(which) = self.nth(back, |m| m.copies.contains_key(&user) && m.from != m.to) else { return };
        let (with, sid) = (self.messages[which].with(user), self.messages[which].sid);
        self.chat.told(NAMES[user], "read").await;
        let document = json!({ "with": NAMES[with], "sid": sid.to_string() });
        assert_eq!(self.chat.says((NAMES[user], Some(DEVICES[dev])), "read", &document).await, None);
        self.people[user].handle_sign(dev);
        self.people[user].handle_confirmed(Some(dev), sid);
        let waited = self.waited_before(user, Some(dev), which);
        let is_ahead = !self.has_read(user, with, sid);
        if with == GROUP {
            self.reads_group(user, sid, Some(dev));
        } else {
            self.reads((user, with), sid, Some(dev));
        }
        self.people[user].devices[dev].told = None;
        for sid in waited {
            self.people[user].handle_confirmed(Some(dev), sid);
        }
        let unread = self.unread(user, with);
        let expected = json!({ "with": NAMES[with], "sid": sid.to_string(), "unread": unread });
        let expected: Vec<_> = is_ahead.then_some(expected).into_iter().collect();
        assert_eq!(self.chat.told(NAMES[user], "read").await, expected);
    }

    /// `user` reads up to here what `with` has written.
    pub(super) fn reads(&mut self, (user, with): (usize, usize), sid: Sid, by: Option<usize>) {
        if self.has_read(user, with, sid) {
            return;
        }
        let before = self.read.insert((user, with), sid);
        let is_read = |m: &Message| m.from == with && m.to == user && m.copies.contains_key(&user) && m.sid <= sid;
        let read: Vec<_> = (0..self.messages.len()).filter(|at| is_read(&self.messages[*at])).collect();
        let last = read.last().map(|at| self.messages[*at].sid).filter(|last| Some(*last) > before);
        if let Some(last) = last.filter(|_| self.may_hear(with, user)) {
            self.tell_read(with, user, last);
        }
        if last.is_some() {
            read.iter().for_each(|at| self.messages[*at].received = true);
        }
        let mut spared = self.people[user].connected();
        spared.extend(by);
        self.clear(user, &read, &spared);
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
        let of = |m: &&Message| m.from == writer && m.to == reader && m.copies.contains_key(&reader);
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

    /// Why a message between two is not changed.
    pub(super) fn no_change(&self, which: usize, change: &Change) -> Option<&'static str> {
        let message = &self.messages[which];
        match (change.by == message.from, message.copies[&message.from].is_tombstone) {
            (false, _) if !message.copies.contains_key(&change.by) => Some("NOT_FOUND"),
            (false, _) => Some("FORBIDDEN"),
            (true, true) if change.retract => Some("DUPLICATE"),
            (true, true) => Some("NOT_FOUND"),
            (true, false) => None,
        }
    }

    /// Who has the text of a change, and whether it comes as a document: nobody who has blocked the writer.
    pub(super) fn change_reaches(&self, which: usize) -> Vec<(usize, bool)> {
        let Message { from, to, ref copies, .. } = self.messages[which];
        let mut reaches = vec![(from, true)];
        if let Some(copy) = copies.get(&to).filter(|_| from != to && !self.blocks(to, from)) {
            reaches.push((to, copy.has()));
        }
        reaches
    }
}
