//! How long the transactions of the store took. It is counted there, and written here: the client library of Prometheus
//! has no histogram that somebody else counts.

/// The name of the metric.
pub(super) const NAME: &str = "bridge_store_commit_seconds";
/// What it tells.
pub(super) const HELP: &str =
    "How long the transactions of the store took, each with its way to the disk; its count is how many there were";

/// Counts by upper limit.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Histogram {
    /// The upper limit of each bucket in seconds, rising, and how many came to it that were over the limit before.
    pub buckets: Vec<(f64, u64)>,
    /// How many there are, those over the last limit too.
    pub count: u64,
    /// All of them together, in seconds.
    pub sum: f64,
}

impl Histogram {
    /// Adds the text format to `out`.
    pub(super) fn render(&self, out: &mut Vec<u8>) {
        let mut text = format!("# HELP {NAME} {HELP}\n# TYPE {NAME} histogram\n");
        let mut below = 0;
        for (limit, count) in &self.buckets {
            below += count;
            text += &format!("{NAME}_bucket{{le=\"{limit}\"}} {below}\n");
        }
        let Self { count, sum, .. } = self;
        text += &format!("{NAME}_bucket{{le=\"+Inf\"}} {count}\n{NAME}_sum {sum}\n{NAME}_count {count}\n");
        out.extend_from_slice(text.as_bytes());
    }
}
