//! What is printed.

use crate::bridge::Bridge;
use crate::figures::Figures;
use crate::groups::Groups;
use crate::history::OnDisk;
use crate::load::Done;
use crate::model::{Faults, Model};
use crate::pages::Pages;
use crate::phones::{Arrived, Matter};
use crate::users::Users;
use anyhow::Result;
use std::time::Duration;

const KB_PER_MB: f64 = 1_024.0;
/// Bytes of a page of the store.
const PAGE: f64 = 4_096.0;
/// Transactions that took longer than so many seconds are counted.
const SLOW: [f64; 4] = [0.005, 0.01, 0.025, 0.1];
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

pub(crate) fn set_up(users: Users, registering: Duration) {
    let (count, registering) = (users.count as f64, registering.as_secs_f64());
    println!("{count} users with a phone each, in {registering:.1} s: {:.0}/s", count / registering);
}

pub(crate) fn met(users: Users, groups: &Groups, meeting: Duration, making: Duration) {
    let greetings = (users.count * users.contacts) as f64;
    let [meeting, making] = [meeting, making].map(|time| time.as_secs_f64());
    println!("{greetings} messages that make contacts, in {meeting:.1} s: {:.0}/s", greetings / meeting);
    if !groups.all.is_empty() {
        println!("{} groups, of {:?} members, in {making:.1} s", groups.all.len(), groups.sizes());
    }
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

/// What a part of the load was, how long things took in it, and what they cost.
pub(crate) fn part(model: &Model, done: &Done, used: &Figures) {
    let Done { rates, time, written, .. } = done;
    let of = rates.size.map_or(String::new(), |size| format!(" of {size} members"));
    let seconds = time.as_secs_f64();
    println!(
        "\n{} messages in {seconds:.1} s: {}/s between two, {}/s to groups{of}, {} pages/s",
        written.len(),
        rates.messages,
        rates.group_messages,
        rates.pages
    );
    spread("user to user, from PUBLISH to socket", model.latencies(written.clone(), false));
    spread("in groups, from PUBLISH to each socket", model.latencies(written.clone(), true));
    spread("visits: until the CONNACK", done.visits.iter().map(|visit| visit.connected).collect());
    spread("visits: until the reply to `sync`", done.visits.iter().map(|visit| visit.replied).collect());
    let (messages, ms) = (written.len().max(1) as f64, |time: Duration| time.as_secs_f64() * 1e3);
    let share = |part: Duration| 100.0 * part.as_secs_f64() / used.time.as_secs_f64();
    let [of_bridge, of_simulator, of_driver] = used.processor.map(share);
    println!("processor, of one core: bridge {of_bridge:.0} %, simulator {of_simulator:.0} %, driver {of_driver:.0} %");
    println!(
        "of each message: {:.3} ms of the processor, {:.3} ms of these the writer's, {:.2} transactions, {:.1} pages on disk",
        ms(used.processor[0]) / messages,
        ms(used.writer) / messages,
        used.commits as f64 / messages,
        used.disk as f64 / PAGE / messages
    );
    println!(
        "{} transactions, {:.2} ms each with their way to the disk, {}",
        used.commits,
        ms(used.committing) / used.commits.max(1) as f64,
        slow(used)
    );
}

/// What a message to a group costs beyond what the traffic between two cost alone.
pub(crate) fn beyond(done: &Done, used: &Figures, (alone, used_alone): (&Done, &Figures)) {
    let messages = (done.written.len() as f64 - alone.written.len() as f64).max(1.0);
    let part = used.time.as_secs_f64() / used_alone.time.as_secs_f64();
    let each = |used: Duration, alone: Duration| (used.as_secs_f64() - alone.as_secs_f64() * part) * 1e3 / messages;
    let (bridge, writer) = (each(used.processor[0], used_alone.processor[0]), each(used.writer, used_alone.writer));
    let of_member = done.rates.size.map_or(String::new(), |size| {
        format!("; of each member {:.1} us and {:.1} us", bridge * 1e3 / size as f64, writer * 1e3 / size as f64)
    });
    println!(
        "each message to a group: {bridge:.2} ms of the processor, {writer:.2} ms of these the writer's{of_member}"
    );
}

pub(crate) fn load(model: &Model, pushes: &[Arrived]) {
    let syncs = pushes.iter().filter(|push| matches!(push.matter, Matter::Sync)).count();
    println!(
        "\n{} messages, {} of them to groups, {} times to users who sleep; {} pushes, {syncs} of them `sync`",
        model.len(),
        model.to_groups(),
        model.to_offline(),
        pushes.len()
    );
    println!("{} copies marked as repeated; {} words of what was read", model.marked, model.read);
    if model.behind_sync > 0 {
        println!("{} messages wait for a `sync` that is not due yet", model.behind_sync);
    }
    if model.late > 0 {
        println!("{} documents from before, for devices that were not there then", model.late);
    }
    if model.presences > 0 {
        println!("{} times the presence of a contact", model.presences);
    }
    spread("user to phone, from PUBLISH to push", model.push_latencies(pushes));
    for (name, times) in model.pages.iter().flat_map(Pages::times) {
        spread(name, times);
    }
}

/// How many transactions took longer than each of some times.
fn slow(used: &Figures) -> String {
    let limits = used.within.iter().filter(|(limit, _)| SLOW.contains(limit));
    let texts: Vec<String> =
        limits.map(|(limit, within)| format!("{} longer than {:.0} ms", used.commits - within, limit * 1e3)).collect();
    texts.join(", ")
}

pub(crate) fn on_disk(what: &str, of: &OnDisk) {
    let mb = |bytes: u64| bytes as f64 / 1e6;
    println!(
        "{what}: {} messages, {:.1} MB of documents; the file holds {:.1} MB ({:.0} bytes for each message), {:.1} MB of it free, log {:.1} MB",
        of.messages,
        mb(of.documents),
        mb(of.used + of.free),
        of.used as f64 / of.messages.max(1) as f64,
        mb(of.free),
        mb(of.log)
    );
}

fn spread(name: &str, mut times: Vec<Duration>) {
    if times.is_empty() {
        return;
    }
    times.sort_unstable();
    let at = |part: f64| times.get((times.len() as f64 * part) as usize).or_else(|| times.last()).copied();
    let ms = |part| at(part).unwrap_or_default().as_secs_f64() * 1_000.0;
    println!("{name:<40}{:>9}  p50 {:.2} ms, p99 {:.2} ms, most {:.2} ms", times.len(), ms(0.5), ms(0.99), ms(1.0));
}

pub(crate) fn processes(bridge: &Bridge) -> Result<()> {
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
