//! Whether somebody is looking at a device.
//!
//! A connection says nothing of a person: a laptop in a bag reconnects by itself. A device is *attended* while it is connected,
//! does not say `active: false`, and gave a sign of a person within the last minutes: a message, a read position, a chat state,
//! an invitation, or presence with `active: true` written out. A connect, a birth, a confirmation, a registration and a request
//! are no sign.
//!
//! Between a dead socket and the end of its keep-alive a device looks attended and is not. Therefore what an attended device
//! does not confirm within [`CONFIRM_MS`] counts against it: it is taken as not looked at, with all that it has not
//! confirmed, until it confirms something or gives a sign.
//!
//! ```text
//!                    sign                        the oldest unconfirmed is 15 s old
//!   not looked at ─────────▶ attended ──────────────────────────────────────────────▶ mute
//!         ▲                     │ ▲                                                     │
//!         └─────────────────────┘ └──────────────── confirmation, sign ────────────────┘
//!            the last sign is too old, active:false, the connection ends
//! ```

use super::id::Sid;
use super::topic::Device;
use std::collections::VecDeque;

/// How long an attended device has to confirm a message, in milliseconds.
pub const CONFIRM_MS: u64 = 15_000;
/// Most messages that wait for the confirmation of one device. A device that is given more without confirming any of them
/// is taken as not looked at, as if its time had run out.
pub const UNCONFIRMED_MAX: usize = 256;

/// The devices of a user that somebody is looking at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attended {
    /// Their names, sorted.
    pub devices: Vec<Device>,
}

impl Attended {
    /// Whether somebody is looking at any device.
    pub fn any(&self) -> bool {
        !self.devices.is_empty()
    }

    /// Whether somebody is looking at this one.
    pub fn is(&self, device: &Device) -> bool {
        self.devices.contains(device)
    }
}

/// What is known of one device that is connected. Times are Unix milliseconds by a clock that does not go back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Attention {
    /// How long a sign counts.
    sign_counts_ms: u64,
    /// The client says that nobody looks at it.
    inactive: bool,
    /// The last sign of a person.
    sign_at: Option<u64>,
    /// It let a message wait for too long, and has said nothing since.
    mute: bool,
    /// What it was given while it was attended, and when, and has not confirmed.
    unconfirmed: VecDeque<(Sid, u64)>,
}

impl Attention {
    /// A device that has just connected: nothing says that anybody looks at it.
    pub fn new(sign_counts_ms: u64) -> Self {
        Self { sign_counts_ms, inactive: false, sign_at: None, mute: false, unconfirmed: VecDeque::new() }
    }

    /// Whether somebody is looking.
    pub fn is_attended(&self, now_ms: u64) -> bool {
        let recent = self.sign_at.is_some_and(|at| now_ms < at.saturating_add(self.sign_counts_ms));
        recent && !self.inactive && !self.mute
    }

    /// A person did something at the device.
    pub fn handle_sign(&mut self, now_ms: u64) {
        self.sign_at = self.sign_at.max(Some(now_ms));
        self.mute = false;
    }

    /// A new connection, or the client takes back what it said: nothing is said of whether somebody looks. The last sign
    /// stands, and so does that it let a message wait.
    pub fn handle_unsaid(&mut self) {
        self.inactive = false;
    }

    /// The client says whether it is looked at. `active: true` is a sign of a person; a presence without the word says nothing.
    pub fn handle_active(&mut self, active: bool, now_ms: u64) -> Vec<Sid> {
        self.inactive = !active;
        if active {
            self.handle_sign(now_ms);
            return Vec::new();
        }
        self.give_up()
    }

    /// The device is given a message by MQTT: if somebody is looking, pushes wait for its confirmation. If too much waits by
    /// then, all of it comes back and is to be decided again. A message that it has been given before changes nothing.
    pub fn handle_message(&mut self, sid: Sid, now_ms: u64) -> Vec<Sid> {
        if !self.is_attended(now_ms) || self.is_waited_for(sid) {
            return Vec::new();
        }
        self.unconfirmed.push_back((sid, now_ms));
        if self.unconfirmed.len() <= UNCONFIRMED_MAX {
            return Vec::new();
        }
        self.mute = true;
        self.give_up()
    }

    /// The device confirms a message. Whether a push of it waited for that.
    pub fn handle_confirmed(&mut self, sid: Sid) -> bool {
        self.mute = false;
        let before = self.unconfirmed.len();
        self.unconfirmed.retain(|(waiting, _)| *waiting != sid);
        if self.unconfirmed.is_empty() {
            // What a burst needed is given back.
            self.unconfirmed = VecDeque::new();
        }
        self.unconfirmed.len() < before
    }

    /// The device is not given the message after all.
    pub fn handle_taken_back(&mut self, sid: Sid) {
        self.unconfirmed.retain(|(waiting, _)| *waiting != sid);
    }

    /// Whether a push for the message waits for the device's confirmation.
    pub fn is_waited_for(&self, sid: Sid) -> bool {
        self.unconfirmed.iter().any(|(waiting, _)| *waiting == sid)
    }

    /// The messages up to this one for which pushes wait for the device's confirmation.
    pub fn waited_for_up_to(&self, sid: Sid) -> impl Iterator<Item = Sid> {
        self.unconfirmed.iter().map(|(waiting, _)| *waiting).filter(move |waiting| *waiting <= sid)
    }

    /// Until when the last sign counts, in Unix milliseconds.
    pub fn sign_counts_until(&self) -> Option<u64> {
        self.sign_at.map(|at| at.saturating_add(self.sign_counts_ms))
    }

    /// The connection has ended: what the device has not confirmed is to be decided again.
    pub fn handle_ended(&mut self) -> Vec<Sid> {
        self.give_up()
    }

    /// When to [poll](Self::poll) although nothing happens.
    pub fn deadline(&self) -> Option<u64> {
        self.unconfirmed.front().map(|(_, at)| at.saturating_add(CONFIRM_MS))
    }

    /// What the device has let wait for too long, oldest first: to be decided again. From then on it is not attended.
    pub fn poll(&mut self, now_ms: u64) -> Vec<Sid> {
        if self.deadline().is_none_or(|deadline| now_ms < deadline) {
            return Vec::new();
        }
        self.mute = true;
        self.give_up()
    }

    fn give_up(&mut self) -> Vec<Sid> {
        std::mem::take(&mut self.unconfirmed).into_iter().map(|(sid, _)| sid).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::id::SidSource;
    use proptest::prelude::*;
    use std::collections::BTreeSet;

    const TEN_MINUTES: u64 = 600_000;

    fn sids(count: usize) -> Vec<Sid> {
        let mut source = SidSource::default();
        (0..count).map(|_| source.next(1_700_000_000_000, 1)).collect()
    }

    #[test]
    fn a_laptop_that_reconnects_by_itself_is_not_attended_until_somebody_uses_it() {
        let mut laptop = Attention::new(TEN_MINUTES);
        let sid = sids(1)[0];
        assert!(!laptop.is_attended(0));
        laptop.handle_confirmed(sid);
        assert!(!laptop.is_attended(1), "a confirmation is no sign");
        laptop.handle_sign(1_000);
        assert!(laptop.is_attended(1_000) && laptop.is_attended(600_999));
        assert!(!laptop.is_attended(601_000), "ten minutes later");
    }

    #[test]
    fn a_device_that_says_so_is_not_looked_at_whatever_it_does() {
        let mut tab = Attention::new(TEN_MINUTES);
        let sid = sids(1)[0];
        tab.handle_active(true, 0);
        assert!(tab.is_attended(1));
        assert!(tab.handle_message(sid, 1).is_empty());
        assert_eq!(tab.handle_active(false, 2), [sid], "what it was given is decided again");
        tab.handle_sign(3);
        assert!(!tab.is_attended(3));
        tab.handle_active(true, 4);
        assert!(tab.is_attended(4));
    }

    #[test]
    fn the_oldest_unconfirmed_message_sets_the_clock() {
        let mut phone = Attention::new(TEN_MINUTES);
        let sids = sids(3);
        phone.handle_sign(0);
        assert!(phone.handle_message(sids[0], 1_000).is_empty());
        assert!(phone.handle_message(sids[1], 9_000).is_empty());
        assert_eq!(phone.deadline(), Some(16_000));
        phone.handle_confirmed(sids[0]);
        assert_eq!(phone.deadline(), Some(24_000), "the next one's");
        assert!(phone.poll(23_999).is_empty());
        assert!(phone.handle_message(sids[2], 23_999).is_empty());
        assert_eq!(phone.poll(24_000), sids[1..], "all that is unconfirmed, also what is younger");
        assert!(!phone.is_attended(24_000));
        assert!(phone.handle_message(sids[0], 24_001).is_empty() && phone.deadline().is_none());
        phone.handle_confirmed(sids[2]);
        assert!(phone.is_attended(25_000), "it answers again");
    }

    #[test]
    fn a_connection_that_ends_leaves_its_messages_to_be_decided_again() {
        let mut phone = Attention::new(TEN_MINUTES);
        let sids = sids(2);
        phone.handle_sign(0);
        for sid in &sids {
            assert!(phone.handle_message(*sid, 1).is_empty());
        }
        assert_eq!(phone.handle_ended(), sids);
        assert_eq!(phone.deadline(), None);
    }

    #[test]
    fn the_room_that_a_burst_needed_is_given_back() {
        let sids = sids(UNCONFIRMED_MAX);
        let confirm_all = |phone: &mut Attention| sids.iter().all(|sid| phone.handle_confirmed(*sid));
        let end = |phone: &mut Attention| phone.handle_ended() == sids;
        for empty in [&confirm_all as &dyn Fn(&mut Attention) -> bool, &end] {
            let mut phone = Attention::new(TEN_MINUTES);
            phone.handle_sign(0);
            for sid in &sids {
                assert!(phone.handle_message(*sid, 1).is_empty());
            }
            assert!(empty(&mut phone));
            assert_eq!(phone.unconfirmed.capacity(), 0);
        }
    }

    #[test]
    fn a_device_that_confirms_nothing_is_given_up_before_it_costs_memory() {
        let mut phone = Attention::new(TEN_MINUTES);
        let sids = sids(UNCONFIRMED_MAX + 1);
        phone.handle_sign(0);
        for sid in &sids[..UNCONFIRMED_MAX] {
            assert!(phone.handle_message(*sid, 1).is_empty());
        }
        assert_eq!(phone.handle_message(sids[UNCONFIRMED_MAX], 1), sids);
        assert!(!phone.is_attended(1));
    }

    #[derive(Debug, Clone)]
    enum Step {
        Sign,
        Active(bool),
        Message,
        Confirm(usize),
        End,
        Pass(u64),
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            Just(Step::Sign),
            any::<bool>().prop_map(Step::Active),
            Just(Step::Message),
            (0..20_usize).prop_map(Step::Confirm),
            Just(Step::End),
            (1..20_000_u64).prop_map(Step::Pass),
        ]
    }

    proptest! {
        /// A message given to an attended device is confirmed or comes back, once; nobody waits longer than the clock allows.
        #[test]
        fn nothing_waits_for_a_device_for_ever(steps in prop::collection::vec(step(), 1..80)) {
            let sids = sids(80);
            let (mut device, mut now, mut next) = (Attention::new(60_000), 0, 0);
            let mut waiting: BTreeSet<(u64, Sid)> = BTreeSet::new();
            for step in steps {
                let back = match step {
                    Step::Sign => { device.handle_sign(now); Vec::new() }
                    Step::Active(active) => device.handle_active(active, now),
                    Step::Message => {
                        let sid = sids[next];
                        next += 1;
                        if device.is_attended(now) {
                            waiting.insert((now, sid));
                        }
                        device.handle_message(sid, now)
                    }
                    Step::Confirm(at) => {
                        let sid = sids[at];
                        device.handle_confirmed(sid);
                        waiting.retain(|(_, one)| *one != sid);
                        Vec::new()
                    }
                    Step::End => device.handle_ended(),
                    Step::Pass(ms) => { now += ms; device.poll(now) }
                };
                for sid in back {
                    let before = waiting.len();
                    waiting.retain(|(_, one)| *one != sid);
                    prop_assert_eq!(waiting.len(), before - 1, "it waited, and comes back once");
                }
                prop_assert!(waiting.first().is_none_or(|(since, _)| now < since + CONFIRM_MS));
                prop_assert_eq!(device.deadline(), waiting.first().map(|(since, _)| since + CONFIRM_MS));
            }
        }
    }
}
