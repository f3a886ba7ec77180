//! Pushes that wait for somebody who looks: decided again when the time of an attended device is over, or when it has gone.

use crate::bridge::context::Context;
use crate::chat::id::{Owner, Sid};
use crate::chat::topic::Device;
use crate::mqtt::Confirmation;
use crate::ops::clock::now_ms;
use crate::store::{ChatPolicy, StoreError, USER_DEVICES_MAX, Undecided};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// How old a message may be of which it is decided once more after a restart, in milliseconds.
const UNDECIDED_MS: u64 = 3_600_000;
/// Messages of a user about which one verb decides.
const AT_ONCE: usize = 32;

/// Works until `stop`. What waits then is decided after the next start.
pub(crate) async fn run(
    context: Arc<Context>,
    mut confirmations: mpsc::Receiver<Confirmation>,
    stop: CancellationToken,
) -> Result<(), StoreError> {
    let policy = Arc::new(context.settings.chat_policy());
    // Those who were there before the restart can come back, and confirm what they have.
    let grace = tokio::time::sleep(context.settings.presence_grace.max(Duration::from_secs(1)));
    tokio::pin!(grace);
    let mut is_decided = false;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Ok(()),
            () = &mut grace, if !is_decided => {
                is_decided = true;
                let since = now_ms().saturating_sub(UNDECIDED_MS);
                for Undecided { user, sids } in context.store.chat_undecided(since).await?.await? {
                    decide(&context, &policy, &user, &sids).await?;
                }
            }
            rung = context.attentions.rung() => {
                for (user, sids) in rung {
                    decide(&context, &policy, &user, &sids).await?;
                }
            }
            Some(confirmation) = confirmations.recv() => confirmed(&context, &policy, confirmation).await?,
        }
    }
}

async fn decide(context: &Context, policy: &Arc<ChatPolicy>, user: &Owner, sids: &[Sid]) -> Result<(), StoreError> {
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
/// be sent are taken back.
async fn confirmed(context: &Context, policy: &Arc<ChatPolicy>, confirmation: Confirmation) -> Result<(), StoreError> {
    let Confirmation { user, device, sid } = confirmation;
    let (Ok(user), Ok(device)) = (Owner::new(&*user), Device::new(&*device)) else { return Ok(()) };
    let at = now_ms();
    if context.attentions.confirmed(&user, Some(&device), sid, at) {
        let call = context.chat_call(at, 0, policy);
        let _committed = context.store.chat_attended(user, device, sid, call).await?;
    }
    Ok(())
}
