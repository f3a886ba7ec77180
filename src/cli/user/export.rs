//! `user export`: everything that is kept of a chat user.

use crate::cli::control::{ask, name};
use crate::cli::store_place::StorePlace;
use crate::ops::print;
use serde_json::json;

/// Asks the running bridge for it, and prints each item on a line.
///
/// # Errors
/// When no bridge runs, or there is no such user.
pub(in crate::cli) async fn run(store: &StorePlace, user: &str) -> anyhow::Result<()> {
    ask(store, &json!({ "op": "user.export", "user": name(user)? }), |answer| {
        answer["items"].as_array().into_iter().flatten().try_for_each(print::line)?;
        Ok(())
    })
    .await
}
