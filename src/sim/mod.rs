//! The simulator: a push service to test against, with virtual devices and faults drawn from a seed.
//!
//! ```text
//!   clients ──TLS──► shell ──bytes──► server (one Connection each) ──► service (shared)
//!                                                                        ├── world     devices, topics; no wire words
//!   scripts ──HTTP─► control ──► SimHandle ─────────────────────────────►├── mailroom  what devices send, until acked
//!                                                                        ├── fault     what goes wrong, when
//!                                                                        └── stats     what was counted
//! ```
//!
//! It speaks the server's side of CCS and may disagree with the client: the two share the codec and nothing else.
//! Everything but `shell`, `control` and `cert` is sans-IO on a clock of Unix milliseconds.
//!
//! Choices where the documents are silent: what is unacknowledged when a connection ends is sent again on any other
//! connection, or on the next one if there is none; a device's letters stay on one connection; topics give no receipts.

mod cert;
pub mod condition;
pub mod config;
mod control;
pub mod device;
pub mod event;
pub mod fault;
pub mod handle;
mod log;
mod mailroom;
mod server;
mod service;
mod shell;
pub mod stats;
pub mod world;

pub use config::SimConfig;
pub use handle::SimHandle;
pub use service::Speech;
pub use shell::{SimError, run};

#[cfg(test)]
pub(crate) mod tests;
