//! A conversation of two: how much each side has of it, and how far each side has got.
//!
//! Each side counts what it has, without holes: `n` of its messages goes 1, 2, 3, also where the other side's count differs,
//! because what a blocked user writes is on the writer's side alone. Positions are ids of messages and only go forward. One
//! row on disk is all that a conversation has beside its messages.

use super::id::{Owner, Row, Sid};
use serde::{Deserialize, Serialize};

/// One of the two sides. The users of a conversation are sorted by name, so that each pair has one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Side {
    /// The user whose name is the smaller one.
    First,
    /// The other one.
    Second,
}

impl Side {
    /// The side opposite.
    pub const fn other(self) -> Self {
        match self {
            Self::First => Self::Second,
            Self::Second => Self::First,
        }
    }
}

/// The two users of a conversation, in their order, and on which side the first argument is. Both are the same in the
/// conversation that a user has with himself.
pub fn pair<'a>(one: &'a Owner, other: &'a Owner) -> (&'a Owner, &'a Owner, Side) {
    if one.as_str() <= other.as_str() { (one, other, Side::First) } else { (other, one, Side::Second) }
}

/// What one side has, and how far it got.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Standing {
    /// Messages it has: the `n` of the newest.
    pub count: u64,
    /// Messages of the other side behind its read position. Reactions are not counted.
    pub unread: u64,
    /// All messages of the other side that were counted so.
    #[serde(default)]
    pub theirs: u64,
    /// The newest message of the other side, reactions among them.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "sid_text")]
    pub newest: Option<Sid>,
    /// It has read up to this message.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "sid_text")]
    pub read: Option<Sid>,
    /// The newest message of the other side that one of its devices has confirmed.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "sid_text")]
    pub received: Option<Sid>,
    /// Its devices have confirmed all messages of the other side up to this one.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "sid_text")]
    pub confirmed: Option<Sid>,
    /// The newest message of which the other side was told that it was delivered.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "sid_text")]
    pub told_delivered: Option<Sid>,
    /// The newest message of which the other side was told that it was read.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "sid_text")]
    pub told_read: Option<Sid>,
    /// Its user has put the conversation away, until a new message comes.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub archived: bool,
    /// Its user has deleted the own copy of everything up to this item.
    #[serde(default, skip_serializing_if = "Option::is_none", with = "sid_text")]
    pub deleted: Option<Sid>,
    /// `theirs` at that time.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub theirs_deleted: u64,
    /// The row of its newest item, an invitation among them: by it conversations are sorted. In a column of its own, so that
    /// they can be sorted without reading any of this.
    #[serde(skip)]
    pub last: Option<Row>,
}

fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// A conversation of two. Its JSON is its form on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Conversation {
    first: Standing,
    second: Standing,
}

/// What a message is to the conversation it comes into.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Written {
    /// Its id: greater than all before it.
    pub sid: Sid,
    /// Who wrote it.
    pub by: Side,
    /// The other side has blocked the writer: it gets nothing, and does not count it.
    pub swallowed: bool,
    /// It counts as unread: all but reactions.
    pub counts: bool,
    /// The writer writes to himself: there is one side.
    pub to_self: bool,
    /// It was written when it comes in: what was written long before reads nothing.
    pub reads: bool,
}

/// The place of a message on each side.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Places {
    /// Its `n` for its writer.
    pub writer: u64,
    /// Its `n` for the other side, if that gets it.
    pub reader: Option<u64>,
}

/// What follows from a read position.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// It was not ahead of the one before: nothing follows.
    No,
    /// It is ahead.
    To {
        /// How much is still unread behind it.
        unread: u64,
    },
}

impl Conversation {
    /// What a side has, and how far it got.
    pub fn of(&self, side: Side) -> &Standing {
        match side {
            Side::First => &self.first,
            Side::Second => &self.second,
        }
    }

    /// The same with its sides the other way round: one of its names has changed, and which of the two comes first.
    pub fn swapped(&self) -> Self {
        Self { first: self.second, second: self.first }
    }

    /// The same, with what has columns of its own.
    #[must_use]
    pub fn with_last(mut self, first: Option<Row>, second: Option<Row>) -> Self {
        (self.first.last, self.second.last) = (first, second);
        self
    }

    fn of_mut(&mut self, side: Side) -> &mut Standing {
        match side {
            Side::First => &mut self.first,
            Side::Second => &mut self.second,
        }
    }

    /// A message comes in. Whoever writes in a conversation has read it.
    pub fn handle_written(&mut self, message: Written) -> Places {
        let Written { sid, by, swallowed, counts, to_self, reads } = message;
        let writer = self.of_mut(by);
        writer.count += 1;
        writer.last = Some(sid.row());
        if reads {
            writer.unread = 0;
            writer.read = Some(sid);
        }
        let writer = writer.count;
        if swallowed || to_self {
            return Places { writer, reader: None };
        }
        let reader = self.of_mut(by.other());
        reader.count += 1;
        reader.unread += u64::from(counts);
        reader.theirs += u64::from(counts);
        reader.newest = Some(sid);
        reader.last = Some(sid.row());
        Places { writer, reader: Some(reader.count) }
    }

    /// A message about a call that `by` rang comes in. Nobody wrote it, so nobody has read the conversation; `counts`: it counts
    /// as unread on the other side.
    pub fn handle_call(&mut self, sid: Sid, by: Side, swallowed: bool, counts: bool) -> Places {
        self.handle_written(Written { sid, by, swallowed, counts, to_self: false, reads: false })
    }

    /// An invitation, or an answer to one, comes in: it has no place among the messages. A `hidden` one is its writer's alone.
    pub fn handle_beside(&mut self, sid: Sid, by: Side, hidden: bool) {
        self.of_mut(by).last = Some(sid.row());
        if !hidden {
            self.of_mut(by.other()).last = Some(sid.row());
        }
    }

    /// The user of `side` puts the conversation away, or takes it out again. Whether that is something new.
    pub fn handle_archived(&mut self, side: Side, on: bool) -> bool {
        std::mem::replace(&mut self.of_mut(side).archived, on) != on
    }

    /// The user of `side` deletes the own copy of everything up to this item, which is the newest. Returns how much of it was
    /// unread. That it is unread no more is no reading: the other side hears nothing of it.
    pub fn handle_deleted(&mut self, side: Side, sid: Sid) -> u64 {
        let standing = self.of_mut(side);
        standing.deleted = standing.deleted.max(Some(sid));
        standing.theirs_deleted = standing.theirs;
        standing.last = None;
        std::mem::take(&mut standing.unread)
    }

    /// The newest item of `side` is this one now: what came later is deleted.
    pub fn set_last(&mut self, side: Side, last: Option<Row>) {
        self.of_mut(side).last = last;
    }

    /// How much is unread on `side` behind a message at which `theirs` had come, where `gone` messages of the other side behind it
    /// are retracted or deleted one by one.
    pub fn behind(&self, side: Side, theirs: u64, gone: u64) -> u64 {
        let standing = self.of(side);
        standing.theirs.saturating_sub(theirs.max(standing.theirs_deleted)).saturating_sub(gone)
    }

    /// A device of `side` has confirmed a message of the other side, or all up to it. Whether a position went forward.
    pub fn handle_received(&mut self, side: Side, sid: Sid, up_to: bool) -> bool {
        let standing = self.of_mut(side);
        let before = *standing;
        standing.received = standing.received.max(Some(sid));
        if up_to {
            standing.confirmed = standing.confirmed.max(Some(sid));
        }
        *standing != before
    }

    /// The other side is told that a message was delivered to `side`.
    pub fn handle_told_delivered(&mut self, side: Side, sid: Sid) {
        let standing = self.of_mut(side);
        standing.told_delivered = standing.told_delivered.max(Some(sid));
    }

    /// The other side is told that `side` has read a message. Whether it has to be told first that it was delivered.
    pub fn handle_told_read(&mut self, side: Side, sid: Sid) -> bool {
        let standing = self.of_mut(side);
        let is_new = standing.told_delivered < Some(sid);
        standing.told_delivered = standing.told_delivered.max(Some(sid));
        standing.told_read = standing.told_read.max(Some(sid));
        is_new
    }

    /// A message of the other side that counts is not kept any more, or is retracted or deleted. Whether it was unread.
    pub fn handle_dropped(&mut self, side: Side, sid: Sid) -> bool {
        let standing = self.of_mut(side);
        let unread = standing.unread > 0 && standing.read.is_none_or(|read| read < sid);
        standing.unread -= u64::from(unread);
        unread
    }

    /// Nothing is unread on this side any more, wherever its position is: what was is not kept.
    pub fn forget_unread(&mut self, side: Side) {
        self.of_mut(side).unread = 0;
    }

    /// `side` has read up to a message; `unread_behind` is how many messages of the other side that count lie behind it, and is
    /// asked for only where the position moves.
    pub fn handle_read<E>(
        &mut self,
        side: Side,
        sid: Sid,
        unread_behind: impl FnOnce() -> Result<u64, E>,
    ) -> Result<Moved, E> {
        let standing = self.of_mut(side);
        if standing.read.is_some_and(|before| before >= sid) {
            return Ok(Moved::No);
        }
        standing.unread = if standing.unread == 0 { 0 } else { unread_behind()? };
        standing.read = Some(sid);
        standing.received = standing.received.max(Some(sid));
        standing.confirmed = standing.confirmed.max(Some(sid));
        Ok(Moved::To { unread: standing.unread })
    }
}

mod sid_text {
    use super::Sid;
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    pub(super) fn serialize<S: Serializer>(sid: &Option<Sid>, serializer: S) -> Result<S::Ok, S::Error> {
        sid.map(|sid| sid.to_string()).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<Sid>, D::Error> {
        let Some(text) = Option::<String>::deserialize(deserializer)? else { return Ok(None) };
        Sid::parse(&text).map(Some).ok_or_else(|| D::Error::custom("a position that is no id"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::id::SidSource;
    use proptest::prelude::*;
    use std::convert::Infallible;

    fn sids(count: usize) -> Vec<Sid> {
        let mut source = SidSource::default();
        (0..count).map(|_| source.next(1_700_000_000_000, 1)).collect()
    }

    fn message(sid: Sid, by: Side) -> Written {
        Written { sid, by, swallowed: false, counts: true, to_self: false, reads: true }
    }

    #[test]
    fn each_pair_has_one_row() {
        let (alice, bob) = (Owner::new("alice").unwrap(), Owner::new("bob").unwrap());
        assert_eq!(pair(&alice, &bob), (&alice, &bob, Side::First));
        assert_eq!(pair(&bob, &alice), (&alice, &bob, Side::Second));
        assert_eq!(pair(&bob, &bob), (&bob, &bob, Side::First));
    }

    #[test]
    fn what_a_blocked_user_writes_leaves_no_hole_on_the_other_side() {
        let (sids, mut talk) = (sids(3), Conversation::default());
        assert_eq!(talk.handle_written(message(sids[0], Side::First)), Places { writer: 1, reader: Some(1) });
        let swallowed = Written { swallowed: true, ..message(sids[1], Side::First) };
        assert_eq!(talk.handle_written(swallowed), Places { writer: 2, reader: None });
        assert_eq!(talk.handle_written(message(sids[2], Side::First)), Places { writer: 3, reader: Some(2) });
        assert_eq!(talk.of(Side::Second).unread, 2);
    }

    #[test]
    fn a_note_to_oneself_is_counted_once_and_read() {
        let (sids, mut talk) = (sids(1), Conversation::default());
        let note = Written { to_self: true, ..message(sids[0], Side::First) };
        assert_eq!(talk.handle_written(note), Places { writer: 1, reader: None });
        assert_eq!((talk.of(Side::First).unread, talk.of(Side::Second).count), (0, 0));
    }

    #[test]
    fn it_is_on_disk_what_it_was_in_memory() {
        let (sids, mut talk) = (sids(2), Conversation::default());
        talk.handle_written(message(sids[0], Side::Second));
        assert!(talk.handle_received(Side::First, sids[0], false));
        let text = serde_json::to_string(&talk).unwrap();
        let columns = (talk.of(Side::First).last, talk.of(Side::Second).last);
        assert_eq!(serde_json::from_str::<Conversation>(&text).unwrap().with_last(columns.0, columns.1), talk);
        assert!(serde_json::from_str::<Conversation>(&text.replace(&sids[0].to_string(), "x")).is_err());
    }

    #[derive(Debug, Clone)]
    enum Step {
        Write { by: bool, swallowed: bool, counts: bool, reads: bool },
        Read { side: bool, at: usize },
        Receive { side: bool, at: usize },
        DropOldest,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::DropOldest),
            any::<(bool, bool, bool, bool)>().prop_map(|(by, swallowed, counts, reads)| Step::Write {
                by,
                swallowed,
                counts,
                reads
            }),
            (any::<bool>(), 0..40_usize).prop_map(|(side, at)| Step::Read { side, at }),
            (any::<bool>(), 0..40_usize).prop_map(|(side, at)| Step::Receive { side, at }),
        ]
    }

    fn side(first: bool) -> Side {
        if first { Side::First } else { Side::Second }
    }

    proptest! {
        /// Beside a list of all messages: counts have no holes, positions never go back, unread is what lies behind the position.
        #[test]
        fn it_agrees_with_a_list_of_its_messages(steps in prop::collection::vec(step(), 1..60)) {
            let sids = sids(60);
            let (mut talk, mut list, mut next, mut dropped) = (Conversation::default(), Vec::<Written>::new(), 0, 0);
            let behind = |list: &[Written], reader: Side, sid: Sid| {
                list.iter().filter(|m| m.by != reader && !m.swallowed && m.counts && m.sid > sid).count() as u64
            };
            let mut read = [None::<Sid>; 2];
            for step in steps {
                match step {
                    Step::Write { by, swallowed, counts, reads } => {
                        let written = Written { swallowed, counts, reads, ..message(sids[next], side(by)) };
                        next += 1;
                        list.push(written);
                        let places = talk.handle_written(written);
                        let has = |who: Side| list.iter().filter(|m| m.by == who || !m.swallowed).count() as u64;
                        prop_assert_eq!(places.writer, has(written.by));
                        prop_assert_eq!(places.reader, (!swallowed).then(|| has(written.by.other())));
                        if reads {
                            read[usize::from(!by)] = Some(written.sid);
                        }
                    }
                    Step::Read { side: first, at } if at < next && at >= dropped => {
                        let before = read[usize::from(!first)];
                        let unread = || Ok::<_, Infallible>(behind(&list, side(first), sids[at]));
                        let Ok(moved) = talk.handle_read(side(first), sids[at], unread);
                        prop_assert_eq!(moved == Moved::No, before.is_some_and(|before| before >= sids[at]));
                        read[usize::from(!first)] = before.max(Some(sids[at]));
                    }
                    Step::Receive { side: first, at } if at < next => {
                        let before = talk.of(side(first)).received;
                        prop_assert_eq!(talk.handle_received(side(first), sids[at], false), before < Some(sids[at]));
                    }
                    Step::DropOldest if dropped < next => {
                        let message = list[dropped];
                        let reader = message.by.other();
                        if !message.swallowed && message.counts {
                            let unread = read[usize::from(reader == Side::Second)].is_none_or(|read| read < message.sid);
                            prop_assert_eq!(talk.handle_dropped(reader, message.sid), unread);
                        }
                        dropped += 1;
                    }
                    Step::Read { .. } | Step::Receive { .. } | Step::DropOldest => {}
                }
                for (at, who) in [(0, Side::First), (1, Side::Second)] {
                    let standing = talk.of(who);
                    prop_assert_eq!(standing.read, read[at]);
                    let all = list.iter().skip(dropped).filter(|m| m.by != who && !m.swallowed && m.counts);
                    let newest = list.iter().rfind(|m| m.by != who && !m.swallowed).map(|m| m.sid);
                    prop_assert_eq!(standing.newest, newest);
                    let expected = all.filter(|m| read[at].is_none_or(|read| m.sid > read)).count() as u64;
                    prop_assert_eq!(standing.unread, expected);
                    prop_assert!(standing.read.is_none() || standing.received.is_none() || standing.received >= Some(sids[0]));
                }
            }
        }
    }
}
