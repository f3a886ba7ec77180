//! FCM HTTP v1: the server's side of `POST /v1/projects/{project}/messages:send`, and the authority that sells the
//! access tokens for it. The devices are the same as those of CCS.
//!
//! ```text
//!   client ──POST /token──► authority ──► oauth    is the assertion good?  ─► tokens
//!   client ──h2───► listen ──► frame_watch ──► connection ──► front   what becomes of a request? (sans-IO)
//!                   sockets    frames          stream           ├── tokens, quota   may it?
//!                                                               ├── draft (schema)  is it in order?
//!                                                               ├── script, fault   is something to go wrong?
//!                                                               └── virtual_devices
//! ```
//!
//! Tokens that begin with `sim-` ask for something to go wrong: see [`script`]. The other ways are a device's `refuse`,
//! and the rules of [`V1Faults`] with a chance, a count and a prefix. The words are those of [`FaultKind`] in all three.
//!
//! Choices where the documents are silent: a device's quota is counted in windows that begin with their first message;
//! a message that is only validated is checked against its device as well; what comes behind a GOAWAY is never looked at.

mod account;
mod authority;
pub mod config;
mod connection;
mod draft;
pub mod fault;
pub mod fault_kind;
mod frame_watch;
mod front;
pub mod handle;
mod listen;
mod oauth;
mod open;
mod quota;
mod reply;
mod routes;
mod schema;
pub mod script;
mod socket;
mod state;
pub mod stats;
mod stream;
mod tokens;

pub use account::AccountError;
pub use config::V1Config;
pub use fault::V1Faults;
pub use fault_kind::FaultKind;
pub use handle::V1Handle;

pub(super) use handle::Ports;
pub(super) use open::{open, prepare};
pub(super) use routes::router;
pub(super) use state::V1State;

#[cfg(test)]
mod tests;
