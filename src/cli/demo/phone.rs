//! The phone of the chat user `bob`: its app registers the token once, as topics.md asks of apps, and sleeps from then on.

use super::APP;
use super::cast::BOB;
use crate::mqtt::{self, ClientConfig, Outbound, Outcome};
use crate::secret::Secret;
use anyhow::Context;
use serde_json::json;
use std::net::SocketAddr;
use tokio_util::sync::CancellationToken;

/// What the push service calls it.
pub(super) const BOBS_PHONE: &str = "bobs-phone";
/// The device that it is for bob.
const DEVICE: &str = "phone";
/// The app publishes one thing and reads nothing.
const WINDOW: usize = 1;

/// Registers the phone, and returns when that is on disk and its connection is over. Its session is kept, as that of an app
/// is. Ends early with `stop`.
///
/// # Errors
/// When the address of the broker makes no client.
pub(super) async fn register(broker: SocketAddr, password: &str, stop: &CancellationToken) -> anyhow::Result<()> {
    let (port, outlet) = mqtt::port(WINDOW, WINDOW);
    let mqtt::Port { mut inbound, publish, .. } = port;
    let client = ClientConfig {
        url: format!("mqtt://{broker}"),
        username: Some(BOB.to_owned()),
        password: Some(Secret::new(password)),
        client_id: format!("{BOB}:{DEVICE}"),
        filters: vec![format!("{BOB}/others/+")],
        ..ClientConfig::default()
    };
    let goodbye = stop.child_token();
    let registering = async {
        let document = json!({ "token": BOBS_PHONE, "platform": "android", "app": APP, "lang": "en" }).to_string();
        loop {
            let (message, told) = Outbound::new(format!("{BOB}/self/devices/{DEVICE}"), document.clone());
            if publish.send(message).await.is_err() || matches!(told.await, Ok(Outcome::Confirmed | Outcome::NoReader))
            {
                break;
            }
        }
        goodbye.cancel();
    };
    let ignore = async { while inbound.recv().await.is_some() {} };
    let (ended, (), ()) = tokio::join!(mqtt::run(client, outlet, goodbye.clone()), registering, ignore);
    ended.context("the app on bob's phone")
}
