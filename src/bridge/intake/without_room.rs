//! Pushes of BALs at a broker of others while the queue is full and there is chat.
//!
//! Why refused, and not left unacknowledged as on the embedded broker: the bridge is one client of that broker, whose
//! acknowledgements leave in the order of arrival (MQTT 5, 4.6), and which gets no more than its receive maximum, or the broker's
//! own limit, without them. One push that waits would hold up everybody who writes a message. Its BAL has the PUBACK of that
//! broker in any case, and waits for the word `accepted`; so it is told `failed`, and publishes again later. Where nobody
//! chats, nobody is held up, and BALs wait in their broker as they always did.

use super::downstream::accepted;
use super::{Intake, Remaining};
use crate::bridge::refusing::Refused;
use crate::chat::id::MessageId;
use crate::chat::message::{ErrorCode, Rejection};
use crate::mqtt::Inbound;
use crate::store::{Accepted, NewMessage, StoreError};
use std::sync::Arc;

impl Intake {
    /// Whether pushes are refused while there is no room for them, so that all else goes on.
    pub(super) fn refuses_pushes(&self) -> bool {
        let has_chat = self.context.store.figures().chat_rows > 0 || self.chat.has_users();
        !self.context.broker.answers_publishers && has_chat
    }

    /// Says the last status of a message again that is known by its id, and refuses any other.
    pub(super) async fn without_room(
        &self,
        new: NewMessage,
        given: Option<MessageId>,
        publish: &Inbound,
    ) -> Result<Remaining, StoreError> {
        let (context, refusing, refused) = (Arc::clone(&self.context), self.refusing.clone(), Refused::of(publish));
        let (sid, owner, id) = (new.sid, new.bal.clone(), new.id.clone());
        let known = context.store.repeat(new).await?;
        Ok(Box::pin(async move {
            if let Some(status) = known.await? {
                return Ok(accepted(&context, Accepted::Repeated(status), sid, &owner, &id));
            }
            let detail = "the queue of pushes is full: publish it again later";
            let rejection = Rejection::new(ErrorCode::QueueFull, detail).about(given);
            refusing.refuse(&owner, &rejection, &refused).await?.await
        }))
    }
}
