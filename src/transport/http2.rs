//! HTTP/2 for a client that posts one kind of request to one place: many at a time on a few connections.
//!
//! ```text
//!            orders                          streams
//!   driver ──────────────► Connection ─────────────────► server
//!          ◄──────────────  one task   ◄─────────────────
//!            events
//! ```
//!
//! Of each request it says what became of it: answered, certainly not processed, or unknown; one that was not written is
//! no try. Once it has read a GOAWAY it writes no further request (RFC 9113, section 6.8).

mod coalesce;
mod connection;
mod exchange;

pub(super) use connection::{Server, run};
pub(super) use exchange::{Reply, Request};

#[cfg(test)]
mod tests;
