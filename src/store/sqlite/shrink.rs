//! The file gives back what it does not need any more.
//!
//! A file takes part in this (`auto_vacuum = incremental`) from its first page on. One of an earlier release, which did not,
//! is rebuilt once by a VACUUM when it is opened; then the sweep gives pages back in small chunks.
//!
//! Which free pages are given back: those that no traffic has used for a while. What a minute's backlog fills and empties
//! again and again stays, for each page that goes has to be asked for again, and one in the middle of the file costs a page
//! from its end that is moved there.

use super::column::from_sql;
use super::environment::{Environment, Phase, folder, reserve};
use super::tx::{ReadTx, Tx};
use rusqlite::Connection;
use std::path::Path;
use tokio::time::Instant;

/// Pages are given back when no traffic has used them for so long.
const UNUSED_MS: u64 = 10 * 60 * 1000;
/// Free pages that always stay: 4 MiB.
const SPARE_PAGES: i64 = 1024;
/// And this part of the file: a quarter.
const SPARE_PART: i64 = 4;
/// How many pages are given back in one transaction where so many are free at most. For each of them SQLite walks along the
/// list of free pages, so one page costs up to a microsecond and a half for each that is free: some ten milliseconds are meant.
const CHUNKS: [(i64, i64, &str); 3] = [
    (8_192, 256, "PRAGMA incremental_vacuum(256)"),
    (65_536, 64, "PRAGMA incremental_vacuum(64)"),
    (i64::MAX, 16, "PRAGMA incremental_vacuum(16)"),
];
const PAGES: &str = "PRAGMA page_count";
const FREE: &str = "PRAGMA freelist_count";
/// Nothing is left in unused parts of the file, nor in the write-ahead log: said when that is so, and not in the transaction that
/// makes it so, for until a checkpoint the log has everything of before.
pub(super) const SCRUBBED: &str = "UPDATE marks SET scrub = 0";
/// `PRAGMA auto_vacuum` of a file that takes part.
const INCREMENTAL: i32 = 2;

/// How large the file is, with what is still in its write-ahead log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Size {
    pages: u64,
    free: u64,
    /// Bytes of a page.
    pub(super) page: u32,
}

impl Size {
    pub(super) fn of(conn: &Connection) -> rusqlite::Result<Self> {
        let count = |sql| conn.query_row(sql, [], |row| Ok(from_sql(row.get(0)?)));
        let page = conn.query_row("PRAGMA page_size", [], |row| row.get(0))?;
        Ok(Self { pages: count(PAGES)?, free: count(FREE)?, page })
    }

    pub(super) fn bytes(self) -> u64 {
        self.pages * u64::from(self.page)
    }

    /// What a VACUUM writes before it gives anything back: all pages that are in use go to a temporary file, and from there
    /// to the write-ahead log, with a head of 24 bytes each; one of 800 is a page more, that knows the others' parents.
    fn to_rebuild(self) -> u64 {
        let used = (self.pages - self.free) * u64::from(self.page);
        2 * (used + used / 100)
    }
}

/// Rebuilds a file that cannot shrink, so that it can, and one of which the unused parts are to be emptied. Without room for that it is left as it is, and the next start tries
/// again; likewise if it fails, which leaves the file as it was.
pub(super) fn rebuild_once(conn: &mut Connection, path: &Path, environment: &Environment) -> rusqlite::Result<()> {
    let is_wanted = conn.query_row("SELECT scrub FROM marks", [], |row| row.get::<_, bool>(0))?;
    if !is_wanted && conn.pragma_query_value(None, "auto_vacuum", |row| row.get::<_, i32>(0))? == INCREMENTAL {
        return Ok(());
    }
    let store = path.display();
    // A VACUUM that was killed has left all of it in the write-ahead log. That room counts.
    if let Err(error) = checkpoint(conn) {
        tracing::warn!(%store, %error, "the store cannot shrink: the checkpoint of its write-ahead log failed");
        return Ok(());
    }
    let before = Size::of(conn)?;
    let needed_bytes = before.to_rebuild() + reserve(before.to_rebuild());
    let free_bytes = match environment.free_beside(path) {
        Ok(free) => free,
        Err(error) => {
            tracing::warn!(%store, %error, "the store cannot shrink, which the next start tries again");
            return Ok(());
        }
    };
    if free_bytes < needed_bytes {
        tracing::warn!(%store, needed_bytes, free_bytes,
            "the store cannot shrink: there is no room to rebuild it, which the next start tries again. A copy of an earlier \
            form beside it (`.schema-N`) may be deleted");
        return Ok(());
    }
    tracing::info!(%store, bytes = before.bytes(), "the store is rebuilt once, so that it can shrink from now on");
    let started = Instant::now();
    match rebuild(conn, path, environment) {
        Ok(true) => conn.execute_batch(SCRUBBED)?,
        Ok(false) => {
            tracing::warn!(%store, "somebody reads the store: what was erased from it is in its write-ahead log still, which the next start empties")
        }
        Err(error) => {
            tracing::warn!(%store, %error, "the store could not be rebuilt, which the next start tries again");
            return Ok(());
        }
    }
    let after = Size::of(conn)?;
    tracing::info!(%store, bytes_before = before.bytes(), bytes = after.bytes(),
        seconds = started.elapsed().as_secs_f32(), "the store is rebuilt");
    Ok(())
}

/// VACUUM, with its temporary file where the store is: with `temp_store = MEMORY` it would take as much memory as the store
/// has bytes, and the folder for temporary files of a machine is often small, or memory as well. SQLite unlinks the file when
/// it has opened it, so a kill leaves nothing. The only other way to name the folder is the environment (`SQLITE_TMPDIR`),
/// which a program with threads must not change. The pragma is deprecated because it counts for the whole process; SQLite
/// guards it by a mutex, and here nothing else of this process has temporary files. A folder whose name is no UTF-8 cannot be
/// named; then the machine's is used. Whether nothing of before is in any file.
fn rebuild(conn: &mut Connection, path: &Path, environment: &Environment) -> rusqlite::Result<bool> {
    conn.pragma_update(None, "temp_store", "FILE")?;
    let named = std::path::absolute(folder(path)).ok().and_then(|folder| Some(folder.to_str()?.to_owned()));
    let named = named.map_or(Ok(()), |folder| conn.pragma_update(None, "temp_store_directory", folder));
    let rebuilt =
        named.and_then(|()| environment.during(conn, || Phase::Rebuilding, |conn| conn.execute_batch("VACUUM")));
    conn.pragma_update(None, "temp_store_directory", "")?;
    conn.pragma_update(None, "temp_store", "MEMORY")?;
    rebuilt?;
    (environment.watch)(Phase::Checkpointing);
    checkpoint(conn)
}

/// Moves the write-ahead log into the file, as far as no reader needs it, and gives its room back. Whether all of it went.
pub(super) fn checkpoint(conn: &Connection) -> rusqlite::Result<bool> {
    conn.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| Ok(!row.get::<_, bool>(0)?))
}

/// What is known of the free pages since a moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct FreePages {
    /// In Unix milliseconds.
    since: u64,
    /// The fewest that there were.
    fewest: i64,
    /// Some were given back since.
    given: bool,
}

/// Gives a chunk of free pages back, if there are more than the file should keep.
pub(super) fn give_back(tx: &mut Tx<'_>, now: u64) -> rusqlite::Result<()> {
    let count = |tx: &ReadTx<'_>, sql| tx.one(sql, [], |row| row.get::<_, i64>(0)).map(Option::unwrap_or_default);
    let (pages, free) = (count(tx, PAGES)?, count(tx, FREE)?);
    let known = &mut tx.memory_draft.free_pages;
    known.fewest = known.fewest.min(free);
    // The clock may have been set back.
    if (known.since..known.since.saturating_add(UNUSED_MS)).contains(&now) {
        return Ok(());
    }
    let surplus = known.fewest - SPARE_PAGES.max(pages / SPARE_PART);
    let chunk = CHUNKS.iter().find(|(most_free, ..)| free <= *most_free);
    if let Some((_, _, give_back)) = chunk.filter(|(_, pages, _)| surplus >= *pages) {
        tx.all(give_back, [], |_| Ok(()))?;
        // None of a file that could not be rebuilt.
        let given = free - count(tx, FREE)?;
        if given > 0 {
            let known = &mut tx.memory_draft.free_pages;
            known.fewest -= given;
            known.given = true;
            return Ok(());
        }
    }
    tx.memory_draft.shrunk = tx.memory_draft.free_pages.given;
    tx.memory_draft.free_pages = FreePages { since: now, fewest: free, given: false };
    Ok(())
}

/// Lets a file that has given pages back become as short as it is now: it is cut when the write-ahead log has been moved into
/// it, for which an idle store would wait long.
pub(super) fn cut(conn: &Connection) -> rusqlite::Result<()> {
    conn.query_row("PRAGMA wal_checkpoint(PASSIVE)", [], |_| Ok(()))
}
