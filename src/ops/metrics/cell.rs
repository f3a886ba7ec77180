//! One number, or one for each value of some labels.

use super::table::Row;
use prometheus::core::Collector;
use prometheus::{IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Counter,
    Gauge,
}

pub(super) enum Cell {
    Counter(IntCounter),
    Gauge(IntGauge),
    Counters(IntCounterVec),
    Gauges(IntGaugeVec),
}

impl Cell {
    /// A number at zero. Without a registry it counts and is not shown.
    pub(super) fn new(registry: Option<&Registry>, row: &Row) -> Self {
        const WELL_FORMED: &str = "the name is a constant in the right form";
        let (opts, labels) = (Opts::new(row.name, row.help), row.labels);
        let cell = match (row.kind, labels.is_empty()) {
            (Kind::Counter, true) => Self::Counter(IntCounter::with_opts(opts).expect(WELL_FORMED)),
            (Kind::Gauge, true) => Self::Gauge(IntGauge::with_opts(opts).expect(WELL_FORMED)),
            (Kind::Counter, false) => Self::Counters(IntCounterVec::new(opts, labels).expect(WELL_FORMED)),
            (Kind::Gauge, false) => Self::Gauges(IntGaugeVec::new(opts, labels).expect(WELL_FORMED)),
        };
        if let Some(registry) = registry {
            registry.register(cell.collector()).expect("the name is used once");
        }
        cell
    }

    fn collector(&self) -> Box<dyn Collector> {
        match self {
            Self::Counter(counter) => Box::new(counter.clone()),
            Self::Gauge(gauge) => Box::new(gauge.clone()),
            Self::Counters(counters) => Box::new(counters.clone()),
            Self::Gauges(gauges) => Box::new(gauges.clone()),
        }
    }
}
