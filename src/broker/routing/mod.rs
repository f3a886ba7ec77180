//! Who reads a topic, and which topics have a retained message. Pure: no I/O, no clock.
//!
//! Filters that come in here have been checked ([`check`](crate::chat::filter::check)): they have no more than
//! [`MAX_LEVELS`](crate::chat::filter::MAX_LEVELS). Nothing recurses over levels all the same.

pub(super) mod filters;
pub(super) mod retained;
mod small_map;
