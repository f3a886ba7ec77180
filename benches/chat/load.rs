//! The steady load: messages between contacts, and visits, at their rates for a time.

use crate::devices::{Devices, Shared};
use crate::groups::Groups;
use crate::users::Users;
use crate::visits::{Visit, visit};
use anyhow::Result;
use rand::rngs::Xoshiro256PlusPlus;
use rand::{RngExt, SeedableRng};
use std::net::SocketAddr;
use std::ops::Range;
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
#[derive(Clone, Copy, Default)]
pub(crate) struct Rates {
    pub(crate) messages: usize,
    pub(crate) group_messages: usize,
    /// How many members the groups have to which these go; nothing: those of any size.
    pub(crate) size: Option<usize>,
    pub(crate) visits: usize,
    pub(crate) pages: usize,
    pub(crate) time: Duration,
}

/// What was done.
pub(crate) struct Done {
    pub(crate) rates: Rates,
    pub(crate) time: Duration,
    pub(crate) visits: Vec<Visit>,
    /// The numbers of the messages.
    pub(crate) written: Range<usize>,
}

/// Those who write to groups, one after the other in each, and from its owner on, so that none goes beyond its limit: groups
/// share members, and who comes first in the circle of users is in several of them.
struct GroupWriters<'a> {
    groups: Vec<(usize, &'a str, Vec<usize>)>,
    written: usize,
}

impl<'a> GroupWriters<'a> {
    fn new(groups: &'a Groups, size: Option<usize>) -> Self {
        let all = groups.all.iter().enumerate();
        let asked = all.filter(|(_, group)| size.is_none_or(|size| group.members.len() == size));
        let writers = asked.map(|(n, group)| {
            let mut writers: Vec<usize> = group.connected().collect();
            let from = writers.partition_point(|user| *user < group.owner);
            writers.rotate_left(from);
            (n, &*group.id, writers)
        });
        Self { groups: writers.collect(), written: 0 }
    }

    /// A group, by its number and its id, and who writes there now.
    fn next(&mut self) -> (usize, (usize, &'a str)) {
        let (n, id, members) = &self.groups[self.written % self.groups.len()];
        let member = members[self.written / self.groups.len() % members.len()];
        self.written += 1;
        (member, (*n, id))
    }
}

/// Everybody who is connected is as likely to write as anybody else, and to any of the contacts. Whoever is not looks in
/// one after the other.
pub(crate) async fn run(
    broker: SocketAddr,
    (users, groups): (Users, &Groups),
    rates: Rates,
    devices: &mut Devices,
    model: &Shared,
) -> Result<Done> {
    let mut random = Xoshiro256PlusPlus::seed_from_u64(1);
    let (mut visitors, mut group_writers) = (users.offline().cycle(), GroupWriters::new(groups, rates.size));
    let (mut written, mut to_groups, mut visited, mut asked) = (0, 0, 0, 0);
    let (mut tasks, first) = (JoinSet::new(), model.borrow().len());
    let (mut steps, start) = (interval(STEP), Instant::now());
    while start.elapsed() < rates.time {
        steps.tick().await;
        let due = |rate: usize| (start.elapsed().as_secs_f64() * rate as f64) as usize;
        while written < due(rates.messages) {
            let (writer, contact) = (random.random_range(0..devices.writers()), random.random_range(0..users.contacts));
            devices.write(writer, contact, model)?;
            written += 1;
        }
        while to_groups < due(rates.group_messages) {
            let (member, group) = group_writers.next();
            devices.write_to_group(member, group, model)?;
            to_groups += 1;
        }
        while asked < due(rates.pages) {
            devices.ask(random.random_range(0..devices.writers()), model)?;
            asked += 1;
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
    let written = first..model.borrow().len();
    Ok(Done { rates, time, visits, written })
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
