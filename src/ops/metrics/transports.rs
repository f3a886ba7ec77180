//! What is counted for each transport by itself. A transport is labelled as in `_bridge/status`: `ccs`, `fcm-v1`,
//! `fcm-v1:NAME`; one that nobody spoke of is not shown.

use super::cell::{UNIQUE, WELL_FORMED, labelled_counter};
use prometheus::core::Collector;
use prometheus::{IntCounterVec, IntGaugeVec, Opts, Registry};
use std::collections::BTreeMap;

/// Values of the `code` label. Any other code of a peer is counted as [`OTHER_CODE`], so that no peer can grow the label
/// set.
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

/// The numbers of all transports.
pub(super) struct Transports {
    refusals: IntCounterVec,
    upstream_rejected: IntCounterVec,
    up: IntGaugeVec,
}

impl Transports {
    pub(super) fn new(registry: &Registry) -> Self {
        let help = "Messages that a transport came back with untaken, by code";
        let refusals = labelled_counter(Some(registry), "bridge_refusals_total", help, &["transport", "code"]);
        let name = "bridge_upstream_rejected_total";
        let help = "Messages of devices that could not be understood, acknowledged all the same, by code";
        let upstream_rejected = labelled_counter(Some(registry), name, help, &["transport", "code"]);
        let up = Opts::new("bridge_transport_up", "1 when the transport takes messages");
        let up = IntGaugeVec::new(up, &["transport"]).expect(WELL_FORMED);
        registry.register(Box::new(up.clone())).expect(UNIQUE);
        Self { refusals, upstream_rejected, up }
    }

    pub(super) fn refused(&self, transport: &str, code: &str) {
        let label = REFUSAL_CODES.iter().find(|&&known| known == code).copied().unwrap_or(OTHER_CODE);
        self.refusals.with_label_values(&[transport, label]).inc();
    }

    /// The codes are the transport's own words, hence few.
    pub(super) fn upstream_rejected(&self, transport: &str, code: &'static str) {
        self.upstream_rejected.with_label_values(&[transport, code]).inc();
    }

    pub(super) fn set_up(&self, transport: &str, up: bool) {
        self.up.with_label_values(&[transport]).set(i64::from(up));
    }

    pub(super) fn refusals(&self) -> BTreeMap<String, u64> {
        let mut counts = BTreeMap::new();
        for family in self.refusals.collect() {
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
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::metrics::Metrics;

    fn text(metrics: &Metrics) -> String {
        String::from_utf8(metrics.render()).unwrap()
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
        metrics.set_up("fcm-v1", true);
        metrics.set_up("fcm-v1:shop", false);
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
}
