//! What was published where its publisher may not write: the embedded broker has let nobody have it.

use super::delayed::AckTime;
use super::waiting::{Order, Taken};
use super::{Intake, Refused};
use crate::chat::id::Owner;
use crate::chat::principal::Role;
use crate::mqtt::{AckWord, Inbound};
use crate::store::StoreError;
use std::time::Duration;
use tokio::time::Instant;

impl Intake {
    /// Tells its publisher, and does nothing else.
    pub(super) async fn denied(&mut self, publish: Inbound) -> Result<Option<Taken>, StoreError> {
        let owner = Owner::new(&*publish.principal.name).ok();
        let Some(owner) = owner.filter(|owner| !self.context.store.is_erased(owner.as_str())) else {
            publish.ack.release(AckWord::Done);
            return Ok(None);
        };
        let is_user = publish.principal.role == Role::User;
        // It counts like all that a user publishes.
        let delay = if is_user { self.chat.delay(&owner) } else { Duration::ZERO };
        if !delay.is_zero() && publish.at_most_once {
            publish.ack.release(AckWord::Done);
            return Ok(None);
        }
        let remaining = self.refusing.deny(&owner, &Refused::of(&publish)).await?;
        let order = if is_user { Order::Free } else { Order::Kept };
        let ack_time = (!delay.is_zero()).then(|| AckTime { at: Instant::now() + delay, user: owner });
        Ok(Some((order, ack_time, (remaining, publish.ack))))
    }
}
