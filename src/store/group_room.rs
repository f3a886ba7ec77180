//! How much is written to groups at a time.
//!
//! A message to a thousand members is one verb, which takes as long as a few hundred others, and messages are stored in the order
//! in which the store was asked. So that nobody's message stands behind many of those, what is on its way to the disk goes to
//! no more members together than one group may have; what is more waits here, before it has its id. So does a change of a group, of
//! which every member gets a notice. And so that a busy
//! group is not in the way of the others, each message waits first for the one before it to the same group: of each group one
//! at most waits for room, and groups take it one after the other.

use crate::chat::group::MEMBERS_MAX;
use crate::chat::id::GroupId;
use crate::store::StoreError;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use tokio::sync::{Mutex, OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};

/// Groups are divided into so many parts, by chance; those of one part wait for one another.
const PARTS: usize = 64;

/// Who may ask the store to keep a message to a group, or to change one.
#[derive(Debug)]
pub(super) struct GroupRooms {
    parts: Vec<Arc<Mutex<()>>>,
    part_of: RandomState,
    members: Arc<Semaphore>,
}

/// The right to ask the store to keep a message to a group, or to change one. It goes with the verb, and ends when that is on disk.
#[derive(Debug)]
pub struct GroupRoom {
    _part: OwnedMutexGuard<()>,
    _members: OwnedSemaphorePermit,
}

impl Default for GroupRooms {
    fn default() -> Self {
        let parts = std::iter::repeat_with(Arc::default).take(PARTS).collect();
        Self { parts, part_of: RandomState::new(), members: Arc::new(Semaphore::new(MEMBERS_MAX)) }
    }
}

impl GroupRooms {
    /// Waits for room for a message to so many members of a group.
    pub(super) async fn wait(&self, group: &GroupId, members: usize) -> Result<GroupRoom, StoreError> {
        let part = Arc::clone(self.part(group)).lock_owned().await;
        let count = u32::try_from(members.clamp(1, MEMBERS_MAX)).unwrap_or(u32::MAX);
        let members = Arc::clone(&self.members).acquire_many_owned(count).await;
        Ok(GroupRoom { _part: part, _members: members.map_err(|_closed| StoreError::Closed)? })
    }

    fn part(&self, group: &GroupId) -> &Arc<Mutex<()>> {
        let number = self.part_of.hash_one(group.as_str()) % PARTS as u64;
        &self.parts[usize::try_from(number).unwrap_or_default()]
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    /// Groups of different parts.
    fn groups<const N: usize>(rooms: &GroupRooms) -> [GroupId; N] {
        let mut found: Vec<GroupId> = Vec::new();
        for n in 0.. {
            let group = GroupId::new(format!("g-{n}")).unwrap();
            if found.len() == N {
                break;
            }
            if !found.iter().any(|other| Arc::ptr_eq(rooms.part(other), rooms.part(&group))) {
                found.push(group);
            }
        }
        found.try_into().unwrap()
    }

    #[test]
    fn what_is_on_its_way_goes_to_no_more_members_than_one_group_may_have() {
        let rooms = GroupRooms::default();
        let [one, two, three] = groups(&rooms);
        let first = rooms.wait(&one, MEMBERS_MAX - 10).now_or_never().unwrap().unwrap();
        assert!(rooms.wait(&two, 11).now_or_never().is_none());
        let second = rooms.wait(&two, 10).now_or_never().unwrap().unwrap();
        assert!(rooms.wait(&three, 0).now_or_never().is_none(), "one without members takes room as well");
        drop(second);
        assert!(rooms.wait(&three, 0).now_or_never().is_some());
        drop(first);
        assert!(rooms.wait(&one, 10 * MEMBERS_MAX).now_or_never().is_some(), "a group that is too large goes alone");
    }

    #[test]
    fn a_busy_group_is_before_another_one_once_at_most() {
        let rooms = GroupRooms::default();
        let [busy, other] = groups(&rooms);
        let under_way = rooms.wait(&busy, MEMBERS_MAX).now_or_never().unwrap().unwrap();
        let mut behind: Vec<_> = (0..50).map(|_| Box::pin(rooms.wait(&busy, MEMBERS_MAX))).collect();
        assert!(behind.iter_mut().all(|waiting| waiting.now_or_never().is_none()));
        let mut of_other = Box::pin(rooms.wait(&other, 3));
        assert!((&mut of_other).now_or_never().is_none(), "no room is left");
        drop(under_way);
        assert!((&mut behind[0]).now_or_never().is_none(), "the other one was first to wait for room");
        assert!((&mut of_other).now_or_never().is_some());
        assert!((&mut behind[0]).now_or_never().is_some());
    }
}
