//! Names: who owns a topic, which message is meant, which device gets it.

use std::fmt;

/// Longest id of a message that a client may choose, in characters (topics.md, "Vocabulary").
pub const ID_MAX: usize = 64;
/// Longest registration token, in characters (topics.md, topic 1).
pub const TOKEN_MAX: usize = 4096;

/// Names of groups begin like this, and no others do.
pub(super) const GROUP: &str = "g-";
const CROCKFORD: &[u8; 32] = b"0123456789abcdefghjkmnpqrstvwxyz";
const TAIL_BITS: u32 = 17;
const TAIL_MASK: u128 = (1 << TAIL_BITS) - 1;
const ROW_RANDOM_BITS: u32 = 21;

/// Whom a message is for, as a number that is always the same for one token, topic or condition; the order of messages is
/// kept per recipient.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Recipient(pub i64);

/// Where a message stands in the store: the upper 63 bits of its [`Sid`], growing with the time of acceptance.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Row(pub i64);

/// The bridge's own id of a message: 16 characters of lower-case Crockford base32.
///
/// 80 bits: 42 of Unix milliseconds and 38 that keep growing within a millisecond, so that ids sort by the time they
/// were made. The upper 63 bits are also the row number in the store ([`Sid::row`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Sid(u128);

impl Sid {
    /// Reads the 16-character form; `None` if it is anything else.
    pub fn parse(text: &str) -> Option<Self> {
        if text.len() != 16 {
            return None;
        }
        let mut bits = 0u128;
        for byte in text.bytes() {
            let digit = CROCKFORD.iter().position(|&c| c == byte)?;
            bits = (bits << 5) | digit as u128;
        }
        (bits >> 79 == 0).then_some(Self(bits))
    }

    /// The row in the store: its number is positive, and grows with time.
    pub fn row(self) -> Row {
        Row(i64::try_from(self.0 >> TAIL_BITS).expect("79 bits less a tail of 17 fit in 63"))
    }

    /// The id in two parts, as the store keeps it: [`Sid::row`] and the 17 bits below it.
    pub fn parts(self) -> (Row, u32) {
        (self.row(), u32::try_from(self.0 & TAIL_MASK).expect("17 bits"))
    }

    /// The id with these parts; `None` if they are not the parts of any.
    pub fn from_parts(row: Row, tail: u32) -> Option<Self> {
        let row = u128::try_from(row.0).ok()?;
        (row >> (79 - TAIL_BITS) == 0 && u128::from(tail) <= TAIL_MASK)
            .then_some(Self((row << TAIL_BITS) | u128::from(tail)))
    }

    /// The greatest id of a row, of whichever of its ids nothing is known any more.
    pub fn last_of(row: Row) -> Option<Self> {
        Self::from_parts(row, u32::try_from(TAIL_MASK).expect("17 bits"))
    }

    /// When the id was made, in Unix milliseconds.
    pub fn millis(self) -> u64 {
        u64::try_from(self.0 >> (TAIL_BITS + ROW_RANDOM_BITS)).expect("42 bits")
    }
}

impl fmt::Display for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = [0u8; 16];
        for (i, slot) in text.iter_mut().enumerate() {
            let shift = 5 * (15 - u32::try_from(i).expect("below 16"));
            *slot = CROCKFORD[usize::try_from((self.0 >> shift) & 31).expect("five bits")];
        }
        f.write_str(std::str::from_utf8(&text).expect("ASCII"))
    }
}

impl fmt::Debug for Sid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Makes [`Sid`]s that never repeat and never go back, whatever the clock does.
///
/// The random bits come from the caller, because nothing in `chat` has a random source.
#[derive(Debug, Default)]
pub struct SidSource {
    last: u128,
}

impl SidSource {
    /// Continues after `last`, the newest id that was ever given out.
    pub fn after(last: Option<Sid>) -> Self {
        Self { last: last.map_or(0, |sid| sid.0) }
    }

    /// The next id: at `now_ms` (Unix milliseconds) with 38 bits out of `random`, or just above the last one if that
    /// would not be greater.
    pub fn next(&mut self, now_ms: u64, random: u64) -> Sid {
        let low_bits = TAIL_BITS + ROW_RANDOM_BITS;
        // The top bit of the random part starts at zero, which leaves a millisecond room to count upwards.
        let fresh =
            (u128::from(now_ms & ((1 << 41) - 1)) << low_bits) | u128::from(random & ((1 << (low_bits - 1)) - 1));
        // The step is a whole row, so that two ids never share one.
        self.last =
            fresh.max(((self.last >> TAIL_BITS) + 1) << TAIL_BITS | u128::from(random & ((1 << TAIL_BITS) - 1)));
        Sid(self.last)
    }
}

/// Why a name was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The text is empty.
    #[error("is empty")]
    Empty,
    /// The text is longer than the limit, in characters.
    #[error("is longer than {0} characters")]
    TooLong(usize),
    /// The text has a character that the kind of name does not allow.
    #[error("has a character that is not allowed: {0:?}")]
    Character(char),
    /// The text is reserved: a prefix (`g-`, `_`, `$`) or a whole word (`self`, `others`).
    #[error("is reserved")]
    Reserved,
    /// The text does not begin as the name of a group does.
    #[error("is no group: the name of one begins with `g-`")]
    NoGroup,
}

/// The id of a message as its sender chose it: 1 to [`ID_MAX`] visible ASCII characters without `/`, `+`, `#`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct MessageId(String);

impl MessageId {
    /// Checks and keeps `text`.
    ///
    /// # Errors
    /// When it is empty, too long, or has white space, a control character, a non-ASCII character, `/`, `+` or `#`.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        check(&text, ID_MAX, |c| c.is_ascii_graphic() && !matches!(c, '/' | '+' | '#'))?;
        Ok(Self(text))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Sid> for MessageId {
    fn from(sid: Sid) -> Self {
        Self(sid.to_string())
    }
}

impl fmt::Display for MessageId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// The first topic level of a BAL or user: its MQTT user name. That of a group comes from a [`GroupId`] alone: no user has such
/// a name.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Owner(String);

impl Owner {
    /// Checks and keeps `text`.
    ///
    /// # Errors
    /// When it is empty, longer than [`ID_MAX`], reserved (`g-`, `_`, `$` in front; `self`, `others`), or has white
    /// space, a control character, `/`, `+`, `#` or `:`.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        check(&text, ID_MAX, |c| !c.is_control() && !c.is_whitespace() && !matches!(c, '/' | '+' | '#' | ':'))?;
        if text.starts_with(GROUP) || text.starts_with(['_', '$']) || text == "self" || text == "others" {
            return Err(NameError::Reserved);
        }
        Ok(Self(text))
    }

    /// A user, a BAL or a group: the other side of a conversation.
    ///
    /// # Errors
    /// When it is the name of none of them.
    pub fn of_any(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        if text.starts_with(GROUP) { GroupId::new(text).map(Into::into) } else { Self::new(text) }
    }

    /// The group, if it is one.
    pub fn group(&self) -> Option<GroupId> {
        self.is_group().then(|| GroupId(self.0.clone()))
    }

    /// Whether it is a group.
    pub fn is_group(&self) -> bool {
        self.0.starts_with(GROUP)
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// The name of a group: `g-` and 1 to 62 of `[A-Za-z0-9_-]`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct GroupId(String);

impl GroupId {
    /// Checks and keeps `text`.
    ///
    /// # Errors
    /// When it does not begin with `g-`, has nothing behind that, is longer than [`ID_MAX`], or has another character.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        check(&text, ID_MAX, |c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_'))?;
        match text.strip_prefix(GROUP) {
            Some("") => Err(NameError::Empty),
            Some(_) => Ok(Self(text)),
            None => Err(NameError::NoGroup),
        }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<Sid> for GroupId {
    fn from(sid: Sid) -> Self {
        Self(format!("{GROUP}{sid}"))
    }
}

impl From<GroupId> for Owner {
    fn from(group: GroupId) -> Self {
        Self(group.0)
    }
}

impl fmt::Display for GroupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Display for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// A registration token. It is a credential: `Debug` and `Display` show only a short hash of it.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Token(String);

impl Token {
    /// Checks and keeps `text`.
    ///
    /// # Errors
    /// When it is empty, longer than [`TOKEN_MAX`], or has white space or a control character.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        check(&text, TOKEN_MAX, |c| !c.is_control() && !c.is_whitespace())?;
        Ok(Self(text))
    }

    /// The token itself. For the wire and the owner's topics only; never for a log or an error text.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&short_hash(&self.0))
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The first 8 hexadecimal digits of SHA-256: how a token is named where the token itself must not appear.
pub fn short_hash(secret: &str) -> String {
    use sha2::{Digest, Sha256};
    let digest = Sha256::digest(secret.as_bytes());
    digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect()
}

/// Whether a name has 1 to `max` characters, all of them allowed.
pub(super) fn check(text: &str, max: usize, allowed: impl Fn(char) -> bool) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.chars().count() > max {
        return Err(NameError::TooLong(max));
    }
    text.chars().find(|&c| !allowed(c)).map_or(Ok(()), |c| Err(NameError::Character(c)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_sid_survives_its_text(now in 0u64..1 << 41, random: u64) {
            let sid = SidSource::default().next(now, random);
            prop_assert_eq!(Sid::parse(&sid.to_string()), Some(sid));
            prop_assert_eq!(sid.millis(), now);
            let (row, tail) = sid.parts();
            prop_assert_eq!(Sid::from_parts(row, tail), Some(sid));
        }

        #[test]
        fn sids_and_their_rows_only_grow(steps in prop::collection::vec((0u64..5_000, any::<u64>()), 2..50)) {
            let mut source = SidSource::default();
            let sids: Vec<Sid> = steps.iter().map(|&(now, random)| source.next(now, random)).collect();
            for pair in sids.windows(2) {
                prop_assert!(pair[0] < pair[1] && pair[0].row() < pair[1].row());
                prop_assert!(pair[0].to_string() < pair[1].to_string());
            }
        }
    }

    #[test]
    fn message_ids_keep_to_the_topic_alphabet() {
        assert!(MessageId::new("a1.B-2:c").is_ok());
        for bad in ["", "a/b", "a+b", "a#b", "a b", "é"] {
            assert!(MessageId::new(bad).is_err(), "{bad:?} was taken");
        }
        assert!(MessageId::new("x".repeat(64)).is_ok());
        assert_eq!(MessageId::new("x".repeat(65)), Err(NameError::TooLong(64)));
    }

    #[test]
    fn owners_are_never_words_of_the_topic_grammar() {
        assert!(Owner::new("client1").is_ok());
        for bad in ["self", "others", "g-1", "_bridge", "$SYS", "a:b", "a/b"] {
            assert!(Owner::new(bad).is_err(), "{bad:?} was taken");
        }
    }

    #[test]
    fn a_group_is_an_owner_that_no_user_can_be() {
        for good in ["g-1", "g-Team_2-x"] {
            let group = GroupId::new(good).unwrap();
            assert_eq!(Owner::from(group.clone()), Owner::of_any(good).unwrap());
            assert_eq!(Owner::of_any(good).unwrap().group(), Some(group));
            assert_eq!(Owner::new(good), Err(NameError::Reserved));
        }
        for bad in ["g-", "g-a/b", "g-a:b", "g-é", "team", ""] {
            assert!(GroupId::new(bad).is_err(), "{bad:?} was taken");
        }
        assert!(GroupId::new(format!("g-{}", "x".repeat(ID_MAX - 1))).is_err());
        assert_eq!((Owner::of_any("bob").unwrap().group(), Owner::of_any("self")), (None, Err(NameError::Reserved)));
    }

    #[test]
    fn a_token_shows_only_its_hash() {
        let token = Token::new("secret-registration-token").unwrap();
        assert_eq!(format!("{token} {token:?}").matches("secret").count(), 0);
        assert_eq!(token.to_string().len(), 8);
    }
}
