//! Keeps the store tidy: what is overdue expires, what is old enough is forgotten.

use super::context::Context;
use crate::ops::clock::{every, now_ms};
use crate::ops::metrics::Metric;
use crate::store::StoreError;
use std::sync::Arc;
use std::time::Duration;
use tokio_util::sync::CancellationToken;

/// How often the store is asked for what is overdue or old enough to be forgotten.
const SWEEP: Duration = Duration::from_millis(500);

/// Ids for the pushes of one sweep of chat: what is dropped is cleared where it is shown.
const SWEEP_PUSHES: usize = 320;

/// Sweeps until `stop`.
pub(super) async fn run(context: Arc<Context>, stop: CancellationToken) -> Result<(), StoreError> {
    let mut ticker = every(SWEEP);
    let policy = Arc::new(context.settings.chat_policy());
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticker.tick() => {}
        }
        // One sweep does a chunk of the work.
        let mut more = true;
        while more && !stop.is_cancelled() {
            let swept = context.store.sweep(now_ms()).await?.await?;
            context.metrics.add(Metric::DownstreamExpired, swept.expired);
            more = swept.more;
        }
        let (keep, at) = (context.settings.chat.keep(), now_ms());
        let mut more = true;
        while more && !stop.is_cancelled() {
            let call = context.chat_call(at, SWEEP_PUSHES, &policy);
            more = context.store.chat_sweep(keep, call).await?.await?;
        }
    }
}
