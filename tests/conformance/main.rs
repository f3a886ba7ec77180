//! The embedded broker against the MQTT specifications, over raw sockets. Statements are cited by the numbers of MQTT 5
//! where both versions have them.

#![cfg(feature = "broker")]
#![expect(clippy::unwrap_used, reason = "what a test relies on may fail it")]

mod client;
mod failures_seen;
mod reference;
mod rows;
mod stage;
mod wire;
#[path = "../broker/world.rs"]
#[allow(dead_code, reason = "shared with the tests of the port, which need more of it")]
mod world;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_broker_conforms() {
    let failures = stage::run_embedded(rows::all()).await;
    assert!(failures.is_empty(), "{} rows failed:\n{}", failures.len(), failures.join("\n"));
}
