//! The orderly end of the publisher: what was confirmed is forgotten, and what was handed out is marked.

use super::Publisher;
use crate::bridge::context::oldest;
use crate::mqtt::Outcome;
use crate::store::{Seen, StoreError};
use futures_util::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a stop waits for outstanding confirmations.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// How long it waits for the broker to close, which answers everything.
const DOOR_CLOSES: Duration = Duration::from_secs(8);

/// When the publisher stops, and what it tells meanwhile.
#[derive(Debug, Clone)]
pub(in crate::bridge) struct Parting {
    /// Publish nothing more.
    pub(in crate::bridge) stop: CancellationToken,
    /// Given when the broker has nothing more to do for anybody else.
    pub(in crate::bridge) others: CancellationToken,
    /// The publisher's word that the broker may close.
    pub(in crate::bridge) quiet: CancellationToken,
}

impl Publisher {
    /// Hears the last confirmations, so that what was confirmed is not published again after the next start; then lets
    /// the broker close and hears how far the rest got.
    pub(super) async fn wind_up(&mut self, parting: &Parting) -> Result<(), StoreError> {
        self.hear(LAST_WORDS).await?;
        parting.others.cancelled().await;
        parting.quiet.cancel();
        self.hear(DOOR_CLOSES).await?;
        self.forget(true).await?;
        while !self.forgetting.is_empty() {
            oldest(&mut self.forgetting).await.0?;
        }
        let known = self.tracks.iter().filter(|(_, track)| track.topic_window.idle());
        let seen =
            known.map(|(topic, track)| Seen { topic: Arc::clone(topic), seq: track.topic_window.seen() }).collect();
        self.context.store.parted(seen).await?.await
    }

    /// Hears answers until all have come or `patience` is over; publishes nothing.
    async fn hear(&mut self, patience: Duration) -> Result<(), StoreError> {
        let patience = tokio::time::sleep(patience);
        tokio::pin!(patience);
        loop {
            for outbound in self.outgoing.drain(..) {
                let _ = outbound.outcome.send(Outcome::Unsent);
            }
            tokio::select! {
                biased;
                arrival = self.arrivals.next() => match arrival {
                    Some(arrival) => self.arrived(arrival?),
                    None => return Ok(()),
                },
                () = &mut patience => return Ok(()),
            }
        }
    }
}
