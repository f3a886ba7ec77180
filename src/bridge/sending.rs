//! What an operator has said of sending, and how far the dispatchers have followed. Nothing of it is on disk: after a start
//! everything is sent.

use crate::chat::command::Sending;
use crate::chat::transport::Transport;
use std::collections::{BTreeMap, BTreeSet};
use tokio::sync::watch;

/// Shared by the commands and the dispatchers.
#[derive(Debug, Default)]
pub(crate) struct SendingControl {
    paused: watch::Sender<BTreeSet<Transport>>,
    standings: watch::Sender<BTreeMap<Transport, Standing>>,
}

/// How a dispatcher stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Standing {
    /// It claims nothing, and what it had claimed and not handed over is on disk again.
    pub(crate) closed: bool,
    /// Messages that the transport has, and that are not answered.
    pub(crate) in_flight: usize,
}

impl SendingControl {
    /// Stops sending by these of `all` transports, or goes on.
    pub(crate) fn pause(&self, which: &Sending, all: impl Iterator<Item = Transport>, on: bool) {
        let which: Vec<Transport> = all.filter(|one| covers(which, one)).collect();
        self.paused.send_modify(|paused| {
            for transport in which {
                if on {
                    paused.insert(transport)
                } else {
                    paused.remove(&transport)
                };
            }
        });
    }

    /// By which transports nothing is sent.
    pub(crate) fn paused(&self) -> watch::Receiver<BTreeSet<Transport>> {
        self.paused.subscribe()
    }

    /// A dispatcher says how it stands.
    pub(crate) fn stands(&self, transport: &Transport, standing: Standing) {
        self.standings.send_if_modified(|all| all.insert(transport.clone(), standing) != Some(standing));
    }

    /// Waits until nothing is on its way by these transports.
    pub(crate) async fn drained(&self, which: &Sending) {
        let is_drained = |all: &BTreeMap<Transport, Standing>| {
            all.iter().filter(|(one, _)| covers(which, one)).all(|(_, at)| at.closed && at.in_flight == 0)
        };
        // This holds the other end.
        let _ = self.standings.subscribe().wait_for(is_drained).await;
    }

    /// How much is on its way by these transports.
    pub(crate) fn in_flight(&self, which: &Sending) -> usize {
        let all = self.standings.borrow();
        all.iter().filter(|(one, _)| covers(which, one)).map(|(_, at)| at.in_flight).sum()
    }
}

/// Whether it is about this transport.
pub(crate) fn covers(which: &Sending, transport: &Transport) -> bool {
    which.0.as_ref().is_none_or(|one| one == transport)
}
