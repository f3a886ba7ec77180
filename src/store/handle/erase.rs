//! The verbs that erase a person.

use super::{Committed, Store};
use crate::chat::id::Owner;
use crate::store::chat::ChatCall;
use crate::store::erase::{EraseBegun, Erasing, NewErase, Scrubbed};
use crate::store::error::StoreError;
use crate::store::sqlite::erase;
use std::sync::Arc;

impl Store {
    /// Takes the name of a person away: it is taken from now on, messages to it are refused, and [`Self::is_erased`].
    ///
    /// # Errors
    /// When the store is closed, or fails.
    pub async fn erase_begin(&self, new: NewErase) -> Result<EraseBegun, StoreError> {
        let (user, shared) = (new.user.clone(), Arc::clone(&self.shared));
        // At once, so that no verb that comes behind this one is done in the name of the person.
        let begun = self
            .queue
            .submit(move |tx| {
                let begun = erase::begin(tx, &new)?;
                shared.erased(&new.user, true);
                Ok(begun)
            })
            .await?
            .await;
        if begun.is_err() {
            self.shared.erased(&user, false);
        }
        begun
    }

    /// Does a part of an erase that was begun: small, so that no verb waits long behind it.
    /// At its end BALs that ask for events are told.
    pub async fn erase_step(&self, user: Owner, call: ChatCall) -> Result<Committed<Erasing>, StoreError> {
        self.queue.submit(move |tx| erase::step(tx, &user, &call)).await
    }

    /// Rebuilds the file, so that nothing can be read of what it does not hold any more; if it is large, at the next start.
    ///
    /// # Errors
    /// When the store is closed, or fails.
    pub async fn scrub(&self) -> Result<Scrubbed, StoreError> {
        self.queue.submit(erase::scrub_after).await?.await?;
        Ok(self.shared.scrubbed())
    }

    /// Erases that were begun and are not done: whom, to go on with after a start.
    pub async fn erases(&self) -> Result<Committed<Vec<Owner>>, StoreError> {
        self.queue.submit(|tx| erase::running(tx)).await
    }

    /// The name of an erased person may be used again. Whether it was taken.
    ///
    /// # Errors
    /// When the store is closed, or fails.
    pub async fn free_name(&self, user: Owner) -> Result<bool, StoreError> {
        let name = user.clone();
        let freed = self.queue.submit(move |tx| erase::free(tx, &name)).await?.await?;
        if freed {
            self.shared.erased(&user, false);
        }
        Ok(freed)
    }

    /// How often a name became free since the start: who remembers whom the store knows has to ask again then.
    pub fn freed_names(&self) -> u64 {
        self.shared.freed_names()
    }

    /// Whether the name is that of an erased person, and not free again. Asks nobody, and costs nothing where nobody was erased.
    pub fn is_erased(&self, name: &str) -> bool {
        self.shared.is_erased(name)
    }
}
