//! Operation: clock, metrics, health, logs. A leaf that every shell may use.

pub mod clock;
