//! The group: who is in it, how far each member has got, and what is written to it.

use super::messages::{Kind, Message, Waiting};
use super::steps::{Change, Draft};
use super::{GROUP, Model, NAMES, USERS};
use crate::chat::id::Sid;
use crate::store::MEMBERSHIPS_MAX;
use serde_json::{Value, json};
use std::collections::BTreeMap;

#[derive(Debug, Default)]
pub(super) struct GroupState {
    members: Vec<Member>,
    version: u64,
    /// The place of the newest item, and its id.
    newest: (u64, Option<Sid>),
}

#[derive(Debug, Clone, Default)]
struct Member {
    is_in: bool,
    came: Option<Sid>,
    /// The last that it could read.
    gone: Option<Sid>,
    /// From when to when it was a member before.
    before: Vec<(Option<Sid>, Option<Sid>)>,
    received: Option<Sid>,
    /// Up to where it has deleted everything.
    deleted: Option<Sid>,
}

impl GroupState {
    pub(super) fn is_in(&self, user: usize) -> bool {
        self.members.get(user).is_some_and(|member| member.is_in)
    }

    /// Whether it was written while the user was a member.
    pub(super) fn may_read(&self, user: usize, sid: Sid) -> bool {
        let Member { came, gone, before, .. } = &self.members[user];
        let is_in = Some(sid) >= *came && gone.is_none_or(|gone| sid <= gone);
        is_in || before.iter().any(|(came, gone)| *came <= Some(sid) && Some(sid) <= *gone)
    }

    pub(super) fn has_received(&self, user: usize, sid: Sid) -> bool {
        self.members[user].received >= Some(sid)
    }

    pub(super) fn handle_received(&mut self, user: usize, sid: Sid) {
        let member = &mut self.members[user];
        if member.is_in {
            member.received = member.received.max(Some(sid));
        }
    }

    /// Whether all up to here was deleted at once.
    pub(super) fn has_deleted(&self, user: usize, sid: Sid) -> bool {
        self.members[user].deleted >= Some(sid)
    }

    /// The newest item that a user may read, unless all was deleted with it.
    pub(super) fn shown(&self, user: usize) -> Option<Sid> {
        let member = &self.members[user];
        member.gone.or(self.newest.1).filter(|newest| Some(*newest) > member.deleted)
    }

    /// The next place, for each who is in the group, and one more.
    fn places(&mut self, sid: Sid, also: Option<usize>) -> BTreeMap<usize, u64> {
        self.newest = (self.newest.0 + 1, Some(sid));
        let users = (0..USERS).filter(|user| self.is_in(*user) || Some(*user) == also);
        users.map(|user| (user, self.newest.0)).collect()
    }
}

impl Model {
    pub(super) async fn create_group(&mut self) {
        let request =
            json!({ "op": "group.create", "group": NAMES[GROUP], "members": NAMES[1..USERS], "name": "Team" });
        let answer = self.chat.asks(NAMES[0], &request).await;
        assert_eq!((&answer["version"], answer.get("invited")), (&json!(1), None), "{answer}");
        let sid = self.newest_notice().await;
        let member = Member { is_in: true, came: Some(sid), ..Member::default() };
        (self.group.members, self.group.version) = (vec![member; USERS], 1);
        self.read.extend((0..USERS).map(|user| ((user, GROUP), sid)));
        self.notice(sid, None);
    }

    /// The owner reads all notices.
    async fn newest_notice(&self) -> Sid {
        let items = self.chat.history(NAMES[0], NAMES[GROUP]).await;
        let notice = items.last().filter(|item| item["type"] == "notice").unwrap();
        Sid::parse(notice["sid"].as_str().unwrap()).unwrap()
    }

    fn notice(&mut self, sid: Sid, also: Option<usize>) {
        let (draft, id, document) = (Draft::plain(0, GROUP, 0), String::new(), Value::Null);
        let places = self.group.places(sid, also);
        let new = Waiting { draft, id, document, not_before: 0, expires: None };
        let message = self.new_message(sid, Kind::Notice, new, places);
        self.deliver(message);
    }

    /// A message to the group is on disk, or refused.
    pub(super) fn posted(&mut self, refused: Option<&str>, sid: Option<Sid>, new: Waiting) {
        let Draft { from, dev, all, .. } = new.draft;
        let expected = match self.group.is_in(from) {
            false => Some("NOT_MEMBER"),
            true => (all && from != 0).then_some("FORBIDDEN"),
        };
        assert_eq!((refused, sid.is_none()), (expected, expected.is_some()));
        let Some(sid) = sid else { return };
        if let Some(newest) = self.group.newest.1 {
            self.reads_group(from, newest, Some(dev));
        }
        self.read.insert((from, GROUP), sid);
        self.group.handle_received(from, sid);
        let places = self.group.places(sid, None);
        let kind = if new.document["type"] == "reaction" { Kind::Reaction } else { Kind::Text };
        let message = self.new_message(sid, kind, new, places);
        let which = self.deliver(message);
        for user in (0..USERS).filter(|user| *user != from && self.group.is_in(*user)).collect::<Vec<_>>() {
            let (is_attended, waits) = (self.people[user].is_attended(), self.decide(which, user));
            if waits {
                self.messages[which].waited.insert(user);
            }
            self.given(user, sid, (is_attended, waits));
            if waits && !is_attended {
                self.again.entry(user).or_default().insert(sid);
            }
        }
    }

    /// A member reads up to here, or who was one.
    pub(super) fn reads_group(&mut self, user: usize, sid: Sid, by: Option<usize>) {
        if self.has_read(user, GROUP, sid) {
            return;
        }
        self.read.insert((user, GROUP), sid);
        self.group.handle_received(user, sid);
        let is_read = |m: &Message| m.to == GROUP && m.sid <= sid;
        let read: Vec<_> = (0..self.messages.len()).filter(|at| is_read(&self.messages[*at])).collect();
        let mut spared = self.people[user].connected();
        spared.extend(by);
        self.clear(user, &read, &spared);
    }

    async fn change_group(&mut self, op: &str, user: usize) -> Value {
        let request = json!({ "op": op, "group": NAMES[GROUP], "members": [NAMES[user]] });
        self.chat.asks(NAMES[0], &request).await
    }

    /// Only who has the owner as a contact is put in at once.
    pub(super) async fn add(&mut self, user: usize) {
        if self.blocks(user, 0) {
            return;
        }
        let was_in = self.group.is_in(user);
        let answer = self.change_group("group.add", user).await;
        self.group.version += u64::from(!was_in);
        let added = if was_in { json!([]) } else { json!([NAMES[user]]) };
        assert_eq!((&answer["version"], &answer["members"]), (&json!(self.group.version), &added), "{answer}");
        if was_in {
            return;
        }
        let sid = self.newest_notice().await;
        let Member { came, gone, mut before, deleted, .. } = std::mem::take(&mut self.group.members[user]);
        before.push((came, gone));
        let surplus = before.len().saturating_sub(MEMBERSHIPS_MAX);
        before.drain(..surplus);
        self.group.members[user] = Member { is_in: true, came: Some(sid), before, deleted, ..Member::default() };
        self.read.insert((user, GROUP), sid);
        // Nothing of before is to be read any more; it stays the user's, as far as so many times are kept.
        let of_group: Vec<_> = (0..self.messages.len()).filter(|at| self.messages[*at].to == GROUP).collect();
        let spared = self.people[user].attended();
        self.clear(user, &of_group, &spared);
        for at in of_group {
            if self.messages[at].from != user && !self.group.may_read(user, self.messages[at].sid) {
                self.messages[at].copies.remove(&user);
            }
        }
        self.notice(sid, None);
    }

    pub(super) async fn remove(&mut self, user: usize) {
        let answer = self.change_group("group.remove", user).await;
        if !self.group.is_in(user) {
            assert_eq!((&answer["ok"], &answer["code"]), (&json!(false), &json!("NOT_FOUND")));
            return;
        }
        self.group.version += 1;
        let version = json!(self.group.version);
        assert_eq!((&answer["version"], &answer["members"]), (&version, &json!([NAMES[user]])), "{answer}");
        let sid = self.newest_notice().await;
        (self.group.members[user].is_in, self.group.members[user].gone) = (false, Some(sid));
        self.notice(sid, Some(user));
        let of_group: Vec<_> = (0..self.messages.len()).filter(|at| self.messages[*at].to == GROUP).collect();
        self.clear(user, &of_group, &[]);
    }

    /// A member has deleted all that there is, and so has read it.
    pub(super) fn deleted_of_group(&mut self, user: usize) {
        let Some(last) = self.group.members[user].gone.or(self.group.newest.1) else { return };
        self.group.members[user].deleted = Some(last);
        let read = self.read.entry((user, GROUP)).or_insert(last);
        *read = (*read).max(last);
    }

    /// Why a message of the group is not changed.
    pub(super) fn no_change_in_group(&self, which: usize, change: &Change) -> Option<&'static str> {
        let (message, by) = (&self.messages[which], change.by);
        if !self.group.is_in(by) {
            return Some("NOT_MEMBER");
        }
        if !message.copies.contains_key(&by) {
            return Some("NOT_FOUND");
        }
        if message.from != by && !(change.retract && by == 0) {
            return Some("FORBIDDEN");
        }
        let is_tombstone = message.copies.values().any(|copy| copy.is_tombstone);
        is_tombstone.then_some(if change.retract { "DUPLICATE" } else { "NOT_FOUND" })
    }

    /// Whoever has the message has its newest text; who is in the group, can read it and has not blocked its writer is told.
    pub(super) fn change_reaches_in_group(&self, which: usize, by: usize) -> Vec<(usize, bool)> {
        let message = &self.messages[which];
        let is_told = |user: usize| {
            let may_read = self.group.is_in(user) && self.group.may_read(user, message.sid);
            user == by || may_read && message.copies[&user].is_open() && !self.blocks(user, message.from)
        };
        message.copies.keys().map(|user| (*user, is_told(*user))).collect()
    }
}
