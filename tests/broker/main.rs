//! The embedded broker, seen from its clients on one side and from the bridge on the other.

#![cfg(feature = "broker")]
#![expect(clippy::unwrap_used, reason = "what a test relies on may fail it")]

mod access;
mod acks;
mod autosubscribe;
mod bridges;
mod chat_users;
mod client_ids;
mod documents;
mod fixture;
mod group_topics;
mod harness;
mod held;
mod identity;
mod imports;
mod limits;
mod listeners;
mod log;
mod mint;
mod peer;
mod principals;
mod publications;
mod real_clients;
mod refusals;
mod restarts;
mod sessions;
mod shared;
mod sightings;
mod slow_readers;
mod sockets;
mod take_over;
mod unread;
mod visibility;
