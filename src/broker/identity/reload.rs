//! Keeps the authenticator's knowledge up to date with the files.

use std::sync::Arc;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::authenticator::Authenticator;
use crate::broker::{BrokerConfig, JwtConfig};
use crate::ops::files::FileWatch;

/// The files that are configured. To be made before they are read for the first time: what changes meanwhile is seen at the
/// next look.
pub(in crate::broker) fn watched_files(config: &BrokerConfig) -> FileWatch {
    let JwtConfig { secret_file, key_file, jwks_file, .. } = config.jwt.clone();
    FileWatch::new([config.users_file.clone(), secret_file, key_file, jwks_file].into_iter().flatten().collect())
}

impl Authenticator {
    /// Reads the files again when they change and when `reload` does, until `stop`. A file that is wrong changes nothing.
    pub(in crate::broker) async fn keep(
        self: Arc<Self>,
        mut files: FileWatch,
        mut reload: watch::Receiver<u64>,
        stop: &CancellationToken,
    ) {
        loop {
            tokio::select! {
                () = stop.cancelled() => return,
                () = files.changed(&mut reload) => {}
            }
            let authenticator = Arc::clone(&self);
            match spawn_blocking(move || authenticator.reread()).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => error!(%error, "users and keys could not be read again; those of before hold"),
                Err(_panicked_or_stopped) => return,
            }
        }
    }
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
        let files = watched_files(&config);
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
        tokio::join!(Arc::clone(&authenticator).keep(files, nobody_asks, &stop), steps);
    }
}
