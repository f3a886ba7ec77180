//! The step for BALs in groups.

/// BALs that are in groups. What is written there waits in their inboxes like the messages of devices, until they acknowledge it:
/// a document of the outbox of kind 1 or 2, which has a row here and none in `inbox`.
pub(super) const GROUP_BALS: &str = "
ALTER TABLE members ADD COLUMN bal INTEGER NOT NULL DEFAULT 0;  -- it is a BAL
CREATE TABLE bal_copies (
    bal TEXT NOT NULL,
    row INTEGER NOT NULL,         -- the same as in chat
    tail INTEGER NOT NULL,
    seq INTEGER,                  -- the document; NULL: it is made when the spool has room
    published INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (bal, row)
) STRICT, WITHOUT ROWID;
CREATE INDEX bal_copies_row ON bal_copies (row);
CREATE INDEX bal_copies_waits ON bal_copies (bal, row) WHERE seq IS NULL;
";
