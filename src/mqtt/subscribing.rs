//! What the bridge reads of the broker: asks for it, makes do with less, and asks again for the rest.
//!
//! ```text
//!                      +/self/# granted
//!   asking ──────────────────────────────────────▶ reading ──┐ asks again for what is refused
//!     ▲  └── refused ──▶ the filters of an earlier ──────▶ │◀──┘ every `retry_max`
//!     │                  release, where it has them
//!     └── after `retry_max` ◀── refused as well
//! ```
//!
//! What is granted is never given up: only one of the two that mean the same is taken back, because a broker may deliver
//! a message once for each filter that matches.

use super::config::Plan;
use super::link::{Failure, Gone, Protocol};
use crate::chat::topic::{CLIENT_FILTERS, lost_without};
use std::future::{Future, pending};
use tokio::sync::mpsc;
use tokio::time::{sleep, timeout};
use tracing::{error, info, warn};

/// What is said of the filters of an earlier release.
const STAND_IN: &str = "only the subscriptions of an earlier release are granted: misspelt topics cannot be told, and of chat \
                        nothing but messages, receipts and presence reaches the bridge";

/// The subscriptions of one connection.
pub(super) struct Subscribing<'a, P: Protocol> {
    plan: &'a Plan,
    client: &'a P::Client,
    /// The session may have those of an earlier release.
    has_former: bool,
    /// These stand in for what is refused.
    stands_in: bool,
    /// The session may have those of other settings.
    has_unused: bool,
    refused: Vec<Refused>,
}

/// A filter, and why the broker does not grant it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Refused {
    filter: String,
    reason: String,
}

impl<'a, P: Protocol> Subscribing<'a, P> {
    /// Nothing is asked for yet. `session_present`: the broker has kept what an earlier connection subscribed to.
    pub(super) fn new(plan: &'a Plan, client: &'a P::Client, session_present: bool) -> Self {
        let (has_former, has_unused) = (session_present, session_present);
        Self { plan, client, has_former, stands_in: false, has_unused, refused: Vec::new() }
    }

    /// Asks; answers whether the bridge can work with what is granted, and what is refused, in words for an operator. What the session has besides is
    /// taken back afterwards: before, a message would find no subscription for a moment and be lost.
    ///
    /// # Errors
    /// When the broker does not answer.
    pub(super) async fn ask(&mut self) -> Result<(bool, Option<String>), Failure> {
        let wanted = match self.refused.is_empty() {
            true => self.plan.config.filters.clone(),
            false => self.refused.iter().map(|refused| refused.filter.clone()).collect(),
        };
        let refused = self.refused_of(&wanted).await?;
        let own: Vec<String> = refused.iter().map(|refused| &refused.filter).filter(is_own).cloned().collect();
        let former = &self.plan.config.former_filters;
        if own.is_empty() {
            self.stands_in = false;
            if std::mem::take(&mut self.has_former) {
                self.take_back(former).await?;
            }
        } else if !self.stands_in && !former.is_empty() {
            self.has_former = true;
            let without = self.refused_of(former).await?;
            self.stands_in = without.is_empty();
            if self.stands_in {
                warn!(broker = self.plan.address, filters = ?former, "{STAND_IN}");
                self.take_back(&own).await?;
            } else if self.refused.is_empty() {
                self.tell(&without);
            }
        }
        let can_work = own.is_empty() || self.stands_in;
        if can_work && std::mem::take(&mut self.has_unused) {
            self.take_back(&self.plan.config.unused_filters).await?;
        }
        self.note(refused);
        Ok((can_work, self.trouble()))
    }

    /// Asks for what is refused from time to time, and tells what is refused then. Ends only with the connection.
    pub(super) async fn ask_again(mut self, changes: mpsc::Sender<Option<String>>) -> Failure {
        while !self.refused.is_empty() {
            sleep(self.plan.config.limits.retry_max).await;
            match self.ask().await {
                // Nobody to tell means that the connection ends.
                Ok((_, trouble)) => _ = changes.send(trouble).await,
                Err(failure) => return failure,
            }
        }
        // Whoever listens is told nothing more.
        let _changes = changes;
        pending().await
    }

    /// Subscribes `filters`; those that are not granted.
    async fn refused_of(&self, filters: &[String]) -> Result<Vec<Refused>, Failure> {
        let reasons = self.answered(P::subscribe(self.client, filters)).await?;
        let refused =
            |(filter, reason): (&String, Option<String>)| Some(Refused { filter: filter.clone(), reason: reason? });
        Ok(filters.iter().zip(reasons).filter_map(refused).collect())
    }

    async fn take_back(&self, filters: &[String]) -> Result<(), Failure> {
        self.answered(P::unsubscribe(self.client, filters)).await
    }

    /// Waits for an answer of the broker.
    async fn answered<T>(&self, asked: impl Future<Output = Result<T, Gone>>) -> Result<T, Failure> {
        let limit = self.plan.config.limits.answer;
        match timeout(limit, asked).await {
            Ok(Ok(answer)) => Ok(answer),
            // The link is gone; its receiving half knows why, and ends it all.
            Ok(Err(Gone)) => pending().await,
            Err(_) => Err(Failure::Silent(limit)),
        }
    }

    /// Remembers what is refused, and says it if it is new.
    fn note(&mut self, refused: Vec<Refused>) {
        if refused == self.refused {
            return;
        }
        self.tell(&refused);
        for Refused { filter, .. } in
            self.refused.iter().filter(|before| !refused.iter().any(|now| now.filter == before.filter))
        {
            info!(broker = self.plan.address, filter, "the broker grants a subscription that it refused");
        }
        self.refused = refused;
    }

    fn tell(&self, refused: &[Refused]) {
        for Refused { filter, reason } in refused {
            let lost = self.lost(filter);
            error!(broker = self.plan.address, filter, reason, lost, "the broker refuses a subscription");
        }
    }

    /// What does not work without a filter.
    fn lost(&self, filter: &String) -> &'static str {
        if self.stands_in && is_own(&filter) { STAND_IN } else { lost_without(filter) }
    }

    fn trouble(&self) -> Option<String> {
        let told = |Refused { filter, reason }: &Refused| {
            let lost = self.lost(filter);
            format!("refuses the subscription {filter}: {reason} ({lost})")
        };
        let told: Vec<String> = self.refused.iter().map(told).collect();
        (!told.is_empty()).then(|| format!("{}: the broker {}", self.plan.address, told.join(", and ")))
    }
}

/// Whether the bridge hears its clients by it, and cannot work without it or what stands in for it.
fn is_own(filter: &&String) -> bool {
    CLIENT_FILTERS.contains(&filter.as_str())
}
