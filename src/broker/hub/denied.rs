//! A message that its publisher may not publish. Nobody gets it; and where MQTT has no word for that, its publisher is told by an
//! error document of the bridge, in its inbox.

use std::sync::Arc;

use bytes::Bytes;

use super::Hub;
use super::publish::{Promise, Publisher, Publishing};
use crate::chat::principal::Role;
use crate::chat::qos::QoS;
use crate::mqtt::{Ack, Inbound};

/// What is to be told of it.
#[derive(Debug)]
pub(crate) struct DeniedPublish<'a> {
    pub(crate) topic: &'a str,
    pub(crate) payload: &'a [u8],
    pub(crate) qos: QoS,
    pub(crate) dup: bool,
}

impl Hub {
    /// Has the bridge tell the publisher: what this yields is promised when the document is on disk. `None` where it has no inbox,
    /// which BALs and chat users have.
    pub(crate) fn deny(self: &Arc<Self>, by: Publisher<'_>, denied: &DeniedPublish<'_>) -> Option<Publishing> {
        let DeniedPublish { topic, payload, qos, dup } = *denied;
        let principal = by.principal(topic)?;
        if !principal.has_logged_in() || principal.role == Role::Admin {
            return None;
        }
        let (ack, word) = Ack::new();
        let inbound = Inbound {
            denied: true,
            at_most_once: qos == QoS::AtMostOnce,
            dup,
            ..Inbound::new(principal, topic.to_owned(), Bytes::copy_from_slice(payload), ack)
        };
        let hub = Arc::clone(self);
        Some(Publishing::Waits(Box::pin(async move {
            let word = hub.give_bridge((inbound, word)).await?;
            Ok(Promise::when_answered(word))
        })))
    }
}
