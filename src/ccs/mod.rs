//! CCS (XMPP over TLS with JSON inside), sans-IO: bytes, events and `now` go in; bytes, events and a deadline come out.
//!
//! The codec (`xml`, `stanza`, `write`, `payload`, `nack`) serves both sides of a stream; the simulator uses it as well.

mod element;
pub mod nack;
pub mod payload;
pub mod stanza;
pub mod write;
pub mod xml;
