//! The apps on the virtual phones: an MQTT client of a chat user that confirms what they got over FCM HTTP v1, as
//! topics.md asks of apps.

use crate::chat::topic::ClientTopic;
use crate::mqtt::{self, ClientConfig, ClientError, Outbound, Outcome};
use crate::secret::Secret;
use crate::sim::SimHandle;
use crate::sim::v1::V1Handle;
use crate::sim::v1::handle::AppAck;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use serde_json::json;
use std::path::PathBuf;
use tokio::sync::{broadcast, mpsc};
use tokio_util::sync::CancellationToken;

/// Confirmations that may be without a PUBACK.
const WINDOW: usize = 100;
/// The apps listen to next to nothing.
const INBOUND: usize = 16;

/// Whose apps they are, and where their broker is.
pub(super) struct Apps {
    /// `mqtt://`, `mqtts://`, `ws://` or `wss://`.
    pub(super) url: String,
    /// The chat user: all virtual phones are this user's.
    pub(super) user: String,
    /// The user's password, if the broker wants one.
    pub(super) password: Option<Secret>,
    /// Certificate authorities to trust instead of the platform's.
    pub(super) ca_file: Option<PathBuf>,
}

impl Apps {
    fn client(&self) -> ClientConfig {
        ClientConfig {
            url: self.url.clone(),
            url_key: "--app-mqtt",
            username: Some(self.user.clone()),
            password: self.password.clone(),
            client_id: format!("{}:phones", self.user),
            ca_file: self.ca_file.clone(),
            filters: vec![format!("{}/others/+", self.user)],
            ..ClientConfig::default()
        }
    }

    /// Whether it can work at all; opens nothing.
    ///
    /// # Errors
    /// What is wrong with the URL or the certificate authorities.
    pub(super) fn check(&self) -> Result<(), ClientError> {
        self.client().check()
    }

    /// Confirms until `stop`.
    ///
    /// # Errors
    /// As [`Apps::check`].
    pub(super) async fn run(self, sim: &SimHandle, v1: V1Handle, stop: CancellationToken) -> Result<(), ClientError> {
        let (port, outlet) = mqtt::port(INBOUND, WINDOW);
        let mqtt::Port { mut inbound, publish, .. } = port;
        let confirming = Confirming { user: &self.user, v1, publish, after: 0 };
        let ignore = async { while inbound.recv().await.is_some() {} };
        let (ended, (), ()) = tokio::join!(
            mqtt::run(self.client(), outlet, stop.clone()),
            confirming.run(sim.events(), stop),
            // What comes in for the user is acknowledged and not looked at.
            ignore,
        );
        ended
    }
}

struct Confirming<'a> {
    user: &'a str,
    v1: V1Handle,
    publish: mpsc::Sender<Outbound>,
    /// The number of the last confirmation that was taken from the simulator.
    after: u64,
}

impl Confirming<'_> {
    async fn run(mut self, mut events: broadcast::Receiver<crate::sim::event::SimEvent>, stop: CancellationToken) {
        let mut open = FuturesUnordered::new();
        loop {
            // The events only say that there is something; the list has it all, also what a slow reader of events misses.
            let room = WINDOW - open.len();
            let acks = if room > 0 { self.v1.app_acks(self.after, room) } else { Vec::new() };
            if let Some(last) = acks.last() {
                self.after = last.seq;
            }
            let idle = acks.is_empty();
            open.extend(acks.into_iter().filter_map(|ack| self.confirm(ack)));
            if !idle && open.is_empty() {
                // None of these is to be published; there may be more behind them.
                continue;
            }
            tokio::select! {
                () = stop.cancelled() => return,
                Some(_) = open.next() => {}
                event = events.recv(), if idle => {
                    if let Err(broadcast::error::RecvError::Closed) = event {
                        return;
                    }
                }
            }
        }
    }

    /// Publishes until the broker has it: the confirmation of a push must not be lost, and may come twice. `None` if the
    /// push names a topic that confirmations do not go to: every broker refuses it, however often it comes.
    fn confirm(&self, ack: AppAck) -> Option<impl Future<Output = ()> + use<>> {
        let topic = format!("{}/{}", self.user, ack.topic);
        if !matches!(ClientTopic::parse(&topic), Ok(Some(ClientTopic::Receipts(_)))) {
            tracing::warn!(?topic, id = ?ack.id, "a push is not confirmed: its `ack` is no place for confirmations");
            return None;
        }
        let payload = bytes::Bytes::from(json!({ "id": ack.id, "status": "received" }).to_string());
        let publish = self.publish.clone();
        Some(async move {
            loop {
                let (message, told) = Outbound::new(&topic, payload.clone());
                if publish.send(message).await.is_err() {
                    return;
                }
                if let Ok(Outcome::Confirmed | Outcome::NoReader) = told.await {
                    return;
                }
            }
        })
    }
}
