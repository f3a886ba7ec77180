//! Messages that go at once: they are accepted as in flight already, in one transaction, and sent after it.
//!
//! That keeps the order only while the transport has room and everything older that is due was handed out. A call of
//! [`super::dispatch::take_due`] that leaves nothing due behind opens its transport; whatever becomes due in any other
//! way ([`Tx::now_due`]) closes them all, until the next call. What was put off until a time closes its transport then.

use super::recipient_queue::RecipientQueue;
use super::tx::Tx;
use crate::chat::delivery::{Event, Life, State};
use crate::chat::recipient_queue::Pace;
use crate::chat::transport::Transport;
use crate::store::{Claimed, DueQuery, NewMessage, NewPush};

/// What was accepted as in flight for one transport, and what may be.
#[derive(Debug, Clone)]
struct AtOnce {
    transport: Transport,
    /// Messages since the start.
    went: u64,
    open: Option<Open>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    /// For so many more.
    room: usize,
    pace: Pace,
    /// Until something else is due, in Unix milliseconds.
    until: u64,
    /// Whether any message of the transport is put off.
    put_off: bool,
}

/// Each transport that was asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct AtOnceByTransport(Vec<AtOnce>);

impl AtOnceByTransport {
    fn of(&mut self, transport: &Transport) -> Option<&mut AtOnce> {
        self.0.iter_mut().find(|at_once| at_once.transport == *transport)
    }

    fn close(&mut self) {
        self.0.iter_mut().for_each(|at_once| at_once.open = None);
    }
}

impl Tx<'_> {
    /// A delivery is due from now on, and was not before.
    pub(super) fn now_due(&mut self) {
        self.draft.due = true;
        self.draft.at_once.close();
    }

    /// How many messages of this transport were accepted as in flight that the dispatcher has not taken yet: they use
    /// the transport's room.
    pub(super) fn went_at_once(&mut self, query: &DueQuery) -> usize {
        let went = self.draft.at_once.of(&query.transport).map_or(0, |at_once| at_once.went);
        usize::try_from(went.saturating_sub(query.at_once)).unwrap_or(usize::MAX)
    }

    /// `take_due` handed out what was due; `next_due` is the time of what waits. From now on `room` messages more may
    /// be accepted as in flight. Returns how many were so far.
    pub(super) fn open_at_once(&mut self, query: &DueQuery, next_due: Option<u64>, room: usize, put_off: bool) -> u64 {
        let all = &mut self.draft.at_once;
        if all.of(&query.transport).is_none() {
            all.0.push(AtOnce { transport: query.transport.clone(), went: 0, open: None });
        }
        let Some(at_once) = all.of(&query.transport) else { return 0 };
        let (pace, until) = (query.pace, next_due.unwrap_or(u64::MAX));
        at_once.open = (room > 0 && until > query.now).then_some(Open { room, pace, until, put_off });
        at_once.went
    }

    /// Whether a new message may be accepted as in flight, and how many of a recipient may be at a time.
    pub(super) fn may_go_at_once(&mut self, new: &NewMessage, push: &NewPush) -> rusqlite::Result<Option<Pace>> {
        let open = self.draft.at_once.of(&push.transport).and_then(|at_once| at_once.open);
        let in_time = |open: &Open| new.accepted_at < open.until.min(push.deadline_ms);
        let Some(Open { pace, put_off, .. }) = open.filter(in_time) else { return Ok(None) };
        let behind = RecipientQueue::of(push).behind(self, new.sid.row(), pace, put_off)?;
        Ok(behind.is_none().then_some(pace))
    }

    /// Claims the new message.
    pub(super) fn goes_at_once(&mut self, new: &NewMessage, push: &NewPush, pace: Pace) {
        RecipientQueue::of(push).claimed(self, new.sid.row(), false, pace);
        if let Some(at_once) = self.draft.at_once.of(&push.transport) {
            at_once.went += 1;
            at_once.open = at_once.open.map(|open| Open { room: open.room - 1, ..open }).filter(|open| open.room > 0);
        }
        self.draft.gone.push((push.transport.clone(), claimed(new, push)));
    }
}

/// As [`super::dispatch::take_due`] would have handed it out.
fn claimed(new: &NewMessage, push: &NewPush) -> Claimed {
    let due = Life::new(State::Due, push.receipt);
    Claimed {
        sid: new.sid,
        recipient: push.recipient,
        body: new.body.clone(),
        address: None,
        accepted_at: new.accepted_at,
        deadline_ms: push.deadline_ms,
        life: due.step(&Event::Claimed).map_or(due, |step| step.life),
    }
}
