//! The step for how somebody logged in who acts later, without a connection.

/// Whether whoever comes back, or left a will or a message that waits for its time, may still do so depends on how that one logged
/// in: a password holds as the users file says by then, a token as long as there are keys. NULL where that is not known: it is of
/// before this step, of another broker, or of somebody without a log-in.
pub(super) const LOGINS: &str = "
ALTER TABLE queues ADD COLUMN role INTEGER;       -- 0: a user; 1: a BAL; 2: an admin
ALTER TABLE queues ADD COLUMN token_key BLOB;     -- SHA-256 of the key of its token; NULL: it was a password
ALTER TABLE scheduled ADD COLUMN by_token INTEGER;  -- 0: its writer had shown a password; 1: a token
";
