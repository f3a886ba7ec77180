//! What the first release left on disk is opened by this one, and everything in it goes on.
//!
//! `0.1.0/` was made by the binary of release 0.1.0, which was killed in the midst of its work; README.md says how, and
//! what is in there. A change that makes one of these tests fail would cost its users their messages, sessions or
//! settings: mend the change, never the files.

#![cfg(all(feature = "broker", feature = "sim"))]
#![expect(clippy::unwrap_used, reason = "what a test relies on may fail it")]

mod configurations;
mod harness;
mod messages;
mod peer;
mod sessions;
