//! The store in one SQLite file.
//!
//! ```text
//!   verb ──► two bounded queues ──► writer thread:  BEGIN · verb · verb · ... · COMMIT (fdatasync) ── answers ──►
//!            (full: wait)               ▲                              │
//!                                       └── the same batch again ◄── disk full, I/O error: rolled back, nobody
//!                                                                    is answered, `StoreHealth::Blocked`
//! ```
//!
//! One thread owns the only writing connection. It takes whatever verbs are queued, up to a share of each queue (`batch`),
//! into one transaction, so the price of an `fdatasync` is shared, while a verb that comes alone is committed at once. A verb
//! must therefore be repeatable: it changes the file and a draft of the counters, and the draft becomes memory only
//! after the commit. Beside it one thread moves pages out of the write-ahead log (`checkpoint`), and one reads what users ask for
//! page by page (`reader`).
//!
//! # The tables
//!
//! A row of `deliveries` is a message with its only delivery, that is its life ([`crate::chat::delivery`]) and, once
//! settled, the memory that recognises a repeated id. Where a message has several deliveries, its row has no life; each
//! delivery has a row of its own (`message` names the message's), and `messages` says what they have come to together. What
//! all of them need stands in the message's row, what is a recipient's alone in that of the delivery.
//!
//! `inbox` is the same for upstream. `outbox` is what waits to be published over MQTT, in order per topic; the document of a
//! delivery into a chat user's inbox points to it and is no copy of the message. Bodies are dropped as soon as a message is
//! sent; a settled row is about 200 bytes. `presence` is what was last said about each chat user.
//!
//! A broker of our own has its sessions here as well: `queues` are those of sessions and of groups that share a subscription,
//! `queue` has what waits in them, `bodies` what several of them have of one message, `subscriptions`, `incoming`, `wills` and
//! `retained` what their names say. A document of the bridge is in `outbox` until its first reader has it, and only then in
//! the queues of the others (`sessions`).
//!
//! # Order
//!
//! Which of a recipient's messages may be handed out is decided in `recipient_queue`: from the rows that were put off, and
//! from what is in flight, which is few and kept in memory. After a restart nothing is in flight, so nothing of it is on
//! disk.
//!
//! # The file of an earlier release
//!
//! It is changed in place when it is opened (`schema` has the steps, `migrate` takes them), and rebuilt once if it cannot
//! give room back to the disk, as the sweep does with what no traffic has needed for a while (`shrink`).
//!
//! # Why so few indexes
//!
//! Each message costs about ten row operations; each index adds two to four more, and the writer thread has half a core.
//! So the age of settled rows is kept in memory (16 bytes per row, at most [`super::Limits::history_rows`]), unread
//! documents of forgotten deliveries are found by a slow scan, and whatever is rare is a partial index. Rejected: an index
//! over settled rows by age, an index over documents by delivery, a table of topics with numbers for names.

pub(super) mod accept;
mod batch;
#[macro_use]
pub(super) mod chat;
mod checkpoint;
mod claim_on_accept;
mod column;
mod delivery;
pub(super) mod dispatch;
mod environment;
pub(super) mod erase;
mod errors;
mod file;
mod inspect;
mod log;
mod message;
mod migrate;
mod open;
pub(super) mod outbox;
pub(super) mod presence;
pub(super) mod reader;
mod recipient_queue;
mod recover;
mod request;
mod schema;
pub(super) mod sessions;
mod shrink;
pub(super) mod sweep;
#[cfg(test)]
mod tests;
pub(super) mod tx;
pub(super) mod unread;
pub(super) mod upstream;
pub(super) mod verb_queue;
mod writer;

pub use super::Settings;
pub use file::check;
pub use inspect::Inspector;
pub use open::{WriterThread, open};
