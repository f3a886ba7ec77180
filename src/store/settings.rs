//! Where the store is and how much it holds.

use crate::chat::transport::Transport;
use crate::ops::setting::{Hours, settings};
use std::path::PathBuf;
use std::time::Duration;

settings! {
    /// `[store]`: where the store is and how much it holds.
    pub struct Settings {
        /// The file. Its folder is made when it is not there. Beside it SQLite keeps `-wal` and `-shm`, and the store a
        /// `.lock`, and `.schema-N` when it has changed it.
        pub path: PathBuf = "data/bridge.db".into();
        /// How much it holds.
        #[serde(skip)] pub limits: Limits = Limits::default();
        /// The transports that there are. What was to go by another one, of an earlier configuration, goes by the first
        /// of them.
        #[serde(skip)] pub transports: Vec<Transport> = vec![Transport::default()];
        /// Verbs that may wait for the writer thread in each of its two queues; beyond it, who asks waits.
        #[serde(skip)] pub queue: usize = 2_048;
        /// How long to wait before trying again when the disk refuses.
        #[serde(skip)] pub retry_pause: Duration = Duration::from_secs(1);
        /// How long the confirmation of a publication waits for another transaction with which it can go to the disk.
        #[serde(skip)] pub max_commit_delay: Duration = Duration::from_millis(100);
    }
}

impl Settings {
    /// A store at `path` with the default limits.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), ..Self::default() }
    }
}

settings! {
    /// How much the store holds.
    pub struct Limits {
        /// Deliveries of downstream messages that are still to be pushed. All of a message are taken, or none.
        pub queue_rows: u64 = 1_000_000, in 1..=u64::MAX;
        /// Their bytes.
        pub queue_bytes: u64 = 2_000_000_000, in 1..=u64::MAX;
        /// Upstream messages not yet with their BAL.
        pub spool_rows: u64 = 1_000_000, in 1..=u64::MAX;
        /// Their bytes.
        pub spool_bytes: u64 = 2_000_000_000, in 1..=u64::MAX;
        /// How long what is settled is remembered.
        #[serde(with = "Hours")]
        "history_hours" pub history: Duration = Duration::from_secs(24 * 3_600), in 1..=u64::MAX;
        /// How many settled messages are remembered, each way. Costs 16 bytes of memory each.
        pub history_rows: u64 = 1_000_000, in 1..=u64::MAX;
    }
}

impl Limits {
    /// The same with room for `more` messages of up to `bytes` each, that are on their way to the disk at the limit.
    pub fn with_room_for(&self, more: usize, bytes: usize) -> Self {
        let (rows, bytes) = (more as u64, (more as u64).saturating_mul(bytes as u64));
        Self {
            queue_rows: self.queue_rows.saturating_add(rows),
            queue_bytes: self.queue_bytes.saturating_add(bytes),
            spool_rows: self.spool_rows.saturating_add(rows),
            spool_bytes: self.spool_bytes.saturating_add(bytes),
            ..self.clone()
        }
    }

    pub(super) fn history_ms(&self) -> u64 {
        u64::try_from(self.history.as_millis()).unwrap_or(u64::MAX)
    }
}
