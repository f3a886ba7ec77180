//! What comes back from the transport, and what follows from it.

use super::{After, Dispatcher};
use crate::bridge::count_told;
use crate::chat::delivery::{AMBIGUOUS, Event};
use crate::chat::id::{Recipient, Sid, Token};
use crate::chat::message::BridgeEvent;
use crate::chat::refusal::{Decision, Fault, Refusal, RetryClock, Scope, TokenFate, Wait};
use crate::ops::clock::now_ms;
use crate::ops::message_log;
use crate::ops::metrics::Metric;
use crate::store::{Recorded, StoreError};
use crate::transport::{AckRef, Change, Report};
use std::time::Duration;
use tokio::time::Instant;

/// The only status of a receipt that was ever documented.
const DELIVERED: &str = "MESSAGE_SENT_TO_DEVICE";

impl Dispatcher {
    /// Takes what comes back from the transport.
    pub(super) async fn report(&mut self, report: Report) -> Result<(), StoreError> {
        self.context.metrics.add(Metric::DownstreamAttempts, attempts(&report));
        match report {
            Report::Accepted { sid, canonical, provider_id, detail, copies, replays } => {
                self.service_backoff.reset();
                self.replayed(sid, replays).await?;
                self.count_copies(sid, copies);
                self.flights.remove(&sid);
                self.record(sid, Event::Accepted { copies, provider_id, detail, canonical }).await
            }
            Report::Refused { sid, refusal, copies, replays } => {
                self.replayed(sid, replays).await?;
                self.context.metrics.refused(&self.transport.to_string(), &refusal.code);
                self.count_copies(sid, copies);
                let clock = self.refused(sid, &refusal);
                self.record(sid, Event::Refused { refusal, copies, clock }).await
            }
            Report::Unsendable { sid, code, detail } => {
                self.flights.remove(&sid);
                self.record(sid, Event::Unsendable { code, detail }).await
            }
            Report::Expired { sid, copies, replays } => {
                self.replayed(sid, replays).await?;
                self.count_copies(sid, copies);
                self.flights.remove(&sid);
                self.record(sid, Event::Expired { copies }).await
            }
            Report::Deferred { sid, wait } => {
                let due_ms = self.later(sid, wait);
                self.record(sid, Event::Deferred { due_ms }).await
            }
            Report::Lost { sid, copies } => {
                self.count_copies(sid, copies);
                self.flights.remove(&sid);
                self.record(sid, Event::Lost { copies }).await
            }
            Report::Receipt { original, status, ack_ref, copies, .. } => {
                self.receipt(original, &status, ack_ref, copies).await
            }
            Report::Connection { connection, change } => {
                let (transport, connection) = (self.transport.to_string(), connection.number());
                self.context.tell(match change {
                    Change::Up => BridgeEvent::Connected { transport, connection },
                    Change::Draining => BridgeEvent::Draining { transport, connection },
                    Change::Lost { detail } => BridgeEvent::Reconnect { transport, connection, detail },
                    Change::AuthFailed { detail } => BridgeEvent::AuthFailed { transport, detail },
                });
                Ok(())
            }
        }
    }

    async fn receipt(
        &mut self,
        original: String,
        status: &str,
        ack_ref: AckRef,
        copies: u32,
    ) -> Result<(), StoreError> {
        self.context.metrics.count(Metric::Receipts);
        match Sid::parse(&original) {
            Some(sid) if status == DELIVERED => {
                if copies > 1 {
                    // The answer to the first copy is lost, and the one to the next comes too late for the mark.
                    let accepted = Event::Accepted { copies, provider_id: None, detail: None, canonical: None };
                    self.record(sid, accepted).await?;
                }
                let committed = self.context.store.record(sid, Event::Receipt, now_ms()).await?;
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

    /// What its transport sent again at once was tried more often than it was handed over.
    async fn replayed(&mut self, sid: Sid, times: u32) -> Result<(), StoreError> {
        if times == 0 { Ok(()) } else { self.record(sid, Event::Replayed { times }).await }
    }

    /// What follows for others from the refusal of a message, and the clock for what follows for itself.
    fn refused(&mut self, sid: Sid, refusal: &Refusal) -> RetryClock {
        let flight = self.flights.remove(&sid);
        let clock = RetryClock {
            now_ms: now_ms(),
            deadline_ms: flight.as_ref().map_or(u64::MAX, |flight| flight.deadline_ms),
            longest: Duration::from_secs(self.context.settings.retry_max_seconds),
            permille: rand::random_range(0..=1000),
        };
        match (refusal.decision, flight) {
            (Decision::Retry { scope: Scope::Service, wait: Wait::AtLeast(wait) | Wait::Backoff(wait), .. }, _) => {
                self.pause_for(wait);
            }
            (Decision::Retry { wait, until, scope }, Some(flight)) => {
                // A connection that breaks leaves many without an answer, which says nothing of the service.
                if refusal.code != AMBIGUOUS {
                    self.back_off((scope == Scope::Recipient).then_some(flight.recipient));
                }
                if let Some((due_ms, _)) = flight.tried.again(wait, until, clock) {
                    self.context.metrics.count(Metric::DownstreamRetries);
                    let (code, attempt, in_ms) = (&refusal.code, flight.attempt, due_ms.saturating_sub(clock.now_ms));
                    tracing::debug!(target: message_log::TARGET, %sid, code, attempt, in_ms, "refused for now: will be tried again");
                }
            }
            (Decision::Retry { .. }, None) => {}
            (Decision::Fail { token, fault }, flight) => {
                self.service_backoff.reset();
                self.tell_failure(sid, &refusal.code, (token, fault), flight.and_then(|flight| flight.token));
            }
        }
        clock
    }

    fn tell_failure(&self, sid: Sid, code: &str, (fate, fault): (TokenFate, Fault), token: Option<Token>) {
        if fault == Fault::Operator {
            tracing::error!(%sid, code, "the push service refuses for a reason that an operator has to mend");
            self.context.tell(BridgeEvent::Refused { code: code.to_owned(), id: sid });
        }
        if let (TokenFate::Remove, Some(token)) = (fate, token) {
            self.context.tell(BridgeEvent::TokenRemoved { token, code: code.to_owned() });
        }
    }

    /// The message is not in flight until `delay` is over. Returns when that is, in Unix milliseconds.
    fn later(&mut self, sid: Sid, delay: Duration) -> u64 {
        let due_ms = now_ms().saturating_add(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX / 2));
        let Some(flight) = self.flights.remove(&sid) else { return due_ms };
        // At its deadline it is looked at once more, to be found expired.
        due_ms.min(flight.deadline_ms)
    }

    /// The service said "later", of everybody or of one recipient.
    fn back_off(&mut self, recipient: Option<Recipient>) {
        // What is refused during a pause was sent before it, and says nothing new.
        if self.is_paused() {
            return;
        }
        if let Some(pause) = self.service_backoff.refused(recipient) {
            tracing::warn!(seconds = pause.as_secs(), "the push service refuses everything: sending pauses");
            self.pause_for(pause);
        }
    }

    fn pause_for(&mut self, pause: Duration) {
        self.pause_until = self.pause_until.max(Some(Instant::now() + pause));
    }

    /// The first copy of all is none more, unless one of an earlier attempt may be with the push service. To be asked
    /// while the message is in flight.
    fn count_copies(&self, sid: Sid, copies: u32) {
        let copied = self.flights.get(&sid).is_some_and(|flight| flight.copied);
        let further = if copied { copies } else { copies.saturating_sub(1) };
        self.context.metrics.add(Metric::DownstreamResent, u64::from(further));
    }

    /// A commit is done.
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
fn attempts(report: &Report) -> u64 {
    let tries = match report {
        Report::Accepted { replays, .. } | Report::Expired { replays, .. } => 1 + replays,
        Report::Refused { refusal, replays, .. } => {
            let untried = matches!(refusal.decision, Decision::Retry { scope: Scope::Service, .. });
            replays + u32::from(!untried)
        }
        Report::Lost { copies, .. } => u32::from(*copies > 0),
        Report::Unsendable { .. } | Report::Deferred { .. } | Report::Receipt { .. } | Report::Connection { .. } => 0,
    };
    u64::from(tries)
}
