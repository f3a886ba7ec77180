//! How much waits on disk, of one queue or of all.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::store::RowCount;

/// Rows of lasting queues that hold clients' messages, and their bytes. One for each queue, and one for all.
#[derive(Debug, Default)]
pub(super) struct OnDisk {
    rows: AtomicU64,
    bytes: AtomicU64,
}

impl OnDisk {
    pub(super) fn get(&self) -> (u64, u64) {
        (self.rows.load(Relaxed), self.bytes.load(Relaxed))
    }

    pub(super) fn add(&self, rows: u64, bytes: u64) {
        self.rows.fetch_add(rows, Relaxed);
        self.bytes.fetch_add(bytes, Relaxed);
    }

    /// Returns by how much the counters fell. They stop at 0, because two tasks may subtract the same row.
    pub(super) fn subtract(&self, gone: RowCount) -> RowCount {
        let less = |of: &AtomicU64, gone: u64| {
            let before = of.fetch_update(Relaxed, Relaxed, |now| Some(now.saturating_sub(gone)));
            gone.min(before.unwrap_or_default())
        };
        RowCount { rows: less(&self.rows, gone.rows), bytes: less(&self.bytes, gone.bytes) }
    }
}
