//! How the users come to have phones and contacts: through the bridge, as fast as it takes it.
//!
//! It is quick because nothing comes back. Everybody speaks as the push handler of a phone does (`{user}:phone:bg`), which
//! makes no presence and reads nothing, so that stamped copies and receipts go nowhere; the messages say `"push":"never"`;
//! limits are raised, and the messages of a user are one write, of which many are under way at a time, so that a commit takes
//! hundreds. Afterwards the bridge is started again with its default limits, and knows of all this what is in its store.

use crate::client::{Client, Load};
use crate::groups::Groups;
use crate::users::{self, Device, Users};
use crate::wire::Version;
use anyhow::Result;
use serde_json::json;
use std::net::SocketAddr;
use std::sync::Arc;
use tokio::task::JoinSet;

pub(crate) const VERSION: Version = Version::V5;
/// What the ids of the messages begin with that make contacts.
const GREETING: &str = "greeting-";
/// Users who speak at one time.
const AT_ONCE: usize = 64;

/// Each user logs in, and registers the token of its phone.
pub(crate) async fn register(broker: SocketAddr, users: Users) -> Result<()> {
    let registration = |user| {
        let registration = json!({ "token": users::token(user), "platform": "android", "app": "com.example.app" });
        let topic = format!("{}/self/devices/phone", users::name(user));
        Load::new(VERSION, 1, |_| (topic.clone(), registration.to_string().into_bytes()))
    };
    publish_each(broker, users, registration).await
}

/// Each user writes to each contact, and to whoever is to put it into a group, so that everybody is a contact of theirs.
pub(crate) async fn meet(broker: SocketAddr, users: Users, groups: &Arc<Groups>) -> Result<()> {
    let groups = Arc::clone(groups);
    let greetings = move |user| {
        let topic = format!("{}/self/messages", users::name(user));
        let contacts = (0..users.contacts).map(|n| users.contact(user, n));
        let greeted: Vec<String> = contacts.chain(groups.owners(user)).map(users::name).collect();
        Load::new(VERSION, greeted.len(), |n| {
            let greeting =
                json!({ "id": format!("{GREETING}{n}"), "to": greeted[n], "body": "Hello", "push": "never" });
            (topic.clone(), greeting.to_string().into_bytes())
        })
    };
    publish_each(broker, users, greetings).await
}

/// Whether a message with this id made a contact.
pub(crate) fn is_greeting(id: &str) -> bool {
    id.starts_with(GREETING)
}

async fn publish_each(
    broker: SocketAddr,
    users: Users,
    load: impl Fn(usize) -> Load + Clone + Send + 'static,
) -> Result<()> {
    let mut tasks = JoinSet::new();
    for first in 0..AT_ONCE {
        let load = load.clone();
        tasks.spawn(async move {
            for user in users.all().skip(first).step_by(AT_ONCE) {
                let id = format!("{}:bg", users::client_id(user, Device::Phone));
                let mut client = Client::log_in(broker, VERSION, &id, &users::login(user)).await?;
                client.publish(&load(user), users.contacts).await?;
                client.disconnect().await?;
            }
            anyhow::Ok(())
        });
    }
    while let Some(ended) = tasks.join_next().await {
        ended??;
    }
    Ok(())
}
