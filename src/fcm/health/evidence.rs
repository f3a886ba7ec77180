//! Whom a refusal speaks of: its message, its recipient, the access token, or everybody.
//!
//! * A fault that shows with one message while others pass is the message's; from then on its faults say nothing of the
//!   project.
//! * One `SENDER_ID_MISMATCH` speaks of a token; many at once, from different recipients, speak of our own key. One
//!   recipient who is put off speaks of himself; many in a row, while nobody passes, speak of FCM.
//! * An access token that is refused once is used on while another is fetched: the message may be at fault. It is spent
//!   when it was refused several times in a row, or when its successor is refused as well.

use crate::fcm::verdict::Access;
use std::collections::{BTreeMap, HashSet, VecDeque};

/// The last answers of so many different recipients are looked at for mismatches.
pub(super) const WITNESSES_MAX: usize = 64;
/// Fewer mismatches than this prove nothing.
pub(super) const MISMATCHES_MIN: usize = 8;
/// So many recipients in a row that are put off are FCM's fault.
pub(super) const PUT_OFF_MIN: usize = 20;
/// Faults of the project in a row that are not those of single messages, whatever passed before.
const FAULTS_MIN: u32 = 3;
/// So many refusals of an access token in a row are the token's fault.
const TOKEN_REFUSALS_MIN: u32 = 3;
/// Most messages that were refused for a fault of the project and are remembered; beyond it the oldest are forgotten, and
/// may be a probe like any other.
pub(super) const SUSPECTS_MAX: usize = 1024;

/// What the answers so far say. Messages, recipients and access tokens are known by numbers.
#[derive(Debug, Default)]
pub(super) struct Evidence {
    /// Answers that only a project gets that is in order.
    pub(super) passed: u64,
    /// Faults of the project since the last of them.
    faults: u32,
    /// Recipients that were put off since the last of them; at most [`PUT_OFF_MIN`].
    pub(super) put_off: HashSet<i64>,
    /// The last answer of each of the last recipients, and whether it was a mismatch: one recipient that is tried again and
    /// again is still one.
    witnesses: VecDeque<(i64, bool)>,
    pub(super) suspects: BTreeMap<i64, Suspect>,
    pub(super) tokens: Tokens,
}

/// A message that was refused for a fault of the project.
#[derive(Debug)]
pub(super) struct Suspect {
    /// [`Evidence::passed`] when it was refused.
    passed: u64,
    /// The access token that was refused with it, by its generation; 0 is none.
    pub(super) token: u64,
    /// Others passed: the fault is its own.
    alone: bool,
}

/// What is known of access tokens, by their generations: each is higher than those before it, and 0 is none.
#[derive(Debug, Default)]
pub(super) struct Tokens {
    /// The newest with which a message passed.
    proven: u64,
    /// The newest that was refused.
    pub(super) refused: u64,
    /// How often in a row it was.
    pub(super) refusals: u32,
    /// This one and those before it are not used any more.
    pub(super) spent: u64,
}

impl Evidence {
    /// A message got an answer that only a project gets that is in order.
    pub(super) fn pass(&mut self, message: i64, generation: u64) {
        self.passed += 1;
        self.faults = 0;
        self.put_off.clear();
        self.suspects.remove(&message);
        self.tokens.pass(generation);
    }

    /// A message met a fault of the project; when it was sent, so many had `passed`. Returns whether the fault is its own.
    pub(super) fn fault(&mut self, message: i64, passed: u64) -> bool {
        self.faults = self.faults.saturating_add(1);
        let alone = self.is_alone(message, passed);
        self.suspect(message, 0, alone);
        alone
    }

    /// The access token of a message was refused. Returns whether the message is at fault, and not the token: a message is
    /// never that met nothing before.
    pub(super) fn token_refused(&mut self, message: i64, passed: u64, generation: u64) -> bool {
        let alone = self.suspects.contains_key(&message) && self.is_alone(message, passed);
        if !alone {
            self.tokens.refuse(generation);
        }
        self.suspect(message, if alone { 0 } else { generation }, alone);
        alone
    }

    /// A recipient was put off. Returns whether that is FCM's fault.
    pub(super) fn put_off(&mut self, recipient: i64) -> bool {
        if self.put_off.len() < PUT_OFF_MIN {
            self.put_off.insert(recipient);
        }
        self.put_off.len() >= PUT_OFF_MIN
    }

    /// The token of a recipient was taken, or it is a `mismatch`.
    pub(super) fn witness(&mut self, recipient: i64, mismatch: bool) {
        if let Some(known) = self.witnesses.iter().position(|(one, _)| *one == recipient) {
            self.witnesses.remove(known);
        } else if self.witnesses.len() == WITNESSES_MAX {
            self.witnesses.pop_front();
        }
        self.witnesses.push_back((recipient, mismatch));
    }

    /// Whether at least half of the witnesses, and enough, speak against our own key.
    pub(super) fn is_against_our_key(&self) -> bool {
        let against = self.witnesses.iter().filter(|(_, mismatch)| *mismatch).count();
        against >= MISMATCHES_MIN && against * 2 >= self.witnesses.len()
    }

    /// What was seen of recipients under the old key says nothing about the new one.
    pub(super) fn forget_recipients(&mut self) {
        self.witnesses.clear();
        self.put_off.clear();
    }

    /// Whether a fault that a message meets is its own: others passed since it was refused before, or while it was on its
    /// way.
    fn is_alone(&self, message: i64, passed: u64) -> bool {
        let (alone, passed) = self.suspects.get(&message).map_or((false, passed), |it| (it.alone, it.passed));
        alone || (self.passed > passed && self.faults < FAULTS_MIN)
    }

    fn suspect(&mut self, message: i64, token: u64, alone: bool) {
        self.suspects.insert(message, Suspect { passed: self.passed, token, alone });
        if self.suspects.len() > SUSPECTS_MAX {
            self.suspects.pop_first();
        }
    }
}

impl Tokens {
    /// How fresh the one of this generation is for a message with which `refused` was refused before; 0 is none.
    pub(super) fn access(&self, generation: u64, refused: u64) -> Access {
        let is_fresh = refused > 0 || (generation > self.refused && self.refused > self.proven);
        if is_fresh { Access::Refreshed } else { Access::Cached }
    }

    fn pass(&mut self, generation: u64) {
        self.proven = self.proven.max(generation);
        if generation == self.refused {
            self.refusals = 0;
        }
    }

    fn refuse(&mut self, generation: u64) {
        if generation > self.refused {
            (self.refused, self.refusals) = (generation, 0);
        }
        self.refusals += u32::from(generation == self.refused);
        if self.refusals >= TOKEN_REFUSALS_MIN {
            self.spent = self.spent.max(self.refused);
        }
    }

    /// It was refused, and so was the one before it.
    pub(super) fn spend(&mut self, generation: u64) {
        self.refuse(generation);
        self.spent = self.spent.max(generation);
    }
}
