//! `fcm-mqtt-bridge`: keeps the push-service session and lets everybody else be a plain MQTT client.
//!
//! ```text
//!          MQTT clients (paho, mqtt.js, mosquitto_pub)                         CCS, FCM
//!                  │                                                               ▲
//!   ┌──────────────▼────────────┐                                  ┌───────────────┴─────────────┐
//!   │ broker/   gate + engine   │  (embedded, or an external       │ transport/                  │
//!   │ mqtt/     front door      │   broker: mosquitto, EMQX, ...)  │ sockets, TLS, timers        │
//!   └──────┬───────────────▲────┘                                  └──────▲───────────────┬──────┘
//!          │ Inbound + Ack │ Outbound + Outcome             Send, Tag     │               │ Report
//!   ┌──────▼───────────────┴──────────────────────────────────────────────┴───────────────▼──────┐
//!   │ bridge/   downstream: parse -> route -> COMMIT -> ack MQTT ;  due -> send -> report -> mark │
//!   │           upstream:   COMMIT (dedupe) -> ack CCS ;  due -> publish -> confirm -> mark       │
//!   └──────┬──────────────────────────────┬──────────────────────────────────────────────────────┘
//!          │ uses words of                │ writes through
//!   ┌──────▼─────┐                  ┌─────▼─────┐        ┌───────────┐        ┌───────────┐
//!   │ chat/      │ pure domain      │ store/    │        │ ccs/ fcm/ │ pure   │ sim/      │ the peer's side
//!   └────────────┘                  └───────────┘        └───────────┘        └───────────┘
//! ```
//!
//! Both lanes have the same steps in the same order: *receive, decode, decide (pure), commit, ack the source*; then a
//! pump: *due, send, report, mark*. Know one lane and you know the other.
//!
//! # Which way dependencies point
//!
//! `chat`, `ccs` and `fcm` use nothing of ours, no tokio, no clock and no random source. `store` uses `chat`.
//! `transport` uses `ccs`, `fcm` and the words of `chat`. `mqtt`, `broker` and `rumqttd` move topics and bytes and know no word of
//! `chat`. `bridge` uses `chat`, `store` and the ports of the doors, never a wire format. `sim` shares only the codecs of `ccs`
//! and `fcm`. `ops` is a leaf that all shells may use, `secret` one that everybody may; `app` and `main` know
//! everything. `tests/architecture.rs` keeps it so.

#![warn(missing_docs)]
// `println!` panics when its reader has gone; `ops::print` does not.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub mod app;
pub mod bridge;
#[cfg(feature = "broker")]
pub mod broker;
pub mod ccs;
pub mod chat;
pub mod cli;
pub mod config;
pub mod fcm;
pub mod mqtt;
pub mod ops;
#[cfg(feature = "rumqttd")]
pub mod rumqttd;
pub mod secret;
pub mod sim;
pub mod store;
pub mod transport;
