//! `device list|forget`: the devices of a chat user.

use super::args::DeviceAction;
use super::control::{ask, name, word};
use super::shown;
use super::store_place::StorePlace;
use crate::ops::clock::utc;
use crate::ops::print;
use serde_json::{Value, json};

/// Does what `action` says.
///
/// # Errors
/// When no bridge runs, or the user has no such device.
pub(super) async fn run(action: DeviceAction) -> anyhow::Result<()> {
    match action {
        DeviceAction::List { user, store } => {
            let request = json!({ "op": "device.list", "user": name(&user)? });
            ask(&StorePlace::of(store)?, &request, |answer| {
                let items = answer["items"].as_array().map(Vec::as_slice).unwrap_or_default();
                items.iter().try_for_each(|item| print::line(line(item)))?;
                if items.is_empty() {
                    print::note(format_args!("no device of `{}` has a token", shown(&user)));
                }
                Ok(())
            })
            .await
        }
        DeviceAction::Forget { user, dev, store } => {
            let request = json!({ "op": "device.forget", "user": name(&user)?, "dev": dev });
            ask(&StorePlace::of(store)?, &request, |_| {
                print::note(format_args!("`{}` of `{}` is pushed no more", shown(&dev), shown(&user)));
                Ok(())
            })
            .await
        }
    }
}

fn line(item: &Value) -> String {
    let time = |value: &Value| value.as_u64().map_or_else(|| "never".to_owned(), utc);
    let (dev, hash) = (shown(word(&item["dev"])), word(&item["token_hash"]));
    let (registered, pushed) = (time(&item["registered_at"]), time(&item["last_push"]));
    let error = match &item["last_error"] {
        Value::Null => String::new(),
        error => format!("  last error {} at {}", shown(word(&error["code"])), time(&error["ts"])),
    };
    format!("{dev}\ttoken {hash}  registered {registered}  last push {pushed}{error}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_when_a_device_was_pushed_and_what_went_wrong() {
        let mut item = json!({"dev": "phone", "token_hash": "1a2b3c4d", "registered_at": 0, "last_push": null});
        let told = line(&item);
        assert_eq!(told, "phone\ttoken 1a2b3c4d  registered 1970-01-01T00:00:00.000Z  last push never");
        item["last_error"] = json!({"code": "INTERNAL_SERVER_ERROR", "ts": 1_000});
        assert!(line(&item).ends_with("last error INTERNAL_SERVER_ERROR at 1970-01-01T00:00:01.000Z"));
    }
}
