//! Which members of a group are pushed for a message: the same decision as between two, for each device of each member.
//!
//! The message row keeps what is not the rule: of each member whose push was not made at once, by which rule that is. What
//! was made is found by its id, which is that of the message and the device: one push for each, whatever path makes it.

use super::members::Present;
use super::{Group, Member, message};
use crate::chat::attention::Attended;
use crate::chat::contact::Entry;
use crate::chat::group::EVERYBODY;
use crate::chat::id::{Owner, Row, Sid};
use crate::chat::push_decision::{Asked, Matter, PushDecision, PushWhen, Rule, Verdict, Wish};
use crate::chat::push_document::title;
use crate::chat::suffix::messages::UserMessage;
use crate::chat::topic::Device;
use crate::store::sqlite::chat::notified::Seen;
use crate::store::sqlite::chat::push::{Asking, Decided, Registered, Told, push_id, registered};
use crate::store::sqlite::chat::{Call, ChatRow, deletion, json, json_text, mention, owner, people, push, unpushed};
use crate::store::sqlite::request::BY_ID;
use crate::store::sqlite::tx::{ReadTx, Tx};
use rusqlite::types::ValueRef;
use rusqlite::{Connection, OptionalExtension, params};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Everybody who is in the group, what each has set about the writer and about the group, and whether it has a device.
pub(in crate::store::sqlite) const READERS: &str = "SELECT m.user, w.entry, g.entry,
        EXISTS (SELECT 1 FROM devices d WHERE d.user = m.user), m.bal
    FROM members m
    LEFT JOIN contacts w ON w.user = m.user AND w.other = ?2
    LEFT JOIN contacts g ON g.user = m.user AND g.other = ?1
    WHERE m.gid = ?1 AND m.gone IS NULL ORDER BY m.user";
const DECIDED: &str = "SELECT decided FROM chat WHERE row = ?1";
const IS_NOTED: &str = "SELECT 1 FROM pushed WHERE user = ?1 AND peer = ?2 AND row = ?3 AND dev = ?4";
pub(super) const CONFIRMED: &str = "SELECT dev FROM group_confirmed WHERE user = ?1 AND peer = ?2 AND row = ?3";
const CONFIRM: &str =
    "INSERT INTO group_confirmed (user, peer, row, dev) VALUES (?1, ?2, ?3, ?4) ON CONFLICT DO NOTHING";
pub(in crate::store::sqlite) const FORGET_CONFIRMED: &str =
    "DELETE FROM group_confirmed WHERE user = ?1 AND peer = ?2 AND row <= ?3 AND row >= ?4";
pub(in crate::store::sqlite) const FORGET_ALL_CONFIRMED: &str = "DELETE FROM group_confirmed WHERE row = ?1";
pub(in crate::store::sqlite) const UNDECIDED: &str =
    chat_rows!("INDEXED BY chat_waits WHERE waits = 1 AND peer > 'g-' AND peer < 'g.'");

/// What the decision of a message to a group came to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::store::sqlite::chat) struct GroupDecided {
    pub(super) matter: Matter,
    pub(super) wish: Wish,
    /// When, in Unix milliseconds.
    pub(super) at: u64,
    /// Members by the rule that said so of all their devices, but for those who were pushed because nobody was looking.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    rules: BTreeMap<Rule, Vec<String>>,
    /// Members whose devices have several rules, with that of each.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    devices: BTreeMap<String, BTreeMap<String, Rule>>,
    /// Those with a push that was not made.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    waiting: Vec<String>,
}

impl GroupDecided {
    /// What was decided for the devices of a member.
    fn note(&mut self, user: &Owner, devices: &BTreeMap<String, PushDecision>) {
        let mut rules = devices.values().map(|decision| decision.rule);
        let Some(first) = rules.next() else { return };
        if !rules.all(|rule| rule == first) {
            let of_each = devices.iter().map(|(dev, decision)| (dev.clone(), decision.rule)).collect();
            self.devices.insert(user.as_str().to_owned(), of_each);
        } else if first != Rule::Unattended {
            self.rules.entry(first).or_default().push(user.as_str().to_owned());
        }
    }

    /// The rule for a device of a member.
    pub(super) fn rule_of(&self, user: &Owner, dev: &str) -> Rule {
        if let Some(rule) = self.devices.get(user.as_str()).and_then(|devices| devices.get(dev)) {
            return *rule;
        }
        let names = |users: &Vec<String>| users.iter().any(|one| one == user.as_str());
        self.rules.iter().find(|(_, users)| names(users)).map_or(Rule::Unattended, |(rule, _)| *rule)
    }

    /// Whether some push to a member was not made.
    pub(super) fn waits(&self, user: &Owner) -> bool {
        self.waiting.iter().any(|one| one == user.as_str())
    }
}

/// The same, and who waits.
pub(super) struct Rules {
    pub(super) decided: GroupDecided,
    pub(super) waiting: Vec<Owner>,
}

/// A message whose members are told of it.
pub(super) struct Deciding<'a> {
    pub(super) row: &'a ChatRow,
    pub(super) message: &'a UserMessage,
    /// What is kept of it.
    pub(super) kept: &'a [u8],
    pub(super) group: &'a Group,
    pub(super) attended: &'a [(Owner, Attended)],
}

/// A member, as far as a message to it goes.
struct Reader {
    present: Present,
    about_writer: Entry,
    about_group: Entry,
    has_device: bool,
}

impl Deciding<'_> {
    /// Gives every member the message, and queues the pushes that go now.
    pub(super) fn tell_members(&self, tx: &mut Tx<'_>, call: &mut Call<'_>) -> rusqlite::Result<Rules> {
        let (row, at) = (self.row, call.at);
        let UserMessage { matter, wish, .. } = *self.message;
        let mut decided =
            GroupDecided { matter, wish, at, rules: BTreeMap::new(), devices: BTreeMap::new(), waiting: Vec::new() };
        let mut waiting = Vec::new();
        let writer_name = people::profile_name(tx, &row.writer)?;
        for reader in readers(tx, row)?.into_iter().filter(|reader| reader.present.user != row.writer) {
            message::tell(tx, (row, self.kept), (&reader.present, reader.about_writer.blocked), call)?;
            let user = &reader.present.user;
            if reader.about_writer.blocked {
                deletion::hide(tx, user, row)?;
            }
            let is_mentioned = self.message.mentions_all || self.message.mentions.contains(user);
            if is_mentioned && matter == Matter::Message && !reader.about_writer.blocked && !reader.present.is_bal {
                mention::note(tx, user, &row.peer, row.sid.row())?;
            }
            if !reader.has_device {
                continue;
            }
            let title = self.group.push_title(row, writer_name.as_deref(), &reader.about_writer);
            let told = self.decide_for(tx, &reader, &title, call)?;
            let Some(of_devices) = told.decided else { continue };
            decided.note(user, &of_devices.devices);
            if of_devices.waits_for_room() {
                unpushed::note_member(tx, row, user, true)?;
            }
            if told.waits {
                decided.waiting.push(user.as_str().to_owned());
                waiting.push(user.clone());
            }
        }
        Ok(Rules { decided, waiting })
    }

    fn decide_for(&self, tx: &mut Tx<'_>, reader: &Reader, title: &str, call: &mut Call<'_>) -> rusqlite::Result<Told> {
        let nobody = Attended::default();
        let user = &reader.present.user;
        let known = self.attended.binary_search_by(|(name, _)| name.cmp(user));
        let attended = known.map_or(&nobody, |at| &self.attended[at].1);
        let mentioned = self.message.mentions_all || self.message.mentions.contains(user);
        let asked = reader.asked((self.message.matter, self.message.wish), mentioned, attended, call.at);
        let body = self.message.body().unwrap_or_default();
        let (reader, title) = (user, Some(title));
        let asking = Asking { reader, row: self.row, body, title, asked, attended, before: None, call: None };
        push::decide(tx, &asking, call)
    }
}

impl Reader {
    fn asked(&self, (matter, wish): (Matter, Wish), mentioned: bool, attended: &Attended, at: u64) -> Asked {
        let asked = Asked::of(matter, wish).by(self.about_writer, self.about_group, attended, at);
        Asked { mentioned, ..asked }
    }
}

impl Group {
    /// What a push shows as its title: the group's name if it has one, and who wrote.
    fn push_title(&self, row: &ChatRow, writer_name: Option<&str>, about_writer: &Entry) -> String {
        let writer = title(&row.writer, writer_name, about_writer.is_contact());
        match self.settings.name.as_deref().map(crate::chat::suffix::profile::shown_name) {
            Some(name) => format!("{name}: {writer}"),
            None => writer,
        }
    }
}

fn readers(tx: &ReadTx<'_>, row: &ChatRow) -> rusqlite::Result<Vec<Reader>> {
    tx.all(READERS, params![row.peer.as_str(), row.writer.as_str()], |found| {
        let entry = |column| match found.get_ref(column)? {
            ValueRef::Null => Ok(Entry::default()),
            _ => json(found, column),
        };
        Ok(Reader {
            present: Present { user: owner(found, 0)?, is_bal: found.get(4)? },
            about_writer: entry(1)?,
            about_group: entry(2)?,
            has_device: found.get(3)?,
        })
    })
}

/// Decides anew about the pushes to one member. Whether some wait further. What it was decided by first is what is explained.
pub(in crate::store::sqlite::chat) fn decide_again(
    tx: &mut Tx<'_>,
    user: &Owner,
    row: &ChatRow,
    attended: &Attended,
    call: &mut Call<'_>,
) -> rusqlite::Result<bool> {
    let told = if wants(tx, user, row)? { decide_anew(tx, user, row, attended, call)? } else { Told::default() };
    unpushed::note_member(tx, row, user, told.decided.is_some_and(|decided| decided.waits_for_room()))?;
    Ok(told.waits)
}

/// Whether a member is still to be told of a message.
fn wants(tx: &ReadTx<'_>, user: &Owner, row: &ChatRow) -> rusqlite::Result<bool> {
    let place = row.sid.row();
    let Some(member) = Member::load(tx, &row.peer, user)? else { return Ok(false) };
    let is_new = member.may_read(place) && member.read < place && member.archived < place;
    Ok(row.writer != *user && is_new && !row.gone && !deletion::is_deleted(tx, user, row)?)
}

fn decide_anew(
    tx: &mut Tx<'_>,
    user: &Owner,
    row: &ChatRow,
    attended: &Attended,
    call: &mut Call<'_>,
) -> rusqlite::Result<Told> {
    let Some(GroupDecided { matter, wish, .. }) = decided_of(tx.conn, row.sid.row())? else {
        return Ok(Told::default());
    };
    let Some(group) = Group::load(tx, &row.peer)? else { return Ok(Told::default()) };
    let (about_writer, about_group) = (people::entry(tx, user, &row.writer)?, people::entry(tx, user, &row.peer)?);
    let present = Present { user: user.clone(), is_bal: false };
    let reader = Reader { present, about_writer, about_group, has_device: true };
    let kept: serde_json::Value =
        serde_json::from_slice(&crate::store::sqlite::chat::message::document_of(tx, row, user)?).unwrap_or_default();
    let title = group.push_title(row, people::profile_name(tx, &row.writer)?.as_deref(), &about_writer);
    let asking = Asking {
        reader: user,
        row,
        body: kept["body"].as_str().unwrap_or_default(),
        title: Some(&title),
        asked: reader.asked((matter, wish), is_mentioned(&kept, user), attended, call.at),
        attended,
        before: Some(done_before(tx, user, row, call.at)?),
        call: None,
    };
    push::decide(tx, &asking, call)
}

fn is_mentioned(kept: &serde_json::Value, user: &Owner) -> bool {
    let names = kept["mentions"].as_array().map(Vec::as_slice).unwrap_or_default();
    names.iter().any(|name| name == EVERYBODY || name == user.as_str())
}

/// What was done for the devices of a member: pushed, or confirmed where each waits for itself.
fn done_before(tx: &ReadTx<'_>, user: &Owner, row: &ChatRow, at: u64) -> rusqlite::Result<Decided> {
    let asked = Asked::of(Matter::Message, Wish::Auto);
    let confirmed =
        tx.all(CONFIRMED, params![user.as_str(), row.peer.as_str(), row.sid.row()], |found| found.get(0))?;
    let mut devices = BTreeMap::new();
    for device in registered(tx, user)? {
        if is_pushed(tx, user, row, &device)? {
            let pushed = PushDecision { verdict: Verdict::Push, rule: Rule::Unattended };
            devices.insert(device.dev.as_str().to_owned(), pushed);
        }
    }
    Ok(Decided { asked, attended: Vec::new(), devices, pushes: BTreeMap::new(), confirmed, at })
}

fn is_pushed(tx: &ReadTx<'_>, user: &Owner, row: &ChatRow, device: &Registered) -> rusqlite::Result<bool> {
    let dev = device.dev.as_str();
    Ok(tx.exists(IS_NOTED, params![user.as_str(), row.peer.as_str(), row.sid.row(), dev])?
        || tx.exists(BY_ID, params![push_id(row.sid, dev), user.as_str()])?)
}

/// A member is forgotten in what was decided about a message.
pub(in crate::store::sqlite) fn forget_member(tx: &Tx<'_>, message: Row, user: &str) -> rusqlite::Result<()> {
    const SET: &str = "UPDATE chat SET decided = ?2, waits = waits AND ?3 WHERE row = ?1";
    let Some(mut decided) = decided_of(tx.conn, message)? else { return Ok(()) };
    decided.rules.values_mut().for_each(|users| users.retain(|one| one != user));
    decided.rules.retain(|_, users| !users.is_empty());
    decided.devices.remove(user);
    decided.waiting.retain(|one| one != user);
    tx.execute(SET, params![message, json_text(&decided)?, !decided.waiting.is_empty()]).map(drop)
}

pub(super) fn decided_of(conn: &Connection, row: Row) -> rusqlite::Result<Option<GroupDecided>> {
    let text = conn.prepare_cached(DECIDED)?.query_row([row], |row| row.get::<_, Option<String>>(0)).optional()?;
    Ok(text.flatten().and_then(|text| serde_json::from_str(&text).ok()))
}

/// An attended device of a member has a message of the group.
pub(in crate::store::sqlite::chat) fn confirmed(
    tx: &Tx<'_>,
    seen: &Seen<'_>,
    dev: &Device,
    call: &Call<'_>,
) -> rusqlite::Result<()> {
    if call.policy.push_when != PushWhen::PerDevice {
        return unpushed::forget_seen(tx, seen);
    }
    tx.execute(CONFIRM, params![seen.user.as_str(), seen.peer.as_str(), seen.sid.row(), dev.as_str()]).map(drop)
}

/// No push waits any more for what a member has seen of a group.
pub(in crate::store::sqlite::chat) fn stop_waiting(tx: &Tx<'_>, seen: &Seen<'_>) -> rusqlite::Result<()> {
    let values = params![seen.user.as_str(), seen.peer.as_str(), seen.sid.row(), seen.first()];
    tx.execute(FORGET_CONFIRMED, values)?;
    unpushed::forget_seen(tx, seen)
}

/// The message is not kept any more.
pub(in crate::store::sqlite::chat) fn dropped(tx: &mut Tx<'_>, row: Row) -> rusqlite::Result<()> {
    tx.execute(FORGET_ALL_CONFIRMED, [row])?;
    unpushed::note(tx, row, false)
}

/// Members with messages of groups whose pushes waited at the last stop, and that none of their devices has confirmed.
pub(in crate::store::sqlite::chat) fn undecided(tx: &ReadTx<'_>) -> rusqlite::Result<Vec<(Owner, Sid)>> {
    let mut found = Vec::new();
    for row in tx.all(UNDECIDED, [], ChatRow::read)? {
        for user in decided_of(tx.conn, row.sid.row())?.map(|decided| decided.waiting).unwrap_or_default() {
            let Ok(user) = Owner::new(user) else { continue };
            let member = Member::load(tx, &row.peer, &user)?;
            if member.is_some_and(|member| member.received < row.sid.row()) {
                found.push((user, row.sid));
            }
        }
    }
    Ok(found)
}
