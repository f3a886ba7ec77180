//! The verbs of groups.

use super::chat::erased;
use super::{Committed, Store};
use crate::chat::id::{GroupId, Owner};
use crate::chat::message::Rejection;
use crate::store::chat::ChatCall;
use crate::store::error::StoreError;
use crate::store::group::{GroupChanged, GroupOutcome, GroupPage, NewGroupChange, NewGroupMessage};
use crate::store::sqlite::chat::group::{membership, message};

impl Store {
    /// Takes a message of a member to its group: stored once, told to every member, and pushed to the devices of those at
    /// whose devices nobody is looking.
    pub async fn group_message(
        &self,
        new: NewGroupMessage,
        call: ChatCall,
    ) -> Result<Committed<GroupOutcome>, StoreError> {
        let (of, refused) = (new.from.name.clone(), || GroupOutcome::Refused(erased()));
        self.queue.submit_for(of, refused, move |tx| message::write(tx, &new, &call)).await
    }

    /// Makes a group or changes one: its roster, its settings, and the notice that tells of it.
    pub async fn group_change(
        &self,
        new: NewGroupChange,
        call: ChatCall,
    ) -> Result<Committed<Result<GroupChanged, Rejection>>, StoreError> {
        let of = new.by.name.clone();
        self.queue.submit_for(of, || Err(erased()), move |tx| membership::change(tx, &new, &call)).await
    }

    /// A group and its members behind `after`, by name, as `user` sees them; [`ErrorCode::NotMember`](crate::chat::message::ErrorCode)
    /// for who is none.
    pub async fn group_page(
        &self,
        user: Owner,
        group: GroupId,
        after: String,
    ) -> Result<Committed<Result<GroupPage, Rejection>>, StoreError> {
        self.queue.submit(move |tx| membership::page(tx, &user, &group, &after)).await
    }

    /// Everybody who is in a group, by name.
    pub async fn group_members(&self, group: GroupId) -> Result<Committed<Vec<Owner>>, StoreError> {
        self.queue.submit(move |tx| membership::names(tx, &group)).await
    }
}
