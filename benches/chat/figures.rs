//! What the bridge needs for a part of the load.

use crate::bridge::Bridge;
use crate::process::{self, SELF};
use crate::push_service::PushService;
use anyhow::{Context, Result};
use std::time::Duration;
use tokio::time::Instant;

/// The thread of the bridge that writes the store.
const WRITER: &str = "store";
const COMMITS: &str = "bridge_store_commit_seconds";

/// What was used up to a moment, or between two.
#[derive(Clone, Default)]
pub(crate) struct Figures {
    /// Processor time of bridge, simulator, driver.
    pub(crate) processor: [Duration; 3],
    /// That of the bridge's writer of the store.
    pub(crate) writer: Duration,
    /// Bytes that the bridge wrote to the disk.
    pub(crate) disk: u64,
    pub(crate) commits: u64,
    /// How long all of them together took, with the way to the disk.
    pub(crate) committing: Duration,
    /// How many took no longer than so many seconds.
    pub(crate) within: Vec<(f64, u64)>,
    pub(crate) time: Duration,
}

/// Between its start and its stop.
pub(crate) struct Measuring {
    start: Instant,
    at: Figures,
}

impl Measuring {
    pub(crate) fn start(bridge: &Bridge, push_service: &PushService) -> Result<Self> {
        Ok(Self { start: Instant::now(), at: Figures::now(bridge, push_service)? })
    }

    pub(crate) fn stop(&self, bridge: &Bridge, push_service: &PushService) -> Result<Figures> {
        let Figures { processor, writer, disk, commits, committing, within, .. } = Figures::now(bridge, push_service)?;
        let (mut used, before) = (processor, &self.at);
        used.iter_mut().zip(before.processor).for_each(|(used, before)| *used -= before);
        let since = |(limit, count): (f64, u64)| {
            let earlier = before.within.iter().find(|(known, _)| *known == limit);
            (limit, count - earlier.map_or(0, |(_, count)| *count))
        };
        Ok(Figures {
            processor: used,
            writer: writer - before.writer,
            disk: disk - before.disk,
            commits: commits - before.commits,
            committing: committing.saturating_sub(before.committing),
            within: within.into_iter().map(since).collect(),
            time: self.start.elapsed(),
        })
    }
}

impl Figures {
    fn now(bridge: &Bridge, push_service: &PushService) -> Result<Self> {
        let process = bridge.process();
        let (metrics, text) = (bridge.metrics()?, |name: &str| format!("{COMMITS}_{name} "));
        let value = |name: &str| -> Result<f64> {
            let line = metrics.lines().find_map(|line| line.strip_prefix(&text(name)));
            Ok(line.with_context(|| format!("no {name} of the commits"))?.trim().parse()?)
        };
        let within = metrics.lines().filter_map(|line| {
            let (limit, count) = line.strip_prefix(&format!("{COMMITS}_bucket{{le=\""))?.split_once("\"} ")?;
            Some((limit.parse().ok()?, count.trim().parse().ok()?))
        });
        Ok(Self {
            processor: [bridge.cpu()?, process::cpu(&push_service.process())?, process::cpu(SELF)?],
            writer: process::cpu_of_threads(&process, WRITER)?,
            disk: process::written(&process)?,
            commits: value("count")? as u64,
            committing: Duration::from_secs_f64(value("sum")?),
            within: within.collect(),
            time: Duration::ZERO,
        })
    }
}
