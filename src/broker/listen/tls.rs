//! The certificate of the TLS listeners, kept fresh.
//!
//! Certificates are renewed while the broker runs. When the files change, or the operator asks for it, they are read
//! again and used for new connections; those that are open stay as they are. Files that cannot be used change nothing.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use thiserror::Error;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::danger::ClientCertVerifier;
use tokio_rustls::rustls::server::{NoClientAuth, VerifierBuilderError, WebPkiClientVerifier};
use tokio_rustls::rustls::{self, RootCertStore, ServerConfig};
use tokio_util::sync::CancellationToken;
use tracing::{error, info};

use crate::broker::TlsFiles;
use crate::ops::files::FileWatch;

/// What is spoken inside TLS (RFC 7301). Clients that do not ask are not refused.
const MQTT: &[u8] = b"mqtt";
const HTTP: &[u8] = b"http/1.1";

/// Why TLS cannot be offered.
#[derive(Debug, Error)]
pub enum TlsError {
    /// A file cannot be read, or is not PEM.
    #[error("{}: {source}", path.display())]
    File {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: pem::Error,
    },
    /// A file has no certificate in it.
    #[error("{} has no certificate", .0.display())]
    NoCertificate(PathBuf),
    /// A certificate of an authority cannot be used.
    #[error("{}: {source}", path.display())]
    Authority {
        /// Which file.
        path: PathBuf,
        /// What is wrong with it.
        source: rustls::Error,
    },
    /// No client could be checked.
    #[error("client certificates cannot be checked: {0}")]
    Verifier(#[from] VerifierBuilderError),
    /// Certificate and key do not fit together, or are of no use.
    #[error("certificate and key: {0}")]
    Unusable(#[from] rustls::Error),
}

/// What new connections are received with.
#[derive(Debug, Clone)]
pub(super) struct Acceptors {
    /// For MQTT over TLS.
    pub(super) mqtt: Arc<ServerConfig>,
    /// For WebSocket over TLS.
    pub(super) web: Arc<ServerConfig>,
}

/// The files, and what was made of them.
#[derive(Debug)]
pub(super) struct ServerCertificate {
    files: TlsFiles,
    current: watch::Sender<Acceptors>,
    watched: FileWatch,
}

impl ServerCertificate {
    pub(super) fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let paths = [Some(&files.cert), Some(&files.key), files.client_ca.as_ref()];
        let watched = FileWatch::at_rest(paths.into_iter().flatten().cloned().collect());
        let (current, _) = watch::channel(Acceptors::load(files)?);
        Ok(Self { files: files.clone(), current, watched })
    }

    /// What new connections are received with, now and later.
    pub(super) fn acceptors(&self) -> watch::Receiver<Acceptors> {
        self.current.subscribe()
    }

    /// Reads the files again whenever they change or `reload` does.
    pub(super) async fn keep(mut self, mut reload: watch::Receiver<u64>, stop: CancellationToken) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.watched.changed(&mut reload) => self.read_again().await,
            }
        }
    }

    async fn read_again(&self) {
        let files = self.files.clone();
        match spawn_blocking(move || Acceptors::load(&files)).await {
            Ok(Ok(acceptors)) => {
                self.current.send_replace(acceptors);
                info!(certificate = %self.files.cert.display(), "certificate was read again");
            }
            Ok(Err(error)) => error!(%error, "new certificate cannot be used, the old one stays"),
            Err(error) => error!(%error, "new certificate could not be read, the old one stays"),
        }
    }
}

impl Acceptors {
    fn load(files: &TlsFiles) -> Result<Self, TlsError> {
        let chain = certificates(&files.cert)?;
        let key = PrivateKeyDer::from_pem_file(&files.key)
            .map_err(|source| TlsError::File { path: files.key.clone(), source })?;
        // The provider is named here, because a process-wide default is one more thing that two crates can quarrel
        // about.
        let provider = Arc::new(ring::default_provider());
        let clients: Arc<dyn ClientCertVerifier> = match &files.client_ca {
            None => Arc::new(NoClientAuth),
            Some(path) => {
                let roots = Arc::new(authorities(path)?);
                WebPkiClientVerifier::builder_with_provider(roots, Arc::clone(&provider)).build()?
            }
        };
        let mut mqtt = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_client_cert_verifier(clients)
            .with_single_cert(chain, key)?;
        let mut web = mqtt.clone();
        mqtt.alpn_protocols = vec![MQTT.to_vec()];
        web.alpn_protocols = vec![HTTP.to_vec()];
        Ok(Self { mqtt: Arc::new(mqtt), web: Arc::new(web) })
    }
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let failed = |source| TlsError::File { path: path.to_owned(), source };
    let found: Vec<_> =
        CertificateDer::pem_file_iter(path).map_err(failed)?.collect::<Result<_, _>>().map_err(failed)?;
    if found.is_empty() {
        return Err(TlsError::NoCertificate(path.to_owned()));
    }
    Ok(found)
}

fn authorities(path: &Path) -> Result<RootCertStore, TlsError> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(path)? {
        roots.add(certificate).map_err(|source| TlsError::Authority { path: path.to_owned(), source })?;
    }
    Ok(roots)
}

#[cfg(test)]
mod tests {
    use std::fs;

    use rcgen::{CertifiedKey, generate_simple_self_signed};
    use tempfile::TempDir;
    use tokio::task::JoinSet;
    use tokio::time::{sleep, timeout};

    use super::*;
    use crate::ops::files::LOOK;

    fn files(folder: &TempDir) -> TlsFiles {
        TlsFiles { cert: folder.path().join("cert.pem"), key: folder.path().join("key.pem"), client_ca: None }
    }

    /// Pairs differ in length, so that a change is seen however coarse the clock of the file system is.
    fn write_pair(files: &TlsFiles, name: &str) {
        let CertifiedKey { cert, signing_key } = generate_simple_self_signed(vec![name.to_owned()]).unwrap();
        fs::write(&files.cert, cert.pem()).unwrap();
        fs::write(&files.key, signing_key.serialize_pem()).unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn changed_files_are_read_again_and_bad_ones_change_nothing() {
        let folder = TempDir::new().unwrap();
        let files = files(&folder);
        write_pair(&files, "one");
        let certificate = ServerCertificate::load(&files).unwrap();
        let mut acceptors = certificate.acceptors();
        let (ask, reload) = watch::channel(0);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(certificate.keep(reload, stop.clone()));

        sleep(10 * LOOK).await;
        assert!(!acceptors.has_changed().unwrap(), "nothing happened");
        write_pair(&files, "another-name");
        timeout(10 * LOOK, acceptors.changed()).await.expect("the change is seen").unwrap();

        fs::write(&files.cert, "no certificate").unwrap();
        sleep(10 * LOOK).await;
        ask.send_replace(1);
        sleep(10 * LOOK).await;
        assert!(!acceptors.has_changed().unwrap(), "the old one stays");

        write_pair(&files, "a-third-and-longer-name");
        ask.send_replace(2);
        timeout(10 * LOOK, acceptors.changed()).await.expect("the request is heard").unwrap();
        stop.cancel();
        tasks.join_next().await.unwrap().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn files_that_still_change_are_left_alone() {
        let folder = TempDir::new().unwrap();
        let files = files(&folder);
        write_pair(&files, "one");
        let certificate = ServerCertificate::load(&files).unwrap();
        let acceptors = certificate.acceptors();
        let mut tasks = JoinSet::new();
        let (_ask, reload) = watch::channel(0);
        tasks.spawn(certificate.keep(reload, CancellationToken::new()));
        for round in 1..10 {
            write_pair(&files, &"x".repeat(round));
            sleep(LOOK).await;
            assert!(!acceptors.has_changed().unwrap());
        }
    }

    #[test]
    fn what_is_wrong_is_said() {
        let folder = TempDir::new().unwrap();
        let files = files(&folder);
        assert!(matches!(ServerCertificate::load(&files), Err(TlsError::File { .. })));
        write_pair(&files, "one");
        let key = fs::read_to_string(&files.key).unwrap();
        write_pair(&files, "two");
        fs::write(&files.key, key).unwrap();
        assert!(matches!(ServerCertificate::load(&files), Err(TlsError::Unusable(_))), "a key of another certificate");
        fs::write(&files.cert, "").unwrap();
        assert!(matches!(ServerCertificate::load(&files), Err(TlsError::NoCertificate(_))));
    }
}
