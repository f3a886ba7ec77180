//! The verbs of chat between users.

use super::{Committed, Store};
use crate::chat::attention::Attended;
use crate::chat::id::{MessageId, Owner, Sid, Token};
use crate::chat::message::{ErrorCode, Rejection};
use crate::chat::principal::Role;
use crate::chat::topic::Device;
use crate::store::chat::{
    ChatCall, ChatOutcome, ContactPage, DeviceChange, Keep, KnownDevice, NewChatMessage, NewInvitation, NewReceipt,
    PushExplanation, ScheduledMessage, ScheduledPage, Seeing, SettingChange, SyncPage, TestPush, Undecided,
    UserSettings, VisibleTo,
};
use crate::store::erase::{ExportPage, NewReport};
use crate::store::error::StoreError;
use crate::store::first_screen::{Archiving, ConversationPage, Deletion, HistoryPage, HistoryQuery};
use crate::store::sqlite::chat::{
    conversations, deletion, device, events, explain, export, history, invitation, keep, message, named, notified,
    people, position, push, scheduled, sync, test_push, unpushed,
};
use crate::store::sqlite::tx::Tx;
use bytes::Bytes;
use std::collections::HashSet;

/// What is said to somebody who was erased, and whom nobody hears any more.
pub(super) fn erased() -> Rejection {
    Rejection::new(ErrorCode::Forbidden, "the writer was erased")
}

/// The same of something that was written.
pub(super) fn refused() -> ChatOutcome {
    ChatOutcome::Refused(erased())
}

impl Store {
    /// Takes a message of a user or BAL to a user or BAL: stored, told to both sides, and pushed to the devices of the
    /// reader where [`crate::chat::push_decision`] says so.
    pub async fn chat_message(
        &self,
        new: NewChatMessage,
        call: ChatCall,
    ) -> Result<Committed<ChatOutcome>, StoreError> {
        let of = new.from.name.clone();
        self.queue.submit_for(of, refused, move |tx| message::write(tx, &new, &call)).await
    }

    /// The same, where a BAL is asked who may write, and the publisher is not to wait for its answer: a message about which it is to
    /// be asked (`asks`), or behind which another one of its writer waits, is on disk then, and is due
    /// ([`Self::chat_scheduled_due`]).
    pub async fn chat_message_in_order(
        &self,
        new: NewChatMessage,
        asks: bool,
        call: ChatCall,
    ) -> Result<Committed<ChatOutcome>, StoreError> {
        let of = new.from.name.clone();
        self.queue.submit_for(of, refused, move |tx| message::write_in_order(tx, &new, asks, &call)).await
    }

    /// When the next message is to be sent that waits for its time, in Unix milliseconds.
    pub async fn chat_scheduled_next(&self) -> Result<Committed<Option<u64>>, StoreError> {
        self.queue.submit(|tx| scheduled::next(tx)).await
    }

    /// The messages whose time has come at `at` (Unix milliseconds), in their order, at most `limit`, but for those of the writers
    /// `but_of`. They wait further until they are sent, refused or taken back.
    pub async fn chat_scheduled_due(
        &self,
        at: u64,
        limit: usize,
        but_of: HashSet<Owner>,
    ) -> Result<Committed<Vec<ScheduledMessage>>, StoreError> {
        self.queue.submit(move |tx| scheduled::due(tx, at, limit, &but_of)).await
    }

    /// A message whose time has come is to be tried again at `until` (Unix milliseconds).
    pub async fn chat_put_off_scheduled(&self, waiting: Sid, until: u64) -> Result<Committed<()>, StoreError> {
        self.queue.submit(move |tx| scheduled::put_off(tx, waiting, until)).await
    }

    /// Sends a message whose time has come, as [`Self::chat_message`] does, unless it was taken back meanwhile
    /// ([`ChatOutcome::Repeated`]). If it is refused its writer is told. Of a BAL that has no room it is due again a second later.
    pub async fn chat_send_scheduled(
        &self,
        waiting: Sid,
        new: NewChatMessage,
        call: ChatCall,
    ) -> Result<Committed<ChatOutcome>, StoreError> {
        let of = new.from.name.clone();
        self.queue.submit_for(of, || ChatOutcome::Repeated, move |tx| scheduled::send(tx, waiting, &new, &call)).await
    }

    /// Refuses a message whose time has come and that cannot be read; its writer is told.
    pub async fn chat_refuse_scheduled(
        &self,
        waiting: ScheduledMessage,
        why: Rejection,
        at: u64,
    ) -> Result<Committed<()>, StoreError> {
        let of = waiting.writer.clone();
        self.queue.submit_for(of, || (), move |tx| scheduled::give_up(tx, &waiting, &why, at)).await
    }

    /// What waits of a writer: a page behind `after`.
    pub async fn chat_scheduled(
        &self,
        writer: Owner,
        after: Option<Sid>,
    ) -> Result<Committed<ScheduledPage>, StoreError> {
        self.queue.submit_read(&self.reads, move |tx| scheduled::of_writer(tx, &writer, after)).await
    }

    /// Takes a message back that waits for its time, by its writer's id of it; all devices of its writer are told. False: none
    /// of this id waits.
    pub async fn chat_cancel(
        &self,
        writer: Owner,
        role: Role,
        id: MessageId,
        at: u64,
    ) -> Result<Committed<bool>, StoreError> {
        let of = writer.clone();
        self.queue.submit_for(of, || false, move |tx| scheduled::cancel(tx, (&writer, role), id.as_str(), at)).await
    }

    /// Takes an invitation or an answer to one: stored, told to both sides, and pushed where it asks for an answer. The first
    /// answer counts; accepted, both are contacts of each other.
    pub async fn chat_invite(&self, new: NewInvitation, call: ChatCall) -> Result<Committed<ChatOutcome>, StoreError> {
        let of = new.from.name.clone();
        self.queue.submit_for(of, refused, move |tx| invitation::invite(tx, &new, &call)).await
    }

    /// Notes what a device has or a user has read, and tells the writers as far as they may know. Of several ids one that is not
    /// the user's refuses all.
    pub async fn chat_receipt(&self, new: NewReceipt, call: ChatCall) -> Result<Committed<ChatOutcome>, StoreError> {
        let of = new.user.clone();
        self.queue.submit_for(of, || ChatOutcome::Repeated, move |tx| position::receipt_of_user(tx, &new, &call)).await
    }

    /// The sids among these that are messages to this user.
    pub async fn chat_messages_to(&self, user: Owner, sids: Vec<Sid>) -> Result<Committed<Vec<Sid>>, StoreError> {
        self.queue.submit(move |tx| named::messages_to(tx, &user, &sids)).await
    }

    /// The sids of the messages to this user that `writer` wrote under these ids, in their order; unknown ones are left out.
    pub async fn chat_written_to(
        &self,
        user: Owner,
        writer: Owner,
        ids: Vec<MessageId>,
    ) -> Result<Committed<Vec<Sid>>, StoreError> {
        self.queue.submit(move |tx| named::written_to(tx, &user, &writer, &ids)).await
    }

    /// An attended device has this message: its pushes that still wait are taken back.
    pub async fn chat_attended(
        &self,
        user: Owner,
        dev: Device,
        sid: Sid,
        call: ChatCall,
    ) -> Result<Committed<()>, StoreError> {
        self.queue.submit_for(user.clone(), || (), move |tx| notified::attended(tx, &user, &dev, sid, &call)).await
    }

    /// The attended devices have not confirmed these messages to `user` in time, or are attended no more: whether the
    /// user's devices are pushed is decided again. Returns those that still wait.
    pub async fn chat_decide_again(
        &self,
        user: Owner,
        sids: Vec<Sid>,
        attended: Attended,
        call: ChatCall,
    ) -> Result<Committed<Vec<Sid>>, StoreError> {
        let of = user.clone();
        let decide = move |tx: &mut Tx<'_>| push::decide_again(tx, &user, &sids, &attended, &call);
        self.queue.submit_for(of, Vec::new, decide).await
    }

    /// Messages stored at `since` (Unix milliseconds) or later that no device has confirmed, and of which pushes waited for an
    /// attended device when the store was closed.
    pub async fn chat_undecided(&self, since: u64) -> Result<Committed<Vec<Undecided>>, StoreError> {
        self.queue.submit(move |tx| push::undecided(tx, since)).await
    }

    /// The oldest `limit` messages of which a push waits for room in the queue ([`crate::store::StoreFigures::chat_unpushed`]).
    /// To be decided again, they need room for one push at least.
    pub async fn chat_unpushed(&self, limit: usize) -> Result<Committed<Vec<Undecided>>, StoreError> {
        self.queue.submit(move |tx| unpushed::oldest(tx, limit)).await
    }

    /// Registers a device, or takes its registration back. Its user is told.
    pub async fn chat_device(
        &self,
        change: DeviceChange,
        call: ChatCall,
    ) -> Result<Committed<ChatOutcome>, StoreError> {
        let of = change.user.clone();
        self.queue.submit_for(of, refused, move |tx| device::change(tx, &change, &call)).await
    }

    /// The device connected at `at` (Unix milliseconds): pushes go to it one by one again. Forgotten in a crash without harm.
    pub async fn chat_device_spoke(&self, user: Owner, dev: Device, at: u64) -> Result<Committed<()>, StoreError> {
        self.queue.submit_deferred(move |tx| notified::device_spoke(tx, &user, &dev, at)).await
    }

    /// The devices of a user that have registered a token.
    pub async fn chat_devices(&self, user: Owner) -> Result<Committed<Vec<KnownDevice>>, StoreError> {
        self.queue.submit(move |tx| device::known(tx, &user)).await
    }

    /// To whom a token is registered.
    pub async fn chat_owner_of(&self, token: Token) -> Result<Committed<Option<(Owner, Device)>>, StoreError> {
        self.queue.submit(move |tx| device::owner_of(tx, &token)).await
    }

    /// Somebody logged in, or wrote, as this user: messages to it are taken from now on.
    pub async fn chat_user_seen(&self, user: Owner) -> Result<Committed<()>, StoreError> {
        self.queue.submit_deferred(move |tx| people::ensure(tx, &user)).await
    }

    /// Changes what a user has set; its devices are told `told`. Returns who sees the user now, or no longer.
    pub async fn chat_set(
        &self,
        user: Owner,
        change: SettingChange,
        told: Bytes,
        at: u64,
    ) -> Result<Committed<Result<Vec<Seeing>, Rejection>>, StoreError> {
        let of = user.clone();
        self.queue.submit_for(of, || Err(erased()), move |tx| people::change(tx, &user, &change, &told, at)).await
    }

    /// Keeps the profile of a user, which is JSON, or drops it.
    pub async fn chat_profile(&self, user: Owner, profile: Option<String>) -> Result<Committed<()>, StoreError> {
        let of = user.clone();
        self.queue.submit_for(of, || (), move |tx| people::set_profile(tx, &user, profile.as_deref())).await
    }

    /// What a user has set; `None`: nobody was ever heard of under this name.
    pub async fn chat_settings(&self, user: Owner) -> Result<Committed<Option<UserSettings>>, StoreError> {
        self.queue.submit(move |tx| people::settings(tx, &user)).await
    }

    /// Those about whom a user has set something, by name: a page behind `after`.
    pub async fn chat_contacts(&self, user: Owner, after: String) -> Result<Committed<ContactPage>, StoreError> {
        self.queue.submit_read(&self.reads, move |tx| people::contacts(tx, &user, &after)).await
    }

    /// Users who want to be seen by nobody.
    pub async fn chat_hidden(&self) -> Result<Committed<Vec<Owner>>, StoreError> {
        self.queue.submit(|tx| people::hidden(tx)).await
    }

    /// Whether `user` has `other` as a contact that is not blocked.
    pub async fn chat_has_contact(&self, user: Owner, other: Owner) -> Result<Committed<bool>, StoreError> {
        self.queue.submit(move |tx| Ok(people::entry(tx, &user, &other)?.is_contact())).await
    }

    /// Whether `user` has `other` as a contact, blocked or not.
    pub async fn chat_lists_contact(&self, user: Owner, other: Owner) -> Result<Committed<bool>, StoreError> {
        self.queue.submit(move |tx| Ok(people::entry(tx, &user, &other)?.contact)).await
    }

    /// Those whose contact a user is: whose presence and profile it sees.
    pub async fn chat_visible_to(&self, user: Owner) -> Result<Committed<VisibleTo>, StoreError> {
        self.queue.submit(move |tx| people::visible_to(tx, &user)).await
    }

    /// What a user has behind `since`, over all conversations; without it the newest.
    pub async fn chat_sync(&self, user: Owner, since: Option<Sid>) -> Result<Committed<SyncPage>, StoreError> {
        self.queue.submit_read(&self.reads, move |tx| sync::sync(tx, &user, since)).await
    }

    /// Everything that is kept of a user, page by page: the one behind `after`, '' or the `next` of the one before. `None`: it is
    /// neither.
    pub async fn chat_export(&self, user: Owner, after: String) -> Result<Committed<Option<ExportPage>>, StoreError> {
        self.queue.submit_read(&self.reads, move |tx| export::page(tx, &user, &after)).await
    }

    /// Tells the operator what a user reports of another one, and BALs that ask for events, with copies of the messages.
    pub async fn chat_report(&self, report: NewReport, call: ChatCall) -> Result<Committed<()>, StoreError> {
        let of = report.by.clone();
        self.queue.submit_for(of, || (), move |tx| events::reported(tx, &report, &call)).await
    }

    /// At most `limit` conversations of a user, newest first, whose newest item is older than `before`, as they are at `at` (Unix
    /// milliseconds).
    pub async fn chat_conversations(
        &self,
        user: Owner,
        before: Option<Sid>,
        limit: usize,
        at: u64,
    ) -> Result<Committed<ConversationPage>, StoreError> {
        self.queue.submit_read(&self.reads, move |tx| conversations::page(tx, &user, before, limit, at)).await
    }

    /// A page of one conversation of a user. Refused for a group in which the user never was.
    pub async fn chat_history(
        &self,
        user: Owner,
        query: HistoryQuery,
    ) -> Result<Committed<Result<HistoryPage, Rejection>>, StoreError> {
        self.queue.submit_read(&self.reads, move |tx| history::page(tx, &user, &query)).await
    }

    /// Puts a conversation away, or takes it out again, and tells the user's devices. What phones show of it goes.
    pub async fn chat_archive(
        &self,
        archiving: Archiving,
        call: ChatCall,
    ) -> Result<Committed<Result<(), Rejection>>, StoreError> {
        let of = archiving.user.clone();
        self.queue.submit_for(of, || Err(erased()), move |tx| deletion::archive(tx, &archiving, &call)).await
    }

    /// Deletes the own copy of something and tells the user's devices; the other side keeps its own. Returns up to where all of a
    /// conversation is deleted. Of several ids one that is not the user's refuses all.
    pub async fn chat_delete(
        &self,
        deletion: Deletion,
        call: ChatCall,
    ) -> Result<Committed<Result<Option<Sid>, Rejection>>, StoreError> {
        let of = deletion.user.clone();
        self.queue.submit_for(of, || Err(erased()), move |tx| deletion::delete(tx, &deletion, &call)).await
    }

    /// Why the devices of `user` were pushed for a message to it, or were not; `None`: it has no such message.
    pub async fn chat_explain(&self, user: Owner, sid: Sid) -> Result<Committed<Option<PushExplanation>>, StoreError> {
        self.queue.submit_read(&self.reads, move |tx| explain::within(tx, &user, sid)).await
    }

    /// Pushes to each device of a user, whoever looks at what; returns those.
    pub async fn chat_test_push(&self, user: Owner, call: ChatCall) -> Result<Committed<Vec<TestPush>>, StoreError> {
        self.queue.submit_for(user.clone(), Vec::new, move |tx| test_push::test(tx, &user, &call)).await
    }

    /// Drops what chat users wrote too long ago, ends invitations whose time is over, and devices that were silent for too
    /// long; a little of it. Returns whether there is more to do at once. Needs ids for pushes as other verbs do.
    pub async fn chat_sweep(&self, keep: Keep, call: ChatCall) -> Result<Committed<bool>, StoreError> {
        self.queue.submit(move |tx| keep::sweep(tx, keep, &call)).await
    }
}
