//! The step for the first screen of a client.

/// What a client asks for that forgot everything, and what changes later: the order of conversations, edits and retracts, own
/// copies that are deleted, mentions. In `chat`, kind 4 is an edit or a retract; the row of the message that it is about has the
/// newest text.
pub(super) const FIRST_SCREEN: &str = "
ALTER TABLE chat ADD COLUMN amends INTEGER;  -- of an edit or retract: the row of the message
ALTER TABLE chat ADD COLUMN gone INTEGER NOT NULL DEFAULT 0;  -- it is a tombstone for both sides
ALTER TABLE chat ADD COLUMN own BLOB;       -- the document as its writer alone has it; NULL: as the reader
DROP INDEX chat_unreceived;
CREATE INDEX chat_pair ON chat (peer, writer, row);
CREATE INDEX chat_amends ON chat (amends) WHERE amends IS NOT NULL;
CREATE INDEX chat_gone ON chat (peer, writer, row) WHERE gone = 1;
CREATE INDEX chat_invited ON chat (peer, writer, row) WHERE kind = 2 AND answer IS NULL;
CREATE TABLE deleted (            -- single items of which a user has deleted the own copy
    user TEXT NOT NULL,
    peer TEXT NOT NULL,
    row INTEGER NOT NULL,
    PRIMARY KEY (user, peer, row)
) STRICT, WITHOUT ROWID;
CREATE TABLE purges (             -- a user has deleted all of a conversation: what the other side has deleted as well goes
    user TEXT NOT NULL,
    peer TEXT NOT NULL,
    done INTEGER NOT NULL,        -- up to this row it has gone
    up_to INTEGER NOT NULL,
    PRIMARY KEY (user, peer)
) STRICT, WITHOUT ROWID;
CREATE TABLE mentions (           -- unread messages in which a user is named
    user TEXT NOT NULL,
    peer TEXT NOT NULL,
    row INTEGER NOT NULL,
    PRIMARY KEY (user, peer, row)
) STRICT, WITHOUT ROWID;
ALTER TABLE conversations ADD COLUMN newest_first INTEGER;   -- row of the newest item that this side has
ALTER TABLE conversations ADD COLUMN newest_second INTEGER;
INSERT INTO conversations (first, second, standing)
    SELECT DISTINCT min(writer, peer), max(writer, peer),
        '{\"first\":{\"count\":0,\"unread\":0},\"second\":{\"count\":0,\"unread\":0}}'
    FROM chat WHERE kind = 2 ON CONFLICT DO NOTHING;
UPDATE conversations SET
    newest_first = (SELECT max(row) FROM (
        SELECT max(row) AS row FROM chat WHERE peer = second AND writer = first
        UNION ALL SELECT max(row) FROM chat WHERE peer = first AND writer = second AND hidden = 0)),
    newest_second = (SELECT max(row) FROM (
        SELECT max(row) AS row FROM chat WHERE peer = first AND writer = second
        UNION ALL SELECT max(row) FROM chat WHERE peer = second AND writer = first AND hidden = 0))
    WHERE first <> second;
UPDATE conversations SET newest_first = (SELECT max(row) FROM chat WHERE peer = first AND writer = second)
    WHERE first = second;
";
