//! `send`: a message to a chat user, and what becomes of it.

use super::control::{ask, name, word};
use super::shown;
use super::store_place::StorePlace;
use crate::ops::print;
use serde_json::{Value, json};

/// Sends the message, and prints each change.
///
/// # Errors
/// When no bridge runs, or it refuses the message.
pub(super) async fn run(store: &StorePlace, to: &str, from: Option<&str>, text: &[String]) -> anyhow::Result<()> {
    let mut request = json!({ "op": "send", "to": name(to)?, "text": text.join(" ") });
    if let Some(from) = from {
        request["from"] = name(from)?.into();
    }
    ask(store, &request, |answer| Ok(print::line(lines(answer))?)).await
}

/// What is known of it now.
fn lines(answer: &Value) -> String {
    let sid = word(&answer["sid"]);
    let is_last = answer["more"] != true;
    let state = match (answer["delivered"] == true, answer["waits"] == true, is_last) {
        (true, ..) => "a device has confirmed it",
        (false, true, _) => "in the inbox; pushes wait for the confirmation of an attended device",
        (false, false, false) => "in the inbox",
        (false, false, true) => "in the inbox; no device has confirmed it",
    };
    let devices = answer["devices"].as_array().map(Vec::as_slice).unwrap_or_default();
    devices.iter().fold(format!("{sid}  {state}"), |told, device| {
        let dev = shown(word(&device["dev"])).to_string();
        let (verdict, why) = (word(&device["verdict"]), word(&device["why"]));
        let push = &device["push"];
        let became = match word(&push["state"]) {
            "" => String::new(),
            state => format!(": {state} by {}{}", word(&push["transport"]), code(push)),
        };
        format!("{told}\n  {dev}: {verdict} (rule {}, {why}){became}", device["rule"])
    })
}

fn code(push: &Value) -> String {
    push["code"].as_str().map(|code| format!(", {}", shown(code))).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_change_is_told_with_the_push_of_each_device() {
        let device = json!({
            "dev": "phone", "verdict": "push", "rule": 4, "why": "unattended",
            "push": {"state": "failed", "transport": "fcm-v1", "code": "DEVICE_UNREGISTERED"},
        });
        let answer = json!({"sid": "06eqbd3gy0001ab2", "more": true, "delivered": false, "devices": [device]});
        assert_eq!(
            lines(&answer),
            "06eqbd3gy0001ab2  in the inbox\n  phone: push (rule 4, unattended): failed by fcm-v1, DEVICE_UNREGISTERED"
        );
        let last = json!({"sid": "06eqbd3gy0001ab2", "delivered": true, "devices": []});
        assert_eq!(lines(&last), "06eqbd3gy0001ab2  a device has confirmed it");
    }
}
