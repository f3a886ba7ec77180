//! The step for what members of a group have no own copy of, and for what has no text any more.

/// A member keeps a place without content of it, also once the block has ended. Messages of those who are blocked now become such
/// places: of before this step it is not known which of them came before the block.
pub(super) const BLOCKED: &str = r#"
ALTER TABLE deleted ADD COLUMN blocked INTEGER NOT NULL DEFAULT 0;  -- the user had blocked its writer
CREATE INDEX deleted_row ON deleted (row);
DROP INDEX chat_amends;
CREATE INDEX chat_amends ON chat (amends) WHERE amends IS NOT NULL AND gone = 0;  -- those that may have a text
CREATE INDEX chat_gone_behind ON chat (peer, row) WHERE gone = 1 AND kind = 0;
INSERT INTO deleted (user, peer, row, blocked)
    SELECT b.user, m.gid, c.row, 1 FROM contacts b JOIN members m ON m.user = b.user
    JOIN chat c ON c.peer = m.gid AND c.writer = b.other
    WHERE b.entry LIKE '%"blocked":true%' AND c.kind IN (0, 1) AND c.row >= m.reads_from
    AND (m.gone IS NULL OR c.row <= m.gone) ON CONFLICT DO NOTHING;
"#;
