//! Random chat of four users, who are also a group, with crashes in between, against a model in memory.
//!
//! What must hold, whatever happens: each side has every message once without a mark, in its order, and counts without holes;
//! what is unread is what lies behind the read position and is neither retracted nor deleted nor over, as the first screen says;
//! who is not in the group gets nothing of it, who comes back has what was written each time that it was in it, and its versions
//! only rise. A push is made for each device for which one is due and for no other, once: not while somebody looks and answers,
//! not for what a mute, a block or a wish holds back, not for typing, receipts, edits and reactions, not for what was taken back;
//! silent by night; one for an absence where the device wants that; and exactly the devices that were pushed are cleared.
//!
//! ```text
//!   steps ──▶ Model ──documents of clients──▶ ChatHarness: the intake, Attentions, the store
//!               │                                  │
//!               └──── expects ═══ checks ════ documents, pushes, screens ◀──┘
//! ```
//!
//! The model is written against the contract, not against the store: it knows messages and people, and no rows.

mod changes;
mod checks;
mod conversation;
mod group;
mod harness;
mod messages;
mod people;
mod pushes;
mod steps;

use self::harness::ChatHarness;
use self::messages::{Message, Waiting};
use self::people::Person;
use self::pushes::Push;
use self::steps::{Step, steps};
use crate::chat::id::Sid;
use crate::ops::clock::now_ms;
use proptest::prelude::*;
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Everybody, by name; the group is the last one. The first one owns it.
pub(in crate::bridge::chat::model) const NAMES: [&str; 5] = ["alice", "bob", "carol", "dave", "g-team"];
pub(in crate::bridge::chat::model) const USERS: usize = 4;
pub(in crate::bridge::chat::model) const GROUP: usize = 4;
pub(in crate::bridge::chat::model) const DEVICES: [&str; 3] = ["phone", "tablet", "web"];
/// The first ones of them may have a token.
pub(in crate::bridge::chat::model) const PHONES: usize = 2;
/// From one step to the next.
const STEP: Duration = Duration::from_secs(1);

pub(in crate::bridge::chat::model) struct Model {
    chat: ChatHarness,
    /// Pushes for which the queue has room.
    room: u64,
    people: Vec<Person>,
    messages: Vec<Message>,
    /// What waits for its time.
    waiting: Vec<Waiting>,
    pushes: Vec<Push>,
    /// Up to where each user has read with each other one, or in the group.
    read: BTreeMap<(usize, usize), Sid>,
    /// Up to where each writer was told of each reader that its messages are delivered, and read.
    told: BTreeMap<(usize, usize), (Option<Sid>, Option<Sid>)>,
    /// Receipts between two but for `sent`, as they are expected: writer, sid, status.
    receipts: Vec<(usize, Sid, &'static str)>,
    /// Receipts that came, by writer.
    got: Vec<Vec<Value>>,
    group: group::GroupState,
    /// The bridge was started, and has not decided yet what waited at its stop.
    is_undecided: bool,
    /// Users with messages that are to be decided again at once.
    again: BTreeMap<usize, BTreeSet<Sid>>,
    amendments: u32,
}

impl Model {
    /// Everybody has a phone with a token, has written to Alice, and is in her group.
    async fn open(room: u64) -> Self {
        let mut model = Self {
            chat: ChatHarness::open(room),
            room,
            people: (0..USERS).map(|_| Person::default()).collect(),
            messages: Vec::new(),
            waiting: Vec::new(),
            pushes: Vec::new(),
            read: BTreeMap::new(),
            told: BTreeMap::new(),
            receipts: Vec::new(),
            got: vec![Vec::new(); USERS],
            group: group::GroupState::default(),
            is_undecided: false,
            again: BTreeMap::new(),
            amendments: 0,
        };
        model.chat.joins(NAMES[0]).await;
        for user in 1..USERS {
            model.write(&steps::Draft::plain(user, 0, 99)).await;
        }
        model.create_group().await;
        for user in 0..USERS {
            model.register(user, 0, Some(steps::Wanted { badge: "server", ..steps::Wanted::default() })).await;
        }
        model
    }

    async fn run(mut self, steps: &[Step]) {
        for step in steps {
            self = self.apply(step).await;
            self.check().await;
        }
        self.finish().await;
    }

    async fn apply(mut self, step: &Step) -> Self {
        if let Step::Restart { crashed } = *step {
            self.chat = self.chat.restart(crashed).await;
            self.handle_restart();
            return self;
        }
        let by = if let Step::Pass { seconds } = *step { Duration::from_secs(seconds) } else { STEP };
        self.pass(by).await;
        match step {
            Step::Connect { user, dev } => self.connect(*user, *dev).await,
            Step::Gone { user, dev } => self.disconnect(*user, *dev),
            Step::Active { user, dev, on } => self.activity(*user, *dev, *on),
            Step::Type { user, dev, to } => self.type_to(*user, *dev, *to).await,
            Step::Write(draft) => self.write(draft).await,
            Step::Cancel { which } => self.cancel(*which).await,
            Step::Acknowledge { user, dev } => self.acknowledge(*user, *dev).await,
            Step::Confirm { user, dev, back, up_to } => self.confirm_one(*user, *dev, *back, *up_to).await,
            Step::Read { user, dev, back } => self.read_one(*user, *dev, *back).await,
            Step::Register { user, dev, wanted } => self.register(*user, *dev, *wanted).await,
            Step::Block { user, other, on } => self.block(*user, *other, *on).await,
            Step::Mute { user, with, level, seconds } => self.mute(*user, *with, level, *seconds).await,
            Step::Amend(change) => self.amend(change).await,
            Step::Delete { user, back, all } => self.delete_one(*user, *back, *all).await,
            Step::Add(user) => self.add(*user).await,
            Step::Remove(user) => self.remove(*user).await,
            Step::Room => self.decide_unpushed().await,
            Step::Claim => self.claim().await,
            Step::Answer { which, how } => self.answer(*which, *how).await,
            Step::Restart { .. } | Step::Pass { .. } => {}
        }
        self
    }

    /// Time passes, and what is due by then happens.
    async fn pass(&mut self, by: Duration) {
        self.chat.pass(by).await;
        if !self.waiting.is_empty() {
            self.send_scheduled().await;
        }
        self.expire().await;
        if std::mem::take(&mut self.is_undecided) {
            self.decide_undecided().await;
        }
        self.decide_rung().await;
    }

    fn handle_restart(&mut self) {
        self.people.iter_mut().for_each(Person::handle_restart);
        self.again.clear();
        self.is_undecided = true;
        self.handle_pushes_back();
    }
}

fn now() -> u64 {
    now_ms()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, max_shrink_iters: 400, ..ProptestConfig::default() })]

    #[test]
    fn everybody_gets_everything_once_and_phones_exactly_what_they_should(steps in steps(), has_room in any::<bool>()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let room = if has_room { 10_000 } else { 8 };
            Model::open(room).await.run(&steps).await;
        });
    }
}
