//! The requests about groups, `group.*`.

use crate::chat::group::{GroupChange, IMAGE_MAX, NAME_MAX, Post, SettingsChange, Shown, TOPIC_MAX};
use crate::chat::id::{GroupId, Owner};
use crate::chat::message::fields::Fields;
use crate::chat::message::{ErrorCode, Rejection};

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum GroupOp {
    /// A new group.
    Create {
        /// How it is to be named; `None`: as the bridge chooses.
        group: Option<GroupId>,
        /// Who is to be in it beside the asker, at most [`NAMED_MAX`].
        members: Vec<Owner>,
        /// How it is to be.
        settings: SettingsChange,
    },
    /// A group and its roster.
    Get {
        /// Which.
        group: GroupId,
        /// The last member that the asker has; '': from the first.
        after: String,
    },
    /// A change of a group.
    Change(GroupId, GroupChange),
}

/// Most users that one request names: all of them are named in the notice as well.
pub const NAMED_MAX: usize = 200;

/// Reads what follows `group.`.
pub(super) fn read(fields: &mut Fields, op: &str) -> Result<GroupOp, Rejection> {
    let change = match op {
        "create" => return create(fields),
        "get" => {
            let group = group(fields)?.ok_or_else(|| missing("group"))?;
            return Ok(GroupOp::Get { group, after: fields.string("after")?.unwrap_or_default() });
        }
        "add" => GroupChange::Add(named(fields)?),
        "remove" => GroupChange::Remove(named(fields)?),
        "leave" => GroupChange::Leave,
        "rename" => {
            let name = text(fields, "name", NAME_MAX)?.ok_or_else(|| missing("name"))?;
            GroupChange::Set(SettingsChange { name: Some(name), ..SettingsChange::default() })
        }
        "set" => GroupChange::Set(some_settings(fields)?),
        "promote" => GroupChange::Promote(named(fields)?),
        "demote" => GroupChange::Demote(named(fields)?),
        "dissolve" => GroupChange::Dissolve,
        _ => return Err(Rejection::bad_field("op", "is none that this release knows")),
    };
    Ok(GroupOp::Change(group(fields)?.ok_or_else(|| missing("group"))?, change))
}

fn missing(name: &str) -> Rejection {
    Rejection::new(ErrorCode::MissingField, format!("`{name}` is missing"))
}

fn create(fields: &mut Fields) -> Result<GroupOp, Rejection> {
    let members = members(fields)?.unwrap_or_default();
    Ok(GroupOp::Create { group: group(fields)?, members, settings: settings(fields)? })
}

fn group(fields: &mut Fields) -> Result<Option<GroupId>, Rejection> {
    let Some(group) = fields.string("group")? else { return Ok(None) };
    GroupId::new(group).map(Some).map_err(|fault| Rejection::bad_field("group", fault))
}

/// `members`, one at least.
fn named(fields: &mut Fields) -> Result<Vec<Owner>, Rejection> {
    members(fields)?.filter(|members| !members.is_empty()).ok_or_else(|| missing("members"))
}

/// Each once, in the order in which they are named first.
fn members(fields: &mut Fields) -> Result<Option<Vec<Owner>>, Rejection> {
    let bad = || Rejection::bad_field("members", format_args!("is not a list of at most {NAMED_MAX} users"));
    let Some(given) = fields.take("members") else { return Ok(None) };
    let names = given.as_array().filter(|names| names.len() <= NAMED_MAX).ok_or_else(bad)?;
    let mut members: Vec<Owner> = Vec::with_capacity(names.len());
    let mut seen = std::collections::HashSet::with_capacity(names.len());
    for name in names {
        let member = name.as_str().and_then(|name| Owner::new(name).ok()).ok_or_else(bad)?;
        if seen.insert(member.clone()) {
            members.push(member);
        }
    }
    Ok(Some(members))
}

fn some_settings(fields: &mut Fields) -> Result<SettingsChange, Rejection> {
    let settings = settings(fields)?;
    if settings.is_empty() {
        let detail = "nothing to set: none of `name`, `image`, `topic`, `post`, `history`";
        return Err(Rejection::new(ErrorCode::MissingField, detail));
    }
    Ok(settings)
}

fn settings(fields: &mut Fields) -> Result<SettingsChange, Rejection> {
    let post = match fields.string("post")?.as_deref() {
        None => None,
        Some("all") => Some(Post::All),
        Some("owners") => Some(Post::Owners),
        Some(_) => return Err(Rejection::bad_field("post", "is not all or owners")),
    };
    let history = match fields.string("history")?.as_deref() {
        None => None,
        Some("joining") => Some(Shown::Joining),
        Some("all") => Some(Shown::All),
        Some(_) => return Err(Rejection::bad_field("history", "is not joining or all")),
    };
    let name = text(fields, "name", NAME_MAX)?;
    let image = text(fields, "image", IMAGE_MAX)?;
    Ok(SettingsChange { name, image, topic: text(fields, "topic", TOPIC_MAX)?, post, history })
}

/// A text that may be empty: then it takes away what was there.
fn text(fields: &mut Fields, name: &str, max: usize) -> Result<Option<String>, Rejection> {
    if fields.get(name).and_then(serde_json::Value::as_str) == Some("") {
        fields.take(name);
        return Ok(Some(String::new()));
    }
    fields.word(name, max)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::message::Limits;
    use crate::chat::suffix::requests::{Op, Request};
    use serde_json::{Value, json};

    fn parse(payload: &Value) -> Result<GroupOp, ErrorCode> {
        let parsed = Request::parse(payload.to_string().as_bytes(), &Limits::default());
        parsed
            .map(|request| if let Op::Group(op) = request.op { op } else { panic!("{payload}") })
            .map_err(|rejection| rejection.code())
    }

    fn users(names: &[&str]) -> Vec<Owner> {
        names.iter().map(|name| Owner::new(*name).unwrap()).collect()
    }

    #[test]
    fn every_request_about_groups_is_read() {
        let group = || GroupId::new("g-1").unwrap();
        let of = |change| GroupOp::Change(group(), change);
        let named = |name: &str| SettingsChange { name: Some(name.to_owned()), ..SettingsChange::default() };
        for (payload, op) in [
            (
                json!({"op": "group.create", "members": ["bob", "carol", "bob"], "name": "Team", "post": "owners"}),
                GroupOp::Create {
                    group: None,
                    members: users(&["bob", "carol"]),
                    settings: SettingsChange { post: Some(Post::Owners), ..named("Team") },
                },
            ),
            (
                json!({"op": "group.create", "group": "g-1"}),
                GroupOp::Create { group: Some(group()), members: Vec::new(), settings: SettingsChange::default() },
            ),
            (json!({"op": "group.get", "group": "g-1"}), GroupOp::Get { group: group(), after: String::new() }),
            (
                json!({"op": "group.get", "group": "g-1", "after": "bob"}),
                GroupOp::Get { group: group(), after: "bob".to_owned() },
            ),
            (json!({"op": "group.add", "group": "g-1", "members": ["bob"]}), of(GroupChange::Add(users(&["bob"])))),
            (
                json!({"op": "group.remove", "group": "g-1", "members": ["bob"]}),
                of(GroupChange::Remove(users(&["bob"]))),
            ),
            (json!({"op": "group.leave", "group": "g-1"}), of(GroupChange::Leave)),
            (json!({"op": "group.rename", "group": "g-1", "name": "New"}), of(GroupChange::Set(named("New")))),
            (json!({"op": "group.set", "group": "g-1", "name": ""}), of(GroupChange::Set(named("")))),
            (
                json!({"op": "group.set", "group": "g-1", "history": "all"}),
                of(GroupChange::Set(SettingsChange { history: Some(Shown::All), ..SettingsChange::default() })),
            ),
            (
                json!({"op": "group.promote", "group": "g-1", "members": ["bob"]}),
                of(GroupChange::Promote(users(&["bob"]))),
            ),
            (
                json!({"op": "group.demote", "group": "g-1", "members": ["bob"]}),
                of(GroupChange::Demote(users(&["bob"]))),
            ),
            (json!({"op": "group.dissolve", "group": "g-1"}), of(GroupChange::Dissolve)),
        ] {
            assert_eq!(parse(&payload), Ok(op), "{payload}");
        }
    }

    #[test]
    fn anything_else_is_told() {
        let many: Vec<String> = (0..=NAMED_MAX).map(|n| format!("u{n}")).collect();
        for (payload, code) in [
            (json!({"op": "group.fly", "group": "g-1"}), ErrorCode::BadField),
            (json!({"op": "group.get"}), ErrorCode::MissingField),
            (json!({"op": "group.get", "group": "team"}), ErrorCode::BadField),
            (json!({"op": "group.add", "group": "g-1"}), ErrorCode::MissingField),
            (json!({"op": "group.add", "group": "g-1", "members": []}), ErrorCode::MissingField),
            (json!({"op": "group.add", "group": "g-1", "members": ["g-2"]}), ErrorCode::BadField),
            (json!({"op": "group.add", "group": "g-1", "members": many}), ErrorCode::BadField),
            (json!({"op": "group.rename", "group": "g-1"}), ErrorCode::MissingField),
            (json!({"op": "group.rename", "group": "g-1", "name": "x".repeat(NAME_MAX + 1)}), ErrorCode::BadField),
            (json!({"op": "group.set", "group": "g-1"}), ErrorCode::MissingField),
            (json!({"op": "group.set", "group": "g-1", "post": "nobody"}), ErrorCode::BadField),
            (json!({"op": "group.set", "group": "g-1", "history": 1}), ErrorCode::BadField),
        ] {
            assert_eq!(parse(&payload), Err(code), "{payload}");
        }
    }
}
