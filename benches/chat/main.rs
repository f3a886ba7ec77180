//! Chat at a steady pace: users with sleeping phones, one in five of them connected, who write to their contacts, whether
//! these are connected or not. What everybody got is compared with what was written.
//!
//! `cargo bench --bench chat` takes two minutes and the time in which the users become contacts. `-- users=2000 seconds=20`
//! is a short run; `messages=500` and `visits=20` are rates, `contacts=50` is how many each has, `presence=yes` lets whoever
//! is connected read the presence of these, `-- bridge=PATH` takes another executable of the bridge, `-- dir=/some/disk` puts
//! its folder elsewhere. Ten thousand users want `ulimit -n 10000` or more.
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
//! Checked is: each message came stamped to both devices of its writer, which were told `sent`; to both devices of its
//! reader, if these are connected, and then the writer's were told `delivered`; otherwise to the reader's phone as one push,
//! unless a `sync` stands for it; all of it once, but for what is marked as repeated; nobody who looks was pushed; and a
//! visitor found in the reply what was taken before. If anything is wrong the program says what, and fails.

mod bridge;
mod decision;
mod devices;
mod load;
mod model;
mod phones;
mod report;
mod setup;
mod users;
mod visits;

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

use anyhow::{Context, Result, bail, ensure};
use bridge::{Bridge, Limits, Place};
use devices::{Devices, Shared};
use load::Rates;
use model::Model;
use phones::Control;
use push_service::PushService;
use report::{Memory, Processor};
use std::cell::RefCell;
use std::path::{Path, PathBuf};
use std::rc::Rc;
use std::time::Duration;
use tokio::task::LocalSet;
use tokio::time::{Instant, sleep};
use users::Users;

/// Files that a process has open besides the connections that last.
const OTHER_FILES: usize = 500;
/// Messages a second that a user may write: below `limits.user_messages_per_second`, as chance makes some write more.
const WRITTEN: usize = 10;
/// Until what comes at a connection has come.
const QUIET: Duration = Duration::from_secs(5);

fn main() -> Result<()> {
    let arguments = Arguments::read()?;
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    LocalSet::new().block_on(&runtime, measure(&arguments))
}

async fn measure(arguments: &Arguments) -> Result<()> {
    let Arguments { folder, bridge: executable, users, rates, presence } = arguments;
    let files = process::open_files()?;
    let wanted = 2 * users.connected().count() + OTHER_FILES;
    ensure!(files >= wanted, "{files} files may be open; first `ulimit -n {wanted}`");
    println!("a push decision for one device: {:.1} ns", decision::nanoseconds());
    _ = std::fs::remove_dir_all(folder);
    std::fs::create_dir_all(folder)?;
    let push_service = PushService::start(executable, folder)?;
    let place = Place { executable, folder, push_service: &push_service };
    let empty = set_up(&place, *users).await?;

    let bridge = Bridge::start(&place, Limits::Default).await?;
    let registered = bridge.memory()?;
    let model: Shared = Rc::new(RefCell::new(Model::new(*users)));
    let start = Instant::now();
    let mut devices = Devices::connect(bridge.address, *users, &model, *presence).await?;
    let connecting = start.elapsed();
    sleep(QUIET).await;
    let memory = Memory { empty, registered, connected: bridge.memory()? };
    report::connected(&memory, *users, connecting);

    let mut processor = Processor::start(&bridge, &push_service)?;
    let done = load::run(bridge.address, *users, *rates, &mut devices, &model).await?;
    processor.stop(&bridge, &push_service)?;
    let mut control = Control::connect(push_service.control).await?;
    let to_offline = model.borrow().to_offline();
    load::settle(async || {
        devices.check()?;
        let pushes = control.delivered().await?;
        Ok((model.borrow().is_complete() && pushes >= to_offline, (pushes, model.borrow().latencies.len())))
    })
    .await?;
    let pushes = control.arrived(*users).await?;
    model.borrow_mut().check(&pushes);
    let model = model.borrow();
    report::load(&model, &done, &pushes);
    report::processes(&processor, &bridge)?;
    let is_right = report::faults(&model.faults);
    drop(bridge);
    // What is wrong can be looked for in what is left.
    ensure!(is_right, "something is wrong; the folder {} stays", folder.display());
    Ok(std::fs::remove_dir_all(folder)?)
}

/// Users with phones and contacts. Returns the memory of the bridge before, in kB.
async fn set_up(place: &Place<'_>, users: Users) -> Result<f64> {
    let bridge = Bridge::start(place, Limits::Raised).await?;
    let memory = bridge.memory()?;
    let start = Instant::now();
    setup::register(bridge.address, users).await?;
    let registered = start.elapsed();
    setup::meet(bridge.address, users).await?;
    report::set_up(users, registered, start.elapsed() - registered);
    Ok(memory)
}

/// What the command line says.
struct Arguments {
    folder: PathBuf,
    bridge: PathBuf,
    users: Users,
    rates: Rates,
    presence: bool,
}

impl Arguments {
    fn read() -> Result<Self> {
        let mut read = Self {
            folder: Path::new(env!("CARGO_TARGET_TMPDIR")).join("chat"),
            bridge: env!("CARGO_BIN_EXE_fcm-mqtt-bridge").into(),
            users: Users { count: 10_000, contacts: 50 },
            rates: Rates { messages: 500, visits: 20, time: Duration::from_secs(120) },
            presence: false,
        };
        // Cargo hands over `--bench`; everything else is ours.
        for argument in std::env::args().skip(1).filter(|argument| argument != "--bench") {
            let (key, value) = argument.split_once('=').unwrap_or(("", &argument));
            let number = || value.parse::<usize>().with_context(|| format!("{argument}: {value} is no number"));
            match key {
                "dir" => read.folder = Path::new(value).join("chat"),
                "bridge" => read.bridge = value.into(),
                "users" => read.users.count = number()?,
                "contacts" => read.users.contacts = number()?,
                "messages" => read.rates.messages = number()?,
                "visits" => read.rates.visits = number()?,
                "seconds" => read.rates.time = Duration::from_secs(number()? as u64),
                "presence" => read.presence = value == "yes",
                _ => bail!("{argument} is nothing that can be set"),
            }
        }
        let writers = read.users.connected().count();
        ensure!(read.rates.messages <= writers * WRITTEN, "so many messages want more users: default limits hold");
        ensure!(read.users.count > read.users.contacts && read.users.contacts > 0, "more users than contacts of each");
        Ok(read)
    }
}
