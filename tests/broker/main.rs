//! The embedded broker, seen from its clients on one side and from the bridge on the other.

#![cfg(feature = "broker")]
#![expect(clippy::unwrap_used, reason = "what a test relies on may fail it")]

mod access;
mod acks;
mod identity;
mod limits;
mod listeners;
mod mint;
mod peer;
mod principals;
mod publications;
mod real_clients;
mod sessions;
mod sightings;
mod ways;
mod world;
