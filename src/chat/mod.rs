//! The domain: the words of `topics.md`, pure. No tokio, no clock, no sockets, no random source.
//!
//! Invariant: a value of a type in here is a valid value; the limits are checked when it is made.
//!
//! Chat between users: [`suffix`] (what users write), [`contact`], [`conversation`] and [`group`] (what users are to each other,
//! and how far each has read), [`attention`], [`push_decision`], [`push_budget`] and [`push_document`] (whether a device is
//! pushed, and what with).

pub mod access;
pub mod amendment;
pub mod attention;
pub mod bal_event;
pub mod call;
pub mod command;
pub mod contact;
pub mod conversation;
pub mod delivery;
pub mod erasure;
pub mod fan_out;
pub mod filter;
pub mod gatekeeper;
pub mod group;
pub mod id;
pub mod message;
pub mod presence;
pub mod principal;
pub mod push;
pub mod push_budget;
pub mod push_decision;
pub mod push_document;
pub mod qos;
pub mod quiet;
pub mod recipient_queue;
pub mod refusal;
pub mod route;
pub mod status;
pub mod suffix;
pub mod topic;
pub mod transport;
pub mod user_limits;
