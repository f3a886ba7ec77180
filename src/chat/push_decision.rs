//! Whether a device gets a push for what a user is to be told: one pure decision for each device. A push exactly when nobody
//! is looking.
//!
//! The first rule that fits decides, and its name is kept with the message, so that it can be explained later:
//!
//! 1. Nobody asked for a push ([`Rule::Never`], [`Rule::Blocked`], [`Rule::Muted`], [`Rule::OwnDevice`], [`Rule::Reaction`]).
//!    Unread still counts.
//! 2. The device has no token ([`Rule::NoToken`]).
//! 3. Somebody is looking ([`Rule::Attended`], by [`PushWhen`]): the message goes by MQTT, and the push waits for the
//!    confirmation of an attended device. [`super::attention`] says which devices are attended, and when the wait is over.
//! 4. Nobody is looking ([`Rule::Unattended`]): the push goes now.
//!
//! `push: silent` changes how a push looks, never whether there is one. `push: always` passes by rule 3 alone.

use serde::{Deserialize, Serialize};

/// What a user is told of. Whatever is not here (chat states, presence, receipts, edits) is never pushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Matter {
    /// A message of another user or of a BAL.
    Message,
    /// A message of type `reaction`: pushed on the writer's wish only.
    Reaction,
    /// An invitation.
    Invitation,
    /// A call that rings. How it ended is a message.
    Call,
}

/// The field `push` of a message: what its writer wishes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wish {
    /// When nobody is looking.
    #[default]
    Auto,
    /// Also when somebody is looking.
    Always,
    /// Not at all.
    Never,
    /// When nobody is looking, and without anything to be seen.
    Silent,
}

impl Wish {
    /// The wish of this name.
    pub fn parse(name: &str) -> Option<Self> {
        match name {
            "auto" => Some(Self::Auto),
            "always" => Some(Self::Always),
            "never" => Some(Self::Never),
            "silent" => Some(Self::Silent),
            _ => None,
        }
    }
}

/// Which attended devices hold a push back: `[chat] push_when`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum PushWhen {
    /// Any device of the user.
    #[default]
    AnyActiveSuppresses,
    /// The device itself alone.
    PerDevice,
    /// None: rule 3 does not exist.
    Always,
}

/// What is asked about a message, the same for all devices of the user who is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Asked {
    /// What it is.
    pub matter: Matter,
    /// What its writer wishes.
    pub wish: Wish,
    /// The user who is told wrote it: a copy for the own devices, or a message to oneself.
    pub own: bool,
    /// The user who is told has blocked the writer.
    pub blocked: bool,
    /// The user who is told has muted the conversation, with level `none`.
    pub muted: bool,
    /// Some device of the user is attended.
    pub attended: bool,
}

/// What is asked about one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AskedDevice {
    /// It has registered a token.
    pub has_token: bool,
    /// This device is attended.
    pub attended: bool,
}

/// The rule that decided. Its name is what `explain` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The writer wished for none.
    Never,
    /// The writer is blocked.
    Blocked,
    /// The conversation is muted.
    Muted,
    /// A user is not told of what the user wrote.
    OwnDevice,
    /// A reaction without `push: always`.
    Reaction,
    /// There is nothing to push to.
    NoToken,
    /// Somebody is looking, and has the message by MQTT.
    Attended,
    /// Nobody is looking.
    Unattended,
    /// Somebody may be looking, and the writer or the operator wants a push all the same.
    Always,
}

impl Rule {
    /// Its number in topics.md, "When a phone is pushed".
    pub const fn number(self) -> u8 {
        match self {
            Self::Never | Self::Blocked | Self::Muted | Self::OwnDevice | Self::Reaction => 1,
            Self::NoToken => 2,
            Self::Attended => 3,
            Self::Unattended | Self::Always => 4,
        }
    }
}

/// What follows for the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// No push, whatever happens.
    None,
    /// No push yet: to be decided again when the attended devices have not confirmed in time.
    Wait,
    /// A push now, to be seen.
    Push,
    /// A push now, of data alone and with normal priority.
    PushSilently,
}

/// What was decided, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct PushDecision {
    /// What follows.
    pub verdict: Verdict,
    /// The rule that said so.
    pub rule: Rule,
}

/// Decides for one device.
pub fn decide(when: PushWhen, message: Asked, device: AskedDevice) -> PushDecision {
    let none = |rule| PushDecision { verdict: Verdict::None, rule };
    if message.wish == Wish::Never {
        return none(Rule::Never);
    }
    if message.blocked {
        return none(Rule::Blocked);
    }
    if message.muted {
        return none(Rule::Muted);
    }
    if message.own {
        return none(Rule::OwnDevice);
    }
    if message.matter == Matter::Reaction && message.wish != Wish::Always {
        return none(Rule::Reaction);
    }
    if !device.has_token {
        return none(Rule::NoToken);
    }
    let attended = match when {
        PushWhen::AnyActiveSuppresses => message.attended || device.attended,
        PushWhen::PerDevice => device.attended,
        PushWhen::Always => false,
    };
    let passes_by = message.wish == Wish::Always || when == PushWhen::Always;
    let rule = match attended {
        true if !passes_by => return PushDecision { verdict: Verdict::Wait, rule: Rule::Attended },
        _ if passes_by => Rule::Always,
        _ => Rule::Unattended,
    };
    let verdict = if message.wish == Wish::Silent { Verdict::PushSilently } else { Verdict::Push };
    PushDecision { verdict, rule }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MESSAGE: Asked =
        Asked { matter: Matter::Message, wish: Wish::Auto, own: false, blocked: false, muted: false, attended: false };
    const DEVICE: AskedDevice = AskedDevice { has_token: true, attended: false };

    fn decided(when: PushWhen, message: Asked, device: AskedDevice) -> (Verdict, Rule) {
        let PushDecision { verdict, rule } = decide(when, message, device);
        (verdict, rule)
    }

    #[test]
    fn each_rule_decides_where_it_is_the_first_that_fits() {
        use PushWhen::{Always, AnyActiveSuppresses, PerDevice};
        use Verdict::{None, Push, PushSilently, Wait};
        let attended = Asked { attended: true, ..MESSAGE };
        let looked_at = AskedDevice { attended: true, ..DEVICE };
        let bare = AskedDevice { has_token: false, ..DEVICE };
        let reaction = Asked { matter: Matter::Reaction, ..MESSAGE };
        let wish = |wish| Asked { wish, ..attended };
        for (when, message, device, expected) in [
            (AnyActiveSuppresses, MESSAGE, DEVICE, (Push, Rule::Unattended)),
            (AnyActiveSuppresses, MESSAGE, bare, (None, Rule::NoToken)),
            (AnyActiveSuppresses, attended, DEVICE, (Wait, Rule::Attended)),
            (AnyActiveSuppresses, attended, bare, (None, Rule::NoToken)),
            (PerDevice, attended, DEVICE, (Push, Rule::Unattended)),
            (PerDevice, attended, looked_at, (Wait, Rule::Attended)),
            (Always, attended, looked_at, (Push, Rule::Always)),
            (AnyActiveSuppresses, wish(Wish::Never), DEVICE, (None, Rule::Never)),
            (AnyActiveSuppresses, wish(Wish::Always), looked_at, (Push, Rule::Always)),
            (AnyActiveSuppresses, wish(Wish::Silent), DEVICE, (Wait, Rule::Attended)),
            (AnyActiveSuppresses, Asked { wish: Wish::Silent, ..MESSAGE }, DEVICE, (PushSilently, Rule::Unattended)),
            (Always, wish(Wish::Silent), DEVICE, (PushSilently, Rule::Always)),
            (Always, Asked { blocked: true, ..MESSAGE }, DEVICE, (None, Rule::Blocked)),
            (Always, Asked { muted: true, wish: Wish::Always, ..MESSAGE }, DEVICE, (None, Rule::Muted)),
            (Always, Asked { own: true, ..MESSAGE }, DEVICE, (None, Rule::OwnDevice)),
            (AnyActiveSuppresses, reaction, DEVICE, (None, Rule::Reaction)),
            (AnyActiveSuppresses, Asked { wish: Wish::Always, ..reaction }, DEVICE, (Push, Rule::Always)),
            (Always, reaction, DEVICE, (None, Rule::Reaction)),
            (AnyActiveSuppresses, Asked { matter: Matter::Invitation, ..MESSAGE }, DEVICE, (Push, Rule::Unattended)),
            (AnyActiveSuppresses, Asked { matter: Matter::Call, ..MESSAGE }, DEVICE, (Push, Rule::Unattended)),
            (AnyActiveSuppresses, Asked { matter: Matter::Call, ..attended }, DEVICE, (Wait, Rule::Attended)),
        ] {
            assert_eq!(decided(when, message, device), expected, "{when:?} {message:?} {device:?}");
        }
    }

    fn any_message() -> impl Strategy<Value = Asked> {
        let matter =
            prop_oneof![Just(Matter::Message), Just(Matter::Reaction), Just(Matter::Invitation), Just(Matter::Call)];
        let wish = prop_oneof![Just(Wish::Auto), Just(Wish::Always), Just(Wish::Never), Just(Wish::Silent)];
        (matter, wish, any::<(bool, bool, bool, bool)>()).prop_map(|(matter, wish, (own, blocked, muted, attended))| {
            Asked { matter, wish, own, blocked, muted, attended }
        })
    }

    fn any_when() -> impl Strategy<Value = PushWhen> {
        prop_oneof![Just(PushWhen::AnyActiveSuppresses), Just(PushWhen::PerDevice), Just(PushWhen::Always)]
    }

    proptest! {
        #[test]
        fn a_push_needs_a_token_and_a_writer_who_may_be_heard(when in any_when(), message in any_message(), device: (bool, bool)) {
            let device = AskedDevice { has_token: device.0, attended: device.1 };
            let verdict = decide(when, message, device).verdict;
            if matches!(verdict, Verdict::Push | Verdict::PushSilently) {
                prop_assert!(device.has_token && !message.blocked && !message.muted && !message.own);
                prop_assert!(message.wish != Wish::Never);
            }
            prop_assert_eq!(verdict == Verdict::PushSilently, message.wish == Wish::Silent && verdict != Verdict::None && verdict != Verdict::Wait);
        }

        #[test]
        fn without_anybody_looking_nothing_waits(when in any_when(), message in any_message(), has_token: bool) {
            let message = Asked { attended: false, ..message };
            let device = AskedDevice { has_token, attended: false };
            prop_assert_ne!(decide(when, message, device).verdict, Verdict::Wait);
        }

        #[test]
        fn what_waits_is_pushed_once_nobody_looks(when in any_when(), message in any_message(), attended: bool) {
            let device = AskedDevice { has_token: true, attended };
            if decide(when, message, device).verdict == Verdict::Wait {
                let later = decide(when, Asked { attended: false, ..message }, AskedDevice { attended: false, ..device });
                prop_assert!(matches!(later.verdict, Verdict::Push | Verdict::PushSilently));
            }
        }
    }
}
