//! What the engine keeps on disk: sessions with their subscriptions, retained messages, and what waits for sessions.
//!
//! The engine writes sessions and retained messages before it acknowledges them. What waits for a session, and what is
//! sent and not acknowledged, it writes within some hundred milliseconds ([`Disk::flush`] waits for that). So after a
//! crash an arbitrary part of it is there. A mark in the folder says that the last stop was in order and everything is
//! there; it is removed at the start.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use mqtt5::broker::storage::{
    DynamicStorage, FileBackend, InflightDirection, InflightMessage, MemoryBackend, QueueLimits, StorageBackend,
};
use tracing::warn;

use super::BrokerError;

/// The file that says that the last stop was in order.
const ORDERLY: &str = "orderly-stop";

/// How the last run ended, as far as what waits for sessions goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Past {
    /// All of it is here.
    Whole,
    /// Some of it may be missing.
    Torn,
}

/// The engine's storage.
pub(super) struct Disk {
    pub(super) storage: Arc<DynamicStorage>,
    mark: Option<PathBuf>,
}

impl Disk {
    /// Opens the folder, or keeps everything in memory if there is none.
    pub(super) async fn open(folder: Option<&Path>, limits: QueueLimits) -> Result<(Self, Past), BrokerError> {
        let Some(folder) = folder else {
            let storage = Arc::new(DynamicStorage::Memory(MemoryBackend::with_queue_limits(limits)));
            return Ok((Self { storage, mark: None }, Past::Torn));
        };
        let failed = |reason: String| BrokerError::Data { folder: folder.to_owned(), reason };
        make_private(folder).map_err(|error| failed(error.to_string()))?;
        let backend =
            FileBackend::with_queue_limits(folder, limits).await.map_err(|error| failed(error.to_string()))?;
        let mark = folder.join(ORDERLY);
        let past = match std::fs::remove_file(&mark) {
            Ok(()) => Past::Whole,
            Err(error) if error.kind() == io::ErrorKind::NotFound => Past::Torn,
            Err(error) => return Err(failed(error.to_string())),
        };
        Ok((Self { storage: Arc::new(DynamicStorage::File(backend)), mark: Some(mark) }, past))
    }

    /// Checks that [`Disk::open`] finds a folder, or can make one.
    pub(super) fn check(folder: &Path) -> Result<(), BrokerError> {
        let mut folders = folder.ancestors().filter(|folder| !folder.as_os_str().is_empty());
        match folders.find_map(|folder| std::fs::metadata(folder).ok()) {
            Some(found) if !found.is_dir() => {
                let reason = io::Error::from(io::ErrorKind::NotADirectory).to_string();
                Err(BrokerError::Data { folder: folder.to_owned(), reason })
            }
            _ => Ok(()),
        }
    }

    /// Whether anything outlives the process.
    pub(super) fn is_durable(&self) -> bool {
        self.mark.is_some()
    }

    /// Waits until everything that waits for sessions is in its files.
    pub(super) async fn flush(&self) {
        if let DynamicStorage::File(backend) = &*self.storage {
            backend.flush_queue_writes().await;
        }
    }

    /// Nothing more will be written: everything is flushed, and the mark is set.
    pub(super) async fn close(&self) {
        let Some(mark) = &self.mark else { return };
        if let Err(error) = self.storage.flush_sessions().await {
            warn!(%error, "sessions could not be written");
            return;
        }
        self.flush().await;
        if let Err(error) = std::fs::File::create(mark).and_then(|file| file.sync_all()) {
            // The next start takes it for a crash: more is published again than is necessary.
            warn!(%error, "the mark of an orderly stop could not be written");
        }
    }

    /// Takes what was sent to a client and not acknowledged out of the files, as far as `unwanted` says so.
    pub(super) async fn drop_sent(&self, client: &str, mut unwanted: impl FnMut(&InflightMessage) -> bool) {
        let sent = self.storage.get_inflight_messages(client).await.unwrap_or_else(|error| {
            warn!(%error, client, "what was sent to a client could not be read");
            Vec::new()
        });
        let outbound = sent.into_iter().filter(|message| message.direction == InflightDirection::Outbound);
        for message in outbound.filter(|message| unwanted(message)) {
            let removed = self.storage.remove_inflight_message(client, message.packet_id, message.direction).await;
            if let Err(error) = removed {
                warn!(%error, client, "what was sent to a client could not be removed");
            }
        }
    }
}

/// Messages of users are in there.
fn make_private(folder: &Path) -> io::Result<()> {
    let mut builder = std::fs::DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(folder)
}
