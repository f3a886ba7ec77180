//! Where members read of a group, and what it is like: who is in it, and how it is set.

use super::{GroupRole, GroupSettings};
use crate::chat::id::Owner;
use crate::chat::message::json;
use serde::{Deserialize, Serialize};
use serde_json::Map;

/// Where members read what is written in a group: `[groups] delivery`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GroupDelivery {
    /// Each in the own inbox.
    #[default]
    Inbox,
    /// On the topics of the group.
    Topic,
}

/// A topic of a group.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum GroupTopic {
    /// What is written in it, and the notices.
    Messages,
    /// Who is in it; whoever subscribes gets it at once.
    Members,
    /// How it is set; whoever subscribes gets it at once.
    Profile,
}

impl GroupTopic {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Messages, Self::Members, Self::Profile];
    /// Those that say how the group is.
    pub const OF_STATE: [Self; 2] = [Self::Members, Self::Profile];

    /// The last level.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Messages => "messages",
            Self::Members => "members",
            Self::Profile => "profile",
        }
    }
}

/// Who is in a group, as far as it fits into a document.
#[derive(Debug, Clone, Copy)]
pub struct MemberList<'a> {
    /// The group.
    pub group: &'a Owner,
    /// How often it was changed.
    pub version: u64,
    /// How many are in it.
    pub members: u64,
    /// The first of them by name.
    pub items: &'a [(Owner, GroupRole)],
}

impl MemberList<'_> {
    /// The document.
    pub fn to_bytes(&self) -> Vec<u8> {
        let Self { group, version, members, items } = self;
        let item = |(user, role): &(Owner, GroupRole)| serde_json::json!({ "user": user.as_str(), "role": role });
        let mut document = Map::new();
        document.insert("group".to_owned(), group.as_str().into());
        document.insert("version".to_owned(), (*version).into());
        document.insert("members".to_owned(), (*members).into());
        document.insert("items".to_owned(), items.iter().map(item).collect());
        document.insert("complete".to_owned(), (items.len() as u64 >= *members).into());
        json(&document)
    }
}

/// How a group is set, as a document.
pub fn profile_document(group: &Owner, version: u64, settings: &GroupSettings) -> Vec<u8> {
    let mut document = Map::new();
    document.insert("group".to_owned(), group.as_str().into());
    document.insert("version".to_owned(), version.into());
    if let serde_json::Value::Object(fields) = serde_json::json!(settings) {
        document.extend(fields);
    }
    json(&document)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    #[test]
    fn a_list_of_members_says_whether_all_are_named() {
        let group = Owner::of_any("g-1").unwrap();
        let items = [(Owner::new("alice").unwrap(), GroupRole::Owner), (Owner::new("bob").unwrap(), GroupRole::Member)];
        let list = MemberList { group: &group, version: 3, members: 2, items: &items };
        let told: Value = serde_json::from_slice(&list.to_bytes()).unwrap();
        let named = json!([{ "user": "alice", "role": "owner" }, { "user": "bob", "role": "member" }]);
        let expected = json!({ "group": "g-1", "version": 3, "members": 2, "items": named, "complete": true });
        assert_eq!(told, expected);
        let told: Value = serde_json::from_slice(&MemberList { members: 3, ..list }.to_bytes()).unwrap();
        assert_eq!((&told["complete"], told["items"].as_array().map(Vec::len)), (&json!(false), Some(2)));
    }

    #[test]
    fn a_profile_has_the_settings_of_the_group() {
        let settings = GroupSettings { name: Some("Team".to_owned()), ..GroupSettings::default() };
        let document = profile_document(&Owner::of_any("g-1").unwrap(), 2, &settings);
        let told: Value = serde_json::from_slice(&document).unwrap();
        let expected = json!({ "group": "g-1", "version": 2, "name": "Team", "post": "all", "history": "joining" });
        assert_eq!(told, expected);
    }
}
