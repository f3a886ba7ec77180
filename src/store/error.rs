//! What can go wrong with the store, by what an operator has to do. What a back end says of it goes no further than a text.

use std::path::PathBuf;

/// Why a verb was not answered, or a look at the store failed.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoreError {
    /// The store is closed, or was stopped before the verb was on disk. Nothing is to be done: the bridge is ending.
    #[error("the store is closed")]
    Closed,
    /// The disk refuses: it is full, or fails. It wants room or repair. Only a look ([`super::Inspector`]) ends so; a verb
    /// waits, and [`StoreHealth`] tells why.
    #[error("the store is blocked: {reason}")]
    Blocked {
        /// The back end's words.
        reason: String,
    },
    /// What is on disk is no store any more: a copy has to take its place. Only a look ends so, likewise.
    #[error("the store is damaged: {reason}")]
    Damaged {
        /// The back end's words.
        reason: String,
    },
    /// The verb failed by itself, which is a fault of this program; the store is as if it had never been asked.
    #[error("the store could not do it: {reason}")]
    Failed {
        /// The back end's words.
        reason: String,
    },
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// Another process has it.
    #[error("the store {0} is in use by another process")]
    InUse(PathBuf),
    /// It is not a store of this program.
    #[error("{0} is not a store of fcm-mqtt-bridge")]
    Foreign(PathBuf),
    /// It was written by a newer version.
    #[error("the store has schema {found}, this version knows {known}: use the newer program")]
    TooNew {
        /// The store's schema.
        found: i32,
        /// The newest schema this program knows.
        known: i32,
    },
    /// It was written by an earlier version, and only looked at. Opening it for work changes it.
    #[error("the store has schema {found}, this version reads {known}: the bridge changes it at its next start")]
    TooOld {
        /// The store's schema.
        found: i32,
        /// The schema this program reads.
        known: i32,
    },
    /// It is damaged: a copy has to take its place.
    #[error("the store {path} is damaged: {reason}")]
    Damaged {
        /// Which one.
        path: PathBuf,
        /// The back end's words.
        reason: String,
    },
    /// The disk, or the right to use it, is missing; or it fails in another way.
    #[error("the store could not be opened: {reason}")]
    Refused {
        /// The back end's words.
        reason: String,
    },
    /// What belongs to it beside the data could not be made.
    #[error("the store could not be set up")]
    Io(#[from] std::io::Error),
}

/// Why the store did not end well. Everything that was answered is on disk all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CloseError {
    /// The disk refused to the end; what was queued is not done.
    #[error("the disk refuses the store: {reason}")]
    Blocked {
        /// The back end's words.
        reason: String,
    },
    /// Its writer ended early.
    #[error("the writer of the store failed")]
    Failed,
}

/// Whether the store takes what it is given.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum StoreHealth {
    /// Transactions are committed.
    #[default]
    Ok,
    /// The disk is full, refuses, or does not answer: nothing is lost, nothing is answered, and the same work is tried again.
    Blocked {
        /// The back end's words.
        reason: String,
    },
}
