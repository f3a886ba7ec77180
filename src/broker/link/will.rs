//! The will of a connection, and as whom it is published.

use mqtt5::WillMessage;

use super::super::identity::Caller;
use super::Link;
use crate::chat::access::Rights;

impl Link {
    /// Who was let in; none before.
    pub(in crate::broker) fn caller(&self) -> Option<Caller> {
        self.lock().caller.clone()
    }

    /// The will that is published when the connection breaks.
    pub(in crate::broker) fn set_will(&self, will: Option<WillMessage>) {
        self.lock().will = will;
    }

    /// The engine asks whether the client may publish something. Whether that is a PUBLISH; if not, it is the will.
    pub(in crate::broker) fn take_unasked(&self) -> bool {
        std::mem::take(&mut self.lock().unasked)
    }

    /// The will is published with these rights.
    pub(in crate::broker) fn set_will_rights(&self, rights: Rights) {
        self.lock().will_rights = Some(rights);
    }

    /// The will, if it is published, and with which rights.
    pub(in crate::broker) fn take_will(&self) -> Option<(WillMessage, Rights)> {
        let mut state = self.lock();
        state.will.take().zip(state.will_rights.take())
    }
}
