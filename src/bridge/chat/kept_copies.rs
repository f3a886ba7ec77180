//! Copies that an external broker keeps although their topic is not retained: they are cleared, so that they do not come back as
//! if they were new.
//!
//! A copy is cleared by an empty publish, and on `devices/{dev}` that is the word by which a user takes a registration back. With
//! MQTT 5 the bridge does not hear what it publishes itself (no local). With 3.1.1 each clearing comes back once at most, and as
//! it was published: at QoS 0, so that the word of a user, at QoS 1, is never taken for one.

use crate::bridge::context::Context;
use crate::mqtt::{Inbound, Outbound};
use std::collections::HashMap;
use std::time::Duration;
use tokio::time::Instant;

/// How soon an empty publish of the bridge comes back from the broker, also where the intake waits for room.
const COMES_BACK: Duration = Duration::from_secs(30);
/// Topics that are being cleared at one time; a copy beyond them is cleared when it comes again.
const CLEARED_MAX: usize = 1_000;

/// The topics whose clearings come back.
#[derive(Debug, Default)]
pub(crate) struct KeptCopies(HashMap<String, Clearings>);

/// Those of one topic.
#[derive(Debug)]
struct Clearings {
    /// So many have not come back.
    open: u32,
    /// When the last one was published.
    at: Instant,
}

impl KeptCopies {
    /// Clears the topic of a kept copy.
    pub(crate) async fn clear(&mut self, context: &Context, topic: &str) {
        if context.broker.hears_itself {
            let now = Instant::now();
            self.0.retain(|_, clearings| now - clearings.at < COMES_BACK);
            if self.0.len() >= CLEARED_MAX {
                return;
            }
            let clearings = self.0.entry(topic.to_owned()).or_insert(Clearings { open: 0, at: now });
            *clearings = Clearings { open: clearings.open.saturating_add(1), at: now };
        }
        clear_kept(context, topic).await;
    }

    /// Whether this is a clearing that comes back: no user said it.
    pub(crate) fn is_own_clear(&mut self, publish: &Inbound) -> bool {
        if !publish.payload.is_empty() || !publish.at_most_once {
            return false;
        }
        let Some(clearings) = self.0.get_mut(&publish.topic) else { return false };
        let is_own = clearings.at.elapsed() < COMES_BACK;
        clearings.open = clearings.open.saturating_sub(1);
        if !is_own || clearings.open == 0 {
            self.0.remove(&publish.topic);
        }
        is_own
    }
}

/// Publishes an empty retained document on the topic of a kept copy. If the broker is gone, or it is lost, the copy comes again.
pub(crate) async fn clear_kept(context: &Context, topic: &str) {
    let (outbound, _outcome) = Outbound::new(topic, Vec::new());
    let _ = context.publish.send(Outbound { retain: true, qos: 0, ..outbound }).await;
}
