//! The step for invitations into groups that end with the one who invited.

/// The open invitations of a user are found by who invited.
pub(super) const INVITING: &str = "
CREATE INDEX chat_inviting ON chat (writer, row) WHERE kind = 2 AND answer IS NULL;
";
