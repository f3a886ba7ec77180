//! The orderly end of the publisher: what was confirmed is forgotten, and what was handed out is marked.

use super::Publisher;
use crate::bridge::Stops;
use crate::bridge::context::oldest;
use crate::mqtt::Outcome;
use crate::store::{Seen, StoreError};
use futures_util::StreamExt;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How long a stop waits for outstanding confirmations.
const CONFIRMATIONS_WAIT: Duration = Duration::from_secs(2);
/// How long it waits for the broker to close, which answers everything.
const CLOSE_WAIT: Duration = Duration::from_secs(8);

impl Publisher {
    /// Takes the last confirmations, so that what was confirmed is not published again after the next start; then lets
    /// the broker close and takes its answers for the rest.
    pub(super) async fn wind_up(&mut self, stops: Stops, announced: CancellationToken) -> Result<(), StoreError> {
        self.take_answers(CONFIRMATIONS_WAIT).await?;
        announced.cancelled().await;
        stops.quiet.cancel();
        self.take_answers(CLOSE_WAIT).await?;
        self.forget(true).await?;
        while !self.forgetting.is_empty() {
            oldest(&mut self.forgetting).await.0?;
        }
        let known = self.tracks.iter().filter(|(_, track)| track.topic_window.idle());
        let seen =
            known.map(|(topic, track)| Seen { topic: Arc::clone(topic), seq: track.topic_window.seen() }).collect();
        self.context.store.parted(seen).await?.await
    }

    /// Takes answers until all have come or `longest` is over; publishes nothing.
    async fn take_answers(&mut self, longest: Duration) -> Result<(), StoreError> {
        let over = tokio::time::sleep(longest);
        tokio::pin!(over);
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
                () = &mut over => return Ok(()),
            }
        }
    }
}
