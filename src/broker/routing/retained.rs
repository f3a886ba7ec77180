//! Which topics have a retained message, and how much of it is whose. The messages themselves are in the store.

use crate::chat::filter::{literal_prefix, matches};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ops::Bound;
use std::sync::Arc;

/// So many topics are looked at in one go: with a lock held, for one filter of a SUBSCRIBE that may have thousands.
pub(crate) const SCAN_MAX: usize = 1_000;

/// A retained message without its body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct RetainedEntry {
    /// Its size: payload and properties.
    pub(crate) bytes: u64,
    /// Who published it; `None` for the bridge and for clients without a log-in.
    pub(crate) user: Option<Arc<str>>,
    /// When it is to be dropped, in Unix milliseconds.
    pub(crate) expires_at: Option<u64>,
}

/// How much is retained.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) messages: u64,
    pub(crate) bytes: u64,
}

/// How much may be retained: in all, and for one user. What has no user counts in all only.
#[derive(Debug, Clone, Copy)]
pub(crate) struct RetainedLimits {
    pub(crate) total: Usage,
    pub(crate) per_user: Usage,
}

/// Topics that match a filter, in order.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Matching {
    pub(crate) topics: Vec<Arc<str>>,
    /// Behind which topic to go on; `None`: there are no more.
    pub(crate) after: Option<Arc<str>>,
    /// How many were looked at, with those that do not match.
    pub(crate) looked: usize,
}

/// Where to look next, behind a topic that a filter does not match.
#[derive(Debug, PartialEq, Eq)]
enum Skip {
    /// At the next topic.
    Next,
    /// At the first one that is not before this text: none between the two matches.
    To(String),
    /// Nowhere: no topic that follows matches.
    End,
}

#[derive(Debug, Default)]
pub(crate) struct RetainedTopics {
    entries: BTreeMap<Arc<str>, RetainedEntry>,
    expiries: BTreeSet<(u64, Arc<str>)>,
    total: Usage,
    users: HashMap<Arc<str>, Usage>,
}

impl RetainedTopics {
    /// A topic has a retained message from now on. Yields the one that it replaces.
    pub(crate) fn keep(&mut self, topic: Arc<str>, entry: RetainedEntry) -> Option<RetainedEntry> {
        let old = self.clear(&topic);
        self.total.add(entry.bytes);
        if let Some(user) = &entry.user {
            self.users.entry(Arc::clone(user)).or_default().add(entry.bytes);
        }
        self.expiries.extend(entry.expires_at.map(|at| (at, Arc::clone(&topic))));
        self.entries.insert(topic, entry);
        old
    }

    /// A topic has none any more.
    pub(crate) fn clear(&mut self, topic: &str) -> Option<RetainedEntry> {
        let (topic, entry) = self.entries.remove_entry(topic)?;
        self.total.subtract(entry.bytes);
        if let Some(user) = &entry.user
            && let Some(usage) = self.users.get_mut(user)
        {
            usage.subtract(entry.bytes);
            if usage.messages == 0 {
                self.users.remove(user);
            }
        }
        if let Some(at) = entry.expires_at {
            self.expiries.remove(&(at, topic));
        }
        Some(entry)
    }

    pub(crate) fn get(&self, topic: &str) -> Option<&RetainedEntry> {
        self.entries.get(topic)
    }

    /// At most `limit` topics that a filter matches, behind `after`; some of them may have expired. It may end early: it
    /// looks at no more than [`SCAN_MAX`] topics. Those that begin otherwise than the filter, and those below a level that
    /// another word of the filter excludes, are not looked at.
    pub(crate) fn matching(&self, filter: &str, after: Option<&str>, limit: usize) -> Matching {
        let prefix = literal_prefix(filter);
        let from = match after {
            Some(after) if after >= prefix => Bound::Excluded(after),
            _ => Bound::Included(prefix),
        };
        let mut found = Matching::default();
        let mut range = self.entries.range::<str, _>((from, Bound::Unbounded));
        while let Some((topic, _)) = range.next().filter(|(topic, _)| topic.starts_with(prefix)) {
            if found.topics.len() >= limit || found.looked == SCAN_MAX {
                return found;
            }
            found.looked += 1;
            found.after = Some(Arc::clone(topic));
            if matches(filter, topic) {
                found.topics.push(Arc::clone(topic));
                continue;
            }
            match skip(filter, topic) {
                Skip::Next => {}
                Skip::To(text) => range = self.entries.range::<str, _>((Bound::Included(&*text), Bound::Unbounded)),
                Skip::End => break,
            }
        }
        Matching { after: None, ..found }
    }

    /// At most `limit` topics whose message is not to be delivered any more, the first to expire first. They stay until
    /// they are cleared.
    pub(crate) fn expired(&self, now: u64, limit: usize) -> Vec<Arc<str>> {
        let due = self.expiries.iter().take_while(|(at, _)| *at <= now);
        due.take(limit).map(|(_, topic)| Arc::clone(topic)).collect()
    }

    pub(crate) fn total(&self) -> Usage {
        self.total
    }

    /// How much of it a user published.
    pub(crate) fn usage_of(&self, user: &str) -> Usage {
        self.users.get(user).copied().unwrap_or_default()
    }

    /// Whether the limits let a message in, in place of what its topic has. What is no bigger than what it replaces always
    /// gets in, so that a status can change where the limits were lowered.
    pub(crate) fn fits(&self, topic: &str, entry: &RetainedEntry, limits: &RetainedLimits) -> bool {
        let old = self.get(topic);
        let is_own = |old: &&RetainedEntry| old.user == entry.user;
        if old.filter(is_own).is_some_and(|old| entry.bytes <= old.bytes) {
            return true;
        }
        let fits = |mut usage: Usage, old: Option<&RetainedEntry>, limit: Usage| {
            old.into_iter().for_each(|old| usage.subtract(old.bytes));
            usage.add(entry.bytes);
            usage.messages <= limit.messages && usage.bytes <= limit.bytes
        };
        let fits_user = |user: &Arc<str>| fits(self.usage_of(user), old.filter(is_own), limits.per_user);
        fits(self.total, old, limits.total) && entry.user.as_ref().is_none_or(fits_user)
    }
}

/// Where to look next behind a topic that the filter does not match. The topics below one level lie side by side.
fn skip(filter: &str, topic: &str) -> Skip {
    if topic.starts_with('$') && filter.starts_with(['+', '#']) {
        // The character that follows `$`.
        return Skip::To("%".to_owned());
    }
    let mut levels = filter.split('/').peekable();
    let mut begin = 0;
    while let Some(wanted) = levels.next() {
        let end = topic[begin..].find('/').map_or(topic.len(), |at| begin + at);
        if !matches!(wanted, "+" | "#") && *wanted != topic[begin..end] {
            let here = topic[..begin].to_owned() + wanted;
            let below = format!("{here}/");
            return match levels.peek() {
                // `a/#` matches `a`, too.
                None | Some(&"#") if *topic < *here => Skip::To(here),
                Some(_) if *topic < *below => Skip::To(below),
                _ => behind(&topic[..begin]),
            };
        }
        if end == topic.len() {
            return Skip::Next;
        }
        begin = end + 1;
    }
    behind(&topic[..begin])
}

/// Behind all topics that begin with these levels, which end with a slash.
fn behind(levels: &str) -> Skip {
    // The character that follows `/`.
    levels.strip_suffix('/').map_or(Skip::End, |levels| Skip::To(format!("{levels}0")))
}

impl Usage {
    fn add(&mut self, bytes: u64) {
        self.messages += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn subtract(&mut self, bytes: u64) {
        self.messages = self.messages.saturating_sub(1);
        self.bytes = self.bytes.saturating_sub(bytes);
    }
}

#[cfg(test)]
mod tests;
