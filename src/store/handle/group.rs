//! The verbs of groups.

use super::chat::erased;
use super::{Committed, Store};
use crate::chat::id::{GroupId, Owner, Sid};
use crate::chat::message::Rejection;
use crate::store::chat::ChatCall;
use crate::store::error::StoreError;
use crate::store::group::{
    GroupChanged, GroupOutcome, GroupPage, GroupStatePage, GroupStateQuery, NewGroupChange, NewGroupMessage,
};
use crate::store::group_room::GroupRoom;
use crate::store::sqlite::chat::group::{members, membership, message, state};
use crate::store::sqlite::chat::scheduled;
use crate::store::sqlite::tx::Tx;

impl Store {
    /// Waits until the store may be asked to keep a message to a group of so many members, or a change of it. To be called before that gets
    /// its id: nothing waits between that and the store.
    ///
    /// # Errors
    /// If the store is closed.
    pub async fn group_room(&self, group: &GroupId, members: usize) -> Result<GroupRoom, StoreError> {
        self.group_rooms.wait(group, members).await
    }

    /// Takes a message of a member to its group: stored once, told to every member, and pushed to the devices of those at
    /// whose devices nobody is looking.
    pub async fn group_message(
        &self,
        new: NewGroupMessage,
        call: ChatCall,
        room: GroupRoom,
    ) -> Result<Committed<GroupOutcome>, StoreError> {
        let (of, refused) = (new.from.name.clone(), || GroupOutcome::Refused(erased()));
        let write = move |tx: &mut Tx<'_>| {
            let _taken = &room;
            message::write(tx, &new, &call)
        };
        self.queue.submit_for(of, refused, write).await
    }

    /// Sends a message to a group whose time has come, as [`Self::group_message`] does, unless it was taken back meanwhile
    /// ([`GroupOutcome::Repeated`]). If it is refused its writer is told.
    pub async fn group_send_scheduled(
        &self,
        waiting: Sid,
        new: NewGroupMessage,
        call: ChatCall,
        room: GroupRoom,
    ) -> Result<Committed<GroupOutcome>, StoreError> {
        let of = new.from.name.clone();
        let send = move |tx: &mut Tx<'_>| {
            let _taken = &room;
            scheduled::send_to_group(tx, waiting, &new, &call)
        };
        self.queue.submit_for(of, || GroupOutcome::Repeated, send).await
    }

    /// Makes a group or changes one: its roster, its settings, and the notice that tells of it.
    pub async fn group_change(
        &self,
        new: NewGroupChange,
        call: ChatCall,
        room: GroupRoom,
    ) -> Result<Committed<Result<GroupChanged, Rejection>>, StoreError> {
        let of = new.by.name.clone();
        let change = move |tx: &mut Tx<'_>| {
            let _taken = &room;
            membership::change(tx, &new, &call)
        };
        self.queue.submit_for(of, || Err(erased()), change).await
    }

    /// A group and its members behind `after`, by name, as `user` sees them; [`ErrorCode::NotMember`](crate::chat::message::ErrorCode)
    /// for who is none.
    pub async fn group_page(
        &self,
        user: Owner,
        group: GroupId,
        after: String,
    ) -> Result<Committed<Result<GroupPage, Rejection>>, StoreError> {
        self.queue.submit_read(&self.reads, move |tx| members::page(tx, &user, &group, &after)).await
    }

    /// Those among `named` who have `by` not as a contact.
    pub async fn group_strangers(&self, by: Owner, named: Vec<Owner>) -> Result<Committed<Vec<Owner>>, StoreError> {
        self.queue.submit(move |tx| members::strangers(tx, &by, &named)).await
    }

    /// Everybody who is in a group, by name.
    pub async fn group_members(&self, group: GroupId) -> Result<Committed<Vec<Owner>>, StoreError> {
        self.queue.submit(move |tx| members::names(tx, &group)).await
    }

    /// How the next group of a user is of which a filter matches a topic; `None`: there is no further one.
    pub async fn group_state(&self, query: GroupStateQuery) -> Result<Committed<Option<GroupStatePage>>, StoreError> {
        self.queue.submit(move |tx| state::next(tx, &query)).await
    }

    /// Where groups have no topics any more: what waits on these for members comes into their inboxes. For the start, before
    /// anybody reads.
    ///
    /// # Errors
    /// If the store is closed.
    pub async fn group_documents_into_inboxes(&self) -> Result<(), StoreError> {
        let mut after = Some(String::new());
        while let Some(behind) = after {
            after = self.queue.submit(move |tx| state::into_inboxes(tx, &behind)).await?.await?;
        }
        Ok(())
    }
}
