//! Opening: the file, and the thread that writes it until it is told to end.

use super::batch::Batch;
use super::checkpoint::Checkpoints;
use super::reader::Reader;
use super::verb_queue::VerbQueue;
use super::writer::Writer;
use super::{erase, errors, file, recover};
use crate::store::shared_status::SharedStatus;
use crate::store::{CloseError, OpenError, Recovery, Settings, Store};
use std::sync::Arc;
use std::sync::mpsc::SyncSender;
use tokio::runtime::Builder;
use tokio::sync::oneshot;

/// Owns the writer thread. Whoever opened the store closes it, after everybody who writes has stopped.
#[derive(Debug)]
pub struct WriterThread {
    queue: VerbQueue,
    stop: SyncSender<()>,
    /// Dropped unsent if the thread panics.
    ended: oneshot::Receiver<Result<(), CloseError>>,
}

impl WriterThread {
    /// Finishes what is queued, moves the write-ahead log into the file, ends the thread. Verbs asked from now on are answered
    /// [`crate::store::StoreError::Closed`].
    ///
    /// # Errors
    /// When the disk refused to the end, or the thread failed.
    pub async fn close(self) -> Result<(), CloseError> {
        // Only looked at while blocked; the order of the two matters, for then the queue may be full for ever.
        let _ = self.stop.try_send(());
        self.queue.close().await;
        self.ended.await.unwrap_or(Err(CloseError::Failed))
    }
}

/// Opens the store, makes it if it is missing, and puts in order what the last stop left behind. `now_ms` is Unix
/// milliseconds. Reads the whole memory of settled messages, so it may take a second or two, and much longer once, when an
/// earlier release left the file: not for an async task.
///
/// # Errors
/// When the file is in use, foreign, newer than this program, damaged, or cannot be opened.
pub fn open(settings: &Settings, now_ms: u64) -> Result<(Store, WriterThread, Recovery), OpenError> {
    open_with(
        settings,
        now_ms,
        #[cfg(test)]
        Box::new(|_| ()),
    )
}

pub(super) fn open_with(
    settings: &Settings,
    now_ms: u64,
    #[cfg(test)] hook: super::writer::Hook,
) -> Result<(Store, WriterThread, Recovery), OpenError> {
    let (mut conn, lock) = file::open(&settings.path)?;
    let (mut memory, recovery) =
        recover::recover(&mut conn, settings, now_ms).map_err(|error| errors::of_opening(&settings.path, error))?;
    let status = Arc::new(SharedStatus::default());
    status.show(memory.figures);
    let names = erase::names(&conn).map_err(|error| errors::of_opening(&settings.path, error))?;
    memory.erased = names.len() as u64;
    status.all_erased(names);
    let (queue, queued) = VerbQueue::new(settings.queue);
    let (follow_ups, following) = queue.another(settings.queue);
    let (stop, stopped) = std::sync::mpsc::sync_channel(1);
    let (reader, reads) = Reader::start(&settings.path, settings.limits.clone(), settings.retry_pause)?;
    let writer = Writer {
        conn,
        reader,
        lock,
        checkpoints: Checkpoints::new(&settings.path)?,
        limits: settings.limits.clone(),
        memory,
        stop: stopped,
        retry_pause: settings.retry_pause,
        max_commit_delay: settings.max_commit_delay,
        timers: Builder::new_current_thread().enable_time().build()?,
        status: status.clone(),
        #[cfg(test)]
        hook,
    };
    let (end, ended) = oneshot::channel();
    // It tells its end by the channel, when it has closed the file and let go of the lock.
    std::thread::Builder::new()
        .name("store".to_owned())
        .spawn(move || end.send(writer.run(Batch::new([queued, following]))))?;
    let store = Store::new([queue.clone(), follow_ups], reads, status, settings.path.clone().into());
    Ok((store, WriterThread { queue, stop, ended }, recovery))
}
