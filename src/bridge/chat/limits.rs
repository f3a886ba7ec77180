//! The limits of each user, asked before a verb and told what it came to.

use crate::chat::id::Owner;
use crate::chat::message::{ErrorCode, Rejection};
use crate::chat::principal::Role;
use crate::chat::user_limits::{Allowances, Limited, Met, UserLimits};
use crate::store::ChatOutcome;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;
use tokio::time::Instant;

/// What users have done lately; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Limits {
    /// A lock because what a message came to is known in a future of its own; held for an operation on memory.
    users: Arc<Mutex<UserLimits>>,
}

/// A user writes to somebody who may be a stranger.
pub(super) struct Meeting {
    limits: Limits,
    user: Owner,
    other: Owner,
    /// Whether the user may write to another stranger.
    pub(super) may: bool,
}

impl Limits {
    pub(super) fn new(allowances: Allowances) -> Self {
        Self { users: Arc::new(Mutex::new(UserLimits::new(allowances))) }
    }

    /// A user publishes something: how much later it is to be acknowledged.
    pub(super) fn publish(&self, user: &Owner) -> Duration {
        self.users().publish(user, Instant::now().into_std())
    }

    /// Counts what somebody does. BALs are not limited.
    ///
    /// # Errors
    /// [`ErrorCode::RateLimited`].
    pub(super) fn take(&self, user: &Owner, role: Role, what: Limited) -> Result<(), Rejection> {
        if role != Role::User || self.users().take(user, what, Instant::now().into_std()) {
            return Ok(());
        }
        let of_what = match what {
            Limited::Message(_) => "messages, invitations and signals of calls, or bytes of them",
            Limited::Request => "requests",
            Limited::TestPush => "test pushes",
            Limited::Registration => "registrations",
            Limited::Report => "reports",
            Limited::Proof => "passwords or tokens",
            Limited::GroupPushes(_) => "messages to members of groups",
        };
        Err(Rejection::new(ErrorCode::RateLimited, format!("too many {of_what} in too short a time")))
    }

    /// A user is about to write to another one.
    pub(super) fn meet(&self, user: &Owner, other: &Owner) -> Meeting {
        let may = self.users().meet(user, other, Instant::now().into_std());
        Meeting { limits: self.clone(), user: user.clone(), other: other.clone(), may }
    }

    /// Nothing is known of the user any more, nor of what others wrote to it.
    pub(super) fn forget(&self, user: &Owner) {
        self.users().forget_name(user);
    }

    /// A user is about to put others into a group who take that without being asked.
    ///
    /// # Errors
    /// [`ErrorCode::RateLimited`].
    pub(super) fn add(&self, user: &Owner, others: &[Owner]) -> Result<(), Rejection> {
        if self.users().add(user, others, Instant::now().into_std()) {
            return Ok(());
        }
        let detail = "one of these was put into groups too often in too short a time";
        Err(Rejection::new(ErrorCode::RateLimited, detail))
    }

    /// Nobody was.
    pub(super) fn not_added(&self, user: &Owner, others: &[Owner]) {
        self.users().not_added(user, others, Instant::now().into_std());
    }

    fn users(&self) -> MutexGuard<'_, UserLimits> {
        self.users.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Meeting {
    /// What the message came to. Whoever does not exist, or takes nothing of strangers, counts as one.
    pub(super) fn came_to(self, outcome: &ChatOutcome) {
        if !self.may {
            return;
        }
        let met = match outcome {
            ChatOutcome::Done { stranger: true, .. } => Met::Stranger,
            ChatOutcome::Done { .. } => Met::Known,
            ChatOutcome::Refused(rejection)
                if matches!(rejection.code(), ErrorCode::NotFound | ErrorCode::Forbidden) =>
            {
                Met::Stranger
            }
            ChatOutcome::Scheduled | ChatOutcome::Repeated | ChatOutcome::Refused(_) | ChatOutcome::Full => {
                Met::Nothing
            }
        };
        self.limits.users().met(&self.user, &self.other, met, Instant::now().into_std());
    }
}
