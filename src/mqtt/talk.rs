//! The speaking side of one connection: subscribe, say that the broker is up, publish.

use super::barrier::Barrier;
use super::config::{ClientLimits, Plan};
use super::link::{Answer, Failure, Protocol, Retain, Terms, wire_bytes};
use super::packet_suspect::PacketSuspect;
use super::refusals::RefusalLog;
use super::session::Tally;
use super::session_log::SessionLog;
use super::settle::{Settling, meaning};
use super::subscribing::Subscribing;
use super::trouble::Trouble;
use super::{BrokerLink, Notice, Outbound, Outcome, SetAside};
use crate::ops::clock::at;
use std::future::Future;
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
    pub(super) links: Links<'a>,
    pub(super) notices: &'a mpsc::Sender<Notice>,
    pub(super) tally: &'a Tally,
}

/// What the bridge sees of the connection.
pub(super) struct Links<'a> {
    pub(super) broker_link: &'a watch::Sender<BrokerLink>,
    pub(super) connections: &'a watch::Sender<u64>,
    pub(super) readers: &'a watch::Sender<u64>,
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
        let mut subscribing = Subscribing::<P>::new(self.plan, self.client, self.terms.session_present);
        tokio::select! {
            () = stop.cancelled() => return Ok(Close::Stop),
            subscribed = self.subscribe(&mut subscribing) => subscribed?,
        }
        self.open();
        let overdue = async {
            stop.cancelled().await;
            sleep(grace).await;
        };
        let (changes, refused) = mpsc::channel(1);
        tokio::select! {
            ended = self.publish_all(publish, refused, stop, withheld) => ended,
            failure = subscribing.ask_again(changes) => Err(failure),
            () = overdue => {
                info!(left = self.flight.len(), "publications are left unconfirmed at the end");
                Ok(Close::Stop)
            }
        }
    }

    /// Asks until the bridge can work with what the broker grants.
    async fn subscribe(&mut self, subscribing: &mut Subscribing<'_, P>) -> Result<(), Failure> {
        loop {
            let (can_work, refused) = subscribing.ask().await?;
            self.flight.trouble.filters(refused);
            if can_work {
                return Ok(());
            }
            sleep(self.plan.config.limits.retry_max).await;
        }
    }

    fn open(&mut self) {
        self.tally.opened.get_or_init(Instant::now);
        info!(broker = self.plan.address, filters = self.plan.config.filters.len(), "subscribed; the broker is up");
        self.flight.trouble.connected();
        let Links { broker_link, connections, readers } = &self.links;
        connections.send_modify(|connections| *connections = connections.wrapping_add(1));
        broker_link.send_replace(BrokerLink::Up);
        readers.send_modify(|changes| *changes = changes.wrapping_add(1));
    }

    async fn publish_all(
        &mut self,
        publish: &mut mpsc::Receiver<Outbound>,
        mut refused: mpsc::Receiver<Option<String>>,
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
            let (deadline, room) = (self.flight.deadline(), self.flight.len() < window && !self.flight.is_full());
            tokio::select! {
                biased;
                () = stop.cancelled(), if !publish.is_closed() => publish.close(),
                () = &mut redelivery, if closing.is_none() => closing = Some(Close::Redelivery),
                Some(landed) = self.flight.landed() => self.flight.settle(landed, self.tally)?,
                () = at(deadline) => self.tick(),
                Some(refused) = refused.recv() => self.flight.trouble.filters(refused),
                next = publish.recv(), if closing.is_none() && room => match next {
                    Some(outbound) => self.send(outbound),
                    None => closing = Some(Close::Stop),
                },
            }
        }
        Ok(closing.unwrap_or(Close::Stop))
    }

    fn send(&mut self, outbound: Outbound) {
        if outbound.connection.is_some_and(|connection| connection != *self.links.connections.borrow()) {
            // It was in the queue when an earlier connection ended. What follows it on its topic waits until it was published.
            self.flight.barrier.broke(&outbound.topic);
            _ = outbound.outcome.send(Outcome::Unsent);
            return;
        }
        if !self.flight.barrier.admits(&outbound.topic, outbound.resume) {
            // If nobody waits for it any more, that is no error.
            _ = outbound.outcome.send(Outcome::Unsent);
            return;
        }
        let told = usize::try_from(self.terms.max_packet_bytes).unwrap_or(usize::MAX);
        let most = self.flight.packet_suspect.most().map_or(told, |most| most.min(told));
        let bytes = wire_bytes(&outbound);
        if bytes > most && !outbound.retain {
            return self.set_aside(outbound, bytes, most);
        }
        debug!(topic = outbound.topic, bytes = outbound.payload.len(), retain = outbound.retain, "publishing");
        Tally::count(&self.tally.published);
        let refusal = if bytes > most {
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

    /// Those behind it on its topic go on.
    fn set_aside(&self, outbound: Outbound, bytes: usize, most: usize) {
        let Outbound { topic, payload, outcome, .. } = outbound;
        warn!(topic, bytes, most, "a document is bigger than the packets that the broker takes, and is set aside");
        _ = outcome.send(Outcome::SetAside);
        // If the bridge is behind with notices, the log has to do.
        _ = self.notices.try_send(Notice::SetAside(SetAside { topic: topic.into(), payload, bytes, most }));
    }

    fn tick(&mut self) {
        if self.flight.tick(Instant::now()) {
            self.links.readers.send_modify(|changes| *changes = changes.wrapping_add(1));
        }
    }
}

/// Publications that wait for the broker's answer. It outlives the links: what was answered on one of them still counts,
/// and what was behind a failure in the bridge's queue meets the next one.
#[derive(Debug)]
pub(super) struct Flight {
    waiting: JoinSet<Landed>,
    settling: Settling,
    log: RefusalLog,
    barrier: Barrier,
    limit: Duration,
    /// What is wrong, for the operator.
    pub(super) trouble: Trouble,
    /// What was refused counts as refused until then: it is published again before, unless there is no need any more.
    refused_until: Option<Instant>,
    refusal_pause: Duration,
    /// What was said of the session that the broker keeps.
    pub(super) session_log: SessionLog,
    pub(super) packet_suspect: PacketSuspect,
}

#[derive(Debug)]
struct Landed {
    topic: String,
    /// On the wire, at most.
    bytes: usize,
    may_be_unread: bool,
    answer: Answer,
    outcome: oneshot::Sender<Outcome>,
}

impl Flight {
    pub(super) fn new(limits: &ClientLimits, trouble: watch::Sender<Option<String>>) -> Self {
        Self {
            trouble: Trouble::new(trouble),
            refused_until: None,
            refusal_pause: limits.refusal_pause,
            session_log: SessionLog::default(),
            packet_suspect: PacketSuspect::default(),
            waiting: JoinSet::new(),
            settling: Settling::new(limits.refusal_pause, limits.reader_probe),
            log: RefusalLog::default(),
            barrier: Barrier::default(),
            limit: limits.answer,
        }
    }

    /// Settles everything that is left. The link must be gone. Yields the biggest publication that was left unanswered.
    pub(super) async fn land(&mut self, tally: &Tally) -> Option<(usize, String)> {
        let mut biggest = None;
        while let Some(landed) = self.landed().await {
            if landed.answer == Answer::Lost {
                biggest = biggest.max(Some((landed.bytes, landed.topic.clone())));
            }
            // The link's end has been told already.
            _ = self.settle(landed, tally);
        }
        biggest
    }

    pub(super) fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }

    fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Whether so much is refused that nothing more is taken.
    fn is_full(&self) -> bool {
        self.settling.is_full()
    }

    fn deadline(&self) -> Option<Instant> {
        [self.settling.deadline(), self.log.deadline(), self.refused_until].into_iter().flatten().min()
    }

    /// Tells what is due; answers whether it is time for the bridge to probe for readers.
    fn tick(&mut self, now: Instant) -> bool {
        if self.refused_until.take_if(|until| *until <= now).is_some() {
            self.trouble.publication(None);
            self.log.over();
        }
        if let Some(refusals) = self.log.tick(now) {
            let held = self.settling.held();
            error!(
                refusals,
                held, "the broker refuses publications on more topics than are named here, within a minute"
            );
        }
        self.settling.tick(now)
    }

    fn take_off(&mut self, outbound: Outbound, answer: impl Future<Output = Answer> + Send + 'static) {
        let (may_be_unread, bytes) = (outbound.may_be_unread(), wire_bytes(&outbound));
        let Outbound { topic, outcome, .. } = outbound;
        let limit = self.limit;
        self.waiting.spawn(async move {
            let answer = timeout(limit, answer).await.unwrap_or(Answer::Silent);
            Landed { topic, bytes, may_be_unread, answer, outcome }
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
        let Landed { topic, may_be_unread, answer, outcome, .. } = landed;
        if meaning(&answer, may_be_unread) == Outcome::Confirmed {
            Tally::count(&tally.confirmed);
            self.log.passed(&topic);
        } else {
            self.barrier.broke(&topic);
        }
        let now = Instant::now();
        match &answer {
            Answer::Refused(reason) if self.log.refused(&topic, now) => {
                error!(topic, reason, "the broker refuses a publication; it is tried again and again");
            }
            answer => debug!(topic, ?answer, "a publication was answered"),
        }
        let held_until = self.settling.answered(&answer, may_be_unread, outcome, now);
        if let (Answer::Refused(reason), Some(until)) = (&answer, held_until) {
            self.trouble.publication(Some(format!("the broker refuses what is published on {topic}: {reason}")));
            self.refused_until = Some(until + 2 * self.refusal_pause);
        }
        match answer {
            Answer::Silent => Err(Failure::Silent(self.limit)),
            _ => Ok(()),
        }
    }
}
