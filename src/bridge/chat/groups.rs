//! Groups: what is written to one, and the requests that make and change one.
//!
//! Who looks at what is known here, and who is in a group in the store. So a message to a group asks the store twice: for its
//! members, and to keep it; the messages of one user to groups go one after the other.

use super::limits::{Limits, Meeting};
use super::requests::{self, Reply, fields};
use super::{ChatIntake, Remaining, TakeError, device, finish, typing};
use crate::bridge::context::Context;
use crate::bridge::refusing::Refused;
use crate::chat::attention::Attended;
use crate::chat::contact::too_many_strangers;
use crate::chat::group::{GroupChange, MEMBERS_MAX, RECEIPTS_MAX};
use crate::chat::id::{GroupId, MessageId, Owner, Sid};
use crate::chat::message::Rejection;
use crate::chat::principal::Role;
use crate::chat::suffix::chatstate::ChatState;
use crate::chat::suffix::messages::UserMessage;
use crate::chat::suffix::requests::GroupOp;
use crate::chat::topic::Device;
use crate::chat::user_limits::Limited;
use crate::mqtt::{AckWord, Inbound};
use crate::ops::clock::now_ms;
use crate::store::{
    ChatOutcome, ChatPolicy, Committed, GroupAction, GroupChanged, GroupMember, GroupOutcome, GroupPage, Named,
    NewGroupChange, NewGroupMessage, Peer, ScheduledMessage, StoreError, USER_DEVICES_MAX, Writer,
};
use serde_json::{Map, Value, json};
use std::collections::HashMap;
use std::sync::Arc;

/// Ids for pushes that one message takes to the store, at most. Members for whom none is left are decided about again.
const PUSHES_MAX: usize = 4_000;

/// Whether a publish is a message to a group: then those of its writer go one after the other.
pub(in crate::bridge) fn is_for_group(publish: &Inbound) -> bool {
    #[derive(serde::Deserialize)]
    struct Named {
        to: Option<String>,
    }
    let is_group = |to: &str| GroupId::new(to).is_ok();
    match &publish.routed_to {
        Some(to) => is_group(to),
        None => serde_json::from_slice::<Named>(&publish.payload)
            .is_ok_and(|named| named.to.as_deref().is_some_and(is_group)),
    }
}

/// Somebody who writes to a group, or changes one.
struct By {
    user: Owner,
    role: Role,
    dev: Option<Device>,
    by_token: Option<bool>,
}

impl By {
    fn writer(&self, context: &Context) -> Writer {
        let connected = context.attentions.connected(&self.user);
        Writer {
            name: self.user.clone(),
            role: self.role,
            dev: self.dev.clone(),
            by_token: self.by_token,
            connected,
            strangers: false,
            let_in: false,
            direct: false,
        }
    }
}

impl ChatIntake {
    /// A message to a group.
    pub(super) fn group_message(
        &self,
        (owner, publish): (&Owner, &Inbound),
        (group, message): (GroupId, UserMessage),
        bytes: usize,
    ) -> Result<Remaining, TakeError> {
        let role = publish.principal.role;
        let id = message.id.clone();
        let counted = self.limits.take(owner, role, Limited::Message(bytes as u64));
        counted.map_err(|rejection| rejection.about(id.clone()))?;
        let (dev, by_token) = (device(&publish.principal, message.dev.as_ref()), publish.principal.by_token());
        let by = By { user: owner.clone(), role, dev, by_token };
        self.sign(owner, by.dev.as_ref(), publish);
        let seconds = publish.expiry.map_or(message.ttl, |expiry| expiry.min(message.ttl));
        let writing = Writing { by, group, message, ttl_ms: u64::from(seconds) * 1_000, waiting: None };
        let (context, policy, limits) = (Arc::clone(&self.context), Arc::clone(&self.policy), self.limits.clone());
        let (refusing, refused) = (self.refusing.clone(), Refused::of(publish));
        Ok(Box::pin(async move {
            let outcome = match writing.members(&context, &limits, id).await? {
                Ok(members) => writing.ask(&context, &policy, &members).await?.outcome(&context).await?,
                Err(rejection) => GroupOutcome::Refused(rejection),
            };
            let outcome = match outcome {
                GroupOutcome::Done { .. } | GroupOutcome::Repeated => ChatOutcome::Repeated,
                GroupOutcome::Scheduled => ChatOutcome::Scheduled,
                GroupOutcome::Refused(rejection) => ChatOutcome::Refused(rejection),
            };
            finish(&context, &refusing, &writing.by.user, outcome, &refused).await
        }))
    }

    /// A chat state to a group: for those of its members who look, and have the writer as a contact.
    pub(super) fn group_chat_state(&self, owner: &Owner, group: GroupId, state: ChatState) -> Remaining {
        let (context, owner) = (Arc::clone(&self.context), owner.clone());
        Box::pin(async move {
            let members = context.store.group_members(group).await?.await?;
            let is_small = members.len() as u64 <= RECEIPTS_MAX && members.contains(&owner);
            for member in members.iter().filter(|member| is_small && **member != owner) {
                if context.attentions.attended(member, now_ms()).any()
                    && context.store.chat_has_contact(member.clone(), owner.clone()).await?.await?
                {
                    typing::pass_on(&context, &owner, member, &state).await;
                }
            }
            Ok(Some(AckWord::Done))
        })
    }
}

/// A message to a group on its way to the store.
pub(super) struct Writing {
    by: By,
    group: GroupId,
    message: UserMessage,
    ttl_ms: u64,
    /// It waited for its time, as this.
    waiting: Option<Sid>,
}

/// A message to a group that the store was asked to keep.
pub(super) struct Asked {
    sid: Sid,
    at: u64,
    attended: Vec<(Owner, Attended)>,
    committed: Committed<GroupOutcome>,
}

impl Writing {
    /// One whose time has come.
    pub(super) fn of_waiting(waiting: &ScheduledMessage, group: GroupId, message: UserMessage) -> Self {
        let ScheduledMessage { writer, role, dev, by_token, .. } = waiting;
        let by = By { user: writer.clone(), role: *role, dev: dev.clone(), by_token: *by_token };
        Self { by, group, message, ttl_ms: waiting.ttl_ms, waiting: Some(waiting.sid) }
    }

    /// The members, and whether their pushes are within the limit of the writer. Those of a message that is to be sent later count
    /// when it is.
    pub(super) async fn members(
        &self,
        context: &Context,
        limits: &Limits,
        id: Option<MessageId>,
    ) -> Result<Result<Vec<Owner>, Rejection>, StoreError> {
        let members = context.store.group_members(self.group.clone()).await?.await?;
        let is_later = self.waiting.is_none() && self.message.not_before.is_some_and(|at| at > now_ms());
        // Who is no member is to hear that, and nothing of how large the group is.
        let counts = !is_later && members.contains(&self.by.user);
        let pushed = if counts { members.len().saturating_sub(1) as u64 } else { 0 };
        let taken = limits.take(&self.by.user, self.by.role, Limited::GroupPushes(pushed));
        Ok(taken.map(|()| members).map_err(|rejection| rejection.about(id)))
    }

    /// Asks the store; then those members who look have it.
    pub(super) async fn ask(
        &self,
        context: &Context,
        policy: &Arc<ChatPolicy>,
        members: &[Owner],
    ) -> Result<Asked, StoreError> {
        let room = context.store.group_room(&self.group, members.len()).await?;
        let written = context.next_written().await;
        let (sid, at) = written.id();
        let others = members.iter().filter(|member| **member != self.by.user);
        let attended: Vec<_> = others
            .map(|member| (member.clone(), context.attentions.attended(member, at)))
            .filter(|(_, attended)| attended.any())
            .collect();
        let new = NewGroupMessage {
            sid,
            from: self.by.writer(context),
            group: self.group.clone(),
            message: self.message.clone(),
            deadline_ms: at.saturating_add(self.ttl_ms),
            attended: attended.clone(),
        };
        let pushes = (2 * members.len() + USER_DEVICES_MAX).min(PUSHES_MAX);
        let call = context.chat_call(at, pushes, policy);
        let committed = match self.waiting {
            Some(waiting) => context.store.group_send_scheduled(waiting, new, call, room).await?,
            None => context.store.group_message(new, call, room).await?,
        };
        attended.iter().for_each(|(member, _)| context.attentions.given(member, sid, at));
        Ok(Asked { sid, at, attended, committed })
    }
}

impl Asked {
    /// What it came to. Those whose pushes wait for a confirmation have their time for it; the others are decided about again
    /// at once.
    pub(super) async fn outcome(self, context: &Context) -> Result<GroupOutcome, StoreError> {
        let Self { sid, at, attended, committed } = self;
        let outcome = committed.await?;
        let waiting: &[Owner] = if let GroupOutcome::Done { waiting } = &outcome { waiting } else { &[] };
        for (member, _) in attended.iter().filter(|(member, _)| !waiting.contains(member)) {
            context.attentions.taken_back(member, sid);
        }
        let is_attended = |member: &Owner| attended.iter().any(|(name, _)| name == member);
        for member in waiting.iter().filter(|member| !is_attended(member)) {
            context.attentions.given(member, sid, at);
        }
        Ok(outcome)
    }
}

/// Does what is asked of a group.
pub(super) async fn execute(context: &Context, asked: &requests::Asked, op: GroupOp) -> Result<Reply, StoreError> {
    let (group, action, named) = match op {
        GroupOp::Get { group, after } => {
            let page = context.store.group_page(asked.user.clone(), group.clone(), after).await?.await?;
            return Ok(page.map(|page| page_of(&group, page)));
        }
        GroupOp::Create { group, members, settings } => (group, GroupAction::Create(settings), members),
        GroupOp::Change(group, change) => {
            let named = if let GroupChange::Add(users) = &change { users.clone() } else { Vec::new() };
            (Some(group), GroupAction::Change(change), named)
        }
    };
    let by = By { user: asked.user.clone(), role: asked.role, dev: Some(asked.dev.clone()), by_token: None };
    Change { by, limits: &asked.limits, policy: &asked.policy, group, action, named }.make(context).await
}

/// A change of a group that somebody asks for.
struct Change<'a> {
    by: By,
    limits: &'a Limits,
    policy: &'a Arc<ChatPolicy>,
    group: Option<GroupId>,
    action: GroupAction,
    /// Who may have to be invited.
    named: Vec<Owner>,
}

impl Change<'_> {
    /// Each member gets the notice of it, as of a message: to how many it goes. Whoever leaves may do so at any time, which counts
    /// for what is done after it.
    async fn count_notices(&self, context: &Context) -> Result<Result<usize, Rejection>, StoreError> {
        // How many groups somebody makes has limits of its own.
        let (Some(group), GroupAction::Change(change)) = (&self.group, &self.action) else {
            return Ok(Ok(1 + self.named.len()));
        };
        let members = context.store.group_members(group.clone()).await?.await?;
        // Who is no member is to hear that, and nothing of how large the group is.
        let told = if members.contains(&self.by.user) { members.len() as u64 } else { 0 };
        let counted = self.limits.take(&self.by.user, self.by.role, Limited::GroupPushes(told));
        let taken = if *change == GroupChange::Leave { Ok(()) } else { counted };
        Ok(taken.map(|()| members.len() + self.named.len()))
    }

    /// Makes it; the answer says who is in the group by it, or no longer, and who was invited.
    async fn make(self, context: &Context) -> Result<Reply, StoreError> {
        let members = match self.count_notices(context).await? {
            Ok(members) => members,
            Err(rejection) => return Ok(Err(rejection)),
        };
        let meetings = self.meetings(context).await?;
        if meetings.values().any(|meeting| !meeting.may) {
            // Before it is asked who exists: what is too much is not counted, and must not tell that.
            let refused = ChatOutcome::Refused(too_many_strangers());
            meetings.into_values().for_each(|meeting| meeting.came_to(&refused));
            return Ok(Err(too_many_strangers()));
        }
        let added = self.added(context, &meetings);
        if let Err(rejection) = self.count_added(&added) {
            let refused = ChatOutcome::Refused(rejection.clone());
            meetings.into_values().for_each(|meeting| meeting.came_to(&refused));
            return Ok(Err(rejection));
        }
        let (committed, group, invitations) = self.ask(context, &meetings, members).await?;
        let at = now_ms();
        for (user, sid) in &invitations {
            context.attentions.given(user, *sid, at);
        }
        let changed = match committed.await? {
            Ok(changed) => changed,
            Err(rejection) => {
                invitations.iter().for_each(|(user, sid)| context.attentions.taken_back(user, *sid));
                let refused = ChatOutcome::Refused(rejection.clone());
                meetings.into_values().for_each(|meeting| meeting.came_to(&refused));
                self.limits.not_added(&self.by.user, &added);
                return Ok(Err(rejection));
            }
        };
        let were_there: Vec<Owner> = added.iter().filter(|user| !changed.done.contains(user)).cloned().collect();
        self.limits.not_added(&self.by.user, &were_there);
        for (user, sid) in &invitations {
            let waits = changed.invited.iter().any(|(invited, of, waits)| invited == user && of == sid && *waits);
            if !waits {
                context.attentions.taken_back(user, *sid);
            }
        }
        for (user, meeting) in meetings {
            let stranger = changed.invited.iter().any(|(invited, ..)| *invited == user);
            let seen = Vec::new();
            meeting.came_to(&ChatOutcome::Done { seen, stranger, waits: false, confirmed: Vec::new() });
        }
        context.show(changed.seen).await;
        let names = |users: &[Owner]| users.iter().map(Owner::as_str).collect::<Value>();
        let invited: Vec<Owner> = changed.invited.into_iter().map(|(user, ..)| user).collect();
        let mut answer = fields(json!({
            "group": group.as_str(), "version": changed.version, "members": names(&changed.done),
        }));
        if !invited.is_empty() {
            answer.insert("invited".to_owned(), names(&invited));
        }
        Ok(Ok(answer))
    }

    /// Those who may be strangers, and whether the asker may meet them. A contact is none, however many are named; neither is a
    /// BAL, to anybody.
    async fn meetings(&self, context: &Context) -> Result<HashMap<Owner, Meeting>, StoreError> {
        if self.by.role != Role::User || self.named.is_empty() {
            return Ok(HashMap::new());
        }
        let strangers = context.store.group_strangers(self.by.user.clone(), self.named.clone()).await?.await?;
        let is_user = |user: &Owner| context.directory.role_of(user.as_str()) != Some(Role::Bal);
        let strangers = strangers.into_iter().filter(|user| is_user(user) && *user != self.by.user);
        Ok(strangers.map(|user| (user.clone(), self.limits.meet(&self.by.user, &user))).collect())
    }

    /// Those who are in the group at once, for they have the asker as a contact: how often one puts the same other into groups has
    /// a limit, or it could fill all the groups that the other may be in.
    fn added(&self, context: &Context, meetings: &HashMap<Owner, Meeting>) -> Vec<Owner> {
        let is_user = |user: &Owner| context.directory.role_of(user.as_str()) != Some(Role::Bal);
        let is_added = |user: &&Owner| **user != self.by.user && !meetings.contains_key(*user) && is_user(user);
        let named = if self.by.role == Role::User { self.named.as_slice() } else { &[] };
        named.iter().filter(is_added).cloned().collect()
    }

    /// Counts them; of a new group they get the notice.
    fn count_added(&self, added: &[Owner]) -> Result<(), Rejection> {
        let told = if matches!(self.action, GroupAction::Create(_)) { added.len() as u64 } else { 0 };
        self.limits.take(&self.by.user, self.by.role, Limited::GroupPushes(told))?;
        self.limits.add(&self.by.user, added)
    }

    /// Of how many members BALs may be told.
    fn members_told(&self) -> usize {
        match &self.action {
            GroupAction::Create(_) => 1 + self.named.len(),
            GroupAction::Change(GroupChange::Add(users) | GroupChange::Remove(users)) => users.len(),
            GroupAction::Change(GroupChange::Leave) => 1,
            GroupAction::Change(GroupChange::Dissolve) => MEMBERS_MAX,
            GroupAction::Change(GroupChange::Set(_) | GroupChange::Promote(_) | GroupChange::Demote(_)) => 0,
        }
    }

    /// Members who go, and whose phones show no more of the group.
    fn members_cleared(&self) -> usize {
        match &self.action {
            GroupAction::Change(GroupChange::Remove(users)) => users.len(),
            GroupAction::Change(GroupChange::Leave) => 1,
            GroupAction::Change(GroupChange::Dissolve) => MEMBERS_MAX,
            _ => 0,
        }
    }

    /// Hands it to the store when there is room for a notice to so many members; those who look are given what they may be
    /// invited by.
    async fn ask(
        &self,
        context: &Context,
        meetings: &HashMap<Owner, Meeting>,
        members: usize,
    ) -> Result<(Committed<Result<GroupChanged, Rejection>>, GroupId, Vec<(Owner, Sid)>), StoreError> {
        // One that has no name yet is nobody else's: it waits for room alone.
        let waits_as = self.group.clone().unwrap_or_else(|| context.next_sid().0.into());
        let room = context.store.group_room(&waits_as, members).await?;
        let written = context.next_written().await;
        let (sid, at) = written.id();
        let group = self.group.clone().unwrap_or_else(|| sid.into());
        let named: Vec<Named> = self
            .named
            .iter()
            .map(|user| {
                let (role, attended) =
                    (context.directory.role_of(user.as_str()), context.attentions.attended(user, at));
                let peer = Peer { name: user.clone(), role, attended };
                let strangers = meetings.get(user).is_none_or(|meeting| meeting.may);
                Named { peer, sid: context.next_sid().0, strangers }
            })
            .collect();
        let attended = named.iter().filter(|one| one.peer.attended.any());
        let attended = attended.map(|one| (one.peer.name.clone(), one.sid)).collect();
        let by = self.by.writer(context);
        let told = self.members_told() * self.policy.listeners.len();
        let cleared = self.members_cleared() * USER_DEVICES_MAX;
        let pushes = (1 + named.len()) * USER_DEVICES_MAX + cleared.min(PUSHES_MAX) + told;
        let new = NewGroupChange { sid, by, group: group.clone(), what: self.action.clone(), named };
        let committed = context.store.group_change(new, context.chat_call(at, pushes, self.policy), room).await?;
        Ok((committed, group, attended))
    }
}

/// The answer to `group.get`.
fn page_of(group: &GroupId, page: GroupPage) -> Map<String, Value> {
    let GroupPage { settings, version, members, role, items, complete } = page;
    let next = items.last().map(|member| member.user.as_str().to_owned()).filter(|_| !complete);
    let items: Vec<Value> = items.iter().map(shown).collect();
    let mut answer = fields(json!({
        "group": group.as_str(), "version": version, "members": members, "role": role, "items": items,
        "complete": complete,
    }));
    answer.extend(fields(json!(settings)));
    if let Some(next) = next {
        answer.insert("next".to_owned(), next.into());
    }
    answer
}

fn shown(member: &GroupMember) -> Value {
    let GroupMember { user, role, received, read } = member;
    let mut shown = fields(json!({ "user": user.as_str(), "role": role }));
    for (name, sid) in [("received", received), ("read", read)] {
        shown.extend(sid.map(|sid| (name.to_owned(), sid.to_string().into())));
    }
    Value::Object(shown)
}
