//! The devices that are connected all the time, and what is written at them.

use crate::client::Client;
use crate::model::Model;
use crate::users::{self, Device, Users};
use crate::wire::{self, Version};
use crate::written::Conversation;
use anyhow::{Context, Result, bail};
use serde_json::json;
use std::cell::RefCell;
use std::collections::HashMap;
use std::net::SocketAddr;
use std::rc::Rc;
use tokio::sync::mpsc;
use tokio::task::JoinSet;

pub(crate) const VERSION: Version = Version::V5;
/// A usual text.
pub(crate) const TEXT: &str = "Lorem ipsum dolor sit amet, consectetur adipiscing elit, sed do eiusmod tempor incididunt ut labore et \
                    dolore magna aliqua. Ut enim ad minim veniam, quis nostrud exercitation.";
/// Packets that wait for one connection. A second of one user is less.
const PACKETS: usize = 64;
/// Devices that connect at one time.
const AT_ONCE: usize = 16;

/// The model is asked and told by tasks of one thread, and never across an await.
pub(crate) type Shared = Rc<RefCell<Model>>;

/// A connection at which somebody writes.
struct Outbox {
    user: usize,
    packets: mpsc::Sender<Vec<u8>>,
    packet_id: u16,
}

pub(crate) struct Devices {
    users: Users,
    /// Those of the users' devices that are looked at.
    outboxes: Vec<Outbox>,
    by_user: HashMap<usize, usize>,
    /// The other ones only listen; they go when these are dropped.
    _phones: Vec<mpsc::Sender<Vec<u8>>>,
    tasks: JoinSet<Result<()>>,
}

impl Devices {
    /// Connects both devices of everybody who is to be connected. The first one says that somebody looks at it, the second one
    /// that nobody does. With `presence` the first one also asks for that of its user's contacts.
    pub(crate) async fn connect(broker: SocketAddr, users: Users, model: &Shared, presence: bool) -> Result<Self> {
        let (outboxes, by_user, phones) = (Vec::new(), HashMap::new(), Vec::new());
        let mut devices = Self { users, outboxes, by_user, _phones: phones, tasks: JoinSet::new() };
        let connected: Vec<usize> = users.connected().collect();
        for some in connected.chunks(AT_ONCE) {
            let mut connecting = JoinSet::new();
            for (user, device) in some.iter().flat_map(|user| Device::ALL.map(|device| (*user, device))) {
                connecting.spawn_local(connect(broker, user, device));
            }
            while let Some(connected) = connecting.join_next().await {
                let (user, device, client) = connected??;
                devices.serve(user, device, client, model)?;
            }
        }
        for outbox in devices.outboxes.iter().filter(|_| presence) {
            let contacts = (0..users.contacts).map(|n| users::name(users.contact(outbox.user, n)));
            let filters: Vec<String> = contacts.map(|contact| format!("{contact}/self/presence")).collect();
            outbox.packets.try_send(wire::subscribe(VERSION, &filters))?;
        }
        Ok(devices)
    }

    fn serve(&mut self, user: usize, device: Device, mut client: Client, model: &Shared) -> Result<()> {
        let (packets, mut outgoing) = mpsc::channel(PACKETS);
        packets.try_send(presence_of(user, device))?;
        match device {
            Device::Web => {
                self.by_user.insert(user, self.outboxes.len());
                self.outboxes.push(Outbox { user, packets, packet_id: 1 });
            }
            Device::Phone => self._phones.push(packets),
        }
        let model = Rc::clone(model);
        self.tasks.spawn_local(async move {
            let hears = |message: &wire::Message<'_>| {
                model.borrow_mut().hear(user, device, message);
                false
            };
            let served = client.serve(&mut outgoing, hears).await;
            served.with_context(|| format!("{} of {}", device.name(), users::name(user)))
        });
        Ok(())
    }

    /// How many users can write.
    pub(crate) fn writers(&self) -> usize {
        self.outboxes.len()
    }

    /// The writer with this number writes to that contact of its user.
    pub(crate) fn write(&mut self, writer: usize, contact: usize, model: &Shared) -> Result<()> {
        let reader = self.users.contact(self.outboxes[writer].user, contact);
        self.write_to(writer, Conversation::With(reader), users::name(reader), model)
    }

    /// A user writes to a group.
    pub(crate) fn write_to_group(&mut self, user: usize, (n, id): (usize, &str), model: &Shared) -> Result<()> {
        let writer = *self.by_user.get(&user).context("a member who is connected")?;
        self.write_to(writer, Conversation::Group(n), id.to_owned(), model)
    }

    fn write_to(&mut self, writer: usize, conversation: Conversation, to: String, model: &Shared) -> Result<()> {
        let id = model.borrow_mut().write(self.outboxes[writer].user, conversation);
        let message = json!({ "id": id, "to": to, "body": TEXT }).to_string();
        self.outboxes[writer].publish("messages", &message)
    }

    /// The user of the writer with this number asks for a page of what is kept.
    pub(crate) fn ask(&mut self, writer: usize, model: &Shared) -> Result<()> {
        let outbox = &mut self.outboxes[writer];
        let request = model.borrow_mut().pages.as_mut().map(|pages| pages.ask(outbox.user));
        outbox.publish("requests/web", &request.context("a store with a history")?.to_string())
    }

    /// An error, if one of the connections has ended.
    pub(crate) fn check(&mut self) -> Result<()> {
        match self.tasks.try_join_next() {
            None => Ok(()),
            Some(ended) => ended?.and_then(|()| bail!("a connection has ended")),
        }
    }
}

impl Outbox {
    fn publish(&mut self, suffix: &str, document: &str) -> Result<()> {
        // 0 is no packet id, and 1 was that of the presence.
        self.packet_id = self.packet_id.checked_add(1).unwrap_or(1);
        let topic = format!("{}/self/{suffix}", users::name(self.user));
        let packet = wire::publish(VERSION, &topic, self.packet_id, document.as_bytes());
        let queued = self.packets.try_send(packet);
        queued.with_context(|| format!("what {} writes is not taken", users::name(self.user)))
    }
}

async fn connect(broker: SocketAddr, user: usize, device: Device) -> Result<(usize, Device, Client)> {
    let id = users::client_id(user, device);
    Ok((user, device, Client::log_in(broker, VERSION, &id, &users::login(user)).await?))
}

/// What the device says of itself.
fn presence_of(user: usize, device: Device) -> Vec<u8> {
    let presence = json!({ "state": "online", "active": device == Device::Web }).to_string();
    let topic = format!("{}/self/presence/{}", users::name(user), device.name());
    wire::retained(wire::publish(VERSION, &topic, 1, presence.as_bytes()))
}
