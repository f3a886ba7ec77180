//! What becomes of a message after its answer.

use super::{Flight, Hub, std_now};
use crate::chat::id::Sid;
use crate::chat::refusal::{Arrival, Decision, Refusal, Wait};
use crate::chat::status::cut_detail;
use crate::fcm::breaker::Reaction;
use crate::fcm::judge::{FAULT_WAIT, judge};
use crate::fcm::verdict::{self, Asked, Cause, Refused, Share, Then, Tries, Unprocessed, Verdict, code};
use crate::ops::clock::now_ms;
use crate::transport::fcm::exchange::Reply;
use crate::transport::fcm::ledger::Pending;
use crate::transport::fcm::policy::{self, Consequence, Pause};
use crate::transport::{Change, ConnectionId, Report};
use std::time::Duration;

/// Faults of the project in a row that are not those of single messages, whatever passed before.
const FAULTS_MIN: u32 = 3;
/// Longest pause of a project that FCM did not ask for in so many words.
const PAUSE_MAX: Duration = Duration::from_secs(3600);

impl Hub {
    /// A request came to its end.
    pub(super) fn hear_reply(&mut self, connection: u64, sid: Sid, reply: &Reply) {
        let Some(flight) = self.flights.remove(&sid) else { return };
        self.pool.done(connection, reply.into());
        let Some(pending) = self.ledger.get_mut(sid) else { return };
        if matches!(reply, Reply::Unprocessed(Unprocessed::NotWritten)) {
            pending.tries = pending.tries.saturating_sub(1);
        }
        let replays = pending.replays;
        let recipient = pending.send.recipient.number();
        let Flight { target, is_within_rules, access, .. } = &flight;
        let (is_within_rules, access) = (*is_within_rules, *access);
        let asked = Asked { target, is_within_rules, access, now_unix_s: now_ms() / 1000 };
        let mut verdict = judge(&reply.outcome(), &asked);
        if let Verdict::Refused(refused) = &mut verdict {
            refused.detail.truncate(cut_detail(&refused.detail).len());
        }
        let suspect = pending.suspect;
        if is_fault(&verdict) {
            self.faults += 1;
            let alone = match suspect {
                Some(before) => self.passed > before,
                None => self.passed > flight.passed && self.faults < FAULTS_MIN,
            };
            if alone {
                acquit_project(&mut verdict);
            }
        }
        let consequence = match &verdict {
            Verdict::Sent { .. } => None,
            Verdict::Refused(refused) => Some(policy::consequence(refused, replays, self.config.on_ambiguous)),
        };
        // What goes again at once has not had its last word, so the breaker does not hear of it.
        if let Some(Consequence::Replay | Consequence::Refresh) = consequence {
            let refresh = consequence == Some(Consequence::Refresh);
            return self.again(sid, flight, if refresh { Hitch::Token } else { Hitch::Connection(connection) });
        }
        if shows_all_well(&verdict) {
            self.passed += 1;
            self.faults = 0;
        }
        if has_bad_token(&verdict) {
            self.bad_token = self.bad_token.max(flight.generation);
        }
        let before = self.breaker.cause();
        let reaction = self.breaker.answered(flight.ticket, &verdict, recipient, std_now());
        self.tell_breaker(before, &verdict, connection);
        match (verdict, consequence) {
            (Verdict::Sent { name }, _) => self.sent(sid, name, flight.dropped),
            (Verdict::Refused(refused), Some(Consequence::Report { decision, project }))
                if reaction == Reaction::AsJudged =>
            {
                self.report(sid, &refused, decision);
                self.pause_project(project);
            }
            (Verdict::Refused(refused), _) if policy::arrival(&refused) == Arrival::Maybe => {
                // What may have arrived is marked on disk before it goes again.
                self.report(sid, &refused, policy::undecided(self.config.on_ambiguous));
            }
            (Verdict::Refused(_), _) => self.keep(sid, reaction),
        }
    }

    /// It was certainly not processed, and keeps its place.
    fn again(&mut self, sid: Sid, flight: Flight, hitch: Hitch) {
        let Some(pending) = self.ledger.get_mut(sid) else { return };
        pending.replays += 1;
        pending.probe = flight.probe.then_some(flight.ticket);
        match hitch {
            Hitch::Token => {
                pending.refused_token = Some(flight.generation);
                self.tokens.refuse(flight.generation);
            }
            Hitch::Connection(connection) => {
                pending.refused_by = Some(connection);
                pending.waited = false;
            }
        }
        self.tally.replayed += 1;
        self.ledger.back(sid);
    }

    fn sent(&mut self, sid: Sid, provider_id: Option<String>, detail: Option<String>) {
        let Some(pending) = self.ledger.settle(sid) else { return };
        self.tally.accepted += 1;
        self.pauses = 0;
        let (copies, replays) = (pending.copies, pending.tries.saturating_sub(1));
        self.outbox.push_back(Report::Accepted { sid, canonical: None, provider_id, detail, copies, replays });
    }

    /// It waits here until the breaker lets it go again.
    fn keep(&mut self, sid: Sid, reaction: Reaction) {
        if let Some(pending) = self.ledger.get_mut(sid) {
            // The next token may be a good one, but the one after a pause is as old as any.
            pending.refused_token = None;
            pending.suspect = Some(self.passed);
            if let Reaction::Hold(cause) = reaction {
                pending.held = Some(cause);
            }
        }
        self.ledger.back(sid);
    }

    fn report(&mut self, sid: Sid, refused: &Refused, decision: Decision) {
        let Some(Pending { send, copies, tries, .. }) = self.ledger.settle(sid) else { return };
        let replays = tries.saturating_sub(1);
        let (code, arrival) = (policy::code_of(refused).to_owned(), policy::arrival(refused));
        self.tally.refused += 1;
        self.tally.ambiguous += u64::from(refused.then == Then::Undecided);
        tracing::debug!(%sid, code, ?decision, "message refused");
        let refusal = Refusal { decision, arrival, code, detail: refused.detail.clone() };
        self.outbox.push_back(Report::Refused { sid, refusal, copies, replays });
        if let Decision::Retry { wait: Wait::AtLeast(wait) | Wait::Backoff(wait), .. } = decision {
            self.defer_line(send.recipient.number(), sid, wait);
        }
    }

    fn pause_project(&mut self, pause: Option<Pause>) {
        let now = std_now();
        let wait = match pause {
            None => return,
            Some(Pause::Exactly(wait)) => wait,
            // What was on its way when the pause began says nothing new.
            Some(Pause::From(_)) if self.budget.paused_until(now).is_some() => return,
            Some(Pause::From(first)) => {
                self.pauses += 1;
                first.saturating_mul(1 << (self.pauses - 1).min(16)).min(PAUSE_MAX)
            }
        };
        if self.budget.paused_until(now).is_none() {
            tracing::warn!(seconds = wait.as_secs(), "the project's quota is used up: sending pauses");
        }
        self.budget.pause(wait, now);
    }

    fn tell_breaker(&mut self, before: Option<Cause>, verdict: &Verdict, connection: u64) {
        match (before, self.breaker.cause(), verdict) {
            (None, Some(cause), Verdict::Refused(refused)) => {
                let server = self.pool.server();
                tracing::error!(
                    %server,
                    cause = cause.as_str(),
                    detail = refused.detail,
                    "nothing is sent until this is mended"
                );
                let detail = format!("{}: {server}: {}", cause.as_str(), refused.detail);
                self.outbox.push_back(Report::Connection {
                    connection: ConnectionId::new(connection),
                    change: Change::AuthFailed { detail },
                });
            }
            (Some(cause), None, _) => tracing::info!(cause = cause.as_str(), "messages are sent again"),
            _ => {}
        }
    }
}

/// What kept a message from being processed.
enum Hitch {
    Token,
    Connection(u64),
}

fn has_bad_token(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Refused(Refused { then: Then::Hold(Cause::Unauthenticated), .. }))
}

fn is_fault(verdict: &Verdict) -> bool {
    matches!(verdict, Verdict::Refused(Refused { then: Then::Hold(_), .. }))
}

/// Whether the project and its credentials are in order, as far as an answer can show it.
fn shows_all_well(verdict: &Verdict) -> bool {
    match verdict {
        Verdict::Sent { .. } => true,
        Verdict::Refused(refused) => matches!(refused.then, Then::Never | Then::NeverTellOperator),
    }
}

/// A fault that shows with one message, while others pass, is not the project's: the message is tried by itself, and
/// nobody waits for it.
fn acquit_project(verdict: &mut Verdict) {
    let Verdict::Refused(Refused { then: then @ Then::Hold(_), code, arrival, .. }) = verdict else { return };
    *code = code::INTERNAL_SERVER_ERROR;
    *then = match arrival {
        verdict::Arrival::Possible => Then::Undecided,
        verdict::Arrival::No => Then::Backoff { first: FAULT_WAIT, whose: Share::Recipient, tries: Tries::UntilExpiry },
    };
}
