//! `explain FILE`: what FCM HTTP v1 makes of a message: of a BAL, of CCS, or a request of its own.

pub(super) mod push;

use super::{UsageError, legacy};
use crate::chat::message::{Downstream, Errand, Limits, Sender, condition_fault};
use crate::chat::push::plain;
use crate::fcm::message::Message;
use crate::fcm::request::translate;
use crate::fcm::target::Kind;
use crate::ops::clock::now_ms;
use crate::ops::print;
use crate::transport::fcm_v1::encode;
use anyhow::{Context, bail};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Longest document that is read; a message has at most 65536 bytes.
const DOCUMENT_MAX: u64 = 1024 * 1024;
/// Stands for the id that the bridge makes, whatever the sender's is.
const NO_ID: &str = "0000000000000000";
/// Where apps confirm, as the bridge tells them unless `fcm.app_receipts` is false.
const CONFIRM_TO: &str = "self/receipts";

/// A sender in the form of CCS calls every field by its name there.
const WORDS_OF_CCS: [(&str, &str); 2] = [("collapse_key", "collapse_key"), ("time_to_live", "time_to_live")];

/// Fields that only a BAL's message has.
const BAL_ONLY: [&str; 10] = ["id", "token", "topic", "ttl", "collapse", "receipt", "push", "order", "body", "fcm"];
/// Fields that only a message of CCS has.
const CCS_ONLY: [&str; 10] = [
    "message_id",
    "message_type",
    "time_to_live",
    "collapse_key",
    "delivery_receipt_requested",
    "content_available",
    "mutable_content",
    "restricted_package_name",
    "dry_run",
    "registration_ids",
];

/// Prints the request to standard output, and what it loses to standard error.
///
/// # Errors
/// When the document cannot be read, or FCM would refuse what it says.
pub(super) fn run(path: &Path, ack: Option<&str>) -> anyhow::Result<()> {
    let document = read(path)?;
    let Explained { body, notes } = explain(&document, ack, now_ms() / 1000)?;
    print::line(format_args!("{body:#}"))?;
    if notes.is_empty() {
        print::note("nothing is lost");
    }
    for note in &notes {
        print::note(format_args!("{note}"));
    }
    Ok(())
}

fn read(path: &Path) -> anyhow::Result<Vec<u8>> {
    let mut document = Vec::new();
    let limit = DOCUMENT_MAX + 1;
    if path == Path::new("-") {
        std::io::stdin().take(limit).read_to_end(&mut document).context("standard input")?;
    } else {
        let file = File::open(path).with_context(|| format!("{}", path.display()))?;
        file.take(limit).read_to_end(&mut document).with_context(|| format!("{}", path.display()))?;
    }
    if u64::try_from(document.len()).unwrap_or(u64::MAX) > DOCUMENT_MAX {
        bail!(UsageError(format!("the document is longer than {DOCUMENT_MAX} bytes")));
    }
    Ok(document)
}

/// The request, and what there is to say of it.
struct Explained {
    body: Value,
    notes: Vec<String>,
}

fn explain(document: &[u8], ack: Option<&str>, now_unix_s: u64) -> anyhow::Result<Explained> {
    let fields: Map<String, Value> = serde_json::from_slice(document).context("the document is not a JSON object")?;
    let dialect = Dialect::of(&fields)?;
    let (message, unread) = match dialect {
        Dialect::V1 => (legacy::read(document, ack).context("as a request of FCM HTTP v1")?, Vec::new()),
        Dialect::Ccs | Dialect::Bal => of_bal(document, dialect, ack)?,
    };
    if message.target.kind() == Kind::Condition
        && let Some(fault) = condition_fault(message.target.reveal())
    {
        bail!("FCM would refuse it: `condition` {fault}");
    }
    let request = translate(message, now_unix_s).context("FCM would refuse it")?;
    let body: Value = serde_json::from_str(&request.body)?;
    let mut notes: Vec<String> = request.losses.iter().map(ToString::to_string).collect();
    let fault = match dialect {
        Dialect::Ccs => "no field of a message in the form of CCS (topics.md), and ignored",
        Dialect::V1 | Dialect::Bal => {
            "no field of a BAL's message (topics.md), and ignored; fields of FCM's own stand in `fcm`"
        }
    };
    notes.extend(unread.iter().map(|name| format!("`{name}`: {fault}")));
    if dialect == Dialect::V1 {
        compare(&Value::Object(fields), &body, "", &mut notes)?;
    }
    Ok(Explained { body, notes })
}

/// Says where the bridge would write a request of v1 in another way than it stands there, which FCM need not take.
///
/// # Errors
/// When a field of it is none of v1's there, which FCM refuses.
fn compare(given: &Value, sent: &Value, at: &str, notes: &mut Vec<String>) -> anyhow::Result<()> {
    let (Value::Object(given), Value::Object(sent)) = (given, sent) else {
        if given != sent {
            notes.push(format!("`{at}`: written as v1 wants it; as it stands FCM may refuse it"));
        }
        return Ok(());
    };
    let path = |name: &str| if at.is_empty() { name.to_owned() } else { format!("{at}.{name}") };
    let is_same = |one: &str, other: &str| plain(one) == plain(other);
    for (name, value) in given {
        let same = sent.get(name).or_else(|| Some(sent.iter().find(|(other, _)| is_same(name, other))?.1));
        match same {
            Some(same) => compare(value, same, &path(name), notes)?,
            // What says nothing need not be there.
            None if value.is_null() || value.as_object().is_some_and(Map::is_empty) => {}
            None => bail!("FCM refuses it: `{}` is unknown in v1", path(name)),
        }
    }
    let is_new = |name: &&String| given.keys().all(|other| !is_same(name, other));
    // A request that says nothing of it is no dry run.
    let added = sent.keys().filter(is_new).filter(|name| !(at.is_empty() && *name == "validate_only"));
    notes.extend(added.map(|name| format!("`{}`: not there, and added by the bridge", path(name))));
    Ok(())
}

/// The message as the bridge takes it from a BAL, and the names of the fields that it ignores.
fn of_bal(document: &[u8], dialect: Dialect, ack: Option<&str>) -> anyhow::Result<(Message, Vec<String>)> {
    let form = match dialect {
        Dialect::Ccs => "in the form of CCS (topics.md)",
        Dialect::V1 | Dialect::Bal => "as a message of a BAL (topics.md)",
    };
    let downstream = Downstream::parse(Sender::Bal, document, &Limits::default()).context(form)?;
    let Errand::Push(push) = &downstream.errand else {
        bail!(
            "`to` is a user: what is pushed to the user's devices depends on who is there; give a `token`, or, in the form of \
             CCS, a `message_id`"
        );
    };
    let ack = ack.or(Some(CONFIRM_TO));
    let message = encode::message(push, NO_ID.to_owned(), downstream.ttl, ack).context("FCM would refuse it")?;
    let words = if dialect == Dialect::Ccs { &WORDS_OF_CCS[..] } else { message.words };
    Ok((Message { words, ..message }, downstream.ignored))
}

/// Whose words a document is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Ccs,
    V1,
    Bal,
}

impl Dialect {
    /// As the bridge tells them: a message of CCS has a `message_id`.
    fn of(fields: &Map<String, Value>) -> Result<Self, UsageError> {
        if fields.contains_key("message") {
            return Ok(Self::V1);
        }
        let first = |names: &[&'static str]| names.iter().find(|name| fields.contains_key(**name)).copied();
        match (first(&BAL_ONLY), first(&CCS_ONLY)) {
            (Some(ours), Some(theirs)) => Err(UsageError(format!(
                "`{ours}` is a field of a BAL's message (topics.md) and `{theirs}` one of CCS: which of them is it?"
            ))),
            (None, Some(_)) if fields.contains_key("registration_ids") => Err(UsageError(
                "`registration_ids` is a field of the legacy HTTP protocol; send one message to each token".to_owned(),
            )),
            (None, Some(_)) if fields.contains_key("message_id") => Ok(Self::Ccs),
            _ => Ok(Self::Bal),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn explained(document: Value) -> anyhow::Result<(Value, Vec<String>)> {
        let Explained { body, notes } = explain(document.to_string().as_bytes(), None, 100)?;
        let fields = notes.iter().map(|note| note.split('`').nth(1).unwrap().to_owned()).collect();
        Ok((body, fields))
    }

    #[test]
    fn a_message_of_ccs_and_that_of_a_bal_give_the_same_request() {
        let ccs = json!({"to": "T", "message_id": "m", "data": {"k": "v"}, "time_to_live": 60, "priority": "high",
            "collapse_key": "c", "delivery_receipt_requested": true, "content_available": true});
        let bal = json!({"token": "T", "id": "m", "data": {"k": "v"}, "ttl": 60, "collapse": "c",
            "fcm": {"content_available": true}});
        let (request, losses) = explained(ccs).unwrap();
        let (of_bal, names) = explained(bal).unwrap();
        assert_eq!(request, of_bal);
        assert_eq!(request["message"]["data"]["ack"], "self/receipts");
        assert_eq!(request["message"]["token"], "T");
        assert_eq!(losses, ["data.mid", "data.ack", "content_available", "collapse_key"]);
        assert_eq!(names, ["data.mid", "data.ack", "content_available", "collapse"], "each in its sender's words");
    }

    #[test]
    fn a_message_of_ccs_is_read_as_the_bridge_reads_it() {
        let whole = |fields: Value| {
            let mut document = json!({"to": "T", "message_id": "m1"});
            document.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            document
        };
        for (document, words) in [
            (whole(json!({"data": {"k": {"n": 1}}})), "BAD_FIELD"),
            (whole(json!({"message_id": "m/1"})), "BAD_ID"),
            (whole(json!({"priority": "HIGH"})), "BAD_FIELD"),
            (whole(json!({"message_type": "ack"})), "BAD_FIELD"),
            (whole(json!({"dryRun": true})), "BAD_FIELD"),
            (json!({"to": "T", "data": {"k": "v"}}), "`message_id`"),
            (json!({"to": "T", "time_to_live": 5, "data": {"k": "v"}}), "`message_id`"),
        ] {
            let error = format!("{:#}", explained(document.clone()).unwrap_err());
            assert!(error.contains(words), "{document}: {error}");
        }
        let (request, notes) =
            explained(whole(json!({"android": {"ttl": "5s"}, "delay_while_idle": true, "time_to_live": 7}))).unwrap();
        assert_eq!(request["message"]["android"]["ttl"], "7s");
        assert_eq!(notes, ["data.mid", "delay_while_idle", "android"]);
    }

    #[test]
    fn no_note_names_a_word_that_nobody_wrote() {
        let losses = |document: Value| explained(document).unwrap().1;
        assert_eq!(losses(json!({"id": "a", "token": "T", "data": {}, "receipt": false})), ["data.mid"]);
        assert_eq!(losses(json!({"id": "a", "token": "T", "data": {"mid": "mine"}})), ["data.mid"]);
        let fcm =
            json!({"validateOnly": true, "contentAvailable": true, "androidV2": {"backgroundSync": {}, "oddOne": 1}});
        let document = json!({"id": "a", "token": "T", "data": {}, "receipt": false, "fcm": fcm});
        assert_eq!(losses(document), ["androidV2.oddOne", "data.mid", "contentAvailable", "validateOnly"]);
        let notification = json!({"clickAction": "c", "channelId": "c", "tiTle": "t"});
        let document = json!({"id": "a", "token": "T", "receipt": false, "notification": notification});
        assert_eq!(losses(document), ["data.mid", "notification.channelId", "notification.tiTle"]);
    }

    #[test]
    fn a_field_that_is_none_of_a_bals_message_is_named() {
        let document = json!({"id": "a", "token": "T", "data": {}, "receipt": false, "category": "c", "v": 1,
            "android": {"ttl": "5s"}, "bogus": 1, "nothing": null});
        assert_eq!(explained(document).unwrap().1, ["data.mid", "android", "bogus"]);
        let whole = json!({"id": "a", "token": "T", "data": {}, "body": "b", "type": "t", "ttl": 5, "collapse": "c",
            "receipt": false, "push": "auto", "order": "o", "priority": "high", "notification": {"title": "t"},
            "category": "c", "fcm": {}});
        let (_, names) = explained(whole).unwrap();
        assert!(names.iter().all(|name| ["data.mid", "collapse"].contains(&name.as_str())), "{names:?}");
    }

    #[test]
    fn a_request_of_v1_is_checked_and_shown_as_it_would_be_sent() {
        let message = json!({"token": "T", "data": {"n": 1}, "notification": {"title": "t"},
            "android": {"ttl": 3600, "collapseKey": "c"}, "apns": {"headers": {"apns-priority": 10}}});
        let (request, losses) = explained(json!({"validateOnly": true, "message": message})).unwrap();
        assert_eq!(
            request,
            json!({"validate_only": true, "message": {"token": "T", "data": {"n": "1"}, "notification": {"title": "t"},
                "android": {"ttl": "3600s", "collapse_key": "c"}, "apns": {"headers": {"apns-priority": "10"}}}})
        );
        assert_eq!(
            losses,
            ["validateOnly", "message.data.n", "message.android.ttl", "message.apns.headers.apns-priority"],
            "FCM itself would take none of the values"
        );
        let fid = "cAbCdEfGhIjKlMnOpQrStU";
        assert_eq!(explained(json!({"message": {"fid": fid}})).unwrap().0["message"], json!({"fid": fid}));
    }

    #[test]
    fn a_request_of_v1_is_not_read_in_the_words_of_ccs() {
        for (message, field) in [
            (json!({"notification": {"title": "t", "sound": "x"}}), "message.notification.sound"),
            (json!({"priority": "high"}), "message.priority"),
            (json!({"time_to_live": 5}), "message.time_to_live"),
            (json!({"collapse_key": "c"}), "message.collapse_key"),
            (json!({"content_available": true}), "message.content_available"),
            (json!({"validate_only": true}), "message.validate_only"),
            (json!({"message_id": "m"}), "message.message_id"),
            (json!({"android": {"notification": {"badge": 1}}}), "message.android.notification.badge"),
        ] {
            let mut message = message;
            message["token"] = json!("T");
            let error = format!("{:#}", explained(json!({ "message": message })).unwrap_err());
            assert_eq!(error, format!("FCM refuses it: `{field}` is unknown in v1"));
        }
        let error = explained(json!({"validate_only": true, "message": {"token": "T", "validate_only": false}}));
        assert!(format!("{:#}", error.unwrap_err()).contains("validate_only"));
        assert!(explained(json!({"message": {"token": "T"}, "dry_run": true})).is_err());
        for (message, fields) in [
            (json!({"token": 5}), vec!["message.token"]),
            (json!({"token": "T", "data": {"a": {"b": 1}, "b": "x"}}), vec!["message.data.a"]),
            (json!({"topic": "/topics/a"}), vec!["message.topic"]),
            (json!({"token": "T", "androidV2": {"backgroundSync": {}}, "notification": {}, "fid": null}), vec![]),
            (
                json!({"token": "T", "apns": {"payload": {"mine": 1}}}),
                vec!["message.apns.payload.aps", "message.apns.headers"],
            ),
        ] {
            let mut notes = explained(json!({"message": message})).unwrap().1;
            notes.sort();
            let mut fields = fields;
            fields.sort_unstable();
            assert_eq!(notes, fields, "{message}");
        }
    }

    #[test]
    fn a_message_of_a_bal_is_weighed_and_confirmed_as_the_bridge_would_send_it() {
        let fitted = |id: &str, room: usize| {
            let data = json!({"k": "v".repeat(4096 - 1 - room)});
            explained(json!({"id": id, "token": "T", "data": data})).unwrap()
        };
        let ours = "mid".len() + 16 + "ack".len() + "self/receipts".len();
        for id in ["a", &"a".repeat(64)] {
            let (request, losses) = fitted(id, ours);
            assert_eq!(request["message"]["data"]["ack"], "self/receipts");
            assert_eq!(losses, ["data.mid", "data.ack"]);
            assert_eq!(fitted(id, ours - 1).1, ["data"]);
        }
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (document, words) in [
            (json!([]), "not a JSON object"),
            (json!({"token": "T", "message_id": "m"}), "which of them"),
            (json!({"to": "T", "condition": "c", "message_id": "m"}), "both of `to` and `condition`"),
            (json!({"message_id": "m", "data": {}}), "none of `to` and `condition`"),
            (json!({"registration_ids": ["a"], "data": {}}), "one message to each token"),
            (json!({"id": "a", "token": "T"}), "MISSING_FIELD"),
            (json!({"id": "a", "to": "alice", "body": "x"}), "give a `token`"),
            (json!({"to": "T", "message_id": "m", "time_to_live": -1}), "`time_to_live` is not a whole number"),
            (json!({"to": "T", "message_id": "m", "time_to_live": "30000s"}), "`time_to_live` is not a whole number"),
            (json!({"to": "T", "message_id": "m", "time_to_live": 2_419_201}), "`time_to_live` is not a whole number"),
            (json!({"condition": "'a' in topics &&"}), "`condition`"),
            (json!({"message": {"condition": "a"}}), "`condition`"),
            (json!({"message": {"token": "T", "topic": "t"}}), "more than one target"),
            (json!({"message": {"data": {"k": "v"}}}), "no target"),
            (json!({"message": {"token": "T", "android": {"ttl": "soon"}}}), "`android.ttl` is not a duration"),
            (json!({"message": "x"}), "`message` is not an object"),
            (json!({"to": "T", "message_id": "m", "data": {"google.x": "1"}}), "RESERVED_KEY"),
            (json!({"id": "a", "token": "T", "body": "x", "fcm": {"android": 1}}), "`android`"),
        ] {
            let error = format!("{:#}", explained(document.clone()).unwrap_err());
            assert!(error.contains(words), "{document}: {error}");
        }
    }
}
