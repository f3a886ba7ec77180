//! Operation: clock, files, metrics, health, logs. A leaf that every shell may use.

pub mod clock;
pub mod files;
pub mod health;
pub mod logs;
pub mod message_log;
pub mod metrics;
pub mod print;
