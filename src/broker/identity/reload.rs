//! Keeps the authenticator's knowledge up to date with the files.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::authenticator::Authenticator;
use crate::broker::BrokerConfig;
use crate::ops::files::FileWatch;

/// The files, and how they looked when they were read.
#[derive(Debug)]
pub(in crate::broker) struct Watch {
    config: Arc<BrokerConfig>,
    files: FileWatch,
}

impl Watch {
    /// To be made before the files are read for the first time: what changes meanwhile is seen at the next look.
    pub(in crate::broker) fn new(config: &BrokerConfig) -> Self {
        Self { config: Arc::new(config.clone()), files: FileWatch::new(paths(config)) }
    }

    /// Reads the files again when they change and when `reload` does, until `stop`. A file that is wrong changes nothing.
    pub(in crate::broker) async fn run(
        mut self,
        authenticator: &Arc<Authenticator>,
        mut reload: watch::Receiver<u64>,
        stop: &CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = self.files.changed(&mut reload) => {}
            }
            let (authenticator, config) = (Arc::clone(authenticator), Arc::clone(&self.config));
            match spawn_blocking(move || authenticator.reread(&config)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => error!(%error, "users and keys could not be read again; those of before hold"),
                Err(_panicked_or_stopped) => return,
            }
        }
    }
}

/// Every file that is configured.
fn paths(config: &BrokerConfig) -> Vec<PathBuf> {
    let jwt = config.jwt.as_ref();
    let paths = [
        config.users_file.as_ref(),
        jwt.and_then(|jwt| jwt.secret_file.as_ref()),
        jwt.and_then(|jwt| jwt.key_file.as_ref()),
        jwt.and_then(|jwt| jwt.jwks_file.as_ref()),
    ];
    paths.into_iter().flatten().cloned().collect()
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::path::Path;

    use tokio::time::sleep;

    use super::*;
    use crate::broker::identity::users::{Cost, UsersFile};
    use crate::chat::principal::Role;
    use crate::ops::files::LOOK;

    const CHEAP: Cost = Cost { memory_kib: 8, rounds: 1 };

    fn add(path: &Path, name: &str) {
        let mut file = UsersFile::open(path).unwrap();
        file.add_with(name, Role::User, "x", CHEAP).unwrap();
        file.save().unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_file_is_read_when_it_changes_and_a_broken_one_changes_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("users");
        add(&path, "alice");
        let config = BrokerConfig { users_file: Some(path.clone()), ..BrokerConfig::default() };
        let watch = Watch::new(&config);
        let authenticator = Arc::new(Authenticator::new(&config).unwrap());
        let (_, nobody_asks) = watch::channel(0);
        let stop = CancellationToken::new();
        let steps = async {
            let good = fs::read_to_string(&path).unwrap();
            fs::write(&path, "alice").unwrap();
            sleep(2 * LOOK).await;
            assert!(authenticator.has("alice"));
            fs::remove_file(&path).unwrap();
            sleep(2 * LOOK).await;
            assert!(authenticator.has("alice"));
            fs::write(&path, good).unwrap();
            add(&path, "bob");
            sleep(2 * LOOK).await;
            assert!(authenticator.has("alice") && authenticator.has("bob"));
            stop.cancel();
        };
        tokio::join!(watch.run(&authenticator, nobody_asks, &stop), steps);
    }
}
