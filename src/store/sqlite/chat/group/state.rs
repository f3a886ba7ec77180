//! Who is in a group and how it is set, for members who read that on the topics of the group: documents without payload,
//! composed when somebody reads them. Who is no member by then is told nothing.

use super::members::{self, Present};
use super::{Group, Member};
use crate::chat::filter;
use crate::chat::group::{GroupTopic, MemberList, NoticeEvent, profile_document};
use crate::chat::id::Owner;
use crate::chat::qos::QoS;
use crate::chat::topic::{MemberTopic, group_topic, inbox_topic, member_topic};
use crate::store::sqlite::chat::{document_on, owner};
use crate::store::sqlite::column::sql_ms;
use crate::store::sqlite::outbox;
use crate::store::sqlite::sessions::row::{self, NewRows};
use crate::store::sqlite::tx::{ReadTx, Tx};
use crate::store::sqlite::unread::NEXT_TOPIC;
use crate::store::{GroupState, GroupStatePage, GroupStateQuery, Message, Origin, Target};
use bytes::Bytes;
use rusqlite::params;
use std::collections::HashMap;

/// Topics that one call moves.
const CHUNK: usize = 1_000;
const MOVE: &str = "UPDATE outbox SET topic = ?2 WHERE topic = ?1";
const MOVE_EXPIRING: &str = "UPDATE expiring_documents SET topic = ?2 WHERE topic = ?1";
const DROP_OLDER: &str = "DELETE FROM outbox WHERE topic = ?1";
const NEWER: &str = "SELECT 1 FROM outbox WHERE topic = ?1 AND seq > ?2";
pub(in crate::store::sqlite) const OLDER: &str =
    "SELECT seq FROM queue INDEXED BY queue_documents WHERE queue = ?1 AND document = ?2";
pub(in crate::store::sqlite) const NEXT_GROUP: &str =
    "SELECT gid FROM members WHERE user = ?1 AND gid > ?2 AND gone IS NULL ORDER BY gid LIMIT 1";

/// A group was changed: its members are told of what is another now, and those who came of everything.
pub(super) fn changed(
    tx: &mut Tx<'_>,
    group: &Owner,
    (event, who): (NoticeEvent, &[Owner]),
    members: &[Present],
    at: u64,
) -> rusqlite::Result<()> {
    // BALs read nothing there.
    let members: &[&Owner] = &members.iter().filter(|one| !one.is_bal).map(|one| &one.user).collect::<Vec<_>>();
    let came: Vec<&Owner> = members.iter().copied().filter(|user| who.contains(user)).collect();
    let (list, profile): (&[&Owner], &[&Owner]) = match event {
        NoticeEvent::Created => (members, members),
        NoticeEvent::Changed => (&[], members),
        NoticeEvent::Added | NoticeEvent::Joined => (members, &came),
        NoticeEvent::Removed
        | NoticeEvent::Left
        | NoticeEvent::Promoted
        | NoticeEvent::Demoted
        | NoticeEvent::Dissolved => (members, &[]),
    };
    for (topic, members) in [(GroupTopic::Members, list), (GroupTopic::Profile, profile)] {
        for member in members {
            let topic = member_topic(member, group, topic);
            // It would say the same as this one.
            tx.execute(DROP_OLDER, [&topic])?;
            document_on(tx, &topic, Origin::UserNote, &[], at)?;
        }
    }
    Ok(())
}

/// What documents of this kind say, each composed once.
#[derive(Default)]
pub(in crate::store::sqlite) struct Composed(HashMap<String, Option<Bytes>>);

impl Composed {
    /// What the document on `topic` says; `None` if it is for somebody who is in the group no longer.
    pub(in crate::store::sqlite) fn document(
        &mut self,
        tx: &ReadTx<'_>,
        topic: &str,
    ) -> rusqlite::Result<Option<Bytes>> {
        let Some((of_member, group, of_group)) = parse(topic) else { return Ok(None) };
        if !is_member(tx, of_member.member, &group)? {
            return Ok(None);
        }
        if let Some(known) = self.0.get(of_member.seen) {
            return Ok(known.clone());
        }
        let composed = compose(tx, &group, of_group)?;
        self.0.insert(of_member.seen.to_owned(), composed.clone());
        Ok(composed)
    }
}

/// Whether a document says how a group is.
pub(in crate::store::sqlite) fn is_state(topic: &str) -> bool {
    parse(topic).is_some()
}

/// Whether a document says how a group is to somebody who is in it no longer, or a newer one waits.
pub(in crate::store::sqlite) fn is_obsolete(tx: &ReadTx<'_>, topic: &str, seq: u64) -> rusqlite::Result<bool> {
    match parse(topic) {
        Some((of_member, group, _)) => {
            Ok(!is_member(tx, of_member.member, &group)? || tx.exists(NEWER, params![topic, sql_ms(seq)])?)
        }
        None => Ok(false),
    }
}

fn parse(topic: &str) -> Option<(MemberTopic<'_>, Owner, GroupTopic)> {
    let of_member = MemberTopic::parse(topic)?;
    let (group, of_group) = of_member.parts()?;
    GroupTopic::OF_STATE.contains(&of_group).then_some((of_member, group, of_group))
}

fn is_member(tx: &ReadTx<'_>, user: &str, group: &Owner) -> rusqlite::Result<bool> {
    let Ok(user) = Owner::new(user) else { return Ok(false) };
    Ok(Member::load(tx, group, &user)?.is_some())
}

fn compose(tx: &ReadTx<'_>, group: &Owner, topic: GroupTopic) -> rusqlite::Result<Option<Bytes>> {
    let Some(loaded) = Group::load(tx, group)? else { return Ok(None) };
    let (version, members) = (loaded.version, loaded.members);
    Ok(Some(match topic {
        GroupTopic::Members => {
            let (items, _) = members::page_behind(tx, group, "")?;
            MemberList { group, version, members, items: &items }.to_bytes().into()
        }
        GroupTopic::Profile => profile_document(group, version, &loaded.settings).into(),
        GroupTopic::Messages => return Ok(None),
    }))
}

/// How the next group of a user is of which a filter matches a topic, as a subscriber gets it at once. For a session that
/// outlives its connection they are rows of its queue.
pub(in crate::store) fn next(tx: &mut Tx<'_>, query: &GroupStateQuery) -> rusqlite::Result<Option<GroupStatePage>> {
    let user = &query.user;
    let mut after = query.after.clone();
    while let Some(group) = tx.one(NEXT_GROUP, params![user.as_str(), after], |row| owner(row, 0))? {
        let matches = |topic: &GroupTopic| filter::matches(&query.filter, &group_topic(&group, *topic));
        let mut states = Vec::with_capacity(GroupTopic::OF_STATE.len());
        for topic in GroupTopic::OF_STATE.into_iter().filter(matches) {
            let payload = compose(tx, &group, topic)?;
            let topic = member_topic(user, &group, topic).into();
            states.extend(payload.map(|payload| GroupState { topic, payload }));
        }
        if states.is_empty() {
            group.as_str().clone_into(&mut after);
            continue;
        }
        for state in &states {
            put(tx, state, query)?;
        }
        return Ok(Some(GroupStatePage { group, states }));
    }
    Ok(None)
}

/// Takes what sessions have of a topic, which says how a group is, out of their queues: there is something newer.
pub(in crate::store::sqlite) fn drop_older_rows(tx: &Tx<'_>, topic: &str, targets: &[Target]) -> rusqlite::Result<()> {
    for Target { queue, .. } in targets {
        for seq in tx.all(OLDER, params![queue, topic], |row| row.get::<_, i64>(0))? {
            row::remove(tx, *queue, seq)?;
        }
    }
    Ok(())
}

fn put(tx: &mut Tx<'_>, state: &GroupState, query: &GroupStateQuery) -> rusqlite::Result<()> {
    let Some(target) = &query.target else { return Ok(()) };
    let GroupState { topic, payload } = state.clone();
    // However often somebody subscribes, one waits.
    drop_older_rows(tx, &topic, std::slice::from_ref(target))?;
    let (qos, properties, retain, expires_at) = (QoS::AtLeastOnce, Bytes::new(), false, None);
    let message = Message { topic, payload, properties, qos, retain, expires_at };
    let seq = tx.next_seq()?;
    let rows = NewRows { seq, message: &message, origin: Some(Origin::UserNote), copy: false };
    rows.put(tx, std::slice::from_ref(target)).map(drop)
}

/// Where groups have no topics any more: moves what waits there for members into their inboxes, a chunk behind the topic
/// `after`, and drops what says how groups are. Returns the last topic of the chunk; `None`: that was all.
pub(in crate::store) fn into_inboxes(tx: &mut Tx<'_>, after: &str) -> rusqlite::Result<Option<String>> {
    let mut topic = after.to_owned();
    for _ in 0..CHUNK {
        let Some(next) = tx.one(NEXT_TOPIC, [&topic], |row| row.get::<_, String>(0))? else { return Ok(None) };
        topic = next;
        let Some(MemberTopic { member, .. }) = MemberTopic::parse(&topic) else { continue };
        if is_state(&topic) {
            tx.execute(DROP_OLDER, [&topic])?;
        } else if let Ok(member) = Owner::new(member) {
            let inbox = inbox_topic(&member, GroupTopic::Messages.name());
            tx.execute(MOVE, params![topic, inbox])?;
            tx.execute(MOVE_EXPIRING, params![topic, inbox])?;
            outbox::wake(tx, &inbox);
        }
    }
    Ok(Some(topic))
}
