//! `trace ID`: the whole life of a message, in words.

use crate::chat::delivery::State;
use crate::ops::print;
use crate::store::{Inspector, Trace, TraceDelivery, TraceUpstream};
use anyhow::bail;
use serde_json::{Map, Value};
use std::fmt::Write;
use std::path::Path;
use std::time::{Duration, UNIX_EPOCH};

/// Prints everything the store knows of `id`.
///
/// # Errors
/// When the file is no store, cannot be read, or knows nothing of the id.
pub(super) fn run(path: &Path, id: &str, json: bool) -> anyhow::Result<()> {
    let traces = Inspector::open(path)?.trace(id)?;
    if traces.is_empty() {
        bail!("{} knows no message `{id}`; settled messages are remembered for a limited time", path.display());
    }
    if json {
        print::line(serde_json::to_string_pretty(&json_of(&traces)?)?)?;
        return Ok(());
    }
    for trace in &traces {
        match trace {
            Trace::Delivery(delivery) => print::line(delivery_story(delivery).trim_end())?,
            Trace::Upstream(upstream) => print::line(upstream_story(upstream).trim_end())?,
        }
    }
    Ok(())
}

/// The JSON form of messages: what is not known of one is left out.
pub(super) fn json_of(traces: &[Trace]) -> serde_json::Result<Vec<Map<String, Value>>> {
    traces
        .iter()
        .map(|trace| {
            let mut fields: Map<String, Value> = serde_json::from_value(serde_json::to_value(trace)?)?;
            fields.retain(|_, value| !value.is_null());
            Ok(fields)
        })
        .collect()
}

/// One line about a message, for lists.
pub(super) fn line(trace: &Trace) -> String {
    match trace {
        Trace::Delivery(d) => {
            let state = word(d.state);
            format!("{}  {:<9} {}/{}  attempt {}", utc(d.accepted_at), state, d.bal, d.id, d.attempt)
        }
        Trace::Upstream(u) => format!("{}  upstream  {}", utc(u.received_at), u.sid),
    }
}

fn delivery_story(d: &TraceDelivery) -> String {
    let mut message_log = format!("{} of {} to a device (the bridge's id: {})\n", d.id, d.bal, d.sid);
    let mut step =
        |at: u64, text: String| writeln!(message_log, "  {}  {text}", utc(at)).expect("a String takes any text");
    step(d.accepted_at, "accepted: on disk, acknowledged to the BAL".to_owned());
    for event in d.log.as_array().into_iter().flatten() {
        let at = event["at"].as_u64().unwrap_or(0);
        step(at, unusual(event));
    }
    if let Some(at) = d.claimed_at {
        step(at, format!("handed to the push service ({}), attempt {}", d.transport, d.attempt));
    }
    if let Some(at) = d.sent_at {
        let name = d.provider_id.as_ref().map(|name| format!(" as {name}")).unwrap_or_default();
        step(at, format!("sent: the push service has taken it{name}"));
    }
    if let Some(at) = d.final_at.filter(|_| d.state != State::Sent) {
        step(at, last_word(d));
    }
    if d.final_at.is_none() {
        writeln!(message_log, "  now: {}", present(d)).expect("a String takes any text");
    }
    if d.dup_possible {
        message_log.push_str("  the device may have got it twice (dup_possible)\n");
    }
    if d.statuses_unread > 0 {
        let unread = d.statuses_unread;
        writeln!(message_log, "  {unread} of its statuses wait on {} for a reader", d.reply)
            .expect("a String takes any text");
    }
    message_log
}

/// An entry of the store's log, in words.
fn unusual(event: &Value) -> String {
    let text = |key: &str| event[key].as_str().unwrap_or("?").to_owned();
    match event["event"].as_str() {
        Some("retry") => {
            format!(
                "refused for now ({}), to be tried again at {}",
                text("code"),
                utc(event["due"].as_u64().unwrap_or(0))
            )
        }
        Some("lost") => "the connection ended without an answer; to be sent again".to_owned(),
        Some("replayed") => {
            format!("was not processed, and sent again at once, {} times", event["times"])
        }
        Some("crash") => "the bridge stopped while it was with the push service; to be sent again".to_owned(),
        Some("canonical_id") => format!("the device has a new token (hash {})", text("token")),
        Some("copies") => format!("was written {} times, because connections ended without an answer", event["copies"]),
        _ => event.to_string(),
    }
}

fn last_word(d: &TraceDelivery) -> String {
    match d.state {
        State::Delivered => "delivered: the device has it".to_owned(),
        State::Expired => format!("expired: {}", d.detail.as_deref().unwrap_or("its time to live ended")),
        State::Cancelled => "cancelled by its sender".to_owned(),
        _ => {
            let code = d.code.as_deref().unwrap_or("without a code");
            let detail = d.detail.as_deref().unwrap_or_default();
            format!("failed: {code} {detail}").trim_end().to_owned()
        }
    }
}

fn present(d: &TraceDelivery) -> String {
    match d.state {
        State::Due => match d.due_at.filter(|at| *at > 0) {
            Some(at) => format!("waits to be tried again at {}", utc(at)),
            None => "waits for the push service".to_owned(),
        },
        State::Waiting => "waits for the message before it (same order key)".to_owned(),
        State::InFlight => "is with the push service, unanswered".to_owned(),
        _ => "waits for the device's receipt".to_owned(),
    }
}

fn upstream_story(u: &TraceUpstream) -> String {
    let mut message_log = format!("{} of a device", u.sid);
    if let Some(category) = &u.category {
        write!(message_log, " (app {category})").expect("a String takes any text");
    }
    let mut step = |text: String| writeln!(message_log, "{text}").expect("a String takes any text");
    step(format!("\n  {}  received: on disk, then acknowledged to the push service", utc(u.received_at)));
    if let Some(at) = u.published_at {
        step(format!("  {}  published on {}, confirmed", utc(at), u.topic));
    }
    match (&u.bal, u.final_at) {
        (_, Some(at)) => step(format!("  {}  done", utc(at))),
        (None, None) => step("  now: waits for a route for its app".to_owned()),
        (Some(bal), None) if u.published_at.is_some() => step(format!("  now: waits for the acknowledgement of {bal}")),
        (Some(bal), None) => step(format!("  now: waits for {bal} to read it")),
    }
    message_log
}

fn word(state: State) -> &'static str {
    match state {
        State::Due => "due",
        State::Waiting => "waiting",
        State::InFlight => "in flight",
        State::Sent => "sent",
        State::Delivered => "delivered",
        State::Failed => "failed",
        State::Expired => "expired",
        State::Cancelled => "cancelled",
    }
}

fn utc(ms: u64) -> String {
    humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms)).to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_json_of_a_message_leaves_out_what_is_not_known_of_it() {
        let upstream = TraceUpstream {
            sid: "06dmzkt000000000".to_owned(),
            bal: None,
            category: Some("com.example".to_owned()),
            topic: String::new(),
            received_at: 1,
            published_at: None,
            final_at: None,
            kept: true,
        };
        let expected = json!([{
            "kind": "upstream", "sid": "06dmzkt000000000", "category": "com.example", "topic": "", "received_at": 1, "kept": true,
        }]);
        assert_eq!(json!(json_of(&[Trace::Upstream(upstream)]).unwrap()), expected);
    }

    #[test]
    fn times_are_utc_dates() {
        assert_eq!(utc(1_709_210_096_007), "2024-02-29T12:34:56.007Z");
    }
}
