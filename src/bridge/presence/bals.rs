//! What BALs say of themselves: whether what is for them is published, or held (topics.md, "When a BAL is away").
//!
//! A broker of others delivers the presences that it keeps after everything that it has queued, and among all else that it
//! keeps. So when it has come up, what a BAL said before may be old, or not have come yet: everything for BALs is held until
//! the kept presences had their time. A BAL goes on earlier whose kept presence has come and says `online`. When the
//! connection to the broker comes back, this is for those BALs alone that say how they are: the broker queues for the others.

use crate::chat::id::Owner;
use crate::chat::message::{Presence, PresenceState};
use crate::chat::presence::{Aggregate, DeviceChange, Evidence};
use crate::chat::topic::Device;
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// Most BALs whose presence is kept; of further ones the broker queues.
const OWNERS_MAX: usize = 100_000;
/// What a BAL says counts at once and is never forgotten, so that no time matters.
const NO_GRACE_MS: u64 = 0;
const NO_TIME: u64 = 0;
/// The time of the kept presences is not over before nothing that is kept has come for so long.
const KEPT_PAUSE: Duration = Duration::from_secs(2);
/// It is over after this, whatever still comes.
const BIRTHS_MAX: Duration = Duration::from_secs(60);

/// What all BALs last said, shared by the task that takes it in and the one that publishes.
#[derive(Debug, Default)]
pub(crate) struct BalPresences(watch::Sender<Known>);

#[derive(Debug, Default)]
pub(crate) struct Known {
    owners: HashMap<String, Aggregate>,
    /// Until the presences that the broker keeps had their time.
    births: Option<Births>,
    /// The broker was up before.
    was_up: bool,
    /// Who is there by a presence that the broker keeps, and that has come since the broker was down.
    here: HashSet<String>,
    /// The number of the session at the broker in which all this was said.
    session: u64,
    /// Who came, or came back, since that was asked for.
    returned: HashSet<String>,
    /// Who was away before the start, and has said nothing since.
    recovered: HashSet<String>,
}

#[derive(Debug)]
struct Births {
    /// They have time until then at least, and until then at most.
    until: Instant,
    latest: Instant,
    /// When something that the broker keeps came last.
    kept_at: Instant,
    /// The broker is up for the first time: who says how it is, is not known.
    is_first: bool,
}

impl Known {
    fn holds(&self, owner: &str) -> bool {
        // Below such names the bridge speaks of itself.
        if owner.starts_with('_') {
            return false;
        }
        let known = self.owners.get(owner);
        let is_unsure = |births: &Births| (births.is_first || known.is_some()) && !self.here.contains(owner);
        known.is_some_and(Aggregate::is_away) || self.births.as_ref().is_some_and(is_unsure)
    }

    /// Where the broker has lost the session of the bridge, it may have lost what it kept as well, and whoever was there may have
    /// gone without a will. Whoever says how it is, says it again when it comes back.
    fn begin_session(&mut self, session: u64) {
        if self.session != session {
            self.session = session;
            self.owners.values_mut().for_each(|owner| owner.handle_all_gone(NO_TIME));
        }
    }
}

impl BalPresences {
    /// These said before the start that they are away: they are, until they say something else.
    pub(crate) fn recover(&self, away: Vec<Owner>) {
        self.0.send_modify(|known| {
            for owner in away {
                let mut aggregate = Aggregate::new(Evidence::Births, NO_GRACE_MS);
                aggregate.handle_said(None, Some(&Presence::bare(PresenceState::Offline)), NO_TIME);
                known.owners.insert(owner.to_string(), aggregate);
                known.recovered.insert(owner.to_string());
            }
        });
    }

    /// The owner (or one of its devices) said how it is; `None` when that was taken back. `is_kept`: the broker had kept it.
    /// `session`: the number of the session at the broker. Returns whether the owner is away now; `None`: nothing is kept of it.
    pub(crate) fn tell(
        &self,
        (owner, device): (&Owner, Option<&Device>),
        presence: Option<&Presence>,
        is_kept: bool,
        session: u64,
    ) -> Option<bool> {
        let mut told = None;
        self.0.send_if_modified(|known| {
            known.begin_session(session);
            let was_held = known.holds(owner.as_str());
            // What it says takes the place of what was remembered, whichever device it is.
            if known.recovered.remove(owner.as_str()) {
                known.owners.remove(owner.as_str());
            }
            if known.owners.len() >= OWNERS_MAX && !known.owners.contains_key(owner.as_str()) {
                return false;
            }
            let new = || Aggregate::new(Evidence::Births, NO_GRACE_MS);
            let aggregate = known.owners.entry(owner.to_string()).or_insert_with(new);
            let changes = aggregate.handle_said(device, presence, NO_TIME);
            told = Some(aggregate.is_away());
            if aggregate.is_idle() {
                known.owners.remove(owner.as_str());
            }
            let came = changes.iter().any(|(_, change)| matches!(change, DeviceChange::Came(_)));
            let says_online = presence.is_some_and(|presence| presence.state == PresenceState::Online);
            // Who gives connections no names says `online` when a connection begins.
            let says_anew = says_online && !is_kept && presence.is_some_and(|presence| presence.conn.is_none());
            let returned = came || says_anew;
            if returned {
                known.returned.insert(owner.to_string());
            }
            if is_kept && says_online {
                known.here.insert(owner.to_string());
            }
            returned || was_held != known.holds(owner.as_str())
        });
        told
    }

    /// The broker has lost the session of the bridge, and has one of this number. Returns who counts as away now.
    pub(crate) fn session_lost(&self, session: u64) -> Vec<Owner> {
        let mut away = Vec::new();
        self.0.send_modify(|known| {
            known.begin_session(session);
            let names = known.owners.iter().filter(|(_, owner)| owner.is_away()).map(|(name, _)| name);
            away = names.filter_map(|name| Owner::new(name).ok()).collect();
        });
        away
    }

    /// Something came that the broker keeps, on whatever topic.
    pub(crate) fn kept_copy_came(&self, now: Instant) {
        self.0.send_if_modified(|known| {
            if let Some(births) = &mut known.births {
                births.kept_at = now;
            }
            false
        });
    }

    /// The broker has gone: what it has delivered is old.
    pub(crate) fn broker_down(&self) {
        self.0.send_if_modified(|known| {
            known.here.clear();
            false
        });
    }

    /// The broker is up, with the session of this number. The presences that it keeps have `births` at least to come.
    pub(crate) fn broker_up(&self, now: Instant, births: Duration, session: u64) {
        self.0.send_modify(|known| {
            known.begin_session(session);
            let was_up = std::mem::replace(&mut known.was_up, true);
            // A first time that was cut short is not over.
            let is_first = !was_up || known.births.as_ref().is_some_and(|births| births.is_first);
            let (until, latest) = (now + births, now + births.max(BIRTHS_MAX));
            known.births = (!births.is_zero()).then_some(Births { until, latest, kept_at: now, is_first });
        });
    }

    /// Looks whether the kept presences had their time by now.
    pub(crate) fn look_at_births(&self, now: Instant) {
        self.0.send_if_modified(|known| {
            let is_over = |births: &mut Births| now >= births.until.max(births.kept_at + KEPT_PAUSE).min(births.latest);
            known.births.take_if(is_over).is_some()
        });
    }

    /// Whether documents for the owner of `topic` are held: it said that it is away (it said something, and no device of it is
    /// online), or what it says may not have come yet.
    pub(crate) fn holds(&self, topic: &str) -> bool {
        self.0.borrow().holds(topic.split('/').next().unwrap_or_default())
    }

    /// Who came, or came back, since this was asked for last.
    pub(crate) fn take_returned(&self) -> HashSet<String> {
        let mut returned = HashSet::new();
        self.0.send_if_modified(|known| {
            returned = std::mem::take(&mut known.returned);
            false
        });
        returned
    }

    /// Changes whenever an owner came, or its documents are held no longer, or from now on.
    pub(crate) fn changed(&self) -> watch::Receiver<Known> {
        self.0.subscribe()
    }
}
