//! Keeps the store tidy: what is overdue expires, what is old enough is forgotten.

use super::hall::Hall;
use crate::ops::clock::now_ms;
use crate::ops::metrics::Metric;
use crate::store::{Overdue, StoreError};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// How often the store is asked for what is overdue or old enough to be forgotten.
const SWEEP: Duration = Duration::from_millis(500);

/// Sweeps until `stop`.
pub(super) async fn run(hall: Arc<Hall>, stop: CancellationToken) -> Result<(), StoreError> {
    let mut ticker = tokio::time::interval(SWEEP);
    ticker.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            _ = ticker.tick() => {}
        }
        while !stop.is_cancelled() && sweep(&hall).await? {}
    }
}

/// One chunk of the work; true when there is more of it.
async fn sweep(hall: &Hall) -> Result<bool, StoreError> {
    let swept = hall.store.sweep(now_ms()).await?.await?;
    expired(hall, &swept.expired).await?;
    Ok(swept.more)
}

/// Nobody has to wait for these any more.
pub(super) async fn expired(hall: &Hall, expired: &[Overdue]) -> Result<(), StoreError> {
    hall.metrics.add(Metric::DownstreamExpired, expired.len() as u64);
    for Overdue { recipient, way, sid } in expired {
        hall.let_pass(way, *recipient, *sid).await?;
    }
    Ok(())
}
