//! What a message loses on its way to v1: fields without an equivalent, or with one on some devices only.

use std::borrow::Cow;
use std::fmt;

/// Most losses that are named for one message; an application can put any number of unknown fields into one.
pub const LOSSES_MAX: usize = 32;
/// Most characters of an unknown field's name.
const FIELD_MAX: usize = 64;

/// A field, and why it does not arrive as it was meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Loss {
    /// The field, by its name in CCS; below `notification` or `data` with that in front.
    pub field: Cow<'static, str>,
    /// Why.
    pub why: Why,
}

/// Why a field does not arrive as it was meant. A bounded set, fit for a label.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Why {
    /// v1 has no ids of the sender.
    IdInData,
    /// The application uses the key that the id would travel under.
    KeyTaken,
    /// The id would make the message too big.
    NoRoom,
    /// v1 has no receipts; the app has to confirm.
    AppConfirms,
    /// v1 has no receipts, and there is no address for the app to confirm to.
    NoReceipts,
    /// Ignored by Google since 2016.
    Ignored,
    /// Means something on Android only.
    AndroidOnly,
    /// Means something on Apple's devices only.
    AppleOnly,
    /// On Apple's devices it replaces what is shown already, not only what waits.
    AppleReplacesShown,
    /// To Apple's devices a message that shows nothing goes as FCM decides, unless it is a background push.
    NotToApple,
    /// A message that shows nothing has one priority on Apple's devices.
    SilentPriority,
    /// Changes what is shown, and nothing is.
    NothingShown,
    /// v1 checks the request, and not whether the token lives.
    ValidatesOnly,
    /// `android_v2` has no priorities: its kind of message implies one.
    ImpliedByKind,
    /// A message that runs in the background shows nothing.
    ShowsNothing,
    /// `data` holds text only, null is none.
    Null,
    /// Nobody knows the field; v1 would refuse the whole message for it.
    Unknown,
}

impl Why {
    /// For a person.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::IdInData => "v1 has no message ids of the sender: it travels as `data.mid`",
            Self::KeyTaken => {
                "the key is used by the application's own `data`, so the id and its confirmation do not travel"
            }
            Self::NoRoom => "the message is so big that there is no room for the id and its confirmation",
            Self::AppConfirms => "v1 has no delivery receipts: the app has to confirm `data.mid` to `data.ack`",
            Self::NoReceipts => "v1 has no delivery receipts, and no address is set for the app to confirm to",
            Self::Ignored => "ignored since 2016; the nearest is normal priority",
            Self::AndroidOnly => "has a meaning on Android only",
            Self::AppleOnly => "has a meaning on Apple's devices only",
            Self::AppleReplacesShown => "on Apple's devices it also replaces what is already shown",
            Self::NotToApple => {
                "on Apple's devices FCM decides, for the message shows nothing there and has no `content_available`"
            }
            Self::SilentPriority => "to Apple's devices a message that shows nothing goes with priority 5 only",
            Self::NothingShown => "has a meaning only for what is shown on Apple's devices, and nothing is",
            Self::ValidatesOnly => "v1 only validates the request; that says nothing about the device",
            Self::ImpliedByKind => "`android_v2` has no such field: the kind of message implies it",
            Self::ShowsNothing => "`android_v2.background_sync` shows nothing on Android",
            Self::Null => "null is no text, and `data` holds nothing but text",
            Self::Unknown => "unknown in v1, which refuses messages with fields that it does not know",
        }
    }
}

impl Why {
    /// Whether something of the message does not travel at all. The others say what it means over there.
    #[must_use]
    pub const fn is_dropped(self) -> bool {
        match self {
            Self::KeyTaken
            | Self::NoRoom
            | Self::NothingShown
            | Self::SilentPriority
            | Self::Ignored
            | Self::ValidatesOnly
            | Self::ImpliedByKind
            | Self::ShowsNothing
            | Self::Null
            | Self::Unknown => true,
            Self::IdInData
            | Self::AppConfirms
            | Self::NoReceipts
            | Self::AndroidOnly
            | Self::AppleOnly
            | Self::AppleReplacesShown
            | Self::NotToApple => false,
        }
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Display for Loss {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}`: {}", self.field, self.why)
    }
}

/// Collects losses; a field is named once, for the first reason.
#[derive(Debug, Default)]
pub(super) struct Losses(Vec<Loss>);

impl Losses {
    pub(super) fn note(&mut self, field: &'static str, why: Why) {
        self.push(Cow::Borrowed(field), why);
    }

    /// A field whose name the application chose.
    pub(super) fn note_in(&mut self, parent: &str, field: &str, why: Why) {
        let shown: String = field.chars().filter(|c| !c.is_control()).take(FIELD_MAX).collect();
        let dot = if parent.is_empty() { "" } else { "." };
        self.push(Cow::Owned(format!("{parent}{dot}{shown}")), why);
    }

    pub(super) fn into_vec(self) -> Vec<Loss> {
        self.0
    }

    fn push(&mut self, field: Cow<'static, str>, why: Why) {
        if self.0.len() < LOSSES_MAX && self.0.iter().all(|loss| loss.field != field) {
            self.0.push(Loss { field, why });
        }
    }
}
