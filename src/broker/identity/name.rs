use crate::chat::erasure::is_reserved;
use thiserror::Error;

/// Longest user name, in bytes.
const NAME_MAX: usize = 64;
/// `self` and `others` are words of the topic grammar. `cert`, `.` and `..` could not begin the client ids of earlier
/// releases, which were names of files.
const RESERVED: [&str; 5] = ["self", "others", "cert", ".", ".."];

/// Why a text cannot be a user name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Error)]
pub enum NameError {
    /// It is empty.
    #[error("is empty")]
    Empty,
    /// It is too long.
    #[error("is longer than {NAME_MAX} bytes")]
    TooLong,
    /// It has a character that a topic level, a client id or the users file gives a meaning.
    #[error("has a character that is not allowed: {0:?}")]
    Character(char),
    /// It means something else: `g-...` a group, `deleted-...` a user who was erased, `_...` the bridge, `$...` the broker, `self` and
    /// `others` parts of topics.
    #[error("is reserved (`g-...`, `deleted-...`, `_...`, `$...`, `self`, `others`, `cert`)")]
    Reserved,
}

/// Checks a user name. It is a topic level, the first part of a client id, and a field of the users file.
pub(super) fn check(name: &str) -> Result<(), NameError> {
    if name.is_empty() {
        return Err(NameError::Empty);
    }
    if name.len() > NAME_MAX {
        return Err(NameError::TooLong);
    }
    let wrong = |c: &char| c.is_control() || c.is_whitespace() || matches!(c, '/' | '+' | '#' | ':' | '\\');
    if let Some(wrong) = name.chars().find(wrong) {
        return Err(NameError::Character(wrong));
    }
    if name.starts_with("g-") || name.starts_with(['_', '$']) || is_reserved(name) || RESERVED.contains(&name) {
        return Err(NameError::Reserved);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::chat::id::Owner;

    #[test]
    fn names() {
        for name in ["alice", "bal1", "é", "a.b@c", "client-1_x", &"x".repeat(64)] {
            assert_eq!(check(name), Ok(()), "{name}");
        }
        for name in [
            "",
            "a/b",
            "a+",
            "#",
            "a:b",
            "a b",
            "a\0",
            "a\\b",
            "g-1",
            "deleted-7k2m9q0x",
            "_bridge",
            "$x",
            "self",
            "others",
            "cert",
            "..",
        ] {
            assert!(check(name).is_err(), "{name:?}");
        }
        assert_eq!(check(&"é".repeat(33)), Err(NameError::TooLong));
    }

    proptest! {
        /// Who can log in can be addressed.
        #[test]
        fn every_name_can_own_topics(name in "\\PC{0,20}") {
            prop_assert!(check(&name).is_err() || Owner::new(&*name).is_ok());
        }
    }
}
