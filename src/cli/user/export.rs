//! `user export`: everything that is kept of a chat user.

use crate::cli::control::{ask, name};
use crate::ops::print;
use serde_json::json;
use std::path::Path;

/// Asks the running bridge for it, and prints each item on a line.
///
/// # Errors
/// When no bridge runs, or there is no such user.
pub(in crate::cli) async fn run(store: &Path, user: &str) -> anyhow::Result<()> {
    ask(store, &json!({ "op": "user.export", "user": name(user)? }), |answer| {
        answer["items"].as_array().into_iter().flatten().try_for_each(print::line)?;
        Ok(())
    })
    .await
}
