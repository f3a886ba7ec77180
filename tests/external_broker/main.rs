//! The client of an external broker, against mosquitto and against a broker that follows a script.
//!
//! mosquitto must be installed. Nothing here waits by the clock: each step waits for what it needs, up to a deadline.

#![expect(clippy::unwrap_used, reason = "a test stops where it goes wrong, its helpers too")]

mod harness;
mod mosquitto;
mod scripted;

mod answers;
mod connections;
mod messages;
mod transports;
