//! What the command line says.

use crate::groups::Groups;
use crate::load::Rates;
use crate::users::Users;
use anyhow::{Context, Result, bail, ensure};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Messages a second that a user may write: below `limits.user_messages_per_second`, as chance makes some write more.
const WRITTEN: usize = 10;
/// In the curve so many members a second are written to, whatever the size of their groups.
const MEMBERS: usize = 2_000;

pub(crate) struct Arguments {
    pub(crate) folder: PathBuf,
    pub(crate) bridge: PathBuf,
    /// Where the users are made, for more than one run.
    pub(crate) prepared: Option<PathBuf>,
    pub(crate) users: Users,
    pub(crate) groups: Arc<Groups>,
    /// Messages that are in the store before.
    pub(crate) history: Option<usize>,
    /// The parts of the load.
    pub(crate) parts: Vec<Rates>,
    pub(crate) presence: bool,
}

/// What is measured.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mode {
    Two,
    Groups,
    Curve,
    History,
}

impl Arguments {
    pub(crate) fn read() -> Result<Self> {
        // Cargo hands over `--bench`; everything else is ours.
        let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
        let has = |word: &str| arguments.iter().any(|argument| argument.split('=').next() == Some(word));
        let mode = match () {
            () if has("history") => Mode::History,
            () if has("curve") => Mode::Curve,
            () if has("groups") => Mode::Groups,
            () => Mode::Two,
        };
        let (mut read, mut rates, mut groups) = Self::default_of(mode);
        for argument in &arguments {
            let (key, value) = argument.split_once('=').unwrap_or((argument, ""));
            let number = || value.parse::<usize>().with_context(|| format!("{argument}: {value} is no number"));
            match key {
                "dir" => read.folder = Path::new(value).join("chat"),
                "bridge" => read.bridge = value.into(),
                "prepared" => read.prepared = Some(value.into()),
                "users" => read.users.count = number()?,
                "contacts" => read.users.contacts = number()?,
                "messages" => rates.messages = number()?,
                "group-messages" => rates.group_messages = number()?,
                "visits" => rates.visits = number()?,
                "pages" => rates.pages = number()?,
                "seconds" => rates.time = Duration::from_secs(number()? as u64),
                "presence" => read.presence = value == "yes",
                "groups" | "curve" if value.is_empty() => {}
                "groups" | "curve" => value.clone_into(&mut groups),
                "history" if value.is_empty() => {}
                "history" => read.history = Some(number()?),
                _ => bail!("{argument} is nothing that can be set"),
            }
        }
        read.groups = Groups::read(&groups, read.users)?;
        read.parts = parts(mode, rates, &read.groups);
        read.check(rates)?;
        Ok(read)
    }

    fn default_of(mode: Mode) -> (Self, Rates, String) {
        let rates = Rates { messages: 500, visits: 20, time: Duration::from_secs(120), ..Rates::default() };
        let (groups, rates) = match mode {
            Mode::Two => ("", rates),
            Mode::Groups => ("100x50,1x1000", Rates { messages: 200, group_messages: 20, ..rates }),
            Mode::Curve => {
                ("1000x10,100x100,10x1000", Rates { messages: 200, visits: 0, time: Duration::from_secs(30), ..rates })
            }
            Mode::History => ("", Rates { visits: 0, pages: 50, time: Duration::from_secs(60), ..rates }),
        };
        let is_full = mode == Mode::History;
        let read = Self {
            folder: Path::new(env!("CARGO_TARGET_TMPDIR")).join("chat"),
            bridge: env!("CARGO_BIN_EXE_fcm-mqtt-bridge").into(),
            prepared: None,
            users: if is_full { Users { count: 4_000, contacts: 100 } } else { Users { count: 10_000, contacts: 50 } },
            groups: Arc::default(),
            history: is_full.then_some(1_000_000),
            parts: Vec::new(),
            presence: false,
        };
        (read, rates, groups.to_owned())
    }

    fn check(&self, rates: Rates) -> Result<()> {
        let writers = self.users.connected().count();
        ensure!(rates.messages <= writers * WRITTEN, "so many messages want more users: default limits hold");
        ensure!(self.users.count > self.users.contacts && self.users.contacts > 0, "more users than contacts of each");
        ensure!(rates.group_messages == 0 || !self.groups.all.is_empty(), "messages to groups want some");
        Ok(())
    }
}

fn parts(mode: Mode, rates: Rates, groups: &Groups) -> Vec<Rates> {
    if mode != Mode::Curve {
        return vec![rates];
    }
    let of = |size: usize| Rates { group_messages: (MEMBERS / size).max(1), size: Some(size), ..rates };
    std::iter::once(Rates { group_messages: 0, ..rates }).chain(groups.sizes().into_iter().map(of)).collect()
}
