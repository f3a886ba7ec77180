//! Messages that are claimed on acceptance: one transaction stores them as in flight already, and they are sent after it.
//!
//! That keeps the order only while the transport has room and everything older that is due was handed out. A call of
//! [`super::dispatch::take_due`] that leaves nothing due behind opens its transport; whatever becomes due in any other
//! way ([`Tx::now_due`]) closes them all, until the next call. What was put off until a time closes its transport then.

use super::recipient_queue::RecipientQueue;
use super::tx::Tx;
use crate::chat::delivery::{Event, Life, State};
use crate::chat::recipient_queue::Pipelining;
use crate::chat::transport::Transport;
use crate::store::{Claimed, DueQuery, NewMessage, NewPush};

/// What was accepted as in flight for one transport, and what may be.
#[derive(Debug, Clone)]
struct OnAccept {
    transport: Transport,
    /// How many were, since the start.
    claimed: u64,
    open: Option<Open>,
}

#[derive(Debug, Clone, Copy)]
struct Open {
    /// For so many more.
    room: usize,
    pipelining: Pipelining,
    /// Until something else is due, in Unix milliseconds.
    until: u64,
    /// Whether any message of the transport is put off.
    put_off: bool,
}

/// Each transport that was asked for.
#[derive(Debug, Clone, Default)]
pub(super) struct OnAcceptByTransport(Vec<OnAccept>);

impl OnAcceptByTransport {
    fn of(&mut self, transport: &Transport) -> Option<&mut OnAccept> {
        self.0.iter_mut().find(|on_accept| on_accept.transport == *transport)
    }

    fn close(&mut self) {
        self.0.iter_mut().for_each(|on_accept| on_accept.open = None);
    }
}

impl Tx<'_> {
    /// A delivery is due from now on, and was not before.
    pub(super) fn now_due(&mut self) {
        self.memory_draft.due = true;
        self.memory_draft.on_accept.close();
    }

    /// How many messages of this transport were accepted as in flight that the dispatcher has not taken yet: they use
    /// the transport's room.
    pub(super) fn untaken_on_accept(&mut self, query: &DueQuery) -> usize {
        let claimed = self.memory_draft.on_accept.of(&query.transport).map_or(0, |on_accept| on_accept.claimed);
        usize::try_from(claimed.saturating_sub(query.taken_on_accept)).unwrap_or(usize::MAX)
    }

    /// `take_due` handed out what was due; `next_due` is the time of what waits. From now on `room` messages more may
    /// be accepted as in flight. Returns how many were so far.
    pub(super) fn open_on_accept(
        &mut self,
        query: &DueQuery,
        next_due: Option<u64>,
        room: usize,
        put_off: bool,
    ) -> u64 {
        let all = &mut self.memory_draft.on_accept;
        if all.of(&query.transport).is_none() {
            all.0.push(OnAccept { transport: query.transport.clone(), claimed: 0, open: None });
        }
        let Some(on_accept) = all.of(&query.transport) else { return 0 };
        let (pipelining, until) = (query.pipelining, next_due.unwrap_or(u64::MAX));
        on_accept.open = (room > 0 && until > query.now).then_some(Open { room, pipelining, until, put_off });
        on_accept.claimed
    }

    /// Whether a new message may be accepted as in flight, and how many of a recipient may be at a time.
    pub(super) fn may_claim_on_accept(
        &mut self,
        new: &NewMessage,
        push: &NewPush,
    ) -> rusqlite::Result<Option<Pipelining>> {
        let open = self.memory_draft.on_accept.of(&push.transport).and_then(|on_accept| on_accept.open);
        let in_time = |open: &Open| new.accepted_at < open.until.min(push.deadline_ms);
        let Some(Open { pipelining, put_off, .. }) = open.filter(in_time) else { return Ok(None) };
        let behind = RecipientQueue::of(push).behind(self, new.sid.row(), pipelining, put_off)?;
        Ok(behind.is_none().then_some(pipelining))
    }

    /// Claims the new message.
    pub(super) fn claim_on_accept(&mut self, new: &NewMessage, push: &NewPush, pipelining: Pipelining) {
        RecipientQueue::of(push).claimed(self, new.sid.row(), false, pipelining);
        if let Some(on_accept) = self.memory_draft.on_accept.of(&push.transport) {
            on_accept.claimed += 1;
            on_accept.open =
                on_accept.open.map(|open| Open { room: open.room - 1, ..open }).filter(|open| open.room > 0);
        }
        self.memory_draft.claimed_on_accept.push((push.transport.clone(), claimed(new, push)));
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
