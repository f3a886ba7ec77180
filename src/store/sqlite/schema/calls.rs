//! The step for calls.

/// Calls that ring, go on, or ended not long ago. How a call ended is a row of `chat` of kind 6. `decided`, `waits` and `received`
/// are as there. Documents of the outbox may expire.
pub(super) const CALLS: &str = "
ALTER TABLE outbox ADD COLUMN expires_at INTEGER;  -- of no use from then on; NULL: never
CREATE INDEX outbox_expiry ON outbox (expires_at) WHERE expires_at IS NOT NULL;
CREATE TABLE calls (
    row INTEGER PRIMARY KEY,      -- of the offer, as in chat
    tail INTEGER NOT NULL,
    caller TEXT NOT NULL,
    by_bal INTEGER NOT NULL,
    callee TEXT NOT NULL,
    call TEXT NOT NULL,           -- the word of the caller
    dev TEXT,                     -- the caller's
    at INTEGER NOT NULL,
    state TEXT NOT NULL,          -- JSON
    look_at INTEGER NOT NULL,     -- when its time is over; of one that has ended, when it is forgotten
    hidden INTEGER NOT NULL,      -- the callee has blocked the caller, and hears nothing
    received INTEGER NOT NULL,
    waits INTEGER NOT NULL,
    until INTEGER NOT NULL,       -- so long the offer rings
    decided TEXT,
    to_caller BLOB,               -- what a device of that side is told that comes late
    to_callee BLOB,
    kept_until INTEGER NOT NULL   -- and until when
) STRICT;
CREATE UNIQUE INDEX calls_name ON calls (call, caller, callee);
CREATE INDEX calls_look ON calls (look_at);
CREATE INDEX calls_caller ON calls (caller, kept_until);
CREATE INDEX calls_callee ON calls (callee, kept_until);
CREATE INDEX calls_waits ON calls (callee, row) WHERE waits = 1;
CREATE TABLE ringing (            -- devices that were pushed for an offer: these get a clear
    call INTEGER NOT NULL,        -- the row of the offer
    dev TEXT NOT NULL,
    delivery INTEGER,             -- the row of the push that may be taken back; NULL: it was sent
    PRIMARY KEY (call, dev)
) STRICT, WITHOUT ROWID;
CREATE TABLE signals (            -- what was written of calls, by its writer's ids, to know it again
    writer TEXT NOT NULL,
    id TEXT NOT NULL,
    call INTEGER NOT NULL,        -- the row of the offer
    digest BLOB NOT NULL,         -- of what it says
    row INTEGER NOT NULL,         -- its sid
    tail INTEGER NOT NULL,
    at INTEGER NOT NULL,
    PRIMARY KEY (writer, id)
) STRICT, WITHOUT ROWID;
CREATE INDEX signals_call ON signals (call);
";
