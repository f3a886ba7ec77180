use super::*;
use crate::chat::id::Token;
use proptest::prelude::*;
use serde_json::json;

fn parse(payload: &Value) -> Result<Downstream, Rejection> {
    Downstream::parse(Sender::Bal, payload.to_string().as_bytes(), &Limits::default())
}

/// A message to one device, with `fields` on top.
fn with(fields: Value) -> Value {
    let mut payload = json!({"id": "a1", "token": "T", "data": {"k": "v"}});
    let Value::Object(fields) = fields else { panic!("fields are an object") };
    payload.as_object_mut().unwrap().extend(fields);
    payload
}

fn accepted(payload: &Value) -> Downstream {
    parse(payload).unwrap_or_else(|rejection| panic!("{payload}: {rejection}"))
}

fn push(payload: &Value) -> Push {
    match accepted(payload).errand {
        Errand::Push(push) => *push,
        Errand::Name => panic!("for a name"),
    }
}

fn code(payload: &Value) -> ErrorCode {
    match parse(payload) {
        Ok(taken) => panic!("{payload} was taken: {taken:?}"),
        Err(rejection) => rejection.code(),
    }
}

#[test]
fn a_plain_message_gets_the_defaults() {
    let message = accepted(&json!({"id": "a1", "token": "T", "data": {"k": "v"}}));
    let Value::Object(data) = json!({"k": "v"}) else { unreachable!() };
    let expected = Push {
        target: Target::Token(Token::new("T").unwrap()),
        data,
        notification: None,
        priority: Priority::High,
        collapse: None,
        receipt: true,
        fcm: Map::new(),
    };
    assert_eq!(message.id, MessageId::new("a1").ok());
    assert_eq!((message.ttl, message.order), (TTL_MAX, None));
    assert_eq!(message.errand, Errand::Push(Box::new(expected)));
}

#[test]
fn every_option_arrives_in_its_field() {
    let payload = with(json!({
        "v": 1, "type": "text", "body": "hello", "notification": {"title": "t"}, "ttl": 600, "priority": "normal",
        "collapse": "c", "receipt": false, "order": "o", "push": "always", "fcm": {"content_available": true},
        "delay_while_idle": true, "something": {"unknown": []},
    }));
    let message = accepted(&payload);
    let push = push(&payload);
    assert_eq!(Value::Object(push.data), json!({"k": "v", "body": "hello", "type": "text"}));
    assert_eq!(push.notification.map(Value::Object), Some(json!({"title": "t"})));
    assert_eq!((push.priority, push.collapse.as_deref(), push.receipt), (Priority::Normal, Some("c"), false));
    assert_eq!(Value::Object(push.fcm), json!({"content_available": true}));
    assert_eq!((message.ttl, message.order.as_deref()), (600, Some("o")));
}

#[test]
fn a_missing_id_is_left_to_the_bridge() {
    assert_eq!(accepted(&json!({"token": "T", "data": {}})).id, None);
    assert_eq!(accepted(&with(json!({"id": null}))).id, None);
}

#[test]
fn ids_that_do_not_fit_a_topic_are_bad() {
    for id in [
        json!("a/b"),
        json!("a+b"),
        json!("a#b"),
        json!("a b"),
        json!("x".repeat(65)),
        json!(""),
        json!("a\0b"),
        json!(17),
        json!(true),
        json!(["a1"]),
    ] {
        let rejection = parse(&with(json!({"id": id}))).unwrap_err();
        assert_eq!((rejection.code(), rejection.ref_id()), (ErrorCode::BadId, None), "{id}");
    }
    assert!(parse(&with(json!({"id": 17}))).unwrap_err().detail().contains("quotes"));
    assert!(parse(&with(json!({"id": "x".repeat(64)}))).is_ok());
}

#[test]
fn a_rejection_names_the_message_whenever_its_id_could_be_read() {
    for fault in [json!({"v": 2}), json!({"topic": "news"}), json!({"ttl": -1}), json!({"data": {"from": "x"}})] {
        let rejection = parse(&with(fault)).unwrap_err();
        assert_eq!(rejection.ref_id().map(MessageId::as_str), Some("a1"), "{rejection}");
    }
}

#[test]
fn what_is_not_a_json_object_is_told() {
    let code = |payload: &[u8]| Downstream::parse(Sender::Bal, payload, &Limits::default()).unwrap_err().code();
    for bad in [
        &b""[..],
        b"x",
        b"{",
        b"{}x",
        b"{'a':1}",
        b"{\"a\":\xff}",
        b"\xef\xbb\xbf{}",
        b"{\"a\":1e400}",
        b"{\"a\":\"\\ud800\"}",
        b"{\"a\":\"\0\"}",
        b"{\"a\":NaN}",
    ] {
        assert_eq!(code(bad), ErrorCode::BadJson, "{}", bad.escape_ascii());
    }
    for not_object in [&b"1"[..], b"null", b"\"x\"", b"[{}]"] {
        assert_eq!(code(not_object), ErrorCode::NotObject, "{}", not_object.escape_ascii());
    }
    let deep = "[".repeat(30_000);
    assert_eq!(code(format!("{{\"a\":{deep}").as_bytes()), ErrorCode::BadJson);
}

#[test]
fn of_a_repeated_field_the_last_one_counts() {
    let payload = br#"{"token":"T","token":"U","data":{"k":"1","k":"2"}}"#;
    let message = Downstream::parse(Sender::Bal, payload, &Limits::default()).unwrap();
    let Errand::Push(push) = message.errand else { panic!("a push") };
    assert_eq!(push.target, Target::Token(Token::new("U").unwrap()));
    assert_eq!(Value::Object(push.data), json!({"k": "2"}));
}

#[test]
fn only_version_1_is_known() {
    for good in [json!(1), json!(1.0), json!(null)] {
        assert!(parse(&with(json!({"v": good}))).is_ok(), "{good}");
    }
    for bad in [json!(2), json!(0), json!("1"), json!(true), json!(1.5)] {
        assert_eq!(code(&with(json!({"v": bad}))), ErrorCode::Version);
    }
}

#[test]
fn exactly_one_target_is_needed() {
    assert_eq!(code(&json!({"data": {}})), ErrorCode::BadTarget);
    assert_eq!(code(&json!({"token": null, "data": {}})), ErrorCode::BadTarget);
    for other in [json!({"topic": "t"}), json!({"condition": "'a' in topics"})] {
        assert_eq!(code(&with(other)), ErrorCode::BadTarget);
    }
    assert!(parse(&with(json!({"topic": null}))).is_ok());
}

#[test]
fn targets_are_read_by_kind() {
    let target = |form: &str, text: &str| push(&json!({form: text, "data": {}})).target;
    assert_eq!(target("topic", "news"), Target::Topic("news".to_owned()));
    assert_eq!(target("topic", "/topics/news"), Target::Topic("news".to_owned()));
    let condition = "'a' in topics && !('b' in topics)";
    assert_eq!(target("condition", condition), Target::Condition(condition.to_owned()));
    // Of a message to a user or BAL nothing else is read here.
    for message in [json!({"to": "alice", "data": {"any": [1]}}), json!({"to": 7}), json!({"to": "g-1", "token": "T"})]
    {
        assert_eq!(accepted(&message).errand, Errand::Name);
    }
}

#[test]
fn targets_that_cannot_be_are_bad_fields() {
    for (form, text) in [
        ("token", json!("")),
        ("token", json!("a b")),
        ("token", json!("x".repeat(4097))),
        ("token", json!(7)),
        ("token", json!("/topics/news")),
        ("topic", json!("")),
        ("topic", json!("a b")),
        ("topic", json!("/topics/")),
        ("topic", json!("t".repeat(901))),
        ("condition", json!("")),
        ("condition", json!("a in topics")),
        ("condition", json!(" ".repeat(5000))),
    ] {
        assert_eq!(code(&json!({form: text, "data": {}})), ErrorCode::BadField, "{form}: {text}");
    }
    assert!(parse(&json!({"token": "x".repeat(4096), "data": {}})).is_ok());
    assert!(parse(&json!({"topic": "t".repeat(900), "data": {}})).is_ok());
}

#[test]
fn there_must_be_something_to_deliver() {
    assert_eq!(code(&json!({"token": "T"})), ErrorCode::MissingField);
    assert_eq!(code(&json!({"token": "T", "type": "text", "fcm": {}, "data": null})), ErrorCode::MissingField);
    for content in [json!({"data": {}}), json!({"body": ""}), json!({"notification": {"title": "t"}})] {
        let mut payload = content;
        payload["token"] = json!("T");
        accepted(&payload);
    }
}

#[test]
fn numbers_and_booleans_in_data_become_strings() {
    let data = json!({"i": 7, "n": -1, "f": 0.1, "long": 31.245270191439438, "big": u64::MAX, "t": true, "s": "x\0"});
    let expected = json!({
        "i": "7", "n": "-1", "f": "0.1", "long": "31.245270191439438", "big": "18446744073709551615", "t": "true",
        "s": "x\0",
    });
    assert_eq!(Value::Object(push(&with(json!({"data": data}))).data), expected);
    for bad in [json!(null), json!([]), json!({})] {
        assert_eq!(code(&with(json!({"data": {"k": bad}}))), ErrorCode::BadField);
    }
    assert_eq!(code(&with(json!({"data": "text"}))), ErrorCode::BadField);
}

#[test]
fn body_and_type_are_short_for_data() {
    let data = |fields: Value| Value::Object(push(&with(fields)).data);
    assert_eq!(data(json!({"data": {"type": "own"}, "type": "text"})), json!({"type": "own"}));
    assert_eq!(data(json!({"data": {"body": "b"}, "body": "b"})), json!({"body": "b"}));
    assert_eq!(code(&with(json!({"data": {"body": "a"}, "body": "b"}))), ErrorCode::BadField);
    assert_eq!(code(&with(json!({"body": 7}))), ErrorCode::BadField);
    assert_eq!(code(&with(json!({"type": 7}))), ErrorCode::BadField);
}

#[test]
fn keys_of_the_push_service_are_reserved() {
    for key in ["from", "message_type", "google", "google.x", "googled", "gcm", "gcm_y"] {
        assert_eq!(code(&with(json!({"data": {key: "x"}}))), ErrorCode::ReservedKey, "{key}");
    }
    accepted(&with(json!({"data": {"From": "x", "fromage": "x", "message": "x", "collapse_key": "x"}})));
}

#[test]
fn v1_keeps_one_more_key_than_ccs() {
    let v1 = ["fcm-v1", "fcm-v1:shop"].map(|transport| Transport::parse(transport).unwrap());
    for (key, reserved) in [("notification", true), ("notifications", false), ("Notification", false), ("k", false)] {
        let message = accepted(&with(json!({"id": "a1", "data": {key: "x"}})));
        assert_eq!(message.check_for(&Transport::Ccs), Ok(()), "{key}");
        for transport in &v1 {
            let checked = message.check_for(transport);
            assert_eq!(
                checked.as_ref().err().map(Rejection::code),
                reserved.then_some(ErrorCode::ReservedKey),
                "{key}"
            );
            assert!(checked.is_ok() || checked.unwrap_err().ref_id().is_some());
        }
    }
    // The field of that name is no key of `data`.
    let shown = accepted(&with(json!({"data": {"k": "x"}, "notification": {"title": "t"}})));
    assert_eq!(shown.check_for(&v1[0]), Ok(()));
}

#[test]
fn data_of_4096_bytes_passes_and_of_4097_does_not() {
    let of = |bytes: usize| json!({"data": {"key": "x".repeat(bytes - 3)}});
    accepted(&with(of(4096)));
    assert_eq!(code(&with(of(4097))), ErrorCode::TooBig);
    for form in [json!({"topic": "news"}), json!({"condition": "'a' in topics"})] {
        let to_topic = |bytes| {
            let mut payload = form.clone();
            payload["data"] = of(bytes)["data"].clone();
            payload
        };
        accepted(&to_topic(2048));
        assert_eq!(code(&to_topic(2049)), ErrorCode::TooBig);
    }
}

#[test]
fn everything_that_is_pushed_is_weighed_in_utf_8_bytes() {
    // 2 * "é" for the key and the value, 5 + 3 for the title, 5 + 4 for the badge, 4 + 1 for the body.
    let payload = |filler: usize| {
        let data = json!({"é": "é", "n": 12, "x": "y".repeat(filler)});
        with(json!({"data": data, "body": "b", "notification": {"title": "é!", "badge": true}}))
    };
    let around = 4 + (1 + 2) + 1 + (4 + 1) + (5 + 3) + (5 + 4);
    accepted(&payload(4096 - around));
    assert_eq!(code(&payload(4097 - around)), ErrorCode::TooBig);
}

#[test]
fn a_payload_over_the_limit_is_not_even_read() {
    let limits = Limits { payload_bytes: 40, ..Limits::default() };
    let fitting = br#"{"id":"a1","token":"T","data":{"k":"v"}}"#;
    assert_eq!(fitting.len(), 40);
    assert!(Downstream::parse(Sender::Bal, fitting, &limits).is_ok());
    let rejection =
        Downstream::parse(Sender::Bal, br#"{"id":"a1","token":"T","data":{"k":"vv"}}"#, &limits).unwrap_err();
    assert_eq!((rejection.code(), rejection.ref_id()), (ErrorCode::TooBig, None));
    let rejection = Downstream::parse(Sender::Bal, &[b' '; 70_000], &Limits::default()).unwrap_err();
    assert_eq!(rejection.code(), ErrorCode::TooBig);
}

#[test]
fn ttl_is_a_whole_number_or_its_text() {
    for (ttl, seconds) in [(json!(0), 0), (json!(600), 600), (json!("600"), 600), (json!(TTL_MAX), TTL_MAX)] {
        assert_eq!(accepted(&with(json!({"ttl": ttl}))).ttl, seconds);
    }
    for bad in [
        json!(-1),
        json!(TTL_MAX + 1),
        json!(1.5),
        json!(""),
        json!("+6"),
        json!("6 "),
        json!("x"),
        json!(true),
        json!(u64::MAX),
        json!("99999999999999999999"),
    ] {
        assert_eq!(code(&with(json!({"ttl": bad}))), ErrorCode::BadField, "{bad}");
    }
}

#[test]
fn the_deadline_is_the_earlier_of_ttl_and_mqtt_expiry() {
    let deadline = |ttl: u32, expiry| accepted(&with(json!({"ttl": ttl}))).deadline_ms(1000, expiry);
    assert_eq!(deadline(60, None), 61_000);
    assert_eq!(deadline(60, Some(5)), 6000);
    assert_eq!(deadline(5, Some(60)), 6000);
    assert_eq!(deadline(1, None), 2000);
    assert_eq!(deadline(0, None), 1000 + NOW_OR_NEVER_MS);
    assert_eq!(deadline(60, Some(0)), 1000 + NOW_OR_NEVER_MS);
    assert!(deadline(0, None) < deadline(1, None));
    assert_eq!(accepted(&with(json!({}))).deadline_ms(u64::MAX, None), u64::MAX);
}

#[test]
fn words_are_short_and_printable() {
    for field in ["collapse", "order"] {
        accepted(&with(json!({field: "é".repeat(64)})));
        for bad in [json!("x".repeat(65)), json!(""), json!("a\nb"), json!(7)] {
            assert_eq!(code(&with(json!({field: bad}))), ErrorCode::BadField, "{field}: {bad}");
        }
    }
}

#[test]
fn choices_are_spelt_as_in_the_contract() {
    for bad in [
        json!({"priority": "HIGH"}),
        json!({"priority": 10}),
        json!({"receipt": "true"}),
        json!({"receipt": 1}),
        json!({"push": "sometimes"}),
        json!({"push": true}),
        json!({"notification": "text"}),
        json!({"fcm": []}),
    ] {
        assert_eq!(code(&with(bad)), ErrorCode::BadField);
    }
}

#[test]
fn a_push_to_a_device_may_be_silent_but_not_never() {
    assert_eq!(push(&with(json!({"push": "auto"}))).priority, Priority::High);
    assert_eq!(push(&with(json!({"push": "silent"}))).priority, Priority::Normal);
    assert_eq!(push(&with(json!({"push": "silent", "priority": "normal"}))).priority, Priority::Normal);
    for bad in [
        json!({"push": "never"}),
        json!({"push": "silent", "priority": "high"}),
        json!({"push": "silent", "notification": {}}),
    ] {
        assert_eq!(code(&with(bad)), ErrorCode::BadField);
    }
    accepted(&json!({"to": "alice", "push": "never", "data": {}}));
}

#[test]
fn a_receipt_is_expected_where_somebody_can_give_one() {
    let wants = |payload: Value| push(&payload).receipt;
    assert!(wants(with(json!({}))));
    assert!(!wants(json!({"topic": "news", "data": {}})));
    assert!(!wants(json!({"condition": "'a' in topics", "data": {}})));
    for name in CHECK_ONLY {
        assert!(!wants(with(json!({"fcm": {name: true}}))), "{name}");
    }
    assert!(wants(with(json!({"fcm": {"dry_run": false}}))));
    assert!(wants(json!({"topic": "news", "data": {}, "receipt": true})));
    assert!(!wants(with(json!({"receipt": false}))));
}

#[test]
fn fields_handed_through_cannot_pass_by_the_checks() {
    for name in NOT_IN_FCM {
        assert_eq!(code(&with(json!({"fcm": {name: null}}))), ErrorCode::BadField, "{name}");
    }
    for name in ["collapseKey", "timeToLive", "messageId", "Data"] {
        assert_eq!(code(&with(json!({"fcm": {name: "x"}}))), ErrorCode::BadField, "{name}");
    }
    for name in CHECK_ONLY {
        assert_eq!(code(&with(json!({"fcm": {name: "true"}}))), ErrorCode::BadField, "{name}");
    }
    let fcm = json!({"content_available": true, "restricted_package_name": "com.example", "dry_run": true});
    assert_eq!(Value::Object(push(&with(json!({"fcm": fcm}))).fcm), fcm);
}

#[test]
fn what_would_hold_a_push_back_in_another_spelling_or_another_place_is_refused() {
    let spellings =
        ["DryRun", "Dry_Run", "DRY_RUN", "dryrun", "dry-run", "ValidateOnly", "validate-only", "VALIDATE_ONLY"];
    for value in [json!(true), json!(false), Value::Null] {
        for name in spellings {
            let rejection = parse(&with(json!({"fcm": {name: value}}))).unwrap_err();
            assert_eq!(rejection.code(), ErrorCode::BadField, "{name}");
            assert!(rejection.detail().contains(name) && rejection.detail().contains("dry_run"), "{rejection}");
        }
        for name in spellings.into_iter().chain(CHECK_ONLY) {
            let rejection = parse(&with(json!({name: value}))).unwrap_err();
            assert_eq!(rejection.code(), ErrorCode::BadField, "{name}");
            assert!(rejection.detail().contains("belongs into `fcm`"), "{rejection}");
        }
    }
}

#[test]
fn a_detail_names_fields_and_never_values() {
    for payload in [
        with(json!({"token": "secret secret"})),
        with(json!({"token": "/topics/secret"})),
        with(json!({"id": "secret/"})),
        json!({"topic": "se cret secret", "data": {}}),
        json!({"condition": "secret", "data": {}}),
        with(json!({"ttl": "secret"})),
        with(json!({"data": {"k": ["secret"]}})),
        with(json!({"body": ["secret"]})),
        with(json!({"push": "secret"})),
        with(json!({"collapse": "secret\n"})),
        with(json!({"priority": "secret"})),
        with(json!({"data": {"body": "secret"}, "body": "x"})),
        with(json!({"v": "secret"})),
    ] {
        let rejection = parse(&payload).unwrap_err();
        assert!(!rejection.detail().contains("secret"), "{rejection}");
    }
    let bytes = br#"{"token":"secret" "data":{}}"#;
    let rejection = Downstream::parse(Sender::Bal, bytes, &Limits::default()).unwrap_err();
    assert!(!rejection.detail().contains("secret"), "{rejection}");
    let rejection = parse(&with(json!({"data": {"k".repeat(3000): null}}))).unwrap_err();
    assert!(rejection.detail().len() < 200, "{rejection}");
}

/// JSON that is often nearly right: known names, values of all kinds.
fn nearly_right() -> impl Strategy<Value = Value> {
    let name = prop_oneof![
        prop::sample::select(
            &[
                "v",
                "id",
                "to",
                "token",
                "topic",
                "condition",
                "type",
                "body",
                "data",
                "notification",
                "ttl",
                "priority",
                "collapse",
                "receipt",
                "order",
                "push",
                "fcm",
            ][..]
        )
        .prop_map(str::to_owned),
        any::<String>(),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<f64>().prop_map(Value::from),
        any::<String>().prop_map(Value::from),
        "[a-z0-9]{1,80}".prop_map(Value::from),
        prop::sample::select(&["high", "normal", "auto", "silent", "never", "600", "'a' in topics"][..])
            .prop_map(Value::from),
    ];
    let value = leaf.prop_recursive(2, 12, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::from),
            prop::collection::vec((any::<String>(), inner), 0..3)
                .prop_map(|pairs| Value::Object(pairs.into_iter().collect())),
        ]
    });
    prop::collection::vec((name, value), 0..4).prop_map(|pairs| Value::Object(pairs.into_iter().collect()))
}

fn assert_limits(message: &Downstream, limits: &Limits) {
    assert!(message.ttl <= TTL_MAX);
    assert!(message.order.as_ref().is_none_or(|order| (1..=ORDER_MAX).contains(&order.chars().count())));
    let Errand::Push(push) = &message.errand else { return };
    let text =
        |map: &Map<String, Value>| map.iter().map(|(k, v)| k.len() + v.as_str().map_or(0, str::len)).sum::<usize>();
    assert!(text(&push.data) + push.notification.as_ref().map_or(0, text) <= limits.push_bytes);
    assert!(push.data.values().all(Value::is_string));
    assert!(push.data.keys().all(|key| !key.starts_with("google") && !key.starts_with("gcm") && key != "from"));
    assert!(push.collapse.as_ref().is_none_or(|key| (1..=COLLAPSE_MAX).contains(&key.chars().count())));
    assert!(NOT_IN_FCM.iter().all(|&name| !push.fcm.contains_key(name)));
    assert_eq!(Push::from_body(&push.to_body()).as_ref(), Ok(push.as_ref()));
}

proptest! {
    #[test]
    fn no_bytes_panic(bytes: Vec<u8>) {
        let _ = Downstream::parse(Sender::Bal, &bytes, &Limits::default());
    }

    #[test]
    fn a_cut_payload_is_bad_json(cut in 1usize..40) {
        let payload = br#"{"id":"a1","token":"T","data":{"k":"v"}}"#;
        let rejection = Downstream::parse(Sender::Bal, &payload[..cut], &Limits::default()).unwrap_err();
        prop_assert_eq!(rejection.code(), ErrorCode::BadJson);
    }

    #[test]
    fn what_is_taken_keeps_to_the_limits(extra in nearly_right()) {
        let limits = Limits::default();
        for payload in [extra.clone(), with(extra)] {
            match parse(&payload) {
                Ok(message) => assert_limits(&message, &limits),
                Err(rejection) => prop_assert!(rejection.detail().chars().count() <= 256),
            }
        }
    }
}

#[test]
fn a_user_may_give_nothing_that_names_a_device() {
    let limits = Limits::default();
    let of_user = |payload: &Value| Downstream::parse(Sender::User, payload.to_string().as_bytes(), &limits);
    let long = "A".repeat(140);
    for (field, value) in [
        ("token", json!("T")),
        ("topic", json!("everybody")),
        ("condition", json!("'a' in topics")),
        ("to", json!("/topics/everybody")),
        ("to", json!("dQw4w9WgXcQ:APA91bH")),
        ("to", json!(long)),
    ] {
        let message = json!({"id": "a1", field: value, "data": {}});
        let rejection = of_user(&message).unwrap_err();
        assert_eq!((rejection.code(), rejection.ref_id()), (ErrorCode::Forbidden, MessageId::new("a1").ok().as_ref()));
        assert_eq!(rejection.detail(), format!("only a BAL may name a device or an FCM topic in `{field}`"));
    }
    let fcm = of_user(&json!({"to": "bob", "data": {}, "fcm": {}})).unwrap_err();
    assert_eq!((fcm.code(), fcm.detail()), (ErrorCode::Forbidden, "only a BAL may give `fcm`"));
}

#[test]
fn what_a_user_may_not_give_is_refused_before_anything_else_is_looked_at() {
    let of_user = |payload: &[u8]| Downstream::parse(Sender::User, payload, &Limits::default()).unwrap_err().code();
    for payload in [
        json!({"token": 7}),
        json!({"token": "T", "topic": "x"}),
        json!({"token": "T", "v": 2}),
        json!({"fcm": "x"}),
        json!({"id": "a1", "token": ""}),
    ] {
        assert_eq!(of_user(payload.to_string().as_bytes()), ErrorCode::Forbidden, "{payload}");
    }
    for (payload, code) in [
        (json!({"id": 7, "token": "T"}), ErrorCode::BadId),
        (json!({"data": {}}), ErrorCode::BadTarget),
        // As for everybody, `null` is not given, and what is no name is a mistake and no attempt.
        (json!({"token": null, "fcm": null, "data": {}}), ErrorCode::BadTarget),
    ] {
        assert_eq!(of_user(payload.to_string().as_bytes()), code, "{payload}");
    }
    let to_bob = Downstream::parse(Sender::User, br#"{"to":"bob","body":"hello"}"#, &Limits::default()).unwrap();
    assert_eq!(to_bob.errand, Errand::Name);
}
