//! What chat users write below `{user}/self/`: one file for each first level, with its fields, and its rules in one table.
//!
//! Invariant: any bytes give a value or a [`Rejection`](super::message::Rejection), never a panic; what was taken keeps to
//! the limits. A new suffix is one file here and one line in [`ALL`].

pub mod calls;
pub mod chatstate;
pub mod devices;
pub mod invitations;
pub mod messages;
pub mod profile;
pub mod read;
pub mod receipts;
pub mod requests;
pub mod scheduled;

use super::push::Priority;

/// What holds for one suffix, whoever writes it and whatever is in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rules {
    /// The first level below `self/`.
    pub name: &'static str,
    /// The first level below `others/` at which it arrives; `None` where it arrives as something else, or not at all.
    pub arrives: Option<&'static str>,
    /// Its topic is written retained. Elsewhere a retained publish is refused where that can be seen.
    pub retained: bool,
    /// It is on disk before its PUBACK leaves, as a part of a conversation that can be read again.
    pub stored: bool,
    /// The priority of its push, if it is ever pushed.
    pub push: Option<Priority>,
    /// Writing it is a sign of a person at the device.
    pub sign: bool,
    /// Largest payload, in bytes.
    pub max_bytes: usize,
}

/// Largest payload of most suffixes, in bytes.
const PAYLOAD: usize = 65_536;
/// Largest payload of what is a word or two, in bytes.
const SMALL: usize = 4_096;

/// Every suffix.
pub const ALL: [Rules; 10] = [
    Rules {
        arrives: Some("messages"),
        stored: true,
        push: Some(Priority::High),
        sign: true,
        ..of("messages", PAYLOAD)
    },
    Rules { arrives: Some("receipts"), ..of("receipts", PAYLOAD) },
    Rules { arrives: Some("read"), sign: true, ..of("read", SMALL) },
    Rules { arrives: Some("chatstate"), sign: true, ..of("chatstate", SMALL) },
    // `active: true` is the sign, not the document.
    Rules { retained: true, ..of("presence", SMALL) },
    Rules { retained: true, ..of("profile", profile::BYTES_MAX) },
    Rules { arrives: Some("devices"), ..of("devices", 2 * SMALL) },
    Rules {
        arrives: Some("invitations"),
        stored: true,
        push: Some(Priority::High),
        sign: true,
        ..of("invitations", SMALL)
    },
    // How a call ended can be read again. Its push is high as long as it rings.
    Rules { arrives: Some("calls"), stored: true, push: Some(Priority::High), sign: true, ..of("calls", PAYLOAD) },
    Rules { arrives: Some("replies"), ..of("requests", PAYLOAD) },
];

const fn of(name: &'static str, max_bytes: usize) -> Rules {
    Rules { name, arrives: None, retained: false, stored: false, push: None, sign: false, max_bytes }
}

/// The rules of the suffix with this name.
pub fn rules(name: &str) -> Option<&'static Rules> {
    ALL.iter().find(|rules| rules.name == name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_can_be_read_again_is_pushed() {
        for rules in ALL {
            assert!(rules.push.is_none() || rules.stored, "{}", rules.name);
        }
    }

    #[test]
    fn typing_receipts_presence_and_requests_are_never_pushed() {
        for name in ["chatstate", "receipts", "presence", "profile", "requests", "read", "devices"] {
            assert_eq!(rules(name).unwrap().push, None, "{name}");
        }
        assert_eq!(rules("groups"), None);
    }

    #[test]
    fn only_what_a_person_does_is_a_sign_of_one() {
        let signs: Vec<&str> = ALL.iter().filter(|rules| rules.sign).map(|rules| rules.name).collect();
        assert_eq!(signs, ["messages", "read", "chatstate", "invitations", "calls"]);
    }
}
