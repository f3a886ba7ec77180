//! Operation: clock, metrics, health, logs. A leaf that every shell may use.

pub mod clock;
pub mod health;
pub mod logs;
pub mod metrics;
pub mod story;
