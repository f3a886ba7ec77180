//! Pushes that wait: for somebody who looks, and decided again when the time of an attended device is over or when it has gone;
//! or for room in the queue, and decided again when it has some to spare.

use crate::bridge::context::Context;
use crate::chat::id::{Owner, Sid};
use crate::chat::topic::Device;
use crate::mqtt::Confirmation;
use crate::ops::clock::{every, now_ms};
use crate::store::{ChatPolicy, StoreError, USER_DEVICES_MAX, Undecided};
use futures_util::stream::{self, StreamExt, TryStreamExt};
use std::collections::HashMap;
use std::future::ready;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// How old a message may be of which it is decided once more after a restart, in milliseconds.
pub(super) const UNDECIDED_MS: u64 = 3_600_000;
/// Messages of a user about which one verb decides.
pub(super) const AT_ONCE: usize = 32;
/// Users about whose messages it is decided at one time: their verbs share commits.
const USERS_AT_ONCE: usize = 256;
/// How often it is looked whether the queue has room for pushes that wait for it, and for how many messages then.
const ROOM_CHECK: Duration = Duration::from_millis(100);
const UNPUSHED_AT_ONCE: usize = 1_000;
/// How often the store is told that a device confirms something although nobody looks at it.
const SPEAKS_AGAIN: Duration = Duration::from_secs(1);
/// Devices of which it is remembered when that was.
const SPEAKERS_MAX: usize = 100_000;

/// Works until `stop`. What waits then is decided after the next start. A confirmation waits for no decision: it may be what
/// makes one unnecessary.
pub(crate) async fn run(
    context: Arc<Context>,
    confirmations: mpsc::Receiver<Confirmation>,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let policy = Arc::new(context.settings.chat_policy());
    let work = async {
        tokio::try_join!(decisions(&context, &policy), take_confirmations(&context, &policy, confirmations)).map(drop)
    };
    stop.run_until_cancelled(work).await.unwrap_or(Ok(()))
}

async fn decisions(context: &Context, policy: &Arc<ChatPolicy>) -> Result<(), StoreError> {
    // Those who were there before the restart can come back, and confirm what they have.
    let grace = tokio::time::sleep(context.settings.presence_grace.max(Duration::from_secs(1)));
    tokio::pin!(grace);
    let (mut is_decided, mut room) = (false, every(ROOM_CHECK));
    loop {
        let due = tokio::select! {
            () = &mut grace, if !is_decided => {
                is_decided = true;
                let since = now_ms().saturating_sub(UNDECIDED_MS);
                messages(context.store.chat_undecided(since).await?.await?)
            }
            rung = context.attentions.rung() => rung,
            _ = room.tick(), if is_decided => {
                if context.store.figures().chat_unpushed == 0 || !context.queue_has_slack() {
                    continue;
                }
                messages(context.store.chat_unpushed(UNPUSHED_AT_ONCE).await?.await?)
            }
        };
        let decided = stream::iter(due).map(|(user, sids)| async move { decide(context, policy, &user, &sids).await });
        decided.buffer_unordered(USERS_AT_ONCE).try_for_each(|()| ready(Ok(()))).await?;
    }
}

pub(super) fn messages(undecided: Vec<Undecided>) -> Vec<(Owner, Vec<Sid>)> {
    undecided.into_iter().map(|Undecided { user, sids }| (user, sids)).collect()
}

async fn take_confirmations(
    context: &Context,
    policy: &Arc<ChatPolicy>,
    mut confirmations: mpsc::Receiver<Confirmation>,
) -> Result<(), StoreError> {
    let mut speakers = HashMap::new();
    while let Some(confirmation) = confirmations.recv().await {
        confirmed(context, policy, confirmation, &mut speakers).await?;
    }
    // The broker has ended, and the bridge stops.
    std::future::pending().await
}

pub(super) async fn decide(
    context: &Context,
    policy: &Arc<ChatPolicy>,
    user: &Owner,
    sids: &[Sid],
) -> Result<(), StoreError> {
    for sids in sids.chunks(AT_ONCE) {
        let at = now_ms();
        let attended = context.attentions.attended(user, at);
        if attended.any() {
            // Before they can be confirmed: whoever looks now has its own time for them.
            sids.iter().for_each(|sid| context.attentions.given(user, *sid, at));
        }
        let call = context.chat_call(at, sids.len() * USER_DEVICES_MAX, policy);
        let waiting = context.store.chat_decide_again(user.clone(), sids.to_vec(), attended, call).await?.await?;
        for sid in sids.iter().filter(|sid| !waiting.contains(sid)) {
            context.attentions.taken_back(user, *sid);
        }
    }
    Ok(())
}

/// A device acknowledged the copy of a message. The store has noted that; if somebody looks at the device, pushes that wait to
/// be sent are taken back. Otherwise it is pushed one by one again, and not silent.
pub(super) async fn confirmed(
    context: &Context,
    policy: &Arc<ChatPolicy>,
    Confirmation { user, device, sid }: Confirmation,
    speakers: &mut HashMap<(Owner, Device), Instant>,
) -> Result<(), StoreError> {
    let (Ok(user), Ok(device)) = (Owner::new(&*user), Device::new(&*device)) else { return Ok(()) };
    let (at, now) = (now_ms(), Instant::now());
    if context.attentions.confirmed(&user, Some(&device), sid, at) {
        let call = context.chat_call(at, 0, policy);
        let _committed = context.store.chat_attended(user, device, sid, call).await?;
        return Ok(());
    }
    if speakers.len() >= SPEAKERS_MAX {
        speakers.clear();
    }
    let speaker = (user, device);
    if speakers.get(&speaker).is_none_or(|last| now - *last >= SPEAKS_AGAIN) {
        speakers.insert(speaker.clone(), now);
        let _committed = context.store.chat_device_spoke(speaker.0, speaker.1, at).await?;
    }
    Ok(())
}
