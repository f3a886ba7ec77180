//! Erases a person: out of the broker, then out of the store, part by part.

use super::context::Context;
use super::presence::PresenceWord;
use crate::chat::erasure::alias;
use crate::chat::id::Owner;
use crate::chat::topic::{ChatTopic, ClientTopic};
use crate::mqtt::Eviction;
use crate::ops::clock::now_ms;
use crate::store::{EraseBegun, Erasing, Erasure, NewErase, Scrubbed, Seeing, StoreError};
use serde_json::{Value, json};
use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::{Instant, sleep, timeout};
use tokio_util::sync::CancellationToken;

/// Names that may stand for the person's.
const ALIASES: usize = 4;
/// How long the broker may take to put somebody out, and what is retained to be cleared: with a broker that is away the erase goes on
/// without that.
const PUT_OUT: Duration = Duration::from_secs(15);
/// How long an operator waits for pushes that the push services have; what is left is done when they have answered.
const IN_FLIGHT: Duration = Duration::from_secs(60);
/// How often those are looked at meanwhile.
const LOOK: Duration = Duration::from_millis(250);
/// How often they are looked at when nobody waits for it.
const AGAIN: Duration = Duration::from_secs(10);

/// What came of an erase.
pub(super) enum Erased {
    /// It is done.
    Done(Erasure, Scrubbed),
    /// Everything but what is with the push services: the bridge goes on with it.
    Waits(u64),
    /// There was nobody any more.
    Before,
}

/// Takes the name away, and it is on disk: from then on the erase is done, whatever happens. [`resume`] does it, or whoever waits
/// for it. False: nobody is there any more.
pub(super) async fn begin(context: &Context, user: &Owner) -> Result<bool, StoreError> {
    let aliases = (0..ALIASES).map(|_| alias(rand::random())).collect();
    let begun = context.store.erase_begin(NewErase { user: user.clone(), aliases, at: now_ms() }).await?;
    if begun == EraseBegun::Begun {
        tracing::warn!("a user is erased");
    }
    Ok(begun != EraseBegun::Erased)
}

/// Erases a person, and waits for it. Whoever waits may go: what was begun goes on.
pub(super) async fn erase(context: &Context, user: &Owner) -> Result<Erased, StoreError> {
    if !begin(context, user).await? {
        return Ok(Erased::Before);
    }
    carry_on(context, user, (true, IN_FLIGHT)).await
}

/// Goes on with what was begun, and begins nothing. `puts_out`: out of the broker as well. `patience`: for push services.
async fn carry_on(
    context: &Context,
    user: &Owner,
    (puts_out, patience): (bool, Duration),
) -> Result<Erased, StoreError> {
    let until = Instant::now() + patience;
    // One person at a time: of what two have said to each other nothing stays.
    let mut alone = context.erasing.lock().await;
    // It may have ended meanwhile, and the name may be somebody else's by now.
    if !context.store.erases().await?.await?.contains(user) {
        return Ok(Erased::Before);
    }
    if puts_out && timeout(PUT_OUT, put_out(context, user)).await.is_err() {
        tracing::warn!("the broker has not put out an erased user in time");
    }
    let policy = Arc::new(context.settings.chat_policy());
    loop {
        let committed = {
            let written = context.next_written().await;
            let call = context.chat_call(written.id().1, PUSHES, &policy);
            context.store.erase_step(user.clone(), call).await?
        };
        match committed.await? {
            Erasing::More { unseen } => {
                // As long as they have a session the broker remembers whom they see.
                let seeing = |watcher| Seeing { watcher, of: user.clone(), visible: false };
                context.show(unseen.into_iter().map(seeing).collect()).await;
            }
            Erasing::InFlight(count) if Instant::now() >= until => return Ok(Erased::Waits(count)),
            Erasing::InFlight(_) => {
                // Others need not wait for these push services.
                drop(alone);
                sleep(LOOK).await;
                alone = context.erasing.lock().await;
            }
            Erasing::Unknown => return Ok(Erased::Before),
            Erasing::Done(erasure) => return Ok(Erased::Done(erasure, context.store.scrub().await?)),
        }
    }
}

/// Ids for one part: for two notices of a group that the person is in; for the end of a call and the message about it; or for what
/// clears notifications of others.
const PUSHES: usize = 320;

/// From here on nobody hears of the person, and nothing is said by or to them.
async fn put_out(context: &Context, user: &Owner) {
    let (done, is_done) = oneshot::channel();
    // A broker of others keeps its sessions, and its own rules say who may come in.
    if context.evictions.send(Eviction { user: user.as_str().into(), done }).await.is_ok() {
        let _ = is_done.await;
    }
    forget(context, user);
    let _ = context.presences.send(PresenceWord::Erased(user.clone())).await;
    // It may be retained, and whoever sees the user has it. If the store is closed, nothing else is done either.
    let Ok(known) = context.store.chat_devices(user.clone()).await else { return };
    let devices = known.await.unwrap_or_default().into_iter().map(|known| Some(known.dev)).chain([None]);
    let topics = devices.map(|device| ClientTopic::Presence(user.clone(), device));
    for topic in topics.chain([ClientTopic::Chat(user.clone(), ChatTopic::Profile)]) {
        context.publish_retained(&topic, Vec::new()).await;
    }
}

/// What is remembered by the name alone. Whoever has it next is somebody else.
pub(super) fn forget(context: &Context, user: &Owner) {
    context.remembered.forget(user);
    context.attentions.forget(user);
}

/// Does what was begun: before the last stop, by somebody who did not wait for it, or what waited for the push services.
pub(super) async fn resume(context: Arc<Context>, stop: CancellationToken) -> Result<(), StoreError> {
    let work = async {
        // Who was put out since the start.
        let mut out = HashSet::new();
        loop {
            let users = context.store.erases().await?.await?;
            out.retain(|user| users.contains(user));
            for user in users {
                let puts_out = out.insert(user.clone());
                carry_on(&context, &user, (puts_out, Duration::ZERO)).await?;
            }
            let _ = timeout(AGAIN, context.erase_begun.notified()).await;
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
    "what you wrote that waits for others; what else waits for them has the other name",
];

/// What an erase leaves.
pub(super) fn remains() -> Vec<&'static str> {
    vec![
        "a hash of the name, so that it stays taken until it is freed; and the name in the users file, if it is there",
        "what others wrote, under the other name: it is theirs",
        "what left the bridge: at the push services, on devices, with BALs, in its log, in copies of the store",
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::bridge::tests::{Ends, context};
    use crate::mqtt::Capabilities;
    use crate::store::Store;
    use crate::store::sqlite::{self, WriterThread};

    fn eve() -> Owner {
        Owner::new("eve").unwrap()
    }

    struct Scene {
        context: Context,
        ends: Ends,
        _writer: WriterThread,
        _dir: tempfile::TempDir,
    }

    impl Scene {
        async fn with_eve() -> Self {
            let dir = tempfile::tempdir().unwrap();
            let (store, writer, _) = sqlite::open(&sqlite::Settings::new(dir.path().join("store.db")), 0).unwrap();
            let (context, ends) = context(store, Capabilities::EXTERNAL);
            context.store.chat_user_seen(eve()).await.unwrap().await.unwrap();
            Self { context, ends, _writer: writer, _dir: dir }
        }

        async fn is_known(&self) -> bool {
            let store: &Store = &self.context.store;
            store.chat_settings(eve()).await.unwrap().await.unwrap().is_some()
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_broker_that_takes_nothing_holds_up_no_erase() {
        let scene = Scene::with_eve().await;
        // Nobody reads `publish` or `evictions`.
        for _ in 0..3 {
            let erased = erase(&scene.context, &eve()).await.unwrap();
            assert!(matches!(erased, Erased::Done(..)));
            assert!(scene.context.store.free_name(eve()).await.unwrap());
        }
        assert!(!scene.is_known().await);
    }

    #[tokio::test]
    async fn to_go_on_begins_nothing() {
        let mut scene = Scene::with_eve().await;
        // As if somebody else had ended it, and the name were free again.
        let erased = carry_on(&scene.context, &eve(), (true, Duration::ZERO)).await.unwrap();
        assert!(matches!(erased, Erased::Before));
        assert!(scene.is_known().await && !scene.context.store.is_erased("eve"));
        assert!(scene.ends.evictions.try_recv().is_err() && scene.ends.publish.try_recv().is_err());
    }
}
