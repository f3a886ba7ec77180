//! Names on an external broker that sent what only BALs may, and are no BALs: each is told to the operator once.

use crate::chat::message::{ErrorCode, Rejection};
use crate::chat::principal::{Principal, Proof};
use std::collections::HashSet;
use std::sync::Arc;

/// Most names that are remembered, and so most warnings of this kind in the life of a process.
const NAMES_MAX: usize = 1_000;

/// The names that were told.
#[derive(Debug, Default)]
pub(super) struct RefusedNames {
    told: HashSet<Arc<str>>,
}

impl RefusedNames {
    /// A message of `principal` was refused; it is told where only a BAL may send it. On the embedded broker the operator has
    /// given the role itself, and nothing is told.
    pub(super) fn tell(&mut self, rejection: &Rejection, principal: &Principal) {
        let is_for_bals = rejection.code() == ErrorCode::Forbidden;
        if !is_for_bals || principal.proof != Proof::TopicRules || !self.is_new(&principal.name) {
            return;
        }
        let (name, add) = (&principal.name, section(&principal.name));
        tracing::warn!(?name, %add, "a push was refused, because no BAL of this name is configured; if it is one, add the line");
        if self.told.len() == NAMES_MAX {
            tracing::warn!(names = NAMES_MAX, "the pushes of further names are refused without a line in the log");
        }
    }

    fn is_new(&mut self, name: &Arc<str>) -> bool {
        self.told.len() < NAMES_MAX && self.told.insert(Arc::clone(name))
    }
}

/// The line of the configuration that makes a name a BAL.
fn section(name: &str) -> String {
    let is_bare = name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-'));
    if is_bare {
        return format!("[bals.{name}]");
    }
    let mut quoted = String::new();
    for c in name.chars() {
        match c {
            '"' | '\\' => quoted.extend(['\\', c]),
            // What does not show, or turns the line around.
            c if c.escape_debug().len() > 1 && c != '\'' => quoted.push_str(&format!("\\U{:08X}", u32::from(c))),
            c => quoted.push(c),
        }
    }
    format!("[bals.\"{quoted}\"]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::id::Owner;
    use proptest::prelude::*;

    #[test]
    fn a_name_is_told_once_and_no_more_than_a_thousand_are_remembered() {
        let mut names = RefusedNames::default();
        let mut told = 0;
        for n in 0..2 * NAMES_MAX {
            let name: Arc<str> = format!("shop{n}").into();
            told += usize::from(names.is_new(&name));
            assert!(!names.is_new(&name));
        }
        assert_eq!((told, names.told.len()), (NAMES_MAX, NAMES_MAX));
    }

    proptest! {
        #[test]
        fn the_line_to_add_names_whoever_was_refused(
            name in "[^\\p{C}/+#:]{1,20}|[a-z\"\\\\.]{1,8}|[a-z\u{202e}\u{200b}]{1,8}"
        ) {
            let hidden = ['\u{202e}', '\u{200b}'];
            prop_assert!(!section(&name).contains(hidden), "it does not show whole");
            prop_assume!(Owner::new(&*name).is_ok());
            let file = config::File::from_str(&section(&name), config::FileFormat::Toml);
            let read = config::Config::builder().add_source(file).build().unwrap();
            let bals = read.get_table("bals").unwrap();
            prop_assert_eq!(bals.keys().collect::<Vec<_>>(), vec![&name]);
        }
    }
}
