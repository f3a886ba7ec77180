//! The files of a configuration, service account and certificate authorities, read again while the transport runs.
//!
//! Whatever is wrong with a new file is told and changes nothing: what was read before holds. So does another project: the
//! tokens of devices belong to the one that the bridge began with, and in another one all of them would seem dead.

use super::address::Address;
use super::token::Source;
use super::{Fatal, Plan};
use crate::ops::files::{FileWatch, reread};
use crate::transport::dial::Dialer;
use http::Uri;
use std::sync::Arc;
use tokio::sync::watch;

/// Where the API is, for the connections to it.
pub(super) struct Api {
    /// How to get there; another one when the certificate authorities were read again.
    pub(super) dialer: watch::Receiver<Arc<Dialer>>,
    /// What to ask for, whole.
    pub(super) uri: Uri,
}

pub(super) struct Renewal {
    files: FileWatch,
    reload: watch::Receiver<u64>,
    read: Arc<dyn Fn() -> Result<Plan, Fatal> + Send + Sync>,
    uri: Uri,
    dialer: watch::Sender<Arc<Dialer>>,
}

impl Renewal {
    /// What reads `files` by `read`, and the API as it was read for the first time.
    pub(super) fn new(
        files: FileWatch,
        reload: watch::Receiver<u64>,
        read: impl Fn() -> Result<Plan, Fatal> + Send + Sync + 'static,
        Address { dialer, uri }: Address,
    ) -> (Self, Api) {
        let (dialer_tx, dialer) = watch::channel(Arc::new(dialer));
        let api = Api { dialer, uri: uri.clone() };
        (Self { files, reload, read: Arc::new(read), uri, dialer: dialer_tx }, api)
    }

    /// Waits until the files are to be read again. Cancel-safe.
    pub(super) async fn due(&mut self) {
        self.files.changed(&mut self.reload).await;
    }

    /// Reads them. Returns where the access tokens come from now; `None` if that stays as it was.
    pub(super) async fn read(&self) -> Option<(Source, Address)> {
        let read = Arc::clone(&self.read);
        let Plan { api, source, tokens } = reread(move || read()).await?;
        if api.uri != self.uri {
            tracing::error!(
                "the service account is now that of another project; the one of before holds (another project needs a restart)"
            );
            return None;
        }
        self.dialer.send_replace(Arc::new(api.dialer));
        tracing::info!("service account and certificate authorities were read again");
        Some((source, tokens))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::fcm_v1::FcmConfig;
    use crate::transport::fcm_v1::token::account_file;
    use std::fs;

    #[tokio::test(start_paused = true)]
    async fn certificate_authorities_are_read_again_for_the_next_connections_and_broken_ones_are_not() {
        let (account, ca) = (account_file(|_| ()), tempfile::NamedTempFile::new().unwrap());
        let authority = || rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap().cert.pem();
        fs::write(ca.path(), authority()).unwrap();
        let config = FcmConfig {
            ca_file: Some(ca.path().to_owned()),
            credentials_file: Some(account.path().to_owned()),
            ..FcmConfig::default()
        };
        let (_nobody_asks, reload) = watch::channel(0);
        let (files, Plan { api, .. }) = (config.files(), config.plan().unwrap());
        let (mut renewal, api) = Renewal::new(files, reload, move || config.plan(), api);
        let first = Arc::clone(&api.dialer.borrow());
        fs::write(ca.path(), "no certificate").unwrap();
        renewal.due().await;
        assert!(renewal.read().await.is_none() && Arc::ptr_eq(&first, &api.dialer.borrow()));
        fs::write(ca.path(), authority()).unwrap();
        renewal.due().await;
        assert!(renewal.read().await.is_some() && !Arc::ptr_eq(&first, &api.dialer.borrow()));
    }
}
