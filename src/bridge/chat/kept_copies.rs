//! Copies that an external broker keeps although their topic is not retained: they are cleared, so that they do not come back as
//! if they were new.

use crate::bridge::context::Context;
use crate::chat::topic::ClientTopic;
use crate::mqtt::{Inbound, Outbound};
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// How soon an empty publish of the bridge comes back from the broker, also where the intake waits for room.
const COMES_BACK: Duration = Duration::from_secs(30);
/// Topics that are being cleared at one time; a copy beyond them is cleared when it comes again.
const CLEARED_MAX: usize = 1_000;

/// The topics that were cleared, and when.
#[derive(Debug, Default)]
pub(crate) struct KeptCopies(HashMap<ClientTopic, Instant>);

impl KeptCopies {
    /// Publishes an empty retained document on the topic of a kept copy.
    pub(crate) async fn clear(&mut self, context: &Context, topic: &ClientTopic) {
        let now = Instant::now();
        self.0.retain(|_, at| now - *at < COMES_BACK);
        if self.0.len() >= CLEARED_MAX {
            return;
        }
        self.0.insert(topic.clone(), now);
        let (outbound, _outcome) = Outbound::new(topic, Vec::new());
        // If the broker is gone, the copy comes again with it.
        let _ = context.publish.send(Outbound { retain: true, ..outbound }).await;
    }

    /// Whether this is the empty publish of [`Self::clear`], which comes back to the bridge: no user said it.
    pub(crate) fn is_own_clear(&mut self, topic: &ClientTopic, publish: &Inbound) -> bool {
        publish.payload.is_empty() && self.0.remove(topic).is_some_and(|at| at.elapsed() < COMES_BACK)
    }
}
