//! `topics.md` is what users read: its examples are real, and no word of the contract is missing in it.

#![expect(clippy::unwrap_used, reason = "what a test relies on may fail it")]

mod chat;

use fcm_mqtt_bridge::chat::id::{MessageId, Sid, Token};
use fcm_mqtt_bridge::chat::message::{
    BalReceipt, BridgeEvent, BridgeState, BridgeStats, BridgeStatus, BrokerKind, Downstream, ErrorCode, ErrorDocument,
    Limits, Presence, PresenceState, Rejection, Sender, TransportStats, UpstreamMessage, UserPresence, error_summary,
};
use fcm_mqtt_bridge::chat::topic::{BridgeTopic, ClientTopic};
use serde_json::{Map, Value, json};
use std::io::Write;
use std::process::{Command, Stdio};

const TOPICS: &str = include_str!("../../topics.md");
const README: &str = include_str!("../../README.md");

/// Every word that a status document may say, now or later.
const STATUSES: [&str; 7] = ["accepted", "sent", "delivered", "read", "failed", "expired", "cancelled"];

/// The fields of a status document.
const STATUS_FIELDS: [&str; 14] = [
    "id",
    "status",
    "ts",
    "code",
    "detail",
    "attempt",
    "transport",
    "source",
    "provider_id",
    "device_ts",
    "dup_possible",
    "token_action",
    "new_token",
    "corr",
];

/// The lines behind `$ COMMAND` in an example of the README are what the command prints.
#[test]
fn the_readme_shows_what_explain_prints() {
    const AFTER: &str = "' | fcm-mqtt-bridge explain - > request.json\n";
    let (before, behind) = README.split_once(AFTER).expect("there is an example");
    let (_, document) = before.rsplit_once("$ echo '").expect("it has a document");
    let (shown, _) = behind.split_once("```").expect("it ends");
    let shown: Vec<&str> = shown.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
    let mut explain = Command::new(env!("CARGO_BIN_EXE_fcm-mqtt-bridge"));
    explain.args(["explain", "-"]).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    let mut child = explain.spawn().expect("it starts");
    child.stdin.take().expect("piped").write_all(document.as_bytes()).expect("it reads");
    let output = child.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{output:?}");
    let told = String::from_utf8(output.stderr).expect("text");
    assert_eq!(told.lines().collect::<Vec<_>>(), shown);
    serde_json::from_slice::<Map<String, Value>>(&output.stdout).expect("the request is JSON");
}

#[test]
fn both_pages_show_the_rules_that_acl_prints_for_mosquitto() {
    let mut acl = Command::new(env!("CARGO_BIN_EXE_fcm-mqtt-bridge"));
    let output = acl.args(["acl", "--for", "mosquitto"]).output().expect("it starts");
    assert!(output.status.success(), "{output:?}");
    let rules = String::from_utf8(output.stdout).expect("text");
    for (page, text) in [("README.md", README), ("topics.md", TOPICS)] {
        assert!(text.contains(&format!("```text\n{rules}```\n")), "{page} shows other rules than\n{rules}");
    }
}

#[test]
fn every_json_example_is_json_and_says_what_it_is() {
    let known = [
        "downstream",
        "status",
        "upstream",
        "receipt",
        "error",
        "summary",
        "presence",
        "user-presence",
        "bridge-status",
        "bridge-stats",
        "bridge-event",
    ];
    for kind in known {
        assert!(!examples(kind).is_empty(), "no example of {kind}");
    }
    for (info, text) in blocks() {
        if let Some(kind) = info.strip_prefix("json") {
            assert!(known.contains(&kind.trim()), "an example of what? {text}");
            serde_json::from_str::<Map<String, Value>>(&text).unwrap_or_else(|error| panic!("{error}: {text}"));
        }
    }
}

#[test]
fn every_example_that_a_client_would_publish_is_taken() {
    let limits = Limits::default();
    for text in examples("downstream") {
        Downstream::parse(Sender::Bal, text.as_bytes(), &limits).unwrap_or_else(|fault| panic!("{fault}: {text}"));
    }
    for text in examples("receipt") {
        BalReceipt::parse(text.as_bytes(), &limits).unwrap_or_else(|fault| panic!("{fault}: {text}"));
    }
    for text in examples("presence") {
        let presence = Presence::parse(text.as_bytes(), &limits).unwrap_or_else(|fault| panic!("{fault}: {text}"));
        assert!(presence.is_some());
    }
}

#[test]
fn every_command_to_copy_publishes_something_that_is_taken() {
    let mut seen = 0;
    for command in commands().filter(|command| command.starts_with("mosquitto_pub")) {
        let topic = option(&command, "-t");
        let payload = option(&command, "-m");
        let limits = Limits::default();
        let rejection = match ClientTopic::parse(&topic).unwrap().expect("a topic of the bridge") {
            ClientTopic::Messages(_) => Downstream::parse(Sender::Bal, payload.as_bytes(), &limits).err(),
            ClientTopic::Receipts(_) => BalReceipt::parse(payload.as_bytes(), &limits).err(),
            ClientTopic::Presence(..) => Presence::parse(payload.as_bytes(), &limits).err(),
            topic @ (ClientTopic::Chat(..) | ClientTopic::Other(..)) => panic!("{topic}: {command}"),
        };
        // The one that shows what an error looks like.
        let expected = (payload == "this is not JSON").then_some(ErrorCode::BadJson);
        assert_eq!(rejection.map(|rejection| rejection.code()), expected, "{command}");
        seen += 1;
    }
    assert!(seen >= 5, "only {seen} commands found");
}

#[test]
fn every_command_to_copy_subscribes_to_a_topic_of_the_bridge() {
    let mut seen = 0;
    for command in commands().filter(|command| command.starts_with("mosquitto_sub")) {
        let filter = option(&command, "-t");
        let topic = filter.strip_prefix("$share/bal1-msg/").unwrap_or(&filter).replace('#', "messages");
        // The one topic of others' that the bridge writes.
        let aggregate = matches!(ClientTopic::parse(&topic), Ok(Some(ClientTopic::Presence(_, None))));
        assert!(aggregate || BridgeTopic::parse(&topic).unwrap().is_some(), "{command}");
        seen += 1;
    }
    assert!(seen >= 5, "only {seen} commands found");
}

#[test]
fn every_error_code_and_every_status_is_explained() {
    for code in ErrorCode::ALL {
        assert!(TOPICS.contains(&format!("`{code}`")), "{code} is missing");
    }
    for status in STATUSES {
        assert!(TOPICS.contains(&format!("`{status}`")), "{status} is missing");
    }
    for text in examples("status") {
        let document: Map<String, Value> = serde_json::from_str(&text).unwrap();
        assert!(document.keys().all(|name| STATUS_FIELDS.contains(&name.as_str())), "{text}");
        assert!(STATUSES.contains(&document["status"].as_str().unwrap()), "{text}");
    }
    for field in STATUS_FIELDS {
        assert!(TOPICS.contains(&format!("`{field}`")), "{field} is missing");
    }
}

#[test]
fn what_only_a_bal_may_give_is_named_with_the_topic_and_with_the_code() {
    let limits = Limits::default();
    let of_user = |text: &str| Downstream::parse(Sender::User, text.as_bytes(), &limits).unwrap_err();
    for text in examples("downstream") {
        assert_eq!(of_user(&text).code(), ErrorCode::Forbidden, "{text}");
    }
    let text = TOPICS.split("\n### `{bal}/self/messages`\n").nth(1).expect("the topic is explained");
    let text = text.split("\n```").next().unwrap_or_default();
    let row = TOPICS.lines().find(|line| line.starts_with("| `FORBIDDEN` |")).expect("the code is explained");
    for field in ["token", "topic", "condition", "fcm", "to"] {
        let value = if field == "fcm" { json!({}) } else { json!("/topics/news") };
        let rejection = of_user(&json!({"body": "hello", field: value}).to_string());
        assert_eq!(rejection.code(), ErrorCode::Forbidden, "{field}");
        let name = format!("`{field}`");
        assert!(text.contains(&name) && row.contains(&name) && rejection.detail().contains(&name), "{field}");
    }
}

#[test]
fn what_the_bridge_writes_has_the_fields_of_its_example() {
    let id = Sid::parse("06eqbd3gy0001ab2").unwrap();
    let Value::Object(data) = json!({"body": "hello", "k": "v"}) else { unreachable!() };
    let upstream = UpstreamMessage {
        id,
        token: Token::new("TOKEN").unwrap(),
        category: Some("com.example.app".to_owned()),
        ccs_id: "42".to_owned(),
        data,
        ts: 1_767_225_600_123,
    };
    assert_same("upstream", &upstream.to_payload());

    let about = br#"{"id":"a1","data":{}}"#;
    let rejection = Downstream::parse(Sender::Bal, about, &Limits::default()).unwrap_err();
    assert_eq!(rejection.ref_id(), MessageId::new("a1").ok().as_ref());
    assert_same("error", &ErrorDocument::new(&rejection, "bal1/self/messages", about, 1_767_225_600_123).to_payload());
    assert_same("summary", &error_summary(990, 1_767_225_601_123));

    let (ts, last_seen) = (1_767_225_602_456, Some(1_767_225_600_123));
    assert_same("user-presence", &UserPresence { state: PresenceState::Offline, ts, last_seen }.to_payload());

    let status = BridgeStatus {
        state: BridgeState::Online,
        version: "0.2.0".to_owned(),
        started: 1_767_225_600_123,
        transports: [("ccs".to_owned(), "up"), ("fcm-v1".to_owned(), "up")].into(),
        broker: BrokerKind::Embedded,
        ts: 1_767_225_600_456,
    };
    assert_same("bridge-status", &status.to_payload());

    let why = "no access token: oauth2.googleapis.com:443 (token_uri in sa.json, fcm.credentials_file): HTTP status 503 \
               (since 2026-01-01T00:00:00.123Z, next try at 2026-01-01T00:00:04.123Z)";
    let transport = TransportStats {
        state: "no_access_token",
        why: Some(why.to_owned()),
        connections: [("up", 1)].into(),
        unanswered: 3,
        window: 100,
        reconnects: 2,
        drains: 1,
        due: 2,
        put_off: 3,
        behind: 1,
        oldest: Some(12),
        access_token_age: Some(3590),
    };
    let stats = BridgeStats {
        ts: 1_767_225_600_123,
        upstream: 120,
        downstream: 4000,
        acks: 3990,
        nacks: [("DEVICE_UNREGISTERED".to_owned(), 4)].into(),
        receipts: 3900,
        duplicates: 2,
        spool: 0,
        queue: 6,
        sessions: Some(3),
        store: "ok".to_owned(),
        intake: "taking".to_owned(),
        transports: [("fcm-v1".to_owned(), transport)].into(),
    };
    assert_same("bridge-stats", &stats.to_payload());
}

#[test]
fn every_event_is_listed_with_its_fields() {
    let id = Sid::parse("06eqbd3gy0001ab2").unwrap();
    let text = || "x".to_owned();
    for event in [
        BridgeEvent::Connected { transport: text(), connection: 1 },
        BridgeEvent::Draining { transport: text(), connection: 1 },
        BridgeEvent::Reconnect { transport: text(), connection: 1, detail: text() },
        BridgeEvent::AuthFailed { transport: text(), detail: text() },
        BridgeEvent::Refused { code: text(), id },
        BridgeEvent::TokenRemoved { token: Token::new("x").unwrap(), code: text() },
        BridgeEvent::SpoolFull { rows: 1 },
        BridgeEvent::UpstreamRejected { transport: text(), code: "x", sample: text(), connection: 1 },
        BridgeEvent::NoRoute { id, category: Some(text()) },
        BridgeEvent::Reported { by: text(), with: text(), sids: vec![text()], reason: Some(text()) },
        BridgeEvent::QueueFull { session: text(), refused: 1 },
        BridgeEvent::SessionLost,
        BridgeEvent::SessionShort { seconds: 1, asked: 2 },
        BridgeEvent::DocumentSetAside { topic: text(), id: Some(text()), bytes: 2, most: 1 },
    ] {
        let document: Map<String, Value> = serde_json::from_slice(&event.to_payload(1)).unwrap();
        let start = format!("| `{}` |", document["event"].as_str().unwrap());
        let row = TOPICS.lines().find(|line| line.starts_with(&start)).unwrap_or_else(|| panic!("no row {start}"));
        for field in document.keys().filter(|name| !matches!(name.as_str(), "event" | "ts")) {
            assert!(row.contains(&format!("`{field}`")), "{field} is missing in {row}");
        }
    }
}

#[test]
fn a_rejection_repeats_no_more_than_the_page_allows() {
    let rejection = Rejection::new(ErrorCode::BadField, "x".repeat(1000));
    assert!(TOPICS.contains(&format!("at most {} characters", rejection.detail().len())));
}

#[test]
fn every_link_within_the_page_leads_somewhere() {
    let anchors: Vec<String> = TOPICS.lines().filter(|line| line.starts_with('#')).map(anchor).collect();
    let mut seen = 0;
    for link in TOPICS.split("](#").skip(1).filter_map(|rest| rest.split_once(')')).map(|(link, _)| link) {
        assert!(anchors.iter().any(|anchor| anchor == link), "#{link} leads nowhere: {anchors:?}");
        seen += 1;
    }
    assert!(seen > 10, "only {seen} links found");
}

/// Fenced blocks: what stands behind the opening fence, and the text.
fn blocks() -> impl Iterator<Item = (&'static str, String)> {
    TOPICS.split("\n```").skip(1).step_by(2).map(|block| {
        let (info, text) = block.split_once('\n').expect("a fence ends its line");
        (info, text.to_owned())
    })
}

fn examples(kind: &str) -> Vec<String> {
    let info = format!("json {kind}");
    blocks().filter(|(found, _)| *found == info).map(|(_, text)| text).collect()
}

fn commands() -> impl Iterator<Item = String> {
    let shell = blocks().filter(|(info, _)| *info == "sh").map(|(_, text)| text.replace("\\\n", " "));
    shell.flat_map(|text| text.lines().map(|line| line.trim().to_owned()).collect::<Vec<_>>())
}

/// The value of an option of a shell command, without its quotes.
fn option(command: &str, name: &str) -> String {
    let (_, rest) = command.split_once(&format!(" {name} ")).unwrap_or_else(|| panic!("no {name}: {command}"));
    let end = |text: &'static str| move |rest: &str| rest.find(text).unwrap_or(rest.len());
    match rest.strip_prefix('\'') {
        Some(quoted) => quoted[..end("'")(quoted)].to_owned(),
        None => rest[..end(" ")(rest)].to_owned(),
    }
}

fn assert_same(kind: &str, payload: &[u8]) {
    let written: Value = serde_json::from_slice(payload).expect("the bridge writes JSON");
    let example: Value = serde_json::from_str(&examples(kind)[0]).expect("the example is JSON");
    assert_eq!(written, example, "the example of {kind} is not what the bridge writes");
}

/// The anchor that GitHub gives a heading.
fn anchor(heading: &str) -> String {
    let text = heading.trim_start_matches('#').trim().to_lowercase();
    let kept = text.chars().filter(|&c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
    kept.map(|c| if c == ' ' { '-' } else { c }).collect()
}
