//! Who is in a group, as it is asked for.

use super::{Group, Member, position, role};
use crate::chat::group::{GroupRole, MEMBERS_MAX, not_member};
use crate::chat::id::{GroupId, Owner};
use crate::chat::message::Rejection;
use crate::store::sqlite::chat::{owner, people};
use crate::store::sqlite::tx::ReadTx;
use crate::store::{GroupMember, GroupPage, MEMBERS_BYTES};
use rusqlite::params;

pub(in crate::store::sqlite) const PRESENT: &str =
    "SELECT user, bal FROM members WHERE gid = ?1 AND gone IS NULL ORDER BY user";
pub(in crate::store::sqlite) const PAGE: &str = "SELECT user, owner FROM members
    WHERE gid = ?1 AND user > ?2 AND gone IS NULL ORDER BY user LIMIT ?3";

/// Those who have `by` not as a contact.
pub(in crate::store) fn strangers(tx: &ReadTx<'_>, by: &Owner, named: &[Owner]) -> rusqlite::Result<Vec<Owner>> {
    let mut strangers = Vec::new();
    for user in named {
        if !people::entry(tx, user, by)?.contact {
            strangers.push(user.clone());
        }
    }
    Ok(strangers)
}

/// Everybody who is in a group, by name.
pub(in crate::store) fn names(tx: &ReadTx<'_>, group: &GroupId) -> rusqlite::Result<Vec<Owner>> {
    Ok(present(tx, group)?.into_iter().map(|member| member.user).collect())
}

/// Somebody who is in a group, and what that one is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Present {
    pub(super) user: Owner,
    pub(super) is_bal: bool,
}

/// The same, with what each is.
pub(super) fn present(tx: &ReadTx<'_>, group: &GroupId) -> rusqlite::Result<Vec<Present>> {
    tx.all(PRESENT, [group.as_str()], |row| Ok(Present { user: owner(row, 0)?, is_bal: row.get(1)? }))
}

/// A group, as a member sees it, and members behind `after`.
pub(in crate::store) fn page(
    tx: &ReadTx<'_>,
    user: &Owner,
    group: &GroupId,
    after: &str,
) -> rusqlite::Result<Result<GroupPage, Rejection>> {
    let name = Owner::from(group.clone());
    let (Some(loaded), Some(member)) = (Group::load(tx, &name)?, Member::load(tx, &name, user)?) else {
        return Ok(Err(not_member()));
    };
    let (found, complete) = page_behind(tx, &name, after)?;
    let mut items = Vec::with_capacity(found.len());
    for (other, role) in found {
        let (received, read) = position::told_to(tx, (&loaded, &name), (user, member.is_bal), &other)?;
        items.push(GroupMember { user: other, role, received, read });
    }
    Ok(Ok(GroupPage {
        settings: loaded.settings,
        version: loaded.version,
        members: loaded.members,
        role: member.role,
        complete,
        items,
    }))
}

/// Members behind `after` by name, as many as fit into a document, and whether these are all of them.
pub(super) fn page_behind(
    tx: &ReadTx<'_>,
    group: &Owner,
    after: &str,
) -> rusqlite::Result<(Vec<(Owner, GroupRole)>, bool)> {
    let values = params![group.as_str(), after, MEMBERS_MAX as i64];
    let mut items = tx.all(PAGE, values, |row| Ok((owner(row, 0)?, role(row.get(1)?))))?;
    let (found, mut bytes) = (items.len(), 0);
    let fits = |(user, _): &&(Owner, GroupRole)| {
        bytes += user.as_str().len();
        bytes <= MEMBERS_BYTES
    };
    let kept = items.iter().take_while(fits).count();
    items.truncate(kept);
    Ok((items, kept == found))
}
