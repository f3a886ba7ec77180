//! CCS (XMPP over TLS with JSON inside), sans-IO: bytes, events and `now` go in; bytes, events and a deadline come out.
//!
//! Two floors. The codec serves both sides of a stream and is what the simulator shares: [`xml`] (framing), [`stanza`]
//! and [`mod@write`], [`payload`] and [`nack`]. The session is the client's side only: [`session`] with its log-in, its
//! [`settings`] and its words in [`event`].
//!
//! Invariant: no tokio, no clock and no random source in here, so that a session can be run on virtual time, byte by
//! byte, from a seed.

mod element;
pub mod event;
mod login;
pub mod nack;
pub mod payload;
mod receive;
pub mod refusal;
pub mod session;
pub mod settings;
pub mod stanza;
pub mod write;
pub mod xml;
