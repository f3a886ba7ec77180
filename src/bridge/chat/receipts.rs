//! What devices of users have and users have read, and how far: one verb of the store takes both.

use super::{ChatIntake, Remaining, TakeError, device, finish};
use crate::bridge::context::Context;
use crate::bridge::intake;
use crate::bridge::refusing::Refused;
use crate::chat::id::{Owner, Sid};
use crate::chat::suffix::read::ReadPosition;
use crate::chat::suffix::receipts::{Of, UserReceipt};
use crate::chat::topic::Device;
use crate::mqtt::Inbound;
use crate::ops::clock::now_ms;
use crate::store::{ChatOutcome, Committed, NewReceipt, ReceiptOf, StoreError};
use std::sync::Arc;

impl ChatIntake {
    /// What a device has, or its user has read.
    pub(crate) async fn receipt(&mut self, owner: &Owner, publish: &Inbound) -> Result<Remaining, TakeError> {
        let receipt = UserReceipt::parse(&publish.payload, &self.context.settings.limits.message())?;
        let dev = device(&publish.principal, receipt.dev.as_ref());
        if receipt.read {
            self.sign(owner, dev.as_ref(), publish);
        }
        let of = match receipt.of {
            Of::Each(sids) => ReceiptOf::Each(sids),
            Of::UpTo(sid) => ReceiptOf::UpTo(sid),
            Of::Pushes(ids) => {
                let sids = ids.iter().filter_map(|id| Sid::parse(id.as_str())).collect();
                return self.pushes(owner, dev, sids, receipt.read, publish).await;
            }
        };
        let committed = self.receipt_of(owner, dev, of, receipt.read).await?;
        Ok(self.finishing(owner, committed, publish))
    }

    async fn receipt_of(
        &self,
        owner: &Owner,
        dev: Option<Device>,
        of: ReceiptOf,
        read: bool,
    ) -> Result<Committed<ChatOutcome>, StoreError> {
        let at = now_ms();
        let new = receipt(&self.context, owner, dev, (of, read), at);
        self.context.store.chat_receipt(new, self.call(at)).await
    }

    /// Pushes by the `mid` in each: messages of users, or of BALs to tokens that belong to nobody.
    async fn pushes(
        &self,
        owner: &Owner,
        dev: Option<Device>,
        sids: Vec<Sid>,
        read: bool,
        publish: &Inbound,
    ) -> Result<Remaining, TakeError> {
        let context = Arc::clone(&self.context);
        let confirmed = context.store.confirm(owner, sids.clone(), now_ms()).await?;
        let own = context.store.chat_messages_to(owner.clone(), sids).await?;
        let (call, refusing, refused) = (self.call(now_ms()), self.refusing.clone(), Refused::of(publish));
        let owner = owner.clone();
        Ok(Box::pin(async move {
            let word = intake::confirmed(&context, &confirmed.await?);
            let own = own.await?;
            if own.is_empty() {
                return Ok(word);
            }
            let new = receipt(&context, &owner, dev, (ReceiptOf::Each(own), read), call.at);
            let outcome = context.store.chat_receipt(new, call).await?.await?;
            finish(&context, &refusing, &owner, outcome, &refused).await
        }))
    }

    /// How far the user has read.
    pub(super) async fn read(&mut self, owner: &Owner, publish: &Inbound) -> Result<Remaining, TakeError> {
        let ReadPosition { with, sid, dev } =
            ReadPosition::parse(&publish.payload, &self.context.settings.limits.message())?;
        let dev = device(&publish.principal, dev.as_ref());
        self.sign(owner, dev.as_ref(), publish);
        let committed = self.receipt_of(owner, dev, ReceiptOf::In(with, sid), true).await?;
        Ok(self.finishing(owner, committed, publish))
    }
}

/// What a receipt is to the store.
fn receipt(
    context: &Context,
    owner: &Owner,
    dev: Option<Device>,
    (of, read): (ReceiptOf, bool),
    at: u64,
) -> NewReceipt {
    let (sids, up_to) = match &of {
        ReceiptOf::Each(sids) => (sids.as_slice(), false),
        ReceiptOf::UpTo(sid) | ReceiptOf::In(_, sid) => (std::slice::from_ref(sid), true),
    };
    let mut attended = false;
    for sid in sids {
        attended |= context.attentions.confirmed(owner, dev.as_ref(), *sid, up_to, at);
    }
    let connected = context.attentions.connected(owner);
    NewReceipt { user: owner.clone(), dev, attended, connected, of, read }
}
