//! Every number that `/metrics` and `_bridge/stats` show, named in one place.

mod cell;
mod histogram;
mod table;

use cell::Cell;
pub use histogram::Histogram;
use prometheus::core::Collector;
use prometheus::{Encoder, Registry, TextEncoder};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
pub use table::Metric;
use table::TABLE;

/// How the names of metrics begin that only the embedded broker counts.
const OF_BROKER: &[&str] = &[
    "bridge_broker_",
    "bridge_logins_",
    "bridge_publishes_denied_",
    "bridge_subscriptions_denied_",
    "bridge_deliveries_filtered_",
];

/// Values of the `code` label of refusals. Any other code of a peer is counted as [`OTHER_CODE`], so that no peer can grow
/// the label set.
const REFUSAL_CODES: &[&str] = &[
    "AMBIGUOUS",
    "AUTHENTICATION_FAILED",
    "BAD_ACK",
    "BAD_REGISTRATION",
    "CONNECTION_DRAINING",
    "DEVICE_MESSAGE_RATE_EXCEEDED",
    "DEVICE_UNREGISTERED",
    "INTERNAL_SERVER_ERROR",
    "INVALID_APNS_CREDENTIAL",
    "INVALID_JSON",
    "INVALID_TTL",
    "JSON_TYPE_ERROR",
    "QUOTA_EXCEEDED",
    "SENDER_ID_MISMATCH",
    "SERVICE_UNAVAILABLE",
    "TOO_BIG",
    "TOPICS_MESSAGE_RATE_EXCEEDED",
];
/// The label of every other code.
const OTHER_CODE: &str = "OTHER";

/// The numbers of one bridge. A transport is labelled as in `_bridge/status`: `ccs`, `fcm-v1`, `fcm-v1:NAME`; one that
/// nobody spoke of is not shown.
pub struct Metrics {
    registry: Registry,
    cells: Vec<Cell>,
    /// Set as a whole by one task, and copied out by another.
    commits: Mutex<Histogram>,
}

impl Metrics {
    /// All metrics, at zero.
    pub fn new() -> Self {
        Self::showing(|_| true)
    }

    /// The metrics of a bridge in which the embedded broker does not run: without those that only it counts, which would
    /// stand at zero whatever the other broker does.
    pub fn without_broker() -> Self {
        Self::showing(|name| !OF_BROKER.iter().any(|prefix| name.starts_with(prefix)))
    }

    fn showing(shown: impl Fn(&str) -> bool) -> Self {
        let registry = Registry::new();
        let cells = TABLE.iter().map(|row| Cell::new(shown(row.name).then_some(&registry), row)).collect();
        Self { registry, cells, commits: Mutex::default() }
    }

    /// Adds one to a counter.
    pub fn count(&self, metric: Metric) {
        self.add(metric, 1);
    }

    /// Adds to a counter.
    pub fn add(&self, metric: Metric, by: u64) {
        match &self.cells[metric as usize] {
            Cell::Counter(counter) => counter.inc_by(by),
            Cell::Gauge(gauge) => gauge.add(signed(by)),
            Cell::Counters(_) | Cell::Gauges(_) => {}
        }
    }

    /// Sets a gauge; a counter, which somebody else counts, follows.
    pub fn set(&self, metric: Metric, value: u64) {
        match &self.cells[metric as usize] {
            Cell::Gauge(gauge) => gauge.set(signed(value)),
            Cell::Counter(counter) => counter.inc_by(value.saturating_sub(counter.get())),
            Cell::Counters(_) | Cell::Gauges(_) => {}
        }
    }

    /// The same for these values of its labels.
    pub fn set_of(&self, metric: Metric, labels: &[&str], value: u64) {
        match &self.cells[metric as usize] {
            Cell::Gauges(gauges) => gauges.with_label_values(labels).set(signed(value)),
            Cell::Counters(counters) => {
                let counter = counters.with_label_values(labels);
                counter.inc_by(value.saturating_sub(counter.get()));
            }
            Cell::Counter(_) | Cell::Gauge(_) => {}
        }
    }

    /// Of a gauge by transport and state: 1 for this state, and 0 for those that the transport had before.
    pub fn set_only(&self, metric: Metric, transport: &str, state: &str) {
        let Cell::Gauges(gauges) = &self.cells[metric as usize] else { return };
        gauges.with_label_values(&[transport, state]);
        for family in gauges.collect() {
            for gauge in family.get_metric() {
                // In the order of their names.
                if let [known, of] = gauge.get_label()
                    && of.value() == transport
                {
                    gauges.with_label_values(&[transport, known.value()]).set(i64::from(known.value() == state));
                }
            }
        }
    }

    /// Changes a gauge that several parts share; a counter is left alone.
    pub fn shift(&self, metric: Metric, by: i64) {
        if let Cell::Gauge(gauge) = &self.cells[metric as usize] {
            gauge.add(by);
        }
    }

    fn add_of(&self, metric: Metric, labels: &[&str], by: u64) {
        if let Cell::Counters(counters) = &self.cells[metric as usize] {
            counters.with_label_values(labels).inc_by(by);
        }
    }

    /// Counts a message that a transport, named as it is configured, came back with untaken, by the code it gave.
    pub fn refused(&self, transport: &str, code: &str) {
        let label = REFUSAL_CODES.iter().find(|&&known| known == code).copied().unwrap_or(OTHER_CODE);
        self.add_of(Metric::Refusals, &[transport, label], 1);
    }

    /// Counts a message of a device that could not be understood, by what is wrong with it.
    pub fn upstream_rejected(&self, transport: &str, code: &'static str) {
        self.add_of(Metric::UpstreamRejected, &[transport, code], 1);
    }

    /// Counts clients that the embedded broker refused or cut off, by its reason.
    pub fn client_refused(&self, reason: &'static str, by: u64) {
        self.add_of(Metric::ClientsRefused, &[reason], by);
    }

    /// How many were refused for a reason since the start.
    pub fn clients_refused(&self, reason: &'static str) -> u64 {
        match &self.cells[Metric::ClientsRefused as usize] {
            Cell::Counters(counters) => counters.with_label_values(&[reason]).get(),
            _ => 0,
        }
    }

    /// How long the transactions of the store took.
    pub fn set_commits(&self, commits: Histogram) {
        *self.commits.lock().unwrap_or_else(PoisonError::into_inner) = commits;
    }

    /// The present value.
    pub fn get(&self, metric: Metric) -> u64 {
        match &self.cells[metric as usize] {
            Cell::Counter(counter) => counter.get(),
            Cell::Gauge(gauge) => u64::try_from(gauge.get()).unwrap_or(0),
            Cell::Counters(_) | Cell::Gauges(_) => 0,
        }
    }

    /// Refusals of all transports since the start, by code; only codes that occurred.
    pub fn refusals(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        let Cell::Counters(refusals) = &self.cells[Metric::Refusals as usize] else { return counts };
        for family in refusals.collect() {
            for counter in family.get_metric() {
                let labels = counter.get_label();
                let Some(code) = labels.iter().find(|label| label.name() == "code") else { continue };
                let count: &mut u64 = counts.entry(code.value().to_owned()).or_default();
                // The text format knows only floats; up to 2^53 they count exactly.
                *count += counter.get_counter().get_value() as u64;
            }
        }
        counts
    }

    /// The Prometheus text format, version 0.0.4.
    pub fn render(&self) -> Vec<u8> {
        let mut out = Vec::new();
        TextEncoder::new().encode(&self.registry.gather(), &mut out).expect("writing to memory does not fail");
        self.commits.lock().unwrap_or_else(PoisonError::into_inner).render(&mut out);
        out
    }
}

fn signed(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

impl Default for Metrics {
    fn default() -> Self {
        Self::new()
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::cell::Kind;
    use super::*;

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(metrics.render()).unwrap()
    }

    #[test]
    fn where_another_broker_is_used_nothing_is_said_of_the_embedded_one() {
        let metrics = Metrics::without_broker();
        metrics.count(Metric::DownstreamAccepted);
        metrics.count(Metric::LoginsFailed);
        let text = text(&metrics);
        for word in ["bridge_broker_", "bridge_logins_", "_denied_", "bridge_deliveries_filtered"] {
            assert!(!text.contains(word), "{text}");
        }
        assert!(text.contains("bridge_downstream_accepted_total 1\n"), "{text}");
    }

    #[test]
    fn the_text_format_names_every_metric() {
        let metrics = Metrics::new();
        metrics.count(Metric::DownstreamAccepted);
        metrics.set(Metric::QueueRows, 7);
        let text = text(&metrics);
        assert!(text.contains("bridge_downstream_accepted_total 1\n"), "{text}");
        assert!(text.contains("bridge_queue_rows 7\n"), "{text}");
        for row in TABLE.iter().filter(|row| row.labels.is_empty()) {
            assert!(text.contains(&format!("# TYPE {} ", row.name)), "{} is missing", row.name);
        }
    }

    /// One line for each, in the order of the table; so a name that is gone from the program is gone from the page.
    #[test]
    fn the_page_for_operators_has_one_line_for_each_metric() {
        let line = |name: &str, kind: &str, labels: &[&str], help: &str| {
            let labels: Vec<String> = labels.iter().map(|label| format!("`{label}`")).collect();
            format!("| `{name}` | {kind} | {} | {help} |", labels.join(", "))
        };
        let mut lines: Vec<String> = TABLE
            .iter()
            .map(|row| {
                line(row.name, if row.kind == Kind::Counter { "counter" } else { "gauge" }, row.labels, row.help)
            })
            .collect();
        lines.push(line(histogram::NAME, "histogram", &[], histogram::HELP));
        let page = include_str!("../../config/metrics.md");
        let told: Vec<&str> = page.lines().filter(|line| line.starts_with("| `")).collect();
        assert_eq!(told, lines, "config/metrics.md should be\n{}", lines.join("\n"));
    }

    #[test]
    fn refusals_are_counted_by_transport_and_unknown_codes_share_one_label() {
        let metrics = Metrics::new();
        for code in ["INVALID_JSON", "MADE_UP_1", "MADE_UP_2"] {
            metrics.refused("fcm-v1:shop", code);
        }
        metrics.refused("ccs", "INVALID_JSON");
        let text = text(&metrics);
        for line in [
            r#"bridge_refusals_total{code="INVALID_JSON",transport="ccs"} 1"#,
            r#"bridge_refusals_total{code="INVALID_JSON",transport="fcm-v1:shop"} 1"#,
            r#"bridge_refusals_total{code="OTHER",transport="fcm-v1:shop"} 2"#,
        ] {
            assert!(text.contains(&format!("{line}\n")), "{text}");
        }
        assert!(!text.contains("nacks") && !text.contains("MADE_UP"), "{text}");
        let told = BTreeMap::from([("INVALID_JSON".to_owned(), 2), ("OTHER".to_owned(), 2)]);
        assert_eq!(metrics.refusals(), told, "_bridge/stats has them by code alone");
    }

    #[test]
    fn only_transports_that_somebody_spoke_of_are_up_or_down() {
        let metrics = Metrics::new();
        metrics.set_of(Metric::TransportUp, &["fcm-v1"], 1);
        metrics.set_of(Metric::TransportUp, &["fcm-v1:shop"], 0);
        let text = text(&metrics);
        let lines: Vec<&str> =
            text.lines().filter(|line| line.contains("_up{") || line.starts_with("bridge_mqtt_up")).collect();
        let expected = [
            "bridge_mqtt_up 0",
            r#"bridge_transport_up{transport="fcm-v1"} 1"#,
            r#"bridge_transport_up{transport="fcm-v1:shop"} 0"#,
        ];
        assert_eq!(lines, expected);
    }

    #[test]
    fn a_counter_follows_what_is_counted_elsewhere_and_a_histogram_adds_up() {
        let metrics = Metrics::new();
        for value in [3, 3, 7] {
            metrics.set_of(Metric::Drains, &["ccs"], value);
            metrics.set(Metric::StoreVerbs, value);
        }
        let buckets = vec![(0.001, 4), (0.01, 2)];
        metrics.set_commits(Histogram { buckets, count: 7, sum: 1.5 });
        let text = text(&metrics);
        for line in [
            r#"bridge_transport_drains_total{transport="ccs"} 7"#,
            "bridge_store_verbs_total 7",
            r#"bridge_store_commit_seconds_bucket{le="0.001"} 4"#,
            r#"bridge_store_commit_seconds_bucket{le="0.01"} 6"#,
            r#"bridge_store_commit_seconds_bucket{le="+Inf"} 7"#,
            "bridge_store_commit_seconds_sum 1.5",
            "bridge_store_commit_seconds_count 7",
        ] {
            assert!(text.contains(&format!("{line}\n")), "{line}: {text}");
        }
    }
}
