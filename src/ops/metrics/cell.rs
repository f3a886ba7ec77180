//! One number, or one for each value of some labels.

use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, Opts, Registry};

/// Why a metric can be registered.
pub(super) const UNIQUE: &str = "the name is used once";
/// Why a metric can be made.
pub(super) const WELL_FORMED: &str = "the name is a constant in the right form";

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

/// A counter for each value of `labels`. Without a registry it counts and is not shown.
pub(super) fn labelled_counter(registry: Option<&Registry>, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
    let counters = IntCounterVec::new(Opts::new(name, help), labels).expect(WELL_FORMED);
    if let Some(registry) = registry {
        registry.register(Box::new(counters.clone())).expect(UNIQUE);
    }
    counters
}

pub(super) enum Cell {
    Counter(IntCounter),
    Gauge(IntGauge),
}

impl Cell {
    /// A number at zero. Without a registry it counts and is not shown.
    pub(super) fn new(registry: Option<&Registry>, name: &str, kind: Kind, help: &str) -> Self {
        let show = |metric: Box<dyn Collector>| {
            if let Some(registry) = registry {
                registry.register(metric).expect(UNIQUE);
            }
        };
        match kind {
            Kind::Counter => {
                let counter = IntCounter::new(name, help).expect(WELL_FORMED);
                show(Box::new(counter.clone()));
                Self::Counter(counter)
            }
            Kind::Gauge => {
                let gauge = IntGauge::new(name, help).expect(WELL_FORMED);
                show(Box::new(gauge.clone()));
                Self::Gauge(gauge)
            }
        }
    }
}
