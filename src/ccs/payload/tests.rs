use super::fields::mend_strings;
use super::*;
use proptest::prelude::*;

fn inbound(value: &Value) -> Inbound {
    Inbound::parse(&value.to_string()).unwrap()
}

#[test]
fn a_message_without_a_type_is_upstream() {
    let captured = json!({
        "from": "APA91b", "category": "com.example.app", "message_id": "17", "time_to_live": 86400,
        "data": {"hello": "world", "n": 1}, "new_field": [1],
    });
    let Inbound::Upstream(upstream) = inbound(&captured) else { panic!() };
    assert_eq!((upstream.from.as_str(), upstream.message_id.as_str()), ("APA91b", "17"));
    assert_eq!(upstream.category.as_deref(), Some("com.example.app"));
    assert_eq!(Value::Object(upstream.data), json!({"hello": "world", "n": 1}));
    assert_eq!(Value::Object(upstream.extra), json!({"time_to_live": 86400, "new_field": [1]}));
}

#[test]
fn upstream_needs_no_data_and_no_category() {
    for data in [json!({"from": "T", "message_id": "1"}), json!({"from": "T", "message_id": 1, "data": null})] {
        let Inbound::Upstream(upstream) = inbound(&data) else { panic!() };
        assert!(upstream.data.is_empty() && upstream.category.is_none());
        assert_eq!(upstream.message_id, "1");
    }
}

#[test]
fn answers_are_known_by_their_type() {
    let ack = json!({"from": "T", "message_id": "m", "message_type": "ack", "registration_id": "C"});
    assert_eq!(
        inbound(&ack),
        Inbound::Ack(Accepted {
            message_id: "m".to_owned(),
            from: Some("T".to_owned()),
            registration_id: Some("C".to_owned()),
            ..Accepted::default()
        })
    );
    let group = json!({"message_id": "m", "message_type": "ack", "success": 1, "failure": "2",
        "failed_registration_ids": ["A", 7, "B"]});
    let Inbound::Ack(group) = inbound(&group) else { panic!() };
    assert_eq!((group.success, group.failure), (Some(1), Some(2)));
    assert_eq!(group.failed_registration_ids, ["A", "B"]);
    let nack = json!({"message_type": "nack", "message_id": 7, "error": "BAD_REGISTRATION", "error_description": "d"});
    let Inbound::Nack(nack) = inbound(&nack) else { panic!() };
    assert_eq!(
        (nack.message_id.as_deref(), nack.code(), nack.description()),
        (Some("7"), NackCode::BadRegistration, "d")
    );
    let old = json!({"message_type": "nack", "message_id": "m", "from": "T", "error": "InvalidJson : INVALID_TTL : x"});
    let Inbound::Nack(old) = inbound(&old) else { panic!() };
    assert_eq!((old.code(), old.description()), (NackCode::InvalidJson, "InvalidJson : INVALID_TTL : x"));
}

#[test]
fn a_control_message_needs_no_id() {
    let control = json!({"message_type": "control", "control_type": "CONNECTION_DRAINING"});
    assert_eq!(inbound(&control), Inbound::Control { control_type: "CONNECTION_DRAINING".to_owned() });
    assert_eq!(inbound(&json!({"message_type": "control"})), Inbound::Control { control_type: String::new() });
    assert_eq!(inbound(&json!({"message_type": "news"})), Inbound::Unknown { message_type: "news".to_owned() });
}

#[test]
fn the_captured_receipt_is_read_whole_and_a_bare_one_as_well() {
    let captured = json!({
        "message_type": "receipt", "message_id": "dr2:m-1548", "from": "gcm.googleapis.com",
        "category": "com.example.app", "time_to_live": 0,
        "data": {"message_status": "MESSAGE_SENT_TO_DEVICE", "original_message_id": "m-1548",
            "device_registration_id": "APA91b", "message_sent_timestamp": "1430277821658"},
    });
    let receipt = inbound(&captured);
    let Inbound::Receipt(inner) = &receipt else { panic!() };
    assert_eq!(inner.message_id, "dr2:m-1548");
    assert_eq!(inner.original_message_id.as_deref(), Some("m-1548"));
    assert_eq!(inner.sent_at_ms, Some(1_430_277_821_658));
    assert_eq!(serde_json::from_str::<Value>(&receipt.to_json()).unwrap(), captured);
    let bare = inbound(&json!({"message_type": "receipt", "message_id": "dr2:x", "from": "gcm.googleapis.com"}));
    assert!(matches!(bare, Inbound::Receipt(Receipt { original_message_id: None, status: None, .. })));
}

#[test]
fn what_cannot_be_used_is_a_typed_error() {
    for (text, error) in [
        ("{\"a\":", PayloadError::Json { line: 1, column: 5 }),
        ("[]", PayloadError::NotObject),
        ("{\"message_id\":\"1\"}", PayloadError::Field("from")),
        ("{\"from\":\"T\"}", PayloadError::Field("message_id")),
        ("{\"from\":\"T\",\"message_id\":\"1\",\"data\":\"x\"}", PayloadError::Field("data")),
        ("{\"from\":\"T\",\"message_id\":\"1\",\"message_type\":{}}", PayloadError::Field("message_type")),
        ("{\"message_type\":\"ack\"}", PayloadError::Field("message_id")),
    ] {
        assert_eq!(Inbound::parse(text), Err(error), "{text}");
    }
    // `//` comments and trailing commas stand in the documents' samples only.
    assert!(Inbound::parse("{\"from\":\"T\",\"message_id\":\"1\",}").is_err());
}

#[test]
fn a_misspelt_ack_is_a_message_to_a_device_as_at_ccs() {
    let typo = json!({"to": "T", "message_id": "1", "message_type": "akc"});
    assert!(matches!(Outbound::parse(&typo.to_string()), Ok(Outbound::Downstream(d)) if d.to.as_deref() == Some("T")));
    assert_eq!(Outbound::parse("{\"to\":\"T\"}"), Err(PayloadError::Field("message_id")));
}

fn map() -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::btree_map("x[a-z]{0,5}", any::<String>().prop_map(Value::from), 0..4)
        .prop_map(|fields| fields.into_iter().collect())
}

fn any_inbound() -> impl Strategy<Value = Inbound> {
    let text = any::<String>;
    let maybe = any::<Option<String>>;
    prop_oneof![
        (text(), maybe(), text(), map(), map()).prop_map(|(from, category, message_id, data, extra)| {
            Inbound::Upstream(Upstream { from, category, message_id, data, extra })
        }),
        (text(), maybe(), maybe(), any::<[Option<u64>; 2]>(), any::<Vec<String>>()).prop_map(
            |(message_id, from, registration_id, [success, failure], failed_registration_ids)| {
                Inbound::Ack(Accepted { message_id, from, registration_id, success, failure, failed_registration_ids })
            }
        ),
        (maybe(), maybe(), text(), maybe(), maybe()).prop_map(
            |(message_id, from, error, error_description, registration_id)| {
                Inbound::Nack(Nack { message_id, from, error, error_description, registration_id })
            }
        ),
        (text(), text(), maybe(), maybe(), maybe(), maybe(), any::<Option<u64>>()).prop_map(
            |(from, message_id, category, original_message_id, status, device_registration_id, sent_at_ms)| {
                Inbound::Receipt(Receipt {
                    from,
                    message_id,
                    category,
                    original_message_id,
                    status,
                    device_registration_id,
                    sent_at_ms,
                })
            }
        ),
        text().prop_map(|control_type| Inbound::Control { control_type }),
    ]
}

proptest! {
    #[test]
    fn inbound_survives_its_json(inbound in any_inbound()) {
        prop_assert_eq!(Inbound::parse(&inbound.to_json()), Ok(inbound));
    }

    #[test]
    fn outbound_survives_its_json(to: Option<String>, condition: Option<String>, message_id: String, fields in map()) {
        let downstream = Downstream { to, condition, message_id, fields };
        prop_assert_eq!(Outbound::parse(&downstream.clone().into_json()), Ok(Outbound::Downstream(downstream)));
    }

    #[test]
    fn an_ack_repeats_its_id_byte_for_byte(to: String, message_id: String) {
        let ack = Ack { to, message_id };
        prop_assert_eq!(Outbound::parse(&ack.to_json()), Ok(Outbound::Ack(ack)));
    }

    #[test]
    fn no_text_breaks_the_parser(text: String) {
        let _ = Inbound::parse(&text);
        let _ = Outbound::parse(&text);
    }
}

#[test]
fn a_text_that_was_cut_within_a_character_costs_that_character_alone() {
    let read = |data: &str| {
        let json = format!(r#"{{"from":"T","message_id":"1","data":{{"a":"{data}"}}}}"#);
        let Ok(Inbound::Upstream(upstream)) = Inbound::parse(&json) else { panic!("{json}") };
        upstream.data["a"].as_str().unwrap().to_owned()
    };
    for (written, expected) in [
        (r"x\ud83d", "x\u{fffd}"),
        (r"\ud83dx", "\u{fffd}x"),
        (r"\ude00x", "\u{fffd}x"),
        (r"\ud83d\ud83d\ude00", "\u{fffd}😀"),
        (r"\ud83d\u0041", "\u{fffd}A"),
        (r"\ud83d\n", "\u{fffd}\n"),
        (r"\\ud83d\ud83d", "\\ud83d\u{fffd}"),
        ("a\tb\u{1}c", "a\tb\u{1}c"),
        (r#"\"\ud83d"#, "\"\u{fffd}"),
        (r"é\uD83D", "é\u{fffd}"),
    ] {
        assert_eq!(read(written), expected, "{written}");
    }
}

#[test]
fn null_is_no_type_of_a_message() {
    let message = json!({"from": "T", "message_id": "1", "message_type": null, "data": {"a": "b"}});
    let Inbound::Upstream(upstream) = inbound(&message) else { panic!() };
    assert!(upstream.extra.is_empty());
    let odd = json!({"from": "T", "message_id": "1", "message_type": [], "data": {"a": "b"}});
    assert!(Inbound::parse(&odd.to_string()).is_err());
}

#[test]
fn what_cannot_be_read_has_a_sender_all_the_same() {
    let deep = format!("{}{}", "[".repeat(5_000), "]".repeat(5_000));
    for data in ["1e400", &deep, "\"\\ud83d\", \"b\": 1e999", "{\"a\": \"\u{1}\", \"b\": -1e400}"] {
        let json = format!(r#"{{"data": {data}, "from": "T", "message_id": 7, "more": [{data}]}}"#);
        let json = if data.contains("\"b\"") { json.replace(&format!("[{data}]"), "0") } else { json };
        assert!(Inbound::parse(&json).is_err());
        assert_eq!(sender_of(&json), Some(("T".to_owned(), "7".to_owned())), "{}", &json[..40]);
    }
    assert_eq!(sender_of(r#"{"from": "T", "message_id": "7", "message_type": "ack", "x": 1e400}"#), None);
    assert_eq!(sender_of(r#"{"from": "T", "message_id": "7""#), None);
    assert_eq!(sender_of(r#"{"from": "T", "message_id": 1e400}"#), Some(("T".to_owned(), "1e400".to_owned())));
    let receipt = r#"{"message_type": "receipt", "message_id": "dr2:7", "x": 1e400}"#;
    assert_eq!(sender_of(receipt), Some((String::new(), "dr2:7".to_owned())));
}

#[test]
fn a_number_that_is_an_id_is_kept_as_it_is_written() {
    for id in ["12300000000000000000001", "12300000000000000000002", "-1", "1.0", "1e3", "0.10"] {
        let json = format!(r#"{{"message_id": 1, "from": {id}, "message_id": {id}, "data": {{"message_id": 7}}}}"#);
        let Ok(Inbound::Upstream(upstream)) = Inbound::parse(&json) else { panic!("{json}") };
        assert_eq!((upstream.message_id.as_str(), upstream.from.as_str()), (id, id));
        assert_eq!(sender_of(&json), Some((id.to_owned(), id.to_owned())));
    }
}

#[test]
fn a_nack_may_name_no_message_and_a_receipt_nobody() {
    let nack = inbound(&json!({"message_type": "nack", "error": "CONNECTION_DRAINING"}));
    assert!(matches!(nack, Inbound::Nack(Nack { message_id: None, .. })));
    let receipt = inbound(&json!({"message_type": "receipt", "message_id": "dr2:x"}));
    assert!(matches!(receipt, Inbound::Receipt(Receipt { from, .. }) if from.is_empty()));
}

proptest! {
    #[test]
    fn mending_changes_no_json(inbound in any_inbound()) {
        let json = inbound.to_json();
        prop_assert_eq!(&*mend_strings(&json), &*json);
    }

    #[test]
    fn anything_is_mended_without_a_panic(text in r#"[a-f0-9\\u"{}:,\x00-\x1fé😀]{0,60}"#) {
        let mended = mend_strings(&text);
        prop_assert_eq!(&*mend_strings(&mended), &*mended);
    }
}
