//! The schema: whose file it is, and the steps from each schema to the next.

mod away;
mod blocked;
mod calls;
mod erased;
mod first_screen;
mod former;
mod group_bals;
mod groups;
mod inviting;
mod logins;
mod scheduled;
mod spans;

use super::errors;
use crate::store::OpenError;
use away::AWAY;
use blocked::BLOCKED;
use calls::CALLS;
use erased::ERASED;
use first_screen::FIRST_SCREEN;
use former::FORMER;
use group_bals::GROUP_BALS;
use groups::GROUPS;
use inviting::INVITING;
use logins::LOGINS;
use rusqlite::Connection;
use scheduled::SCHEDULED;
use spans::SPANS;
use std::path::Path;

/// Marks the file as ours (`PRAGMA application_id`): "FMBr".
pub(super) const APPLICATION_ID: i32 = 0x464d_4272;

/// What makes each schema out of the one before, the first out of an empty file. A step that was released is never
/// changed: files in the field have taken it.
pub(super) const STEPS: [&str; 20] = [
    FIRST,
    PRESENCE,
    TRANSPORTS,
    TRIED,
    MESSAGES,
    SESSIONS,
    CHAT,
    RECEIPTS,
    GROUPS,
    FIRST_SCREEN,
    SCHEDULED,
    ERASED,
    CALLS,
    BLOCKED,
    FORMER,
    GROUP_BALS,
    INVITING,
    SPANS,
    AWAY,
    LOGINS,
];
pub(super) const SCHEMA_VERSION: i32 = STEPS.len() as i32;
/// The steps from this schema on make tables and indexes and change no message: nothing is worth a copy.
pub(super) const MAKES_TABLES_ONLY: i32 = 5;

const FIRST: &str = "
CREATE TABLE deliveries (
    row INTEGER PRIMARY KEY,      -- upper 62 bits of the id, grows with time
    tail INTEGER NOT NULL,        -- lower 17 bits of the id
    bal TEXT NOT NULL,
    id TEXT NOT NULL,             -- as the sender chose it
    recipient INTEGER NOT NULL,
    order_key TEXT,
    state INTEGER NOT NULL,
    due_at INTEGER,               -- NULL: never put off; 0: before all others; else Unix ms
    deadline INTEGER NOT NULL,
    look_at INTEGER NOT NULL,     -- when the sweep looks at it, while unsettled
    accepted_at INTEGER NOT NULL,
    claimed_at INTEGER,
    sent_at INTEGER,
    final_at INTEGER,             -- NULL: unsettled
    attempt INTEGER NOT NULL,
    dup_possible INTEGER NOT NULL,
    receipt INTEGER NOT NULL,
    told_seq INTEGER NOT NULL,    -- last status document in the outbox
    code TEXT,
    detail TEXT,
    token_action INTEGER,
    new_token TEXT,
    reply TEXT NOT NULL,
    corr BLOB,
    log TEXT,                     -- JSON array of what was unusual
    body BLOB                     -- NULL once it need not be sent any more
) STRICT;
CREATE UNIQUE INDEX deliveries_id ON deliveries (id, bal);
CREATE INDEX deliveries_due ON deliveries (due_at) WHERE state = 0;
CREATE INDEX deliveries_parked ON deliveries (recipient) WHERE state = 0 AND due_at IS NOT NULL;
CREATE INDEX deliveries_look ON deliveries (look_at) WHERE final_at IS NULL;
CREATE INDEX deliveries_order ON deliveries (bal, order_key) WHERE order_key IS NOT NULL AND final_at IS NULL;

CREATE TABLE inbox (
    row INTEGER PRIMARY KEY,
    tail INTEGER NOT NULL,
    key BLOB NOT NULL,            -- of (token, the device's id)
    bal TEXT,                     -- NULL: no route yet
    category TEXT,
    topic TEXT NOT NULL,
    seq INTEGER NOT NULL,
    received_at INTEGER NOT NULL,
    published_at INTEGER,
    final_at INTEGER              -- published, and acknowledged where that is asked for
) STRICT;
CREATE UNIQUE INDEX inbox_key ON inbox (key);

CREATE TABLE outbox (
    topic TEXT NOT NULL,          -- '': no route yet
    seq INTEGER NOT NULL,
    kind INTEGER NOT NULL,
    about INTEGER NOT NULL,       -- row of the delivery or inbox; 0: none
    tail INTEGER NOT NULL,
    queued_at INTEGER NOT NULL,
    redelivered INTEGER NOT NULL,
    corr BLOB,
    payload BLOB NOT NULL,
    PRIMARY KEY (topic, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX outbox_notes ON outbox (topic, seq) WHERE kind = 3;

CREATE TABLE claims (
    topic TEXT PRIMARY KEY,
    seq INTEGER NOT NULL          -- up to here documents may have been published
) STRICT, WITHOUT ROWID;

CREATE TABLE marks (
    only INTEGER PRIMARY KEY CHECK (only = 1),
    seq_ceiling INTEGER NOT NULL  -- no document number from here on was ever used
) STRICT;
INSERT INTO marks VALUES (1, 1);
";

const PRESENCE: &str = "
CREATE TABLE presence (
    user TEXT PRIMARY KEY,
    online INTEGER NOT NULL,
    changed_at INTEGER NOT NULL,
    last_seen INTEGER             -- NULL: was never away
) STRICT, WITHOUT ROWID;
ALTER TABLE marks ADD COLUMN alive_at INTEGER NOT NULL DEFAULT 0;  -- the bridge was running then
";

const TRANSPORTS: &str = "
ALTER TABLE deliveries ADD COLUMN way TEXT NOT NULL DEFAULT 'ccs';
ALTER TABLE deliveries ADD COLUMN provider_id TEXT;                 -- the push service's name for it
DROP INDEX deliveries_due;
CREATE INDEX deliveries_due ON deliveries (way, due_at) WHERE state = 0;
";

const TRIED: &str = "
ALTER TABLE deliveries ADD COLUMN waited_ms INTEGER NOT NULL DEFAULT 0;  -- after refusals, all together
ALTER TABLE deliveries ADD COLUMN unknown INTEGER NOT NULL DEFAULT 0;    -- refusals in words that nobody knows
";

/// From here on `deliveries` has rows of three kinds:
///
/// | | a message with its only delivery | a message with several | one of several |
/// | --- | --- | --- | --- |
/// | `state` | of the delivery, 0 to 7 | 8, which is that of no delivery | of the delivery |
/// | `bal`, `id` | of the sender | of the sender | '', and its own id as text: so they stay unique |
/// | `reply` | '' if statuses go where all of the sender do, else their topic | likewise | '' of a push, the topic of an inbox |
/// | `way` | the transport | '' | the transport, or 'inbox' |
/// | `body` | what is sent | what all deliveries have in common | what is the recipient's alone; NULL of an inbox |
/// | `deadline`, `look_at` | as before | 2^63 - 1, which never comes | as before; of an inbox perhaps 2^63 - 1 |
/// | `order_key` | as before | NULL once it does not hold the key any more | NULL |
/// | `told_seq` | the last status in `outbox` | likewise | 0 of a push; of an inbox its document there, 0 before it is due |
/// | `message` | NULL | NULL | the row of its message |
///
/// An `outbox` row of kind 4 is the document of a delivery into an inbox: `about` and `tail` name that delivery, and `payload`
/// is empty, for the body of its message is what is published.
const MESSAGES: &str = "
ALTER TABLE deliveries ADD COLUMN message INTEGER;  -- the row of the message that this is one of several deliveries of
CREATE INDEX deliveries_message ON deliveries (message) WHERE message IS NOT NULL;
CREATE TABLE messages (           -- what a message with several deliveries has beside its row in `deliveries`
    row INTEGER PRIMARY KEY,      -- the same as there
    fan_out TEXT NOT NULL,        -- JSON: how many of its deliveries stand where, and what was told
    told_at INTEGER NOT NULL,     -- when the last status was told
    kept_until INTEGER            -- NULL: dropped after its end like any; else Unix ms
) STRICT;
CREATE INDEX messages_kept ON messages (kept_until) WHERE kept_until IS NOT NULL;
";

/// What a broker of our own keeps. A row of `queue` is a message of a client with its own body, or one whose body is in
/// `bodies` under its number because several queues have it (`payload` is NULL), or a document of the bridge that another
/// reader has had (`document` is its topic, `about` and `tail` as in `outbox`, `properties` its correlation data). `how` is,
/// from its lowest bit: two for the QoS of the delivery, one for its retain flag, two for the QoS as it was published, one
/// for retain as it was published, one for "PUBREC has come", one for "another reader may have it"; from the ninth bit on the
/// `kind` of a document as in `outbox`.
/// Columns by which rows are counted come before those that may lie on pages of their own.
const SESSIONS: &str = "
CREATE TABLE queues (             -- of sessions, and of groups that share a subscription
    queue INTEGER PRIMARY KEY,    -- from the numbers of documents: never used twice
    kind INTEGER NOT NULL,        -- 0: of a session; 1: of a group; 2: has ended, its rows are still to go
    key TEXT NOT NULL,            -- the session's; '{group}/{filter}'; of one that has ended, its number
    user TEXT,
    client TEXT NOT NULL,
    expiry_s INTEGER NOT NULL,
    left_at INTEGER,              -- NULL: has a connection; of a group: a member has one
    sent_up_to INTEGER NOT NULL,  -- rows up to here may have been sent; 2^63 - 1: all, as long as it has a connection
    crashed_up_to INTEGER NOT NULL  -- the same, before the last start
) STRICT;
CREATE UNIQUE INDEX queues_key ON queues (key, kind);
CREATE TABLE subscriptions (
    queue INTEGER NOT NULL,
    filter TEXT NOT NULL,
    options INTEGER NOT NULL,     -- as in the packet (MQTT 5, 3.8.3.1)
    id INTEGER,
    PRIMARY KEY (queue, filter)
) STRICT, WITHOUT ROWID;
CREATE TABLE queue (
    queue INTEGER NOT NULL,
    seq INTEGER NOT NULL,
    how INTEGER NOT NULL,
    bytes INTEGER NOT NULL,       -- of payload and properties
    packet_id INTEGER,            -- QoS 2: its identifier at the reader
    expires_at INTEGER,
    about INTEGER,
    tail INTEGER,
    document TEXT,
    ids BLOB,                     -- subscription identifiers, four bytes each
    topic TEXT,
    properties BLOB,
    payload BLOB,
    PRIMARY KEY (queue, seq)
) STRICT, WITHOUT ROWID;
CREATE INDEX queue_documents ON queue (queue, document, seq) WHERE document IS NOT NULL;
CREATE INDEX queue_expiry ON queue (expires_at) WHERE expires_at IS NOT NULL AND packet_id IS NULL;
CREATE TABLE bodies (
    seq INTEGER PRIMARY KEY,
    readers INTEGER NOT NULL,     -- rows of `queue` without a body
    topic TEXT NOT NULL,
    properties BLOB NOT NULL,
    payload BLOB NOT NULL
) STRICT;
CREATE TABLE incoming (           -- QoS 2: identifiers that a session has taken and not released
    queue INTEGER NOT NULL,
    id INTEGER NOT NULL,
    pending INTEGER NOT NULL DEFAULT 0,  -- imported: its readers do not have the message yet
    PRIMARY KEY (queue, id)
) STRICT, WITHOUT ROWID;
CREATE TABLE retained (
    topic TEXT PRIMARY KEY,
    qos INTEGER NOT NULL,
    bytes INTEGER NOT NULL,
    user TEXT,
    expires_at INTEGER,
    properties BLOB NOT NULL,
    payload BLOB NOT NULL
) STRICT, WITHOUT ROWID;
CREATE INDEX retained_expiry ON retained (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE wills (              -- of sessions, until they are published or not wanted any more
    queue INTEGER PRIMARY KEY,
    delay_s INTEGER NOT NULL,     -- from the end of the connection
    due_at INTEGER,               -- NULL: its session has a connection
    qos INTEGER NOT NULL,
    retain INTEGER NOT NULL,
    expires_ms INTEGER,           -- from when it is published
    topic TEXT NOT NULL,
    properties BLOB NOT NULL,
    payload BLOB NOT NULL
) STRICT;
ALTER TABLE marks ADD COLUMN imported INTEGER NOT NULL DEFAULT 0;  -- what earlier releases kept in files is here
";

/// What chat users are, say and have read. `chat` has what they wrote: a row is on both sides of its conversation, unless it
/// is `hidden` from the reader: swallowed by a block, or a note to oneself. `n_*` is the place of a message on a side, and
/// `theirs_*` how many messages of the other side that count as unread came there up to it; so what is unread behind a read
/// position is a difference. `decided` is a JSON object: what the push decision was asked, and what it answered for each device.
/// In `deliveries`, `chat` is a JSON object for a push to a device of a user, of which no status is told.
const CHAT: &str = "
CREATE INDEX outbox_unread ON outbox (topic, seq) WHERE kind IN (5, 6);
CREATE TABLE users (
    user TEXT PRIMARY KEY,
    settings TEXT NOT NULL,       -- JSON; '{}': as the server has it
    profile TEXT,                 -- JSON
    unread INTEGER NOT NULL       -- over all conversations
) STRICT, WITHOUT ROWID;
CREATE TABLE contacts (           -- what a user has set about another one
    user TEXT NOT NULL,
    other TEXT NOT NULL,
    entry TEXT NOT NULL,          -- JSON
    PRIMARY KEY (user, other)
) STRICT, WITHOUT ROWID;
CREATE INDEX contacts_other ON contacts (other, user);
CREATE TABLE devices (            -- that have registered a token
    user TEXT NOT NULL,
    dev TEXT NOT NULL,
    recipient INTEGER NOT NULL,   -- of the token
    token TEXT NOT NULL,
    registration TEXT NOT NULL,   -- JSON: platform, app, lang, format
    registered_at INTEGER NOT NULL,
    seen_at INTEGER NOT NULL,     -- when it last did anything, as far as that was written down
    budget TEXT NOT NULL,         -- JSON: what it was pushed since
    sync_row INTEGER,             -- of the delivery that stands for all further pushes, while that waits
    pushed_at INTEGER,
    error TEXT,                   -- JSON: the last refusal
    stale INTEGER NOT NULL DEFAULT 0,  -- it was silent for long, and its user was told
    PRIMARY KEY (user, dev)
) STRICT, WITHOUT ROWID;
CREATE INDEX devices_seen ON devices (stale, seen_at);
CREATE INDEX devices_recipient ON devices (recipient);
CREATE TABLE proofs (             -- words that were pushed to tokens, to be repeated
    recipient INTEGER NOT NULL,   -- of the token
    made_at INTEGER NOT NULL,
    user TEXT NOT NULL,           -- who is to repeat it
    dev TEXT NOT NULL,
    proof TEXT,                   -- NULL: it was repeated
    PRIMARY KEY (recipient, made_at)
) STRICT, WITHOUT ROWID;
CREATE INDEX proofs_made ON proofs (made_at);
CREATE TABLE conversations (      -- each pair has one row; the smaller name comes first
    first TEXT NOT NULL,
    second TEXT NOT NULL,
    standing TEXT NOT NULL,       -- JSON
    PRIMARY KEY (first, second)
) STRICT, WITHOUT ROWID;
CREATE INDEX conversations_second ON conversations (second, first);
CREATE TABLE chat (
    row INTEGER PRIMARY KEY,      -- upper bits of the sid, as in deliveries
    tail INTEGER NOT NULL,
    kind INTEGER NOT NULL,        -- 0: a message; 1: a reaction; 2: an invitation; 3: an answer to one
    writer TEXT NOT NULL,
    by_bal INTEGER NOT NULL,
    id TEXT,                      -- as the writer chose it
    peer TEXT NOT NULL,
    dev TEXT,
    at INTEGER NOT NULL,
    n_writer INTEGER,
    n_reader INTEGER,
    theirs_writer INTEGER NOT NULL,
    theirs_reader INTEGER NOT NULL,
    received INTEGER NOT NULL,    -- a device of the reader has confirmed it
    hidden INTEGER NOT NULL,      -- the writer alone has it
    waits INTEGER NOT NULL,       -- its pushes wait for a device that is attended
    deadline INTEGER NOT NULL,    -- of its pushes; of an invitation, until when it is open
    answer INTEGER,               -- row of what ended an invitation; 0: its time; NULL: it is open, or none
    decided TEXT,
    document BLOB NOT NULL
) STRICT;
CREATE UNIQUE INDEX chat_id ON chat (writer, id) WHERE id IS NOT NULL;
CREATE INDEX chat_writer ON chat (writer, row);
CREATE INDEX chat_peer ON chat (peer, row) WHERE hidden = 0;
CREATE INDEX chat_unreceived ON chat (peer, writer, row) WHERE received = 0 AND hidden = 0;
CREATE INDEX chat_waits ON chat (peer, row) WHERE waits = 1;
CREATE INDEX chat_open ON chat (deadline) WHERE kind = 2 AND answer IS NULL;
CREATE TABLE pushed (             -- notifications that may be shown: these devices get a clear
    user TEXT NOT NULL,
    peer TEXT NOT NULL,
    row INTEGER NOT NULL,         -- of the message
    dev TEXT NOT NULL,
    delivery INTEGER NOT NULL,    -- the row of the push
    PRIMARY KEY (user, peer, row, dev)
) STRICT, WITHOUT ROWID;
ALTER TABLE deliveries ADD COLUMN chat TEXT;
CREATE INDEX deliveries_chat ON deliveries (recipient) WHERE chat IS NOT NULL AND final_at IS NULL;
ALTER TABLE marks ADD COLUMN chat_rows INTEGER NOT NULL DEFAULT 0;
ALTER TABLE marks ADD COLUMN chat_bytes INTEGER NOT NULL DEFAULT 0;  -- of their documents
ALTER TABLE marks ADD COLUMN chat_since INTEGER NOT NULL DEFAULT 0;  -- documents of before need not wait
ALTER TABLE marks ADD COLUMN chat_floor INTEGER NOT NULL DEFAULT 0;  -- rows of chat up to here may have been dropped
";

/// Whether the writer of a message wants to hear what became of it; and of what a device may show, which push can still be taken
/// back.
const RECEIPTS: &str = "
ALTER TABLE chat ADD COLUMN receipt INTEGER NOT NULL DEFAULT 1;  -- the writer wants to hear more than `sent`
CREATE TABLE shown (              -- takes the place of the table before
    user TEXT NOT NULL,
    peer TEXT NOT NULL,
    row INTEGER NOT NULL,         -- of the message
    dev TEXT NOT NULL,
    delivery INTEGER,             -- the row of the push that may be taken back; NULL: it was sent, or a sync stands for it
    PRIMARY KEY (user, peer, row, dev)
) STRICT, WITHOUT ROWID;
INSERT INTO shown SELECT user, peer, row, dev, delivery FROM pushed;
DROP TABLE pushed;
ALTER TABLE shown RENAME TO pushed;
";

/// Whose file it is; returns its schema, 0 for an empty file.
pub(super) fn check_version(conn: &Connection, path: &Path) -> Result<i32, OpenError> {
    let sorted = |e| errors::of_opening(path, e);
    let pragma = |name| conn.pragma_query_value(None, name, |row| row.get::<_, i32>(0)).map_err(sorted);
    let tables: i64 = conn.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0)).map_err(sorted)?;
    if tables == 0 {
        return Ok(0);
    }
    if pragma("application_id")? != APPLICATION_ID {
        return Err(OpenError::Foreign(path.to_owned()));
    }
    let found = pragma("user_version")?;
    if found > SCHEMA_VERSION {
        return Err(OpenError::TooNew { found, known: SCHEMA_VERSION });
    }
    Ok(found)
}

/// Takes the steps from schema `found` to today's, all in one transaction. `before` is called with the number of each one,
/// which is that of the schema it makes, and with none before the commit.
pub(super) fn migrate(conn: &mut Connection, found: i32, before: impl Fn(Option<usize>)) -> rusqlite::Result<()> {
    let tx = conn.transaction()?;
    for (index, step) in STEPS.iter().enumerate().skip(usize::try_from(found).unwrap_or(0)) {
        before(Some(index + 1));
        tx.execute_batch(step)?;
    }
    tx.pragma_update(None, "application_id", APPLICATION_ID)?;
    tx.pragma_update(None, "user_version", SCHEMA_VERSION)?;
    before(None);
    tx.commit()
}
