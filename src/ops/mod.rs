//! Operation: clock, files, metrics, health, logs, and what settings are made of. A leaf that every shell may use.

pub mod clock;
pub mod control;
pub mod files;
pub mod health;
pub mod logs;
pub mod message_log;
pub mod metrics;
pub mod print;
pub mod setting;
pub mod tls;
