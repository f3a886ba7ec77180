//! The embedded broker against the MQTT specifications, over raw sockets. Statements are cited by the numbers of MQTT 5
//! where both versions have them.

#![cfg(feature = "broker")]
#![expect(clippy::unwrap_used, reason = "what a test relies on may fail it")]

mod client;
mod failures_seen;
#[path = "../broker/harness.rs"]
#[allow(dead_code, reason = "shared with the tests of the port, which need more of it")]
mod harness;
mod reference;
mod rows;
mod target;
mod wire;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_broker_conforms() {
    let failures = target::run_embedded(rows::all()).await;
    assert!(failures.is_empty(), "{} rows failed:\n{}", failures.len(), failures.join("\n"));
}
