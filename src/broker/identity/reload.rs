//! Keeps the doorman's knowledge up to date with the files.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;
use tracing::error;

use super::doorman::{Doorman, Files};
use crate::broker::BrokerConfig;

/// How often it is looked whether a file has changed.
const LOOK: Duration = Duration::from_secs(2);

/// The files, and how they looked when they were read.
#[derive(Debug)]
pub(in crate::broker) struct Watch {
    config: Arc<BrokerConfig>,
    seen: Stamps,
}

impl Watch {
    /// To be made before the files are read for the first time: what changes meanwhile is seen at the next look.
    pub(in crate::broker) fn new(config: &BrokerConfig) -> Self {
        Self { config: Arc::new(config.clone()), seen: stamps(config) }
    }

    /// Reads the files again when they change and when `reload` does, until `stop`. A file that is wrong changes nothing.
    pub(in crate::broker) async fn run(
        mut self,
        doorman: &Doorman,
        mut reload: watch::Receiver<u64>,
        stop: &CancellationToken,
    ) {
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut asked = Asked::Perhaps;
        loop {
            let wanted = tokio::select! {
                () = stop.cancelled() => return,
                _ = looks.tick() => Wanted::IfChanged,
                changed = reload.changed(), if asked == Asked::Perhaps => {
                    if changed.is_err() {
                        asked = Asked::NeverAgain;
                        continue;
                    }
                    Wanted::Now
                }
            };
            let config = Arc::clone(&self.config);
            let Ok(now) = spawn_blocking(move || stamps(&config)).await else {
                return;
            };
            if wanted == Wanted::IfChanged && now == self.seen {
                continue;
            }
            self.seen = now;
            let config = Arc::clone(&self.config);
            match spawn_blocking(move || Files::read(&config)).await {
                Ok(Ok(files)) => doorman.replace(files),
                Ok(Err(error)) => error!(%error, "users and keys could not be read again; those of before hold"),
                Err(_panicked_or_stopped) => return,
            }
        }
    }
}

/// Whether somebody may still ask for a reload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Asked {
    Perhaps,
    NeverAgain,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wanted {
    IfChanged,
    Now,
}

/// The state of each file that may be configured.
type Stamps = Vec<Option<Stamp>>;

/// What changes when a file does. No one of these does so always.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    file: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(path: &Path) -> Option<Self> {
        let meta = fs::metadata(path).ok()?;
        Some(Self {
            file: (meta.dev(), meta.ino()),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

fn stamps(config: &BrokerConfig) -> Stamps {
    let jwt = config.jwt.as_ref();
    let paths = [
        config.users_file.as_deref(),
        jwt.and_then(|jwt| jwt.secret_file.as_deref()),
        jwt.and_then(|jwt| jwt.key_file.as_deref()),
        jwt.and_then(|jwt| jwt.jwks_file.as_deref()),
    ];
    paths.into_iter().map(|path| path.and_then(Stamp::of)).collect()
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;
    use crate::broker::identity::users::{Cost, UsersFile};
    use crate::mqtt::Role;

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
        let doorman = Doorman::new(&config).unwrap();
        let (_, nobody_asks) = watch::channel(0);
        let stop = CancellationToken::new();
        let steps = async {
            let good = fs::read_to_string(&path).unwrap();
            fs::write(&path, "alice").unwrap();
            sleep(2 * LOOK).await;
            assert!(doorman.has("alice"));
            fs::remove_file(&path).unwrap();
            sleep(2 * LOOK).await;
            assert!(doorman.has("alice"));
            fs::write(&path, good).unwrap();
            add(&path, "bob");
            sleep(2 * LOOK).await;
            assert!(doorman.has("alice") && doorman.has("bob"));
            stop.cancel();
        };
        tokio::join!(watch.run(&doorman, nobody_asks, &stop), steps);
    }
}
