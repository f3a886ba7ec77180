//! What is written: messages to one or to the group, at once or at a time.

use super::people::{Document, with};
use super::steps::Draft;
use super::{DEVICES, GROUP, Model, NAMES, USERS, harness, now};
use crate::chat::id::Sid;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Reaction,
    /// Of a change of the group.
    Notice,
}

#[derive(Debug, Clone)]
pub(super) struct Message {
    pub(super) sid: Sid,
    pub(super) at: u64,
    pub(super) kind: Kind,
    pub(super) from: usize,
    pub(super) to: usize,
    pub(super) id: String,
    pub(super) document: Value,
    pub(super) wish: &'static str,
    /// Who is named in it now, and whether its reader was when it was written.
    pub(super) named: BTreeSet<usize>,
    pub(super) was_named: bool,
    /// Its place, for each who has it.
    pub(super) places: BTreeMap<usize, u64>,
    /// What each has of it.
    pub(super) copies: BTreeMap<usize, Copy>,
    /// A device of its only reader has it.
    pub(super) received: bool,
    /// Those with a push that was not made: somebody looks, or the queue has no room.
    pub(super) waits: BTreeSet<usize>,
    /// Those of them for whose push there is no room.
    pub(super) for_room: BTreeSet<usize>,
    /// Those who were waited for when it was written to the group.
    pub(super) waited: BTreeSet<usize>,
    pub(super) decided_at: u64,
    /// Devices that were pushed for it, whatever came of that.
    pub(super) pushed: BTreeSet<(usize, usize)>,
    pub(super) amendments: Vec<Amended>,
    pub(super) expires: Option<u64>,
    pub(super) is_over: bool,
}

/// What one side has of a message.
#[derive(Debug, Clone)]
pub(super) struct Copy {
    pub(super) shown: String,
    pub(super) is_tombstone: bool,
    pub(super) edited: bool,
    /// It names the one who has it.
    pub(super) is_mention: bool,
    pub(super) deleted: bool,
    pub(super) deleted_with_all: bool,
    /// Its writer was blocked when it was written to the group or edited there: of what it says nothing is to be seen.
    pub(super) hidden: bool,
}

impl Copy {
    pub(super) fn has(&self) -> bool {
        !self.deleted && !self.deleted_with_all
    }

    /// What it says is there to be read, or was.
    pub(super) fn is_open(&self) -> bool {
        self.has() && !self.hidden
    }

    pub(super) fn bury(&mut self, why: &str) {
        (self.shown, self.is_tombstone) = (why.to_owned(), true);
    }
}

/// An edit or retract, as each has it who was told of it.
#[derive(Debug, Clone)]
pub(super) struct Amended {
    pub(super) sid: Sid,
    pub(super) shown: BTreeMap<usize, String>,
    /// The reader had blocked the writer.
    pub(super) swallowed: bool,
    /// It says nothing any more, to nobody.
    pub(super) buried: bool,
}

impl Amended {
    /// A later change takes the place of what it says: for all, or for the writer alone.
    pub(super) fn bury(&mut self, why: &str, alone: Option<usize>) {
        if self.buried {
            return;
        }
        let is_meant = |user: &usize| alone.is_none_or(|writer| *user == writer);
        let shown = self.shown.iter_mut().filter(|(user, _)| is_meant(user));
        shown.for_each(|(_, shown)| *shown = why.to_owned());
        self.buried = alone.is_none();
    }
}

/// A message that waits for its time.
#[derive(Debug, Clone)]
pub(super) struct Waiting {
    pub(super) draft: Draft,
    pub(super) id: String,
    pub(super) document: Value,
    pub(super) not_before: u64,
    pub(super) expires: Option<u64>,
}

impl Message {
    pub(super) fn with(&self, user: usize) -> usize {
        with(user, self.from, self.to)
    }

    pub(super) fn is_of_two(&self) -> bool {
        self.to != GROUP
    }

    /// Whether it counts as unread at somebody who has not read up to it.
    pub(super) fn counts(&self, user: usize) -> bool {
        let copy = self.copies.get(&user).filter(|_| self.kind == Kind::Text && self.from != user);
        copy.is_some_and(|copy| copy.is_open() && !copy.is_tombstone)
    }

    /// Of what was changed since, nobody knows what it said.
    fn repeats(&self, document: &Value) -> bool {
        let own = &self.copies.get(&self.from);
        self.document == *document || own.is_none_or(|copy| copy.edited || copy.is_tombstone)
    }
}

pub(super) fn names(named: [bool; USERS]) -> Vec<&'static str> {
    (0..USERS).filter(|user| named[*user]).map(|user| NAMES[user]).collect()
}

/// The message of this id that is `sent`, as receipts say.
fn sid_of(receipts: &[Value], id: &str) -> Option<Sid> {
    let sent = receipts.iter().rfind(|told| told["status"] == "sent" && told["id"] == id)?;
    Some(Sid::parse(sent["sid"].as_str().unwrap()).unwrap())
}

impl Model {
    /// Messages from the newest on that meet a condition: the n-th, or the last there is.
    pub(super) fn nth(&self, back: usize, is_meant: impl Fn(&Message) -> bool) -> Option<usize> {
        let meant: Vec<_> = (0..self.messages.len()).rev().filter(|at| is_meant(&self.messages[*at])).collect();
        meant.get(back).or_else(|| meant.last()).copied()
    }

    pub(super) fn has_read(&self, user: usize, with: usize, sid: Sid) -> bool {
        self.read.get(&(user, with)).is_some_and(|read| *read >= sid)
    }

    pub(super) fn unread(&self, user: usize, with: usize) -> usize {
        self.count(user, with, |_| true)
    }

    pub(super) fn mentions(&self, user: usize, with: usize) -> usize {
        self.count(user, with, |message| message.copies[&user].is_mention)
    }

    fn count(&self, user: usize, with: usize, is_meant: impl Fn(&Message) -> bool) -> usize {
        let is_in = with != GROUP || self.group.is_in(user);
        let its = self.messages.iter().filter(|m| m.with(user) == with && m.counts(user) && is_in);
        its.filter(|m| !self.has_read(user, with, m.sid) && is_meant(m)).count()
    }

    pub(super) fn unread_in_all(&self, user: usize) -> usize {
        (0..NAMES.len()).map(|with| self.unread(user, with)).sum()
    }

    /// Receipts that came to a writer since; the id of the message that is `sent` by one of them.
    pub(super) async fn sent(&mut self, from: usize, id: &str) -> Option<Sid> {
        let told = self.chat.told(NAMES[from], "receipts").await;
        let sid = sid_of(&told, id);
        self.got[from].extend(told);
        sid
    }

    fn document(&self, draft: &Draft) -> Value {
        let (id, to) = (format!("m{}", draft.id), draft.to);
        let mut document = json!({ "id": id, "to": NAMES[to], "body": format!("body {id}") });
        let mut named = names(draft.named);
        if draft.all {
            named.push("*");
        }
        if !named.is_empty() {
            document["mentions"] = json!(named);
        }
        if draft.wish != "auto" {
            document["push"] = json!(draft.wish);
        }
        let is_there = |m: &Message| m.copies.get(&draft.from).is_some_and(|copy| !copy.hidden);
        let about = self.nth(0, |m| m.with(draft.from) == to && is_there(m));
        if let Some(about) = about.filter(|_| draft.reaction) {
            document["type"] = json!("reaction");
            document["ref"] = json!(self.messages[about].sid.to_string());
        }
        let expires = draft.deleted.map(|after| now() + (draft.sent.unwrap_or(0) + after) * 1_000);
        if let Some(expires) = expires {
            document["expires"] = json!(expires);
        }
        document
    }

    pub(super) async fn write(&mut self, draft: &Draft) {
        let (from, id, document) = (draft.from, format!("m{}", draft.id), self.document(draft));
        if draft.to == GROUP && self.waiting.iter().any(|waiting| waiting.draft.from == from && waiting.id == id) {
            return;
        }
        let mut written = document.clone();
        let not_before = draft.sent.map(|after| now() + after * 1_000);
        if let Some(not_before) = not_before {
            written["not_before"] = json!(not_before);
        }
        self.people[from].handle_sign(draft.dev);
        let refused = self.chat.says((NAMES[from], Some(DEVICES[draft.dev])), "messages", &written).await;
        let sid = self.sent(from, &id).await;
        if let Some(waiting) = self.waiting.iter().find(|waiting| waiting.draft.from == from && waiting.id == id) {
            let repeats = Some(waiting.not_before) == not_before && waiting.document == document;
            return assert_eq!((refused.as_deref(), sid), ((!repeats).then_some("DUPLICATE"), None));
        }
        if let Some(known) = self.messages.iter().find(|message| message.from == from && message.id == id) {
            let repeats = known.repeats(&document);
            return assert_eq!((refused.as_deref(), sid), ((!repeats).then_some("DUPLICATE"), None), "{known:?}");
        }
        let expires = document["expires"].as_u64();
        let new = Waiting { draft: draft.clone(), id, document, not_before: 0, expires };
        if let Some(not_before) = not_before {
            let count = self.waiting.iter().filter(|waiting| waiting.draft.from == from).count();
            let is_full = count >= harness::SCHEDULED_MAX as usize;
            assert_eq!(refused.as_deref(), is_full.then_some("RATE_LIMITED"));
            return if !is_full {
                self.waiting.push(Waiting { not_before, ..new })
            };
        }
        if draft.to == GROUP {
            return self.posted(refused.as_deref(), sid, new);
        }
        assert_eq!(refused, None);
        self.written(sid.unwrap(), new, true);
    }

    pub(super) async fn cancel(&mut self, which: usize) {
        if which < self.waiting.len() {
            let Waiting { draft, id, .. } = self.waiting.remove(which);
            let answer = self.chat.asks(NAMES[draft.from], &json!({ "op": "cancel", "message": id })).await;
            assert_eq!(answer["ok"], true, "{answer}");
        }
    }

    /// Each once, and none before its time.
    pub(super) async fn send_scheduled(&mut self) {
        let mut due: Vec<_> = self.waiting.extract_if(.., |waiting| waiting.not_before <= now()).collect();
        due.sort_by_key(|waiting| waiting.not_before);
        self.chat.send_scheduled().await;
        for waiting in due {
            let is_over = waiting.expires.is_some_and(|expires| expires <= now());
            // The receipts of several that are due at once come at once.
            let sid = self.sent(waiting.draft.from, &waiting.id).await;
            let sid = sid.or_else(|| sid_of(&self.got[waiting.draft.from], &waiting.id));
            assert_eq!(sid.is_none(), is_over, "{waiting:?}");
            if let Some(sid) = sid {
                self.written(sid, waiting, false);
            }
        }
        for waiting in self.waiting.clone() {
            assert_eq!(self.sent(waiting.draft.from, &waiting.id).await, None, "before its time");
        }
    }

    /// A message as it is when it was just written; those have it who are given with their places.
    pub(super) fn new_message(&self, sid: Sid, kind: Kind, new: Waiting, places: BTreeMap<usize, u64>) -> Message {
        let Waiting { draft, id, document, expires, .. } = new;
        let (from, to) = (draft.from, draft.to);
        let named: BTreeSet<usize> = (0..USERS).filter(|user| draft.all || draft.named[*user]).collect();
        let body = document["body"].as_str().unwrap_or_default().to_owned();
        let copy = |user: &usize| Copy {
            shown: body.clone(),
            is_tombstone: false,
            edited: false,
            is_mention: named.contains(user) && !self.blocks(*user, from),
            deleted: false,
            deleted_with_all: false,
            hidden: to == GROUP && kind != Kind::Notice && *user != from && self.blocks(*user, from),
        };
        Message {
            sid,
            at: now(),
            kind,
            from,
            to,
            id,
            document,
            wish: draft.wish,
            was_named: named.contains(&to),
            copies: places.keys().map(|user| (*user, copy(user))).collect(),
            named,
            places,
            received: false,
            waits: BTreeSet::new(),
            for_room: BTreeSet::new(),
            waited: BTreeSet::new(),
            decided_at: now(),
            pushed: BTreeSet::new(),
            amendments: Vec::new(),
            expires,
            is_over: false,
        }
    }

    /// Everybody who has the message finds it in the inbox.
    pub(super) fn deliver(&mut self, message: Message) -> usize {
        let which = self.messages.len();
        for (user, n) in &message.places {
            let own = message.from == *user && message.kind != Kind::Notice;
            let is_shared = !message.is_of_two() && !own && !message.copies[user].hidden;
            self.people[*user].inbox.push(Document { sid: message.sid, n: Some(*n), which, own, is_shared });
        }
        self.messages.push(message);
        which
    }
}
