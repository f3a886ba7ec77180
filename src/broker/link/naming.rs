//! What is known of a client by its CONNECT, and what it is called.

use std::sync::Arc;

use super::super::frames::Version;
use super::super::frames::connect::{Connect, Reasons};
use super::super::refusals::{Refusal, Who};
use super::Link;

/// What a client is called, by itself and by everybody but the engine.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(in crate::broker) struct Name {
    pub(in crate::broker) client: Arc<str>,
    pub(in crate::broker) chosen_by: ChosenBy,
    /// Whose it is of its user's devices; none if it is anonymous.
    pub(in crate::broker) device: Option<Arc<str>>,
}

/// Who chose a client id.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::broker) enum ChosenBy {
    Client,
    Broker,
}

impl Link {
    /// Whether the client wants to be told why in words.
    pub(in crate::broker) fn reasons(&self) -> Reasons {
        self.lock().connect.map_or(Reasons::Wanted, |connect| connect.reasons)
    }

    /// Of a CONNECT nothing may be readable but its version.
    pub(in crate::broker) fn saw_version(&self, version: Version) {
        let connect = Connect { version, keep_alive: 0, max_packet: None, reasons: Reasons::Wanted };
        self.lock().connect = Some(connect);
    }

    pub(in crate::broker) fn saw_connect(&self, connect: Connect, who: Who) {
        let mut state = self.lock();
        state.connect = Some(connect);
        state.who = Some(who);
    }

    /// Who the client says it is; none before its CONNECT.
    pub(in crate::broker) fn who(&self) -> Option<Who> {
        self.lock().who.clone()
    }

    /// Whether this is the first time that it is told why the connection ends.
    pub(in crate::broker) fn note_end(&self) -> bool {
        !std::mem::replace(&mut self.lock().end_told, true)
    }

    /// The client is told by the engine that it may not publish something, for this reason.
    pub(in crate::broker) fn note_denied(&self, refusal: Refusal) {
        self.lock().denied = Some(refusal);
    }

    /// Why the last message was denied.
    pub(in crate::broker) fn denied(&self) -> Option<Refusal> {
        self.lock().denied
    }

    /// What the client is called from now on.
    pub(in crate::broker) fn call(&self, name: Name) {
        self.lock().name = Some(name);
    }

    /// Which of its user's devices the client is.
    pub(in crate::broker) fn device(&self) -> Option<Arc<str>> {
        self.lock().name.as_ref()?.device.clone()
    }

    /// The client id that the broker chose.
    pub(in crate::broker) fn assigned(&self) -> Option<Arc<str>> {
        let state = self.lock();
        state.name.as_ref().filter(|name| name.chosen_by == ChosenBy::Broker).map(|name| Arc::clone(&name.client))
    }
}
