//! The times in which somebody was in a group. What was written in any of them is the member's to read, also when it has gone and
//! come back. Those that are over are kept in its row, so that nothing more is read for a message.

use super::Member;
use crate::chat::id::Row;
use crate::store::MEMBERSHIPS_MAX;
use crate::store::sqlite::chat::{json, json_text};
use rusqlite::types::ValueRef;

/// From the notice by which somebody came to that by which it went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Span {
    /// The row of the first notice.
    pub(super) came: Row,
    /// The first row that it may read: `came`, or 0 where the group shows everything.
    pub(super) reads_from: Row,
    /// The row of the last notice, which it may read.
    pub(super) last: Row,
    /// One of its devices has confirmed what came up to this row.
    pub(super) received: Row,
    /// It has read up to this row.
    pub(super) read: Row,
}

impl Span {
    pub(super) fn has(&self, row: Row) -> bool {
        self.reads_from <= row && row <= self.last
    }
}

/// The spans in a column: `[[came, reads_from, last, received, read], ...]`, the oldest first; NULL where there is none.
pub(super) fn read(row: &rusqlite::Row<'_>, column: usize) -> rusqlite::Result<Vec<Span>> {
    if row.get_ref(column)? == ValueRef::Null {
        return Ok(Vec::new());
    }
    let spans = json::<Vec<[i64; 5]>>(row, column)?.into_iter().map(|span| {
        let [came, reads_from, last, received, read] = span.map(Row);
        Span { came, reads_from, last, received, read }
    });
    Ok(spans.collect())
}

/// The same on its way there.
pub(super) fn text(spans: &[Span]) -> rusqlite::Result<Option<String>> {
    if spans.is_empty() {
        return Ok(None);
    }
    let span = |span: &Span| [span.came, span.reads_from, span.last, span.received, span.read].map(|row| row.0);
    json_text(&spans.iter().map(span).collect::<Vec<_>>()).map(Some)
}

impl Member {
    /// Its spans, once it has gone by the notice at `last`: the newest of them.
    pub(super) fn spans_up_to(&self, last: Row) -> Vec<Span> {
        let mut spans: Vec<Span> = self.spans().take(MEMBERSHIPS_MAX).collect();
        spans.reverse();
        if let Some(now) = spans.last_mut() {
            now.last = last;
        }
        spans
    }

    /// What it may read, the newest first: from the first row to the second, and no row twice.
    pub(super) fn readable(&self) -> Vec<(Row, Row)> {
        let (mut ranges, mut first) = (Vec::new(), Row(i64::MAX));
        for span in self.spans() {
            // A group that shows everything shows what was written in a former span, too.
            let last = span.last.min(Row(first.0 - 1));
            if span.reads_from <= last {
                ranges.push((span.reads_from, last));
                first = span.reads_from;
            }
        }
        ranges
    }
}
