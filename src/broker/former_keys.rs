//! Sessions of the first release, kept under the client id alone.
//!
//! It let users have the ids `{user}` and `{user}:{dev}` only, whose keys are what they were, and anonymous clients any
//! other. So the sessions of anonymous clients (and of users to whom it gave an id) move to the key that they have now.
//! That happens before anybody can connect, and the old session goes only when the new one is on disk: after a crash
//! between, it is done once more. A session that is there already under the new key stays: the first release may have run
//! again in between.
//!
//! An id of an anonymous client of the first release that began with a colon and looks like a key cannot be told from
//! one: its session is that of the client with the id behind the colon.

use std::collections::HashMap;

use mqtt5::broker::storage::{DynamicStorage, QueuedMessage, StorageBackend};
use tracing::{info, warn};

use super::disk::Disk;
use super::identity::{is_key_of, session_key};

/// Moves every session whose key is a client id of the first release.
pub(super) async fn adopt(disk: &Disk) {
    let storage = &*disk.storage;
    let mut moved = Vec::new();
    for former in storage.session_client_ids().await.unwrap_or_default() {
        let Ok(Some(session)) = storage.get_session(&former).await else { continue };
        let user = session.user_id.as_deref();
        if is_key_of(user, &former) {
            continue;
        }
        let key = session_key(user, &former);
        match copy(storage, &former, &key).await {
            Ok(()) => moved.push(former),
            Err(error) => warn!(%error, key, "a session of the first release could not be moved to its key"),
        }
    }
    if moved.is_empty() {
        return;
    }
    if let Err(error) = storage.flush_sessions().await {
        return warn!(%error, "sessions of the first release could not be written under their keys");
    }
    disk.flush().await;
    for former in &moved {
        if let Err(error) = remove(storage, former).await {
            warn!(%error, key = former, "a session of the first release could not be removed");
        }
    }
    disk.flush().await;
    info!(sessions = moved.len(), "sessions of the first release have their new keys");
}

async fn copy(storage: &DynamicStorage, former: &str, key: &str) -> mqtt5::Result<()> {
    if storage.get_session(key).await?.is_some() {
        return join(storage, former, key).await;
    }
    // What a crash left there without a session.
    remove(storage, key).await?;
    for mut message in storage.queue_handle(former).peek_all().await {
        key.clone_into(&mut message.client_id);
        storage.queue_message(message).await?;
    }
    for mut message in storage.get_inflight_messages(former).await? {
        key.clone_into(&mut message.client_id);
        storage.store_inflight_message(message).await?;
    }
    if let Some(mut session) = storage.get_session(former).await? {
        key.clone_into(&mut session.client_id);
        storage.store_session(session).await?;
    }
    Ok(())
}

/// There is a session under the new key, too: an earlier start made it of this one, or its client came back before this
/// one was left. It stays as it is, and what waits only under the former key comes before what waits for it.
async fn join(storage: &DynamicStorage, former: &str, key: &str) -> mqtt5::Result<()> {
    let identity = |message: &QueuedMessage| {
        (message.topic.clone(), message.payload.clone(), message.user_properties.clone(), message.queued_at_secs)
    };
    let queue = storage.queue_handle(key);
    let mut has = HashMap::new();
    for message in queue.peek_all().await {
        *has.entry(identity(&message)).or_insert(0_usize) += 1;
    }
    let mut missing = storage.queue_handle(former).peek_all().await;
    missing.retain_mut(|message| {
        key.clone_into(&mut message.client_id);
        match has.get_mut(&identity(message)) {
            Some(left) if *left > 0 => {
                *left -= 1;
                false
            }
            _ => true,
        }
    });
    let (added, sent) = (missing.len(), storage.get_inflight_messages(former).await?.len());
    queue.requeue_front(missing);
    // What was sent has packet identifiers that the session may use for something else.
    info!(
        key,
        added, sent, "a session of the first release joins the one under its key; what it was sent stays behind"
    );
    Ok(())
}

async fn remove(storage: &DynamicStorage, key: &str) -> mqtt5::Result<()> {
    storage.queue_handle(key).clear(None);
    storage.remove_all_inflight_messages(key).await?;
    storage.remove_session(key).await
}

#[cfg(test)]
mod tests {
    use mqtt5::QoS;
    use mqtt5::broker::storage::{
        ClientSession, InflightDirection, InflightMessage, InflightPhase, StoredSubscription,
    };
    use mqtt5::packet::publish::PublishPacket;

    use super::*;
    use crate::broker::{BrokerLimits, engine};

    /// A session as the first release left it: with a subscription, a message that was sent and two that wait.
    async fn leave(disk: &Disk, key: &str, user: Option<&str>) {
        let publish = |payload: &str| PublishPacket::new("bal1/others/messages", payload.to_owned(), QoS::AtLeastOnce);
        let mut session = ClientSession::new(key, true, Some(3_600));
        session.add_subscription("bal1/others/#", StoredSubscription::new(QoS::AtLeastOnce));
        session.user_id = user.map(str::to_owned);
        disk.storage.store_session(session).await.unwrap();
        let sent = publish("sent").with_packet_id(7);
        let (direction, phase) = (InflightDirection::Outbound, InflightPhase::AwaitingPubrec);
        let sent = InflightMessage::from_publish(&sent, key.to_owned(), direction, phase);
        disk.storage.store_inflight_message(sent).await.unwrap();
        for payload in ["one", "two"] {
            let queued = QueuedMessage::new(publish(payload), key.to_owned(), QoS::AtLeastOnce, None);
            disk.storage.queue_message(queued).await.unwrap();
        }
    }

    /// Subscriptions, what was sent and what waits; none if there is no such session.
    async fn found(disk: &Disk, key: &str) -> Option<(usize, Vec<u16>, Vec<Vec<u8>>)> {
        let session = disk.storage.get_session(key).await.unwrap()?;
        let sent = disk.storage.get_inflight_messages(key).await.unwrap();
        let queued = disk.storage.queue_handle(key).peek_all().await;
        assert!(sent.iter().all(|message| message.client_id == key));
        assert!(session.client_id == key && queued.iter().all(|message| message.client_id == key));
        let (sent, queued) = (sent.iter().map(|m| m.packet_id), queued.into_iter().map(|m| m.payload));
        Some((session.subscriptions.len(), sent.collect(), queued.collect()))
    }

    #[tokio::test]
    async fn sessions_of_the_first_release_are_found_under_their_keys() {
        let folder = tempfile::tempdir().unwrap();
        let open = async || Disk::open(Some(folder.path()), engine::queues(&BrokerLimits::default())).await.unwrap().0;
        let users = [("alice", "alice"), ("alice:phone", "alice"), ("auto-0123", "bob")];
        let disk = open().await;
        for (key, user) in users {
            leave(&disk, key, Some(user)).await;
        }
        for key in ["bal1", "a b", "bob:x"] {
            leave(&disk, key, None).await;
        }
        disk.close().await;
        drop(disk);
        let all = Some((1, vec![7], vec![b"one".to_vec(), b"two".to_vec()]));
        // The second start has nothing left to do.
        for _ in 0..2 {
            let disk = open().await;
            adopt(&disk).await;
            for key in ["alice", "alice:phone", "bob::auto-0123", ":bal1"] {
                assert_eq!(found(&disk, key).await, all, "{key}");
            }
            for odd in ["a b", "bob:x"] {
                assert_eq!(found(&disk, &session_key(None, odd)).await, all, "{odd}");
            }
            for former in ["bal1", "auto-0123", "a b", "bob:x"] {
                assert_eq!(found(&disk, former).await, None, "{former}");
                assert!(disk.storage.queue_handle(former).peek_all().await.is_empty(), "{former}");
            }
            disk.close().await;
        }
    }

    #[tokio::test]
    async fn what_a_crash_left_half_moved_is_moved_once() {
        let folder = tempfile::tempdir().unwrap();
        let limits = engine::queues(&BrokerLimits::default());
        let (disk, _) = Disk::open(Some(folder.path()), limits).await.unwrap();
        leave(&disk, "bal1", None).await;
        copy(&disk.storage, "bal1", ":bal1").await.unwrap();
        adopt(&disk).await;
        assert_eq!(found(&disk, "bal1").await, None);
        assert_eq!(found(&disk, ":bal1").await, Some((1, vec![7], vec![b"one".to_vec(), b"two".to_vec()])));
    }

    #[tokio::test]
    async fn a_session_that_is_there_under_the_new_key_stays_and_gets_what_waits_under_the_former() {
        let folder = tempfile::tempdir().unwrap();
        let limits = engine::queues(&BrokerLimits::default());
        let open = async || Disk::open(Some(folder.path()), limits).await.unwrap().0;
        let disk = open().await;
        leave(&disk, ":bal1", None).await;
        let mut own = disk.storage.get_session(":bal1").await.unwrap().unwrap();
        own.add_subscription("bal1/status", StoredSubscription::new(QoS::AtLeastOnce));
        disk.storage.store_session(own).await.unwrap();
        // One message is in both; the other two are in one.
        disk.storage.queue_handle(":bal1").clear(None);
        let publish = |payload: &str| PublishPacket::new("bal1/others/messages", payload.to_owned(), QoS::AtLeastOnce);
        let queued = |key: &str, payload: &str| {
            let message = QueuedMessage::new(publish(payload), key.to_owned(), QoS::AtLeastOnce, None);
            QueuedMessage { queued_at_secs: 1_700_000_000, ..message }
        };
        disk.storage.store_session(ClientSession::new("bal1", true, Some(3_600))).await.unwrap();
        for (key, payload) in [("bal1", "first"), ("bal1", "both"), (":bal1", "both"), (":bal1", "last")] {
            disk.storage.queue_message(queued(key, payload)).await.unwrap();
        }
        disk.close().await;
        drop(disk);
        let all = ["first", "both", "last"].map(|payload| payload.as_bytes().to_vec()).to_vec();
        for _ in 0..2 {
            let disk = open().await;
            adopt(&disk).await;
            assert_eq!(found(&disk, ":bal1").await, Some((2, vec![7], all.clone())));
            assert_eq!(found(&disk, "bal1").await, None);
            disk.close().await;
        }
    }

    #[tokio::test]
    async fn an_id_of_the_first_release_that_begins_with_a_colon_is_no_key() {
        let disk = Disk::open(None, engine::queues(&BrokerLimits::default())).await.unwrap().0;
        for id in [":a b", ":", "::x", ":=short"] {
            leave(&disk, id, None).await;
        }
        adopt(&disk).await;
        for id in [":a b", ":", "::x", ":=short"] {
            assert_eq!(found(&disk, id).await, None, "{id}");
            assert!(found(&disk, &session_key(None, id)).await.is_some(), "{id}");
        }
    }
}
