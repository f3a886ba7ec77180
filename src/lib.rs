//! `fcm-mqtt-bridge`: keeps the push-service session and lets everybody else be a plain MQTT client.
//!
//! ```text
//!          MQTT clients (paho, mqtt.js, mosquitto_pub)                           CCS, FCM v1
//!                  │                                                                 ▲
//!   ┌──────────────▼────────────┐                                    ┌───────────────┴──────────────┐
//!   │ broker/   embedded, or    │                                    │ transport/  port, core,      │
//!   │ mqtt/     client of       │                                    │             driver, http2    │
//!   │           another one     │                                    └──────▲───────────────┬───────┘
//!   └──────┬───────────────▲────┘                                      Send │               │ Report{Refusal}
//!          │ Inbound       │ Outbound                               AckRef  │               │ DeviceMessage
//!   ┌──────▼───────────────┴────────────────────────────────────────────────┴───────────────▼──────┐
//!   │ bridge/   intake: decode -> route -> decide (pure) -> COMMIT -> ack                           │
//!   │           dispatcher: due -> send -> report -> record     upstream: COMMIT (dedupe) -> ack    │
//!   │           publisher: due -> publish -> confirm -> record                                      │
//!   └──────┬──────────────────────────────┬─────────────────────────────────────────────────────────┘
//!          │ words of                     │ verbs of
//!   ┌──────▼─────┐                  ┌─────▼─────┐        ┌───────────┐        ┌───────────┐
//!   │ chat/      │ pure domain      │ store/    │        │ ccs/ fcm/ │ pure   │ sim/      │ the peer's side
//!   └────────────┘                  └───────────┘        └───────────┘        └───────────┘
//! ```
//!
//! Every direction has the same steps in the same order: *receive, decode, decide (pure), commit, ack the source*; then a
//! pump: *due, send, report, record*. Know one and you know the others.
//!
//! Who keeps the order of a recipient's messages: the store, by the one rule of [`chat::recipient_queue`]. What a refusal
//! means: [`chat::refusal`], made by the pure folder of each service and carried unchanged to
//! [`chat::delivery::Life::step`].
//!
//! # Which way dependencies point
//!
//! `chat` uses nothing of ours, `ccs` and `fcm` only `secret` and [`chat::refusal`]; these three have no tokio, no clock and
//! no random source. `store` uses `chat`; `store/sqlite` alone knows SQL, and only `app` chooses it. `transport` uses `ccs`,
//! `fcm` and the words of `chat`. `mqtt`, `broker` and `rumqttd` use the grammar of topics, the access rules and the
//! principals of `chat`. `bridge` uses `chat`, `store` and the ports, never a wire format. `sim` shares only the codecs of `ccs` and `fcm`. `ops` is a leaf that all shells may use, `secret` one that
//! everybody may. The settings of each part are its own; `config` reads and composes them; `app` and `main` know everything. `tests/architecture.rs` keeps it so.

#![warn(missing_docs)]
// `println!` panics when its reader has gone; `ops::print` does not.
#![cfg_attr(not(test), warn(clippy::print_stdout, clippy::print_stderr))]

pub mod app;
pub mod bridge;
#[cfg(feature = "broker")]
pub mod broker;
/// What can be set for the embedded broker, in a build without it.
#[cfg(not(feature = "broker"))]
pub mod broker {
    mod settings;
    pub use settings::{BrokerConfig, BrokerLimits, Engine, JwtConfig, Listen, TlsFiles};
}
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
#[cfg(feature = "sim")]
pub mod sim;
pub mod store;
pub mod transport;
