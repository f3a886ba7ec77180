//! Erases a person: out of the broker, then out of the store, part by part.

use super::context::Context;
use super::presence::PresenceWord;
use crate::chat::erasure::alias;
use crate::chat::id::Owner;
use crate::chat::topic::{ChatTopic, ClientTopic};
use crate::mqtt::Eviction;
use crate::ops::clock::now_ms;
use crate::store::{EraseBegun, Erasing, Erasure, NewErase, Scrubbed, StoreError};
use serde_json::{Value, json};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Names that may stand for the person's.
const ALIASES: usize = 4;
/// How long the broker may take to put somebody out.
const EVICTION: Duration = Duration::from_secs(15);
/// How long pushes are waited for that the push services have; what is left is done when they have answered.
const IN_FLIGHT: Duration = Duration::from_secs(60);
/// How often those are looked at.
const LOOK: Duration = Duration::from_millis(250);

/// What came of an erase.
pub(super) enum Erased {
    /// It is done.
    Done(Erasure, Scrubbed),
    /// Everything but what is with the push services: the bridge goes on with it.
    Waits(u64),
    /// There was nobody any more.
    Before,
}

/// Erases a person. Whoever waits for this may go: what was begun goes on after the next start.
pub(super) async fn erase(context: &Context, user: &Owner) -> Result<Erased, StoreError> {
    let _one = context.erasing.lock().await;
    let aliases = (0..ALIASES).map(|_| alias(rand::random())).collect();
    let begun = context.store.erase_begin(NewErase { user: user.clone(), aliases, at: now_ms() }).await?;
    if begun == EraseBegun::Erased {
        return Ok(Erased::Before);
    }
    tracing::warn!("a user is erased");
    put_out(context, user).await?;
    let (until, policy) = (Instant::now() + IN_FLIGHT, Arc::new(context.settings.chat_policy()));
    loop {
        let committed = {
            let written = context.next_written().await;
            let call = context.chat_call(written.id().1, PUSHES, &policy);
            context.store.erase_step(user.clone(), call).await?
        };
        match committed.await? {
            Erasing::More => {}
            Erasing::InFlight(count) if Instant::now() >= until => return Ok(Erased::Waits(count)),
            Erasing::InFlight(_) => sleep(LOOK).await,
            Erasing::Unknown => return Ok(Erased::Before),
            Erasing::Done(erasure) => return Ok(Erased::Done(erasure, context.store.scrub().await?)),
        }
    }
}

/// Ids for one part: for two notices of a group that the person is in, or for what clears notifications of others.
const PUSHES: usize = 320;

/// From here on nobody hears of the person, and nothing is said by or to them.
async fn put_out(context: &Context, user: &Owner) -> Result<(), StoreError> {
    // It may be retained, and whoever sees the user has it.
    let presences = context.store.chat_devices(user.clone()).await?.await?;
    let presences = presences.into_iter().map(|known| Some(known.dev)).chain([None]);
    let topics = presences.map(|device| ClientTopic::Presence(user.clone(), device));
    for topic in topics.chain([ClientTopic::Chat(user.clone(), ChatTopic::Profile)]) {
        context.publish_retained(&topic, Vec::new()).await;
    }
    let (done, is_done) = oneshot::channel();
    // A broker of others keeps its sessions, and its own rules say who may come in.
    if context.evictions.send(Eviction { user: user.as_str().into(), done }).await.is_ok() {
        let _ = timeout(EVICTION, is_done).await;
    }
    let _ = context.presences.send(PresenceWord::Erased(user.clone())).await;
    Ok(())
}

/// Goes on with what was begun before the last stop, and with what waited for the push services.
pub(super) async fn resume(context: Arc<Context>, stop: CancellationToken) -> Result<(), StoreError> {
    let work = async {
        loop {
            for user in context.store.erases().await?.await? {
                erase(&context, &user).await?;
            }
            sleep(IN_FLIGHT).await;
        }
    };
    stop.run_until_cancelled(work).await.unwrap_or(Ok(()))
}

/// What the answer says: what was removed, what stays and why.
pub(super) fn told(erased: &Erased) -> Value {
    match erased {
        Erased::Done(Erasure { alias, removed, kept }, scrubbed) => {
            let mut remains = remains();
            if *scrubbed == Scrubbed::AtStart {
                remains.push(
                    "unused parts of the store may still hold something: the next start of the bridge rebuilds it",
                );
            }
            json!({ "done": true, "alias": alias, "removed": removed, "kept": kept, "remains": remains })
        }
        Erased::Waits(count) => json!({ "done": false, "in_flight": count, "remains": remains() }),
        Erased::Before => json!({ "done": true, "removed": {}, "kept": {}, "remains": remains() }),
    }
}

/// What goes, for whoever is told beforehand.
pub(super) const REMOVES: [&str; 7] = [
    "devices, tokens, and pushes that wait",
    "texts of your messages, everywhere",
    "profile, settings, presence",
    "contacts, and yourself among those of others",
    "your places in groups, which you leave",
    "sessions, and what waits in them",
    "documents that wait for others and name you",
];

/// What an erase leaves.
pub(super) fn remains() -> Vec<&'static str> {
    vec![
        "a hash of the name, so that it stays taken until it is freed; and the name in the users file, if it is there",
        "what others wrote, under the other name: it is theirs",
        "what left the bridge: at the push services, on devices, with BALs, in its log, in copies of the store",
    ]
}
