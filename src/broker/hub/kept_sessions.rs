//! How many sessions of one chat user outlive their connections: of the devices that do not come back, the one that has been
//! away longest makes room for a new one.

use std::sync::Arc;

use tokio::time::timeout;

use super::Hub;
use super::admit::LOGIN_TIMEOUT;
use super::registry::SessionClaim;
use super::session::Session;
use crate::broker::refusals::Refusal;

impl Hub {
    /// Makes room for another session of the user that is kept; one with the key `new` is about to be replaced by it. As long
    /// as what this yields lives, no other connection does the same.
    ///
    /// # Errors
    ///
    /// If all of them have connections, or are about to get one.
    pub(super) async fn make_room_to_keep(self: &Arc<Self>, user: &str, new: &str) -> Result<SessionClaim, Refusal> {
        // No session has this key: a device has a name.
        let all = format!("{user}:").into();
        let claim = timeout(LOGIN_TIMEOUT, self.registry.claim(&all)).await.map_err(|_late| Refusal::Busy)?;
        loop {
            let mut kept = self.registry.sessions_of(user);
            kept.retain(|session| session.is_kept() && *session.key != *new);
            if kept.len() < self.limits.user_kept_sessions {
                return Ok(claim);
            }
            kept.retain(|session| session.left_ms().is_some());
            kept.sort_by_key(|session| session.left_ms());
            if !self.end_first_of(&kept).await {
                return Err(Refusal::Sessions);
            }
        }
    }

    /// Ends the first of these sessions that still has no connection, and to which no client is about to come back. Not waited
    /// for: whoever has the claim of one may wait here for others.
    async fn end_first_of(self: &Arc<Self>, sessions: &[Arc<Session>]) -> bool {
        for session in sessions {
            if let Some(_claim) = self.registry.try_claim(&session.key)
                && session.left_ms().is_some()
            {
                self.end_session(session).await;
                return true;
            }
        }
        false
    }
}
