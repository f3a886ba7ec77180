//! What is printed.

use crate::bridge::Bridge;
use crate::load::Done;
use crate::model::{Faults, Model};
use crate::phones::{Arrived, Matter};
use crate::process::{self, SELF};
use crate::push_service::PushService;
use crate::users::Users;
use anyhow::Result;
use std::time::Duration;
use tokio::time::Instant;

const KB_PER_MB: f64 = 1_024.0;
const LOG_LINES: usize = 10;

/// Resident memory of the bridge, in kB.
pub(crate) struct Memory {
    /// Of one that knows nobody.
    pub(crate) empty: f64,
    /// Of one that was started with all users in its store.
    pub(crate) registered: f64,
    /// Of the same with those connected who are.
    pub(crate) connected: f64,
}

/// The processor time of all processes during the load.
pub(crate) struct Processor {
    start: Instant,
    /// Bridge, simulator, driver.
    used: [Duration; 3],
    time: Duration,
}

impl Processor {
    pub(crate) fn start(bridge: &Bridge, push_service: &PushService) -> Result<Self> {
        Ok(Self { start: Instant::now(), used: used(bridge, push_service)?, time: Duration::ZERO })
    }

    pub(crate) fn stop(&mut self, bridge: &Bridge, push_service: &PushService) -> Result<()> {
        let now = used(bridge, push_service)?;
        self.used.iter_mut().zip(now).for_each(|(used, now)| *used = now - *used);
        self.time = self.start.elapsed();
        Ok(())
    }
}

fn used(bridge: &Bridge, push_service: &PushService) -> Result<[Duration; 3]> {
    Ok([bridge.cpu()?, process::cpu(&push_service.process())?, process::cpu(SELF)?])
}

pub(crate) fn set_up(users: Users, registering: Duration, meeting: Duration) {
    let (count, greetings) = (users.count as f64, (users.count * users.contacts) as f64);
    let [registering, meeting] = [registering, meeting].map(|time| time.as_secs_f64());
    println!("{count} users with a phone each, in {registering:.1} s: {:.0}/s", count / registering);
    println!("{greetings} messages that make contacts, in {meeting:.1} s: {:.0}/s", greetings / meeting);
}

pub(crate) fn connected(memory: &Memory, users: Users, connecting: Duration) {
    let Memory { empty, registered, connected } = memory;
    let (count, online) = (users.count as f64, users.connected().count() as f64);
    let connecting = connecting.as_secs_f64();
    println!(
        "{online} users connected with two devices each, in {connecting:.1} s: {:.0}/s",
        2.0 * online / connecting
    );
    println!(
        "memory of the bridge: {:.1} MB without users, {:.2} kB for each registered one, {:.2} kB more for each connected one",
        empty / KB_PER_MB,
        (registered - empty) / count,
        (connected - registered) / online
    );
}

pub(crate) fn load(model: &Model, done: &Done, pushes: &[Arrived]) {
    let seconds = done.time.as_secs_f64();
    let (written, offline) = (model.len(), model.to_offline());
    println!("\n{written} messages in {seconds:.1} s: {:.1}/s; {offline} to users who sleep", written as f64 / seconds);
    let syncs = pushes.iter().filter(|push| matches!(push.matter, Matter::Sync)).count();
    println!(
        "{} pushes, {syncs} of them `sync`; {} copies marked as repeated; {} words of what was read",
        pushes.len(),
        model.marked,
        model.read
    );
    if model.behind_sync > 0 {
        println!("{} messages wait for a `sync` that is not due yet", model.behind_sync);
    }
    if model.late > 0 {
        println!("{} documents from before, for devices that were not there then", model.late);
    }
    if model.presences > 0 {
        println!("{} times the presence of a contact", model.presences);
    }
    spread("user to user, from PUBLISH to socket", model.latencies.clone());
    spread("user to phone, from PUBLISH to push", model.push_latencies(pushes));
    spread("visits: until the CONNACK", done.visits.iter().map(|visit| visit.connected).collect());
    spread("visits: until the reply to `sync`", done.visits.iter().map(|visit| visit.replied).collect());
}

fn spread(name: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |part: f64| times.get((times.len() as f64 * part) as usize).or_else(|| times.last()).copied();
    let ms = |part| at(part).unwrap_or_default().as_secs_f64() * 1_000.0;
    println!("{name:<40}{:>9}  p50 {:.2} ms, p99 {:.2} ms, most {:.2} ms", times.len(), ms(0.5), ms(0.99), ms(1.0));
}

pub(crate) fn processes(processor: &Processor, bridge: &Bridge) -> Result<()> {
    let share = |used: Duration| 100.0 * used.as_secs_f64() / processor.time.as_secs_f64();
    let [of_bridge, of_simulator, of_driver] = processor.used.map(share);
    println!("processor, of one core: bridge {of_bridge:.0} %, simulator {of_simulator:.0} %, driver {of_driver:.0} %");
    let (end, peak) = (bridge.memory()? / KB_PER_MB, bridge.peak_memory()? / KB_PER_MB);
    println!("memory of the bridge: {end:.1} MB at the end, {peak:.1} MB at the peak");
    let log = bridge.log()?;
    for line in log.lines().take(LOG_LINES) {
        println!("log: {line}");
    }
    Ok(())
}

/// Whether there are none.
pub(crate) fn faults(faults: &Faults) -> bool {
    for (kind, (count, examples)) in &faults.0 {
        println!("WRONG, {count} times: {kind}");
        examples.iter().for_each(|example| println!("  {example}"));
    }
    if faults.0.is_empty() {
        println!("nothing lost, nothing twice without a mark, nobody pushed who looks");
    }
    faults.0.is_empty()
}
