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
//! 4. Nobody is looking ([`Rule::Unattended`]): the push goes now, or as soon as the queue has room for it ([`Rule::NoRoom`]).
//! 5. What the device wants of such a push: one for an absence ([`Rule::First`]), no sound by night ([`Rule::Quiet`]).
//!
//! `push: silent` and the quiet hours of the device ([`Rule::Quiet`]) change how a push looks, never whether there is one. `push: always` passes by rule 3 alone.

use super::attention::Attended;
use super::contact::Entry;
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
    /// The same with level `mentions`.
    #[serde(default)]
    pub mentions_only: bool,
    /// The message names the user who is told.
    #[serde(default)]
    pub mentioned: bool,
    /// Some device of the user is attended.
    pub attended: bool,
}

impl Asked {
    /// About something that nothing holds back, as far as is known.
    pub const fn of(matter: Matter, wish: Wish) -> Self {
        Self {
            matter,
            wish,
            own: false,
            blocked: false,
            muted: false,
            mentions_only: false,
            mentioned: false,
            attended: false,
        }
    }

    /// The same, where the user who is told has set this about its writer and about the conversation, which between two is
    /// the same, and these devices are attended.
    pub fn by(self, writer: Entry, conversation: Entry, attended: &Attended, at: u64) -> Self {
        Self {
            blocked: writer.blocked,
            muted: conversation.is_silenced(at),
            mentions_only: conversation.hears_mentions_only(at),
            attended: attended.any(),
            ..self
        }
    }
}

/// What is asked about one device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct AskedDevice {
    /// It has registered a token.
    pub has_token: bool,
    /// This device is attended.
    pub attended: bool,
    /// It wants one push for an absence, and has had it.
    pub was_told: bool,
    /// It is within its quiet hours.
    pub is_quiet: bool,
    /// The queue has room for another push.
    pub has_room: bool,
}

/// The rule that decided. Its name is what `explain` shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Rule {
    /// The writer wished for none.
    Never,
    /// The writer is blocked.
    Blocked,
    /// The conversation is muted, or nothing is wanted of it that does not name the user.
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
    /// It wants one push for an absence, and has had it.
    First,
    /// Nobody is looking, within the quiet hours of the device.
    Quiet,
    /// There is to be a push, and the queue has no room for it.
    NoRoom,
}

impl Rule {
    /// Its number in topics.md, "When a phone is pushed".
    pub const fn number(self) -> u8 {
        match self {
            Self::Never | Self::Blocked | Self::Muted | Self::OwnDevice | Self::Reaction => 1,
            Self::NoToken => 2,
            Self::Attended => 3,
            Self::Unattended | Self::Always | Self::NoRoom => 4,
            Self::First | Self::Quiet => 5,
        }
    }
}

/// What follows for the device.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// No push, whatever happens.
    None,
    /// No push yet: to be decided again when the attended devices have not confirmed in time, or when the queue has room.
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
    if message.muted || message.mentions_only && !message.mentioned {
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
    if device.was_told {
        return none(Rule::First);
    }
    if !device.has_room {
        return PushDecision { verdict: Verdict::Wait, rule: Rule::NoRoom };
    }
    match message.wish {
        Wish::Silent => PushDecision { verdict: Verdict::PushSilently, rule },
        _ if device.is_quiet => PushDecision { verdict: Verdict::PushSilently, rule: Rule::Quiet },
        _ => PushDecision { verdict: Verdict::Push, rule },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const MESSAGE: Asked = Asked::of(Matter::Message, Wish::Auto);
    const DEVICE: AskedDevice =
        AskedDevice { has_token: true, attended: false, was_told: false, is_quiet: false, has_room: true };

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
        let crowded = AskedDevice { has_room: false, ..DEVICE };
        let told = AskedDevice { was_told: true, ..DEVICE };
        let at_night = AskedDevice { is_quiet: true, ..DEVICE };
        let reaction = Asked { matter: Matter::Reaction, ..MESSAGE };
        let wish = |wish| Asked { wish, ..attended };
        for (when, message, device, expected) in [
            (AnyActiveSuppresses, MESSAGE, DEVICE, (Push, Rule::Unattended)),
            (AnyActiveSuppresses, MESSAGE, bare, (None, Rule::NoToken)),
            (AnyActiveSuppresses, attended, DEVICE, (Wait, Rule::Attended)),
            (AnyActiveSuppresses, attended, bare, (None, Rule::NoToken)),
            (AnyActiveSuppresses, MESSAGE, crowded, (Wait, Rule::NoRoom)),
            (AnyActiveSuppresses, attended, crowded, (Wait, Rule::Attended)),
            (AnyActiveSuppresses, wish(Wish::Always), crowded, (Wait, Rule::NoRoom)),
            (AnyActiveSuppresses, wish(Wish::Never), crowded, (None, Rule::Never)),
            (AnyActiveSuppresses, MESSAGE, told, (None, Rule::First)),
            (AnyActiveSuppresses, wish(Wish::Always), told, (None, Rule::First)),
            (AnyActiveSuppresses, attended, told, (Wait, Rule::Attended)),
            (AnyActiveSuppresses, MESSAGE, AskedDevice { has_room: false, ..told }, (None, Rule::First)),
            (AnyActiveSuppresses, MESSAGE, at_night, (PushSilently, Rule::Quiet)),
            (AnyActiveSuppresses, wish(Wish::Always), at_night, (PushSilently, Rule::Quiet)),
            (AnyActiveSuppresses, attended, at_night, (Wait, Rule::Attended)),
            (AnyActiveSuppresses, MESSAGE, AskedDevice { has_room: false, ..at_night }, (Wait, Rule::NoRoom)),
            (AnyActiveSuppresses, Asked { wish: Wish::Silent, ..MESSAGE }, at_night, (PushSilently, Rule::Unattended)),
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
            (Always, Asked { mentions_only: true, wish: Wish::Always, ..MESSAGE }, DEVICE, (None, Rule::Muted)),
            (PerDevice, Asked { mentions_only: true, mentioned: true, ..MESSAGE }, DEVICE, (Push, Rule::Unattended)),
            (Always, Asked { muted: true, mentioned: true, ..MESSAGE }, DEVICE, (None, Rule::Muted)),
            (PerDevice, Asked { mentions_only: true, mentioned: true, ..attended }, looked_at, (Wait, Rule::Attended)),
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
        (matter, wish, any::<[bool; 6]>()).prop_map(|(matter, wish, is)| {
            let [own, blocked, muted, mentions_only, mentioned, attended] = is;
            Asked { matter, wish, own, blocked, muted, mentions_only, mentioned, attended }
        })
    }

    fn any_device() -> impl Strategy<Value = AskedDevice> {
        any::<(bool, bool, bool, bool, bool)>().prop_map(|(has_token, attended, was_told, is_quiet, has_room)| {
            AskedDevice { has_token, attended, was_told, is_quiet, has_room }
        })
    }

    fn any_when() -> impl Strategy<Value = PushWhen> {
        prop_oneof![Just(PushWhen::AnyActiveSuppresses), Just(PushWhen::PerDevice), Just(PushWhen::Always)]
    }

    proptest! {
        #[test]
        fn a_push_needs_a_token_and_a_writer_who_may_be_heard(when in any_when(), message in any_message(), device in any_device()) {
            let verdict = decide(when, message, device).verdict;
            if matches!(verdict, Verdict::Push | Verdict::PushSilently) {
                prop_assert!(device.has_token && device.has_room && !device.was_told && !message.blocked && !message.muted && !message.own);
                prop_assert!(message.wish != Wish::Never && (message.mentioned || !message.mentions_only));
            }
            let is_silent = message.wish == Wish::Silent || device.is_quiet;
            prop_assert_eq!(verdict == Verdict::PushSilently, is_silent && verdict != Verdict::None && verdict != Verdict::Wait);
        }

        #[test]
        fn without_anybody_looking_nothing_waits_but_for_room(when in any_when(), message in any_message(), device in any_device()) {
            let message = Asked { attended: false, ..message };
            let device = AskedDevice { attended: false, has_room: true, ..device };
            prop_assert_ne!(decide(when, message, device).verdict, Verdict::Wait);
        }

        #[test]
        fn quiet_hours_change_how_a_push_looks_and_never_whether_there_is_one(when in any_when(), message in any_message(), device in any_device()) {
            let looks = |is_quiet| match decide(when, message, AskedDevice { is_quiet, ..device }).verdict {
                Verdict::PushSilently => Verdict::Push,
                verdict => verdict,
            };
            prop_assert_eq!(looks(true), looks(false));
        }

        #[test]
        fn what_waits_is_pushed_once_nobody_looks_and_there_is_room(when in any_when(), message in any_message(), device in any_device()) {
            if decide(when, message, device).verdict == Verdict::Wait {
                let device = AskedDevice { attended: false, was_told: false, has_room: true, ..device };
                let later = decide(when, Asked { attended: false, ..message }, device);
                prop_assert!(matches!(later.verdict, Verdict::Push | Verdict::PushSilently));
            }
        }
    }
}
