//! Files that are read again while the program runs.

use std::fmt::Display;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::spawn_blocking;
use tokio::time::{Instant, sleep_until};

/// How often it is looked whether a file has changed.
pub const LOOK: Duration = Duration::from_secs(2);

/// Some files, and how they looked when somebody last wanted to read them.
#[derive(Debug)]
pub struct FileWatch {
    paths: Vec<PathBuf>,
    seen: Vec<Option<Stamp>>,
    /// How they looked last, if they are to come to rest before they are read.
    moving: Option<Vec<Option<Stamp>>>,
    next_look: Instant,
    /// Whether a reload was asked for that nobody has been told of yet.
    asked: bool,
    /// Whether nobody is left who could ask.
    deaf: bool,
}

impl FileWatch {
    /// To be made before the files are read for the first time: what changes meanwhile is seen at the next look.
    pub fn new(paths: Vec<PathBuf>) -> Self {
        let seen = stamps(&paths);
        Self { paths, seen, moving: None, next_look: Instant::now() + LOOK, asked: false, deaf: false }
    }

    /// For files that belong together and are written one after the other: they have changed when they look the same twice.
    pub fn at_rest(paths: Vec<PathBuf>) -> Self {
        let new = Self::new(paths);
        Self { moving: Some(new.seen.clone()), ..new }
    }

    /// Waits until one of the files has changed, or until `reload` asks for all of them to be read again. Cancel-safe.
    pub async fn changed(&mut self, reload: &mut watch::Receiver<u64>) {
        loop {
            if !self.asked {
                tokio::select! {
                    () = sleep_until(self.next_look) => {}
                    changed = reload.changed(), if !self.deaf => match changed {
                        Ok(()) => self.asked = true,
                        Err(_) => {
                            self.deaf = true;
                            continue;
                        }
                    },
                }
            }
            let paths = self.paths.clone();
            let Ok(now) = spawn_blocking(move || stamps(&paths)).await else {
                // The runtime ends.
                return std::future::pending().await;
            };
            self.next_look = Instant::now() + LOOK;
            let has_moved = self.moving.as_mut().is_some_and(|last| std::mem::replace(last, now.clone()) != now);
            if std::mem::take(&mut self.asked) | (now != self.seen && !has_moved) {
                self.seen = now;
                return;
            }
        }
    }
}

/// Reads files again with `read`. What cannot be used is told, and `None`: what was read before holds.
pub async fn reread<T: Send + 'static, E: Display + Send + 'static>(
    read: impl FnOnce() -> Result<T, E> + Send + 'static,
) -> Option<T> {
    match spawn_blocking(read).await {
        Ok(Ok(found)) => Some(found),
        Ok(Err(fault)) => {
            tracing::error!(%fault, "the files cannot be used as they are now; those of before hold");
            None
        }
        Err(_panicked_or_stopped) => None,
    }
}

/// A secret without the line end that editors and `echo` leave behind it.
pub fn without_line_end(text: &str) -> &str {
    text.trim_end_matches(['\r', '\n'])
}

/// The secret in a file: its whole text, [`without_line_end`].
///
/// # Errors
/// When the file cannot be read, or nothing is in it.
pub fn read_secret(path: &Path) -> io::Result<String> {
    let mut text = std::fs::read_to_string(path)?;
    text.truncate(without_line_end(&text).len());
    if text.is_empty() {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the file is empty"));
    }
    Ok(text)
}

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
        let meta = std::fs::metadata(path).ok()?;
        Some(Self {
            file: (meta.dev(), meta.ino()),
            size: meta.size(),
            modified: (meta.mtime(), meta.mtime_nsec()),
            changed: (meta.ctime(), meta.ctime_nsec()),
        })
    }
}

fn stamps(paths: &[PathBuf]) -> Vec<Option<Stamp>> {
    paths.iter().map(|path| Stamp::of(path)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;
    use tokio::time::timeout;

    #[tokio::test(start_paused = true)]
    async fn a_change_and_a_request_are_each_told_once() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, "one").unwrap();
        let (ask, mut reload) = watch::channel(0);
        let mut files = FileWatch::new(vec![path.clone(), folder.path().join("absent")]);
        let told = async |files: &mut FileWatch, reload: &mut watch::Receiver<u64>| {
            timeout(5 * LOOK, files.changed(reload)).await.is_ok()
        };
        assert!(!told(&mut files, &mut reload).await);
        fs::write(&path, "another").unwrap();
        assert!(told(&mut files, &mut reload).await && !told(&mut files, &mut reload).await);
        ask.send_replace(1);
        assert!(told(&mut files, &mut reload).await && !told(&mut files, &mut reload).await);
        fs::remove_file(&path).unwrap();
        assert!(told(&mut files, &mut reload).await && !told(&mut files, &mut reload).await);
        drop(ask);
        fs::write(&path, "one more").unwrap();
        assert!(told(&mut files, &mut reload).await, "also when nobody is left to ask");
    }

    #[tokio::test(start_paused = true)]
    async fn a_request_is_not_lost_to_whoever_waits_for_something_else_as_well() {
        let (ask, mut reload) = watch::channel(0);
        let mut files = FileWatch::new(Vec::new());
        ask.send_replace(1);
        // Polled once: it has taken the request, and has not told of it.
        assert!(futures_util::FutureExt::now_or_never(files.changed(&mut reload)).is_none());
        timeout(LOOK / 2, files.changed(&mut reload)).await.expect("it is told at the next call");
    }

    #[test]
    fn a_secret_is_read_without_the_end_of_its_line() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("key");
        fs::write(&path, " key with spaces \r\n").unwrap();
        assert_eq!(read_secret(&path).unwrap(), " key with spaces ");
        fs::write(&path, "\n").unwrap();
        assert_eq!(read_secret(&path).unwrap_err().to_string(), "the file is empty");
    }
}
