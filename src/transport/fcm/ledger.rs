//! Which message is where: waiting for its turn, or on a connection. Pure.
//!
//! A recipient's messages go one at a time, each after the answer to the one before. FCM works on the streams of a
//! connection in any order, so nothing but an answer shows that a message has its place; and the pace that this costs (a
//! message per round trip) is still above what FCM takes for one device.
//!
//! ```text
//!                      ┌──────────── Line of one recipient ────────────┐
//!   accept ──────────► │ waiting: 7, 8, 9        Free / Flying / Held  │ ── next ──► fly ──► settle
//!                      └───────────────────────────────────────────────┘                └──► back (its old place)
//! ```
//!
//! What cannot go soon does not stay here: it goes back to the bridge ([`Ledger::give_back`]), whose disk is the only
//! queue. Until it may come again, nothing newer of its recipient is taken, so that nothing overtakes it; nor what the
//! bridge handed over before it heard of that, however long it was on its way ([`super::hearing`]).

use super::hearing::News;
use crate::chat::id::Sid;
use crate::fcm::breaker::Ticket;
use crate::fcm::verdict::Cause;
use crate::transport::{LINE_MAX, Send};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::{Duration, Instant};

/// How long those of a crowd that do not fit wait there.
const CROWD_WAIT: Duration = Duration::from_secs(1);
/// Shortest wait of one that came while another was away.
const BEHIND_MIN: Duration = Duration::from_millis(250);

/// Where the messages are.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    taken: u64,
    pending: HashMap<Sid, Pending>,
    lines: HashMap<i64, Line>,
    /// The first of each line that is free, by its place.
    ready: BTreeMap<u64, Sid>,
    /// The lines that are held, by the end of that.
    held: BTreeSet<(Instant, i64)>,
}

/// A message that was taken from the bridge.
#[derive(Debug)]
pub(super) struct Pending {
    /// The message.
    pub(super) send: Send,
    /// How often it was written to a connection and may have been processed: once at most, for it does not wait here when
    /// nobody knows what became of it.
    pub(super) copies: u32,
    /// How often it was sent again at once.
    pub(super) replays: u32,
    /// How often it was written to a connection, processed or not.
    pub(super) tries: u32,
    /// The connection that would not process it.
    pub(super) refused_by: Option<u64>,
    /// It has waited for another one.
    pub(super) waited: bool,
    /// The access token that was refused with it, by its generation.
    pub(super) refused_token: Option<u64>,
    /// It was refused for a fault of the project's, when so many messages had been taken.
    pub(super) suspect: Option<u64>,
    /// That fault.
    pub(super) held: Option<Cause>,
    /// It finds out whether the breaker may close; its answer is still to come.
    pub(super) probe: Option<Ticket>,
    place: u64,
}

impl Pending {
    fn new(send: Send, place: u64) -> Self {
        Self {
            send,
            copies: 0,
            replays: 0,
            tries: 0,
            refused_by: None,
            waited: false,
            refused_token: None,
            suspect: None,
            held: None,
            probe: None,
            place,
        }
    }
}

#[derive(Debug, Default)]
struct Line {
    waiting: BTreeMap<u64, Sid>,
    state: LineState,
    away: Option<Away>,
}

#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum LineState {
    #[default]
    Free,
    /// One of its messages is on a connection.
    Flying,
    /// Its next message may not go before this.
    Held(Instant),
}

/// The oldest message of a recipient that went back to the bridge, and when it may be here again.
#[derive(Debug, Clone, Copy)]
struct Away {
    sid: Sid,
    until: Instant,
    /// By then so many reports had been made: from a bridge that has heard them comes nothing newer before this one.
    told: u64,
}

impl Away {
    fn bars(&self, now: Instant, news: News) -> bool {
        now < self.until || news.heard < self.told
    }
}

/// What became of a message that came from the bridge.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Taken {
    /// It has its place.
    Waits,
    /// It may not pass those before it, which are not here: not sooner than this.
    Behind(Duration),
    /// It is here already.
    Twice,
}

impl Ledger {
    /// How many messages are here.
    pub(super) fn len(&self) -> usize {
        self.pending.len()
    }

    /// Takes a message.
    pub(super) fn accept(&mut self, send: Send, now: Instant, news: News) -> Taken {
        let (sid, recipient) = (send.sid, send.recipient.number());
        if self.pending.contains_key(&sid) {
            return Taken::Twice;
        }
        let line = self.lines.entry(recipient).or_default();
        // One that is older still, because its turn came late, opens no door for the newer ones.
        line.away = line.away.filter(|away| sid != away.sid && away.bars(now, news));
        if let Some(away) = line.away.filter(|away| sid > away.sid) {
            return Taken::Behind((away.until.saturating_duration_since(now)).max(BEHIND_MIN));
        }
        if line.waiting.len() >= LINE_MAX {
            // With the report on this one.
            line.away = Some(Away { sid, until: now + CROWD_WAIT, told: news.told + 1 });
            return Taken::Behind(CROWD_WAIT);
        }
        self.taken += 1;
        let place = self.taken;
        line.waiting.insert(place, sid);
        self.pending.insert(sid, Pending::new(send, place));
        self.offer(recipient);
        Taken::Waits
    }

    /// The message that goes next, if any may.
    pub(super) fn next(&self) -> Option<&Pending> {
        self.ready.values().next().and_then(|sid| self.pending.get(sid))
    }

    /// The message that finds out whether others may go: the one that is about it already, or else the first of those
    /// that were not refused for a fault of the project's.
    pub(super) fn next_probe(&self) -> Option<&Pending> {
        let ready = || self.ready.values().filter_map(|sid| self.pending.get(sid));
        ready().find(|pending| pending.probe.is_some()).or_else(|| ready().find(|pending| pending.suspect.is_none()))
    }

    /// A message that is here.
    pub(super) fn get_mut(&mut self, sid: Sid) -> Option<&mut Pending> {
        self.pending.get_mut(&sid)
    }

    /// A message is given to a connection.
    pub(super) fn fly(&mut self, sid: Sid) {
        let Some(pending) = self.pending.get_mut(&sid) else { return };
        pending.copies += 1;
        pending.tries += 1;
        let (recipient, place) = (pending.send.recipient.number(), pending.place);
        self.ready.remove(&place);
        if let Some(line) = self.lines.get_mut(&recipient) {
            line.waiting.remove(&place);
            line.state = LineState::Flying;
        }
    }

    /// A message that was certainly not processed waits again in its old place.
    pub(super) fn back(&mut self, sid: Sid) {
        let Some(pending) = self.pending.get_mut(&sid) else { return };
        pending.copies = pending.copies.saturating_sub(1);
        let (recipient, place) = (pending.send.recipient.number(), pending.place);
        let line = self.lines.entry(recipient).or_default();
        line.waiting.insert(place, sid);
        line.state = LineState::Free;
        self.offer(recipient);
    }

    /// A message needs no more care; its line goes on.
    pub(super) fn settle(&mut self, sid: Sid) -> Option<Pending> {
        let pending = self.pending.remove(&sid)?;
        let recipient = pending.send.recipient.number();
        self.ready.remove(&pending.place);
        if let Some(line) = self.lines.get_mut(&recipient) {
            if line.waiting.remove(&pending.place).is_none() {
                line.state = LineState::Free;
            }
            self.offer(recipient);
        }
        Some(pending)
    }

    /// Nothing of this recipient goes before `until`.
    pub(super) fn hold(&mut self, recipient: i64, until: Instant) {
        let Some(line) = self.lines.get_mut(&recipient) else { return };
        if let Some(place) = line.waiting.keys().next() {
            self.ready.remove(place);
        }
        if line.state == LineState::Free {
            line.state = LineState::Held(until);
            self.held.insert((until, recipient));
        }
    }

    /// Ends the holds that are over. Returns when the next one is.
    pub(super) fn release(&mut self, now: Instant) -> Option<Instant> {
        while let Some(&(until, recipient)) = self.held.first() {
            if until > now {
                return Some(until);
            }
            self.held.pop_first();
            if let Some(line) = self.lines.get_mut(&recipient)
                && line.state == LineState::Held(until)
            {
                line.state = LineState::Free;
                self.offer(recipient);
            }
        }
        None
    }

    /// Everything of a recipient that waits goes back to the bridge, oldest first, because `sid` did (or does): until
    /// `until` nothing that is newer is taken. `told` counts the reports so far.
    pub(super) fn give_back(&mut self, recipient: i64, sid: Sid, until: Instant, told: u64) -> Vec<Sid> {
        let Some(line) = self.lines.get_mut(&recipient) else { return Vec::new() };
        let waiting = std::mem::take(&mut line.waiting);
        for (place, sid) in &waiting {
            self.ready.remove(place);
            self.pending.remove(sid);
        }
        let oldest = waiting.values().copied().min().map_or(sid, |first| first.min(sid));
        line.away = Some(Away { sid: oldest, until, told: told + waiting.len() as u64 });
        waiting.into_values().collect()
    }

    /// Takes out what waits and is not worth sending any more, and forgets who has nothing here.
    pub(super) fn expire(&mut self, now_ms: u64, now: Instant, news: News) -> Vec<Pending> {
        let waits = |pending: &Pending| {
            self.lines
                .get(&pending.send.recipient.number())
                .is_some_and(|line| line.waiting.contains_key(&pending.place))
        };
        let late = |pending: &&Pending| pending.send.deadline_ms < now_ms && waits(pending);
        let mut late: Vec<(u64, Sid)> =
            self.pending.values().filter(late).map(|pending| (pending.place, pending.send.sid)).collect();
        late.sort_unstable();
        let expired = late.into_iter().filter_map(|(_, sid)| self.settle(sid)).collect();
        self.lines.retain(|_, line| {
            let away = line.away.is_some_and(|away| away.bars(now, news));
            away || !line.waiting.is_empty() || line.state != LineState::Free
        });
        expired
    }

    /// Everything that is not settled, oldest first.
    pub(super) fn into_unsettled(self) -> Vec<Pending> {
        let mut pending: Vec<Pending> = self.pending.into_values().collect();
        pending.sort_unstable_by_key(|pending| pending.place);
        pending
    }

    /// Puts the first of a free line where [`Ledger::next`] finds it.
    fn offer(&mut self, recipient: i64) {
        let Some(line) = self.lines.get(&recipient).filter(|line| line.state == LineState::Free) else { return };
        if let Some((&place, &sid)) = line.waiting.first_key_value() {
            self.ready.insert(place, sid);
        }
    }
}

#[cfg(test)]
#[path = "ledger_tests.rs"]
mod tests;
