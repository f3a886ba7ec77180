//! Who is invited into a group, and comes.

use super::membership::{Writing, has_room, refuse};
use super::{Group, Member};
use crate::chat::group::{GroupChange, GroupRole, MEMBERS_MAX, NoticeEvent, SettingsChange, not_member};
use crate::chat::id::{GroupId, Owner};
use crate::chat::message::{ErrorCode, Rejection};
use crate::chat::principal::Role;
use crate::store::Writer;
use crate::store::sqlite::chat::{Call, ChatRow, ended_invitations};
use crate::store::sqlite::tx::{ReadTx, Tx};

/// `user` accepts the invitation `asked` into a group. The id of the notice comes from those for pushes.
///
/// The refusal is for the one who accepts.
pub(in crate::store::sqlite::chat) fn join(
    tx: &mut Tx<'_>,
    group: &GroupId,
    (user, asked): (&Writer, &ChatRow),
    call: &mut Call<'_>,
) -> rusqlite::Result<Result<(), Rejection>> {
    let name = Owner::from(group.clone());
    let Some(loaded) = Group::load(tx, &name)?.filter(|group| group.members > 0) else {
        return refuse(ErrorCode::NotFound, "the group has ended");
    };
    match Member::now_or_before(tx, &name, &user.name)? {
        Some(Member { gone: None, .. }) => return Ok(Ok(())),
        Some(Member { gone: Some(gone), .. }) if gone > asked.sid.row() => {
            return refuse(ErrorCode::NotFound, "the invitation is of before you went from the group");
        }
        _ => {}
    }
    if Member::load(tx, &name, &asked.writer)?.is_none_or(|inviter| inviter.role != GroupRole::Owner) {
        return refuse(ErrorCode::NotFound, "whoever invited is no owner of the group any more");
    }
    let who = (&user.name, user.role == Role::Bal);
    if let Err(rejection) = has_room(tx, who)? {
        return Ok(Err(rejection));
    }
    if loaded.members as usize >= MEMBERS_MAX {
        return refuse(ErrorCode::RateLimited, format!("a group has {MEMBERS_MAX} members at most"));
    }
    let mut writing = Writing { name, group: loaded, by: user, sid: None };
    let Some(sid) = writing.next_sid(call) else { return refuse(ErrorCode::RateLimited, "too much at once") };
    writing.insert(tx, who, GroupRole::Member, sid.row())?;
    writing.group.members += 1;
    let who = [user.name.clone()];
    ended_invitations::to(tx, &user.name, &writing.name, Some(asked.sid.row()), call.at)?;
    writing.notify(tx, (NoticeEvent::Joined, &who), &SettingsChange::default(), call)?;
    writing.clear_before(tx, (&user.name, &user.connected), sid, call)?;
    Ok(Ok(()))
}

/// Whether `by` may ask `user` to come into a group, and how the group is called.
pub(in crate::store::sqlite::chat) fn may_invite(
    tx: &ReadTx<'_>,
    group: &GroupId,
    by: &Owner,
    user: &Owner,
) -> rusqlite::Result<Result<Option<String>, Rejection>> {
    let name = Owner::from(group.clone());
    let Some(loaded) = Group::load(tx, &name)? else { return Ok(Err(not_member())) };
    let member = Member::load(tx, &name, by)?;
    if let Err(rejection) = GroupChange::Add(Vec::new()).check(member.map(|member| member.role)) {
        return Ok(Err(rejection));
    }
    if Member::load(tx, &name, user)?.is_some() {
        return refuse(ErrorCode::Duplicate, "`to` is in the group");
    }
    Ok(Ok(loaded.settings.name))
}
