//! The step for what is to happen to messages later.

/// What is to happen to messages of chat users later: pushes for which there was no room, messages that are sent at a time, and
/// those that are kept until one. Of one whose time is over its row of `chat` stays, without its text.
pub(super) const SCHEDULED: &str = "
CREATE TABLE unpushed (           -- messages of which a push waits for room in the queue
    row INTEGER PRIMARY KEY       -- the same as in chat
) STRICT;
CREATE TABLE scheduled (          -- messages that are to be sent at a time
    row INTEGER PRIMARY KEY,      -- upper bits of an id of its own; as a message it gets another one
    tail INTEGER NOT NULL,
    writer TEXT NOT NULL,
    by_bal INTEGER NOT NULL,
    id TEXT NOT NULL,             -- as the writer chose it, or the bridge for the writer
    dev TEXT,
    not_before INTEGER NOT NULL,
    ttl INTEGER NOT NULL,         -- of its pushes, in milliseconds from then on
    document BLOB NOT NULL        -- as in chat
) STRICT;
CREATE UNIQUE INDEX scheduled_id ON scheduled (writer, id);
CREATE INDEX scheduled_writer ON scheduled (writer, row);
CREATE INDEX scheduled_due ON scheduled (not_before, row);
CREATE TABLE expiring (           -- messages that are to be deleted at a time
    row INTEGER PRIMARY KEY,      -- the same as in chat
    at INTEGER NOT NULL
) STRICT;
CREATE INDEX expiring_at ON expiring (at);
CREATE TABLE expiring_documents ( -- their copies in the outbox
    row INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    topic TEXT NOT NULL,
    PRIMARY KEY (row, seq)
) STRICT, WITHOUT ROWID;
";
