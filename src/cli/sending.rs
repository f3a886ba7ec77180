//! `pause`, `drain`, `resume`, `flush`: what is sent to the push services.

use super::UsageError;
use super::args::SendingArgs;
use super::control::ask;
use super::store_place::StorePlace;
use crate::chat::transport::Transport;
use crate::ops::print;
use anyhow::bail;
use serde_json::{Value, json};

/// Asks for `op`, and says what it came to.
///
/// # Errors
/// When no bridge runs, there is no such transport, or something is still on its way when `drain` has waited long enough.
pub(super) async fn run(op: &str, args: SendingArgs) -> anyhow::Result<()> {
    let SendingArgs { transport, store } = args;
    let mut request = json!({ "op": op });
    if let Some(transport) = transport {
        request["transport"] = known(&transport)?.to_string().into();
    }
    ask(&StorePlace::of(store)?, &request, |answer| {
        print::note(told(op, answer));
        if answer["drained"] == false {
            bail!("{} messages are still on their way", answer["in_flight"]);
        }
        Ok(())
    })
    .await
}

/// Which transport that is, configured or not.
fn known(transport: &str) -> Result<Transport, UsageError> {
    Transport::parse(transport).map_err(|why| UsageError(format!("--transport: {why}")))
}

fn told(op: &str, answer: &Value) -> String {
    let names = answer["transports"].as_array().map(Vec::as_slice).unwrap_or_default();
    let names = names.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ");
    match op {
        "pause" => format!("{names}: nothing more is sent"),
        "drain" if answer["drained"] == true => format!("{names}: nothing more is sent, and nothing is on its way"),
        "drain" => format!("{names}: nothing more is sent"),
        "resume" => format!("{names}: sends again"),
        _ => format!("{names}: {} messages are tried now", answer["flushed"]),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_transport_that_there_is_not_is_wrong_usage() {
        assert_eq!(known("fcm-v1:shop").unwrap().to_string(), "fcm-v1:shop");
        assert!(known("nope").unwrap_err().to_string().starts_with("--transport: "));
    }

    #[test]
    fn each_command_says_what_it_came_to() {
        let answer = json!({"transports": ["ccs", "fcm-v1"], "drained": true, "flushed": 3});
        for (op, expected) in [
            ("pause", "ccs, fcm-v1: nothing more is sent"),
            ("drain", "ccs, fcm-v1: nothing more is sent, and nothing is on its way"),
            ("resume", "ccs, fcm-v1: sends again"),
            ("flush", "ccs, fcm-v1: 3 messages are tried now"),
        ] {
            assert_eq!(told(op, &answer), expected);
        }
    }
}
