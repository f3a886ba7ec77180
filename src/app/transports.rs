//! The transports: which there are, and how each runs.

use super::AppError;
use crate::chat::recipient_queue::Pipelining;
use crate::chat::transport::Transport;
use crate::mqtt::BrokerLink;
use crate::transport::ccs::{self, CcsConfig};
use crate::transport::fcm_v1::{self, FcmConfig};
use crate::transport::{self, Capabilities, Outlet, Port};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Acknowledgements on their way to a transport.
const ACKS: usize = 1_024;
/// Answers on their way from a transport.
const REPORTS: usize = 1_024;
/// How long a transport waits for the broker at the start, before it connects all the same.
const BROKER_WAIT: Duration = Duration::from_secs(5);

/// What runs behind the ports.
pub(super) type Tasks = JoinSet<Result<(), AppError>>;

/// One transport, as configured.
pub(super) enum TransportPlan {
    Ccs(Box<CcsConfig>),
    Fcm(Transport, Box<FcmConfig>),
}

impl TransportPlan {
    pub(super) fn transport(&self) -> Transport {
        match self {
            Self::Ccs(_) => Transport::Ccs,
            Self::Fcm(transport, _) => transport.clone(),
        }
    }

    pub(super) fn check(&self) -> Result<(), AppError> {
        match self {
            Self::Ccs(config) => config.check().map_err(|fault| AppError::transport(&Transport::Ccs, fault)),
            Self::Fcm(transport, config) => config.check().map_err(|fault| AppError::transport(transport, fault)),
        }
    }

    /// What it can do.
    fn capabilities(&self) -> Capabilities {
        match self {
            // One recipient fills its connection, and never all that may be claimed: others go beside it.
            Self::Ccs(config) => {
                Capabilities { pipelining: Pipelining::Pipelined(config.window + config.window / 2), delivery: true }
            }
            // Its answers come from the app, where that is what the apps do.
            Self::Fcm(_, config) => Capabilities { pipelining: Pipelining::OneAtATime, delivery: config.app_receipts },
        }
    }

    /// The same, reading its files again when `reload` asks.
    fn reloading(self, reload: watch::Receiver<u64>) -> Self {
        match self {
            Self::Ccs(config) => Self::Ccs(Box::new(CcsConfig { reload, ..*config })),
            Self::Fcm(transport, config) => Self::Fcm(transport, Box::new(FcmConfig { reload, ..*config })),
        }
    }

    async fn run(
        self,
        outlet: Outlet,
        mut broker_link: watch::Receiver<BrokerLink>,
        stop: CancellationToken,
    ) -> Result<(), AppError> {
        let up = broker_link.wait_for(|broker_link| *broker_link == BrokerLink::Up);
        tokio::select! {
            _ = tokio::time::timeout(BROKER_WAIT, up) => {}
            () = stop.cancelled() => {}
        }
        match self {
            Self::Ccs(config) => {
                ccs::run(*config, outlet, stop).await.map_err(|fault| AppError::transport(&Transport::Ccs, fault))
            }
            Self::Fcm(transport, config) => {
                fcm_v1::run(*config, outlet, stop).await.map_err(|fault| AppError::transport(&transport, fault))
            }
        }
    }
}

/// The ports of all transports, and the tasks behind them.
pub(super) fn start(
    plans: Vec<TransportPlan>,
    claims: usize,
    broker_link: &watch::Receiver<BrokerLink>,
    reload: &watch::Receiver<u64>,
    stop: &CancellationToken,
) -> (Vec<(Transport, Port)>, Tasks) {
    let mut tasks = JoinSet::new();
    let mut ports = Vec::with_capacity(plans.len());
    for plan in plans {
        // All that may be claimed finds room.
        let (port, outlet) = transport::port(claims, ACKS, REPORTS);
        ports.push((plan.transport(), Port { capabilities: plan.capabilities(), ..port }));
        tasks.spawn(plan.reloading(reload.clone()).run(outlet, broker_link.clone(), stop.clone()));
    }
    (ports, tasks)
}

/// Waits for the first that ends, and what it says.
pub(super) async fn first(tasks: &mut Tasks) -> Result<(), AppError> {
    match tasks.join_next().await {
        Some(ended) => ended?,
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::secret::Secret;

    #[test]
    fn a_recipient_fills_the_window_of_its_connection_and_leaves_claims_to_others() {
        for (window, pipelining) in [(100, 150), (1, 1)] {
            let config = CcsConfig { window, ..CcsConfig::new("1", Secret::new("k")) };
            let capabilities = TransportPlan::Ccs(Box::new(config)).capabilities();
            assert_eq!(capabilities.pipelining, Pipelining::Pipelined(pipelining));
        }
    }
}
