//! The step for members who have gone, and for pushes of members that wait.

/// Who is gone sees the group as it was then; of before this step it is as it is now. A row of `unpushed_members` goes as soon as
/// nobody needs the push. The place of an edit or retract in a group is behind what was written before it, and not where its
/// message stands.
pub(super) const FORMER: &str = "
ALTER TABLE members ADD COLUMN left_settings TEXT;    -- of who is gone: what the group was then, JSON
ALTER TABLE members ADD COLUMN left_version INTEGER;
ALTER TABLE members ADD COLUMN left_count INTEGER;
UPDATE members SET (left_settings, left_version, left_count) =
    (SELECT g.settings, g.version, coalesce((SELECT c.n_reader FROM chat c WHERE c.row = members.gone), g.count)
        FROM chat_groups g WHERE g.gid = members.gid)
    WHERE gone IS NOT NULL;
CREATE INDEX members_gone ON members (gone) WHERE gone IS NOT NULL;
CREATE INDEX chat_groups_ended ON chat_groups (newest) WHERE members = 0;
DELETE FROM mentions WHERE (user, peer) IN (SELECT user, gid FROM members WHERE gone IS NOT NULL);
CREATE TABLE unpushed_members (   -- of messages to groups in `unpushed`: who has a device whose push waits for room
    user TEXT NOT NULL,
    peer TEXT NOT NULL,           -- the group
    row INTEGER NOT NULL,
    PRIMARY KEY (user, peer, row)
) STRICT, WITHOUT ROWID;
CREATE INDEX unpushed_members_row ON unpushed_members (row, user);
INSERT INTO unpushed_members (user, peer, row)
    SELECT m.value, c.peer, c.row FROM unpushed u JOIN chat c ON c.row = u.row, json_each(c.decided, '$.rules.no_room') m
    WHERE c.peer > 'g-' AND c.peer < 'g.' ON CONFLICT DO NOTHING;
ALTER TABLE group_confirmed RENAME TO group_confirmed_before;
CREATE TABLE group_confirmed (    -- attended devices that have a message, where each one's push waits for itself alone
    user TEXT NOT NULL,
    peer TEXT NOT NULL,           -- the group
    row INTEGER NOT NULL,
    dev TEXT NOT NULL,
    PRIMARY KEY (user, peer, row, dev)
) STRICT, WITHOUT ROWID;
CREATE INDEX group_confirmed_row ON group_confirmed (row);
INSERT INTO group_confirmed (user, peer, row, dev)
    SELECT b.user, c.peer, b.row, b.dev FROM group_confirmed_before b JOIN chat c ON c.row = b.row;
DROP TABLE group_confirmed_before;
UPDATE chat SET theirs_reader = max(theirs_reader, coalesce(
        (SELECT b.theirs_reader FROM chat b WHERE b.peer = chat.peer AND b.hidden = 0 AND b.row < chat.row
            AND b.kind <> 4 ORDER BY b.row DESC LIMIT 1), 0))
    WHERE amends IS NOT NULL AND peer > 'g-' AND peer < 'g.';
";
