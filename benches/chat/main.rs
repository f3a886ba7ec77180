//! Chat at a steady pace: users with sleeping phones, one in five of them connected, who write to their contacts and groups,
//! whether these are connected or not. What everybody got is compared with what was written.
//!
//! `cargo bench --bench chat` takes two minutes and the time in which the users become contacts. Other loads:
//!
//! * `-- groups`: also 20 messages/s to groups, a hundred of 50 members and one of a thousand (`groups=100x50,1x1000`);
//! * `-- curve`: part by part to groups of 10, of 100 and of 1,000 members, two thousand members a second in each part, beside the
//!   same traffic between two. What that costs alone is measured first, and the rest is what a message to a group costs;
//! * `-- history`: in a store of 1,000,000 messages (`history=1000000`), while clients ask for pages of it. Then
//!   `chat.keep_bytes` is set to half of what is there, and the file must not grow while more is written.
//!
//! `-- users=2000 seconds=20` is a short run; `messages=500`, `group-messages=20`, `visits=20` and `pages=50` are rates, `contacts=50`
//! is how many each has, `presence=yes` lets whoever is connected read the presence of these, `-- bridge=PATH` takes another
//! executable of the bridge, `-- dir=/some/disk` puts its folder elsewhere. `prepared=PATH` is a folder in which the users are
//! made once; each run begins with a copy of it. Ten thousand users want `ulimit -n 10000` or more.
//!
//! ```text
//!   2,000 users x 2 devices ──500 messages/s──▶ ┌────────┐ ──copies, receipts──▶ 2,000 users x 2 devices
//!                                               │ bridge │
//!   20 visits/s: connect, sync, go ───────────▶ └────────┘ ──pushes over CCS───▶ simulator: 8,000 phones
//! ```
//!
//! Three processes: the bridge with its embedded broker and its store, the simulator of the push service, and this driver,
//! which is one thread. Everybody has a device `web` and a device `phone`, and the phone has a token. Who is connected is so
//! with both: somebody looks at the first one, and nobody at the second one. So the phone of such a user could be pushed, and
//! must not be: the first one says so when it connects, and its user writes more often than `chat.attended_minutes`. Everybody
//! else has a phone that sleeps, and is pushed for each message; in turn these phones connect, ask for
//! what they missed, and go. That is a sign of the phone and none of a person: the pushes go on, and none of them becomes a
//! `sync` as long as no phone gets more than 50 from one visit to the next.
//!
//! In a group everybody but the writer is a reader, and only in one of up to 32 members the writer is told `delivered` of each.
//!
//! Checked is: each message came stamped to both devices of its writer, which were told `sent`; to both devices of its
//! reader, if these are connected, and then the writer's were told `delivered`; otherwise to the reader's phone as one push,
//! unless a `sync` stands for it; all of it once, but for what is marked as repeated; nobody who looks was pushed; and a
//! visitor found in the reply what was taken before. If anything is wrong the program says what, and fails.

mod arguments;
mod bridge;
mod decision;
mod devices;
mod figures;
mod groups;
mod history;
mod load;
mod model;
mod pages;
mod phones;
mod report;
mod setup;
mod users;
mod visits;
mod written;

#[expect(dead_code, reason = "shared with the benchmark of the broker, which asks more of it")]
#[path = "../support/client.rs"]
mod client;

#[path = "../support/login.rs"]
mod login;

#[path = "../support/process.rs"]
mod process;

#[path = "../support/push_service.rs"]
mod push_service;

#[expect(dead_code, reason = "shared with the benchmark of the broker, which asks more of it")]
#[path = "../support/wire.rs"]
mod wire;

use anyhow::{Result, ensure};
use arguments::Arguments;
use bridge::{Bridge, Limits, Place};
use devices::{Devices, Shared};
use figures::Measuring;
use history::{History, OnDisk};
use load::Rates;
use model::Model;
use pages::Pages;
use phones::Control;
use push_service::PushService;
use report::Memory;
use std::cell::RefCell;
use std::fs;
use std::path::Path;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};

/// Files that a process has open besides the connections that last.
const OTHER_FILES: usize = 500;
/// Until what comes at a connection has come, and what a part of the load brought is done.
const QUIET: Duration = Duration::from_secs(5);
/// What is there when the store of a folder was made to the end.
const PREPARED: &str = "prepared";
/// How long the bridge may take to forget what is beyond `chat.keep_bytes`.
const FORGETTING: Duration = Duration::from_secs(300);

fn main() -> Result<()> {
    let arguments = Arguments::read()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, measure(&arguments))
}

async fn measure(arguments: &Arguments) -> Result<()> {
    let Arguments { folder, bridge: executable, users, .. } = arguments;
    let files = process::open_files()?;
    let wanted = 2 * users.connected().count() + OTHER_FILES;
    ensure!(files >= wanted, "{files} files may be open; first `ulimit -n {wanted}`");
    println!("a push decision for one device: {:.1} ns", decision::nanoseconds());
    _ = fs::remove_dir_all(folder);
    fs::create_dir_all(folder)?;
    let push_service = PushService::start(executable, folder)?;
    let place = Place { executable, folder, push_service: &push_service };
    let empty = memory_without_users(&place).await?;
    let made_in = arguments.prepared.as_ref().unwrap_or(folder);
    fs::create_dir_all(made_in)?;
    set_up(&Place { folder: made_in, ..place }, arguments).await?;
    copy(made_in, folder)?;
    let pages = match arguments.history {
        Some(count) => Some(Pages::new(*users, History::fill(folder, *users, count).await?)),
        None => None,
    };
    let before = OnDisk::of(folder)?;
    report::on_disk("on disk before", &before);
    load(arguments, &place, Limits::Default, (empty, pages)).await?;
    if arguments.history.is_some() {
        forget(arguments, &place, before.documents / 2).await?;
    }
    Ok(fs::remove_dir_all(folder)?)
}

async fn memory_without_users(place: &Place<'_>) -> Result<f64> {
    let folder = &place.folder.join("empty");
    fs::create_dir_all(folder)?;
    Bridge::start(&Place { folder, ..*place }, Limits::Default).await?.memory()
}

/// Users with phones, contacts and groups, unless the folder has them from before.
async fn set_up(place: &Place<'_>, arguments: &Arguments) -> Result<()> {
    let (users, groups, mark) = (arguments.users, &arguments.groups, place.folder.join(PREPARED));
    if mark.exists() {
        return Ok(());
    }
    let bridge = Bridge::start(place, Limits::Raised).await?;
    let start = Instant::now();
    setup::register(bridge.address, users).await?;
    report::set_up(users, start.elapsed());
    match arguments.history {
        None => {
            let start = Instant::now();
            setup::meet(bridge.address, users, groups).await?;
            let met = start.elapsed();
            groups::make(bridge.address, groups).await?;
            report::met(users, groups, met, start.elapsed() - met);
        }
        Some(count) => {
            drop(bridge);
            let start = Instant::now();
            History::fill(place.folder, users, count).await?;
            println!("{count} messages into the store in {:.1} s", start.elapsed().as_secs_f64());
        }
    }
    Ok(fs::write(mark, "")?)
}

/// The store of another folder, of which no bridge has it open.
fn copy(from: &Path, to: &Path) -> Result<()> {
    for name in ["bridge.db", "bridge.db-wal", "filled"].iter().filter(|name| from != to && from.join(name).exists()) {
        let copied = to.join(name);
        fs::copy(from.join(name), &copied)?;
        // Or the disk would be busy with it while the bridge is measured.
        fs::File::open(copied)?.sync_all()?;
    }
    Ok(())
}

/// The load on a bridge with these limits, part by part, and whether everything came.
async fn load(
    arguments: &Arguments,
    place: &Place<'_>,
    limits: Limits,
    (empty, pages): (f64, Option<Pages>),
) -> Result<()> {
    let Arguments { users, groups, presence, .. } = arguments;
    let bridge = Bridge::start(place, limits).await?;
    let registered = bridge.memory()?;
    let model: Shared = Rc::new(RefCell::new(Model::new(*users, Arc::clone(groups), pages)));
    let start = Instant::now();
    let mut devices = Devices::connect(bridge.address, *users, &model, *presence).await?;
    let connecting = start.elapsed();
    sleep(QUIET).await;
    report::connected(&Memory { empty, registered, connected: bridge.memory()? }, *users, connecting);

    let mut parts = Vec::new();
    for rates in &arguments.parts {
        // Of what is not kept no pages are asked.
        let pages = if limits == Limits::Default { rates.pages } else { 0 };
        let measuring = Measuring::start(&bridge, place.push_service)?;
        let rates = Rates { pages, ..*rates };
        let done = load::run(bridge.address, (*users, groups), rates, &mut devices, &model).await?;
        sleep(QUIET).await;
        let used = measuring.stop(&bridge, place.push_service)?;
        report::part(&model.borrow(), &done, &used);
        if let (Some((alone, used_alone)), true) = (parts.first(), rates.size.is_some()) {
            report::beyond(&done, &used, (alone, used_alone));
        }
        parts.push((done, used));
    }
    let mut control = Control::connect(place.push_service.control).await?;
    let to_offline = model.borrow().to_offline();
    load::settle(async || {
        devices.check()?;
        let pushes = control.delivered().await?;
        Ok((model.borrow().is_complete() && pushes >= to_offline, (pushes, model.borrow().progress())))
    })
    .await?;
    let pushes = control.arrived(*users).await?;
    model.borrow_mut().check(&pushes);
    report::load(&model.borrow(), &pushes);
    report::processes(&bridge)?;
    let is_right = report::faults(&model.borrow().faults);
    drop(bridge);
    // What is wrong can be looked for in what is left.
    ensure!(is_right, "something is wrong; the folder {} stays", place.folder.display());
    Ok(())
}

/// A bridge that keeps fewer bytes than there are forgets the oldest messages, and its file does not grow while more are written.
async fn forget(arguments: &Arguments, place: &Place<'_>, keep: u64) -> Result<()> {
    let before = OnDisk::of(place.folder)?;
    report::on_disk("on disk after the load", &before);
    let bridge = Bridge::start(place, Limits::Keep(keep)).await?;
    let start = Instant::now();
    let mut left = before;
    let most = left.used + left.free;
    while left.documents > keep {
        ensure!(start.elapsed() < FORGETTING, "{} bytes of documents are kept", left.documents);
        sleep(Duration::from_secs(1)).await;
        left = OnDisk::of(place.folder)?;
    }
    println!("\nchat.keep_bytes = {keep}: forgotten in {:.1} s", start.elapsed().as_secs_f64());
    report::on_disk("on disk", &left);
    drop(bridge);
    let push_service = PushService::start(place.executable, place.folder)?;
    load(arguments, &Place { push_service: &push_service, ..*place }, Limits::Keep(keep), (0.0, None)).await?;
    let after = OnDisk::of(place.folder)?;
    report::on_disk("on disk after the load", &after);
    ensure!(after.used + after.free <= most, "the file has grown");
    ensure!(after.documents <= keep + keep / 10, "more is kept than is to be");
    Ok(())
}
