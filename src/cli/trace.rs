//! `trace ID`: the whole life of a message, in words.

use crate::chat::delivery::State;
use crate::chat::status::Status;
use crate::ops::clock::utc;
use crate::ops::print;
use crate::store::{INBOX, Inspector, Trace, TraceDelivery, TraceMessage, TraceUpstream};
use anyhow::bail;
use serde_json::{Map, Value};
use std::fmt::Write;
use std::path::Path;

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
            Trace::Message(message) => print::line(message_story(message).trim_end())?,
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
            leave_out_unknown(&mut fields);
            let deliveries = fields.get_mut("deliveries").and_then(Value::as_array_mut);
            deliveries.into_iter().flatten().filter_map(Value::as_object_mut).for_each(leave_out_unknown);
            Ok(fields)
        })
        .collect()
}

fn leave_out_unknown(fields: &mut Map<String, Value>) {
    fields.retain(|_, value| !value.is_null());
}

/// One line about a message, for lists.
pub(super) fn line(trace: &Trace) -> String {
    match trace {
        Trace::Delivery(d) => {
            let state = word(d.state);
            format!("{}  {:<9} {}/{}  attempt {}", utc(d.accepted_at), state, d.bal, d.id, d.attempt)
        }
        Trace::Message(m) => {
            let (status, count) = (status_word(m.status), m.deliveries.len());
            format!("{}  {:<9} {}/{}  {count} deliveries", utc(m.accepted_at), status, m.bal, m.id)
        }
        Trace::Upstream(u) => format!("{}  upstream  {}", utc(u.received_at), u.sid),
    }
}

fn delivery_story(d: &TraceDelivery) -> String {
    let mut message_log = format!("{} of {} to a device (the bridge's id: {})\n", d.id, d.bal, d.sid);
    let mut step =
        |at: u64, text: String| writeln!(message_log, "  {}  {text}", utc(at)).expect("a String takes any text");
    step(d.accepted_at, "accepted: on disk, acknowledged to the BAL".to_owned());
    steps(d, step);
    if d.final_at.is_none() {
        writeln!(message_log, "  now: {}", present(d)).expect("a String takes any text");
    }
    if d.dup_possible {
        message_log.push_str("  the device may have got it twice (dup_possible)\n");
    }
    unread_statuses(&mut message_log, d.statuses_unread, &d.reply);
    message_log
}

/// What became of a delivery since it was accepted.
fn steps(d: &TraceDelivery, mut step: impl FnMut(u64, String)) {
    for event in d.log.as_array().into_iter().flatten() {
        let at = event["at"].as_u64().unwrap_or(0);
        step(at, unusual(event));
    }
    let in_inbox = d.transport == INBOX;
    if let Some(at) = d.claimed_at {
        step(
            at,
            if in_inbox {
                format!("put into the inbox {}", d.reply)
            } else {
                format!("handed to the push service ({}), attempt {}", d.transport, d.attempt)
            },
        );
    }
    if let Some(at) = d.sent_at {
        let name = d.provider_id.as_ref().map(|name| format!(" as {name}")).unwrap_or_default();
        let taker = if in_inbox { "broker" } else { "push service" };
        step(at, format!("sent: the {taker} has taken it{name}"));
    }
    if let Some(at) = d.final_at.filter(|_| d.state != State::Sent) {
        step(at, last_word(d));
    }
}

fn unread_statuses(message_log: &mut String, unread: u64, topic: &str) {
    if unread > 0 {
        writeln!(message_log, "  {unread} of its statuses wait on {topic} for a reader")
            .expect("a String takes any text");
    }
}

fn message_story(m: &TraceMessage) -> String {
    let mut text = format!("{} of {}, {} deliveries (the bridge's id: {})\n", m.id, m.bal, m.deliveries.len(), m.sid);
    let mut add = |line: String| writeln!(text, "  {line}").expect("a String takes any text");
    add(format!("{}  accepted: on disk, acknowledged to the BAL", utc(m.accepted_at)));
    if let Some(at) = m.sent_at {
        add(format!("{}  sent: the first of them was taken", utc(at)));
    }
    if !matches!(m.status, Status::Accepted | Status::Sent) {
        let code = m.code.as_ref().filter(|_| m.status == Status::Failed).map(|code| format!(": {code}"));
        add(format!("{}  {}{}", utc(m.told_at), status_word(m.status), code.unwrap_or_default()));
    }
    for d in &m.deliveries {
        let to =
            if d.transport == INBOX { format!("into {}", d.reply) } else { format!("to a device by {}", d.transport) };
        add(format!("{to} ({})", d.sid));
        steps(d, |at, step| add(format!("  {}  {step}", utc(at))));
        if d.final_at.is_none() {
            add(format!("  now: {}", present(d)));
        }
        if d.dup_possible {
            add("  may have arrived twice (dup_possible)".to_owned());
        }
    }
    if let Some(until) = m.kept_until {
        add(format!("kept until {}", utc(until)));
    }
    unread_statuses(&mut text, m.statuses_unread, &m.reply);
    text
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
        State::Delivered if d.transport == INBOX => "delivered: its reader has it".to_owned(),
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
        State::InFlight if d.transport == INBOX => "waits for its reader".to_owned(),
        State::Due => match d.due_at.filter(|at| *at > 0) {
            Some(at) => format!("waits to be tried again at {}", utc(at)),
            None => "waits for the push service".to_owned(),
        },
        State::Waiting => "waits for the message before it (same order key)".to_owned(),
        State::InFlight => "is with the push service, unanswered".to_owned(),
        State::Sent if d.transport == INBOX => "waits for its reader's receipt".to_owned(),
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

fn status_word(status: Status) -> &'static str {
    match status {
        Status::Accepted => "accepted",
        Status::Sent => "sent",
        Status::Delivered => "delivered",
        Status::Read => "read",
        Status::Failed => "failed",
        Status::Expired => "expired",
        Status::Cancelled => "cancelled",
    }
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

    /// A delivery of which little is known; `bal1` sent the message `a1`.
    fn delivery(transport: &str, reply: &str, state: State) -> TraceDelivery {
        TraceDelivery {
            sid: "06dmzkt000000001".to_owned(),
            bal: "bal1".to_owned(),
            id: "a1".to_owned(),
            recipient: 0,
            transport: transport.to_owned(),
            provider_id: None,
            order: None,
            state,
            due_at: None,
            deadline: Some(9),
            accepted_at: 1,
            claimed_at: Some(1),
            sent_at: None,
            final_at: None,
            attempt: 1,
            dup_possible: false,
            receipt: true,
            code: None,
            detail: None,
            reply: reply.to_owned(),
            statuses_unread: 0,
            log: json!([]),
            body_bytes: 0,
        }
    }

    /// To a device that is gone, and into an inbox.
    fn message() -> TraceMessage {
        let code = Some("DEVICE_UNREGISTERED".to_owned());
        let gone = delivery("ccs", "bal1/others/receipts", State::Failed);
        let gone = TraceDelivery { final_at: Some(2), code: code.clone(), dup_possible: true, ..gone };
        TraceMessage {
            sid: "06dmzkt000000000".to_owned(),
            bal: "bal1".to_owned(),
            id: "a1".to_owned(),
            order: None,
            status: Status::Accepted,
            accepted_at: 1,
            sent_at: None,
            told_at: 1,
            final_at: None,
            kept_until: Some(10),
            dup_possible: true,
            receipt: true,
            code,
            reply: "bal1/others/receipts".to_owned(),
            statuses_unread: 1,
            body_bytes: 7,
            deliveries: vec![gone, delivery(INBOX, "alice/others/messages", State::InFlight)],
        }
    }

    #[test]
    fn a_message_with_several_deliveries_is_told_as_one_with_what_became_of_each() {
        let at = |ms| utc(ms);
        let open = format!(
            "a1 of bal1, 2 deliveries (the bridge's id: 06dmzkt000000000)\n  {}  accepted: on disk, acknowledged to the BAL\n  \
             to a device by ccs (06dmzkt000000001)\n    {}  handed to the push service (ccs), attempt 1\n    \
             {}  failed: DEVICE_UNREGISTERED\n    may have arrived twice (dup_possible)\n  \
             into alice/others/messages (06dmzkt000000001)\n    {}  put into the inbox alice/others/messages\n    \
             now: waits for its reader\n  kept until {}\n  1 of its statuses wait on bal1/others/receipts for a reader\n",
            at(1),
            at(1),
            at(2),
            at(1),
            at(10)
        );
        assert_eq!(message_story(&message()), open);
        let mut read = message();
        read.deliveries[1] = TraceDelivery {
            sent_at: Some(3),
            final_at: Some(3),
            state: State::Delivered,
            ..delivery(INBOX, "alice/others/messages", State::InFlight)
        };
        let told = message_story(&TraceMessage { status: Status::Delivered, sent_at: Some(3), told_at: 3, ..read });
        let first = format!("  {0}  sent: the first of them was taken\n  {0}  delivered\n", at(3));
        assert!(told.contains(&first), "{told}");
        assert!(told.contains("delivered: its reader has it"), "{told}");
        let mut taken = message();
        taken.deliveries[1] = TraceDelivery { sent_at: Some(3), state: State::Sent, ..taken.deliveries[1].clone() };
        let taken = message_story(&taken);
        assert!(taken.contains("now: waits for its reader's receipt"), "{taken}");
        let failed = message_story(&TraceMessage { status: Status::Failed, told_at: 2, ..message() });
        assert!(failed.contains(&format!("  {}  failed: DEVICE_UNREGISTERED\n  to a device", at(2))), "{failed}");
    }

    #[test]
    fn a_message_with_several_deliveries_is_one_in_lists_and_its_json_leaves_out_likewise() {
        let trace = Trace::Message(Box::new(message()));
        assert_eq!(line(&trace), format!("{}  accepted  bal1/a1  2 deliveries", utc(1)));
        let json = json!(json_of(&[trace]).unwrap());
        assert_eq!(
            (&json[0]["kind"], &json[0]["status"], &json[0]["kept_until"]),
            (&"message".into(), &"accepted".into(), &10.into())
        );
        assert_eq!((json[0].get("sent_at"), json[0]["deliveries"][0].get("sent_at")), (None, None));
        let states: Vec<_> = [0, 1].map(|n| json[0]["deliveries"][n]["state"].clone()).into();
        assert_eq!(states, ["failed", "in_flight"]);
    }

    #[test]
    fn times_are_utc_dates() {
        assert_eq!(utc(1_709_210_096_007), "2024-02-29T12:34:56.007Z");
    }
}
