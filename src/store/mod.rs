//! The store: outbox, inbox, and the sessions of the embedded broker, by verbs in words of the domain.
//!
//! Invariant: a verb's answer leaves only after its transaction is on disk. What was answered survives `kill -9`; what
//! was not answered may be asked again, and is recognised.
//!
//! ```text
//!   bridge ── verb ──► Store ──► two bounded queues ──► sqlite/  many verbs, one transaction ── answers, after the commit ──►
//!                                (full: wait)
//! ```
//!
//! [`Store`] has the verbs. What they take and give is data: no function crosses this border, and nothing of SQL. The
//! bridge and the embedded broker write. Operators read through [`Inspector`], also while the bridge runs.
//!
//! # Messages and deliveries
//!
//! A message has one delivery or several ([`Deliveries`]), each with a life of its own ([`crate::chat::delivery`]): a fault of
//! one changes nothing for the others. Its sender is told of the message alone, what its deliveries have come to together
//! ([`crate::chat::fan_out`]). What is claimed and recorded is a delivery; what is accepted and repeated, a message. A reader
//! of an inbox knows the message alone, and confirms by its id what lay there.
//!
//! # What each verb promises
//!
//! It is answered after its commit, done in the order in which it was queued, and leaves nothing behind if it fails. What
//! is claimed, reported and dropped (`take_due`, `record`, `drop_unread`) has a queue of its own, so that no message waits behind all
//! that follows from one to a thousand members. This is what becomes of a verb that is asked twice, after a crash or by two processes:
//!
//! | verb | asked again |
//! | --- | --- |
//! | `accept`, `receive` | the message is recognised by its sender's id and not stored again |
//! | `repeat` | tells the last status again, unless its first telling still waits |
//! | `queue_note`, `queue_user_document` | writes a second document |
//! | `take_due` | gives nobody what is in flight, until `record` or a start says what became of it |
//! | `record`, `confirm` | do nothing: the event means nothing any more |
//! | `unrouted`, `next_to_publish`, `topics_to_publish`, `last_presences`, `bals_away` | give the same again; documents that were given count as read after a crash |
//! | `give_routes` | leaves what has a route by now |
//! | `acked_up_to`, `sweep`, `drop_unread`, `flush` | go on where they stopped: each part is a transaction |
//! | `documents_acked`, `handed_out_up_to` | do nothing more |
//! | `presence_changed`, `still_alive` | the later time stays |
//! | `bal_changed`, `bals_gone` | do nothing more |
//! | `broker_state`, `is_imported`, `read_rows`, `read_documents`, `read_retained`, `waiting_topics`, `own_topics`, `topics_to_drop` | give the same again; rows and documents that were given count as sent after a crash |
//! | `keep_session`, `keep_group` | give the same queue again |
//! | `session_left`, `all_left`, `subscribe`, `unsubscribe`, `assign`, `released`, `forget_incoming`, `drop_will`, `documents_seen` | leave it as it is |
//! | `enqueue`, `enqueue_will` | puts the message into the queues once more, but for a QoS 2 identifier that its session has not released |
//! | `acknowledged` | does nothing more |
//! | `import_session`, `import_retained` | leave what is there as it is |
//! | `hand_on`, `imported` | do nothing more |
//! | `chat_message`, `chat_message_in_order`, `chat_invite`, `call_signal` | the message is recognised by its writer's id, and its writer gets the copy again, marked |
//! | `calls_due`, `calls_of` | give the same again |
//! | `call_over` | does nothing more |
//! | `group_message` | the same |
//! | `group_change` | changes the group again, where that is a change; a new group is refused as a duplicate |
//! | `group_page`, `group_members` | give the same again |
//! | `chat_receipt`, `chat_attended`, `chat_decide_again`, `chat_device_spoke`, `chat_user_seen`, `chat_profile` | do nothing more |
//! | `chat_device`, `chat_set`, `chat_archive`, `chat_delete` | tell the user's devices once more |
//! | `chat_undecided`, `chat_messages_to`, `chat_written_to`, `chat_devices`, `chat_owner_of`, `chat_settings`, `chat_contacts`, `chat_visible_to`, `chat_sync`, `chat_explain`, `chat_hidden`, `chat_has_contact`, `chat_lists_contact`, `chat_conversations`, `chat_history`, `chat_export` | give the same again |
//! | `chat_report` | tells the operator and BALs again |
//! | `chat_test_push` | pushes again |
//! | `chat_sweep`, `erase_step` | goes on where it stopped |
//! | `erase_begin`, `scrub`, `erases`, `free_name` | do nothing more |
//! | `end_queue`, `end_group`, `sweep_queues` | go on where they stopped |
//!
//! # A second back end
//!
//! It is a folder beside `sqlite/` with an `open` of its own, which `app` chooses. It replaces what [`Store`] and
//! [`Inspector`] do inside, verb by verb; the types, the errors, the wake-ups (`shared_status`) and the tests in `tests/` stay. A
//! trait has no place here before there are two. Where several processes share a store, each has a part of the recipients,
//! and these verbs speak of that part alone: `take_due`, `next_to_publish` and `topics_to_publish` give what no other process has,
//! [`Store::due`] and [`Store::topics_with_documents`] tell what others brought as well, and what `record` or `confirm` says of a
//! message of another process is passed on to it. A process whose part may be taken from it while it sleeps has to look
//! once more before each send: then a [`Claimed`] says until when it may be sent.

mod calls;
mod chat;
mod documents;
mod downstream;
mod erase;
mod error;
mod figures;
mod first_screen;
mod group;
mod group_room;
mod handle;
mod presence;
mod sessions;
mod settings;
mod shared_status;
pub mod sqlite;
#[cfg(test)]
pub(crate) mod tests;
mod trace;
mod upstream;

pub use calls::{CALLS_DUE_MAX, DueCall, DueCalls, KeptSignal, NewSignal, OverdueCall};
pub use chat::{
    CONTACTS_PAGE, ChatCall, ChatOutcome, ChatPolicy, Contact, ContactPage, DeviceChange, EntryChange, ExplainedDevice,
    ExplainedPush, Keep, KnownDevice, NewChatMessage, NewInvitation, NewReceipt, Peer, PushExplanation, ReceiptOf,
    SYNC_BYTES, SYNC_MAX, ScheduledMessage, ScheduledPage, Seeing, SeenPresence, SettingChange, SyncPage,
    TEST_PUSH_SKIPS, TestPush, USER_DEVICES_MAX, Undecided, UserSettings, UserSummary, VisibleTo, Writer,
};
pub use documents::{AckedBy, DocumentRef, NOTES_PER_TOPIC, Note, Origin, OutboxDocument, Seen, Unread, UserDocument};
pub use downstream::{
    Accepted, Claimed, DELIVERIES_MAX, Deliveries, DeliveriesError, Destination, DueBatch, DueQuery, NewDelivery,
    NewMessage, NewPush, Recorded, SeveralDeliveries,
};
pub use erase::{EXPORT_PAGE, EraseBegun, Erasing, Erasure, ExportPage, NewErase, NewReport, SCRUB_MAX, Scrubbed};
pub use error::{CloseError, OpenError, StoreError, StoreHealth};
pub use figures::{COMMIT_LIMITS, CommitTimes, QueueState, RECEIPT_GRACE_MS, Recovery, StoreFigures, Swept};
pub use first_screen::{
    Archiving, ConversationItem, ConversationPage, Deletion, GroupSummary, HistoryPage, HistoryQuery, OPEN_MAX,
};
pub use group::{
    BAL_GROUPS_MAX, GroupAction, GroupChanged, GroupMember, GroupOutcome, GroupPage, GroupState, GroupStatePage,
    GroupStateQuery, MEMBERS_BYTES, MEMBERSHIPS_MAX, Named, NewGroupChange, NewGroupMessage, USER_FORMER_GROUPS_MAX,
    USER_GROUPS_MAX,
};
pub use group_room::GroupRoom;
pub use handle::{Committed, Store};
pub use presence::{LastPresence, PRESENCE_KEPT_MS, PRESENCE_UNSURE_MS, PresenceChange};
pub use sessions::{
    AckOutcome, AckedDocument, Acknowledged, BrokerState, COMMIT_EVENTS_BYTES, COMMIT_EVENTS_MAX, CommitEvent,
    CommitEvents, DocumentPage, Enqueue, GivenRow, ImportedMessage, ImportedSent, ImportedSession, KeptGroup,
    KeptLogin, KeptRetained, KeptSession, KeptSubscription, KeptWill, Message, Page, QueueId, QueueRow, QueuedDocument,
    Retain, RowCount, RowPage, SessionRecord, SessionSummary, SweptQueues, Target, Will, WillRef,
};
pub use settings::{Limits, Settings};
pub use sqlite::Inspector;
pub use trace::{INBOX, Summary, Trace, TraceDelivery, TraceMessage, TraceUpstream};
pub use upstream::{Acks, Received, Route, Unrouted, Upstream};
