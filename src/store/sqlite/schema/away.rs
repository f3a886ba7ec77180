//! The step for BALs that are away.

/// BALs that have said that they are away, and nothing else since. A broker may not say it again at the next start.
pub(super) const AWAY: &str = "
CREATE TABLE away (
    bal TEXT PRIMARY KEY
) STRICT, WITHOUT ROWID;
";
