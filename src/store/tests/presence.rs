//! What is known of chat users after a restart.

use super::*;
use crate::chat::message::PresenceState::{self, Offline, Online};

impl Rig {
    async fn change(&self, user: &str, state: PresenceState, last_seen: Option<u64>, at: u64) -> Option<u64> {
        let change = PresenceChange { user: Owner::new(user).unwrap(), state, last_seen, at };
        self.store.presence_changed(change).await.unwrap().await.unwrap()
    }

    async fn alive(&self, at: u64) {
        self.store.still_alive(at).await.unwrap().await.unwrap();
    }

    async fn last_presences(&self, now: u64) -> Vec<(String, PresenceState, Option<u64>)> {
        let last = self.store.last_presences(now).await.unwrap().await.unwrap();
        last.into_iter().map(|last| (last.user.to_string(), last.state, last.last_seen)).collect()
    }
}

#[tokio::test]
async fn when_a_user_went_is_remembered_and_never_moved_back() {
    let rig = Rig::new(Limits::default());
    assert_eq!(rig.change("alice", Online, None, NOW).await, None);
    assert_eq!(rig.change("alice", Offline, Some(NOW + 5), NOW + 6).await, Some(NOW + 5));
    assert_eq!(rig.change("alice", Online, None, NOW + 10).await, Some(NOW + 5));
    assert_eq!(rig.change("alice", Offline, Some(NOW + 1), NOW + 11).await, Some(NOW + 5));
    assert_eq!(rig.change("bob", Online, None, NOW).await, None, "everybody has his own");
}

#[tokio::test]
async fn after_a_crash_who_was_online_was_last_seen_at_the_last_sign_of_life() {
    let rig = Rig::new(Limits::default());
    let days = 72 * 3_600_000;
    rig.change("alice", Online, Some(NOW - 50), NOW).await;
    rig.alive(NOW + days).await;
    rig.alive(NOW + 1).await;
    rig.change("bob", Online, None, NOW + days + 7).await;
    let rig = rig.crash();
    let expected = [("alice".to_owned(), Online, Some(NOW + days)), ("bob".to_owned(), Online, Some(NOW + days + 7))];
    assert_eq!(rig.last_presences(NOW + days + 8).await, expected);
}

#[tokio::test]
async fn who_went_long_before_the_stop_is_left_alone() {
    let rig = Rig::new(Limits::default());
    rig.change("early", Offline, Some(NOW), NOW).await;
    rig.change("late", Offline, Some(NOW + 1), NOW + 2).await;
    rig.alive(NOW + PRESENCE_UNSURE_MS).await;
    let rig = rig.reopen().await;
    assert_eq!(rig.last_presences(NOW + PRESENCE_KEPT_MS).await, [("late".to_owned(), Offline, Some(NOW + 1))]);
    assert_eq!(rig.change("early", Online, None, NOW + 9).await, Some(NOW), "but not forgotten");
}

#[tokio::test]
async fn who_has_been_away_for_a_year_is_forgotten() {
    let rig = Rig::new(Limits::default());
    rig.change("gone", Offline, Some(NOW), NOW).await;
    rig.change("here", Online, Some(NOW - 1), NOW).await;
    let later = NOW + PRESENCE_KEPT_MS + 1;
    assert_eq!(rig.last_presences(later).await, [("here".to_owned(), Online, Some(NOW))]);
    assert_eq!(rig.change("gone", Online, None, later).await, None);
}
