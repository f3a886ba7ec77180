//! Groups: who is in one, who may change what of it, and the notices that tell of each change.
//!
//! The bridge alone writes the roster. Each change is one step of its version and one stored message of type `notice`, written
//! in the same transaction: so all members see the changes in one order, and a member who is taken out reads of it last.
//!
//! ```text
//!                 add, an accepted invitation                     promote
//!   (no member) ────────────────────────────▶ member ──────────────────────────▶ owner
//!        ▲                                      │ ▲                                │ │
//!        ├──────────── remove, leave ───────────┘ └──────────── demote ────────────┘ │
//!        └─────────────────────────────── remove, leave ─────────────────────────────┘
//! ```
//!
//! A group has an owner as long as it has members: when the last one goes, whoever has been in it longest becomes one.

mod state;

pub use state::{GroupDelivery, GroupTopic, MemberList, profile_document};

use super::id::{GroupId, Owner};
use super::message::{ErrorCode, Rejection};
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

/// Most members of a group.
pub const MEMBERS_MAX: usize = 1_000;
/// Most members of a group whose writers hear of each member's `delivered` and `read`.
pub const RECEIPTS_MAX: u64 = 32;
/// Longest name of a group, in characters.
pub const NAME_MAX: usize = 64;
/// Longest address of its picture, in characters.
pub const IMAGE_MAX: usize = 1_024;
/// Longest text of what it is about, in characters.
pub const TOPIC_MAX: usize = 500;
/// The word that mentions every member.
pub const EVERYBODY: &str = "*";

/// What a member may do.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum GroupRole {
    /// Reads, writes where the group lets members, and leaves.
    Member,
    /// Changes the group and its roster as well.
    Owner,
}

/// Who writes in a group.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Post {
    /// Every member.
    #[default]
    All,
    /// Its owners.
    Owners,
}

/// How much a new member reads of what was written before.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shown {
    /// What was written since it came.
    #[default]
    Joining,
    /// Everything that is kept.
    All,
}

/// What a group is called, and how it works. Its JSON is its form on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct GroupSettings {
    /// How it is called.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Where its picture is.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image: Option<String>,
    /// What it is about.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub topic: Option<String>,
    /// Who writes in it.
    pub post: Post,
    /// How much new members read.
    pub history: Shown,
}

/// Fields of [`GroupSettings`] that are to change; `None` leaves one as it is, an empty text takes it away.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SettingsChange {
    /// How it is called.
    pub name: Option<String>,
    /// Where its picture is.
    pub image: Option<String>,
    /// What it is about.
    pub topic: Option<String>,
    /// Who writes in it.
    pub post: Option<Post>,
    /// How much new members read.
    pub history: Option<Shown>,
}

impl SettingsChange {
    /// Nothing is to change.
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }

    /// Changes what is given.
    pub fn apply(&self, settings: &mut GroupSettings) {
        let texts =
            [(&self.name, &mut settings.name), (&self.image, &mut settings.image), (&self.topic, &mut settings.topic)];
        for (given, text) in texts {
            if let Some(given) = given {
                *text = Some(given.clone()).filter(|given| !given.is_empty());
            }
        }
        settings.post = self.post.unwrap_or(settings.post);
        settings.history = self.history.unwrap_or(settings.history);
    }

    /// The fields that are to change, as a notice tells of them.
    fn fields(&self) -> Map<String, Value> {
        let texts = [("name", &self.name), ("image", &self.image), ("topic", &self.topic)];
        let mut fields: Map<String, Value> =
            texts.into_iter().filter_map(|(name, text)| Some((name.to_owned(), text.as_deref()?.into()))).collect();
        if let Some(post) = self.post {
            fields.insert("post".to_owned(), serde_json::json!(post));
        }
        if let Some(history) = self.history {
            fields.insert("history".to_owned(), serde_json::json!(history));
        }
        fields
    }
}

/// What a request does to a group.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupChange {
    /// These are to be in it. Those who have the owner not as a contact are invited.
    Add(Vec<Owner>),
    /// These are to be in it no longer.
    Remove(Vec<Owner>),
    /// The one who asks is to be in it no longer.
    Leave,
    /// Some of its settings are others.
    Set(SettingsChange),
    /// These members are owners.
    Promote(Vec<Owner>),
    /// These owners are members.
    Demote(Vec<Owner>),
    /// It has no members any more.
    Dissolve,
}

impl GroupChange {
    /// Whether somebody with this role may do it; `None` is no member.
    ///
    /// # Errors
    /// [`ErrorCode::NotMember`] for who is none, [`ErrorCode::Forbidden`] for a member who is no owner.
    pub fn check(&self, role: Option<GroupRole>) -> Result<(), Rejection> {
        match (role, self) {
            (None, _) => Err(not_member()),
            (Some(GroupRole::Owner), _) | (Some(GroupRole::Member), Self::Leave) => Ok(()),
            (Some(GroupRole::Member), _) => {
                Err(Rejection::new(ErrorCode::Forbidden, "owners of the group alone change it"))
            }
        }
    }
}

/// What somebody is told who asks for a group that he is not in, or that there is not.
pub fn not_member() -> Rejection {
    Rejection::new(ErrorCode::NotMember, "you are in no such group")
}

/// Whether a member with this role may write.
///
/// # Errors
/// [`ErrorCode::NotMember`] for who is none, [`ErrorCode::Forbidden`] where owners alone write or mention everybody.
pub fn may_write(post: Post, role: Option<GroupRole>, mentions_all: bool) -> Result<(), Rejection> {
    match role {
        None => Err(not_member()),
        Some(GroupRole::Member) if post == Post::Owners => {
            Err(Rejection::new(ErrorCode::Forbidden, "owners of the group alone write in it"))
        }
        Some(GroupRole::Member) if mentions_all => {
            Err(Rejection::new(ErrorCode::Forbidden, "owners of the group alone mention everybody"))
        }
        Some(_) => Ok(()),
    }
}

/// What happened to a group: the `event` of a notice.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum NoticeEvent {
    /// There is the group, with these members.
    Created,
    /// These were put into it.
    Added,
    /// This one accepted an invitation into it.
    Joined,
    /// These were taken out of it.
    Removed,
    /// This one left it.
    Left,
    /// Its settings changed.
    Changed,
    /// These are owners.
    Promoted,
    /// These are no owners any more.
    Demoted,
    /// It has ended.
    Dissolved,
}

/// A notice: what is stored and told of a change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notice<'a> {
    /// The group.
    pub group: &'a GroupId,
    /// What happened.
    pub event: NoticeEvent,
    /// To whom.
    pub who: &'a [Owner],
    /// Who made the change.
    pub by: &'a Owner,
    /// The version of the roster that it made.
    pub version: u64,
    /// The settings that changed; of a new group all that are given.
    pub changed: &'a SettingsChange,
}

impl Notice<'_> {
    /// The document to keep, without the stamp.
    pub fn to_bytes(&self) -> Vec<u8> {
        let who: Vec<&str> = self.who.iter().map(Owner::as_str).collect();
        let mut document = Map::new();
        document.insert("to".to_owned(), self.group.as_str().into());
        document.insert("type".to_owned(), "notice".into());
        document.insert("event".to_owned(), serde_json::json!(self.event));
        if !who.is_empty() {
            document.insert("who".to_owned(), who.into());
        }
        document.insert("by".to_owned(), self.by.as_str().into());
        document.insert("version".to_owned(), self.version.into());
        document.extend(self.changed.fields());
        super::message::json(&document)
    }
}

/// Who becomes an owner when the last one has gone: of the members that are left, in the order in which they came, the first.
/// `None`: there is an owner, or nobody.
pub fn heir<'a>(left: impl IntoIterator<Item = (&'a Owner, GroupRole)>) -> Option<&'a Owner> {
    let mut first = None;
    for (member, role) in left {
        if role == GroupRole::Owner {
            return None;
        }
        first = first.or(Some(member));
    }
    first
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn owner(name: &str) -> Owner {
        Owner::new(name).unwrap()
    }

    #[test]
    fn who_may_change_what() {
        use GroupRole::{Member, Owner as Owns};
        let all = [
            GroupChange::Add(Vec::new()),
            GroupChange::Remove(Vec::new()),
            GroupChange::Leave,
            GroupChange::Set(SettingsChange::default()),
            GroupChange::Promote(Vec::new()),
            GroupChange::Demote(Vec::new()),
            GroupChange::Dissolve,
        ];
        for change in all {
            let code = |role| change.check(role).map_err(|rejection| rejection.code());
            assert_eq!(code(None), Err(ErrorCode::NotMember), "{change:?}");
            assert_eq!(code(Some(Owns)), Ok(()), "{change:?}");
            let of_member = if change == GroupChange::Leave { Ok(()) } else { Err(ErrorCode::Forbidden) };
            assert_eq!(code(Some(Member)), of_member, "{change:?}");
        }
    }

    #[test]
    fn who_may_write() {
        use GroupRole::{Member, Owner as Owns};
        for (post, role, everybody, expected) in [
            (Post::All, None, false, Err(ErrorCode::NotMember)),
            (Post::All, Some(Member), false, Ok(())),
            (Post::All, Some(Member), true, Err(ErrorCode::Forbidden)),
            (Post::All, Some(Owns), true, Ok(())),
            (Post::Owners, None, false, Err(ErrorCode::NotMember)),
            (Post::Owners, Some(Member), false, Err(ErrorCode::Forbidden)),
            (Post::Owners, Some(Owns), true, Ok(())),
        ] {
            let code = may_write(post, role, everybody).map_err(|rejection| rejection.code());
            assert_eq!(code, expected, "{post:?} {role:?} {everybody}");
        }
    }

    #[test]
    fn the_longest_there_follows_the_last_owner() {
        use GroupRole::{Member, Owner as Owns};
        let (alice, bob) = (owner("alice"), owner("bob"));
        assert_eq!(heir([(&alice, Member), (&bob, Member)]), Some(&alice));
        assert_eq!(heir([(&alice, Member), (&bob, Owns)]), None);
        assert_eq!(heir([]), None);
    }

    #[test]
    fn a_notice_says_what_happened_to_whom_and_what_is_new() {
        let (group, by, who) = (GroupId::new("g-1").unwrap(), owner("alice"), [owner("bob")]);
        let changed = SettingsChange { name: Some("Team".to_owned()), post: Some(Post::Owners), ..Default::default() };
        let notice =
            Notice { group: &group, event: NoticeEvent::Changed, who: &[], by: &by, version: 2, changed: &changed };
        let told: Value = serde_json::from_slice(&notice.to_bytes()).unwrap();
        let expected = json!({ "to": "g-1", "type": "notice", "event": "changed", "by": "alice", "version": 2,
            "name": "Team", "post": "owners" });
        assert_eq!(told, expected);
        let added = Notice { event: NoticeEvent::Added, who: &who, changed: &SettingsChange::default(), ..notice };
        let told: Value = serde_json::from_slice(&added.to_bytes()).unwrap();
        assert_eq!((&told["event"], &told["who"], told.get("name")), (&json!("added"), &json!(["bob"]), None));
    }

    #[test]
    fn settings_change_where_something_is_given_and_an_empty_text_takes_one_away() {
        let mut settings = GroupSettings { name: Some("Team".to_owned()), ..GroupSettings::default() };
        let change = SettingsChange { topic: Some("all of it".to_owned()), ..SettingsChange::default() };
        assert!(!change.is_empty() && SettingsChange::default().is_empty());
        change.apply(&mut settings);
        assert_eq!((settings.name.as_deref(), settings.topic.as_deref()), (Some("Team"), Some("all of it")));
        SettingsChange { name: Some(String::new()), history: Some(Shown::All), ..SettingsChange::default() }
            .apply(&mut settings);
        assert_eq!((settings.name, settings.history), (None, Shown::All));
        let old: GroupSettings = serde_json::from_str("{}").unwrap();
        assert_eq!(old, GroupSettings::default());
    }
}
