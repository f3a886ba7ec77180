//! What chat users write, on its way to the store: read, decided there in one transaction, and only then acknowledged.
//!
//! ```text
//!   Inbound ─▶ parse ─▶ verb of the store ──commit──▶ acknowledgement, or a refusal to its writer
//!                │             │
//!                ▼             └─▶ documents for both sides, pushes, what the broker shows of presence
//!            Attentions (signs of a person, clocks)
//! ```
//!
//! A verb decides by what is on disk; what only the bridge knows (who is there, who looks) goes with it. BALs use the same
//! topics, but for those of devices.

mod calls;
mod erase;
mod export;
mod first_screen;
mod gatekeeper;
mod groups;
mod kept_copies;
mod limits;
mod messages;
#[cfg(test)]
mod model;
mod pushes;
mod receipts;
mod remembered;
mod requests;
mod schedule;
mod typing;

pub(super) use calls::{CallsKept, tell_late};
pub(super) use groups::is_for_group;
pub(super) use kept_copies::{KeptCopies, clear_kept};
pub(super) use pushes::run as watch_pushes;
pub(super) use remembered::Remembered;
pub(super) use schedule::Schedule;

use super::context::Context;
use super::presence::PresenceWord;
use super::refusing::{Refused, Refusing};
use crate::chat::gatekeeper::GateAnswer;
use crate::chat::id::Owner;
use crate::chat::message::{ErrorCode, Rejection, document_id};
use crate::chat::principal::{Principal, Role};
use crate::chat::suffix::chatstate::ChatState;
use crate::chat::suffix::devices::DeviceWord;
use crate::chat::suffix::profile::Profile;
use crate::chat::suffix::requests::{Op, Request, Writers};
use crate::chat::topic::{ChatTopic, ClientTopic, Device};
use crate::chat::user_limits::Limited;
use crate::mqtt::{AckWord, Inbound};
use crate::ops::clock::now_ms;
use crate::store::{ChatCall, ChatOutcome, ChatPolicy, Committed, DeviceChange, Peer, StoreError, USER_DEVICES_MAX};
use calls::CallClock;
use export::Exports;
use gatekeeper::Gatekeeper;
use limits::Limits;
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use typing::Typing;

/// Ids for pushes that a verb may make: to the reader's devices, and to those of its writer.
const PUSHES: usize = 2 * USER_DEVICES_MAX;

/// Users of whom it is remembered that the store was told; beyond it all are told of again.
const USERS_MAX: usize = 100_000;

/// What remains to be done for one publish, as in the intake.
pub(super) type Remaining = super::intake::Remaining;

/// Why a publish is not taken.
type TakeError = super::intake::TakeError;

/// Takes what users write.
pub(super) struct ChatIntake {
    context: Arc<Context>,
    policy: Arc<ChatPolicy>,
    refusing: Refusing,
    limits: Limits,
    typing: Typing,
    /// If there is one.
    gatekeeper: Option<Gatekeeper>,
    calls: CallClock,
    exports: Exports,
    /// Of whom the store was told.
    users: HashSet<Owner>,
    /// As it was then ([`crate::store::Store::freed_names`]).
    freed_names: u64,
}

impl ChatIntake {
    pub(super) fn new(context: Arc<Context>, refusing: Refusing) -> Self {
        let policy = Arc::new(context.settings.chat_policy());
        let Remembered { limits, exports, gatekeeper } = &context.remembered;
        let (limits, exports, gatekeeper) = (limits.clone(), exports.clone(), gatekeeper.clone());
        let calls = CallClock::new();
        Self {
            context,
            policy,
            refusing,
            limits,
            typing: Typing::default(),
            gatekeeper,
            calls,
            exports,
            users: HashSet::new(),
            freed_names: 0,
        }
    }

    /// How much later what a user publishes is to be acknowledged: not at once, where it is more than its limit allows.
    pub(super) fn delay(&self, user: &Owner) -> Duration {
        self.limits.publish(user)
    }

    /// A user writes below its own name, and exists from now on. An external broker tells nothing else of those who log in.
    pub(super) async fn heard_of(&mut self, user: &Owner) -> Result<(), StoreError> {
        let freed_names = self.context.store.freed_names();
        if self.freed_names != freed_names {
            // One of these names may be somebody else's by now, of whom nothing is known.
            self.users.clear();
            self.typing = Typing::default();
            self.freed_names = freed_names;
        }
        if self.users.contains(user) {
            return Ok(());
        }
        if self.users.len() >= USERS_MAX {
            self.users.clear();
        }
        self.users.insert(user.clone());
        let _committed = self.context.store.chat_user_seen(user.clone()).await?;
        Ok(())
    }

    /// Whether any user has written since the start.
    pub(super) fn has_users(&self) -> bool {
        !self.users.is_empty()
    }

    /// Whether each message and signal of a user waits for those before it: one of them may wait for the gatekeeper.
    pub(super) fn keeps_order(&self) -> bool {
        self.gatekeeper.is_some()
    }

    /// A BAL answers, which counts if it is the gatekeeper; `None`: it is not.
    pub(super) fn gatekeeper_answers(&self, bal: &Owner, payload: &[u8]) -> Option<Result<(), Rejection>> {
        let gatekeeper = self.gatekeeper.as_ref().filter(|gatekeeper| gatekeeper.is(bal))?;
        let answer = GateAnswer::parse(payload, &self.context.settings.limits.message());
        Some(answer.map(|answer| gatekeeper.answered(answer)))
    }

    /// Everything else that users write.
    pub(super) async fn take(
        &mut self,
        owner: &Owner,
        topic: &ChatTopic,
        publish: &Inbound,
    ) -> Result<Remaining, TakeError> {
        match topic {
            ChatTopic::Read => self.read(owner, publish).await,
            ChatTopic::ChatState => self.chat_state(owner, publish).await,
            ChatTopic::Profile => self.profile(owner, publish).await,
            ChatTopic::Invitations => self.invitation(owner, publish).await,
            ChatTopic::Calls => self.signal(owner, publish).await,
            ChatTopic::Devices(_) if publish.principal.role == Role::Bal => {
                Err(Rejection::new(ErrorCode::Forbidden, "a BAL has no devices to push to").into())
            }
            ChatTopic::Devices(device) => self.device(owner, device, publish).await,
            ChatTopic::Requests(device) => self.request(owner, device, publish).await,
        }
    }

    async fn chat_state(&mut self, owner: &Owner, publish: &Inbound) -> Result<Remaining, TakeError> {
        let limits = self.context.settings.limits.message();
        let state = ChatState::parse(&routed(publish, &limits)?, &limits)?;
        let dev = device(&publish.principal, state.dev.as_ref());
        self.sign(owner, dev.as_ref(), publish);
        let now = now_ms();
        if !self.typing.passes(owner, &state, now) {
            return Ok(Box::pin(async { Ok(Some(AckWord::Done)) }));
        }
        if let Some(group) = state.to.group() {
            return Ok(self.group_chat_state(owner, group, state));
        }
        // Where it is acknowledged, the store is asked in any case: how long that takes would tell whether somebody looks.
        if publish.at_most_once && !self.context.attentions.attended(&state.to, now).any() {
            return Ok(Box::pin(async { Ok(Some(AckWord::Done)) }));
        }
        let (context, owner) = (Arc::clone(&self.context), owner.clone());
        let seen = context.store.chat_has_contact(state.to.clone(), owner.clone()).await?;
        Ok(Box::pin(async move {
            if seen.await? {
                typing::pass_on(&context, &owner, &state.to, &state).await;
            }
            Ok(Some(AckWord::Done))
        }))
    }

    async fn profile(&mut self, owner: &Owner, publish: &Inbound) -> Result<Remaining, TakeError> {
        let profile = Profile::parse(&publish.payload, &self.context.settings.limits.message())?;
        let text = profile.map(|_| String::from_utf8_lossy(&publish.payload).into_owned());
        let committed = self.context.store.chat_profile(owner.clone(), text.clone()).await?;
        let (context, topic) = (Arc::clone(&self.context), ClientTopic::Chat(owner.clone(), ChatTopic::Profile));
        // An external broker has it from its writer, and any broker what a BAL retains.
        let is_shown = context.broker.sees_clients && publish.principal.role == Role::User;
        Ok(Box::pin(async move {
            committed.await?;
            if is_shown && !context.publish_retained(&topic, text.unwrap_or_default().into()).await {
                return Ok(None);
            }
            Ok(Some(AckWord::Done))
        }))
    }

    async fn device(&mut self, owner: &Owner, dev: &Device, publish: &Inbound) -> Result<Remaining, TakeError> {
        let word = DeviceWord::parse(&publish.payload, &self.context.settings.limits.message())?;
        let registration = if let DeviceWord::Register(registration) = word { Some(registration) } else { None };
        if registration.is_some() {
            self.limits.take(owner, publish.principal.role, Limited::Registration)?;
        }
        let (proof, at) = self.context.next_sid();
        let verify = self.context.settings.chat.verify_tokens;
        // An id has 38 random bits, and a proof counts for minutes; with a second one it cannot be guessed.
        let proof = format!("{proof}{:016x}", rand::random::<u64>());
        let change = DeviceChange { user: owner.clone(), dev: dev.clone(), registration, proof, verify };
        let committed = self.context.store.chat_device(change, self.call(at)).await?;
        let (finished, context) = (self.finishing(owner, committed, publish), Arc::clone(&self.context));
        let (owner, dev) = (owner.clone(), dev.clone());
        Ok(Box::pin(async move {
            let word = finished.await?;
            // It may have been refused, or wait for a proof.
            let known = context.store.chat_devices(owner.clone()).await?.await?;
            let has_token = known.iter().any(|known| known.dev == dev);
            let _ = context.presences.send(PresenceWord::Token(owner, dev, has_token)).await;
            Ok(word)
        }))
    }

    async fn request(&mut self, owner: &Owner, dev: &Device, publish: &Inbound) -> Result<Remaining, TakeError> {
        if publish.principal.device.as_deref().is_some_and(|own| own != dev.as_str()) {
            let detail = "`requests/` is followed by the name of another device";
            let rejection = Rejection::new(ErrorCode::Forbidden, detail);
            return Err(rejection.about(document_id(&publish.payload)).into());
        }
        let parsed = Request::parse(&publish.payload, &self.context.settings.limits.message());
        let parsed = parsed.and_then(|request| match &request.op {
            Op::WhoMayWrite(Writers::Gatekeeper) if self.gatekeeper.is_none() => {
                let rejection = Rejection::bad_field("who", "is gatekeeper, and the bridge has none");
                Err(rejection.about(request.id))
            }
            _ => Ok(request),
        });
        let counted = self.count_request(owner, publish.principal.role, &parsed);
        let request = match counted.and(parsed) {
            Ok(request) => request,
            Err(rejection) => return requests::refuse(&self.context, owner, dev, rejection).await,
        };
        let asked = requests::Asked {
            user: owner.clone(),
            role: publish.principal.role,
            dev: dev.clone(),
            request,
            payload: publish.payload.clone(),
            limits: self.limits.clone(),
            policy: Arc::clone(&self.policy),
        };
        if publish.principal.role == Role::User && matches!(asked.request.op, Op::Erase(_)) {
            return erase::answer(&self.context, asked).await;
        }
        let call = self.call_for(now_ms(), asked.request.conversations());
        if publish.principal.role == Role::User && matches!(asked.request.op, Op::Export { .. }) {
            return export::answer(&self.context, &self.exports, asked, call).await;
        }
        requests::answer(&self.context, asked, call).await
    }

    /// Counts a request, also one that cannot be read.
    fn count_request(&self, owner: &Owner, role: Role, request: &Result<Request, Rejection>) -> Result<(), Rejection> {
        let id = match request {
            Ok(request) => request.id.clone(),
            Err(rejection) => rejection.ref_id().cloned(),
        };
        let mut counted = self.limits.take(owner, role, Limited::Request);
        if let Ok(Request { op: Op::TestPush, .. }) = request {
            counted = counted.and_then(|()| self.limits.take(owner, role, Limited::TestPush));
        }
        if let Ok(Request { op: Op::Report { .. }, .. }) = request {
            counted = counted.and_then(|()| self.limits.take(owner, role, Limited::Report));
        }
        if let Ok(Request { op: Op::Erase(_) | Op::Export { secret: Some(_), .. }, .. }) = request {
            counted = counted.and_then(|()| self.limits.take(owner, role, Limited::Proof));
        }
        counted.map_err(|rejection| rejection.about(id))
    }

    /// What follows a verb that says what it came to.
    fn finishing(&self, owner: &Owner, committed: Committed<ChatOutcome>, publish: &Inbound) -> Remaining {
        let (context, refusing, refused) = (Arc::clone(&self.context), self.refusing.clone(), Refused::of(publish));
        let owner = owner.clone();
        Box::pin(async move { finish(&context, &refusing, &owner, committed.await?, &refused).await })
    }

    /// Somebody did something at the device. What a push handler does in the background is nothing that a person did.
    fn sign(&self, owner: &Owner, dev: Option<&Device>, publish: &Inbound) {
        if let Some(dev) = dev.filter(|_| publish.principal.role == Role::User && !publish.principal.background) {
            self.context.attentions.sign(owner, dev, now_ms());
        }
    }

    /// Sends what is to be sent at a time.
    pub(super) fn schedule(&self) -> Schedule {
        let (context, policy) = (Arc::clone(&self.context), Arc::clone(&self.policy));
        Schedule::new(context, policy, self.limits.clone(), self.gatekeeper.clone())
    }

    fn call(&self, at: u64) -> ChatCall {
        self.context.chat_call(at, PUSHES, &self.policy)
    }

    /// For a verb that may clear the notifications of so many conversations.
    fn call_for(&self, at: u64, conversations: usize) -> ChatCall {
        self.context.chat_call(at, PUSHES.max(conversations * USER_DEVICES_MAX), &self.policy)
    }
}

/// Tells the broker who sees whom from now on, and the writer why it was refused.
async fn finish(
    context: &Arc<Context>,
    refusing: &Refusing,
    owner: &Owner,
    outcome: ChatOutcome,
    refused: &Refused,
) -> Result<Option<AckWord>, StoreError> {
    match outcome {
        ChatOutcome::Done { seen, .. } => {
            context.show(seen).await;
            Ok(Some(AckWord::Done))
        }
        ChatOutcome::Repeated => Ok(Some(AckWord::Done)),
        ChatOutcome::Scheduled => {
            context.scheduled.notify_one();
            Ok(Some(AckWord::Done))
        }
        ChatOutcome::Refused(rejection) => refusing.refuse(owner, &rejection, refused).await?.await,
        // An external broker has acknowledged it long ago; left alone, it sends the message again.
        ChatOutcome::Full if !context.broker.answers_publishers => Ok(None),
        ChatOutcome::Full => Ok(Some(AckWord::Quota)),
    }
}

/// Somebody to whom something is written.
fn peer(context: &Context, name: &Owner, at: u64) -> Peer {
    let role = context.directory.role_of(name.as_str());
    Peer { name: name.clone(), role, attended: context.attentions.attended(name, at) }
}

/// The device that wrote: the embedded broker knows it, another one takes the client's word.
fn device(principal: &Principal, said: Option<&Device>) -> Option<Device> {
    match &principal.device {
        Some(device) => Device::new(&**device).ok(),
        None => said.cloned(),
    }
}

/// The payload, with `to` where its topic was another one's inbox.
fn routed(publish: &Inbound, limits: &crate::chat::message::Limits) -> Result<bytes::Bytes, Rejection> {
    let Some(to) = &publish.routed_to else { return Ok(publish.payload.clone()) };
    crate::chat::message::with_recipient(&publish.payload, to, limits).map(Into::into)
}
