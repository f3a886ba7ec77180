//! FCM HTTP v1, the pure half: a message goes in and the JSON of a request comes out; an answer goes in and what
//! follows from it comes out.
//!
//! ```text
//!                                   ┌─────────┐  request   ┌──────────────────┐
//!   a push of a BAL ──────────────▶ │ Message │ ─────────▶ │ Request          │ body, and what was lost on the way
//!                                   └─────────┘   table    └──────────────────┘
//!                                   ┌─────────┐   judge    ┌──────────────────┐
//!   status, headers, body ────────▶ │ Outcome │ ─────────▶ │ Verdict          │ sent, at once again, or a Refusal
//!                                   └─────────┘            └──────────────────┘
//!   may one go now?  budget (quotas)   may any go now, and whom does a verdict concern?  health
//! ```
//!
//! Invariants: no tokio, no clock, no random source; any bytes give a value or a typed error, never a panic; no error
//! and no detail holds a token or a value out of a message. The transport uses all of it, the simulator only the words
//! of the wire: [`target`], [`fault`], [`limits`].

mod bucket;
pub mod budget;
mod data;
mod detail;
mod document;
pub mod fault;
pub mod health;
pub mod judge;
pub mod limits;
pub mod loss;
pub mod message;
mod platform;
pub mod request;
pub mod retry_after;
mod table;
pub mod target;
pub mod verdict;
