//! What a log-in needs of the files of the configuration, read again while the transport runs.
//!
//! A connection that stands is left alone: CCS asks for the key only once. The next one logs in with the new key, and
//! those that wait because the old one was refused wait no longer.

use super::{CcsConfig, Fatal};
use crate::ops::files::{FileWatch, read_secret};
use crate::secret::Secret;
use crate::transport::dial::Dialer;
use std::convert::Infallible;
use std::sync::Arc;
use tokio::sync::watch;
use tokio::task::spawn_blocking;

/// The key, and how to get to where it is asked for.
#[derive(Clone)]
pub(super) struct Access {
    pub(super) key: Secret,
    pub(super) dialer: Arc<Dialer>,
    /// How often the files were read before.
    pub(super) version: u64,
}

impl CcsConfig {
    /// Every file that is read.
    pub(super) fn files(&self) -> FileWatch {
        FileWatch::new(self.api_key_file.iter().chain(&self.ca_file).cloned().collect())
    }

    /// As it stands in the settings, with which the bridge begins.
    pub(super) fn first_access(&self) -> Result<Access, Fatal> {
        Ok(Access { key: self.api_key.clone(), dialer: Arc::new(self.dialer()?), version: 0 })
    }

    fn next_access(mut self, version: u64) -> Result<Access, Fatal> {
        if let Some(path) = &self.api_key_file {
            let failed = |source| Fatal::KeyFile { path: path.clone(), source };
            self.api_key = Secret::new(read_secret(path).map_err(failed)?);
        }
        Ok(Access { version, ..self.first_access()? })
    }
}

/// Reads `files` again when they change and when somebody asks. What cannot be used is told, and changes nothing.
pub(super) async fn keep(config: CcsConfig, mut files: FileWatch, access: watch::Sender<Access>) -> Infallible {
    let mut reload = config.reload.clone();
    loop {
        files.changed(&mut reload).await;
        let (config, version) = (config.clone(), access.borrow().version + 1);
        match spawn_blocking(move || config.next_access(version)).await {
            Ok(Ok(next)) => {
                access.send_replace(next);
                tracing::info!("server key and certificate authorities were read again");
            }
            Ok(Err(fault)) => tracing::error!(%fault, "the files cannot be used as they are now; those of before hold"),
            Err(_panicked_or_stopped) => return std::future::pending().await,
        }
    }
}
