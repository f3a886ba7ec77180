//! What earlier releases kept in files, put into the store once, before the first client comes.
//!
//! A session comes into the store whole or not at all, and what is there stays as it is: what a kill interrupts the next
//! start does again. When everything is there, the store notes it, and nobody looks at the files any more.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::Hub;
use super::publish::Destinations;
use crate::broker::BrokerError;
use crate::broker::import::{self, FormerFolder, FormerSession, LeftOut, SessionBacklog};
use crate::chat::topic::Side;
use crate::ops::clock::now_ms;
use crate::store::{Enqueue, ImportedSession, Message, SessionRecord, StoreError};

/// Sessions that are read before the first of them is committed.
const SESSIONS_AT_ONCE: usize = 16;
/// Retained messages that are put into the store by one transaction.
const RETAINED_AT_ONCE: usize = 64;
/// What earlier releases had in the folder.
const FILES: [&str; 7] = [".storage_version", ".lock", "sessions", "queues", "inflight", "retained", "orderly-stop"];

/// An import that is not finished.
pub(in crate::broker) struct Import {
    folder: PathBuf,
    imported: FormerFolder,
    /// Sessions that published QoS 2 messages which nobody has got yet, with their packet identifiers.
    pending: Vec<(FormerSession, Vec<u16>)>,
    sessions: usize,
    messages: usize,
    retained: usize,
    left_out: LeftOut,
}

impl Hub {
    /// Puts the sessions and retained messages of a folder into the store, if there are any and it has not been done. To be
    /// finished by [`Self::finish_import`] when they are restored.
    ///
    /// # Errors
    ///
    /// If the disk fails or the store is closed.
    pub(in crate::broker) async fn import(&self, folder: &Path) -> Result<Option<Import>, BrokerError> {
        if self.store.is_imported().await?.await? {
            return Ok(None);
        }
        let Some(mut imported) = import::read(folder).map_err(|error| of_disk(folder, &error))? else {
            return Ok(None);
        };
        let (sessions, folder) = (std::mem::take(&mut imported.sessions), folder.to_owned());
        let (pending, count, messages, retained) = (Vec::new(), sessions.len(), 0, 0);
        let left_out = LeftOut::default();
        let mut import = Import { folder, imported, pending, sessions: count, messages, retained, left_out };
        let mut sessions = sessions.into_iter().peekable();
        while sessions.peek().is_some() {
            self.import_sessions(&mut import, sessions.by_ref().take(SESSIONS_AT_ONCE)).await?;
        }
        while self.import_retained(&mut import).await? {}
        import.left_out = import.imported.left_out;
        Ok(Some(import))
    }

    async fn import_sessions(
        &self,
        import: &mut Import,
        sessions: impl Iterator<Item = FormerSession>,
    ) -> Result<(), BrokerError> {
        let mut asked = Vec::new();
        for session in sessions {
            let SessionBacklog { messages, incoming } = import.waiting(&session)?;
            import.messages += messages.len() + incoming.len();
            let FormerSession { record, left_at, subscriptions, .. } = session.clone();
            let imported = ImportedSession {
                record: SessionRecord { expiry_s: self.expiry(record.expiry_s), ..record },
                // One that had a connection at the end is kept from now on.
                left_at: left_at.unwrap_or_else(now_ms),
                subscriptions,
                messages,
                incoming: incoming.iter().map(|(id, _)| *id).collect(),
            };
            asked.push((session, self.store.import_session(imported).await?));
        }
        for (session, answer) in asked {
            let pending = answer.await?;
            import.pending.extend((!pending.is_empty()).then_some((session, pending)));
        }
        Ok(())
    }

    /// Yields whether there may be further ones.
    async fn import_retained(&self, import: &mut Import) -> Result<bool, BrokerError> {
        let mut messages = Vec::new();
        while messages.len() < RETAINED_AT_ONCE
            && let Some(message) = import.imported.next_retained().map_err(|error| of_disk(&import.folder, &error))?
        {
            messages.push(message);
        }
        import.retained += messages.len();
        let more = messages.len() == RETAINED_AT_ONCE;
        self.store.import_retained(messages).await?.await?;
        Ok(more)
    }

    /// Gives QoS 2 messages that were only taken to their readers, and notes that everything is there.
    ///
    /// # Errors
    ///
    /// As [`Self::import`].
    pub(in crate::broker) async fn finish_import(&self, mut import: Import) -> Result<(), BrokerError> {
        for (session, pending) in std::mem::take(&mut import.pending) {
            for (id, message) in import.waiting(&session)?.incoming {
                if pending.contains(&id) {
                    self.hand_on(&session.record, id, message).await?;
                }
            }
        }
        self.store.imported().await?.await?;
        import.log(put_aside(&import.folder).ok().as_deref());
        Ok(())
    }

    /// The bridge has had it when its publisher was told that it arrived.
    async fn hand_on(&self, publisher: &SessionRecord, id: u16, mut message: Message) -> Result<(), StoreError> {
        let Some(session) = self.registry.session(&publisher.key) else { return Ok(()) };
        let Some(queue) = session.queue.stored() else { return Ok(()) };
        message.retain &= Side::of(&message.topic).may_be_retained();
        // What there is no room for is not retained, but arrives.
        let retain = self.retain(&message, publisher.user.as_deref(), false).unwrap_or_default();
        let message = Arc::new(message);
        let Destinations { targets, counted, .. } = self.distribute(&message, Some(session.queue.number()), false);
        let message = Enqueue { message, targets, incoming: None, retain, will: None };
        let handed_on = self.store.hand_on((queue, id), message).await?;
        counted.keep();
        handed_on.await
    }
}

impl Import {
    fn waiting(&mut self, session: &FormerSession) -> Result<SessionBacklog, BrokerError> {
        self.imported.waiting(session).map_err(|error| of_disk(&self.folder, &error))
    }

    fn log(&self, kept_as: Option<&Path>) {
        let Self { folder, sessions, messages, retained, .. } = self;
        let folder = folder.display();
        let kept_as = kept_as.map(|path| tracing::field::display(path.display()));
        if sessions + retained > 0 {
            tracing::info!(%folder, kept_as, sessions, messages, retained, "what an earlier release kept is in the store");
        }
        // Documents are in the store already.
        let LeftOut { documents: _, wills, messages, damaged } = self.left_out;
        if wills + messages + damaged > 0 {
            tracing::warn!(%folder, wills, messages, damaged, "not all that an earlier release kept could be taken over");
        }
    }
}

fn of_disk(folder: &Path, error: &io::Error) -> BrokerError {
    BrokerError::Data { folder: folder.to_owned(), reason: error.to_string() }
}

/// Renames the folder, so that it is seen that nobody needs it; one that has other files as well stays where it is.
fn put_aside(folder: &Path) -> io::Result<PathBuf> {
    for entry in fs::read_dir(folder)? {
        let name = entry?.file_name();
        if !FILES.iter().any(|file| name == *file) {
            return Err(io::ErrorKind::DirectoryNotEmpty.into());
        }
    }
    let mut name = folder.components().as_path().as_os_str().to_owned();
    name.push(".imported");
    fs::rename(folder, &name)?;
    Ok(name.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_of_an_earlier_release_is_put_aside_unless_it_has_other_files() {
        let base = tempfile::tempdir().unwrap();
        let folder = base.path().join("broker");
        fs::create_dir_all(folder.join("sessions")).unwrap();
        fs::write(folder.join(".storage_version"), "2").unwrap();
        fs::write(folder.join("bridge.db"), "").unwrap();
        assert!(put_aside(&folder).is_err());
        assert!(folder.join("bridge.db").exists());
        fs::remove_file(folder.join("bridge.db")).unwrap();
        assert_eq!(put_aside(&folder.join("")).unwrap(), base.path().join("broker.imported"));
        assert!(!folder.exists() && base.path().join("broker.imported/sessions").exists());
        assert!(put_aside(&folder).is_err(), "it is gone");
    }
}
