//! The commands behind the command line, one file each.

pub mod args;
pub mod health;
