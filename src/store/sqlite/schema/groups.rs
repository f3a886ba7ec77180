//! The step for groups.

/// Groups, and who is in them. A message to a group is one row of `chat`, of which the group is the `peer`: its places and its
/// `theirs` are those of the group, the same on both sides, and it counts as received. `decided` says of the members whose pushes
/// were not made at once by which rule that is. A copy in `outbox` of kind 5 without a payload is composed from its row.
pub(super) const GROUPS: &str = "
CREATE TABLE chat_groups (
    gid TEXT PRIMARY KEY,
    settings TEXT NOT NULL,       -- JSON
    version INTEGER NOT NULL,     -- of the roster: grows with each change
    members INTEGER NOT NULL,     -- how many there are
    count INTEGER NOT NULL,       -- what was written: the n of the newest
    counted INTEGER NOT NULL,     -- of these, what counts as unread
    dropped INTEGER NOT NULL,     -- of these, what is not kept any more
    newest INTEGER NOT NULL       -- row of the newest
) STRICT, WITHOUT ROWID;
CREATE TABLE members (
    gid TEXT NOT NULL,
    user TEXT NOT NULL,
    owner INTEGER NOT NULL,
    came INTEGER NOT NULL,        -- row of the notice of it
    reads_from INTEGER NOT NULL,  -- the first row that it may read
    gone INTEGER,                 -- row of the notice of it; NULL: it is a member
    read INTEGER NOT NULL,        -- it has read up to this row
    read_counted INTEGER NOT NULL,  -- what of the group counted as unread up to there
    received INTEGER NOT NULL,    -- one of its devices has confirmed what came up to this row
    deleted INTEGER NOT NULL DEFAULT 0,   -- it has deleted its own copy of everything up to this row
    archived INTEGER NOT NULL DEFAULT 0,  -- it has put the group away when this row was the newest
    PRIMARY KEY (gid, user)
) STRICT, WITHOUT ROWID;
CREATE INDEX members_user ON members (user, gid);
CREATE TABLE group_confirmed (    -- attended devices that have a message, where each one's push waits for itself alone
    user TEXT NOT NULL,
    row INTEGER NOT NULL,
    dev TEXT NOT NULL,
    PRIMARY KEY (user, row, dev)
) STRICT, WITHOUT ROWID;
";
