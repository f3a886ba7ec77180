//! How many pushes a device gets that says nothing: after [`SINGLE_MAX`] of them one that stands for all that follow.
//!
//! Push services keep 100 messages for a device that is away and drop all of them at the next one, and they take 240 a minute
//! for one device. Neither may lose anything: what a single push would have said, the app asks for when it gets the `sync`.
//!
//! ```text
//!   Single(n) ──the 50th push──▶ Syncing ──▶ a sync now, then one at most every three minutes while there is news
//!       ▲                           │
//!       └── the device confirmed or connected
//! ```

use super::id::Row;
use serde::{Deserialize, Serialize};

/// Pushes, `clear` among them, that a device gets one by one without confirming any or connecting.
pub const SINGLE_MAX: u32 = 50;
/// From one `sync` to the next, in milliseconds.
pub const SYNC_PAUSE_MS: u64 = 180_000;

/// What is to be pushed for one piece of news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Next {
    /// The push itself.
    Single,
    /// A `sync` instead of it.
    Sync,
    /// Nothing now: a `sync` at this time, which is in the budget already, stands for it.
    At(u64),
}

/// What a device was pushed since it last said something. Its JSON is its form on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushBudget {
    /// Single pushes.
    single: u32,
    /// When the last `sync` went, or the next one is to go, in Unix milliseconds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    sync_at: Option<u64>,
    /// Of a device that wants one push for an absence: the row of that push.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    told: Option<i64>,
}

impl PushBudget {
    /// There is news for the device.
    pub fn handle_news(&mut self, now_ms: u64) -> Next {
        if self.single < SINGLE_MAX {
            self.single += 1;
            return Next::Single;
        }
        match self.sync_at {
            // It has not gone yet.
            Some(at) if at > now_ms => Next::At(at),
            Some(last) if now_ms < last.saturating_add(SYNC_PAUSE_MS) => {
                let at = last.saturating_add(SYNC_PAUSE_MS);
                self.sync_at = Some(at);
                Next::At(at)
            }
            _ => {
                self.sync_at = Some(now_ms);
                Next::Sync
            }
        }
    }

    /// The device has had the push of this absence: nothing more is to be told to it.
    pub fn was_told(&self) -> bool {
        self.told.is_some()
    }

    /// This push is the one of this absence.
    pub fn handle_told(&mut self, push: Row) {
        self.told = Some(push.0);
    }

    /// What it was told is seen elsewhere: whoever saw it was not absent, and the next message begins another absence.
    pub fn handle_cleared(&mut self) {
        self.told = None;
    }

    /// The device confirmed a message, or connected: single pushes again. A `sync` that waits for its time goes now.
    pub fn handle_sign_of_device(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn two_hundred_messages_in_a_minute_are_fifty_pushes_and_two_syncs() {
        let (mut budget, mut pushes, mut syncs, mut late) = (PushBudget::default(), 0, Vec::new(), None);
        for message in 0..200 {
            match budget.handle_news(message * 300) {
                Next::Single => pushes += 1,
                Next::Sync => syncs.push(message * 300),
                Next::At(at) => late = Some(at),
            }
        }
        assert_eq!((pushes, syncs.as_slice()), (50, &[15_000][..]));
        assert_eq!(late, Some(195_000), "the last one is late rather than left out");
        budget.handle_sign_of_device();
        assert_eq!(budget.handle_news(60_000), Next::Single);
    }

    #[test]
    fn an_absence_has_one_push_until_the_device_speaks_or_what_it_shows_is_read() {
        let mut budget = PushBudget::default();
        budget.handle_told(Row(7));
        let text = serde_json::to_string(&budget).unwrap();
        assert_eq!(text, r#"{"single":0,"told":7}"#);
        assert!(serde_json::from_str::<PushBudget>(&text).unwrap().was_told());
        for end in [PushBudget::handle_sign_of_device, PushBudget::handle_cleared] {
            let mut ended = budget;
            end(&mut ended);
            assert!(!ended.was_told());
        }
    }

    proptest! {
        /// Whatever the times: no sync follows another within the pause, and after each piece of news a push follows at once or late.
        #[test]
        fn no_news_is_left_out_and_no_device_is_flooded(steps in prop::collection::vec((0..200_000_u64, 0..40_u8), 1..300)) {
            let (mut budget, mut now, mut silent, mut last) = (PushBudget::default(), 0, 0_u32, None::<u64>);
            for (passed, what) in steps {
                now += passed;
                if what == 0 {
                    budget.handle_sign_of_device();
                    (silent, last) = (0, None);
                    continue;
                }
                let at = match budget.handle_news(now) {
                    Next::Single => {
                        silent += 1;
                        prop_assert!(silent <= SINGLE_MAX);
                        continue;
                    }
                    Next::Sync => now,
                    Next::At(at) => at,
                };
                prop_assert!(at >= now);
                prop_assert!(last.is_none_or(|last| at == last || at >= last + SYNC_PAUSE_MS));
                last = Some(at);
            }
        }
    }
}
