//! Messages and invitations, and what is asked of the gatekeeper first.

use super::calls::keep_signal;
use super::gatekeeper::Gatekeeper;
use super::limits::Meeting;
use super::{ChatIntake, PUSHES, Remaining, TakeError, device, finish, peer, routed};
use crate::bridge::context::Context;
use crate::bridge::refusing::Refused;
use crate::chat::amendment::Amendment;
use crate::chat::attention::Attended;
use crate::chat::id::{MessageId, Owner, Sid};
use crate::chat::message::Sender;
use crate::chat::principal::Role;
use crate::chat::suffix::calls::Signal;
use crate::chat::suffix::invitations::{Answer, Invitation, Kind};
use crate::chat::suffix::messages::UserMessage;
use crate::chat::topic::Device;
use crate::chat::user_limits::Limited;
use crate::mqtt::Inbound;
use crate::ops::message_log;
use crate::store::{ChatCall, ChatOutcome, Committed, NewChatMessage, NewInvitation, Peer, StoreError, Writer};
use std::sync::Arc;

/// A message that is to be sent so much later, in milliseconds, still waits when it comes to the store.
const SURELY_LATER_MS: u64 = 1_000;

/// What waits behind the gatekeeper: it is asked, or follows something of the same writer that it is asked about.
pub(super) enum Guarded {
    /// A message, and the expiry of its publish, in seconds.
    Message(UserMessage, Option<u32>),
    /// The offer of a call, and until when it rings, in Unix milliseconds.
    Offer(Signal, u64),
    /// Another signal of a call, and for how many seconds it is worth delivering.
    Signal(Signal, u32),
}

impl Guarded {
    /// Whether it brings its writer to somebody at `at`. One that is to be sent later is asked about when it is.
    fn is_written(&self, at: u64) -> bool {
        let is_later = |not_before| not_before > at.saturating_add(SURELY_LATER_MS);
        match self {
            Self::Message(message, _) => {
                message.amends != Some(Amendment::Retract) && !message.not_before.is_some_and(is_later)
            }
            Self::Offer(..) => true,
            Self::Signal(..) => false,
        }
    }

    /// Asks the store to keep it under this id. `waits`: a message may wait on disk, because the gatekeeper has to be asked about it
    /// (`true`), or about one before it.
    async fn keep(
        self,
        context: &Context,
        (sid, at): (Sid, u64),
        (from, to): (Writer, Peer),
        (call, waits): (ChatCall, Option<bool>),
    ) -> Result<Committed<ChatOutcome>, StoreError> {
        match self {
            Self::Message(message, expiry) => {
                let route = (to.role == Some(Role::Bal)).then(|| context.route_to(&to.name));
                let seconds = expiry.map_or(message.ttl, |expiry| expiry.min(message.ttl));
                let deadline_ms = at.saturating_add(u64::from(seconds) * 1_000);
                let new = NewChatMessage { sid, from, to, message, deadline_ms, route };
                match waits {
                    Some(asks) => context.store.chat_message_in_order(new, asks, call).await,
                    None => context.store.chat_message(new, call).await,
                }
            }
            Self::Offer(signal, until) => keep_signal(context, sid, (from, to), (signal, until), call).await,
            Self::Signal(signal, ttl_s) => {
                let until = at.saturating_add(u64::from(ttl_s) * 1_000);
                keep_signal(context, sid, (from, to), (signal, until), call).await
            }
        }
    }
}

/// Something that is written to somebody, on its way to the store.
pub(super) struct Written<'a> {
    owner: &'a Owner,
    publish: &'a Inbound,
    pub(super) sid: Sid,
    pub(super) at: u64,
    pub(super) from: Writer,
    pub(super) to: Peer,
    /// If the writer is a user, and the other one may be a stranger.
    meeting: Option<Meeting>,
}

impl ChatIntake {
    /// A message to a user or BAL, of a user or BAL.
    pub(in crate::bridge) async fn message(
        &mut self,
        owner: &Owner,
        publish: &Inbound,
    ) -> Result<Remaining, TakeError> {
        let limits = self.context.settings.limits.message();
        let sender = if publish.principal.role == Role::Bal { Sender::Bal } else { Sender::User };
        let payload = routed(publish, &limits)?;
        let message = UserMessage::parse(sender, &payload, &limits)?;
        if publish.principal.is_direct() {
            message.check_direct()?;
        }
        if let Some(group) = message.to.group() {
            return self.group_message((owner, publish), (group, message), payload.len());
        }
        let (id, dev) = (&message.id, message.dev.as_ref());
        let context = Arc::clone(&self.context);
        let in_order = context.next_written().await;
        // Whoever takes a message back writes to nobody anew.
        let to = (&message.to, message.amends != Some(Amendment::Retract));
        let written = self.written((owner, publish), (id, payload.len()), to, (dev, true, in_order.id()))?;
        if let Some(gatekeeper) = self.gatekeeper.clone().filter(|_| publish.principal.role == Role::User) {
            return Ok(self.behind_gatekeeper(gatekeeper, written, Guarded::Message(message, publish.expiry)));
        }
        let Written { sid, at, ref from, ref to, .. } = written;
        let (message, sides) = (Guarded::Message(message, publish.expiry), (from.clone(), to.clone()));
        let committed = message.keep(&self.context, (sid, at), sides, (self.call(at), None)).await?;
        Ok(self.remaining(written, committed))
    }

    /// A message or an offer is asked about, and stored then. It gets its id only then: what others wrote meanwhile comes before it.
    /// A message that is to be sent later is asked about when it is. So is every one over a broker of others: that sends only so much
    /// without an acknowledgement, and the answer may be behind it. So is one by a push service, which sends only so much of all
    /// devices. There the message waits on disk ([`super::schedule`]).
    pub(super) fn behind_gatekeeper(
        &self,
        gatekeeper: Gatekeeper,
        written: Written<'_>,
        guarded: Guarded,
    ) -> Remaining {
        let Written { owner, publish, at, from, to, meeting, .. } = written;
        let (context, refusing, refused) = (Arc::clone(&self.context), self.refusing.clone(), Refused::of(publish));
        let (owner, policy, call_kept) = (owner.clone(), Arc::clone(&self.policy), self.calls.kept_late());
        let holds_up_others = !context.broker.answers_publishers || publish.principal.writes_by_push_service();
        Box::pin(async move {
            let (is_offer, is_pushed) =
                (matches!(guarded, Guarded::Offer(..)), !matches!(guarded, Guarded::Signal(..)));
            // Who has met too many strangers already is refused, whatever the answer.
            let is_written = guarded.is_written(at);
            let is_to_other = to.role != Some(Role::Bal) && to.name != owner;
            let asks = is_to_other && is_written && from.strangers;
            let known = if asks { gatekeeper.knows(&context, &owner, &to.name).await? } else { Some(false) };
            let may_wait = matches!(guarded, Guarded::Message(..)) && holds_up_others;
            let waits = (may_wait && is_to_other && is_written).then_some(known.is_none());
            let let_in = match known {
                Some(let_in) => let_in,
                None => waits.is_none() && gatekeeper.ask(&context, &owner, &to.name).await,
            };
            let in_order = context.next_written().await;
            let (sid, at) = in_order.id();
            let attended = if is_pushed { context.attentions.attended(&to.name, at) } else { Attended::default() };
            let to = Peer { attended, ..to };
            let sides = (Writer { let_in, ..from }, to.clone());
            let call = context.chat_call(at, PUSHES, &policy);
            let committed = guarded.keep(&context, (sid, at), sides, (call, waits)).await?;
            let kept = Kept::new(&context, (sid, at), (&owner, &to), meeting, committed);
            drop(in_order);
            let outcome = kept.outcome(&context).await?;
            if is_offer {
                call_kept.notify_one();
            }
            finish(&context, &refusing, &owner, outcome, &refused).await
        })
    }

    pub(super) async fn invitation(&mut self, owner: &Owner, publish: &Inbound) -> Result<Remaining, TakeError> {
        let limits = self.context.settings.limits.message();
        let payload = routed(publish, &limits)?;
        let invitation = Invitation::parse(&payload, &limits)?;
        if publish.principal.is_direct() {
            invitation.check_direct()?;
        }
        let (id, dev) = (&invitation.id, invitation.dev.as_ref());
        // Whoever takes an invitation back writes to nobody anew, and has not been answered.
        let counts = !matches!(invitation.kind, Kind::Answer(Answer::Cancel, _));
        let context = Arc::clone(&self.context);
        let in_order = context.next_written().await;
        let to = (&invitation.to, counts);
        let written = self.written((owner, publish), (id, payload.len()), to, (dev, true, in_order.id()))?;
        let Written { sid, at, ref from, ref to, .. } = written;
        let new = NewInvitation { sid, from: from.clone(), to: to.clone(), invitation };
        let committed = self.context.store.chat_invite(new, self.call(at)).await?;
        Ok(self.remaining(written, committed))
    }

    /// Counts what is written, also as written to somebody who may be a stranger.
    pub(super) fn written<'a>(
        &self,
        (owner, publish): (&'a Owner, &'a Inbound),
        (id, bytes): (&Option<MessageId>, usize),
        (to, counts): (&Owner, bool),
        (dev, is_sign, (sid, at)): (Option<&Device>, bool, (Sid, u64)),
    ) -> Result<Written<'a>, TakeError> {
        let role = publish.principal.role;
        let counted = self.limits.take(owner, role, Limited::Message(bytes as u64));
        counted.map_err(|rejection| rejection.about(id.clone()))?;
        let dev = device(&publish.principal, dev);
        if is_sign {
            self.sign(owner, dev.as_ref(), publish);
        }
        let known = peer(&self.context, to, at);
        let to = if known.name == *owner { Peer { role: Some(role), ..known } } else { known };
        let may_be_stranger = counts && role == Role::User && to.role != Some(Role::Bal) && to.name != *owner;
        let meeting = may_be_stranger.then(|| self.limits.meet(owner, &to.name));
        let strangers = meeting.as_ref().is_none_or(|meeting| meeting.may);
        let connected = self.context.attentions.connected(owner);
        let (direct, by_token) = (publish.principal.is_direct(), publish.principal.by_token());
        let from = Writer { name: owner.clone(), role, dev, by_token, connected, strangers, let_in: false, direct };
        Ok(Written { owner, publish, sid, at, from, to, meeting })
    }

    /// What follows once the store was asked.
    pub(super) fn remaining(&self, written: Written<'_>, committed: Committed<ChatOutcome>) -> Remaining {
        let Written { owner, publish, sid, at, to, meeting, .. } = written;
        let kept = Kept::new(&self.context, (sid, at), (owner, &to), meeting, committed);
        let (context, refusing, refused) = (Arc::clone(&self.context), self.refusing.clone(), Refused::of(publish));
        let owner = owner.clone();
        Box::pin(async move { finish(&context, &refusing, &owner, kept.outcome(&context).await?, &refused).await })
    }
}

/// Something that the store was asked to keep: its pushes may wait for the devices of the reader that somebody looks at.
pub(super) struct Kept {
    sid: Sid,
    writer: Owner,
    reader: Owner,
    waits: bool,
    meeting: Option<Meeting>,
    committed: Committed<ChatOutcome>,
}

impl Kept {
    /// To be called when the store was asked, and not before: of what those devices let wait too long, or leave, the store is asked
    /// again, and must know it then.
    pub(super) fn new(
        context: &Context,
        (sid, at): (Sid, u64),
        (from, to): (&Owner, &Peer),
        meeting: Option<Meeting>,
        committed: Committed<ChatOutcome>,
    ) -> Self {
        let waits = to.attended.any();
        if waits {
            context.attentions.given(&to.name, sid, at);
        }
        Self { sid, writer: from.clone(), reader: to.name.clone(), waits, meeting, committed }
    }

    /// What it came to.
    pub(super) async fn outcome(self, context: &Context) -> Result<ChatOutcome, StoreError> {
        let Self { sid, writer, reader, waits, meeting, committed } = self;
        let outcome = committed.await?;
        if let ChatOutcome::Done { .. } = outcome {
            tracing::debug!(target: message_log::TARGET, from = %writer, to = %reader, %sid, "chat: on disk");
        }
        if waits && !matches!(outcome, ChatOutcome::Done { waits: true, .. }) {
            context.attentions.taken_back(&reader, sid);
        }
        if let Some(meeting) = meeting {
            meeting.came_to(&outcome);
        }
        Ok(outcome)
    }
}
