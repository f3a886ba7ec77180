//! `user free`: the name of an erased user may be used again.

use crate::cli::control::{ask, name};
use crate::cli::shown;
use crate::cli::store_place::StorePlace;
use crate::ops::print;
use serde_json::json;

/// Asks the running bridge for it.
///
/// # Errors
/// When no bridge runs, or the name is not that of an erased user.
pub(in crate::cli) async fn run(store: &StorePlace, user: &str) -> anyhow::Result<()> {
    ask(store, &json!({ "op": "user.free", "user": name(user)? }), |_| {
        print::note(format_args!("`{}` may be used again", shown(user)));
        Ok(())
    })
    .await
}
