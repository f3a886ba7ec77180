//! What comes back from the transport, and what follows from it.

use super::{After, Dispatcher};
use crate::bridge::count_status;
use crate::bridge::service_backoff::Scope;
use crate::chat::delivery::{Arrival, EXPIRED, Event, Tried};
use crate::chat::id::Sid;
use crate::chat::message::BridgeEvent;
use crate::chat::status::TokenAction;
use crate::ops::clock::now_ms;
use crate::ops::message_log;
use crate::ops::metrics::Metric;
use crate::store::{Recorded, StoreError};
use crate::transport::{AckRef, Change, Refusal, Report};
use std::time::Duration;
use tokio::time::Instant;

/// The only status of a receipt that was ever documented.
const DELIVERED: &str = "MESSAGE_SENT_TO_DEVICE";
/// A refusal with a first delay below this concerns the push service as a whole; longer ones concern one device or topic.
const WHOLE_SERVICE: Duration = Duration::from_secs(30);
/// So much of a wait that the push service asked for is added by chance, at most: nobody comes sooner, nor all at once.
const ASKED_JITTER: f64 = 0.2;
/// The same of a wait that the bridge chose.
const OWN_JITTER: f64 = 0.5;

/// Why a message was not taken, and what else is known of it.
struct Reason {
    code: String,
    detail: String,
    copies: u32,
    arrival: Arrival,
}

impl Dispatcher {
    /// Takes what comes back from the transport.
    pub(super) async fn report(&mut self, report: Report) -> Result<(), StoreError> {
        match report {
            Report::Accepted { sid, canonical, provider_id, detail, copies, replays } => {
                self.service_backoff.release();
                self.replayed(sid, replays).await?;
                self.count_copies(sid, copies);
                self.flights.remove(&sid);
                self.record(sid, Event::Accepted { copies, provider_id, detail, canonical }).await
            }
            Report::Refused { sid, refusal, code, detail, copies, replays, arrival } => {
                self.replayed(sid, replays).await?;
                // A time to live that ended in the transport, and what the bridge itself refuses, is no word of the push
                // service.
                if !matches!(refusal, Refusal::Expired | Refusal::Unsendable) {
                    self.context.metrics.refused(&self.transport.to_string(), &code);
                }
                self.count_copies(sid, copies);
                let event = self.refused(sid, refusal, Reason { code, detail, copies, arrival });
                self.record(sid, event).await
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
            Report::Upstream(upstream) => self.desk.take(upstream).await,
            Report::Receipt { original, status, ack_ref, copies, .. } => {
                self.receipt(original, &status, ack_ref, copies).await
            }
            Report::Connection { connection, change } => {
                let transport = self.transport.to_string();
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
                    self.record(sid, Event::Accepted { copies, provider_id: None, detail: None, canonical: None })
                        .await?;
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

    fn refused(&mut self, sid: Sid, refusal: Refusal, reason: Reason) -> Event {
        let flight = self.flights.get(&sid);
        let (recipient, tried) = flight.map(|flight| (Some(flight.recipient), flight.tried)).unwrap_or_default();
        let longest = Duration::from_secs(self.context.settings.retry_max_seconds);
        if let Some((wait, tried)) = refusal.again(tried, longest) {
            let (scope, jitter) = match refusal {
                Refusal::RetryAfter(_) => (recipient.map(Scope::Recipient), ASKED_JITTER),
                Refusal::Backoff(first) | Refusal::Few(first) if first >= WHOLE_SERVICE => {
                    (recipient.map(Scope::Recipient), OWN_JITTER)
                }
                _ => (Some(Scope::Service), OWN_JITTER),
            };
            if let Some(scope) = scope {
                self.pause(scope);
            }
            return self.again(sid, (wait + wait.mul_f64(rand::random_range(0.0..jitter)), tried), reason);
        }
        let Reason { code, detail, copies, arrival } = reason;
        let flight = self.flights.remove(&sid);
        if refusal == Refusal::Unsendable {
            return Event::Unsendable { code, detail };
        }
        self.service_backoff.release();
        let token_action = match refusal {
            Refusal::Expired => return Event::Expired { copies, held: (code != EXPIRED).then_some(code) },
            Refusal::BadToken => TokenAction::Remove,
            Refusal::Quarantine => TokenAction::Quarantine,
            _ => TokenAction::Keep,
        };
        match refusal {
            Refusal::BadToken => {
                if let Some(token) = flight.and_then(|flight| flight.token) {
                    self.context.tell(BridgeEvent::TokenRemoved { token, code: code.clone() });
                }
            }
            Refusal::Operator | Refusal::Quarantine => {
                tracing::error!(%sid, code, "the push service refuses for a reason that an operator has to mend");
                self.context.tell(BridgeEvent::Refused { code: code.clone(), id: sid });
            }
            _ => {}
        }
        Event::Refused { code, detail, token_action, copies, arrival }
    }

    fn again(&mut self, sid: Sid, (delay, tried): (Duration, Tried), reason: Reason) -> Event {
        let Reason { code, copies, arrival, .. } = reason;
        self.context.metrics.count(Metric::DownstreamRetries);
        let attempt = self.flights.get(&sid).map(|flight| flight.attempt);
        tracing::debug!(target: message_log::TARGET, %sid, code, attempt, in_ms = delay.as_millis(), "refused for now: will be tried again");
        Event::Retry { due_ms: self.later(sid, delay), code, copies, arrival, tried }
    }

    /// Takes the message out of the air until `delay` is over. Returns when that is, in Unix milliseconds.
    fn later(&mut self, sid: Sid, delay: Duration) -> u64 {
        let due_ms = now_ms().saturating_add(u64::try_from(delay.as_millis()).unwrap_or(u64::MAX / 2));
        let Some(flight) = self.flights.remove(&sid) else { return due_ms };
        // At its deadline it is looked at once more, to be found expired.
        due_ms.min(flight.deadline_ms)
    }

    fn pause(&mut self, scope: Scope) {
        // What is refused during a pause was sent before it, and says nothing new.
        if self.is_paused() {
            return;
        }
        if let Some(pause) = self.service_backoff.refused(scope) {
            tracing::warn!(seconds = pause.as_secs(), "the push service refuses everything: sending pauses");
            self.pause_until = Some(Instant::now() + pause);
        }
    }

    /// The first copy of all is none more, unless one of an earlier attempt may be with the push service. To be asked
    /// before the message lands.
    fn count_copies(&self, sid: Sid, copies: u32) {
        let copied = self.flights.get(&sid).is_some_and(|flight| flight.copied);
        let further = if copied { copies } else { copies.saturating_sub(1) };
        self.context.metrics.add(Metric::DownstreamResent, u64::from(further));
    }

    /// The oldest commit is done.
    pub(super) async fn committed(&mut self, recorded: Recorded) -> Result<(), StoreError> {
        let Some((_, after)) = self.commits.pop_front() else { return Ok(()) };
        self.told(&recorded, &after);
        if let After::Receipt { ack_ref, .. } = after {
            self.acknowledge(ack_ref).await;
        }
        Ok(())
    }

    fn told(&self, recorded: &Recorded, after: &After) {
        match recorded {
            Recorded::Moved { bal, id, told, .. } => {
                for status in *told {
                    count_status(&self.context.metrics, *status);
                    tracing::debug!(target: message_log::TARGET, bal, id, ?status, "status on disk");
                }
            }
            Recorded::Swallowed => {}
            Recorded::Unknown => match after {
                After::Receipt { original, .. } => {
                    self.context.metrics.count(Metric::ReceiptsUnknown);
                    tracing::debug!(original, "receipt for a message that is not remembered");
                }
                After::Answer(sid) => tracing::warn!(%sid, "answer for a message that is not remembered"),
            },
        }
    }

    /// The transport may have ended, or the connection: the push service repeats what it did not see acknowledged.
    async fn acknowledge(&self, ack_ref: AckRef) {
        let _ = self.port.acks.send(ack_ref).await;
    }
}
