//! Calls: what sets them up, and the clock that ends them.
//!
//! ```text
//!   offer, answer ──▶ CallClock ──its time──▶ the store says which calls are due ──▶ each is ended by a verb
//! ```
//!
//! The intake runs the clock: whatever brings a message into a conversation is asked of the store in the order of the ids.

use super::messages::Guarded;
use super::{ChatIntake, Remaining, TakeError, peer, routed};
use crate::bridge::context::Context;
use crate::chat::attention::Attended;
use crate::chat::call::ANSWERED_MS;
use crate::chat::id::{Owner, Sid};
use crate::chat::principal::Role;
use crate::chat::suffix::calls::{Signal, SignalKind, TTL_MAX};
use crate::chat::topic::{Device, inbox_topic};
use crate::mqtt::{Ack, AckWord, Inbound, Outbound};
use crate::ops::clock::{at, now_ms};
use crate::store::{
    ChatCall, ChatOutcome, Committed, DueCall, DueCalls, KeptSignal, NewSignal, OverdueCall, Peer, StoreError, Writer,
};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::Duration;
use tokio::sync::Notify;
use tokio::time::Instant;

/// When the times of calls are looked at next.
#[derive(Debug)]
pub(super) struct CallClock {
    /// A call may be over then, and by the wall clock at this time.
    look_at: Option<(Instant, u64)>,
    /// The store was asked, and for which time.
    looking: Option<(u64, Committed<DueCalls>)>,
    /// A call was stored later than its clock was set: its time may be over before anybody looks.
    kept_late: Arc<Notify>,
}

impl CallClock {
    /// At a start the calls of before are looked at.
    pub(super) fn new() -> Self {
        Self { look_at: Some((Instant::now(), 0)), looking: None, kept_late: Arc::default() }
    }

    /// To be notified when a call is on disk whose offer the clock was not set for.
    pub(super) fn kept_late(&self) -> Arc<Notify> {
        Arc::clone(&self.kept_late)
    }

    /// A call may be over at `ms`, and it is `now`.
    fn set(&mut self, ms: u64, now: u64) {
        let due = (Instant::now() + Duration::from_millis(ms.saturating_sub(now)), ms);
        self.look_at = Some(self.look_at.map_or(due, |before| before.min(due)));
    }
}

/// Until when there may be something that a device has to know which comes now, in Unix milliseconds: without calls nobody is
/// asked about those who come.
#[derive(Debug)]
pub(crate) struct CallsKept(AtomicU64);

impl CallsKept {
    /// Those of before the start are not known: `now` is the time of the start.
    pub(crate) fn new(now: u64) -> Self {
        Self(AtomicU64::new(now.saturating_add(KEPT_MS)))
    }

    pub(super) fn say(&self, now: u64) {
        self.0.fetch_max(now.saturating_add(KEPT_MS), Relaxed);
    }

    fn is_over(&self, now: u64) -> bool {
        self.0.load(Relaxed) < now
    }
}

/// No signal is kept for longer, in milliseconds.
const KEPT_MS: u64 = TTL_MAX as u64 * 1_000;

impl ChatIntake {
    /// A signal of a call.
    pub(super) async fn signal(&mut self, owner: &Owner, publish: &Inbound) -> Result<Remaining, TakeError> {
        let limits = self.context.settings.limits.message();
        let payload = routed(publish, &limits)?;
        let signal = Signal::parse(&payload, &limits)?;
        let (id, dev, is_offer) = (&signal.id, signal.dev.as_ref(), signal.kind == SignalKind::Offer);
        let context = Arc::clone(&self.context);
        let in_order = context.next_written().await;
        let by = (dev, signal.kind.is_sign(), in_order.id());
        let mut written = self.written((owner, publish), (id, payload.len()), (&signal.to, is_offer), by)?;
        if !is_offer {
            // Only an offer is pushed, so nothing else waits for a confirmation.
            written.to.attended = Attended::default();
        }
        let ttl_s = publish.expiry.map_or(signal.ttl, |expiry| expiry.clamp(1, signal.ttl));
        let (now, until) = (written.at, written.at.saturating_add(u64::from(ttl_s) * 1_000));
        match signal.kind {
            SignalKind::Offer => self.calls.set(until, now),
            SignalKind::Answer => self.calls.set(now.saturating_add(ANSWERED_MS), now),
            SignalKind::Ringing | SignalKind::Ice | SignalKind::End | SignalKind::Reject => {}
        }
        let gatekeeper = self.gatekeeper.clone().filter(|_| publish.principal.role == Role::User);
        if let Some(gatekeeper) = gatekeeper {
            let guarded = if is_offer { Guarded::Offer(signal, until) } else { Guarded::Signal(signal, ttl_s) };
            return Ok(self.behind_gatekeeper(gatekeeper, written, guarded));
        }
        let (sid, sides) = (written.sid, (written.from.clone(), written.to.clone()));
        let committed = keep_signal(&context, sid, sides, (signal, until), self.call(now)).await?;
        Ok(self.remaining(written, committed))
    }

    /// Waits until it is time to look at calls; yields which are due, and at which time. Cancel-safe: what the store was asked is
    /// asked once.
    pub(in crate::bridge) async fn calls_due(&mut self) -> Result<(u64, Vec<DueCall>), StoreError> {
        let calls = &mut self.calls;
        if calls.looking.is_none() {
            tokio::select! {
                () = at(calls.look_at.map(|(at, _)| at)) => {}
                () = calls.kept_late.notified() => {
                    let now = now_ms();
                    calls.set(now, now);
                }
            }
            let now = now_ms().max(calls.look_at.map_or(0, |(_, ms)| ms));
            let asked = self.context.store.calls_due(now).await?;
            (calls.look_at, calls.looking) = (None, Some((now, asked)));
        }
        let Some((now, looking)) = &mut calls.looking else { return Ok((0, Vec::new())) };
        let (now, looked) = (*now, looking.await);
        calls.looking = None;
        let DueCalls { due, next } = looked?;
        if let Some(next) = next {
            calls.set(next, now);
        }
        Ok((now, due))
    }

    /// Ends calls whose time is over at `now`.
    pub(in crate::bridge) async fn end_calls(
        &self,
        now: u64,
        due: Vec<DueCall>,
    ) -> Result<Vec<(Remaining, Ack)>, StoreError> {
        let mut taken = Vec::with_capacity(due.len());
        for DueCall { offer, callee } in due {
            let in_order = self.context.next_written().await;
            let ((sid, _), (message, _)) = (in_order.id(), self.context.next_sid());
            let callee: Peer = peer(&self.context, &callee, now);
            let (reader, waits) = (callee.name.clone(), callee.attended.any());
            let overdue = OverdueCall { offer, sid, message, callee };
            self.context.calls_kept.say(now);
            let committed = self.context.store.call_over(overdue, self.call(now)).await?;
            drop(in_order);
            if waits {
                self.context.attentions.given(&reader, message, now);
            }
            let context = Arc::clone(&self.context);
            let remaining: Remaining = Box::pin(async move {
                let outcome = committed.await?;
                if waits && !matches!(outcome, ChatOutcome::Done { waits: true, .. }) {
                    context.attentions.taken_back(&reader, message);
                }
                Ok(Some(AckWord::Done))
            });
            taken.push((remaining, Ack::new().0));
        }
        Ok(taken)
    }
}

/// Asks the store to keep a signal that is worth delivering until then, in Unix milliseconds.
pub(super) async fn keep_signal(
    context: &Context,
    sid: Sid,
    (from, to): (Writer, Peer),
    (signal, until): (Signal, u64),
    call: ChatCall,
) -> Result<Committed<ChatOutcome>, StoreError> {
    let (message, _) = context.next_sid();
    context.calls_kept.say(call.at);
    context.store.call_signal(NewSignal { sid, message, from, to, signal, until }, call).await
}

/// Tells a device that has come what it has to know of calls; without a device all of the user's.
pub(in crate::bridge) async fn tell_late(
    context: Arc<Context>,
    user: Owner,
    device: Option<Device>,
    now: u64,
) -> Result<(), StoreError> {
    if context.calls_kept.is_over(now) {
        return Ok(());
    }
    // Another broker may have had a document long ago that is not forgotten yet.
    let reads_waiting = device.is_some();
    for KeptSignal { payload, until } in context.store.calls_of(user.clone(), now, reads_waiting).await?.await? {
        let devices = device.as_ref().map(|device| vec![device.as_str().into()]);
        let (outbound, _outcome) = Outbound::new(inbox_topic(&user, "calls"), payload);
        let outbound = Outbound { devices, dropped_unread: true, expires_at: Some(until), ..outbound };
        // If the broker is gone, so is the device.
        let _ = context.publish.send(outbound).await;
    }
    Ok(())
}
