//! Topic filters of MQTT (MQTT 5, 4.7 and 4.8.2). Nothing here recurses over levels: a filter comes from the network.

/// So many levels a filter has at most, and the configuration allows no more: each is a node of a tree of filters.
pub const MAX_LEVELS: usize = 128;
/// So long is a UTF-8 string of MQTT at most, in bytes (MQTT 5, 1.5.4).
const MAX_BYTES: usize = 65_535;
const SHARE: &str = "$share/";

/// Why something is no topic filter.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum FilterError {
    /// It has no character.
    #[error("a topic filter is not empty")]
    Empty,
    /// It has a character that no string of MQTT may have.
    #[error("a topic filter has no NUL")]
    Nul,
    /// It is longer than a string of MQTT.
    #[error("a topic filter has at most {MAX_BYTES} bytes")]
    TooLong,
    /// It has more than [`MAX_LEVELS`].
    #[error("a topic filter has at most {MAX_LEVELS} levels")]
    TooDeep,
    /// A wildcard does not have its level for itself, or `#` is not the last level.
    #[error("a wildcard has a level for itself, and # is the last")]
    Wildcard,
    /// The group of a shared subscription is empty, has a wildcard, or no filter follows it.
    #[error("a shared subscription is $share/{{group}}/{{filter}}, its group without wildcards")]
    Group,
}

/// Whether a well-formed filter matches a topic. A wildcard on the first level does not match what starts with `$` (MQTT 5,
/// 4.7.2); `#` also matches the level above it.
pub fn matches(filter: &str, topic: &str) -> bool {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        return false;
    }
    let mut found = topic.split('/');
    for level in filter.split('/') {
        match (level, found.next()) {
            ("#", _) => return true,
            ("+", Some(_)) => {}
            (word, Some(same)) if word == same => {}
            _ => return false,
        }
    }
    found.next().is_none()
}

/// Whether this is a topic filter; the part behind the group, if it is shared.
///
/// # Errors
///
/// What is wrong with it first.
pub fn check(filter: &str) -> Result<(), FilterError> {
    match filter {
        "" => return Err(FilterError::Empty),
        long if long.len() > MAX_BYTES => return Err(FilterError::TooLong),
        nul if nul.contains('\0') => return Err(FilterError::Nul),
        _ => {}
    }
    let mut levels = filter.split('/').enumerate().peekable();
    while let Some((place, level)) = levels.next() {
        if place == MAX_LEVELS {
            return Err(FilterError::TooDeep);
        }
        let is_last = levels.peek().is_none();
        if level.contains(['+', '#']) && level != "+" && !(level == "#" && is_last) {
            return Err(FilterError::Wildcard);
        }
    }
    Ok(())
}

/// Whether a client can subscribe to this, shared or not.
pub fn is_subscription(filter: &str) -> bool {
    Shared::parse(filter).map_or_else(|| check(filter).is_ok(), |shared| shared.is_ok())
}

/// What all topics begin with that a well-formed filter matches.
pub fn literal_prefix(filter: &str) -> &str {
    match filter.find(['+', '#']).map(|at| filter.split_at(at)) {
        None => filter,
        // `a/#` matches `a`, too.
        Some((before, wild)) if wild.starts_with('#') => before.strip_suffix('/').unwrap_or(before),
        Some((before, _)) => before,
    }
}

/// Whether what a client subscribed to, shared or not, names whoever has this first level of topics.
pub fn names(subscription: &str, first_level: &str) -> bool {
    let filter = match Shared::parse(subscription) {
        Some(Ok(Shared { filter, .. })) => filter,
        _ => subscription,
    };
    filter.strip_prefix(first_level).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
}

/// A shared subscription.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shared<'a> {
    /// Those who share it: the ShareName.
    pub group: &'a str,
    /// What they read.
    pub filter: &'a str,
}

impl<'a> Shared<'a> {
    /// Takes apart what a client subscribes to; `None` if that is not shared.
    pub fn parse(filter: &'a str) -> Option<Result<Self, FilterError>> {
        let (group, filter) = filter.strip_prefix(SHARE)?.split_once('/').unwrap_or_default();
        if group.is_empty() || group.contains(['+', '#', '\0']) || filter.is_empty() {
            return Some(Err(FilterError::Group));
        }
        Some(check(filter).map(|()| Self { group, filter }))
    }
}

#[cfg(test)]
mod tests;
