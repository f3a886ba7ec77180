//! What devices have, and what users have read.

use super::{ChatIntake, Remaining, TakeError, device, finish};
use crate::bridge::context::Context;
use crate::bridge::intake::confirmed;
use crate::bridge::refusing::Refused;
use crate::chat::id::{MessageId, Owner, Sid};
use crate::chat::message::{ErrorCode, Rejection};
use crate::chat::principal::Role;
use crate::chat::suffix::read::{Last, ReadPosition};
use crate::chat::suffix::receipts::{Of, UserReceipt};
use crate::chat::topic::Device;
use crate::mqtt::Inbound;
use crate::ops::clock::now_ms;
use crate::store::{ChatOutcome, NewReceipt, ReceiptOf, StoreError};
use std::sync::Arc;

/// Who confirms something.
#[derive(Clone)]
struct Reader {
    user: Owner,
    dev: Option<Device>,
    /// It is a connection in the background: nobody looks at the device because of it.
    background: bool,
}

impl ChatIntake {
    /// What a device has, or its user has read.
    pub(in crate::bridge) async fn receipt(
        &mut self,
        owner: &Owner,
        publish: &Inbound,
    ) -> Result<Remaining, TakeError> {
        let receipt = UserReceipt::parse(&publish.payload, &self.context.settings.limits.message())?;
        let reader = Reader::of(owner, publish, receipt.dev.as_ref());
        if receipt.read {
            self.sign(owner, reader.dev.as_ref(), publish);
        }
        let of = match receipt.of {
            Of::Each(sids) if publish.principal.role == Role::Bal => {
                // By the same word it acknowledges what is in its inbox.
                let _committed = self.context.store.confirm(owner, sids.clone(), now_ms()).await?;
                ReceiptOf::Each(sids)
            }
            Of::Each(sids) => ReceiptOf::Each(sids),
            Of::UpTo(sid) => ReceiptOf::UpTo(sid),
            Of::Written { with, ids, up_to } => {
                return self.receipt_by_id(reader, (with, ids, up_to), receipt.read, publish).await;
            }
            Of::Pushes(ids) => {
                let sids = ids.iter().filter_map(|id| Sid::parse(id.as_str())).collect();
                return self.pushes(reader, sids, receipt.read, publish).await;
            }
        };
        Ok(self.receipt_of(reader, of, receipt.read, publish).await?)
    }

    pub(super) async fn read(&mut self, owner: &Owner, publish: &Inbound) -> Result<Remaining, TakeError> {
        let ReadPosition { with, last, dev } =
            ReadPosition::parse(&publish.payload, &self.context.settings.limits.message())?;
        let reader = Reader::of(owner, publish, dev.as_ref());
        self.sign(owner, reader.dev.as_ref(), publish);
        match last {
            Last::Sid(sid) => Ok(self.receipt_of(reader, ReceiptOf::In(with, sid), true, publish).await?),
            Last::Id(id) => self.receipt_by_id(reader, (with, vec![id], true), true, publish).await,
        }
    }

    async fn receipt_of(
        &self,
        reader: Reader,
        of: ReceiptOf,
        read: bool,
        publish: &Inbound,
    ) -> Result<Remaining, StoreError> {
        let at = now_ms();
        let new = reader.receipt(&self.context, of, read, at);
        let call = self.call_for(at, new.conversations());
        let committed = self.context.store.chat_receipt(new, call).await?;
        let (context, refusing, refused) = (Arc::clone(&self.context), self.refusing.clone(), Refused::of(publish));
        Ok(Box::pin(async move {
            let outcome = committed.await?;
            reader.confirmed(&context, &outcome, at);
            finish(&context, &refusing, &reader.user, outcome, &refused).await
        }))
    }

    /// Messages by the ids that their writer gave them: what came past the bridge has no other one. The store is asked for theirs
    /// first, behind all that was asked of it before.
    async fn receipt_by_id(
        &self,
        reader: Reader,
        (with, ids, up_to): (Owner, Vec<MessageId>, bool),
        read: bool,
        publish: &Inbound,
    ) -> Result<Remaining, TakeError> {
        let context = Arc::clone(&self.context);
        let asked = ids.len();
        let written = context.store.chat_written_to(reader.user.clone(), with, ids).await?;
        let call = self.call_for(now_ms(), asked);
        let (refusing, refused) = (self.refusing.clone(), Refused::of(publish));
        Ok(Box::pin(async move {
            let sids = written.await?;
            if sids.len() < asked {
                let rejection =
                    Rejection::new(ErrorCode::NotFound, "`with` has written no message with this `id` to you");
                return refusing.refuse(&reader.user, &rejection, &refused).await?.await;
            }
            let at = call.at;
            let of = match sids[..] {
                [sid] if up_to => ReceiptOf::UpTo(sid),
                _ => ReceiptOf::Each(sids),
            };
            let new = reader.receipt(&context, of, read, at);
            let outcome = context.store.chat_receipt(new, call).await?.await?;
            reader.confirmed(&context, &outcome, at);
            finish(&context, &refusing, &reader.user, outcome, &refused).await
        }))
    }

    /// Pushes by the `mid` in each: messages of users, or of BALs to tokens that belong to nobody.
    async fn pushes(
        &self,
        reader: Reader,
        sids: Vec<Sid>,
        read: bool,
        publish: &Inbound,
    ) -> Result<Remaining, TakeError> {
        let context = Arc::clone(&self.context);
        let sids_asked = sids.len();
        let pushes = context.store.confirm(&reader.user, sids.clone(), now_ms()).await?;
        let own = context.store.chat_messages_to(reader.user.clone(), sids).await?;
        let call = self.call_for(now_ms(), sids_asked);
        let (refusing, refused) = (self.refusing.clone(), Refused::of(publish));
        Ok(Box::pin(async move {
            let word = confirmed(&context, &pushes.await?);
            let own = own.await?;
            if own.is_empty() {
                return Ok(word);
            }
            let at = call.at;
            let new = reader.receipt(&context, ReceiptOf::Each(own), read, at);
            let outcome = context.store.chat_receipt(new, call).await?.await?;
            reader.confirmed(&context, &outcome, at);
            finish(&context, &refusing, &reader.user, outcome, &refused).await
        }))
    }
}

impl Reader {
    fn of(user: &Owner, publish: &Inbound, said: Option<&Device>) -> Self {
        let dev = device(&publish.principal, said);
        Self { user: user.clone(), dev, background: publish.principal.background }
    }

    /// The device, if somebody may be looking at it.
    fn seen(&self) -> Option<&Device> {
        self.dev.as_ref().filter(|_| !self.background)
    }

    /// What the receipt is to the store. Only the store knows which messages lie in one conversation, so of those before a
    /// message it is asked.
    fn receipt(&self, context: &Context, of: ReceiptOf, read: bool, at: u64) -> NewReceipt {
        let Self { user, dev, .. } = self;
        let (sids, up_to) = match &of {
            ReceiptOf::Each(sids) => (sids.as_slice(), read),
            ReceiptOf::UpTo(sid) | ReceiptOf::In(_, sid) => (std::slice::from_ref(sid), true),
        };
        let mut attended = false;
        for sid in sids {
            attended |= context.attentions.confirmed(user, self.seen(), *sid, at);
        }
        let before = sids.iter().max().zip(self.seen()).filter(|_| up_to);
        let waited = before.map(|(sid, dev)| context.attentions.waited_for(user, dev, *sid)).unwrap_or_default();
        let connected = context.attentions.connected(user);
        NewReceipt { user: user.clone(), dev: dev.clone(), attended, connected, of, waited, read }
    }

    /// Pushes of what the device has wait for it no longer.
    fn confirmed(&self, context: &Context, outcome: &ChatOutcome, at: u64) {
        let ChatOutcome::Done { confirmed, .. } = outcome else { return };
        for sid in confirmed {
            context.attentions.confirmed(&self.user, self.seen(), *sid, at);
        }
    }
}
