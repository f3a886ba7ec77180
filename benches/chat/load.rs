//! The steady load: messages between contacts, and visits, at their rates for a time.

use crate::devices::{Devices, Shared};
use crate::users::Users;
use crate::visits::{Visit, visit};
use anyhow::Result;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;
use tokio::task::JoinSet;
use tokio::time::{Instant, interval};

/// How often it is asked what is due: at a thousand messages a second two at a time.
const STEP: Duration = Duration::from_millis(2);
/// What has not come when nothing came for so long is missing. Longer than an attended device has to confirm a message.
const SILENCE: Duration = Duration::from_secs(20);
const LOOK: Duration = Duration::from_millis(250);

/// So much a second, and for how long.
#[derive(Clone, Copy)]
pub(crate) struct Rates {
    pub(crate) messages: usize,
    pub(crate) visits: usize,
    pub(crate) time: Duration,
}

/// What was done.
pub(crate) struct Done {
    pub(crate) time: Duration,
    pub(crate) visits: Vec<Visit>,
}

/// Everybody who is connected is as likely to write as anybody else, and to any of the contacts. Whoever is not looks in
/// one after the other.
pub(crate) async fn run(
    broker: SocketAddr,
    users: Users,
    rates: Rates,
    devices: &mut Devices,
    model: &Shared,
) -> Result<Done> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
    let mut visitors = users.offline().cycle();
    let (mut written, mut visited, mut tasks) = (0, 0, JoinSet::new());
    let (mut steps, start) = (interval(STEP), Instant::now());
    while start.elapsed() < rates.time {
        steps.tick().await;
        let due = |rate: usize| (start.elapsed().as_secs_f64() * rate as f64) as usize;
        while written < due(rates.messages) {
            let (writer, contact) = (random.random_range(0..devices.writers()), random.random_range(0..users.contacts));
            devices.write(writer, contact, model)?;
            written += 1;
        }
        while visited < due(rates.visits) {
            let Some(visitor) = visitors.next() else { break };
            tasks.spawn_local(visit(broker, visitor, Rc::clone(model)));
            visited += 1;
        }
        devices.check()?;
    }
    let time = start.elapsed();
    let mut visits = Vec::new();
    while let Some(visit) = tasks.join_next().await {
        visits.push(visit??);
    }
    Ok(Done { time, visits })
}

/// Waits until `ask` says that everything has come, or says the same for too long.
pub(crate) async fn settle<T: PartialEq>(mut ask: impl AsyncFnMut() -> Result<(bool, T)>) -> Result<()> {
    let (mut is_complete, mut progress) = ask().await?;
    let mut since = Instant::now();
    while !is_complete && since.elapsed() < SILENCE {
        tokio::time::sleep(LOOK).await;
        let answer = ask().await?;
        is_complete = answer.0;
        if answer.1 != progress {
            (progress, since) = (answer.1, Instant::now());
        }
    }
    Ok(())
}
