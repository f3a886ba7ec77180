//! The life of a message in words, in the order of time.

use super::live::Live;
use super::word;
use crate::chat::delivery::{AMBIGUOUS, State};
use crate::chat::status::Status;
use crate::ops::clock::utc;
use crate::store::{INBOX, TraceDelivery, TraceMessage, TraceUpstream};
use serde_json::Value;
use std::collections::{BTreeMap, BTreeSet};

/// What happened, and when.
type Moment = (u64, String);

/// A message with its only delivery.
pub(super) fn of_delivery(d: &TraceDelivery, live: &Live) -> String {
    // Of the pushes that it makes itself, for users, the bridge tells nobody a status.
    let is_own = d.reply.is_empty();
    let mut text = match is_own {
        true => format!("{} for {} to {}, a push of the bridge's own\n", d.sid, d.bal, device(d)),
        false => format!("{} of {} to {} (the bridge's id: {})\n", d.id, d.bal, device(d), d.sid),
    };
    let made = (d.accepted_at, "made, on disk with what it tells of".to_owned());
    let mut moments = vec![if is_own { made } else { accepted(d.accepted_at) }];
    moments.extend(of_attempts(d));
    text += &lines("  ", moments);
    if d.final_at.is_none() {
        text += &format!("  now: {}\n", present(d, live));
    }
    if d.dup_possible {
        text += &format!("  the device {}\n", doubt(d));
    }
    text + &unread_statuses(d.statuses_unread, &d.reply)
}

/// A message with several.
pub(super) fn of_message(m: &TraceMessage, live: &Live) -> String {
    let mut text = format!("{} of {}, {} deliveries (the bridge's id: {})\n", m.id, m.bal, m.deliveries.len(), m.sid);
    let mut moments = vec![accepted(m.accepted_at)];
    moments.extend(m.sent_at.map(|at| (at, "sent: the first of them was taken".to_owned())));
    if !matches!(m.status, Status::Accepted | Status::Sent) {
        let code = m.code.as_ref().filter(|_| m.status == Status::Failed).map(|code| format!(": {code}"));
        moments.push((m.told_at, format!("{}{}", m.status.word(), code.unwrap_or_default())));
    }
    text += &lines("  ", moments);
    for d in &m.deliveries {
        let to = match d.transport == INBOX {
            true => format!("into {}", d.reply),
            false => format!("to {} by {}", device(d), d.transport),
        };
        text += &format!("  {to} ({})\n{}", d.sid, lines("    ", of_attempts(d)));
        if d.final_at.is_none() {
            text += &format!("    now: {}\n", present(d, live));
        }
        if d.dup_possible {
            text += &format!("    the device {}\n", doubt(d));
        }
    }
    text += &m.kept_until.map(|until| format!("  kept until {}\n", utc(until))).unwrap_or_default();
    text + &unread_statuses(m.statuses_unread, &m.reply)
}

/// A message of a device.
pub(super) fn of_upstream(u: &TraceUpstream) -> String {
    let app = u.category.as_ref().map(|category| format!(" (app {category})")).unwrap_or_default();
    let mut moments = vec![(u.received_at, "received: on disk, then acknowledged to the push service".to_owned())];
    moments.extend(u.published_at.map(|at| (at, format!("published on {}, confirmed", u.topic))));
    moments.extend(u.final_at.map(|at| (at, "done".to_owned())));
    let now = match &u.bal {
        _ if u.final_at.is_some() => String::new(),
        None => "  now: waits for a route for its app\n".to_owned(),
        Some(bal) if u.published_at.is_some() => format!("  now: waits for the acknowledgement of {bal}\n"),
        Some(bal) => format!("  now: waits for {bal} to read it\n"),
    };
    format!("{} of a device{app}\n{}{now}", u.sid, lines("  ", moments))
}

fn device(d: &TraceDelivery) -> String {
    d.token_hash.as_ref().map_or_else(|| "a device".to_owned(), |hash| format!("the device with the token {hash}"))
}

fn accepted(at: u64) -> Moment {
    (at, "accepted: on disk, acknowledged to the BAL".to_owned())
}

fn lines(indent: &str, mut moments: Vec<Moment>) -> String {
    moments.sort_by_key(|(at, _)| *at);
    moments.into_iter().map(|(at, text)| format!("{indent}{}  {text}\n", utc(at))).collect()
}

fn unread_statuses(unread: u64, topic: &str) -> String {
    if unread == 0 { String::new() } else { format!("  {unread} of its statuses wait on {topic} for a reader\n") }
}

/// What nobody knows for certain: whether what had no answer, or one that settles nothing, arrived.
fn doubt(d: &TraceDelivery) -> &'static str {
    let mut log = d.log.as_array().into_iter().flatten();
    match d.attempt > 1 || log.any(|entry| entry["event"] == "copies") {
        true => "may have got it twice (dup_possible)",
        false => "may have got it all the same (dup_possible)",
    }
}

/// Every attempt with its own time, its answer and its wait, and what became of the last one.
fn of_attempts(d: &TraceDelivery) -> Vec<Moment> {
    let in_inbox = d.transport == INBOX;
    let mut moments = Vec::new();
    let (mut attempts, mut untried) = (BTreeMap::<u64, (u64, u64)>::new(), BTreeSet::new());
    for entry in d.log.as_array().into_iter().flatten() {
        moments.push((entry["at"].as_u64().unwrap_or(0), unusual(d, entry)));
        match (entry["from"].as_u64(), entry["attempt"].as_u64()) {
            (Some(from), Some(attempt)) => {
                let again_at_once = entry["times"].as_u64().filter(|_| entry["event"] == "replayed").unwrap_or(0);
                attempts.entry(from).or_insert((attempt, again_at_once));
            }
            (from, _) => untried.extend(from),
        }
    }
    // What was sent again at once counts each time, and the last time does not where it came back untried.
    let first = |(from, (attempt, again)): (u64, (u64, u64))| {
        let last = u64::from(again > 0 && untried.contains(&from));
        (from, (attempt + last).saturating_sub(again))
    };
    let mut attempts: BTreeMap<u64, u64> = attempts.into_iter().map(first).collect();
    if let Some(at) = d.claimed_at.filter(|at| !untried.contains(at)) {
        let last = u64::from(d.attempt);
        attempts.entry(at).or_insert(last);
    }
    let handed =
        |(at, attempt)| (at, if in_inbox { format!("put into the inbox {}", d.reply) } else { handed(d, attempt) });
    moments.extend(attempts.into_iter().map(handed));
    if let Some(at) = d.sent_at {
        let name = d.provider_id.as_ref().map(|name| format!(" as {name}")).unwrap_or_default();
        let taker = if in_inbox { "broker" } else { "push service" };
        let detail = d.detail.as_ref().filter(|_| matches!(d.state, State::Sent | State::Delivered));
        let detail = detail.map(|detail| format!(" ({detail})")).unwrap_or_default();
        moments.push((at, format!("sent: the {taker} has taken it{name}{detail}")));
    }
    moments.extend(d.final_at.filter(|_| d.state != State::Sent).map(|at| (at, last_word(d))));
    moments
}

fn handed(d: &TraceDelivery, attempt: u64) -> String {
    let token = d.token_hash.as_ref().map(|hash| format!(", token {hash}")).unwrap_or_default();
    format!("handed to the push service ({}), attempt {attempt}{token}", d.transport)
}

/// An entry of the store's log, in words.
fn unusual(d: &TraceDelivery, entry: &Value) -> String {
    let text = |key: &str| entry[key].as_str().unwrap_or("?").to_owned();
    let attempt = entry["attempt"].as_u64().map(|attempt| format!("attempt {attempt}: ")).unwrap_or_default();
    let detail = entry["detail"].as_str().filter(|detail| !detail.is_empty());
    let because = detail.map(|detail| format!(": {detail}")).unwrap_or_default();
    let times = entry["times"].as_u64().filter(|times| *times > 1);
    let times = times.map(|times| format!(", {times} times")).unwrap_or_default();
    let until = entry["until"].as_u64().map(|at| format!(", the last time at {}", utc(at))).unwrap_or_default();
    let due = entry["due"].as_u64();
    let wait = match (due, entry["until"].as_u64().or_else(|| entry["at"].as_u64())) {
        (Some(due), Some(at)) => format!("at {} (in {:.1} s)", utc(due), due.saturating_sub(at) as f64 / 1000.0),
        _ => "at once".to_owned(),
    };
    match entry["event"].as_str() {
        Some("retry") if due.is_none() => {
            format!("given back untried{times}{until}: the push service takes nothing ({}{because})", text("code"))
        }
        Some("retry") if entry["code"] == AMBIGUOUS => format!("{attempt}no answer{because}; next {wait}"),
        Some("retry") => format!("{attempt}refused for now ({}{because}); next {wait}", text("code")),
        Some("held") => format!("held{times}: {}; next {wait}", text("why")),
        Some("lost") if entry["copies"] == 0 => {
            format!("given back untried{times}{until}: nothing went by {}", d.transport)
        }
        Some("lost") => format!("{attempt}no answer: the connection ended; to be sent again, as a copy"),
        Some("replayed") => format!("was not processed, and sent again at once{times}"),
        Some("crash") => format!("{attempt}the bridge stopped before the answer; to be sent again, as a copy"),
        Some("canonical_id") => format!("the device has a new token (hash {})", text("token")),
        Some("copies") => format!("was written {} times, because connections ended without an answer", entry["copies"]),
        _ => entry.to_string(),
    }
}

fn last_word(d: &TraceDelivery) -> String {
    match d.state {
        State::Delivered if d.transport == INBOX => "delivered: its reader has it".to_owned(),
        State::Delivered => "delivered: the device has it".to_owned(),
        State::Expired => format!("expired: {}", d.detail.as_deref().unwrap_or("its time to live ended")),
        State::Cancelled => "cancelled by its sender".to_owned(),
        State::Failed => {
            let code = d.code.as_deref().unwrap_or("without a code");
            let detail = d.detail.as_deref().unwrap_or_default();
            format!("failed: {code} {detail}").trim_end().to_owned()
        }
        state => word(state).to_owned(),
    }
}

fn present(d: &TraceDelivery, live: &Live) -> String {
    let now = match d.state {
        State::InFlight if d.transport == INBOX => return "waits for its reader".to_owned(),
        State::Sent if d.transport == INBOX => return "waits for its reader's receipt".to_owned(),
        State::Due => match d.due_at.filter(|at| *at > 0) {
            Some(at) => format!("waits to be tried again at {}", utc(at)),
            None if d.behind.is_some() => "waits behind an earlier message of its recipient".to_owned(),
            None => "waits for the push service".to_owned(),
        },
        State::Waiting => return "waits for the message before it (same order key)".to_owned(),
        State::InFlight => "is with the push service, unanswered".to_owned(),
        _ => return "waits for the device's receipt".to_owned(),
    };
    match live.why(&d.transport) {
        Some(why) => format!("{now}; {why}"),
        None => now,
    }
}
