//! What becomes of a message: it is edited, retracted or deleted, or its time is over.

use super::messages::{Amended, Kind, Message, names};
use super::people::Document;
use super::steps::Change;
use super::{DEVICES, GROUP, Model, NAMES, USERS, now};
use crate::chat::id::Sid;
use serde_json::json;
use std::collections::{BTreeMap, BTreeSet};

impl Model {
    pub(super) async fn amend(&mut self, change: &Change) {
        let by = change.by;
        let is_meant =
            |m: &Message| m.kind != Kind::Notice && (m.to == GROUP || m.from != m.to && (m.from == by || m.to == by));
        let Some(which) = self.nth(change.back, is_meant) else { return };
        let with = self.messages[which].with(by);
        self.amendments += 1;
        let (id, text) = (format!("a{}", self.amendments), format!("text {}", self.amendments));
        let sid = self.messages[which].sid.to_string();
        let mut document = json!({ "id": id, "type": "retract", "to": NAMES[with], "ref": sid });
        if !change.retract {
            (document["type"], document["body"]) = (json!("edit"), json!(text));
            if let Some(named) = change.named {
                document["mentions"] = json!(names(named));
            }
        }
        self.people[by].handle_sign(2);
        let refused = self.chat.says((NAMES[by], Some(DEVICES[2])), "messages", &document).await;
        let own = self.sent(by, &id).await;
        let expected =
            if with == GROUP { self.no_change_in_group(which, change) } else { self.no_change(which, change) };
        assert_eq!((refused.as_deref(), own.is_none()), (expected, expected.is_some()), "{document}");
        let Some(own) = own else { return };
        let to = if with == GROUP { self.change_reaches_in_group(which, by) } else { self.change_reaches(which) };
        self.amended(which, change, (own, &text), &to);
    }

    /// Those get the change who are given: all of them have its text, and the first ones are told of it.
    fn amended(&mut self, which: usize, change: &Change, (own, text): (Sid, &str), to: &[(usize, bool)]) {
        let why = if change.retract { "retracted" } else { "edited" };
        let swallowed = self.messages[which].is_of_two() && self.blocks(self.messages[which].to, change.by);
        let message = &mut self.messages[which];
        let before = message.named.clone();
        for earlier in &mut message.amendments {
            earlier.bury(why, (swallowed && !earlier.swallowed).then_some(change.by));
        }
        if let Some(named) = change.named.filter(|_| !change.retract && !swallowed) {
            message.named = (0..USERS).filter(|user| named[*user]).collect();
        }
        let mut shown = BTreeMap::new();
        for (user, is_told) in to {
            if *is_told {
                self.people[*user].inbox.push(Document {
                    sid: own,
                    n: None,
                    which,
                    own: *user == change.by,
                    is_shared: false,
                });
                shown.insert(*user, if change.retract { String::new() } else { text.to_owned() });
            }
            let is_blocked = self.people[*user].blocked.contains(&message.from);
            let Some(copy) = message.copies.get_mut(user) else { continue };
            if change.retract {
                copy.bury(why);
                continue;
            }
            (copy.shown, copy.edited) = (text.to_owned(), true);
            if message.to == GROUP && !self.group.is_in(*user) {
                // Words of after its time are not for who has gone.
                copy.shown = why.to_owned();
            } else if message.to == GROUP && is_blocked && !copy.deleted {
                copy.hidden = true;
            }
            let is_named = message.named.contains(user);
            let is_new = message.to != GROUP || !before.contains(user) && !is_blocked;
            copy.is_mention = is_named && (copy.is_mention || is_new);
        }
        let swallowed = swallowed || message.is_of_two() && !message.copies.contains_key(&message.to);
        message.amendments.push(Amended { sid: own, shown, swallowed, buried: false });
        let (from, is_of_two) = (message.from, message.is_of_two());
        let is_hidden = |user: usize| message.copies.get(&user).is_some_and(|copy| copy.hidden);
        let readers = to.iter().map(|(user, _)| *user).filter(|user| *user != from);
        let readers = readers.filter(|user| change.retract || is_hidden(*user));
        for user in readers.filter(|user| is_of_two || self.group.is_in(*user)).collect::<Vec<_>>() {
            let spared = if is_of_two { self.people[user].attended() } else { Vec::new() };
            self.clear(user, &[which], &spared);
        }
    }

    /// A user deletes the own copy, of one message or of all of a conversation.
    pub(super) async fn delete_one(&mut self, user: usize, back: usize, all: bool) {
        let Some(which) = self.nth(back, |m| m.copies.contains_key(&user)) else { return };
        let (with, sid) = (self.messages[which].with(user), self.messages[which].sid);
        let mut request = json!({ "op": "delete", "sids": [sid.to_string()] });
        if all {
            request = json!({ "op": "delete", "with": NAMES[with] });
        }
        let answer = self.chat.asks(NAMES[user], &request).await;
        assert_eq!(answer["ok"], true, "{answer}");
        let is_meant =
            |m: &Message| m.with(user) == with && m.copies.get(&user).is_some_and(|copy| all || copy.is_open());
        let meant: Vec<_> =
            (0..self.messages.len()).filter(|at| (all || *at == which) && is_meant(&self.messages[*at])).collect();
        for at in &meant {
            let message = &mut self.messages[*at];
            let copy = message.copies.get_mut(&user).unwrap();
            if all {
                copy.deleted_with_all = true
            } else {
                copy.deleted = true
            }
            let is_with_nobody = message.copies.values().all(|copy| !copy.has());
            let is_buried = message.copies.values().all(|copy| copy.is_tombstone);
            if message.is_of_two() && is_with_nobody && !is_buried {
                message.copies.values_mut().for_each(|copy| copy.bury("deleted"));
            }
        }
        if all && with == GROUP {
            self.deleted_of_group(user);
        }
        let of_others: Vec<_> = meant.into_iter().filter(|at| self.messages[*at].from != user).collect();
        let mut spared = self.people[user].connected();
        spared.push(1);
        self.clear(user, &of_others, &spared);
    }

    /// What is to be deleted by now is a tombstone everywhere, and waits nowhere.
    pub(super) async fn expire(&mut self) {
        let is_due = |m: &Message| !m.is_over && m.expires.is_some_and(|expires| expires <= now());
        let mut due: Vec<_> = (0..self.messages.len()).filter(|at| is_due(&self.messages[*at])).collect();
        if due.is_empty() {
            return;
        }
        due.sort_by_key(|at| self.messages[*at].expires);
        self.chat.expire().await;
        for at in &due {
            let message = &mut self.messages[*at];
            message.is_over = true;
            let gone: BTreeSet<Sid> = message.amendments.iter().map(|one| one.sid).chain([message.sid]).collect();
            if message.copies.values().any(|copy| !copy.is_tombstone) {
                message.copies.values_mut().for_each(|copy| copy.bury("expired"));
            }
            message.amendments.iter_mut().for_each(|one| one.bury("expired", None));
            self.people.iter_mut().for_each(|person| person.inbox.retain(|waiting| !gone.contains(&waiting.sid)));
        }
        for at in due {
            let message = &self.messages[at];
            let readers = message.copies.keys().copied().filter(|user| *user != message.from);
            let readers: Vec<_> = readers.filter(|user| message.is_of_two() || self.group.is_in(*user)).collect();
            for user in readers {
                self.clear(user, &[at], &[]);
            }
        }
    }
}
