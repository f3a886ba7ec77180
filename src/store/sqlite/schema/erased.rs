//! The step for users who were erased.

/// Users who were erased. `running` is a JSON object, which has the name as long as the erase goes on.
pub(super) const ERASED: &str = "
CREATE TABLE erased (
    name BLOB PRIMARY KEY,        -- SHA-256 of the name, which stays taken
    alias TEXT NOT NULL,          -- what stands for it where others keep it
    erased_at INTEGER NOT NULL,
    running TEXT                  -- how far it is; NULL: it is done
) STRICT, WITHOUT ROWID;
CREATE UNIQUE INDEX erased_alias ON erased (alias);
ALTER TABLE marks ADD COLUMN scrub INTEGER NOT NULL DEFAULT 0;  -- the file is to be rebuilt, so that nothing stays in its unused parts
";
