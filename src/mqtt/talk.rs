//! The speaking side of one connection: subscribe, say that the broker is up, publish.

use super::barrier::Barrier;
use super::config::{ClientLimits, Plan};
use super::link::{Answer, Failure, Gone, Protocol, Retain, Terms, wire_bytes};
use super::session::Tally;
use super::settle::{News, Settling, meaning};
use super::{BrokerLink, Outbound, Outcome};
use crate::ops::clock::at;
use std::future::{Future, pending};
use std::pin::pin;
use std::time::Duration;
use tokio::sync::{Notify, mpsc, oneshot, watch};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

/// Why this side closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Close {
    /// The bridge stops.
    Stop,
    /// Messages are unacknowledged for too long; brokers send them again only on a new connection.
    Redelivery,
}

pub(super) struct Talk<'a, P: Protocol> {
    pub(super) plan: &'a Plan,
    pub(super) terms: Terms,
    pub(super) client: &'a P::Client,
    pub(super) flight: &'a mut Flight,
    pub(super) broker_link: &'a watch::Sender<BrokerLink>,
    pub(super) readers: &'a watch::Sender<u64>,
    pub(super) tally: &'a Tally,
}

impl<P: Protocol> Talk<'_, P> {
    /// Works until this side has a reason to close, or the broker falls silent.
    pub(super) async fn run(
        &mut self,
        publish: &mut mpsc::Receiver<Outbound>,
        stop: &CancellationToken,
        withheld: &Notify,
    ) -> Result<Close, Failure> {
        let grace = self.plan.config.limits.grace;
        tokio::select! {
            () = stop.cancelled() => return Ok(Close::Stop),
            subscribed = self.subscribe() => subscribed?,
        }
        // What was handed over for the connection before, and who reads it may have changed since.
        let left_over = publish.len();
        self.open();
        let overdue = async {
            stop.cancelled().await;
            sleep(grace).await;
        };
        tokio::select! {
            ended = self.publish_all((publish, left_over), stop, withheld) => ended,
            () = overdue => {
                info!(left = self.flight.len(), "publications are left unconfirmed at the end");
                Ok(Close::Stop)
            }
        }
    }

    /// Subscribes until every filter is granted. What the session has besides is taken back afterwards: before, a message
    /// would find no subscription for a moment and be lost.
    async fn subscribe(&self) -> Result<(), Failure> {
        let config = &self.plan.config;
        let former = &config.former_filters;
        let mut has_former = self.terms.session_present;
        loop {
            if self.ask_for(&config.filters).await? {
                if has_former {
                    let surplus = [former.as_slice(), &config.unused_filters].concat();
                    self.answered(P::unsubscribe(self.client, &surplus)).await?;
                }
                return Ok(());
            }
            if !former.is_empty() {
                has_former = true;
                if self.ask_for(former).await? {
                    self.answered(P::unsubscribe(self.client, &config.filters)).await?;
                    warn!(
                        broker = self.plan.address,
                        filters = ?config.filters,
                        "the broker grants only the subscriptions of an earlier release: misspelt topics cannot be told"
                    );
                    return Ok(());
                }
            }
            sleep(config.limits.retry_max).await;
        }
    }

    /// Subscribes `filters`; whether all are granted.
    async fn ask_for(&self, filters: &[String]) -> Result<bool, Failure> {
        let refused = self.answered(P::subscribe(self.client, filters)).await?;
        for (filter, reason) in filters.iter().zip(&refused) {
            if let Some(reason) = reason {
                error!(broker = self.plan.address, filter, reason, "the broker refuses a subscription");
                let trouble = format!("{}: the broker refuses the subscription {filter}: {reason}", self.plan.address);
                self.flight.trouble.send_replace(Some(trouble));
            }
        }
        Ok(refused.iter().all(Option::is_none))
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

    fn open(&mut self) {
        self.tally.opened.get_or_init(Instant::now);
        info!(broker = self.plan.address, filters = self.plan.config.filters.len(), "subscribed; the broker is up");
        self.flight.trouble.send_replace(None);
        self.broker_link.send_replace(BrokerLink::Up);
        self.readers.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    async fn publish_all(
        &mut self,
        (publish, mut left_over): (&mut mpsc::Receiver<Outbound>, usize),
        stop: &CancellationToken,
        withheld: &Notify,
    ) -> Result<Close, Failure> {
        let limits = &self.plan.config.limits;
        let window = usize::from(limits.inflight.min(self.terms.receive_maximum));
        let mut redelivery = pin!(async {
            withheld.notified().await;
            sleep(limits.redelivery).await;
        });
        let mut closing = None;
        while closing.is_none() || !self.flight.is_empty() {
            let (deadline, room) = (self.flight.deadline(), self.flight.len() < window);
            tokio::select! {
                biased;
                () = stop.cancelled(), if !publish.is_closed() => publish.close(),
                () = &mut redelivery, if closing.is_none() => closing = Some(Close::Redelivery),
                Some(landed) = self.flight.landed() => self.flight.settle(landed, self.tally)?,
                () = at(deadline) => self.tick(),
                next = publish.recv(), if closing.is_none() && room => match next {
                    Some(outbound) => {
                        if left_over > 0 && !outbound.resume {
                            self.flight.barrier.broke(&outbound.topic);
                        }
                        left_over = left_over.saturating_sub(1);
                        self.send(outbound);
                    }
                    None => closing = Some(Close::Stop),
                },
            }
        }
        Ok(closing.unwrap_or(Close::Stop))
    }

    fn send(&mut self, outbound: Outbound) {
        if !self.flight.barrier.admits(&outbound.topic, outbound.resume) {
            // If nobody waits for it any more, that is no error.
            _ = outbound.outcome.send(Outcome::Unsent);
            return;
        }
        debug!(topic = outbound.topic, bytes = outbound.payload.len(), retain = outbound.retain, "publishing");
        Tally::count(&self.tally.published);
        let broker_takes = usize::try_from(self.terms.max_packet_bytes).unwrap_or(usize::MAX);
        let refusal = if wire_bytes(&outbound) > broker_takes {
            Some("larger than the broker's maximum packet size")
        } else if outbound.retain && self.terms.retain == Retain::Unsupported {
            Some("the broker keeps no retained messages")
        } else {
            None
        };
        if let Some(reason) = refusal {
            self.flight.take_off(outbound, async { Answer::Refused(reason.to_owned()) });
        } else {
            let answer = P::publish(self.client, &outbound);
            self.flight.take_off(outbound, answer);
        }
    }

    fn tick(&mut self) {
        if self.flight.tick(Instant::now()) {
            self.readers.send_modify(|changes| *changes = changes.wrapping_add(1));
        }
    }
}

/// Publications that wait for the broker's answer. It outlives the links: what was answered on one of them still counts,
/// and what was behind a failure in the bridge's queue meets the next one.
#[derive(Debug)]
pub(super) struct Flight {
    waiting: JoinSet<Landed>,
    settling: Settling,
    barrier: Barrier,
    limit: Duration,
    /// What is refused, for the operator.
    trouble: watch::Sender<Option<String>>,
    /// What was refused counts as refused until then: it is published again before, unless there is no need any more.
    refused_until: Option<Instant>,
    refusal_pause: Duration,
}

#[derive(Debug)]
struct Landed {
    topic: String,
    may_be_unread: bool,
    answer: Answer,
    outcome: oneshot::Sender<Outcome>,
}

impl Flight {
    pub(super) fn new(limits: &ClientLimits, trouble: watch::Sender<Option<String>>) -> Self {
        Self {
            trouble,
            refused_until: None,
            refusal_pause: limits.refusal_pause,
            waiting: JoinSet::new(),
            settling: Settling::new(limits.refusal_pause, limits.reader_probe),
            barrier: Barrier::default(),
            limit: limits.answer,
        }
    }

    /// Settles everything that is left. The link must be gone.
    pub(super) async fn land(&mut self, tally: &Tally) {
        while let Some(landed) = self.landed().await {
            // The link's end has been told already.
            _ = self.settle(landed, tally);
        }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn len(&self) -> usize {
        self.waiting.len()
    }

    fn deadline(&self) -> Option<Instant> {
        self.settling.deadline().into_iter().chain(self.refused_until).min()
    }

    /// Tells what is due; answers whether it is time for the bridge to probe for readers.
    fn tick(&mut self, now: Instant) -> bool {
        if self.refused_until.take_if(|until| *until <= now).is_some() {
            self.trouble.send_replace(None);
        }
        self.settling.tick(now)
    }

    fn take_off(&mut self, outbound: Outbound, answer: impl Future<Output = Answer> + Send + 'static) {
        let may_be_unread = outbound.may_be_unread();
        let Outbound { topic, outcome, .. } = outbound;
        let limit = self.limit;
        self.waiting.spawn(async move {
            let answer = timeout(limit, answer).await.unwrap_or(Answer::Silent);
            Landed { topic, may_be_unread, answer, outcome }
        });
    }

    /// Cancel safe. A task that was aborted dropped its outcome, which says "lost".
    async fn landed(&mut self) -> Option<Landed> {
        loop {
            match self.waiting.join_next().await? {
                Ok(landed) => return Some(landed),
                Err(_) => continue,
            }
        }
    }

    fn settle(&mut self, landed: Landed, tally: &Tally) -> Result<(), Failure> {
        let Landed { topic, may_be_unread, answer, outcome } = landed;
        if meaning(&answer, may_be_unread) == Outcome::Confirmed {
            Tally::count(&tally.confirmed);
            self.settling.passed(&topic);
        } else {
            self.barrier.broke(&topic);
        }
        if let Answer::Refused(reason) = &answer {
            self.trouble.send_replace(Some(format!("the broker refuses what is published on {topic}: {reason}")));
            self.refused_until = Some(Instant::now() + 3 * self.refusal_pause);
        }
        match &answer {
            Answer::Refused(reason) if self.settling.news(&topic) == News::First => {
                error!(topic, reason, "the broker refuses a publication; it is tried again and again");
            }
            answer => debug!(topic, ?answer, "a publication was answered"),
        }
        self.settling.answered(&answer, may_be_unread, outcome, Instant::now());
        match answer {
            Answer::Silent => Err(Failure::Silent(self.limit)),
            _ => Ok(()),
        }
    }
}
