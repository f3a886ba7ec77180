//! What one user is to another: contact, blocked, muted; and what follows for who may write, see and hear whom.
//!
//! An entry belongs to the user who made it and is about another one. *X has Y as a contact* when X wrote to Y, accepted or
//! invited Y. A block suspends the contact without ending it, and it is never betrayed: whoever is blocked is answered as if
//! there were no block, and is swallowed after that.

use super::message::{ErrorCode, Rejection};
use super::principal::Role;
use super::suffix::requests::Writers;
use serde::{Deserialize, Serialize};

/// What a user has set about another one. Its JSON is its form on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// The other one is a contact, be it a suspended one.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub contact: bool,
    /// The other one is blocked.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub blocked: bool,
    /// No pushes for this conversation until then, in Unix milliseconds; `u64::MAX`: until it is unmuted.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub muted_until: Option<u64>,
    /// But for messages that name the user.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub but_mentions: bool,
}

/// How much of a conversation is pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum MuteLevel {
    /// Everything: it is not muted.
    All,
    /// Messages that name the user.
    Mentions,
    /// Nothing.
    None,
}

impl Entry {
    /// Nothing is set: it need not be kept.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Whether the other one is a contact now.
    pub fn is_contact(&self) -> bool {
        self.contact && !self.blocked
    }

    /// Whether the conversation is muted, be it but for mentions.
    pub fn is_muted(&self, now_ms: u64) -> bool {
        self.muted_until.is_some_and(|until| now_ms < until)
    }

    /// How much of the conversation is pushed.
    pub fn mute_level(&self, now_ms: u64) -> MuteLevel {
        match (self.is_muted(now_ms), self.but_mentions) {
            (false, _) => MuteLevel::All,
            (true, true) => MuteLevel::Mentions,
            (true, false) => MuteLevel::None,
        }
    }

    /// Whether pushes for the conversation are off altogether.
    pub fn is_silenced(&self, now_ms: u64) -> bool {
        self.mute_level(now_ms) == MuteLevel::None
    }

    /// Whether only what names the user is pushed.
    pub fn hears_mentions_only(&self, now_ms: u64) -> bool {
        self.mute_level(now_ms) == MuteLevel::Mentions
    }
}

/// What becomes of a message or an invitation to somebody.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admission {
    /// The reader gets it.
    Taken {
        /// The writer is no contact of the reader: limits for strangers hold, and `delivered` and `read` do not go back.
        stranger: bool,
    },
    /// The writer is told `sent`, and the reader gets nothing.
    Swallowed {
        /// The same as if the reader got it: a limit that held for strangers alone would betray the block.
        stranger: bool,
    },
    /// The writer is told that the reader takes nothing of strangers.
    Forbidden,
}

impl Admission {
    /// The limits for strangers count it.
    pub fn is_of_stranger(self) -> bool {
        matches!(self, Self::Taken { stranger: true } | Self::Swallowed { stranger: true })
    }

    /// The reader gets nothing of it.
    pub fn is_swallowed(self) -> bool {
        matches!(self, Self::Swallowed { .. })
    }
}

/// What is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum What {
    /// A message.
    Message,
    /// An invitation: strangers may always send one.
    Invitation,
}

/// What somebody is told who writes to more strangers than it may, names that do not exist among them.
pub fn too_many_strangers() -> Rejection {
    let detail = "too much was written to users who have the writer not as a contact, or do not exist";
    Rejection::new(ErrorCode::RateLimited, detail)
}

/// Whether `reader`, whose entry about the writer is `entry`, takes what the writer sends. The write rule is asked as if
/// nobody were blocked; only what it lets pass is swallowed. A BAL is never a stranger. For whom the gatekeeper has let in,
/// `writers` is anyone.
pub fn admit(what: What, writer: Role, writers: Writers, entry: Entry) -> Admission {
    let stranger = writer == Role::User && !entry.contact;
    if stranger && writers != Writers::Anyone && what == What::Message {
        return Admission::Forbidden;
    }
    if entry.blocked { Admission::Swallowed { stranger } } else { Admission::Taken { stranger } }
}

/// Whether somebody is put into a group without being asked: `entry` is its entry about the one who says so, a user or a BAL.
/// BALs are strangers to nobody.
pub fn may_be_put_in((by, is_bal): (Role, bool), entry: Entry) -> bool {
    entry.is_contact() || (by == Role::Bal || is_bal) && !entry.blocked
}

/// Whether `delivered` and `read` of the reader go to the writer, whose role is `writer`: `entry` is the reader's about the
/// writer, `hide_read` the reader's setting, which is about `read` alone.
pub fn tells_back(writer: Role, entry: Entry, is_read: bool, hide_read: bool) -> bool {
    let known = entry.is_contact() || (writer == Role::Bal && !entry.blocked);
    known && !(is_read && hide_read)
}

/// Whether a user whose entry about the watcher is `entry` is seen by the watcher: presence, profile, chat states.
pub fn is_seen_by(watcher: Role, entry: Entry, hide_presence: bool) -> bool {
    match watcher {
        Role::Bal | Role::Admin => true,
        Role::User => entry.is_contact() && !hide_presence,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTACT: Entry = Entry { contact: true, blocked: false, muted_until: None, but_mentions: false };
    const STRANGER: Entry = Entry { contact: false, ..CONTACT };

    fn blocked(entry: Entry) -> Entry {
        Entry { blocked: true, ..entry }
    }

    #[test]
    fn who_may_write() {
        use Admission::{Forbidden, Swallowed, Taken};
        use Writers::{Anyone, Contacts, Gatekeeper};
        let (known, unknown) = (Taken { stranger: false }, Taken { stranger: true });
        let swallowed = |stranger| Swallowed { stranger };
        for (what, writer, writers, entry, expected) in [
            (What::Message, Role::User, Anyone, CONTACT, known),
            (What::Message, Role::User, Anyone, STRANGER, unknown),
            (What::Message, Role::User, Contacts, STRANGER, Forbidden),
            (What::Message, Role::User, Contacts, CONTACT, known),
            (What::Message, Role::User, Gatekeeper, STRANGER, Forbidden),
            (What::Message, Role::User, Gatekeeper, CONTACT, known),
            (What::Invitation, Role::User, Gatekeeper, STRANGER, unknown),
            (What::Invitation, Role::User, Contacts, STRANGER, unknown),
            (What::Message, Role::Bal, Contacts, STRANGER, known),
            (What::Message, Role::User, Anyone, blocked(STRANGER), swallowed(true)),
            (What::Message, Role::User, Anyone, blocked(CONTACT), swallowed(false)),
            (What::Invitation, Role::User, Contacts, blocked(STRANGER), swallowed(true)),
            (What::Message, Role::Bal, Anyone, blocked(STRANGER), swallowed(false)),
        ] {
            assert_eq!(admit(what, writer, writers, entry), expected, "{what:?} {writer:?} {writers:?} {entry:?}");
        }
    }

    #[test]
    fn no_answer_betrays_a_block() {
        for entry in [CONTACT, STRANGER] {
            for writers in [Writers::Anyone, Writers::Contacts, Writers::Gatekeeper] {
                for what in [What::Message, What::Invitation] {
                    let open = admit(what, Role::User, writers, entry) == Admission::Forbidden;
                    let shut = admit(what, Role::User, writers, blocked(entry)) == Admission::Forbidden;
                    assert_eq!(open, shut, "the writer is told the same");
                }
            }
        }
    }

    #[test]
    fn only_contacts_and_bals_hear_back() {
        assert!(tells_back(Role::User, CONTACT, false, true) && !tells_back(Role::User, CONTACT, true, true));
        assert!(tells_back(Role::User, CONTACT, true, false) && !tells_back(Role::User, STRANGER, false, false));
        assert!(
            tells_back(Role::Bal, STRANGER, false, false) && !tells_back(Role::Bal, blocked(STRANGER), false, false)
        );
        assert!(!tells_back(Role::User, blocked(CONTACT), false, false));
        assert!(is_seen_by(Role::User, CONTACT, false) && !is_seen_by(Role::User, CONTACT, true));
        assert!(!is_seen_by(Role::User, blocked(CONTACT), false) && !is_seen_by(Role::User, STRANGER, false));
        assert!(is_seen_by(Role::Bal, blocked(STRANGER), true));
    }

    #[test]
    fn a_mute_ends_by_itself() {
        let muted = Entry { muted_until: Some(1_000), ..STRANGER };
        assert!(muted.is_muted(999) && !muted.is_muted(1_000) && !muted.is_empty());
        assert!(STRANGER.is_empty());
        let levels = |entry: Entry| [999, 1_000].map(|now| entry.mute_level(now));
        assert_eq!(levels(muted), [MuteLevel::None, MuteLevel::All]);
        assert_eq!(levels(Entry { but_mentions: true, ..muted }), [MuteLevel::Mentions, MuteLevel::All]);
        let old: Entry = serde_json::from_str(r#"{"contact":true,"muted_until":1000}"#).unwrap();
        assert_eq!(old, Entry { muted_until: Some(1_000), ..CONTACT });
    }
}
