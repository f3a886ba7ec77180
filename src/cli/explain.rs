//! `explain FILE`: what FCM HTTP v1 makes of a message: of a BAL, of CCS, or a request of its own.

use super::UsageError;
use crate::chat::message::{Downstream, Errand, Limits, condition_fault};
use crate::fcm::legacy;
use crate::fcm::message::Message;
use crate::fcm::request::{Request, translate};
use crate::fcm::target::Kind;
use crate::ops::clock::now_ms;
use crate::transport::fcm::encode;
use anyhow::{Context, bail};
use serde_json::{Map, Value};
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Longest document that is read; a message has at most 65536 bytes.
const DOCUMENT_MAX: u64 = 1024 * 1024;
/// Stands for the id that the bridge would make.
const NO_ID: &str = "0000000000000000";

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
    let request = explain(&document, ack, now_ms() / 1000)?;
    let body: Value = serde_json::from_str(&request.body)?;
    println!("{body:#}");
    if request.losses.is_empty() {
        eprintln!("nothing is lost");
    }
    for loss in &request.losses {
        eprintln!("{loss}");
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

fn explain(document: &[u8], ack: Option<&str>, now_unix_s: u64) -> anyhow::Result<Request> {
    let fields: Map<String, Value> = serde_json::from_slice(document).context("the document is not a JSON object")?;
    let message = match Dialect::of(&fields)? {
        Dialect::Ccs => legacy::read(document, ack).context("as a message of CCS")?,
        Dialect::V1 => legacy::read(document, ack).context("as a request of FCM HTTP v1")?,
        Dialect::Bal => bal(document, ack)?,
    };
    if message.target.kind() == Kind::Condition
        && let Some(fault) = condition_fault(message.target.reveal())
    {
        bail!("FCM would refuse it: `condition` {fault}");
    }
    translate(message, now_unix_s).context("FCM would refuse it")
}

fn bal(document: &[u8], ack: Option<&str>) -> anyhow::Result<Message> {
    let downstream = Downstream::parse(document, &Limits::default()).context("as a message of a BAL (topics.md)")?;
    let Errand::Push(push) = &downstream.errand else {
        bail!("`to` is a name, and nobody can register one: use `token` (NO_TOKEN)");
    };
    let id = downstream.id.as_ref().map_or(NO_ID, |id| id.as_str());
    encode::message(push, id.to_owned(), downstream.ttl, ack).context("FCM would refuse it")
}

/// Whose words a document is in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Dialect {
    Ccs,
    V1,
    Bal,
}

impl Dialect {
    /// A document with nothing but what both have (`to`, `condition`, `data`, `notification`, `priority`) is read as one
    /// of CCS, where `to` can be a token.
    fn of(fields: &Map<String, Value>) -> Result<Self, UsageError> {
        if fields.contains_key("message") {
            return Ok(Self::V1);
        }
        let first = |names: &[&'static str]| names.iter().find(|name| fields.contains_key(**name)).copied();
        match (first(&BAL_ONLY), first(&CCS_ONLY)) {
            (Some(ours), Some(theirs)) => Err(UsageError(format!(
                "`{ours}` is a field of a BAL's message (topics.md) and `{theirs}` one of CCS: which of them is it?"
            ))),
            (Some(_), None) => Ok(Self::Bal),
            (None, _) => Ok(Self::Ccs),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn explained(document: Value) -> anyhow::Result<(Value, Vec<String>)> {
        let request = explain(document.to_string().as_bytes(), None, 100)?;
        let losses = request.losses.iter().map(|loss| loss.field.to_string()).collect();
        Ok((serde_json::from_str(&request.body)?, losses))
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
        assert_eq!(request["message"]["token"], "T");
        assert_eq!(losses, ["data.ack", "data.mid", "content_available", "collapse_key"]);
        assert_eq!(names, ["data.ack", "data.mid", "content_available", "collapse"], "each in its sender's words");
    }

    #[test]
    fn no_note_names_a_word_that_nobody_wrote() {
        let losses = |document: Value| explained(document).unwrap().1;
        assert_eq!(losses(json!({"id": "a", "token": "T", "data": {}, "receipt": false})), ["data.mid"]);
        assert_eq!(losses(json!({"id": "a", "token": "T", "data": {"mid": "mine"}})), ["data.ack", "data.mid"]);
        let fcm =
            json!({"validateOnly": true, "contentAvailable": true, "androidV2": {"backgroundSync": {}, "oddOne": 1}});
        let document = json!({"id": "a", "token": "T", "data": {}, "receipt": false, "fcm": fcm});
        assert_eq!(losses(document), ["androidV2.oddOne", "data.mid", "contentAvailable", "validateOnly"]);
        let notification = json!({"clickAction": "c", "channelId": "c", "tiTle": "t"});
        let document = json!({"id": "a", "token": "T", "receipt": false, "notification": notification});
        assert_eq!(losses(document), ["data.mid", "notification.channelId", "notification.tiTle"]);
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
        assert_eq!(losses, ["validateOnly"]);
        let fid = "cAbCdEfGhIjKlMnOpQrStU";
        assert_eq!(explained(json!({"message": {"fid": fid}})).unwrap().0["message"], json!({"fid": fid}));
    }

    #[test]
    fn errors_say_what_is_wrong() {
        for (document, words) in [
            (json!([]), "not a JSON object"),
            (json!({"token": "T", "message_id": "m"}), "which of them"),
            (json!({"to": "T", "condition": "c", "message_id": "m"}), "more than one target"),
            (json!({"message_id": "m", "data": {}}), "no target"),
            (json!({"registration_ids": ["a"], "data": {}}), "one message to each token"),
            (json!({"id": "a", "token": "T"}), "MISSING_FIELD"),
            (json!({"id": "a", "to": "alice", "body": "x"}), "use `token`"),
            (json!({"to": "T", "time_to_live": -1}), "`time_to_live` is not a whole number from 0 to 2419200"),
            (json!({"to": "T", "time_to_live": "30000s"}), "`time_to_live` is not a whole number from 0 to 2419200"),
            (json!({"to": "T", "time_to_live": 2_419_201}), "`time_to_live` is not a whole number from 0 to 2419200"),
            (json!({"condition": "'a' in topics &&"}), "`condition`"),
            (json!({"message": {"condition": "a"}}), "`condition`"),
            (json!({"message": {"token": "T", "topic": "t"}}), "more than one target"),
            (json!({"message": {"data": {"k": "v"}}}), "no target"),
            (json!({"message": {"token": "T", "android": {"ttl": "soon"}}}), "`android.ttl` is not a duration"),
            (json!({"message": "x"}), "`message` is not an object"),
            (json!({"to": "T", "data": {"google.x": "1"}}), "belongs to the push service"),
            (json!({"id": "a", "token": "T", "body": "x", "fcm": {"android": 1}}), "`android`"),
        ] {
            let error = format!("{:#}", explained(document.clone()).unwrap_err());
            assert!(error.contains(words), "{document}: {error}");
        }
    }
}
