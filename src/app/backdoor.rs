//! The ways to the devices: which there are, and how each runs.

use super::AppError;
use crate::chat::way::Way;
use crate::mqtt::Door;
use crate::transport::ccs::{self, CcsConfig};
use crate::transport::fcm::{self, FcmConfig};
use crate::transport::{self, Outlet, Port};
use std::time::Duration;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Messages on their way to a transport.
pub(super) const SENDS: usize = 64;
/// Acknowledgements on their way to a transport.
const ACKS: usize = 1_024;
/// Answers on their way from a transport.
const REPORTS: usize = 1_024;
/// How long a transport waits for an external broker at the start, before it connects all the same.
const DOOR_PATIENCE: Duration = Duration::from_secs(5);

/// What runs behind the ports.
pub(super) type Tasks = JoinSet<Result<(), AppError>>;

/// One way, as configured.
pub(super) enum BackDoor {
    Ccs(Box<CcsConfig>),
    Fcm(Way, Box<FcmConfig>),
}

impl BackDoor {
    pub(super) fn way(&self) -> Way {
        match self {
            Self::Ccs(_) => Way::Ccs,
            Self::Fcm(way, _) => way.clone(),
        }
    }

    pub(super) fn check(&self) -> Result<(), AppError> {
        match self {
            Self::Ccs(config) => Ok(config.check()?),
            Self::Fcm(way, config) => config.check().map_err(|fault| AppError::fcm(way, fault)),
        }
    }

    /// The same, reading its files again when `reload` asks.
    fn reloading(self, reload: watch::Receiver<u64>) -> Self {
        match self {
            Self::Ccs(config) => Self::Ccs(Box::new(CcsConfig { reload, ..*config })),
            Self::Fcm(way, config) => Self::Fcm(way, Box::new(FcmConfig { reload, ..*config })),
        }
    }

    async fn run(
        self,
        outlet: Outlet,
        mut door: watch::Receiver<Door>,
        stop: CancellationToken,
    ) -> Result<(), AppError> {
        let open = door.wait_for(|door| *door == Door::Open);
        tokio::select! {
            _ = tokio::time::timeout(DOOR_PATIENCE, open) => {}
            () = stop.cancelled() => {}
        }
        match self {
            Self::Ccs(config) => Ok(ccs::run(*config, outlet, stop).await?),
            Self::Fcm(way, config) => fcm::run(*config, outlet, stop).await.map_err(|fault| AppError::fcm(&way, fault)),
        }
    }
}

/// The ports of all ways, and the tasks behind them.
pub(super) fn start(
    doors: Vec<BackDoor>,
    front: &watch::Receiver<Door>,
    reload: &watch::Receiver<u64>,
    stop: &CancellationToken,
) -> (Vec<(Way, Port)>, Tasks) {
    let mut tasks = JoinSet::new();
    let mut ports = Vec::with_capacity(doors.len());
    for door in doors {
        let (port, outlet) = transport::port(SENDS, ACKS, REPORTS);
        ports.push((door.way(), port));
        tasks.spawn(door.reloading(reload.clone()).run(outlet, front.clone(), stop.clone()));
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
