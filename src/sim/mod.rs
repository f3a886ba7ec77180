//! The simulator: a push service to test against, with virtual devices and faults drawn from a seed.
//!
//! ```text
//!   clients ──TLS──► shell ──bytes──► server (one Connection each) ──► service (shared)
//!                                                                        ├── virtual_devices  devices, topics; no wire words
//!   clients ──h2───► v1 (FCM HTTP v1: see there) ───────────────────────►├── upstream_queue   what devices send, until acked
//!   scripts ──HTTP─► control ──► SimHandle ─────────────────────────────►├── v1::V1State      quotas, access tokens
//!                                                                        ├── fault            what goes wrong, when
//!                                                                        └── stats            what was counted
//! ```
//!
//! It speaks the server's side of CCS and of FCM HTTP v1, with the same devices behind both, and may disagree with the client: the two share the codec and nothing else.
//! Everything but `shell`, `control`, `cert` and the shells of `v1` is sans-IO on a clock of Unix milliseconds.
//!
//! Choices where the documents are silent: what is unacknowledged when a connection ends is sent again on any other
//! connection, or on the next one if there is none; a device's queued messages stay on one connection; topics give no receipts.

mod cert;
pub mod condition;
pub mod config;
mod control;
pub mod device;
pub mod event;
pub mod fault;
pub mod handle;
mod log;
mod server;
mod service;
mod shell;
pub mod stats;
mod upstream_queue;
pub mod v1;
pub mod virtual_devices;

pub use config::SimConfig;
pub use handle::SimHandle;
pub use service::Speech;
pub use shell::{Prepared, SimError, prepare, run};

#[cfg(test)]
pub(crate) mod tests;
