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
pub struct Why {
    dropped: bool,
    words: &'static str,
}

impl Why {
    /// v1 has no ids of the sender.
    pub const ID_IN_DATA: Self = Self::of(false, "the message's id: v1 has no other place for it");
    /// The application uses the key that the id would travel under.
    pub const KEY_TAKEN: Self =
        Self::of(true, "the application's own: the message's id and its confirmation do not travel");
    /// The id would make the message too big.
    pub const NO_ROOM: Self = Self::of(true, "too big: there is no room for the message's id and its confirmation");
    /// v1 has no receipts; the app has to confirm.
    pub const APP_CONFIRMS: Self =
        Self::of(false, "v1 has no delivery receipts: the app has to confirm `data.mid` there");
    /// v1 has no receipts, and there is no address for the app to confirm to.
    pub const NO_RECEIPTS: Self = Self::of(false, "v1 has no delivery receipts, and the app no address to confirm to");
    /// Ignored by Google since 2016.
    pub const IGNORED: Self = Self::of(true, "ignored since 2016; the nearest is normal priority");
    /// Means something on Android only.
    pub const ANDROID_ONLY: Self = Self::of(false, "has a meaning on Android only");
    /// Means something on Apple's devices only.
    pub const APPLE_ONLY: Self = Self::of(false, "has a meaning on Apple's devices only");
    /// On Apple's devices it replaces what is shown already, not only what waits.
    pub const APPLE_REPLACES_SHOWN: Self = Self::of(false, "on Apple's devices it also replaces what is already shown");
    /// To Apple's devices a message that shows nothing goes as FCM decides, unless it is a background push.
    pub const NOT_TO_APPLE: Self =
        Self::of(false, "not for Apple's devices: nothing is shown, and no `content_available`");
    /// A message that shows nothing has one type and priority on Apple's devices.
    pub const SILENT: Self = Self::of(true, "to Apple's devices a silent message is a background push, priority 5");
    /// Changes what is shown, and nothing is.
    pub const NOTHING_SHOWN: Self = Self::of(true, "has a meaning only for what Apple's devices show: nothing");
    /// v1 checks the request, and not whether the token lives.
    pub const VALIDATES_ONLY: Self =
        Self::of(true, "v1 only validates the request; that says nothing about the device");
    /// `android_v2` has no priorities: its kind of message implies one.
    pub const IMPLIED_BY_KIND: Self = Self::of(true, "`android_v2` has no such field: the kind of message implies it");
    /// A message that runs in the background shows nothing.
    pub const SHOWS_NOTHING: Self = Self::of(true, "`android_v2.background_sync` shows nothing on Android");
    /// `data` holds text only, null is none.
    pub const NULL: Self = Self::of(true, "null is no text, and `data` holds nothing but text");
    /// Nobody knows the field; v1 would refuse the whole message for it.
    pub const UNKNOWN: Self = Self::of(true, "unknown in v1, which refuses messages with fields that it does not know");

    const fn of(dropped: bool, words: &'static str) -> Self {
        Self { dropped, words }
    }

    /// Whether something of the message does not travel at all. The others say what it means over there.
    pub const fn is_dropped(self) -> bool {
        self.dropped
    }
}

impl fmt::Display for Why {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.words)
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
    pub(super) fn called(&mut self, field: &str, name: &str) {
        self.names.push((Cow::Owned(field.to_owned()), Cow::Owned(name.to_owned())));
    }

    /// A path with the name that the sender has for the field, or for the object that it stands in.
    pub(super) fn spelt(&self, path: impl Into<Cow<'static, str>>) -> Cow<'static, str> {
        let path = path.into();
        let spelt = self.names.iter().rev().find_map(|(field, name)| {
            let rest = path.strip_prefix(&**field).filter(|rest| rest.is_empty() || rest.starts_with('.'))?;
            Some(Cow::Owned(format!("{name}{rest}")))
        });
        spelt.unwrap_or(path)
    }

    /// Whether the sender has words of his own.
    pub(super) fn has_words(&self) -> bool {
        self.names.iter().any(|(_, name)| matches!(name, Cow::Borrowed(_)))
    }

    pub(super) fn note(&mut self, field: impl Into<Cow<'static, str>>, why: Why) {
        let field = self.spelt(field);
        if self.list.len() < LOSSES_MAX && self.list.iter().all(|loss| loss.field != field) {
            self.list.push(Loss { field, why });
        }
    }

    pub(super) fn into_vec(self) -> Vec<Loss> {
        self.list
    }
}
