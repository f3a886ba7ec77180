//! The documents of chat on the page: what a client would publish is read by the parsers of the bridge, and what the bridge
//! publishes is what its writers make of it.

use super::blocks;
use fcm_mqtt_bridge::chat::bal_event::BalEvent;
use fcm_mqtt_bridge::chat::call::Ending;
use fcm_mqtt_bridge::chat::command::CommandRequest;
use fcm_mqtt_bridge::chat::gatekeeper::{GateAnswer, question};
use fcm_mqtt_bridge::chat::group::{
    GroupRole, GroupSettings, MemberList, Notice, NoticeEvent, SettingsChange, profile_document,
};
use fcm_mqtt_bridge::chat::id::{GroupId, Owner, Sid, Token};
use fcm_mqtt_bridge::chat::message::{Limits, Presence, Sender, direct_writer, with_recipient};
use fcm_mqtt_bridge::chat::push_document::{Addressee, Content, Item, ItemKind, push};
use fcm_mqtt_bridge::chat::status::Status;
use fcm_mqtt_bridge::chat::suffix::calls::{CallName, Parties, Signal};
use fcm_mqtt_bridge::chat::suffix::chatstate::ChatState;
use fcm_mqtt_bridge::chat::suffix::devices::{Badge, DeviceDocument, DeviceEvent, DeviceWord, Format, Platform};
use fcm_mqtt_bridge::chat::suffix::invitations::{Invitation, OPEN_MS};
use fcm_mqtt_bridge::chat::suffix::messages::{Stamp, UserMessage, stamped};
use fcm_mqtt_bridge::chat::suffix::profile::Profile;
use fcm_mqtt_bridge::chat::suffix::read::{ReadPosition, read_document};
use fcm_mqtt_bridge::chat::suffix::receipts::{ReceiptDocument, UserReceipt};
use fcm_mqtt_bridge::chat::suffix::requests::Request;
use fcm_mqtt_bridge::chat::suffix::scheduled::{ScheduledStatus, scheduled_document};
use fcm_mqtt_bridge::chat::topic::{BridgeTopic, ChatTopic, ClientTopic, Device, Routed, is_command_topic};
use serde_json::{Map, Value, json};
use std::collections::BTreeSet;

/// A line such as `alice:phone > alice/self/messages {..}`.
struct Shown {
    /// The client that publishes or gets it.
    client: String,
    published: bool,
    /// The MQTT topic; `push` where it comes from the push service.
    topic: String,
    document: Map<String, Value>,
}

impl Shown {
    fn all() -> Vec<Self> {
        let lines = blocks().filter(|(info, _)| *info == "text").flat_map(|(_, text)| {
            let of_chat = |line: &str| line.contains(" {\"").then(|| Self::read(line));
            text.lines().filter_map(of_chat).collect::<Vec<_>>()
        });
        lines.collect()
    }

    fn read(line: &str) -> Self {
        let (said, document) = line.split_once(" {").expect("a document follows");
        let [client, arrow, topic] = said.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{line}") };
        assert!(arrow == ">" || arrow == "<", "{line}");
        let document = serde_json::from_str(&format!("{{{document}"));
        Self {
            client: client.to_owned(),
            published: arrow == ">",
            topic: topic.to_owned(),
            document: document.unwrap_or_else(|error| panic!("{error}: {line}")),
        }
    }

    fn payload(&self) -> Vec<u8> {
        serde_json::to_vec(&self.document).unwrap()
    }

    fn text(&self, name: &str) -> &str {
        self.document[name].as_str().unwrap_or_else(|| panic!("{name} of {}", self.topic))
    }

    fn number(&self, name: &str) -> u64 {
        self.document[name].as_u64().unwrap_or_else(|| panic!("{name} of {}", self.topic))
    }

    fn sid(&self) -> Sid {
        Sid::parse(self.text("sid")).unwrap()
    }

    fn owner(&self, name: &str) -> Owner {
        Owner::of_any(self.text(name)).unwrap()
    }

    /// The document without these fields.
    fn without(&self, names: &[&str]) -> Vec<u8> {
        let mut document = self.document.clone();
        document.retain(|name, _| !names.contains(&name.as_str()));
        serde_json::to_vec(&document).unwrap()
    }

    fn is(&self, written: &[u8]) {
        let written: Value = serde_json::from_slice(written).unwrap();
        assert_eq!(written, Value::Object(self.document.clone()), "{} of {}", self.topic, self.client);
    }
}

#[test]
fn every_document_of_chat_that_a_client_would_publish_is_taken() {
    let limits = Limits::default();
    let mut seen = BTreeSet::new();
    for shown in Shown::all().into_iter().filter(|shown| shown.published) {
        let payload = shown.payload();
        if is_command_topic(&shown.topic) {
            CommandRequest::parse(&payload, &limits).unwrap();
            continue;
        }
        if let Some(routed) = Routed::parse(&shown.topic) {
            let writer = direct_writer(&payload).unwrap();
            assert!(shown.client.starts_with(writer.as_str()));
            let written = with_recipient(&payload, routed.peer, &limits).unwrap();
            UserMessage::parse(Sender::User, &written, &limits).unwrap().check_direct().unwrap();
            continue;
        }
        let topic = ClientTopic::parse(&shown.topic).unwrap().expect("a topic of the bridge");
        let fault = match &topic {
            ClientTopic::Messages(owner) => {
                let sender = if owner.as_str().starts_with("bal") { Sender::Bal } else { Sender::User };
                UserMessage::parse(sender, &payload, &limits).err()
            }
            ClientTopic::Receipts(_) => UserReceipt::parse(&payload, &limits).err(),
            ClientTopic::Presence(..) => Presence::parse(&payload, &limits).err(),
            ClientTopic::Chat(_, ChatTopic::Read) => ReadPosition::parse(&payload, &limits).err(),
            ClientTopic::Chat(_, ChatTopic::ChatState) => ChatState::parse(&payload, &limits).err(),
            ClientTopic::Chat(_, ChatTopic::Profile) => Profile::parse(&payload, &limits).err(),
            ClientTopic::Chat(_, ChatTopic::Invitations) => Invitation::parse(&payload, &limits).err(),
            ClientTopic::Chat(_, ChatTopic::Calls) => Signal::parse(&payload, &limits).err(),
            ClientTopic::Chat(_, ChatTopic::Devices(_)) => DeviceWord::parse(&payload, &limits).err(),
            ClientTopic::Chat(_, ChatTopic::Requests(_)) => Request::parse(&payload, &limits).err(),
            ClientTopic::Other(_, suffix) if suffix.is_replies() => {
                GateAnswer::parse(&payload, &limits).unwrap();
                continue;
            }
            ClientTopic::Other(..) => panic!("{topic} has no meaning"),
        };
        assert_eq!(fault, None, "{topic}");
        let suffix = shown.topic.split('/').nth(2).unwrap();
        seen.insert(suffix.to_owned());
    }
    let expected = [
        "calls",
        "chatstate",
        "devices",
        "invitations",
        "messages",
        "presence",
        "profile",
        "read",
        "receipts",
        "requests",
    ];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected, "each has an example");
}

#[test]
fn every_document_of_chat_that_a_client_would_get_is_what_the_bridge_writes() {
    let mut seen = BTreeSet::new();
    for shown in Shown::all().into_iter().filter(|shown| !shown.published) {
        let (of, suffix) = if shown.topic == BridgeTopic::Replies.to_string() {
            assert!(shown.document["ok"].is_boolean() && shown.document["ref"].is_string());
            continue;
        } else if shown.topic == "push" {
            ("", "push".to_owned())
        } else {
            let (of, suffix) = shown.topic.split_once("/others/").expect("an inbox");
            (of, suffix.split('/').next().unwrap().to_owned())
        };
        match &*suffix {
            "messages" => check_message(&shown, of),
            "members" => check_members(&shown, of),
            "profile" => check_profile(&shown, of),
            "invitations" => check_invitation(&shown),
            "calls" => check_signal(&shown),
            "receipts" => check_receipt(&shown),
            "read" => shown.is(&read_document(&shown.owner("with"), shown.sid(), shown.number("unread"))),
            "chatstate" => {
                let said = json!({"to": of, "state": shown.text("state")}).to_string();
                let state = ChatState::parse(said.as_bytes(), &Limits::default()).unwrap();
                shown.is(&state.to_payload(&shown.owner("from")));
            }
            "devices" => check_device(&shown),
            // It is the request, as it came.
            "changes" => drop(Request::parse(&shown.payload(), &Limits::default()).unwrap()),
            "replies" => assert!(shown.document["ok"].is_boolean() && shown.document["ref"].is_string()),
            "push" => check_push(&shown),
            "events" => {
                let (from, to) = (shown.text("from"), shown.text("to"));
                let event = BalEvent::MessageStored { sid: shown.text("sid").to_owned(), from, to, kind: "message" };
                let id = Sid::parse(shown.text("id")).unwrap();
                shown.is(&event.to_payload(id, shown.number("ts")));
            }
            "requests" => {
                let id = Sid::parse(shown.text("id")).unwrap();
                shown.is(&question(id, &shown.owner("from"), &shown.owner("to"), shown.number("ts")));
            }
            _ => panic!("{} has no check", shown.topic),
        }
        seen.insert(suffix);
    }
    let expected = [
        "calls",
        "changes",
        "chatstate",
        "devices",
        "events",
        "invitations",
        "members",
        "messages",
        "profile",
        "push",
        "read",
        "receipts",
        "replies",
        "requests",
    ];
    assert_eq!(seen.into_iter().collect::<Vec<_>>(), expected, "each has an example");
}

/// What one side wrote, or the word of the bridge that another device has answered.
fn check_signal(shown: &Shown) {
    let (from, dev) = (shown.owner("from"), Device::new(shown.text("dev")).unwrap());
    if shown.text("type") == "taken" {
        let (call, caller) = (CallName::new(shown.text("call").to_owned()).unwrap(), shown.owner("to"));
        let parties = Parties { call: &call, caller: &caller, callee: &from };
        return shown.is(&parties.taken(shown.sid(), shown.number("ts"), Some(&dev)));
    }
    let written = Signal::parse(&shown.without(&["sid", "ts", "from", "dev"]), &Limits::default()).unwrap();
    shown.is(&stamped(&written.to_bytes(), &Stamp { dev: Some(&dev), ..stamp_of(shown, &from) }));
}

/// The message about a call, which the bridge writes.
fn check_ending(shown: &Shown) {
    let (from, to) = (shown.owner("from"), shown.owner("to"));
    let (call, seconds) = (CallName::new(shown.text("call").to_owned()).unwrap(), shown.number("seconds"));
    let outcome = serde_json::from_value(shown.document["outcome"].clone()).unwrap();
    let message = Parties { call: &call, caller: &from, callee: &to }.message(Ending { outcome, seconds });
    shown.is(&stamped(&message, &Stamp { n: Some(shown.number("n")), ..stamp_of(shown, &from) }));
}

fn check_message(shown: &Shown, of: &str) {
    if shown.text("type") == "call" {
        return check_ending(shown);
    }
    let shows_device = of.starts_with("bal") || shown.text("from") == of;
    let is_notice = shown.text("type") == "notice";
    assert_eq!(shown.document.contains_key("dev"), shows_device && !is_notice, "of {of}");
    assert!(!of.starts_with("bal") || shown.text("id") == shown.text("sid"), "a BAL knows one id");
    let from = shown.owner("from");
    let group = shown.document.contains_key("group").then(|| shown.owner("group"));
    let dev = (shows_device && !is_notice).then(|| Device::new(shown.text("dev")).unwrap());
    if is_notice {
        let stamp = Stamp { n: Some(shown.number("n")), group: group.as_ref(), ..stamp_of(shown, &from) };
        return shown.is(&stamped(&notice(shown), &stamp));
    }
    let written = shown.without(&["sid", "n", "ts", "from", "group", "dev"]);
    let written = UserMessage::parse(Sender::User, &written, &Limits::default()).unwrap();
    // An edit or a retract has no place of its own.
    let (n, group) = (written.amends.is_none().then(|| shown.number("n")), group.as_ref());
    let stamp = Stamp { n, group, dev: dev.as_ref(), ..stamp_of(shown, &from) };
    shown.is(&stamped(&written.to_bytes(), &stamp));
}

fn check_members(shown: &Shown, of: &str) {
    let group = shown.owner("group");
    assert_eq!(group.as_str(), of);
    let role = |item: &Value| serde_json::from_value::<GroupRole>(item["role"].clone()).unwrap();
    let items: Vec<_> = shown.document["items"].as_array().unwrap().iter().collect();
    let items: Vec<_> = items.iter().map(|i| (Owner::new(i["user"].as_str().unwrap()).unwrap(), role(i))).collect();
    let (version, members) = (shown.number("version"), shown.number("members"));
    shown.is(&MemberList { group: &group, version, members, items: &items }.to_bytes());
}

fn check_profile(shown: &Shown, of: &str) {
    let group = shown.owner("group");
    assert_eq!(group.as_str(), of);
    let settings: GroupSettings = serde_json::from_slice(&shown.without(&["group", "version"])).unwrap();
    shown.is(&profile_document(&group, shown.number("version"), &settings));
}

/// That of a new group, before it is stamped.
fn notice(shown: &Shown) -> Vec<u8> {
    assert_eq!(shown.text("event"), "created");
    let group = GroupId::new(shown.text("to")).unwrap();
    let who: Vec<Owner> = shown.document["who"]
        .as_array()
        .unwrap()
        .iter()
        .map(|name| Owner::new(name.as_str().unwrap()).unwrap())
        .collect();
    let changed = SettingsChange { name: Some(shown.text("name").to_owned()), ..SettingsChange::default() };
    let (by, version) = (shown.owner("by"), shown.number("version"));
    let event = NoticeEvent::Created;
    Notice { group: &group, event, who: &who, by: &by, version, changed: &changed }.to_bytes()
}

/// Its `name` is the profile's.
fn check_invitation(shown: &Shown) {
    let written = shown.without(&["sid", "ts", "from"]);
    let said = shown.without(&["sid", "ts", "from", "name", "group_name"]);
    Invitation::parse(&said, &Limits::default()).unwrap();
    assert_eq!(shown.number("expires"), shown.number("ts") + OPEN_MS, "as without a time of its own");
    shown.is(&stamped(&written, &stamp_of(shown, &shown.owner("from"))));
}

fn stamp_of<'a>(shown: &Shown, from: &'a Owner) -> Stamp<'a> {
    Stamp { sid: shown.sid(), n: None, ts: shown.number("ts"), from, group: None, dev: None, redelivered: false }
}

fn check_receipt(shown: &Shown) {
    let waiting = match shown.text("status") {
        "scheduled" => Some(ScheduledStatus::Scheduled(shown.number("not_before"))),
        "cancelled" => Some(ScheduledStatus::Cancelled),
        _ => None,
    };
    if let Some(status) = waiting {
        return shown.is(&scheduled_document(shown.text("id"), &status, shown.number("ts"), false));
    }
    let status = [Status::Sent, Status::Delivered, Status::Read];
    let status = status.into_iter().find(|status| json!(status) == shown.document["status"]).unwrap();
    let up_to = shown.document.contains_key("up_to");
    let receipt = ReceiptDocument::new(Some(shown.text("id")), shown.sid(), status, shown.number("ts"));
    shown.is(&ReceiptDocument { up_to, ..receipt }.to_payload());
}

fn check_device(shown: &Shown) {
    let event = DeviceEvent::Registered;
    let (dev, token_hash, ts) = (shown.text("dev"), shown.text("token_hash"), shown.number("ts"));
    shown.is(&DeviceDocument { event, dev, token_hash, code: None, ts }.to_payload());
}

/// What a transport adds over FCM HTTP v1 is left out.
fn check_push(shown: &Shown) {
    let (account, token) = (shown.owner("account"), Token::new("TOKEN").unwrap());
    let unread = shown.text("unread").parse().unwrap();
    let to = Addressee {
        account: &account,
        token: &token,
        platform: Platform::Android,
        format: Format::Full,
        lang: None,
        unread,
        badge: Badge::Client,
    };
    let with = shown.document.contains_key("with").then(|| shown.owner("with"));
    let call = shown.document.contains_key("call").then(|| CallName::new(shown.text("call").to_owned()).unwrap());
    let content = match shown.text("type") {
        "message" => Content::Item(Item {
            kind: ItemKind::Message,
            with: with.as_ref().unwrap(),
            by: None,
            sid: shown.sid(),
            title: shown.text("title"),
            body: shown.text("body"),
            ts: shown.text("ts").parse().unwrap(),
            silent: false,
        }),
        "call" => Content::Item(Item {
            kind: ItemKind::Call(call.as_ref().unwrap()),
            with: with.as_ref().unwrap(),
            by: None,
            sid: shown.sid(),
            title: shown.text("title"),
            body: "",
            ts: shown.text("ts").parse().unwrap(),
            silent: false,
        }),
        "clear" if call.is_some() => {
            Content::ClearCall { with: with.as_ref().unwrap(), sid: shown.sid(), call: call.as_ref().unwrap() }
        }
        "clear" => {
            Content::Clear { with: with.as_ref().unwrap(), sid: shown.sid(), only: shown.document.contains_key("only") }
        }
        "sync" => Content::Sync,
        kind => panic!("a push of type {kind}"),
    };
    let mut expected = shown.document.clone();
    expected.retain(|name, _| name != "mid" && name != "ack");
    assert_eq!(Value::Object(push(&to, &content).data), Value::Object(expected));
}

#[test]
fn the_device_of_every_line_could_be_one() {
    for shown in Shown::all() {
        let name = shown.client.split(':').next().unwrap();
        Owner::new(name).unwrap_or_else(|fault| panic!("{fault}: {name}"));
        let Some(device) = shown.client.split(':').nth(1).filter(|device| *device != "*") else { continue };
        Device::new(device).unwrap_or_else(|fault| panic!("{fault}: {device}"));
        let own = shown.topic.starts_with(&format!("{name}/"));
        // On a broker that is trusted.
        let direct = shown.published && Routed::parse(&shown.topic).is_some();
        let of_group = shown.topic.starts_with("g-");
        let allowed = own || direct || of_group || shown.topic == "push";
        assert!(allowed, "{} has to do with {}", shown.client, shown.topic);
    }
}
