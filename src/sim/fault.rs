//! What goes wrong, on purpose: a plan that can be changed while the simulator runs, and the dice that carry it out.
//!
//! Every connection has dice of its own, made from the seed and the connection's number, so that the same seed and the
//! same input give the same faults whatever other connections do.

use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use serde::{Deserialize, Serialize};

/// The plan. All chances are between 0 and 1; all counts of messages are per connection and count what a client sends.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Faults {
    /// Chance that a message is taken and its answer never sent; the connection is reset a little later.
    pub lose_ack: f64,
    /// How much later, in milliseconds.
    pub lose_ack_reset_ms: u64,
    /// Refusals out of thin air.
    pub nack: Vec<NackFault>,
    /// Begin to drain a connection after so many messages.
    pub drain_after: Option<u64>,
    /// How a connection is drained.
    pub drain: DrainPlan,
    /// Close the stream properly after so many messages.
    pub close_after: Option<u64>,
    /// Reset the connection after so many messages.
    pub reset_after: Option<u64>,
    /// Neither read nor write on any connection.
    pub stall: bool,
    /// Neither read nor write on a connection for a while after so many messages.
    pub stall_after: Option<u64>,
    /// How long that while is, in milliseconds.
    pub stall_ms: u64,
    /// Chance that a message of a device is sent twice.
    pub duplicate_upstream: f64,
    /// Chance that a receipt is sent twice.
    pub duplicate_receipt: f64,
    /// Cut what is written into pieces of random sizes, each a TLS record of its own.
    pub split_writes: bool,
    /// Send receipts before the answers to their messages.
    pub receipt_before_ack: bool,
    /// Send no receipts at all.
    pub no_receipts: bool,
    /// How long the answer to a message takes, in milliseconds.
    pub latency_ms: u64,
    /// How much longer it may take, drawn for each message; answers keep their order.
    pub jitter_ms: u64,
}

/// A refusal out of thin air: of the next `times` messages, or with a chance, or both (then while both last).
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NackFault {
    /// The code to refuse with.
    pub code: String,
    /// The chance for each message.
    #[serde(default = "always")]
    pub chance: f64,
    /// How many messages; absent: no end.
    #[serde(default)]
    pub times: Option<u64>,
}

fn always() -> f64 {
    1.0
}

/// How a connection is drained.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct DrainPlan {
    /// How the client hears of it.
    pub notice: Notice,
    /// How long the connection stays open, in milliseconds; absent: until the client closes it.
    pub close_ms: Option<u64>,
}

impl Default for DrainPlan {
    fn default() -> Self {
        Self { notice: Notice::Control, close_ms: Some(2_000) }
    }
}

/// How a client hears that its connection is draining; both were seen on the real server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Notice {
    /// By a control message.
    Control,
    /// Only by the refusal of what it sends.
    Nack,
}

/// A plan that cannot be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FaultError {
    /// A chance is not between 0 and 1.
    #[error("{0} is a chance: 0 to 1")]
    Chance(&'static str),
    /// A refusal has no code.
    #[error("nack needs a code")]
    Code,
    /// Too many refusals.
    #[error("at most {MAX_NACKS} nacks")]
    Nacks,
}

/// Refusals in one plan at most.
pub const MAX_NACKS: usize = 64;

impl Faults {
    /// Whether the plan can be carried out.
    ///
    /// # Errors
    /// When it cannot.
    pub fn check(&self) -> Result<(), FaultError> {
        let chances = [
            ("lose_ack", self.lose_ack),
            ("duplicate_upstream", self.duplicate_upstream),
            ("duplicate_receipt", self.duplicate_receipt),
        ];
        let nacks = self.nack.iter().map(|nack| ("nack.chance", nack.chance));
        if let Some((name, _)) = chances.into_iter().chain(nacks).find(|(_, chance)| !(0.0..=1.0).contains(chance)) {
            return Err(FaultError::Chance(name));
        }
        if self.nack.iter().any(|nack| nack.code.is_empty()) {
            return Err(FaultError::Code);
        }
        if self.nack.len() > MAX_NACKS { Err(FaultError::Nacks) } else { Ok(()) }
    }

    /// The code to refuse the next message with, if it is to be refused; uses it up.
    pub(super) fn take_nack(&mut self, dice: &mut Dice) -> Option<String> {
        let at = self.nack.iter().position(|nack| nack.times != Some(0) && dice.chance(nack.chance))?;
        let nack = &mut self.nack[at];
        let code = nack.code.clone();
        if let Some(times) = &mut nack.times {
            *times -= 1;
            if *times == 0 {
                self.nack.remove(at);
            }
        }
        Some(code)
    }

    /// How long the answer to the next message takes, in milliseconds.
    pub(super) fn latency(&self, dice: &mut Dice) -> u64 {
        let jitter = if self.jitter_ms == 0 { 0 } else { dice.below(self.jitter_ms.saturating_add(1)) };
        self.latency_ms.saturating_add(jitter)
    }
}

/// One connection's chance.
#[derive(Debug, Clone)]
pub(super) struct Dice(Xoshiro256PlusPlus);

impl Dice {
    /// The dice number `number` of `seed`.
    pub(super) fn new(seed: u64, number: u64) -> Self {
        // Spreads the numbers over all bits, or neighbouring connections would begin alike.
        Self(Xoshiro256PlusPlus::seed_from_u64(seed ^ number.wrapping_mul(0x9e37_79b9_7f4a_7c15)))
    }

    /// True with this chance. Draws nothing for 0 and 1: a fault that is off does not change the others.
    pub(super) fn chance(&mut self, chance: f64) -> bool {
        if chance <= 0.0 { false } else { chance >= 1.0 || self.0.random_bool(chance) }
    }

    /// A number below `limit`, which is not 0.
    pub(super) fn below(&mut self, limit: u64) -> u64 {
        self.0.random_range(0..limit)
    }

    /// Any number.
    pub(super) fn any(&mut self) -> u64 {
        self.0.random()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_seed_throws_the_same_and_another_does_not() {
        let throws = |seed, number| {
            let mut dice = Dice::new(seed, number);
            (0..100).map(|_| dice.chance(0.5)).collect::<Vec<_>>()
        };
        assert_eq!(throws(7, 1), throws(7, 1));
        assert_ne!(throws(7, 1), throws(7, 2));
        assert_ne!(throws(7, 1), throws(8, 1));
    }

    #[test]
    fn a_counted_nack_is_used_up() {
        let mut faults: Faults = serde_json::from_str(r#"{"nack":[{"code":"A","times":2},{"code":"B"}]}"#).unwrap();
        let mut dice = Dice::new(1, 1);
        let codes: Vec<_> = (0..4).filter_map(|_| faults.take_nack(&mut dice)).collect();
        assert_eq!(codes, ["A", "A", "B", "B"]);
    }

    #[test]
    fn a_likely_nack_comes_about_as_often_as_it_should() {
        let nack = vec![NackFault { code: "A".into(), chance: 0.2, times: None }];
        let mut faults = Faults { nack, ..Faults::default() };
        let mut dice = Dice::new(3, 9);
        let count = (0..10_000).filter(|_| faults.take_nack(&mut dice).is_some()).count();
        assert!((1_800..2_200).contains(&count), "{count} of 10000");
    }

    #[test]
    fn a_plan_is_checked() {
        assert_eq!(Faults::default().check(), Ok(()));
        assert_eq!(Faults { lose_ack: 1.5, ..Faults::default() }.check(), Err(FaultError::Chance("lose_ack")));
        assert!(Faults { duplicate_upstream: f64::NAN, ..Faults::default() }.check().is_err());
        let nack = vec![NackFault { code: String::new(), chance: 1.0, times: None }];
        assert_eq!(Faults { nack, ..Faults::default() }.check(), Err(FaultError::Code));
        assert!(serde_json::from_str::<Faults>(r#"{"lose_acks":1}"#).is_err());
    }
}
