//! A store that is full already: what was written before, by the store's own verbs, as fast as it takes them.
//!
//! Everybody has written once to each contact; the rest is spread over the first few conversations of each user who is
//! connected, so that these are long. All of it is in random order, as if everybody had written all the time: what one
//! conversation has lies all over the file. Who runs it twice gets the same ids, as long as the beginning is the same.

use crate::users::{self, Users};
use anyhow::{Context, Result, ensure};
use fcm_mqtt_bridge::chat::attention::Attended;
use fcm_mqtt_bridge::chat::group::GroupDelivery;
use fcm_mqtt_bridge::chat::id::{Owner, Sid, SidSource};
use fcm_mqtt_bridge::chat::message::{Limits as PayloadLimits, Sender};
use fcm_mqtt_bridge::chat::principal::Role;
use fcm_mqtt_bridge::chat::push_decision::PushWhen;
use fcm_mqtt_bridge::chat::route::Routes;
use fcm_mqtt_bridge::chat::suffix::messages::UserMessage;
use fcm_mqtt_bridge::chat::suffix::requests::Writers;
use fcm_mqtt_bridge::chat::transport::{Transport, Transports};
use fcm_mqtt_bridge::ops::clock::now_ms;

use fcm_mqtt_bridge::store::{self, ChatCall, ChatOutcome, ChatPolicy, NewChatMessage, Peer, Store, Writer};
use rand::rngs::Xoshiro256PlusPlus;
use rand::seq::SliceRandom;
use rand::{RngExt, SeedableRng};
use rusqlite::{Connection, OpenFlags};
use serde_json::json;
use std::collections::{HashMap, HashSet, VecDeque};
use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

/// What the ids of its messages begin with.
const ID: &str = "h";
/// Of each connected user so many conversations are long.
pub(crate) const LONG: usize = 10;
/// Over how long it was written: less than `chat.keep_days`.
const TIME_MS: u64 = 20 * 86_400_000;
/// Verbs that wait for the disk.
const WAITING: usize = 1_000;
/// After so many messages what nobody reads is dropped, as the bridge does it at once.
const DROPPED_AFTER: usize = 20_000;
const TOPICS: usize = 100;

struct Message {
    writer: usize,
    reader: usize,
    sid: Sid,
    at: u64,
}

/// What is in the store, as far as it is asked for.
#[derive(Default)]
pub(crate) struct History {
    messages: Vec<Message>,
    /// Of each user who is connected, oldest first.
    pub(crate) of_user: HashMap<usize, Vec<Sid>>,
    /// Of each of these with a contact.
    pub(crate) of_two: HashMap<(usize, usize), Vec<Sid>>,
}

impl History {
    /// So many messages, from a time on.
    fn plan(users: Users, count: usize, begin: u64) -> Result<Self> {
        let mut random = Xoshiro256PlusPlus::seed_from_u64(2);
        let mut pairs: Vec<(usize, usize)> = Vec::with_capacity(count);
        for user in users.all() {
            pairs.extend((0..users.contacts).map(|n| (user, users.contact(user, n))));
        }
        ensure!(pairs.len() <= count && users.contacts >= LONG, "more messages: each user has written to each contact");
        let connected: Vec<usize> = users.connected().collect();
        for n in 0..count - pairs.len() {
            let (user, n) = (connected[n % connected.len()], n / connected.len());
            let contact = users.contact(user, n % LONG);
            pairs.push(if (n / LONG).is_multiple_of(2) { (user, contact) } else { (contact, user) });
        }
        pairs.shuffle(&mut random);
        let (mut history, mut sids) = (Self::default(), SidSource::default());
        for (n, (writer, reader)) in pairs.into_iter().enumerate() {
            let at = begin + TIME_MS * n as u64 / count as u64;
            let sid = sids.next(at, random.random());
            for (user, other) in [(writer, reader), (reader, writer)] {
                if users::is_connected(user) {
                    history.of_user.entry(user).or_default().push(sid);
                    history.of_two.entry((user, other)).or_default().push(sid);
                }
            }
            history.messages.push(Message { writer, reader, sid, at });
        }
        Ok(history)
    }

    /// The same that is in the folder's store, which is filled unless it was before.
    pub(crate) async fn fill(folder: &Path, users: Users, count: usize) -> Result<Self> {
        let mark = folder.join("filled");
        if let Ok(begin) = fs::read_to_string(&mark) {
            return Self::plan(users, count, begin.parse()?);
        }
        let begin = now_ms() - TIME_MS - 86_400_000;
        let history = Self::plan(users, count, begin)?;
        // Between two messages there is nothing to wait for.
        let max_commit_delay = Duration::ZERO;
        let settings = store::Settings { max_commit_delay, ..store::Settings::new(folder.join("bridge.db")) };
        let (store, writer, _) = store::sqlite::open(&settings, begin)?;
        history.write(&store).await?;
        drop(store);
        writer.close().await?;
        fs::write(mark, begin.to_string())?;
        Ok(history)
    }

    async fn write(&self, store: &Store) -> Result<()> {
        let transports = Transports::new(Transport::Ccs, HashMap::new(), &Routes::default());
        let policy = Arc::new(ChatPolicy {
            push_when: PushWhen::default(),
            writers: Writers::Anyone,
            transports,
            scheduled_max: 1,
            listeners: Vec::new(),
            explicit: HashSet::new(),
            group_delivery: GroupDelivery::default(),
        });
        let mut waiting = VecDeque::new();
        for (n, message) in self.messages.iter().enumerate() {
            let call = ChatCall { at: message.at, push_sids: Vec::new(), policy: Arc::clone(&policy) };
            waiting.push_back(store.chat_message(message.to_store(n)?, call).await?);
            if waiting.len() > WAITING
                && let Some(committed) = waiting.pop_front()
            {
                taken(committed.await?)?;
            }
            if n % DROPPED_AFTER == 0 {
                drop_unread(store).await?;
            }
        }
        for committed in waiting {
            taken(committed.await?)?;
        }
        drop_unread(store).await
    }
}

impl Message {
    fn to_store(&self, n: usize) -> Result<NewChatMessage> {
        let [writer, reader] = [self.writer, self.reader].map(users::name);
        let document = json!({ "id": format!("{ID}{n}"), "to": reader, "body": crate::devices::TEXT, "push": "never" });
        let message = UserMessage::parse(Sender::User, document.to_string().as_bytes(), &PayloadLimits::default());
        let message = message.ok().context("a message that can be read")?;
        let from = Writer {
            name: Owner::new(writer)?,
            role: Role::User,
            dev: None,
            connected: Vec::new(),
            strangers: true,
            let_in: false,
            direct: false,
            by_token: Some(true),
        };
        let to = Peer { name: Owner::new(reader)?, role: None, attended: Attended::default() };
        Ok(NewChatMessage { sid: self.sid, from, to, message, deadline_ms: self.at, route: None })
    }
}

fn taken(outcome: ChatOutcome) -> Result<()> {
    ensure!(matches!(outcome, ChatOutcome::Done { .. }), "a message was not taken: {outcome:?}");
    Ok(())
}

async fn drop_unread(store: &Store) -> Result<()> {
    let mut after = String::new();
    loop {
        let topics = store.topics_to_drop(after, TOPICS).await?.await?;
        let Some(last) = topics.last() else { return Ok(()) };
        after = last.topic.to_string();
        while store.drop_unread(topics.clone()).await?.await? {}
    }
}

/// Whether a message with this id was in the store before.
pub(crate) fn is_of_it(id: &str) -> bool {
    id.starts_with(ID)
}

/// What a store has on disk.
pub(crate) struct OnDisk {
    /// Messages of chat that are kept.
    pub(crate) messages: u64,
    /// The bytes of their documents.
    pub(crate) documents: u64,
    /// Those of the file, without pages that are free, and of those.
    pub(crate) used: u64,
    pub(crate) free: u64,
    /// Those of the write-ahead log.
    pub(crate) log: u64,
}

impl OnDisk {
    /// The bridge may run meanwhile.
    pub(crate) fn of(folder: &Path) -> Result<Self> {
        let path = folder.join("bridge.db");
        let file = Connection::open_with_flags(&path, OpenFlags::SQLITE_OPEN_READ_WRITE)?;
        let ask = |sql| file.query_row(sql, [], |row| row.get::<_, i64>(0)).map(|value| value as u64);
        let (pages, free, page) = (ask("PRAGMA page_count")?, ask("PRAGMA freelist_count")?, ask("PRAGMA page_size")?);
        Ok(Self {
            messages: ask("SELECT count(*) FROM chat")?,
            documents: ask("SELECT coalesce(sum(length(document)), 0) FROM chat")?,
            used: (pages - free) * page,
            free: free * page,
            log: fs::metadata(path.with_extension("db-wal")).map_or(0, |log| log.len()),
        })
    }
}
