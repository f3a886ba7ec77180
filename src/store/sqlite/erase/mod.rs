//! Erases a person, part by part, each a transaction of its own: whatever the store holds of the name, or by it.
//!
//! ```text
//!   begin: a row in `erased`, and the name is taken ──▶ step ──▶ step ──▶ ... ──▶ the row has its hash and the alias alone
//! ```
//!
//! Pushes that are with a push service stay until that has answered: then all steps are done once more.
//!
//! The row says which step is next and behind which row it goes on, so a `kill -9` costs one step at most. A step is a function
//! that does a chunk and says whether there is more ([`STEPS`]); what is one statement for a table is in [`named`].

mod calls;
pub(super) mod documents;
pub(super) mod groups;
pub(super) mod messages;
mod named;
mod pushes;
mod scheduled;
mod sessions;

use super::chat::{Call, events, json, json_text};
use super::column::sql_ms;
use super::tx::{ReadTx, Tx};
use super::{errors, shrink};
use crate::chat::bal_event::{BalEvent, is_events_topic, tells_of_erased};
use crate::chat::erasure::{Erased, name_key};
use crate::chat::id::Owner;
use crate::chat::topic::Side;
use crate::store::{ChatCall, EraseBegun, Erasing, Erasure, NewErase, SCRUB_MAX, Scrubbed};
use rusqlite::{Connection, Params, Row, params};
use serde::{Deserialize, Serialize};

const FIND: &str = "SELECT alias, running FROM erased WHERE name = ?1";
pub(super) const IS_TAKEN: &str = "SELECT 1 FROM erased WHERE name = ?1";
const BEGIN: &str = "INSERT INTO erased (name, alias, erased_at, running) VALUES (?1, ?2, ?3, ?4)";
const SET_RUNNING: &str = "UPDATE erased SET running = ?2 WHERE name = ?1";
const RUNNING: &str = "SELECT running FROM erased WHERE running IS NOT NULL";
const FREE: &str = "DELETE FROM erased WHERE name = ?1 AND running IS NULL";
const NAMES: &str = "SELECT name FROM erased";
const ALIAS_IS_USED: &str = "SELECT 1 WHERE EXISTS (SELECT 1 FROM erased WHERE alias = ?1)
    OR EXISTS (SELECT 1 FROM users WHERE user = ?1)";
/// The next start rebuilds the file.
const SCRUB_LATER: &str = "UPDATE marks SET scrub = 1";

/// Bytes that a step reads of what others have: beyond it the rest is for the next one.
const PAGE_BYTES: usize = 1 << 20;

/// What a step has to know, and where it stands. Its JSON is its form on disk.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
struct Work {
    user: String,
    /// When this part is done, in Unix milliseconds.
    #[serde(skip)]
    at: u64,
    /// Registration tokens of the user's devices.
    tokens: Vec<String>,
    /// The next of [`STEPS`].
    step: usize,
    /// How many of those there were: another release has others, and all are done once more.
    #[serde(default)]
    steps: usize,
    /// Where that goes on, in its own words; '': from the first.
    after: String,
    /// The rows of pushes that were with a push service when they were looked at: no more than are handed out at one time.
    #[serde(default, rename = "waits_for")]
    in_flight: Vec<i64>,
    /// Users who do not see the person any more since this part.
    #[serde(skip)]
    unseen: Vec<Owner>,
    erasure: Erasure,
}

impl Work {
    fn removed(&mut self, what: &str, count: usize) {
        add(&mut self.erasure.removed, what, count);
    }

    fn kept(&mut self, what: &str, count: usize) {
        add(&mut self.erasure.kept, what, count);
    }

    /// By what documents name the person, or one of the devices.
    fn erased(&self) -> Erased<'_> {
        Erased { name: &self.user, alias: &self.erasure.alias, tokens: &self.tokens }
    }

    /// Before and behind the topics below the name.
    fn topics(&self) -> (String, String) {
        (format!("{}/", self.user), format!("{}0", self.user))
    }

    /// From the first step on.
    fn begin_again(&mut self) {
        (self.step, self.steps) = (0, STEPS.len());
        self.after.clear();
    }
}

/// The rows that a statement finds, until they are [`PAGE_BYTES`] long; `read` says how long each one is. Whether there may be more.
fn page<T>(
    tx: &ReadTx<'_>,
    sql: &str,
    params: impl Params,
    mut read: impl FnMut(&Row<'_>) -> rusqlite::Result<(T, usize)>,
) -> rusqlite::Result<(Vec<T>, bool)> {
    let mut statement = tx.conn.prepare_cached(sql)?;
    let (mut rows, mut found, mut bytes) = (statement.query(params)?, Vec::new(), 0);
    while let Some(row) = rows.next()? {
        let (item, length) = read(row)?;
        found.push(item);
        bytes += length;
        if bytes >= PAGE_BYTES {
            break;
        }
    }
    // The next step finds nothing, if that was the last.
    let is_full = !found.is_empty();
    Ok((found, is_full))
}

fn add(counts: &mut std::collections::BTreeMap<String, u64>, what: &str, count: usize) {
    if count > 0 {
        *counts.entry(what.to_owned()).or_default() += count as u64;
    }
}

/// A part of the work: a function that says whether there is more of it.
enum Step {
    /// It changes what is there.
    Quiet(fn(&mut Tx<'_>, &mut Work) -> rusqlite::Result<bool>),
    /// It tells others as well, and takes ids for that.
    Telling(fn(&mut Tx<'_>, &mut Work, &mut Call<'_>) -> rusqlite::Result<bool>),
}

/// In this order: first what reaches somebody, then what was said, then what only holds the name. What else comes to hold names of
/// users has a step here, or a statement in [`named`].
const STEPS: [Step; 20] = [
    Step::Quiet(pushes::forget_devices),
    Step::Telling(calls::end),
    Step::Telling(groups::leave),
    Step::Quiet(scheduled::own),
    Step::Quiet(scheduled::of_others),
    Step::Quiet(named::drop_contacts),
    Step::Quiet(named::drop_rows),
    Step::Telling(messages::own),
    Step::Telling(messages::clear),
    Step::Telling(groups::clear),
    Step::Quiet(messages::of_others),
    Step::Quiet(messages::conversations),
    Step::Quiet(messages::all),
    Step::Quiet(pushes::deliveries),
    Step::Quiet(documents::own_topics),
    Step::Quiet(documents::all),
    Step::Quiet(sessions::own),
    Step::Quiet(sessions::shared),
    Step::Quiet(sessions::queues),
    Step::Quiet(sessions::rest),
];

pub(in crate::store) fn begin(tx: &mut Tx<'_>, new: &NewErase) -> rusqlite::Result<EraseBegun> {
    let key = name_key(new.user.as_str());
    if let Some(work) = tx.one(FIND, [key], |row| row.get::<_, Option<String>>(1))? {
        return Ok(if work.is_some() { EraseBegun::Running } else { EraseBegun::Erased });
    }
    let mut alias = None;
    for candidate in &new.aliases {
        if !tx.exists(ALIAS_IS_USED, [candidate])? {
            alias = Some(candidate);
            break;
        }
    }
    // Of eight random digits each, so that one is free.
    let alias = alias.or_else(|| new.aliases.last()).cloned().unwrap_or_default();
    let erasure = Erasure { alias: alias.clone(), ..Erasure::default() };
    let work = Work { user: new.user.as_str().to_owned(), steps: STEPS.len(), erasure, ..Work::default() };
    tx.execute(BEGIN, params![key, alias, sql_ms(new.at), json_text(&work)?])?;
    tx.memory_draft.erased += 1;
    Ok(EraseBegun::Begun)
}

/// Does a chunk of the next step. What is deleted is overwritten.
pub(in crate::store) fn step(tx: &mut Tx<'_>, user: &Owner, call: &ChatCall) -> rusqlite::Result<Erasing> {
    let key = name_key(user.as_str());
    let found = tx.one(FIND, [key], |row| {
        let is_done = row.get_ref(1)?.as_str_or_null()?.is_none();
        if is_done { Ok(None) } else { json::<Work>(row, 1).map(Some) }
    })?;
    let Some(Some(mut work)) = found else { return Ok(Erasing::Unknown) };
    work.at = call.at;
    tx.conn.pragma_update(None, "secure_delete", "ON")?;
    let done = do_part(tx, &key, work, &mut Call::of(call));
    tx.conn.pragma_update(None, "secure_delete", "OFF")?;
    done
}

/// The name is in the row until the last part overwrites it; from then on the file is to be rebuilt, whatever happens.
fn do_part(tx: &mut Tx<'_>, key: &[u8; 32], mut work: Work, call: &mut Call<'_>) -> rusqlite::Result<Erasing> {
    let erasing = chunk(tx, &mut work, call)?;
    let running = if let Erasing::Done(Erasure { alias, .. }) = &erasing {
        events::tell(tx, &BalEvent::UserErased { user: &work.user, alias }, call)?;
        // Nobody knows of this erase any more, should the process end before it is told to rebuild the file.
        tx.execute(SCRUB_LATER, [])?;
        None
    } else {
        Some(json_text(&work)?)
    };
    tx.execute(SET_RUNNING, params![key, running])?;
    Ok(erasing)
}

fn chunk(tx: &mut Tx<'_>, work: &mut Work, call: &mut Call<'_>) -> rusqlite::Result<Erasing> {
    if work.steps != STEPS.len() {
        work.begin_again();
    }
    let Some(step) = STEPS.get(work.step) else {
        if work.in_flight.is_empty() {
            return Ok(Erasing::Done(work.erasure.clone()));
        }
        pushes::look_again(tx, work)?;
        if work.in_flight.is_empty() {
            // Their answers may have said something.
            work.begin_again();
            return Ok(Erasing::More { unseen: Vec::new() });
        }
        return Ok(Erasing::InFlight(work.in_flight.len() as u64));
    };
    let is_more = match step {
        Step::Quiet(step) => step(tx, work)?,
        Step::Telling(step) => step(tx, work, call)?,
    };
    if !is_more {
        work.step += 1;
        work.after.clear();
    }
    Ok(Erasing::More { unseen: std::mem::take(&mut work.unseen) })
}

pub(in crate::store) fn running(tx: &ReadTx<'_>) -> rusqlite::Result<Vec<Owner>> {
    let users = tx.all(RUNNING, [], |row| json::<Work>(row, 0))?;
    Ok(users.into_iter().filter_map(|work| Owner::new(work.user).ok()).collect())
}

pub(in crate::store) fn free(tx: &mut Tx<'_>, user: &Owner) -> rusqlite::Result<bool> {
    let freed = tx.execute(FREE, [name_key(user.as_str())])? as u64;
    tx.memory_draft.erased = tx.memory_draft.erased.saturating_sub(freed);
    Ok(freed > 0)
}

/// Whether nobody can be reached by this name, nor say anything. Costs nothing where nobody was erased.
pub(in crate::store) fn is_taken(tx: &Tx<'_>, name: &str) -> rusqlite::Result<bool> {
    Ok(tx.memory_draft.erased > 0 && tx.exists(IS_TAKEN, [name_key(name)])?)
}

/// Whether the topic is one of somebody who cannot be reached.
pub(super) fn is_of_taken(tx: &Tx<'_>, topic: &str) -> rusqlite::Result<bool> {
    match Side::of(topic).owner() {
        Some(owner) => is_taken(tx, owner),
        None => Ok(false),
    }
}

/// A BAL acknowledges a document: where it told of an erased user, the name in it goes with the next rebuild of the file.
pub(super) fn told(tx: &Tx<'_>, topic: &str, seq: i64) -> rusqlite::Result<()> {
    if !is_events_topic(topic) {
        return Ok(());
    }
    let payload = tx.one(documents::PAYLOAD, params![topic, seq], |row| row.get::<_, Vec<u8>>(0))?;
    if payload.is_some_and(|payload| tells_of_erased(&payload)) {
        tx.execute(SCRUB_LATER, [])?;
    }
    Ok(())
}

/// The hashes of all names that are taken.
pub(super) fn names(conn: &Connection) -> rusqlite::Result<Vec<[u8; 32]>> {
    conn.prepare(NAMES)?.query_map([], |row| row.get(0))?.collect()
}

/// After the commit of this the file is rebuilt, or by the next start.
pub(in crate::store) fn scrub_after(tx: &mut Tx<'_>) -> rusqlite::Result<()> {
    tx.execute(SCRUB_LATER, [])?;
    tx.memory_draft.scrub = true;
    Ok(())
}

/// Rebuilds a file that is small enough, and empties the write-ahead log.
pub(super) fn scrub(conn: &Connection) -> Scrubbed {
    match rebuild(conn) {
        Ok(scrubbed) => scrubbed,
        Err(error) => {
            tracing::warn!(%error, of_the_verb = errors::is_of_the_verb(&error),
                "the store could not be rebuilt after an erase, which the next start does");
            Scrubbed::AtStart
        }
    }
}

fn rebuild(conn: &Connection) -> rusqlite::Result<Scrubbed> {
    if shrink::Size::of(conn)?.bytes() > SCRUB_MAX {
        return Ok(Scrubbed::AtStart);
    }
    conn.flush_prepared_statement_cache();
    conn.execute_batch("VACUUM")?;
    if !shrink::checkpoint(conn)? {
        return Ok(Scrubbed::AtStart);
    }
    conn.execute_batch(shrink::SCRUBBED)?;
    Ok(Scrubbed::Now)
}
