//! Access tokens: one task fetches them in time, the service reads the current one.
//!
//! ```text
//!                 refusals (generation)                       one request at a time
//!   service ───────────────────────────────► TokenRefresher ──────────────────────────────► Google
//!           ◄───────────────────────────────                ◄──────────────────────────────
//!                 the current token (watch)
//! ```
//!
//! That one task asks makes every refresh a single one, however many messages were refused for the old token. It asks
//! early; while that fails, the old token stays in use for as long as it is good.
//!
//! Our own, and not the crate `gcp_auth`: that one can neither trust an authority of the operator's, nor be told that a
//! token was refused, nor keep the old token when a new one cannot be had, and it has no margin worth the name.

mod account;
mod ask;
mod fetch;

pub(super) use account::Account;
pub use account::AccountError;
#[cfg(test)]
pub(super) use account::tests::file as account_file;
pub(super) use fetch::Source;

use super::address::Address;
use super::renewal::Renewal;
use crate::transport::backoff::Backoff;
use fetch::{FetchError, Fresh};
use http::HeaderValue;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::watch;
use tokio::sync::watch::error::RecvError;
use tokio::time::Instant;

/// How long before its end a token is replaced, if it lives long enough for that.
const MARGIN: Duration = Duration::from_secs(300);
/// How long before its end a token is not used any more: a request is on its way for a while.
const LAST_USE: Duration = Duration::from_secs(10);
/// Waits after failures: the first ceiling, and the last.
const RETRY_FIRST: Duration = Duration::from_secs(1);
const RETRY_MAX: Duration = Duration::from_secs(60);
/// The last one while a token is needed, because that one was refused or has ended: what waits for it shall not wait much
/// longer than the failures last. A server that refuses the credential, or says when to come again, is left alone for longer.
const RETRY_NEEDED_MAX: Duration = Duration::from_secs(4);

/// No token: the first one is 1.
const NONE: u64 = 0;
/// The credentials with which the bridge began; those that were read next are 1.
pub(super) const FIRST: u64 = 0;

/// A token to send with a request.
#[derive(Debug, Clone)]
pub(super) struct Bearer {
    /// The header `authorization`.
    pub(super) header: HeaderValue,
    /// Counts the tokens, so that a refusal says which one it means.
    pub(super) generation: u64,
    /// The newest credentials that it can have been fetched with: it counts how often they were read.
    pub(super) credentials: u64,
    /// When it was asked for.
    pub(super) requested_at: Instant,
    /// Not to be used from then on.
    good_until: Instant,
}

#[derive(Debug, Clone, Default)]
struct TokenState {
    bearer: Option<Bearer>,
    /// How the last attempt to get a token failed, if it did.
    failure: Option<Failure>,
}

/// Why no token is to be had.
#[derive(Debug, Clone)]
pub(super) struct Failure {
    /// Who was asked, and the answer.
    pub(super) words: Arc<str>,
    /// The server refuses the credential. Otherwise no answer came, or none that could be used.
    is_refusal: bool,
    /// When the first attempt failed since one went well.
    pub(super) since: Instant,
    /// When the next one is made, at the latest.
    pub(super) next_try: Instant,
    /// Nor is one made before this, whoever needs a token.
    not_before: Instant,
}

pub(super) struct TokenRefresher {
    source: Source,
    address: Address,
    renewal: Renewal,
    state: watch::Sender<TokenState>,
    /// The last generation that was refused.
    refused: watch::Receiver<u64>,
    backoff: Backoff,
    generation: u64,
    credentials: u64,
}

/// The reading end: the current token, for the service.
#[derive(Debug, Clone)]
pub(super) struct TokenSource {
    state: watch::Receiver<TokenState>,
    refused: watch::Sender<u64>,
}

/// A refresher that gets its tokens from `source` at `address`, until `renewal` brings others, and where they are then.
pub(super) fn refresher(source: Source, address: Address, renewal: Renewal) -> (TokenRefresher, TokenSource) {
    let (state_tx, state) = watch::channel(TokenState::default());
    let (refused_tx, refused) = watch::channel(NONE);
    let backoff = Backoff::new(RETRY_FIRST, RETRY_MAX);
    let refresher = TokenRefresher {
        source,
        address,
        renewal,
        state: state_tx,
        refused,
        backoff,
        generation: NONE,
        credentials: FIRST,
    };
    (refresher, TokenSource { state, refused: refused_tx })
}

impl TokenSource {
    /// The token to send with, if there is one that is good.
    pub(super) fn bearer(&self, now: Instant) -> Option<Bearer> {
        self.state.borrow().bearer.as_ref().filter(|bearer| now < bearer.good_until).cloned()
    }

    /// See [`Bearer::credentials`]; of the last token, good or not.
    pub(super) fn credentials(&self) -> u64 {
        self.state.borrow().bearer.as_ref().map_or(FIRST, |bearer| bearer.credentials)
    }

    /// Whether the last attempt to get a token failed.
    pub(super) fn fails(&self) -> bool {
        self.state.borrow().failure.is_some()
    }

    /// The same, and how.
    pub(super) fn failure(&self) -> Option<Failure> {
        self.state.borrow().failure.clone()
    }

    /// When the last token was asked for, good or not.
    pub(super) fn requested_at(&self) -> Option<Instant> {
        self.state.borrow().bearer.as_ref().map(|bearer| bearer.requested_at)
    }

    /// Why it failed, if the server refused to give a token.
    pub(super) fn refusal(&self) -> Option<Arc<str>> {
        self.failure().filter(|failure| failure.is_refusal).map(|failure| failure.words)
    }

    /// A token was refused: another one is asked for.
    pub(super) fn refuse(&self, generation: u64) {
        self.refused.send_if_modified(|last| std::mem::replace(last, generation.max(*last)) < generation);
    }

    /// Waits for a change of what there is; an error when there will be none. Cancel-safe.
    pub(super) async fn changed(&mut self) -> Result<(), RecvError> {
        self.state.changed().await
    }
}

impl TokenRefresher {
    pub(super) async fn run(mut self) -> Infallible {
        loop {
            let asked = Instant::now();
            let next = match self.source.fetch(&self.address).await {
                Ok(fresh) => {
                    self.backoff.reset();
                    self.put(&fresh, asked)
                }
                Err(fault) => self.fail(&fault),
            };
            self.pause(next).await;
        }
    }

    /// Reads the files again. False if they are of no use.
    async fn renew(&mut self) -> bool {
        let Some((source, address)) = self.renewal.read().await else { return false };
        (self.source, self.address) = (source, address);
        self.credentials += 1;
        self.backoff.reset();
        true
    }

    /// Waits until a token is to be asked for.
    async fn pause(&mut self, mut until: Instant) {
        loop {
            tokio::select! {
                () = tokio::time::sleep_until(until) => return,
                () = self.renewal.due() => if self.renew().await {
                    return;
                },
                Ok(()) = self.refused.changed() => match &self.state.borrow().failure {
                    _ if *self.refused.borrow() != self.generation => {}
                    None => return,
                    Some(failure) => until = until.min(failure.not_before.max(Instant::now() + RETRY_NEEDED_MAX)),
                }
            }
        }
    }

    fn put(&mut self, fresh: &Fresh, asked: Instant) -> Instant {
        let Ok(mut header) = HeaderValue::try_from(format!("Bearer {}", fresh.token.reveal())) else {
            return self.fail(&FetchError::NoToken);
        };
        header.set_sensitive(true);
        self.generation += 1;
        // Of a short life as well, something is left between the replacement and the last use.
        let good_until = asked + fresh.life - LAST_USE.min(fresh.life / 4);
        let (generation, credentials) = (self.generation, self.credentials);
        let bearer = Bearer { header, generation, credentials, requested_at: asked, good_until };
        self.state.send_replace(TokenState { bearer: Some(bearer), failure: None });
        tracing::debug!(generation = self.generation, seconds = fresh.life.as_secs(), "access token fetched");
        asked + fresh.life - MARGIN.min(fresh.life / 2)
    }

    fn fail(&mut self, fault: &FetchError) -> Instant {
        let now = Instant::now();
        let left = self.state.borrow().bearer.as_ref().map(|bearer| bearer.good_until.saturating_duration_since(now));
        let skew_s = if let FetchError::Refused { skew_s, .. } = fault { *skew_s } else { None };
        let server = self.address.dialer.server();
        match left.filter(|left| !left.is_zero()) {
            Some(left) => {
                tracing::warn!(
                    %server,
                    %fault,
                    skew_s,
                    left_s = left.as_secs(),
                    "no new access token yet, the old one is used on"
                );
            }
            None if skew_s.is_some() => {
                tracing::error!(%server, %fault, skew_s, "no access token: the clock of this machine is wrong");
            }
            None => tracing::error!(%server, %fault, "no access token: no message can be sent"),
        }
        let words = format!("{server}: {fault}").into();
        let (next_try, not_before) = self.next_try(fault, left.filter(|left| !left.is_zero()), now);
        let is_refusal = fault.is_refusal();
        self.state.send_modify(|state| {
            let since = state.failure.as_ref().map_or(now, |failure| failure.since);
            state.failure = Some(Failure { words, is_refusal, since, next_try, not_before });
        });
        next_try
    }

    /// When the next attempt is made, and before when none is. `left`: how long the old token is good.
    fn next_try(&mut self, fault: &FetchError, left: Option<Duration>, now: Instant) -> (Instant, Instant) {
        let is_needed = left.is_none() || *self.refused.borrow() == self.generation;
        let longest = if is_needed && !fault.is_refusal() { RETRY_NEEDED_MAX } else { RETRY_MAX };
        // Half of the first wait is certain: a peer that refuses at once is not asked in a tight loop.
        let wait = RETRY_FIRST / 2 + self.backoff.next(rand::random()).min(longest);
        // When the old token ends, another one is needed at once.
        let wait = left.map_or(wait, |left| wait.min(left));
        let least = match fault {
            FetchError::Refused { retry_after: Some(asked), .. } => *asked,
            fault if fault.is_refusal() => wait,
            _ => Duration::ZERO,
        };
        (now + wait.max(least), now + least)
    }
}

#[cfg(test)]
mod tests;
