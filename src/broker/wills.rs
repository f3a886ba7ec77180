//! Wills: who left one, and as whom it is published.
//!
//! A will is published long after its client logged in, and often because the client may not be here any more. So who
//! may write its topic is asked again when it is published, of the users file as it is then.

use std::sync::Arc;

use mqtt5::WillMessage;

use super::identity::{Caller, Doorman};
use super::link::Link;
use super::refusals::{Refusal, Refusals, Who};
use crate::chat::access::Rights;

/// A will that the engine publishes some time after the connection broke.
#[derive(Debug)]
pub(super) struct DelayedWill {
    pub(super) will: WillMessage,
    /// Which of its user's devices left it.
    pub(super) device: Option<Arc<str>>,
    /// Who left it.
    pub(super) caller: Caller,
    /// For the line, should it be refused.
    pub(super) who: Option<Who>,
}

impl DelayedWill {
    /// The will of a client; none if nobody was let in.
    pub(super) fn left_by(link: &Link, will: WillMessage) -> Option<Self> {
        Some(Self { will, device: link.device(), caller: link.caller()?, who: link.who() })
    }
}

/// What the client of a will on `topic` may do by now; none if that is not to publish it, which is told here unless it was
/// told when the client came.
pub(super) fn rights_for_will(
    doorman: &Doorman,
    refusals: &Refusals,
    caller: &Caller,
    who: Option<&Who>,
    topic: &str,
) -> Option<Rights> {
    let rights = doorman.rights_now(caller);
    if rights.may_publish(topic) {
        return Some(rights);
    }
    if let Some(who) = who.filter(|_| caller.rights().may_publish(topic)) {
        refusals.tell(Refusal::WillTopic, who, topic);
    }
    None
}
