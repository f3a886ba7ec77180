//! The verbs of calls.

use super::chat::refused;
use super::{Committed, Store};
use crate::chat::id::Owner;
use crate::store::calls::{DueCalls, KeptSignal, NewSignal, OverdueCall};
use crate::store::chat::{ChatCall, ChatOutcome};
use crate::store::error::StoreError;
use crate::store::sqlite::chat::calls::{ending, kept, signal};

impl Store {
    /// Takes a signal of a call: told to both sides, and the devices of who is rung are pushed for an offer. One that ends the
    /// call leaves the message about it in the same transaction.
    pub async fn call_signal(&self, new: NewSignal, call: ChatCall) -> Result<Committed<ChatOutcome>, StoreError> {
        let of = new.from.name.clone();
        self.queue.submit_for(of, refused, move |tx| signal::take(tx, &new, &call)).await
    }

    /// Calls whose time is over at `at`, in Unix milliseconds. Forgets those that ended long ago.
    pub async fn calls_due(&self, at: u64) -> Result<Committed<DueCalls>, StoreError> {
        self.queue.submit(move |tx| ending::due(tx, at)).await
    }

    /// Ends a call whose time is over, unless something else has ended it.
    pub async fn call_over(&self, overdue: OverdueCall, call: ChatCall) -> Result<Committed<ChatOutcome>, StoreError> {
        self.queue.submit(move |tx| ending::over(tx, &overdue, &call)).await
    }

    /// What a device of `user` has to know at `at` of calls that began before it came; where it `reads_waiting` documents itself,
    /// without those that no device has had.
    pub async fn calls_of(
        &self,
        user: Owner,
        at: u64,
        reads_waiting: bool,
    ) -> Result<Committed<Vec<KeptSignal>>, StoreError> {
        self.queue.submit(move |tx| kept::of_user(tx, &user, at, reads_waiting)).await
    }
}
