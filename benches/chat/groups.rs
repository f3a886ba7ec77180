//! Groups: so many of so many members each, and how the bridge comes to know them.

use crate::client::Client;
use crate::setup::VERSION;
use crate::users::{self, Device, Users};
use crate::wire;
use anyhow::{Context, Result, bail, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// Members that one request names, at most.
const NAMED: usize = 200;
const PATIENCE: Duration = Duration::from_secs(10);

/// Its members are neighbours in the circle of users, so that as many of them are connected as of all.
pub(crate) struct Group {
    pub(crate) id: String,
    /// By their numbers.
    pub(crate) members: Vec<usize>,
    /// The one in the middle made it.
    pub(crate) owner: usize,
}

impl Group {
    /// Those of its members who can write.
    pub(crate) fn connected(&self) -> impl Iterator<Item = usize> {
        self.members.iter().copied().filter(|user| users::is_connected(*user))
    }
}

/// All of them.
#[derive(Default)]
pub(crate) struct Groups {
    pub(crate) all: Vec<Group>,
}

#[derive(Deserialize)]
struct Reply {
    ok: bool,
    #[serde(default)]
    members: Vec<String>,
}

impl Groups {
    /// `100x50,1x1000` are a hundred groups of 50 members and one of a thousand.
    pub(crate) fn read(text: &str, users: Users) -> Result<Arc<Self>> {
        let mut groups = Self::default();
        for part in text.split(',').filter(|part| !part.is_empty()) {
            let (count, size) = part.split_once('x').with_context(|| format!("{part} is no count x size"))?;
            let (count, size): (usize, usize) = (count.parse()?, size.parse()?);
            ensure!(size > 5 && size <= users.count && count > 0, "{part}: groups of 6 members to all users");
            for n in 0..count {
                groups.add(format!("g-{size}-{n}"), n * users.count / count, size, users);
            }
        }
        Ok(Arc::new(groups))
    }

    fn add(&mut self, id: String, first: usize, size: usize, users: Users) {
        let owner = (first + size / 2) % users.count;
        let mut members: Vec<usize> = (first..first + size).map(|user| user % users.count).collect();
        members.sort_unstable();
        self.all.push(Group { id, members, owner });
    }

    /// The sizes that there are.
    pub(crate) fn sizes(&self) -> Vec<usize> {
        let mut sizes: Vec<usize> = self.all.iter().map(|group| group.members.len()).collect();
        sizes.sort_unstable();
        sizes.dedup();
        sizes
    }

    /// Who made groups in which a user is, and is to know it.
    pub(crate) fn owners(&self, user: usize) -> impl Iterator<Item = usize> {
        let groups = self.all.iter().filter(move |group| group.owner != user);
        groups.filter(move |group| group.members.binary_search(&user).is_ok()).map(|group| group.owner)
    }

    /// Whether one user wrote to another one so that this one could put it into a group.
    pub(crate) fn greeted(&self, from: usize, to: usize) -> bool {
        self.all.iter().any(|group| group.owner == to && group.members.binary_search(&from).is_ok())
    }
}

/// The owners make their groups. Members have written to them before, so they may put them in.
pub(crate) async fn make(broker: SocketAddr, groups: &Groups) -> Result<()> {
    for group in &groups.all {
        make_one(broker, group).await.with_context(|| format!("{} is not made", group.id))?;
    }
    Ok(())
}

async fn make_one(broker: SocketAddr, group: &Group) -> Result<()> {
    let id = users::client_id(group.owner, Device::Web);
    let mut client = Client::log_in(broker, VERSION, &id, &users::login(group.owner)).await?;
    let others: Vec<String> =
        group.members.iter().filter(|member| **member != group.owner).map(|member| users::name(*member)).collect();
    let mut op = "group.create";
    for named in others.chunks(NAMED) {
        let name = (op == "group.create").then_some("A group of the benchmark");
        let request = json!({ "id": op, "op": op, "group": group.id, "name": name, "members": named });
        let reply = ask(&mut client, group.owner, without_null(request)).await?;
        ensure!(reply.ok && reply.members.len() == named.len(), "{} of {} are in it", reply.members.len(), named.len());
        op = "group.add";
    }
    client.disconnect().await
}

fn without_null(mut request: Value) -> String {
    if let Some(fields) = request.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    request.to_string()
}

async fn ask(client: &mut Client, user: usize, request: String) -> Result<Reply> {
    let (packets, mut outgoing) = mpsc::channel(1);
    let topic = format!("{}/self/requests/web", users::name(user));
    packets.try_send(wire::publish(VERSION, &topic, 1, request.as_bytes()))?;
    let mut reply = Vec::new();
    let serving = client.serve(&mut outgoing, |message| {
        if message.topic.ends_with(b"/others/replies/web") {
            reply = message.payload.to_vec();
        }
        !reply.is_empty()
    });
    timeout(PATIENCE, serving).await.context("no reply")??;
    match serde_json::from_slice(&reply) {
        Ok(reply) => Ok(reply),
        Err(_) => bail!("{}", String::from_utf8_lossy(&reply)),
    }
}
