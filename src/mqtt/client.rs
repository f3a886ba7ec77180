//! Keeps a connection to an external broker: connects, and connects again.

use super::Outlet;
use super::config::{ClientConfig, ClientError, Plan, Version};
use super::link::{Failure, Protocol};
use super::retry::{Retry, Tell};
use super::session::{self, End};
use super::talk::Flight;
use super::v5::V5;
use super::v311::V311;
use std::time::Duration;
use tokio::task::spawn_blocking;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;
use tracing::{debug, error, info, warn};

/// Drives `outlet` with an external broker until `stop`, or until the bridge drops its end.
///
/// Whatever happens on the wire is logged and mended by connecting again. On `stop` outstanding publications get a
/// time of grace; then comes a DISCONNECT, so that the broker does not publish the will.
///
/// # Errors
///
/// A wrong configuration, before anything is opened.
pub async fn run(config: ClientConfig, mut outlet: Outlet, stop: CancellationToken) -> Result<(), ClientError> {
    let plan = Plan::new(config)?;
    outlet.directory.answer_from(plan.config.senders.clone());
    // Who sees what is a matter of that broker's rules, and so is who may come in.
    outlet.visibility.close();
    outlet.evictions.close();
    match plan.config.version {
        Version::V5 => keep::<V5>(plan, outlet, &stop).await,
        Version::V311 => keep::<V311>(plan, outlet, &stop).await,
    }
    Ok(())
}

async fn keep<P: Protocol>(mut plan: Plan, mut outlet: Outlet, stop: &CancellationToken) {
    let limits = plan.config.limits.clone();
    let mut retry = Retry::new(limits.retry_min, limits.retry_max);
    let mut flight = Flight::new(&limits, outlet.trouble.clone());
    // What was wrong with the files when they were read last.
    let mut told = None;
    loop {
        let End::Failed { failure, open } = session::run::<P>(&plan, &mut outlet, &mut flight, stop).await else {
            return;
        };
        let (pause, tell) = retry.failed(&failure, open, rand::random());
        let failure_told =
            [Some(failure.to_string()), retry.hint()].into_iter().flatten().collect::<Vec<_>>().join("; ");
        say(&plan, &failure_told, pause, tell);
        if !matches!(failure, Failure::Redelivery) {
            flight.trouble.away(format!("{}: {failure_told}", plan.address));
        }
        tokio::select! {
            () = stop.cancelled() => return,
            () = sleep(pause) => {}
        }
        plan = read_again(plan, &mut told).await;
    }
}

/// The plan with the files as they are now. What cannot be used is told once, and changes nothing.
async fn read_again(plan: Plan, told: &mut Option<String>) -> Plan {
    if plan.config.password_file.is_none() && plan.config.ca_file.is_none() {
        return plan;
    }
    let config = plan.config.clone();
    match spawn_blocking(move || Plan::again(config)).await {
        Ok(Ok(fresh)) => {
            *told = None;
            fresh
        }
        Ok(Err(fault)) => {
            let fault = fault.to_string();
            if told.as_ref() != Some(&fault) {
                error!(fault, "the files cannot be used as they are now; those of before hold");
            }
            *told = Some(fault);
            plan
        }
        Err(_panicked_or_stopped) => plan,
    }
}

fn say(plan: &Plan, failure: &str, pause: Duration, tell: Tell) {
    let broker = &plan.address;
    match tell {
        Tell::Error => error!(broker, failure, ?pause, "no connection to the broker until this is mended"),
        Tell::Warn => warn!(broker, failure, ?pause, "no connection to the broker; trying again"),
        Tell::Info => info!(broker, "connecting again, to get messages once more that were left unacknowledged"),
        Tell::Again => debug!(broker, failure, ?pause, "still no connection to the broker"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The composition root runs it in a task of its own.
    #[test]
    fn the_client_can_be_spawned() {
        fn spawnable<F: Future + Send + 'static>(_: fn(ClientConfig, Outlet, CancellationToken) -> F) {}
        spawnable(run);
    }
}
