//! The embedded broker beside a mosquitto of the same machine, in turn: each measurement starts its broker as a process of
//! its own, with an empty folder. Mosquitto must be installed.
//!
//! `cargo bench --bench broker` runs it; `-- rounds=5` prints medians of five, `-- only=fan-out` (`only=lasting`, several
//! with commas between; a hyphen stands for a blank) only the rows with that in their names, `-- bridge=PATH` takes
//! another executable of the bridge than that of this build, `-- 50000` another number where messages go
//! through, `-- dir=/some/disk` puts the brokers' folders elsewhere. Ten thousand idle clients take as many files on each
//! side: `ulimit -n 10100` before, or their row is left out.
//!
//! Rows that are measured one after the other may be compared: the last line does so with `downstream` and `chat`.
//!
//! A ratio is the bridge's figure to mosquitto's. Processor time is that of the broker's process; that of the driver,
//! which is this process, says whether the driver was the limit on this machine. No figure is asserted. What is "missing"
//! or "lost" is the most of all rounds: messages that were acknowledged and did not come for ten seconds.
//!
//! What differs from the defaults: both brokers take 1,000 unacknowledged messages in either direction, mosquitto queues
//! without a limit, the bridge takes all clients from one address and everybody without a log-in. Mosquitto keeps its
//! persistence as it is, written every half hour; the bridge has what it promises on disk. The push service is away, so
//! that messages to devices are taken and wait; but in the row `downstream` it is the simulator, a process of its own.
//!
//! In the row `chat` the users of the bridge log in with tokens and may write as fast as they can. Of the bridge's default
//! limits 200 messages and 1,000 packets a second of one connection (`limits.broker_publish_rate`, `broker_packet_rate`)
//! are lower than what is measured: a writer acknowledges three documents for each message. Mosquitto passes the same
//! payloads from as many publishers to one reader each, and makes no copies and no receipts.

mod chat;
mod connections;
mod offline;
mod server;
mod table;
mod traffic;

#[expect(dead_code, reason = "shared with the load of chat, which asks more of it")]
#[path = "../support/client.rs"]
mod client;

#[path = "../support/login.rs"]
mod login;

#[expect(dead_code, reason = "shared with the benchmark of chat, which asks more of it")]
#[path = "../support/process.rs"]
mod process;

#[expect(dead_code, reason = "shared with the load of chat, which asks more of it")]
#[path = "../support/push_service.rs"]
mod push_service;

#[expect(dead_code, reason = "shared with the load of chat, which asks more of it")]
#[path = "../support/wire.rs"]
mod wire;

use anyhow::{Context, Result};
use connections::IDLE;
use push_service::PushService;
use server::{Needs, Server, Side};
use std::path::{Path, PathBuf};
use table::Figure;
use traffic::MESSAGES_PER_SECOND;
use wire::{Session, Version};

const MESSAGES: usize = 200_000;
const FANNED_OUT: usize = 2_000;
const READERS: usize = 200;
/// Files that a process has open besides its clients.
const OTHER_FILES: usize = 100;

fn main() -> Result<()> {
    let arguments = Arguments::read()?;
    tokio::runtime::Runtime::new()?.block_on(measure(&arguments))
}

async fn measure(arguments: &Arguments) -> Result<()> {
    let Arguments { folder, bridge, rounds, .. } = arguments;
    println!("medians of {rounds}; {}; folders in {}", bridge.display(), folder.display());
    table::head();
    let mut measured = Vec::new();
    for (name, row) in ROWS {
        if !arguments.wants(name) {
            continue;
        }
        if let (Row::Idle, files) = (row, process::open_files()?)
            && files < IDLE + OTHER_FILES
        {
            println!("{name}\n  left out: {files} files may be open; first `ulimit -n {}`", IDLE + OTHER_FILES);
            continue;
        }
        let (mut mosquitto, mut ours) = (Vec::new(), Vec::new());
        for round in 1..=*rounds {
            for (side, rounds) in [(Side::Mosquitto, &mut mosquitto), (Side::Bridge(bridge), &mut ours)] {
                match row.measure(side, arguments).await {
                    Ok(None) => {}
                    Ok(Some(figures)) => rounds.push(figures),
                    Err(error) => println!("{name}: {side}, round {round}: {error:#}"),
                }
            }
        }
        table::row(name, &mosquitto, &ours);
        measured.push((name, ours));
    }
    let rate = |row| table::median(&measured.iter().find(|(name, _)| *name == row)?.1, MESSAGES_PER_SECOND);
    if let (Some(chat), Some(downstream)) = (rate(CHAT), rate(DOWNSTREAM)) {
        println!("\n{MESSAGES_PER_SECOND} of chat to those downstream: {:.2}", chat / downstream);
    }
    Ok(())
}

const DOWNSTREAM: &str = "downstream: BAL to device and back, all statuses";
const CHAT: &str = "chat: user to user, both connected";

const ROWS: [(&str, Row); 13] = [
    ("QoS 1 through, MQTT 5", Row::Through(Version::V5)),
    ("QoS 1 through, MQTT 3.1.1", Row::Through(Version::V3)),
    ("QoS 1 through, reader with a lasting session", Row::LastingReader),
    ("QoS 1 fan-out to 200 readers", Row::FanOut),
    ("QoS 1 held until it is on disk, to devices", Row::Held),
    (DOWNSTREAM, Row::Downstream),
    (CHAT, Row::Chat),
    ("10,000 idle clients", Row::Idle),
    ("connect and disconnect, clean sessions", Row::Connects(Session::Clean)),
    ("connect and disconnect, new lasting sessions", Row::Connects(Session::Lasting)),
    ("re-subscription of 1,000 filters", Row::Resubscription),
    ("offline: 100 sessions, 60 messages of 60 kB each", Row::Waiting),
    ("kill -9 at the last PUBACK of 6,000 for an offline session", Row::Killed),
];

#[derive(Clone, Copy)]
enum Row {
    Through(Version),
    LastingReader,
    FanOut,
    Held,
    Downstream,
    Chat,
    Idle,
    Connects(Session),
    Resubscription,
    Waiting,
    Killed,
}

impl Row {
    /// Nothing, if this side has no such thing.
    async fn measure(self, side: Side<'_>, arguments: &Arguments) -> Result<Option<Vec<Figure>>> {
        let (folder, messages) = (&arguments.folder, arguments.messages);
        _ = std::fs::remove_dir_all(folder);
        std::fs::create_dir_all(folder)?;
        let push_service = match (self, side) {
            (Self::Downstream, Side::Bridge(executable)) => Some(PushService::start(executable, folder)?),
            _ => None,
        };
        let needs = match (self, &push_service) {
            (_, Some(push_service)) => Needs::Devices(push_service),
            (Self::Chat, None) => Needs::ChatUsers,
            _ => Needs::Nothing,
        };
        let start = Server::start(side, &needs, folder);
        let figures = match self {
            Self::Through(version) => traffic::through(&start.await?, version, Session::Clean, 1, messages).await,
            Self::LastingReader => traffic::through(&start.await?, Version::V5, Session::Lasting, 1, messages).await,
            Self::FanOut => traffic::through(&start.await?, Version::V5, Session::Clean, READERS, FANNED_OUT).await,
            Self::Held | Self::Downstream if side == Side::Mosquitto => return Ok(None),
            Self::Held => traffic::held(&start.await?, messages).await,
            Self::Downstream => traffic::downstream(&start.await?, messages).await,
            Self::Chat if side == Side::Mosquitto => chat::passed_through(&start.await?, messages).await,
            Self::Chat => chat::between_users(&start.await?, messages).await,
            Self::Idle => connections::idle(&start.await?).await,
            Self::Connects(session) => connections::connects(&start.await?, session).await,
            Self::Resubscription => connections::resubscribe(&start.await?).await,
            Self::Waiting => offline::waiting(&start.await?).await,
            Self::Killed => offline::killed(side, folder).await,
        };
        _ = std::fs::remove_dir_all(folder);
        figures.map(Some)
    }
}

/// What the command line says.
struct Arguments {
    folder: PathBuf,
    bridge: PathBuf,
    rounds: usize,
    messages: usize,
    /// Measure only what has one of these in its name.
    only: Vec<String>,
}

impl Arguments {
    fn read() -> Result<Self> {
        let mut read = Self {
            folder: Path::new(env!("CARGO_TARGET_TMPDIR")).join("broker"),
            bridge: env!("CARGO_BIN_EXE_fcm-mqtt-bridge").into(),
            rounds: 1,
            messages: MESSAGES,
            only: Vec::new(),
        };
        // Cargo hands over `--bench`; everything else is ours.
        for argument in std::env::args().skip(1).filter(|argument| argument != "--bench") {
            match argument.split_once('=').unwrap_or(("messages", &argument)) {
                ("dir", path) => read.folder = Path::new(path).join("broker"),
                ("bridge", path) => read.bridge = path.into(),
                ("rounds", number) => {
                    read.rounds = number.parse().with_context(|| format!("{number} is no number of rounds"))?;
                }
                ("messages", number) => {
                    read.messages = number.parse().with_context(|| format!("{number} is no number of messages"))?;
                }
                ("only", words) => read.only = words.split(',').map(|word| word.replace('-', " ")).collect(),
                _ => anyhow::bail!("{argument} is nothing that can be set"),
            }
        }
        Ok(read)
    }

    /// Whether the row with this name is to be measured. A hyphen stands for a blank, so that no shell needs quotes.
    fn wants(&self, name: &str) -> bool {
        self.only.is_empty() || self.only.iter().any(|word| name.replace('-', " ").contains(word))
    }
}
