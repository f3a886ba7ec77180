//! The transport over FCM HTTP v1 against the simulator: the two share only the words of the wire.
//!
//! The sockets are real and the clock is not: [`clock::Clock`] moves it, some times faster than the world's, so that
//! pauses of minutes take seconds.

#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

mod breaker;
mod bridge;
mod clock;
mod connections;
mod harness;
mod log;
mod strangers;
mod tokens;
mod verdicts;
