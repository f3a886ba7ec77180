//! What a message loses on its way to v1: fields without an equivalent, or with one on some devices only.

use std::borrow::Cow;
use std::fmt;

/// Most losses that are named for one message; an application can put any number of unknown fields into one.
pub const LOSSES_MAX: usize = 32;
/// A field, and why it does not arrive as it was meant.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Loss {
    /// The field, as its sender calls it, with the names of the objects around it in front; or the key of `data` by which
    /// it travels.
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
    /// Whether something of the message does not travel at all, or only what it means over there; and that for a person.
    const fn word(self) -> (bool, &'static str) {
        match self {
            Self::IdInData => (false, "the message's id: v1 has no other place for it"),
            Self::KeyTaken => {
                (true, "the key is the application's own, so the message's id and its confirmation do not travel")
            }
            Self::NoRoom => (true, "is so big that there is no room for the message's id and its confirmation"),
            Self::AppConfirms => (false, "v1 has no delivery receipts: the app has to confirm `data.mid` there"),
            Self::NoReceipts => (false, "v1 has no delivery receipts, and no address is set for the app to confirm to"),
            Self::Ignored => (true, "ignored since 2016; the nearest is normal priority"),
            Self::AndroidOnly => (false, "has a meaning on Android only"),
            Self::AppleOnly => (false, "has a meaning on Apple's devices only"),
            Self::AppleReplacesShown => (false, "on Apple's devices it also replaces what is already shown"),
            Self::NotToApple => {
                (false, "on Apple's devices FCM decides, for nothing is shown there and `content_available` is not set")
            }
            Self::SilentPriority => (true, "to Apple's devices a message that shows nothing goes with priority 5 only"),
            Self::NothingShown => (true, "has a meaning only for what is shown on Apple's devices, and nothing is"),
            Self::ValidatesOnly => (true, "v1 only validates the request; that says nothing about the device"),
            Self::ImpliedByKind => (true, "`android_v2` has no such field: the kind of message implies it"),
            Self::ShowsNothing => (true, "`android_v2.background_sync` shows nothing on Android"),
            Self::Null => (true, "null is no text, and `data` holds nothing but text"),
            Self::Unknown => (true, "unknown in v1, which refuses messages with fields that it does not know"),
        }
    }

    /// For a person.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        self.word().1
    }

    /// Whether something of the message does not travel at all. The others say what it means over there.
    #[must_use]
    pub const fn is_dropped(self) -> bool {
        self.word().0
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
pub(super) struct Losses {
    list: Vec<Loss>,
    /// Fields of the message, and what the sender calls them.
    names: Vec<(Cow<'static, str>, Cow<'static, str>)>,
}

impl Losses {
    /// Of a sender with words of his own.
    pub(super) fn of(words: &[(&'static str, &'static str)]) -> Self {
        let names = words.iter().map(|(field, name)| (Cow::Borrowed(*field), Cow::Borrowed(*name))).collect();
        Self { names, list: Vec::new() }
    }

    /// The sender calls a field of the message by another name, which the application chose.
    pub(super) fn called(&mut self, field: &'static str, name: &str) {
        self.names.push((Cow::Borrowed(field), Cow::Owned(name.to_owned())));
    }

    /// Whether the sender has words of his own.
    pub(super) fn has_words(&self) -> bool {
        self.names.iter().any(|(_, name)| matches!(name, Cow::Borrowed(_)))
    }

    pub(super) fn note(&mut self, field: impl Into<Cow<'static, str>>, why: Why) {
        let field = field.into();
        let name = self.names.iter().rev().find(|(known, _)| *known == field);
        let field = name.map_or(field, |(_, name)| name.clone());
        if self.list.len() < LOSSES_MAX && self.list.iter().all(|loss| loss.field != field) {
            self.list.push(Loss { field, why });
        }
    }

    pub(super) fn into_vec(self) -> Vec<Loss> {
        self.list
    }
}
