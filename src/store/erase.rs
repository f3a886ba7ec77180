//! The data of the verbs about all that is kept of a person: that erase it, export it, and report it.

use super::Note;
use crate::chat::id::{Owner, Sid};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// Largest store that is rebuilt while everybody waits, in bytes: it takes about a second. A larger one is rebuilt by the
/// next start.
pub const SCRUB_MAX: u64 = 64 << 20;

/// An erase begins.
#[derive(Debug, Clone)]
pub struct NewErase {
    /// Whom.
    pub user: Owner,
    /// Names that may stand for that one; the first that nobody has is taken.
    pub aliases: Vec<String>,
    /// Unix milliseconds.
    pub at: u64,
}

/// How an erase begins.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EraseBegun {
    /// The name is taken from now on, and nobody is reached by it.
    Begun,
    /// It was begun before, and is not done.
    Running,
    /// Nothing is there any more.
    Erased,
}

/// Where an erase stands after a part of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Erasing {
    /// There is more to do at once.
    More {
        /// Users who do not see the erased one any more, of which the broker is to be told.
        unseen: Vec<Owner>,
    },
    /// Nothing is left but so many pushes that are with the push services: they go when they are answered.
    InFlight(u64),
    /// All is done, but for unused parts of the file ([`super::Store::scrub`]).
    Done(Erasure),
    /// There is no such erase.
    Unknown,
}

/// What came of an erase.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Erasure {
    /// What stands for the name.
    pub alias: String,
    /// How many rows of what went.
    pub removed: BTreeMap<String, u64>,
    /// How many rows of what stay, under the other name.
    pub kept: BTreeMap<String, u64>,
}

/// What became of the parts of the file that nothing uses, and in which something may still be readable.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Scrubbed {
    /// There are none any more.
    Now,
    /// The store is larger than [`SCRUB_MAX`], or somebody reads it: the next start rebuilds it.
    AtStart,
}

/// Items of each part of an export on one page, at most.
pub const EXPORT_PAGE: usize = 100;

/// A page of everything that is kept of a user.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct ExportPage {
    /// JSON objects; `kind` says what each one is.
    pub items: Vec<serde_json::Value>,
    /// Where the next page begins; `None`: this is the last one.
    pub next: Option<String>,
}

/// A user reports another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewReport {
    /// Who reports.
    pub by: Owner,
    /// Whom.
    pub with: Owner,
    /// By which messages.
    pub sids: Vec<Sid>,
    /// Why.
    pub reason: Option<String>,
    /// What the operator is told.
    pub event: Note,
}
