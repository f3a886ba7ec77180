//! `trace ID`: the whole life of a message, in words.

mod life;
mod live;

use super::store_place::StorePlace;
use crate::chat::delivery::State;
use crate::chat::id::Sid;
use crate::ops::clock::utc;
use crate::ops::print;
use crate::store::Trace;
use anyhow::bail;
use live::Live;
use serde_json::{Map, Value};
use std::net::SocketAddr;

/// Prints everything the store knows of `id`, and what the bridge at `ops` says of what a message may wait for.
///
/// # Errors
/// When the file is no store, cannot be read, or knows nothing of the id.
pub(super) async fn run(place: &StorePlace, ops: Option<SocketAddr>, id: &str, json: bool) -> anyhow::Result<()> {
    let traces = place.open()?.trace(id)?;
    if traces.is_empty() {
        let (path, hint) = (place.path().display(), place.hint());
        bail!("{path}{hint} knows no message `{id}`; {}", unknown(id, &Live::ask(ops).await));
    }
    if json {
        print::line(serde_json::to_string_pretty(&json_of(&traces)?)?)?;
        return Ok(());
    }
    let live = Live::ask(ops).await;
    for trace in &traces {
        let text = match trace {
            Trace::Delivery(delivery) => life::of_delivery(delivery, &live),
            Trace::Message(message) => life::of_message(message, &live),
            Trace::Upstream(upstream) => life::of_upstream(upstream),
        };
        print::line(text.trim_end())?;
    }
    Ok(())
}

/// Why the store may know nothing of a message.
fn unknown(id: &str, live: &Live) -> String {
    match live.blocked() {
        Some(reason) => format!(
            "the store is blocked: {reason}; what came since is in no file yet, has no PUBACK, and is stored when the disk works"
        ),
        None if Sid::parse(id).is_some() => format!(
            "if it is the `sid` of a chat message, `fcm-mqtt-bridge explain push USER {id}` tells what became of it for the user \
             USER; other messages that are settled are remembered for a limited time"
        ),
        None => "a message that is settled is remembered for a limited time".to_owned(),
    }
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
            let (status, count) = (m.status.word(), m.deliveries.len());
            format!("{}  {:<9} {}/{}  {count} deliveries", utc(m.accepted_at), status, m.bal, m.id)
        }
        Trace::Upstream(u) => format!("{}  upstream  {}", utc(u.received_at), u.sid),
    }
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

#[cfg(test)]
mod tests {
    use super::life::{of_delivery, of_message};
    use super::*;
    use crate::chat::status::Status;
    use crate::store::{INBOX, TraceDelivery, TraceMessage, TraceUpstream};
    use serde_json::json;

    fn message_story(message: &TraceMessage) -> String {
        of_message(message, &Live::default())
    }

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
            behind: None,
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
            token_hash: None,
            body_bytes: 0,
        }
    }

    #[test]
    fn a_push_to_a_user_is_of_no_bal() {
        let told = of_delivery(&delivery("ccs", "", State::Sent), &Live::default());
        assert!(told.contains("for bal1 to a device, a push of the bridge's own"), "{told}");
        assert!(told.contains("made, on disk with what it tells of") && !told.contains("BAL"), "{told}");
    }

    #[test]
    fn every_attempt_is_told_in_the_order_of_time_with_its_answer_and_its_wait() {
        let held = json!({"at": 2_000, "event": "held", "why": "240/min of this device", "due": 3_000, "from": 1_990, "times": 4, "until": 2_500});
        let refused = json!({"at": 4_000, "event": "retry", "attempt": 1, "code": "SERVICE_UNAVAILABLE", "detail": "busy", "due": 5_500, "from": 3_900});
        let cut = json!({"at": 7_000, "event": "retry", "attempt": 2, "code": "AMBIGUOUS", "detail": "the connection broke before the answer", "due": 9_000, "from": 6_000});
        let d = TraceDelivery {
            token_hash: Some("1a2b3c4d".to_owned()),
            attempt: 3,
            claimed_at: Some(9_100),
            log: json!([held, refused, cut]),
            ..delivery("fcm-v1", "bal1/others/receipts", State::InFlight)
        };
        let told = of_delivery(&d, &Live::default());
        let expected = [
            (1, "accepted: on disk, acknowledged to the BAL".to_owned()),
            (2_000, format!("held, 4 times: 240/min of this device; next at {} (in 0.5 s)", utc(3_000))),
            (3_900, "handed to the push service (fcm-v1), attempt 1, token 1a2b3c4d".to_owned()),
            (
                4_000,
                format!("attempt 1: refused for now (SERVICE_UNAVAILABLE: busy); next at {} (in 1.5 s)", utc(5_500)),
            ),
            (6_000, "handed to the push service (fcm-v1), attempt 2, token 1a2b3c4d".to_owned()),
            (
                7_000,
                format!(
                    "attempt 2: no answer: the connection broke before the answer; next at {} (in 2.0 s)",
                    utc(9_000)
                ),
            ),
            (9_100, "handed to the push service (fcm-v1), attempt 3, token 1a2b3c4d".to_owned()),
        ];
        let mut lines = told.lines();
        assert_eq!(
            lines.next(),
            Some("a1 of bal1 to the device with the token 1a2b3c4d (the bridge's id: 06dmzkt000000001)")
        );
        for (at, text) in expected {
            assert_eq!(lines.next(), Some(format!("  {}  {text}", utc(at)).as_str()), "{told}");
        }
        assert_eq!(lines.next(), Some("  now: is with the push service, unanswered"));
    }

    #[test]
    fn what_was_sent_again_at_once_and_came_back_untried_was_one_attempt() {
        let replayed = json!({"at": 20, "event": "replayed", "attempt": 1, "times": 1, "from": 10});
        let untried = json!({"at": 20, "event": "retry", "code": "unauthenticated", "detail": "no", "from": 10});
        let d = TraceDelivery {
            attempt: 1,
            claimed_at: Some(10),
            log: json!([replayed, untried]),
            ..delivery("fcm-v1", "bal1/others/receipts", State::Due)
        };
        let told = of_delivery(&d, &Live::default());
        assert!(told.contains("handed to the push service (fcm-v1), attempt 1\n"), "{told}");
        assert!(told.contains("was not processed, and sent again at once\n"), "{told}");
        let later = json!([
            {"at": 20, "event": "replayed", "attempt": 5, "times": 2, "from": 10},
            {"at": 30, "event": "replayed", "attempt": 7, "times": 2, "from": 25}, {"at": 30, "event": "retry", "code": "x", "detail": "", "from": 25},
        ]);
        let told = of_delivery(&TraceDelivery { attempt: 7, log: later, claimed_at: Some(25), ..d }, &Live::default());
        assert!(told.contains(", attempt 3\n") && told.contains(", attempt 6\n"), "{told}");
        assert!(told.contains("sent again at once, 2 times\n"), "{told}");
    }

    #[test]
    fn what_was_sent_once_cannot_have_arrived_twice() {
        let told = |attempt, log| {
            let d = delivery("fcm-v1", "bal1/others/receipts", State::Failed);
            of_delivery(&TraceDelivery { attempt, log, dup_possible: true, ..d }, &Live::default())
        };
        assert!(told(1, json!([])).contains("the device may have got it all the same (dup_possible)"));
        assert!(told(2, json!([])).contains("the device may have got it twice (dup_possible)"));
        assert!(told(1, json!([{"at": 1, "event": "copies", "copies": 2, "attempt": 1}])).contains("got it twice"));
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
             {}  failed: DEVICE_UNREGISTERED\n    the device may have got it all the same (dup_possible)\n  \
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
