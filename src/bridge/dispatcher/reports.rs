//! What comes back from the transport, and what follows from it.

use super::{After, Dispatcher, InFlight, Pause};
use crate::bridge::count_told;
use crate::chat::delivery::{AMBIGUOUS, Event, Fate};
use crate::chat::id::{Recipient, Sid, Token};
use crate::chat::message::BridgeEvent;
use crate::chat::refusal::{Decision, Fault, Refusal, RetryClock, Scope, TokenFate, Wait};
use crate::ops::clock::now_ms;
use crate::ops::message_log;
use crate::ops::metrics::Metric;
use crate::store::{Recorded, StoreError};
use crate::transport::{AckRef, ConnectionChange, Report};
use std::time::Duration;
use tokio::time::Instant;

/// The only status of a receipt that was ever documented.
const DELIVERED: &str = "MESSAGE_SENT_TO_DEVICE";

impl Dispatcher {
    pub(super) async fn report(&mut self, report: Report) -> Result<(), StoreError> {
        match report {
            Report::Back { sid, fate, copies, replays } => {
                let flight = self.in_flight.remove(&sid);
                self.count_copies(flight.as_ref(), copies);
                self.context.metrics.add(Metric::DownstreamAttempts, attempts(&fate, copies, replays));
                let clock = self.clock(flight.as_ref());
                match &fate {
                    Fate::Accepted { .. } => self.service_backoff.reset(),
                    Fate::Refused(refusal) => self.refused(sid, refusal, flight, clock),
                    Fate::Unsendable { .. } | Fate::Expired | Fate::Deferred { .. } | Fate::Lost => {}
                }
                self.record(sid, Event::Back { fate, copies, replays, clock }).await
            }
            Report::Receipt { original, status, ack_ref, copies, handed_over_ms } => {
                let event = Event::Receipt { handed_over_ms };
                self.receipt((original, &status), event, ack_ref, copies).await
            }
            Report::Connection { connection, change } => {
                let (transport, connection) = (self.transport.to_string(), connection.0);
                self.context.emit_event(match change {
                    ConnectionChange::Up => BridgeEvent::Connected { transport, connection },
                    ConnectionChange::Draining => BridgeEvent::Draining { transport, connection },
                    ConnectionChange::Lost { detail } => BridgeEvent::Reconnect { transport, connection, detail },
                    ConnectionChange::AuthFailed { detail } => BridgeEvent::AuthFailed { transport, detail },
                });
                Ok(())
            }
        }
    }

    async fn receipt(
        &mut self,
        (original, status): (String, &str),
        event: Event,
        ack_ref: AckRef,
        copies: u32,
    ) -> Result<(), StoreError> {
        self.context.metrics.count(Metric::Receipts);
        match Sid::parse(&original) {
            Some(sid) if status == DELIVERED => {
                if copies > 1 {
                    // After `delivered` nothing sets `dup_possible` any more: the copies are recorded first.
                    self.record(sid, self.accepted_with(copies)).await?;
                }
                let committed = self.context.store.record(sid, event, now_ms()).await?;
                self.commits.push_back((committed, After::Receipt { original, ack_ref }));
            }
            _ => {
                self.context.metrics.count(Metric::ReceiptsUnknown);
                tracing::debug!(original, status, "receipt that means nothing here, acknowledged");
                self.acknowledge(ack_ref).await;
            }
        }
        Ok(())
    }

    /// The event for a message that the transport never had: it goes back with `fate`.
    pub(super) fn returned_unwritten(&self, fate: Fate) -> Event {
        Event::Back { fate, copies: 0, replays: 0, clock: self.clock(None) }
    }

    fn accepted_with(&self, copies: u32) -> Event {
        Event::Back { fate: Fate::ACCEPTED, copies, replays: 0, clock: self.clock(None) }
    }

    fn clock(&self, flight: Option<&InFlight>) -> RetryClock {
        RetryClock {
            now_ms: now_ms(),
            deadline_ms: flight.map_or(u64::MAX, |flight| flight.deadline_ms),
            longest: self.context.settings.limits.retry_max,
            permille: rand::random_range(0..=1000),
        }
    }

    /// What follows for others from the refusal of a message.
    fn refused(&mut self, sid: Sid, refusal: &Refusal, flight: Option<InFlight>, clock: RetryClock) {
        self.context.metrics.refused(&self.transport.to_string(), &refusal.code);
        match (refusal.decision, flight) {
            (Decision::Retry { scope: Scope::Service, wait: Wait::AtLeast(wait) | Wait::Backoff(wait), .. }, _) => {
                self.pause_for(wait, &refusal.code);
            }
            (Decision::Retry { wait, until, scope }, Some(flight)) => {
                // A connection that breaks leaves many without an answer, which says nothing of the service.
                if refusal.code != AMBIGUOUS {
                    self.back_off((scope == Scope::Recipient).then_some(flight.recipient), &refusal.code);
                }
                if let Some((due_ms, _)) = flight.life.retry_history.next_try(wait, until, clock) {
                    self.context.metrics.count(Metric::DownstreamRetries);
                    let (code, attempt) = (&refusal.code, flight.life.attempt);
                    let in_ms = due_ms.saturating_sub(clock.now_ms);
                    tracing::debug!(target: message_log::TARGET, %sid, code, attempt, in_ms, "refused for now: will be tried again");
                }
            }
            (Decision::Retry { .. }, None) => {}
            (Decision::Fail { token, fault }, flight) => {
                self.service_backoff.reset();
                tracing::debug!(target: message_log::TARGET, %sid, code = refusal.code, "refused for good");
                self.tell_failure(sid, &refusal.code, (token, fault), flight.and_then(|flight| flight.token));
            }
        }
    }

    fn tell_failure(&self, sid: Sid, code: &str, (token_fate, fault): (TokenFate, Fault), token: Option<Token>) {
        if fault == Fault::Operator {
            tracing::error!(%sid, code, "the push service refuses for a reason that an operator has to mend");
            self.context.emit_event(BridgeEvent::Refused { code: code.to_owned(), id: sid });
        }
        if let (TokenFate::Remove, Some(token)) = (token_fate, token) {
            self.context.emit_event(BridgeEvent::TokenRemoved { token, code: code.to_owned() });
        }
    }

    /// Counts a retryable refusal; the last of many in a row begins a pause.
    fn back_off(&mut self, recipient: Option<Recipient>, code: &str) {
        // What is refused during a pause was sent before it, and says nothing new.
        if self.is_paused() {
            return;
        }
        if let Some(pause) = self.service_backoff.refused(recipient) {
            tracing::warn!(seconds = pause.as_secs(), "the push service refuses everything: sending pauses");
            self.pause_for(pause, code);
        }
    }

    fn pause_for(&self, wait: Duration, code: &str) {
        let until = Instant::now() + wait;
        self.pause.send_if_modified(|pause| {
            let longer = !wait.is_zero() && pause.as_ref().is_none_or(|pause| pause.until < until);
            if longer {
                *pause = Some(Pause { until, code: code.to_owned() });
            }
            longer
        });
    }

    /// Counts the copies beyond the first one. Where an earlier attempt may have reached the push service, all copies of this
    /// one are beyond it.
    fn count_copies(&self, flight: Option<&InFlight>, copies: u32) {
        let copied = flight.is_some_and(|flight| flight.life.dup_possible);
        let further = if copied { copies } else { copies.saturating_sub(1) };
        self.context.metrics.add(Metric::DownstreamResent, u64::from(further));
    }

    pub(super) async fn committed(&self, recorded: &Recorded, after: After) {
        count_told(&self.context.metrics, recorded);
        let unknown = matches!(recorded, Recorded::Unknown);
        match after {
            After::Receipt { original, ack_ref } => {
                if unknown {
                    self.context.metrics.count(Metric::ReceiptsUnknown);
                    tracing::debug!(original, "receipt for a message that is not remembered");
                }
                self.acknowledge(ack_ref).await;
            }
            After::Answer(sid) if unknown => tracing::warn!(%sid, "answer for a message that is not remembered"),
            After::Answer(_) => {}
        }
    }

    /// The transport may have ended, or the connection: the push service repeats what it did not see acknowledged.
    async fn acknowledge(&self, ack_ref: AckRef) {
        let _ = self.acks.send(ack_ref).await;
    }
}

/// How often the message was tried, as `attempt` of a status counts: what goes back untried was not.
fn attempts(fate: &Fate, copies: u32, replays: u32) -> u64 {
    let tries = match fate {
        Fate::Accepted { .. } | Fate::Expired => 1 + replays,
        Fate::Refused(Refusal { decision: Decision::Retry { scope: Scope::Service, .. }, .. }) => replays,
        Fate::Refused(_) => 1 + replays,
        Fate::Lost => u32::from(copies > 0),
        Fate::Unsendable { .. } | Fate::Deferred { .. } => 0,
    };
    u64::from(tries)
}
