//! What is said of each transport: the same facts as metrics, in `_bridge/stats` and, in one sentence, in `/readyz`.

use crate::bridge::dispatcher::Pause;
use crate::chat::message::TransportStats;
use crate::chat::transport::Transport;
use crate::ops::clock::{now_ms, utc};
use crate::ops::metrics::{Metric, Metrics};
use crate::store::QueueState;
use crate::transport::{ConnectionPhase, Counted, Link, Snapshot, Trouble};
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

pub(in crate::bridge) struct Watched {
    pub(in crate::bridge) transport: Transport,
    pub(in crate::bridge) link: watch::Receiver<Link>,
    pub(in crate::bridge) snapshot: watch::Receiver<Snapshot>,
    pub(in crate::bridge) pause: watch::Receiver<Option<Pause>>,
    /// By which transports an operator lets nothing be sent.
    pub(in crate::bridge) paused: watch::Receiver<BTreeSet<Transport>>,
}

/// A transport at one moment.
pub(super) struct View {
    /// As it is configured.
    pub(super) name: String,
    pub(super) link: Link,
    snapshot: Snapshot,
    /// A pause that is not over.
    pause: Option<Pause>,
    /// An operator lets nothing be sent.
    is_paused: bool,
    queue: QueueState,
    now: Instant,
}

impl View {
    pub(super) fn of(watched: &mut Watched, queues: &BTreeMap<String, QueueState>) -> Self {
        let (name, now) = (watched.transport.to_string(), Instant::now());
        Self {
            link: *watched.link.borrow_and_update(),
            snapshot: watched.snapshot.borrow().clone(),
            pause: watched.pause.borrow().clone().filter(|pause| pause.until > now),
            is_paused: watched.paused.borrow().contains(&watched.transport),
            queue: queues.get(&name).cloned().unwrap_or_default(),
            name,
            now,
        }
    }

    /// Why no message goes, or fewer than could.
    pub(super) fn why(&self) -> Option<String> {
        if self.is_paused {
            return Some("paused by an operator: `resume` goes on".to_owned());
        }
        let pause = self.pause.as_ref().map(|pause| Trouble {
            words: format!("the push service refused with {}: nothing is sent for a while", pause.code),
            since: None,
            next_try: Some(pause.until.into_std()),
        });
        let unconnected = (self.link == Link::UNCONNECTED).then(|| Trouble {
            words:
                "there is no connection at the moment (at the start the broker is waited for, for 5 seconds at most)"
                    .to_owned(),
            since: None,
            next_try: None,
        });
        let Trouble { words, since, next_try } = self.snapshot.trouble.clone().or(pause).or(unconnected)?;
        let since = since.map(|since| format!("since {}", utc(now_ms().saturating_sub(millis(self.age(since))))));
        let next_try = self.wait(next_try).map(|wait| format!("next try at {}", utc(now_ms() + millis(wait))));
        let times: Vec<String> = since.into_iter().chain(next_try).collect();
        Some(if times.is_empty() { words } else { format!("{words} ({})", times.join(", ")) })
    }

    pub(super) fn show(&self, metrics: &Metrics) {
        let Snapshot { written, not_taken, acks, stale_acks, dials, connects, reconnects, .. } = self.snapshot;
        let Snapshot { auth_failures, drains, suspects, window, .. } = self.snapshot;
        let Counted { bad_acks, unknown_answers, malformed, oversize, ignored, pings } = self.snapshot.counted;
        let seconds = |wait: Option<Duration>| wait.map_or(0, |wait| wait.as_secs_f64().ceil() as u64);
        let next_try = self.snapshot.trouble.as_ref().and_then(|trouble| self.wait(trouble.next_try));
        let oldest = self.snapshot.connections.iter().find(|one| one.phase == ConnectionPhase::Up);
        for (metric, value) in [
            (Metric::TransportUp, u64::from(self.link == Link::Up)),
            (Metric::TransportPause, seconds(self.pause.as_ref().map(|pause| pause.until - self.now))),
            (Metric::TransportPaused, u64::from(self.is_paused)),
            (Metric::NextTry, seconds(next_try)),
            (Metric::ConnectionAge, oldest.map_or(0, |one| self.age(one.begun).as_secs())),
            (Metric::Unanswered, self.snapshot.unanswered() as u64),
            (Metric::Window, window as u64),
            (Metric::Written, written),
            (Metric::NotTaken, not_taken),
            (Metric::Dials, dials),
            (Metric::Connects, connects),
            (Metric::Reconnects, reconnects),
            (Metric::AuthFailures, auth_failures),
            (Metric::Drains, drains),
            (Metric::Suspects, suspects),
            (Metric::Pings, pings),
            (Metric::Acks, acks),
            (Metric::StaleAcks, stale_acks),
            (Metric::BadAcks, bad_acks),
            (Metric::UnknownAnswers, unknown_answers),
            (Metric::Malformed, malformed),
            (Metric::Oversize, oversize),
            (Metric::Ignored, ignored),
            (Metric::OldestQueued, self.oldest_queued().unwrap_or_default()),
        ] {
            metrics.set_of(metric, &[&self.name], value);
        }
        if let Some(age) = self.access_token_age() {
            metrics.set_of(Metric::TokenAge, &[&self.name], age);
        }
        for phase in ConnectionPhase::ALL {
            let count = self.snapshot.connections_in(phase) as u64;
            metrics.set_of(Metric::Connections, &[&self.name, phase.as_str()], count);
        }
        let QueueState { due, put_off, behind, .. } = self.queue;
        for (state, count) in [("due", due), ("put_off", put_off), ("behind", behind)] {
            metrics.set_of(Metric::Queued, &[&self.name, state], count);
        }
        metrics.set_only(Metric::TransportState, &self.name, self.link.as_str());
    }

    /// The name and the numbers for `_bridge/stats`.
    pub(super) fn stats(self) -> (String, TransportStats) {
        let connections = ConnectionPhase::ALL.map(|phase| (phase.as_str(), self.snapshot.connections_in(phase)));
        let QueueState { due, put_off, behind, .. } = self.queue;
        let Snapshot { window, reconnects, drains, .. } = self.snapshot;
        let stats = TransportStats {
            state: self.link.as_str(),
            why: self.why(),
            connections: connections.into_iter().filter(|(_, count)| *count > 0).collect(),
            unanswered: self.snapshot.unanswered(),
            window,
            reconnects,
            drains,
            due,
            put_off,
            behind,
            oldest: self.oldest_queued(),
            access_token_age: self.access_token_age(),
        };
        (self.name, stats)
    }

    fn access_token_age(&self) -> Option<u64> {
        self.snapshot.access_token_requested_at.map(|requested_at| self.age(requested_at).as_secs())
    }

    fn oldest_queued(&self) -> Option<u64> {
        let QueueState { due, put_off, behind, oldest_at, .. } = &self.queue;
        (due + put_off + behind > 0).then(|| now_ms().saturating_sub(*oldest_at) / 1000)
    }

    fn age(&self, since: std::time::Instant) -> Duration {
        self.now.saturating_duration_since(Instant::from_std(since))
    }

    /// How long until then, if that is not over.
    fn wait(&self, until: Option<std::time::Instant>) -> Option<Duration> {
        until.map(|until| Instant::from_std(until).saturating_duration_since(self.now)).filter(|wait| !wait.is_zero())
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::{ConnectionId, ConnectionState};

    fn watched(link: Link, snapshot: Snapshot, pause: Option<Pause>) -> Watched {
        let (link, snapshot, pause) = (watch::channel(link).1, watch::channel(snapshot).1, watch::channel(pause).1);
        let paused = watch::channel(BTreeSet::new()).1;
        Watched { transport: Transport::Ccs, link, snapshot, pause, paused }
    }

    fn in_seconds(seconds: u64) -> std::time::Instant {
        (Instant::now() + Duration::from_secs(seconds)).into_std()
    }

    #[tokio::test(start_paused = true)]
    async fn metrics_stats_and_the_sentence_say_the_same_of_a_transport() {
        let begun = Instant::now().into_std();
        tokio::time::advance(Duration::from_secs(7)).await;
        let state = |connection, phase, unanswered| ConnectionState {
            connection: ConnectionId(connection),
            phase,
            begun,
            unanswered,
        };
        let connections = vec![state(1, ConnectionPhase::Draining, 2), state(3, ConnectionPhase::Up, 100)];
        let trouble =
            Trouble { words: "the window is full".to_owned(), since: Some(begun), next_try: Some(in_seconds(5)) };
        let snapshot = Snapshot {
            drains: 4,
            reconnects: 2,
            window: 100,
            connections,
            trouble: Some(trouble),
            access_token_requested_at: Some(begun),
            counted: Counted { ignored: 9, ..Counted::default() },
            ..Snapshot::default()
        };
        let queue =
            QueueState { transport: "ccs".to_owned(), due: 1, put_off: 2, behind: 3, oldest_at: now_ms() - 12_300 };
        let queues = BTreeMap::from([("ccs".to_owned(), queue)]);
        let view = View::of(&mut watched(Link::Up, snapshot, None), &queues);
        let metrics = Metrics::new();
        view.show(&metrics);
        let text = String::from_utf8(metrics.render()).unwrap();
        for line in [
            r#"transport_up{transport="ccs"} 1"#,
            r#"transport_state{state="up",transport="ccs"} 1"#,
            r#"transport_connections{state="draining",transport="ccs"} 1"#,
            r#"transport_connections{state="opening",transport="ccs"} 0"#,
            r#"transport_connection_age_seconds{transport="ccs"} 7"#,
            r#"transport_access_token_age_seconds{transport="ccs"} 7"#,
            r#"transport_next_try_seconds{transport="ccs"} 5"#,
            r#"transport_unanswered{transport="ccs"} 102"#,
            r#"transport_window{transport="ccs"} 100"#,
            r#"transport_drains_total{transport="ccs"} 4"#,
            r#"transport_reconnects_total{transport="ccs"} 2"#,
            r#"transport_ignored_total{transport="ccs"} 9"#,
            r#"queue_messages{state="put_off",transport="ccs"} 2"#,
            r#"queue_oldest_seconds{transport="ccs"} 12"#,
        ] {
            assert!(text.contains(&format!("bridge_{line}\n")), "{line}: {text}");
        }
        let (name, stats) = view.stats();
        assert_eq!((name.as_str(), stats.state, stats.drains, stats.behind), ("ccs", "up", 4, 3));
        assert_eq!((stats.oldest, stats.access_token_age), (Some(12), Some(7)));
        assert_eq!(stats.connections, BTreeMap::from([("draining", 1), ("up", 1)]));
        let why = stats.why.unwrap();
        assert!(why.starts_with("the window is full (since 2") && why.contains(", next try at 2"), "{why}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_named_as_long_as_it_lasts_and_a_state_that_is_over_is_zero() {
        let pause = Pause { until: Instant::now() + Duration::from_secs(4), code: "SERVICE_UNAVAILABLE".to_owned() };
        let mut watched = watched(Link::Down("auth_failed"), Snapshot::default(), Some(pause));
        let metrics = Metrics::new();
        let view = View::of(&mut watched, &BTreeMap::new());
        view.show(&metrics);
        let why = view.why().unwrap();
        assert!(why.contains("SERVICE_UNAVAILABLE: nothing is sent for a while (next try at 2"), "{why}");
        tokio::time::advance(Duration::from_secs(4)).await;
        let view = View { link: Link::Up, ..View::of(&mut watched, &BTreeMap::new()) };
        view.show(&metrics);
        assert_eq!(view.why(), None);
        let text = String::from_utf8(metrics.render()).unwrap();
        for line in [
            r#"transport_state{state="auth_failed",transport="ccs"} 0"#,
            r#"transport_state{state="up",transport="ccs"} 1"#,
            r#"transport_pause_seconds{transport="ccs"} 0"#,
        ] {
            assert!(text.contains(&format!("bridge_{line}\n")), "{line}: {text}");
        }
    }
}
