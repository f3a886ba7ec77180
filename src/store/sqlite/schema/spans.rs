//! The step for members who come back.

/// What was written while somebody was in a group stays that one's, however often it goes and comes. `gone` of the oldest span says
/// when it is forgotten.
pub(super) const SPANS: &str = "
ALTER TABLE members ADD COLUMN spans TEXT;    -- when it was a member, as far as that is over; JSON, the oldest first:
                                              -- [[came, reads_from, gone, received, read], ...]
UPDATE members SET spans = json_array(json_array(came, reads_from, gone, received, min(read, gone)))
    WHERE gone IS NOT NULL;
CREATE INDEX members_spans ON members (json_extract(spans, '$[0][2]')) WHERE spans IS NOT NULL;
";
