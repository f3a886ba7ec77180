//! tmp
pub mod args;
/// tmp
pub struct UsageError(String);
