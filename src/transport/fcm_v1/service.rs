//! The decisions of FCM HTTP v1: whether a message may go, and what an answer means for it.

use super::losses::LoggedLosses;
use super::token::{self, Bearer, Failure, TokenSource};
use super::{FcmConfig, NO_TOKEN, OnAmbiguous, encode};
use crate::chat::delivery::Fate;
use crate::chat::push::Target;
use crate::chat::topic::APP_RECEIPTS;
use crate::fcm::budget::{Budget, Charge, Grant};
use crate::fcm::health::{self, Health, QUOTA, Standing, Ticket};
use crate::fcm::judge::{BROKEN, judge};
use crate::fcm::request::{Request, RequestError, translate};
use crate::fcm::target;
use crate::fcm::verdict::{Answer, Asked, Cause, Outcome, Replay, Verdict as Judged};
use crate::transport::core::{Admission, Message, Now, Response, Service, Verdict};
use crate::transport::http2::{self, Reply};
use crate::transport::{ConnectionChange, Link, Send, Trouble};
use http::{HeaderMap, header};
use std::borrow::Cow;
use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How often in a row a message is sent again at once. A peer that processes nothing must not be asked in a tight loop.
pub(super) const REPLAYS_MAX: u32 = 5;
/// Longest wait for a device's budget in memory; a longer one goes back to the store.
const WAIT_HERE_MAX: Duration = Duration::from_secs(1);
/// How long a message whose access token was refused waits in the store while no other token is to be had.
const TOKEN_WAIT: Duration = Duration::from_secs(5);

pub(super) struct FcmService {
    app_receipts: bool,
    on_ambiguous: OnAmbiguous,
    /// Where the API is, for operators.
    server: String,
    /// The project and what names it, likewise.
    project: String,
    tokens: TokenSource,
    health: Health,
    budget: Budget,
    logged_losses: LoggedLosses,
    /// The newest credentials that a token was had with.
    credentials: u64,
    /// The last refusal of an access token that operators were told of, while it lasts.
    token_refusal: Option<Arc<str>>,
    changes: VecDeque<ConnectionChange>,
    /// Why nothing is sent, in FCM's words, and since when; also of the last time.
    outage: Option<(String, Instant)>,
    /// Of the last call that was given the time, for those that are not.
    now: Instant,
}

/// What is remembered of a message that was written.
#[derive(Debug)]
pub(super) struct SentRequest {
    ticket: Ticket,
    target: target::Target,
    /// See [`Request::is_within_rules`].
    is_within_rules: bool,
    /// See [`Request::can_confirm`].
    can_confirm: bool,
    /// What of the message did not travel, for its sender.
    dropped: Option<String>,
}

impl FcmService {
    pub(super) fn new(config: &FcmConfig, (server, project): (String, &str), tokens: TokenSource) -> Self {
        Self {
            app_receipts: config.app_receipts,
            on_ambiguous: config.on_ambiguous,
            server,
            project: config.project_named(project),
            tokens,
            health: Health::default(),
            budget: Budget::new(&config.quotas),
            logged_losses: LoggedLosses::default(),
            credentials: token::FIRST,
            token_refusal: None,
            changes: VecDeque::new(),
            outage: None,
            now: tokio::time::Instant::now().into_std(),
        }
    }

    /// Takes note of what became of the access token. New credentials end the pauses that the old ones caused. A refusal to
    /// give a token is told to operators as refused credentials are: without a token no message goes.
    fn look(&mut self, now: Instant) {
        self.now = now;
        let credentials = self.tokens.credentials();
        if credentials > self.credentials {
            self.credentials = credentials;
            self.health.credentials_changed(now);
        }
        let token_refusal = self.tokens.refusal().filter(|_| !self.has_good_token(now));
        if let (None, Some(words)) = (&self.token_refusal, &token_refusal) {
            self.changes.push_back(ConnectionChange::AuthFailed { detail: format!("{NO_TOKEN}: {words}") });
        }
        self.token_refusal = token_refusal;
    }

    /// The access token to send with, if there is one that is good.
    fn bearer(&self, now: Instant) -> Option<Bearer> {
        let bearer = self.tokens.bearer(tokio::time::Instant::from_std(now))?;
        Some(bearer).filter(|bearer| bearer.generation > self.health.spent_token())
    }

    /// Whether there is a token that is good as far as anybody knows: none that was refused while no other is to be had.
    fn has_good_token(&self, now: Instant) -> bool {
        let is_doubted = |bearer: &Bearer| self.tokens.fails() && self.health.doubts_token(bearer.generation);
        self.bearer(now).is_some_and(|bearer| !is_doubted(&bearer))
    }

    fn prepare(&self, send: &Send, now_ms: u64) -> Result<(target::Target, Request), RequestError> {
        let (ttl_s, id) = (send.ttl_left(now_ms), send.sid.to_string());
        let message = encode::message(&send.push, id, ttl_s, self.app_receipts.then_some(APP_RECEIPTS))?;
        let target = message.target.clone();
        Ok((target, translate(message, now_ms / 1000)?))
    }

    /// Tells operators of what has become of the health.
    fn tell(&mut self, before: Standing, detail: &str, now: Instant) {
        let after = self.health.standing(now);
        if before == after {
            return;
        }
        let server = &self.server;
        let is_unknown = self.health.cause() == Some(Cause::UnknownProject) && !detail.is_empty();
        let told = if is_unknown { format!("{detail} ({})", self.project) } else { detail.to_owned() };
        let detail = &*told;
        if let (Standing::Down(_), false) = (after, detail.is_empty()) {
            let known = self.outage.as_ref().filter(|_| before != Standing::Well);
            self.outage = Some((format!("{server}: {detail}"), known.map_or(now, |(_, since)| *since)));
        }
        match (before, after, self.health.cause()) {
            (Standing::Well, Standing::Down(QUOTA), _) => {
                tracing::warn!(detail, "the project's quota is used up: sending pauses");
            }
            (Standing::Well, Standing::Down(word), Some(Cause::Unavailable)) => {
                tracing::warn!(%server, cause = word, detail, "FCM is unavailable: one message at a time is sent as a probe");
            }
            (Standing::Well, Standing::Down(word), _) => {
                tracing::error!(%server, cause = word, detail, "nothing is sent until this is mended");
                self.changes.push_back(ConnectionChange::AuthFailed { detail: format!("{word}: {server}: {detail}") });
            }
            (Standing::Down(word) | Standing::Probing(word), Standing::Well, _) => {
                tracing::info!(cause = word, "messages are sent again");
            }
            _ => {}
        }
    }
}

impl Service for FcmService {
    type Memo = Option<SentRequest>;
    type Request = http2::Request;
    type Answer = Reply;

    fn admit(&mut self, message: &mut Message<Self::Memo>, now: Now) -> Admission<Self::Request> {
        let Now { instant, unix_ms } = now;
        self.look(instant);
        let Some(bearer) = self.bearer(instant) else {
            return if self.tokens.fails() { Admission::Back(Fate::Lost) } else { Admission::Wait(None) };
        };
        let is_well = self.health.standing(instant) == Standing::Well;
        // Asked before the message is translated, which would be in vain each time otherwise.
        let wait = if is_well { self.budget.project_wait(instant) } else { Duration::ZERO };
        if !wait.is_zero() {
            return Admission::Wait(Some(instant + wait));
        }
        let (target, request) = match self.prepare(&message.send, unix_ms) {
            Ok(prepared) => prepared,
            Err(error) => {
                let (code, detail) = (error.code().to_owned(), error.to_string());
                return Admission::Back(Fate::Unsendable { code, detail });
            }
        };
        let (row, recipient) = (message.send.sid.row().0, message.send.recipient.0);
        let ticket = match self.health.admit((row, recipient), bearer.generation, instant) {
            health::Admission::Go(ticket) => ticket,
            // Others may be the probe.
            health::Admission::NotBefore(until) if matches!(self.health.standing(instant), Standing::Probing(_)) => {
                let wait = until.saturating_duration_since(instant);
                return held(wait, "another message is to find out whether any is taken");
            }
            health::Admission::NotBefore(_) => return Admission::Back(Fate::Lost),
            health::Admission::NewToken if self.tokens.fails() => {
                return held(TOKEN_WAIT, "its access token was refused, and there is no other");
            }
            health::Admission::NewToken => return Admission::Skip,
        };
        if is_well {
            let charge = match message.send.push.target {
                Target::Token(_) => Charge::Device(recipient),
                Target::Topic(_) | Target::Condition(_) => Charge::Topic,
            };
            match self.budget.take(charge, instant) {
                Grant::Go => {}
                Grant::ProjectWaits(wait) => return Admission::Wait(Some(instant + wait)),
                Grant::DeviceWaits(wait, limit) if wait > WAIT_HERE_MAX => {
                    return held(wait, format!("{limit} of this device"));
                }
                Grant::DeviceWaits(wait, limit) => {
                    return Admission::HoldRecipient(instant + wait, format!("{limit} of this device").into());
                }
            }
        }
        let Request { is_within_rules, can_confirm, losses, body, .. } = request;
        let dropped = self.logged_losses.note(losses);
        message.memo = Some(SentRequest { ticket, target, is_within_rules, can_confirm, dropped });
        Admission::Go(http2::Request { body: body.into(), authorization: bearer.header })
    }

    fn decide(&mut self, message: &mut Message<Self::Memo>, reply: Reply, now: Now) -> Verdict {
        let Some(SentRequest { ticket, target, is_within_rules, can_confirm, dropped }) = message.memo.take() else {
            return Verdict::Elsewhere;
        };
        let (on_ambiguous, now_unix_s) = (self.on_ambiguous, now.unix_ms / 1000);
        let asked = Asked { target: &target, is_within_rules, access: ticket.access(), on_ambiguous, now_unix_s };
        let judged = judge(&outcome(&reply), &asked);
        let before = self.health.standing(now.instant);
        let mut judged = self.health.outcome(&ticket, judged, now.instant);
        if let Judged::Replay(_, refusal) = &judged
            && message.replays() >= REPLAYS_MAX
        {
            let refused = Judged::Refused(refusal.clone());
            judged = self.health.outcome(&ticket, refused, now.instant);
        }
        self.tokens.refuse(self.health.refused_token());
        if self.health.standing(now.instant) != Standing::Well {
            self.budget.begin_anew();
        }
        match judged {
            Judged::Sent { name } => {
                self.tell(before, "", now.instant);
                Verdict::Back(Fate::Accepted { canonical: None, provider_id: name, detail: dropped, can_confirm })
            }
            Judged::Replay(Replay::Elsewhere, _) => Verdict::Elsewhere,
            Judged::Replay(Replay::NewToken, _) => Verdict::Again,
            Judged::Refused(refusal) | Judged::Fault(_, refusal) => {
                self.tell(before, &refusal.detail, now.instant);
                Verdict::Back(Fate::Refused(refusal))
            }
        }
    }

    fn response(&self, reply: &Reply) -> Response {
        match reply {
            Reply::Answered { .. } => Response::Answer,
            Reply::Late => Response::Late,
            Reply::RefusedStream | Reply::BeyondGoaway | Reply::Broken => Response::None,
        }
    }

    fn link_override(&self, able: bool, now: Now) -> Option<Link> {
        let (has_token, has_good_token) = (self.bearer(now.instant).is_some(), self.has_good_token(now.instant));
        match self.health.standing(now.instant) {
            Standing::Probing(word) if able && has_token => Some(Link::Probing(word)),
            Standing::Probing(word) | Standing::Down(word) => Some(Link::Down(word)),
            Standing::Well if has_good_token => None,
            // One message at a time finds out whether the token that was refused is good for others.
            Standing::Well if has_token && able => Some(Link::Probing(NO_TOKEN)),
            Standing::Well if self.tokens.fails() => Some(Link::Down(NO_TOKEN)),
            Standing::Well => Some(Link::UNCONNECTED),
        }
    }

    fn trouble(&self) -> Option<Trouble> {
        let is_well = self.health.standing(self.now) == Standing::Well;
        if let Some((words, since)) = self.outage.as_ref().filter(|_| !is_well) {
            let next_try = self.health.wake(self.now);
            return Some(Trouble { words: words.clone(), since: Some(*since), next_try });
        }
        let Failure { words, since, next_try, .. } =
            self.tokens.failure().filter(|_| !self.has_good_token(self.now))?;
        let words = format!("no access token: {words}");
        Some(Trouble { words, since: Some(since.into_std()), next_try: Some(next_try.into_std()) })
    }

    fn access_token_requested_at(&self) -> Option<Instant> {
        self.tokens.requested_at().map(tokio::time::Instant::into_std)
    }

    fn take_change(&mut self, now: Now) -> Option<ConnectionChange> {
        self.look(now.instant);
        self.changes.pop_front()
    }

    fn deadline(&self) -> Option<Instant> {
        self.health.wake(self.now)
    }
}

/// Translates what the connection says into what [`judge`] takes.
fn outcome(reply: &Reply) -> Outcome<'_> {
    fn text(headers: &HeaderMap, name: header::HeaderName) -> Option<&str> {
        headers.get(name)?.to_str().ok()
    }
    match reply {
        Reply::Answered { status, headers, body } => Outcome::Answered(Answer {
            status: *status,
            retry_after: text(headers, header::RETRY_AFTER),
            date: text(headers, header::DATE),
            content_type: text(headers, header::CONTENT_TYPE),
            body,
        }),
        Reply::RefusedStream => Outcome::Unprocessed("the connection had no room for the message"),
        Reply::BeyondGoaway => Outcome::Unprocessed("the connection was ended before the message was looked at"),
        Reply::Late => Outcome::Ambiguous("no answer in time"),
        Reply::Broken => Outcome::Ambiguous(BROKEN),
    }
}

/// The message goes back untried and is due again after `wait`.
fn held(wait: Duration, why: impl Into<Cow<'static, str>>) -> Admission<http2::Request> {
    Admission::Back(Fate::Deferred { wait, why: why.into() })
}
