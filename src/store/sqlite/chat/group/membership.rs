//! The roster of a group: who is in it, and the changes of that. Each change is one version and one notice.

use super::members::{Present, names, present};
use super::message::{notice, notice_row};
use super::{Group, Member, former, role, state};
use crate::chat::bal_event::BalEvent;
use crate::chat::contact::{What, may_be_put_in};
use crate::chat::group::{
    GroupChange, GroupDelivery, GroupRole, GroupSettings, MEMBERS_MAX, Notice, NoticeEvent, SettingsChange, Shown,
    heir, not_member,
};
use crate::chat::id::{Owner, Row, Sid};
use crate::chat::message::{ErrorCode, Rejection};
use crate::chat::principal::Role;
use crate::chat::suffix::invitations::{Invitation, Kind};
use crate::chat::topic::Device;
use crate::store::sqlite::chat::message::admission;
use crate::store::sqlite::chat::notified::{self, Seen};
use crate::store::sqlite::chat::{Call, ended_invitations, events, invitation, owner, people};
use crate::store::sqlite::column::sql_ms;
use crate::store::sqlite::tx::{ReadTx, Tx};
use crate::store::{
    BAL_GROUPS_MAX, ChatCall, ChatOutcome, GroupAction, GroupChanged, Named, NewGroupChange, NewInvitation,
    USER_GROUPS_MAX, Writer,
};
use rusqlite::params;

const BY_AGE: &str = "SELECT user, owner FROM members WHERE gid = ?1 AND gone IS NULL ORDER BY came, user";
const COUNT_OF: &str = "SELECT count(*) FROM members WHERE user = ?1 AND gone IS NULL";
const INSERT: &str = "INSERT INTO members (gid, user, owner, came, reads_from, gone, read, read_counted, received, bal)
    VALUES (?1, ?2, ?3, ?4, ?5, NULL, ?4, ?6, ?7, ?8)
    ON CONFLICT (gid, user) DO UPDATE SET owner = excluded.owner, came = excluded.came,
        reads_from = excluded.reads_from, gone = NULL, read = excluded.read, read_counted = excluded.read_counted,
        received = excluded.received, bal = excluded.bal";
const SET_ROLE: &str = "UPDATE members SET owner = ?3 WHERE gid = ?1 AND user = ?2 AND gone IS NULL AND owner <> ?3";
const OWNERS: &str = "SELECT count(*) FROM members WHERE gid = ?1 AND gone IS NULL AND owner = 1";

/// What is refused leaves nothing behind: everything is looked at before anything is written.
pub(in crate::store) fn change(
    tx: &mut Tx<'_>,
    new: &NewGroupChange,
    call: &ChatCall,
) -> rusqlite::Result<Result<GroupChanged, Rejection>> {
    let call = &mut Call::of(call);
    let name = Owner::from(new.group.clone());
    if new.by.role == Role::Admin {
        return refuse(ErrorCode::Forbidden, "an admin is in no group");
    }
    let change = match &new.what {
        GroupAction::Create(settings) => return create(tx, new, (&name, settings), call),
        GroupAction::Change(change) => change,
    };
    let Some(group) = Group::load(tx, &name)? else { return Ok(Err(not_member())) };
    let member = Member::load(tx, &name, &new.by.name)?;
    if let Err(rejection) = change.check(member.map(|member| member.role)) {
        return Ok(Err(rejection));
    }
    let mut writing = Writing { name, group, by: &new.by, sid: Some(new.sid) };
    match change {
        GroupChange::Add(_) => writing.add(tx, &new.named, call),
        GroupChange::Remove(users) => writing.remove(tx, users, NoticeEvent::Removed, call),
        GroupChange::Leave => writing.remove(tx, std::slice::from_ref(&new.by.name), NoticeEvent::Left, call),
        GroupChange::Promote(users) => writing.set_role(tx, users, GroupRole::Owner, call),
        GroupChange::Demote(users) => writing.set_role(tx, users, GroupRole::Member, call),
        GroupChange::Dissolve => {
            let everybody = names(tx, &new.group)?;
            writing.remove(tx, &everybody, NoticeEvent::Dissolved, call)
        }
        GroupChange::Set(settings) => {
            let mut changed = writing.group.settings.clone();
            settings.apply(&mut changed);
            if changed != writing.group.settings {
                writing.group.settings = changed;
                writing.notify(tx, (NoticeEvent::Changed, &[]), settings, call)?;
            }
            writing.done(Vec::new())
        }
    }
}

pub(super) fn refuse<T>(code: ErrorCode, detail: impl Into<String>) -> rusqlite::Result<Result<T, Rejection>> {
    Ok(Err(Rejection::new(code, detail)))
}

fn create(
    tx: &mut Tx<'_>,
    new: &NewGroupChange,
    (name, settings): (&Owner, &SettingsChange),
    call: &mut Call<'_>,
) -> rusqlite::Result<Result<GroupChanged, Rejection>> {
    if Group::load(tx, name)?.is_some() {
        return refuse(ErrorCode::Duplicate, "there is a group of this name");
    }
    let by = (&new.by.name, new.by.role == Role::Bal);
    if let Err(rejection) = has_room(tx, by)? {
        return Ok(Err(rejection));
    }
    let mut own = GroupSettings::default();
    settings.apply(&mut own);
    let mut writing = Writing { name: name.clone(), group: Group::new(own), by: &new.by, sid: Some(new.sid) };
    let sorted = match writing.sort(tx, &new.named, call)? {
        Ok(sorted) => sorted,
        Err(rejection) => return Ok(Err(rejection)),
    };
    writing.group.members = 1 + sorted.added.len() as u64;
    // The notice names those who are in it beside its maker, and all of them get it.
    let sid = new.sid;
    writing.insert(tx, by, GroupRole::Owner, sid.row())?;
    for one in &sorted.added {
        writing.insert(tx, (&one.peer.name, is_bal(one)), GroupRole::Member, sid.row())?;
    }
    writing.notify(tx, (NoticeEvent::Created, &sorted.added()), settings, call)?;
    writing.invite(tx, sorted, call)
}

/// Whether somebody may be in one more group.
pub(super) fn has_room(tx: &ReadTx<'_>, (user, is_bal): (&Owner, bool)) -> rusqlite::Result<Result<(), Rejection>> {
    let count = tx.one(COUNT_OF, [user.as_str()], |row| row.get::<_, i64>(0))?.unwrap_or_default();
    let most = if is_bal { BAL_GROUPS_MAX } else { USER_GROUPS_MAX };
    if count >= most as i64 {
        return refuse(ErrorCode::RateLimited, format!("{user} is in {most} groups"));
    }
    Ok(Ok(()))
}

/// Those who are to be in a group: who is put into it, and who is asked.
struct Sorted<'a> {
    added: Vec<&'a Named>,
    invited: Vec<&'a Named>,
}

impl Sorted<'_> {
    fn added(&self) -> Vec<Owner> {
        self.added.iter().map(|one| one.peer.name.clone()).collect()
    }
}

fn is_bal(one: &Named) -> bool {
    one.peer.role == Some(Role::Bal)
}

/// A change on its way to the disk.
pub(super) struct Writing<'a> {
    pub(super) name: Owner,
    pub(super) group: Group,
    pub(super) by: &'a Writer,
    /// Of the first notice. Further ones take ids of pushes.
    pub(super) sid: Option<Sid>,
}

impl Writing<'_> {
    fn done(&self, done: Vec<Owner>) -> rusqlite::Result<Result<GroupChanged, Rejection>> {
        let version = self.group.version;
        Ok(Ok(GroupChanged { version, done, invited: Vec::new(), seen: Vec::new() }))
    }

    fn add(
        &mut self,
        tx: &mut Tx<'_>,
        named: &[Named],
        call: &mut Call<'_>,
    ) -> rusqlite::Result<Result<GroupChanged, Rejection>> {
        let sorted = match self.sort(tx, named, call)? {
            Ok(sorted) => sorted,
            Err(rejection) => return Ok(Err(rejection)),
        };
        if !sorted.added.is_empty() {
            let Some(sid) = self.next_sid(call) else { return refuse(ErrorCode::RateLimited, "too much at once") };
            for one in &sorted.added {
                self.insert(tx, (&one.peer.name, is_bal(one)), GroupRole::Member, sid.row())?;
            }
            self.group.members += sorted.added.len() as u64;
            self.notify(tx, (NoticeEvent::Added, &sorted.added()), &SettingsChange::default(), call)?;
            for one in &sorted.added {
                let looking = &one.peer.attended.devices;
                ended_invitations::to(tx, &one.peer.name, &self.name, None, call.at)?;
                self.clear_before(tx, (&one.peer.name, looking), sid, call)?;
            }
        }
        self.invite(tx, sorted, call)
    }

    /// Who has the asker as a contact is put into the group, and others are asked. A BAL that has blocked the asker is left out.
    fn sort<'a>(
        &self,
        tx: &Tx<'_>,
        named: &'a [Named],
        call: &Call<'_>,
    ) -> rusqlite::Result<Result<Sorted<'a>, Rejection>> {
        let mut sorted = Sorted { added: Vec::new(), invited: Vec::new() };
        for one in named {
            let user = &one.peer.name;
            if *user == self.by.name || Member::load(tx, &self.name, user)?.is_some() {
                continue;
            }
            let from = Writer { strangers: one.strangers, ..self.by.clone() };
            match admission(tx, What::Invitation, &from, &one.peer, call)? {
                Err(rejection) if rejection.code() == ErrorCode::NotFound => {
                    return refuse(ErrorCode::NotFound, format!("`members` names `{user}`, who does not exist"));
                }
                Err(rejection) => return Ok(Err(rejection)),
                Ok(_) => {}
            }
            // In how many groups somebody is says nothing to others: whoever has no room hears it when it accepts.
            let may_be_put_in = may_be_put_in((self.by.role, is_bal(one)), people::entry(tx, user, &self.by.name)?);
            match has_room(tx, (user, is_bal(one)))? {
                Ok(()) if may_be_put_in => sorted.added.push(one),
                Err(rejection) if is_bal(one) => return Ok(Err(rejection)),
                _ => sorted.invited.extend((!is_bal(one)).then_some(one)),
            }
        }
        if self.group.members as usize + sorted.added.len() > MEMBERS_MAX {
            return refuse(ErrorCode::RateLimited, format!("a group has {MEMBERS_MAX} members at most"));
        }
        Ok(Ok(sorted))
    }

    /// Who comes back has nothing unread of before: what devices still show of it goes.
    pub(super) fn clear_before(
        &self,
        tx: &mut Tx<'_>,
        (user, connected): (&Owner, &[Device]),
        sid: Sid,
        call: &mut Call<'_>,
    ) -> rusqlite::Result<()> {
        notified::clear(tx, &Seen { user, peer: &self.name, sid, up_to: true }, None, connected, call)
    }

    fn invite(
        &mut self,
        tx: &mut Tx<'_>,
        sorted: Sorted<'_>,
        call: &mut Call<'_>,
    ) -> rusqlite::Result<Result<GroupChanged, Rejection>> {
        let (mut invited, mut seen) = (Vec::new(), Vec::new());
        for Named { peer, sid, strangers } in &sorted.invited {
            let invitation = Invitation {
                id: None,
                to: peer.name.clone(),
                kind: Kind::Request { body: None, expires: None, group: self.name.group() },
                dev: None,
            };
            let from = Writer { strangers: *strangers, ..self.by.clone() };
            let new = NewInvitation { sid: *sid, from, to: peer.clone(), invitation };
            if let ChatOutcome::Done { seen: more, waits, .. } = invitation::invite_admitted(tx, &new, call)? {
                seen.extend(more);
                invited.push((peer.name.clone(), *sid, waits));
            }
        }
        let version = self.group.version;
        Ok(Ok(GroupChanged { version, done: sorted.added(), invited, seen }))
    }

    fn remove(
        &mut self,
        tx: &mut Tx<'_>,
        users: &[Owner],
        event: NoticeEvent,
        call: &mut Call<'_>,
    ) -> rusqlite::Result<Result<GroupChanged, Rejection>> {
        let mut gone = Vec::new();
        let Some(sid) = self.next_sid(call) else { return refuse(ErrorCode::RateLimited, "too much at once") };
        for user in users {
            if former::go(tx, (&self.group, &self.name), user, sid.row())? {
                ended_invitations::by(tx, user, &self.name, call.at)?;
                gone.push(user.clone());
            }
        }
        if gone.is_empty() {
            return refuse(ErrorCode::NotFound, "`members` names nobody who is in the group");
        }
        self.group.members = self.group.members.saturating_sub(gone.len() as u64);
        let who: &[Owner] = if event == NoticeEvent::Dissolved { &[] } else { &gone };
        self.notify_also((NoticeEvent::clone(&event), who), &SettingsChange::default(), &gone, (tx, call))?;
        self.promote_heir(tx, call)?;
        for user in &gone {
            let is_by = *user == self.by.name;
            let looking: (Option<&Device>, &[Device]) =
                if is_by { (self.by.dev.as_ref(), &self.by.connected) } else { (None, &[]) };
            former::clear(tx, (user, &self.name), sid, looking, call)?;
        }
        self.done(gone)
    }

    /// A group with members has an owner.
    fn promote_heir(&mut self, tx: &mut Tx<'_>, call: &mut Call<'_>) -> rusqlite::Result<()> {
        let left = tx.all(BY_AGE, [self.name.as_str()], |row| Ok((owner(row, 0)?, role(row.get(1)?))))?;
        let Some(heir) = heir(left.iter().map(|(user, role)| (user, *role))).cloned() else { return Ok(()) };
        tx.execute(SET_ROLE, params![self.name.as_str(), heir.as_str(), true])?;
        self.notify(tx, (NoticeEvent::Promoted, &[heir]), &SettingsChange::default(), call)
    }

    fn set_role(
        &mut self,
        tx: &mut Tx<'_>,
        users: &[Owner],
        to: GroupRole,
        call: &mut Call<'_>,
    ) -> rusqlite::Result<Result<GroupChanged, Rejection>> {
        let mut others = Vec::new();
        for user in users {
            match Member::load(tx, &self.name, user)? {
                Some(member) if member.role != to => others.push(user.clone()),
                Some(_) => {}
                None => return refuse(ErrorCode::NotFound, "`members` names somebody who is not in the group"),
            }
        }
        let owners = tx.one(OWNERS, [self.name.as_str()], |row| row.get::<_, i64>(0))?.unwrap_or_default();
        if to == GroupRole::Member && others.len() as i64 >= owners {
            return refuse(ErrorCode::Forbidden, "a group has an owner");
        }
        if others.is_empty() {
            return self.done(others);
        }
        for user in &others {
            tx.execute(SET_ROLE, params![self.name.as_str(), user.as_str(), to == GroupRole::Owner])?;
            if to == GroupRole::Member {
                ended_invitations::by(tx, user, &self.name, call.at)?;
            }
        }
        let event = if to == GroupRole::Owner { NoticeEvent::Promoted } else { NoticeEvent::Demoted };
        self.notify(tx, (event, &others), &SettingsChange::default(), call)?;
        self.done(others)
    }

    /// The id of the notice that comes next.
    pub(super) fn next_sid(&self, call: &Call<'_>) -> Option<Sid> {
        self.sid.or_else(|| call.push_sids.as_slice().first().copied())
    }

    pub(super) fn insert(
        &self,
        tx: &Tx<'_>,
        (user, is_bal): (&Owner, bool),
        role: GroupRole,
        row: Row,
    ) -> rusqlite::Result<()> {
        if !is_bal {
            people::ensure(tx, user)?;
        }
        let reads_from = if self.group.settings.history == Shown::All { Row(0) } else { row };
        let values = params![
            self.name.as_str(),
            user.as_str(),
            role == GroupRole::Owner,
            row,
            reads_from,
            sql_ms(self.group.counted),
            Row(row.0 - 1),
            is_bal
        ];
        tx.execute(INSERT, values).map(drop)
    }

    pub(super) fn notify(
        &mut self,
        tx: &mut Tx<'_>,
        what: (NoticeEvent, &[Owner]),
        changed: &SettingsChange,
        call: &mut Call<'_>,
    ) -> rusqlite::Result<()> {
        self.notify_also(what, changed, &[], (tx, call))
    }

    /// Tells everybody who is in the group, and those who went by it.
    fn notify_also(
        &mut self,
        (event, who): (NoticeEvent, &[Owner]),
        changed: &SettingsChange,
        also: &[Owner],
        (tx, call): (&mut Tx<'_>, &mut Call<'_>),
    ) -> rusqlite::Result<()> {
        let Some(sid) = self.sid.take().or_else(|| call.push_sids.next().copied()) else { return Ok(()) };
        self.group.version += 1;
        let place = self.group.place(sid, false);
        self.group.save(tx, &self.name)?;
        let Some(group) = self.name.group() else { return Ok(()) };
        let told = Notice { group: &group, event, who, by: &self.by.name, version: self.group.version, changed };
        let row = notice_row((&self.name, &self.by.name), sid, place, call.at);
        let mut readers = present(tx, &group)?;
        if call.policy.group_delivery == GroupDelivery::Topic {
            state::changed(tx, &self.name, (event, who), &readers, call.at)?;
        }
        for user in also {
            let is_bal = Member::now_or_before(tx, &self.name, user)?.is_some_and(|member| member.is_bal);
            readers.push(Present { user: user.clone(), is_bal });
        }
        notice(tx, &row, &told.to_bytes(), &readers, call)?;
        self.tell_bals(tx, event, (who, also), call)
    }

    /// Tells BALs that ask for events who is in the group by this, or no longer.
    fn tell_bals(
        &self,
        tx: &mut Tx<'_>,
        event: NoticeEvent,
        (who, also): (&[Owner], &[Owner]),
        call: &mut Call<'_>,
    ) -> rusqlite::Result<()> {
        let (group, by) = (self.name.as_str(), self.by.name.as_str());
        let maker = (event == NoticeEvent::Created).then_some(&self.by.name);
        let users = if event == NoticeEvent::Dissolved { also } else { who };
        for user in maker.into_iter().chain(users).map(Owner::as_str) {
            let told = match event {
                NoticeEvent::Created | NoticeEvent::Added | NoticeEvent::Joined => {
                    BalEvent::MemberJoined { group, user, by }
                }
                NoticeEvent::Removed | NoticeEvent::Left | NoticeEvent::Dissolved => {
                    BalEvent::MemberLeft { group, user, by }
                }
                NoticeEvent::Changed | NoticeEvent::Promoted | NoticeEvent::Demoted => return Ok(()),
            };
            events::tell(tx, &told, call)?;
        }
        Ok(())
    }
}

/// A member who is erased leaves; those who stay read of it under the other name.
pub(in crate::store::sqlite) fn leave_erased(
    tx: &mut Tx<'_>,
    name: &Owner,
    (user, alias): (&Owner, &Owner),
    call: &mut Call<'_>,
) -> rusqlite::Result<()> {
    let by = Writer {
        name: alias.clone(),
        role: Role::User,
        dev: None,
        by_token: None,
        connected: Vec::new(),
        strangers: false,
        let_in: false,
        direct: false,
    };
    let Some(group) = Group::load(tx, name)? else { return Ok(()) };
    let mut writing = Writing { name: name.clone(), group, by: &by, sid: None };
    let row = writing.next_sid(call).map_or(Row(0), Sid::row);
    former::go(tx, (&writing.group, name), user, row)?;
    writing.group.members = writing.group.members.saturating_sub(1);
    writing.notify(tx, (NoticeEvent::Left, std::slice::from_ref(alias)), &SettingsChange::default(), call)?;
    writing.promote_heir(tx, call)
}
