//! What is logged, in memory.

use std::sync::{Arc, Mutex};
use tracing::Level;
use tracing::subscriber::DefaultGuard;

/// The log of this thread.
#[derive(Clone, Default)]
pub(in crate::transport) struct Log(Arc<Mutex<Vec<u8>>>);

impl Log {
    /// Listens while the guard lives, to `level` and what is worse.
    pub(in crate::transport) fn listen(level: Level) -> (Self, DefaultGuard) {
        let log = Self::default();
        let subscriber = tracing_subscriber::fmt().with_max_level(level).with_writer(log.clone()).finish();
        // A line that another thread comes to first, where nobody listens, would be taken for one that is never heard.
        let _ = tracing::subscriber::set_global_default(tracing_subscriber::registry());
        (log, tracing::subscriber::set_default(subscriber))
    }

    pub(in crate::transport) fn text(&self) -> String {
        String::from_utf8(self.0.lock().unwrap().clone()).unwrap()
    }

    /// All of it since the last call.
    pub(in crate::transport) fn take(&self) -> String {
        String::from_utf8(std::mem::take(&mut *self.0.lock().unwrap())).unwrap()
    }

    /// Waits until `words` are logged.
    pub(in crate::transport) async fn wait(&self, words: &str) {
        while !self.text().contains(words) {
            tokio::task::yield_now().await;
        }
    }
}

impl std::io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl tracing_subscriber::fmt::MakeWriter<'_> for Log {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        self.clone()
    }
}
