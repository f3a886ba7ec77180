use super::*;
use crate::cli::legacy;
use crate::fcm::loss::LOSSES_MAX;
use crate::fcm::platform::lay_over;
use proptest::prelude::*;
use serde_json::json;

const NOW: u64 = 1_767_225_600;

fn request(ccs: &Value) -> Result<Request, RequestError> {
    let message = legacy::read(ccs.to_string().as_bytes(), None).map_err(|error| match error {
        legacy::LegacyError::Message(error) => error,
        other => panic!("{other}"),
    })?;
    translate(message, NOW)
}

/// A CCS message to `T` with these fields, as v1.
fn v1(fields: Value) -> Value {
    let mut ccs = json!({"to": "T"});
    lay_over(ccs.as_object_mut().unwrap(), serde_json::from_value(fields).unwrap());
    let request = request(&ccs).unwrap_or_else(|error| panic!("{error}: {ccs}"));
    serde_json::from_str(&request.body).unwrap()
}

fn too_big(data: &str, shown: &str, max: usize) -> RequestError {
    RequestError::TooBig { data: data.to_owned(), shown: shown.to_owned(), max }
}

fn losses(fields: Value) -> Vec<(String, Why)> {
    let mut ccs = json!({"to": "T"});
    lay_over(ccs.as_object_mut().unwrap(), serde_json::from_value(fields).unwrap());
    request(&ccs).unwrap().losses.into_iter().map(|loss| (loss.field.into_owned(), loss.why)).collect()
}

/// Every row of the mapping: the fields of CCS, and where each has to be found in the v1 request.
#[test]
fn every_field_has_its_place() {
    let rows = [
        (json!({}), "/message/token", json!("T")),
        (json!({"to": "cAbCdEfGhIjKlMnOpQrStU"}), "/message/token", json!("cAbCdEfGhIjKlMnOpQrStU")),
        (
            json!({"to": "cAbCdEfGhIjKlMnOpQrStU", "fid": "cAbCdEfGhIjKlMnOpQrStU"}),
            "/message/fid",
            json!("cAbCdEfGhIjKlMnOpQrStU"),
        ),
        (json!({"to": "/topics/news"}), "/message/topic", json!("news")),
        (json!({"to": null, "condition": "'a' in topics"}), "/message/condition", json!("'a' in topics")),
        (json!({"message_id": "m-1"}), "/message/data/mid", json!("m-1")),
        (json!({"collapse_key": "chat"}), "/message/android/collapse_key", json!("chat")),
        (
            json!({"collapse_key": "chat", "notification": {"title": "t"}}),
            "/message/apns/headers/apns-collapse-id",
            json!("chat"),
        ),
        (json!({"collapse_key": "chat"}), "/message/webpush/headers/Topic", json!("chat")),
        (json!({"priority": "high"}), "/message/android/priority", json!("HIGH")),
        (
            json!({"priority": "high", "notification": {"title": "t"}}),
            "/message/apns/headers/apns-priority",
            json!("10"),
        ),
        (json!({"priority": "high"}), "/message/webpush/headers/Urgency", json!("high")),
        (json!({"priority": "normal"}), "/message/android/priority", json!("NORMAL")),
        (
            json!({"priority": "normal", "notification": {"title": "t"}}),
            "/message/apns/headers/apns-priority",
            json!("5"),
        ),
        (json!({"priority": "normal"}), "/message/webpush/headers/Urgency", json!("normal")),
        (json!({"content_available": true}), "/message/apns/payload/aps/content-available", json!(1)),
        (json!({"content_available": true}), "/message/apns/headers/apns-push-type", json!("background")),
        (json!({"content_available": true, "priority": "high"}), "/message/apns/headers/apns-priority", json!("5")),
        (
            json!({"mutable_content": true, "notification": {"title": "t"}}),
            "/message/apns/payload/aps/mutable-content",
            json!(1),
        ),
        (json!({"time_to_live": 60}), "/message/android/ttl", json!("60s")),
        (
            json!({"time_to_live": "60", "notification": {"title": "t"}}),
            "/message/apns/headers/apns-expiration",
            json!("1767225660"),
        ),
        (json!({"time_to_live": 60}), "/message/webpush/headers/TTL", json!("60")),
        (json!({"time_to_live": 0}), "/message/android/ttl", json!("0s")),
        (
            json!({"time_to_live": 0, "notification": {"title": "t"}}),
            "/message/apns/headers/apns-expiration",
            json!("0"),
        ),
        (json!({"dry_run": true}), "/validate_only", json!(true)),
        (json!({"dry_run": false}), "/validate_only", json!(false)),
        (json!({"restricted_package_name": "com.x"}), "/message/android/restricted_package_name", json!("com.x")),
        (json!({"data": {"k": "v"}}), "/message/data/k", json!("v")),
        (json!({"data": {"k": 1.5}}), "/message/data/k", json!("1.5")),
        (json!({"data": {"k": false}}), "/message/data/k", json!("false")),
        (json!({"data": {"k": {"a": [1, "b"]}}}), "/message/data/k", json!("{\"a\":[1,\"b\"]}")),
        (json!({"android": {"directBootOk": true}}), "/message/android/direct_boot_ok", json!(true)),
        (json!({"apns": {"live_activity_token": "t"}}), "/message/apns/live_activity_token", json!("t")),
        (json!({"fcm_options": {"analytics_label": "l"}}), "/message/fcm_options/analytics_label", json!("l")),
        (json!({"webpush": {"fcmOptions": {"link": "x"}}}), "/message/webpush/fcm_options/link", json!("x")),
    ];
    for (ccs, path, expected) in rows {
        let v1 = v1(ccs.clone());
        assert_eq!(v1.pointer(path), Some(&expected), "{ccs} at {path}: {v1:#}");
    }
}

/// Every field of `notification`.
#[test]
fn every_field_of_a_notification_has_its_place() {
    let rows = [
        ("title", json!("t"), &["notification/title"] as &[&str], json!("t")),
        ("body", json!(7), &["notification/body"], json!("7")),
        ("image", json!("u"), &["notification/image"], json!("u")),
        ("icon", json!("i"), &["android/notification/icon"], json!("i")),
        ("color", json!("#aabbcc"), &["android/notification/color"], json!("#aabbcc")),
        ("tag", json!("t"), &["android/notification/tag"], json!("t")),
        ("sound", json!("s"), &["android/notification/sound", "apns/payload/aps/sound"], json!("s")),
        ("sound", json!({"critical": 1}), &["apns/payload/aps/sound"], json!({"critical": 1})),
        ("click_action", json!("c"), &["android/notification/click_action", "apns/payload/aps/category"], json!("c")),
        ("android_channel_id", json!("c"), &["android/notification/channel_id"], json!("c")),
        ("channel_id", json!("c"), &["android/notification/channel_id"], json!("c")),
        ("badge", json!(3), &["apns/payload/aps/badge"], json!(3)),
        ("badge", json!("3"), &["apns/payload/aps/badge"], json!(3)),
        ("subtitle", json!("s"), &["apns/payload/aps/alert/subtitle"], json!("s")),
        (
            "title_loc_key",
            json!("k"),
            &["android/notification/title_loc_key", "apns/payload/aps/alert/title-loc-key"],
            json!("k"),
        ),
        (
            "title_loc_args",
            json!("[\"a\", 1]"),
            &["android/notification/title_loc_args", "apns/payload/aps/alert/title-loc-args"],
            json!(["a", "1"]),
        ),
        (
            "body_loc_key",
            json!("k"),
            &["android/notification/body_loc_key", "apns/payload/aps/alert/loc-key"],
            json!("k"),
        ),
        (
            "body_loc_args",
            json!(["a"]),
            &["android/notification/body_loc_args", "apns/payload/aps/alert/loc-args"],
            json!(["a"]),
        ),
        ("ticker", json!("t"), &["android/notification/ticker"], json!("t")),
        ("visibility", json!("SECRET"), &["android/notification/visibility"], json!("SECRET")),
        ("notification_count", json!(2), &["android/notification/notification_count"], json!(2)),
    ];
    for (name, value, paths, expected) in rows {
        let mut notification = json!({"title": "shown"});
        notification[name] = value;
        let v1 = v1(json!({ "notification": notification }));
        for path in paths {
            assert_eq!(v1.pointer(&format!("/message/{path}")), Some(&expected), "{name} at {path}: {v1:#}");
        }
    }
}

#[test]
fn an_alert_of_ours_keeps_the_title_and_the_body() {
    let v1 = v1(json!({"notification": {"title": "t", "subtitle": "s", "body": "b", "badge": 1}}));
    let aps = &v1["message"]["apns"]["payload"]["aps"];
    assert_eq!(aps, &json!({"alert": {"title": "t", "body": "b", "subtitle": "s"}, "badge": 1}));
    assert_eq!(v1["message"]["notification"], json!({"title": "t", "body": "b"}));
    let plain = self::v1(json!({"notification": {"title": "t", "badge": 1}}));
    assert_eq!(plain["message"]["apns"]["payload"]["aps"], json!({"badge": 1}));
}

#[test]
fn only_a_push_that_shows_nothing_is_a_background_push() {
    let push_type = |fields: Value| v1(fields).pointer("/message/apns/headers/apns-push-type").cloned();
    let background = Some(json!("background"));
    assert_eq!(push_type(json!({"content_available": true, "data": {"k": "v"}})), background);
    assert_eq!(push_type(json!({"apns": {"payload": {"aps": {"content-available": 1}}}})), background);
    for shown in [
        json!({"content_available": true, "notification": {"title": "t"}}),
        json!({"content_available": true, "notification": {"badge": 1}}),
        json!({"notification": {"body": "b"}}),
        json!({"content_available": true, "apns": {"payload": {"aps": {"alert": "a"}}}}),
        json!({"content_available": true, "apns": {"liveActivityToken": "t"}}),
        json!({"data": {"k": "v"}, "priority": "high"}),
    ] {
        assert_eq!(push_type(shown.clone()), None, "{shown}");
    }
}

/// What `explain` shows of it as well.
#[test]
fn the_block_for_apple_is_whole_and_the_senders_own_lies_over_it() {
    let fields = json!({"priority": "normal", "time_to_live": 60, "collapse_key": "k".repeat(65),
        "content_available": true, "mutable_content": true,
        "notification": {"title": "t", "body": "b", "subtitle": "s", "badge": "0", "click_action": "OPEN",
            "sound": {"critical": 1, "name": "bell.caf", "volume": 0.5}},
        "apns": {"headers": {"Apns-Priority": "10"},
            "payload": {"aps": {"alert": {"body": "theirs"}, "thread-id": "x"}, "mine": {"camelCase": null}},
            "fcmOptions": {"image": "u"}, "liveActivityToken": "l"}});
    let v1 = v1(fields);
    let id = v1["message"]["apns"]["headers"]["apns-collapse-id"].as_str().unwrap().to_owned();
    assert!(id.len() == 43 && id.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c)), "{id}");
    assert_eq!(
        v1["message"]["apns"],
        json!({
            "headers": {"apns-priority": "10", "apns-expiration": "1767225660", "apns-collapse-id": id},
            "payload": {
                "aps": {"alert": {"title": "t", "body": "theirs", "subtitle": "s"}, "badge": 0, "category": "OPEN",
                    "sound": {"critical": 1, "name": "bell.caf", "volume": 0.5}, "content-available": 1,
                    "mutable-content": 1, "thread-id": "x"},
                "mine": {"camelCase": null},
            },
            "fcm_options": {"image": "u"},
            "live_activity_token": "l",
        })
    );
}

/// Apple refuses a background push of any other kind, so all of these have to come together.
#[test]
fn a_background_push_is_one_in_all_its_parts() {
    let v1 = v1(json!({"priority": "high", "content_available": true, "time_to_live": 0, "data": {"k": "v"}}));
    assert_eq!(
        v1["message"]["apns"],
        json!({"headers": {"apns-push-type": "background", "apns-priority": "5", "apns-expiration": "0"},
            "payload": {"aps": {"content-available": 1}}})
    );
}

/// Google's rule: what shows nothing has priority 5 and `content-available` on its way to Apple's devices, or no block.
/// It refuses the rest with the words for a bad token.
#[test]
fn a_message_that_shows_nothing_has_no_block_for_apple_unless_something_of_apples_is_asked_for() {
    for fields in [
        json!({}),
        json!({"data": {"k": "v"}, "priority": "high", "time_to_live": 60, "collapse_key": "c"}),
        json!({"data": {"k": "v"}, "mutable_content": true}),
        json!({"data": {"k": "v"}, "apns": {}, "time_to_live": 0}),
        json!({"notification": {"icon": "i", "color": "#000000"}, "priority": "high"}),
    ] {
        assert_eq!(v1(fields.clone())["message"].get("apns"), None, "{fields}");
    }
    let label = json!({"priority": "high", "apns": {"fcmOptions": {"analyticsLabel": "l"}}});
    assert_eq!(v1(label)["message"]["apns"], json!({"fcm_options": {"analytics_label": "l"}}));
    let pair = |fields: Value| {
        let v1 = v1(fields);
        let at = |path: &str| v1.pointer(&format!("/message/apns/{path}")).cloned().unwrap_or_default();
        (at("headers/apns-push-type"), at("headers/apns-priority"), at("payload/aps/content-available"))
    };
    for fields in [
        json!({"content_available": true, "priority": "high", "collapse_key": "c"}),
        json!({"content_available": true, "apns": {"headers": {"APNS-Priority": "10"}}}),
        json!({"priority": "high", "apns": {"payload": {"mine": 1}}}),
        json!({"priority": "high", "apns": {"payload": {"aps": {"content-available": 0}}}}),
        json!({"apns": {"headers": {"apns-topic": "com.example"}}}),
    ] {
        assert_eq!(pair(fields.clone()), (json!("background"), json!("5"), json!(1)), "{fields}");
    }
    let theirs = json!({"content_available": true, "apns": {"headers": {"apns-push-type": "voip"}}});
    assert_eq!(pair(theirs), (json!("background"), json!("5"), json!(1)));
}

#[test]
fn a_collapse_key_that_does_not_fit_is_hashed() {
    let headers = |key: &str| {
        let v1 = v1(json!({"collapse_key": key, "content_available": true}));
        let text = |path: &str| v1.pointer(path).and_then(Value::as_str).unwrap().to_owned();
        (text("/message/apns/headers/apns-collapse-id"), text("/message/webpush/headers/Topic"))
    };
    let (apns, topic) = headers(&"x".repeat(33));
    assert_eq!((apns.len(), topic.len()), (33, 32));
    assert_ne!(topic, "x".repeat(32));
    assert_eq!(headers(&"x".repeat(32)).1, "x".repeat(32));
    assert_eq!(headers(&"x".repeat(64)).0, "x".repeat(64));
    assert_ne!(headers(&"x".repeat(65)).0, headers(&"x".repeat(66)).0);
    for odd in ["a.b", "é", "a b", &"é".repeat(64)] {
        let (apns, topic) = headers(odd);
        assert!(apns.len() <= 64 && apns.is_ascii() && !apns.contains(' '), "{apns}");
        assert!(topic.len() == 32 && topic.bytes().all(|c| c.is_ascii_alphanumeric() || b"-_".contains(&c)), "{topic}");
    }
}

#[test]
fn android_v2_takes_the_place_of_android() {
    let urgent = v1(json!({"android_v2": {}, "priority": "high", "collapse_key": "c", "time_to_live": 5,
        "mutable_content": true, "notification": {"title": "t", "icon": "i"}}));
    assert_eq!(urgent.pointer("/message/android"), None);
    assert_eq!(
        urgent["message"]["android_v2"],
        json!({"collapse_key": "c", "ttl": "5s",
            "remote_notification": {"mutable_content": true, "notification": {"icon": "i"}}})
    );
    let quiet = v1(json!({"androidV2": {"ttl": "9s"}, "priority": "normal", "time_to_live": 5}));
    assert_eq!(quiet["message"]["android_v2"], json!({"ttl": "9s", "background_sync": {}}));
    let theirs = v1(json!({"android_v2": {"remoteNotification": {"useAsV1DataMessage": true}}}));
    assert_eq!(theirs["message"]["android_v2"], json!({"remote_notification": {"use_as_v1_data_message": true}}));
    let lost =
        losses(json!({"android_v2": {"background_sync": {}}, "priority": "high", "notification": {"title": "t"}}));
    assert_eq!(lost, [("priority".to_owned(), Why::IMPLIED_BY_KIND), ("notification".to_owned(), Why::SHOWS_NOTHING)]);
}

/// Every field without an equivalent, or with one on some devices only.
#[test]
fn what_is_lost_is_named_with_its_reason() {
    for (fields, field, why) in [
        (json!({"message_id": "m"}), "data.mid", Why::ID_IN_DATA),
        (json!({"delivery_receipt_requested": true, "message_id": "m"}), "data.ack", Why::NO_RECEIPTS),
        (json!({"delay_while_idle": true}), "delay_while_idle", Why::IGNORED),
        (json!({"dry_run": true}), "dry_run", Why::VALIDATES_ONLY),
        (json!({"dryRun": true}), "dryRun", Why::VALIDATES_ONLY),
        (json!({"validate_only": true}), "validate_only", Why::VALIDATES_ONLY),
        (json!({"android": {"mine": 1}}), "android.mine", Why::UNKNOWN),
        (json!({"android": {"notification": {"badGe": 1}}}), "android.notification.badGe", Why::UNKNOWN),
        (json!({"android": {"data": {"k": null}}}), "android.data.k", Why::NULL),
        (
            json!({"androidV2": {}, "notification": {"body": "b"}, "priority": "normal"}),
            "priority",
            Why::IMPLIED_BY_KIND,
        ),
        (json!({"restricted_package_name": "x"}), "restricted_package_name", Why::ANDROID_ONLY),
        (json!({"content_available": true}), "content_available", Why::APPLE_ONLY),
        (json!({"mutable_content": true}), "mutable_content", Why::NOTHING_SHOWN),
        (json!({"mutable_content": true, "notification": {"body": "b"}}), "mutable_content", Why::APPLE_ONLY),
        (json!({"collapse_key": "c"}), "collapse_key", Why::NOT_TO_APPLE),
        (json!({"collapse_key": "c", "content_available": true}), "collapse_key", Why::APPLE_REPLACES_SHOWN),
        (json!({"collapse_key": "c", "notification": {"body": "b"}}), "collapse_key", Why::APPLE_REPLACES_SHOWN),
        (
            json!({"content_available": true, "apns": {"headers": {"apns-priority": "10"}}}),
            "apns.headers.apns-priority",
            Why::SILENT,
        ),
        (
            json!({"content_available": true, "apns": {"headers": {"apns-push-type": "voip"}}}),
            "apns.headers.apns-push-type",
            Why::SILENT,
        ),
        (json!({"message_type": "akc"}), "message_type", Why::UNKNOWN),
        (json!({"new_field": [1]}), "new_field", Why::UNKNOWN),
        (json!({"data": {"k": null}}), "data.k", Why::NULL),
        (json!({"data": {"mid": "mine"}, "message_id": "m"}), "data.mid", Why::KEY_TAKEN),
        (json!({"notification": {"icon": "i"}}), "notification.icon", Why::ANDROID_ONLY),
        (json!({"notification": {"tag": "t"}}), "notification.tag", Why::ANDROID_ONLY),
        (json!({"notification": {"badge": 1}}), "notification.badge", Why::APPLE_ONLY),
        (json!({"notification": {"subtitle": "s"}}), "notification.subtitle", Why::APPLE_ONLY),
        (json!({"notification": {"sound": {"critical": 1}}}), "notification.sound", Why::APPLE_ONLY),
        (json!({"notification": {"titel": "t"}}), "notification.titel", Why::UNKNOWN),
        (json!({"android": {"notification": {"id": 1}}}), "android.notification.id", Why::UNKNOWN),
        (json!({"androidV2": {"data": {"mid": "mine"}}, "message_id": "m"}), "androidV2.data.mid", Why::KEY_TAKEN),
    ] {
        let lost = losses(fields.clone());
        assert!(lost.contains(&(field.to_owned(), why)), "{fields}: {lost:?}");
    }
    let nothing = losses(json!({"data": {"k": 1}, "priority": "high", "time_to_live": 1, "content_available": false,
        "notification": {"title": "t", "body": "b", "sound": "s", "body_loc_key": "k", "click_action": null}}));
    assert_eq!(nothing, []);
}

#[test]
fn the_id_and_where_to_confirm_it_travel_in_data() {
    let with = |data: Value, (receipt, ack): (bool, Option<&str>)| {
        let mut message =
            legacy::read(json!({"to": "T", "message_id": "m", "data": data}).to_string().as_bytes(), None).unwrap();
        (message.receipt, message.ack) = (receipt, ack.map(str::to_owned));
        let request = translate(message, NOW).unwrap();
        let body: Value = serde_json::from_str(&request.body).unwrap();
        let receipt = request.losses.into_iter().find(|loss| loss.field == "data.ack" || loss.why == Why::NO_ROOM);
        (body["message"]["data"].clone(), receipt.map(|loss| loss.why))
    };
    let at = || (true, Some("bal1/self/receipts"));
    assert_eq!(
        with(json!({"k": "v"}), at()),
        (json!({"k": "v", "mid": "m", "ack": "bal1/self/receipts"}), Some(Why::APP_CONFIRMS))
    );
    assert_eq!(with(json!({}), (true, None)), (json!({"mid": "m"}), Some(Why::NO_RECEIPTS)));
    assert_eq!(with(json!({}), (false, Some("x"))), (json!({"mid": "m"}), None));
    // The application's own keys stay, and neither half of ours travels alone.
    assert_eq!(with(json!({"mid": "x"}), at()), (json!({"mid": "x"}), None));
    assert_eq!(with(json!({"ack": "x"}), at()), (json!({"ack": "x"}), Some(Why::KEY_TAKEN)));
    // A message that just fits is sent as it is.
    let full = json!({"k": "v".repeat(PAYLOAD_MAX - 1)});
    assert_eq!(with(full.clone(), at()), (full, Some(Why::NO_ROOM)));
}

/// The `data` of a platform replaces the message's there.
#[test]
fn the_id_and_where_to_confirm_it_travel_in_the_data_of_each_platform_too() {
    let sent = |block: &str, data: Value| {
        let ccs = json!({"to": "T", "message_id": "m", "delivery_receipt_requested": true, "data": {"k": "v"},
            block: {"data": data}});
        let request = translate(legacy::read(ccs.to_string().as_bytes(), Some("a")).unwrap(), NOW)?;
        let body: Value = serde_json::from_str(&request.body).unwrap();
        let taken = request.losses.into_iter().find(|loss| loss.why == Why::KEY_TAKEN);
        assert_eq!(body["message"]["data"], json!({"k": "v", "mid": "m", "ack": "a"}), "{block}");
        Ok((body["message"][table::snake(block)]["data"].clone(), taken.map(|loss| loss.field.into_owned())))
    };
    for block in ["android", "android_v2", "androidV2", "webpush"] {
        assert_eq!(sent(block, json!({"n": 1})), Ok((json!({"n": "1", "mid": "m", "ack": "a"}), None)));
        // As its sender spells it.
        let path = format!("{block}.data.ack");
        assert_eq!(sent(block, json!({"ack": "x"})), Ok((json!({"ack": "x"}), Some(path))));
        let big = sent(block, json!({"k": "v".repeat(PAYLOAD_MAX)}));
        assert_eq!(big, Err(too_big(&format!("{block}.data"), "notification", PAYLOAD_MAX)));
    }
}

#[test]
fn what_is_handed_through_is_written_as_fcm_wants_it() {
    for (fields, path, expected) in [
        (json!({"android": {"data": {"count": 1, "list": [1, {"a": null}]}}}), "android/data/count", json!("1")),
        (json!({"android": {"data": {"list": [1, {"a": null}]}}}), "android/data/list", json!("[1,{\"a\":null}]")),
        (json!({"android": {"ttl": 3600}}), "android/ttl", json!("3600s")),
        (json!({"android": {"ttl": "60"}}), "android/ttl", json!("60s")),
        (json!({"android": {"ttl": "1.5s"}}), "android/ttl", json!("1.5s")),
        (json!({"android": {"priority": "high"}}), "android/priority", json!("HIGH")),
        (
            json!({"android": {"notification": {"visibility": "visibility_unspecified", "proxy": "deny"}}}),
            "android/notification",
            json!({"visibility": "VISIBILITY_UNSPECIFIED", "proxy": "DENY"}),
        ),
        (json!({"webpush": {"headers": {"ttl": 60}}}), "webpush/headers/TTL", json!("60")),
        (json!({"webpush": {"headers": {"topic": "a b"}}}), "webpush/headers/Topic", json!(null)),
        (json!({"apns": {"headers": {"Apns-Expiration": 7}}}), "apns/headers/apns-expiration", json!("7")),
        (
            json!({"notification": {"title": "t"}, "apns": {"headers": {"apns-priority": 10}}}),
            "apns/headers/apns-priority",
            json!("10"),
        ),
        (json!({"apns": {"payload": {"aps": {"badge": "3"}}}}), "apns/payload/aps/badge", json!(3)),
        (json!({"apns": {"payload": {"aps": {"badge": 2.0}}}}), "apns/payload/aps/badge", json!(2)),
        (json!({"notification": {"notification_count": 3.0}}), "android/notification/notification_count", json!(3)),
        (json!({"time_to_live": 60.0}), "android/ttl", json!("60s")),
        (json!({"webpush": {"headers": {"TTL": 60.0}}}), "webpush/headers/TTL", json!("60")),
        (
            json!({"android_v2": {"remote_notification": {"notification": {"id": 7}}}}),
            "android_v2/remote_notification/notification/id",
            json!(7),
        ),
        (
            json!({"notification": {"event_time": "2026-01-31T12:00:00.5+01:00"}}),
            "android/notification/event_time",
            json!("2026-01-31T12:00:00.5+01:00"),
        ),
        (
            json!({"notification": {"event_time": "2026-01-31T12:00:00Z"}}),
            "android/notification/event_time",
            json!("2026-01-31T12:00:00Z"),
        ),
        (
            json!({"android": {"notification": {"vibrateTimings": [0.5, "1s"], "notificationCount": "3"}}}),
            "android/notification",
            json!({"vibrate_timings": ["0.5s", "1s"], "notification_count": 3}),
        ),
        (
            json!({"notification": {"clickAction": "c", "channelId": "d", "titleLocArgs": ["a"], "defaultSound": true}}),
            "android/notification",
            json!({"click_action": "c", "channel_id": "d", "title_loc_args": ["a"], "default_sound": true}),
        ),
        (
            json!({"notification": {"light_settings": {"lightOnDuration": 1, "color": {"red": 0.5}}}}),
            "android/notification/light_settings",
            json!({"light_on_duration": "1s", "color": {"red": 0.5}}),
        ),
    ] {
        let v1 = v1(fields.clone());
        let found = v1.pointer(&format!("/message/{path}"));
        if path.ends_with("Topic") {
            assert_eq!(found.and_then(Value::as_str).map(str::len), Some(32), "{fields}");
        } else {
            assert_eq!(found, Some(&expected), "{fields}: {v1:#}");
        }
    }
}

#[test]
fn what_holds_a_push_back_is_never_ignored() {
    for name in ["dry_run", "dryRun", "validate_only", "validateOnly"] {
        assert_eq!(v1(json!({ name: true }))["validate_only"], true, "{name}");
        assert_eq!(v1(json!({ name: false }))["validate_only"], false, "{name}");
        assert!(request(&json!({"to": "T", name: "yes"})).is_err(), "{name}");
    }
    assert_eq!(v1(json!({"dry_run": false, "validateOnly": true}))["validate_only"], true);
}

#[test]
fn size_is_keys_and_values_of_data_and_notification() {
    let sized = |to: &str, bytes: usize| {
        request(
            &json!({"to": to, "data": {"ab": "x".repeat(bytes - 10)}, "notification": {"title": "é€"}, "priority": "high"}),
        )
    };
    for (to, max) in [("T", PAYLOAD_MAX), ("/topics/t", TOPIC_PAYLOAD_MAX)] {
        // Two bytes for the key `ab`, five for `title`, five for its value; less is counted above.
        assert!(sized(to, max - 2).is_ok());
        assert_eq!(sized(to, max - 1), Err(too_big("data", "notification", max)));
    }
}

#[test]
fn the_notification_of_a_block_is_weighed_as_the_messages_is() {
    let long = "x".repeat(5000);
    for (fields, shown) in [
        (json!({"android": {"notification": {"title": long}}}), "android.notification"),
        (
            json!({"androidV2": {"remoteNotification": {"notification": {"title": long}}}}),
            "androidV2.remote_notification.notification",
        ),
        (json!({"webpush": {"notification": {"title": long}}, "data": {"k": "v"}}), "webpush.notification"),
    ] {
        let mut ccs = json!({"to": "T"});
        lay_over(ccs.as_object_mut().unwrap(), serde_json::from_value(fields).unwrap());
        assert_eq!(request(&ccs), Err(too_big("data", shown, PAYLOAD_MAX)), "{shown}");
    }
    // What takes another's place is not counted beside it.
    let half = "x".repeat(3000);
    v1(json!({"notification": {"title": half}, "android": {"notification": {"title": half}}}));
}

/// Google counts what there is to show, not which fields are there.
#[test]
fn what_has_nothing_in_it_shows_nothing_on_apples_devices() {
    let nothing = [
        json!({"notification": {"body": ""}}),
        json!({"notification": {"title": "", "subtitle": ""}}),
        json!({"notification": {"sound": ""}}),
        json!({"apns": {"liveActivityToken": ""}}),
        json!({"apns": {"payload": {"aps": {"alert": null}}}}),
        json!({"apns": {"payload": {"aps": {"alert": ""}}}}),
        json!({"apns": {"payload": {"aps": {"alert": false}}}}),
        json!({"apns": {"payload": {"aps": {"alert": {}}}}}),
        json!({"apns": {"payload": {"aps": {"alert": {"title": "", "body": null}}}}}),
        json!({"apns": {"payload": {"aps": {"sound": ""}}}}),
    ];
    for more in [json!({}), json!({"content_available": true})] {
        for fields in &nothing {
            let mut fields = fields.clone();
            lay_over(fields.as_object_mut().unwrap(), serde_json::from_value(more.clone()).unwrap());
            lay_over(
                fields.as_object_mut().unwrap(),
                serde_json::from_value(json!({"priority": "high", "time_to_live": 60})).unwrap(),
            );
            let v1 = v1(fields.clone());
            assert!(is_lawful(&v1["message"]), "{fields}: {v1:#}");
        }
    }
}

#[test]
fn only_a_request_that_is_within_apples_rules_for_certain_may_cost_a_token() {
    let is_certain = |fields: Value| {
        let mut ccs = json!({"to": "T", "priority": "high", "time_to_live": 60});
        lay_over(ccs.as_object_mut().unwrap(), serde_json::from_value(fields).unwrap());
        request(&ccs).unwrap().is_within_rules
    };
    for fields in [
        json!({"data": {"k": "v"}}),
        json!({"notification": {"title": "t"}}),
        json!({"notification": {"body": "b", "sound": "s"}}),
        json!({"apns": {"payload": {"aps": {"alert": {"title": "t"}}}}}),
        json!({"content_available": true}),
        json!({"apns": {"payload": {"mine": 1}}}),
        json!({"notification": {"body": ""}}),
    ] {
        assert!(is_certain(fields.clone()), "{fields}");
    }
    for fields in [
        json!({"notification": {"badge": 1}}),
        json!({"notification": {"sound": "s"}}),
        json!({"apns": {"liveActivityToken": "t"}}),
        json!({"apns": {"fcmOptions": {"analyticsLabel": "l"}}}),
    ] {
        assert!(!is_certain(fields.clone()), "{fields}");
    }
}

#[test]
fn what_fcm_would_refuse_is_refused_here() {
    let field = |path: &str| RequestError::field(path, "");
    let reserved = |path: &str| RequestError::ReservedKey(path.to_owned());
    for (fields, error) in [
        (json!({"data": {"from": "x"}}), reserved("data.from")),
        (json!({"data": {"message_type": "x"}}), reserved("data.message_type")),
        (json!({"data": {"notification": "x"}}), reserved("data.notification")),
        (json!({"data": {"google.c": "x"}}), reserved("data.google.c")),
        (json!({"data": {"gcm.n": "x"}}), reserved("data.gcm.n")),
        (json!({"time_to_live": 2_419_201}), field("time_to_live")),
        (json!({"time_to_live": -1}), field("time_to_live")),
        (json!({"time_to_live": 1.5}), field("time_to_live")),
        (json!({"time_to_live": "+5"}), field("time_to_live")),
        (json!({"dry_run": true, "dryRun": false}), field("dryRun")),
        (json!({"android_v2": {}, "androidV2": {}}), field("androidV2")),
        (json!({"android": {"collapseKey": "a", "collapse_key": "b"}}), field("android.collapse_key")),
        (json!({"notification": {"click_action": "a", "clickAction": "b"}}), field("notification.clickAction")),
        (json!({"content_available": true, "contentAvailable": false}), field("contentAvailable")),
        (
            json!({"apns": {"headers": {"apns-priority": "5", "APNS-PRIORITY": "10"}}}),
            field("apns.headers.APNS-PRIORITY"),
        ),
        (json!({"android": {}, "android_v2": {}}), field("android")),
        (
            json!({"android_v2": {"background_sync": {}, "remote_notification": {}}}),
            field("android_v2.background_sync"),
        ),
        (json!({"notification": {"event_time": "soon"}}), field("notification.event_time")),
        (json!({"notification": {"eventTime": ""}}), field("notification.eventTime")),
        (json!({"notification": {"titleLocArgs": 1}}), field("notification.titleLocArgs")),
        (json!({"notification": {"vibrateTimings": 1}}), field("notification.vibrateTimings")),
        (json!({"android": {"notification": {"event_time": 1_700_000_000}}}), field("android.notification.event_time")),
        (json!({"apns": {"headers": {"apns-expiration": "x"}}}), field("apns.headers.apns-expiration")),
        (json!({"apns": {"headers": {"apns-expiration": ""}}}), field("apns.headers.apns-expiration")),
        (json!({"apns": {"headers": {"apns-expiration": 1.5}}}), field("apns.headers.apns-expiration")),
        (json!({"apns": {"headers": {"apns-expiration": -1}}}), field("apns.headers.apns-expiration")),
        (json!({"webpush": {"headers": {"TTL": "abc"}}}), field("webpush.headers.TTL")),
        (json!({"webpush": {"headers": {"ttl": 1.5}}}), field("webpush.headers.ttl")),
        (json!({"priority": "urgent"}), field("priority")),
        (json!({"content_available": 1}), field("content_available")),
        (json!({"restricted_package_name": {}}), field("restricted_package_name")),
        (json!({"data": "x"}), field("data")),
        (json!({"notification": []}), field("notification")),
        (json!({"notification": {"title": {}}}), field("notification.title")),
        (json!({"notification": {"badge": "many"}}), field("notification.badge")),
        (json!({"notification": {"badge": -1}}), field("notification.badge")),
        (json!({"notification": {"body_loc_args": "not a list"}}), field("notification.body_loc_args")),
        (json!({"notification": {"title_loc_args": [[]]}}), field("notification.title_loc_args")),
        (json!({"android": "x"}), field("android")),
        (json!({"apns": {"headers": []}}), field("apns.headers")),
        (json!({"apns": {"payload": {"aps": 1}}}), field("apns.payload.aps")),
        (json!({"android": {"ttl": "soon"}}), field("android.ttl")),
        (json!({"android": {"ttl": -1}}), field("android.ttl")),
        (json!({"androidV2": {"ttl": "2419201s"}}), field("androidV2.ttl")),
        (json!({"android": {"directBootOk": "yes"}}), field("android.directBootOk")),
        (json!({"android": {"priority": "urgent"}}), field("android.priority")),
        (json!({"android": {"data": "x"}}), field("android.data")),
        (json!({"android": {"data": {"from": "x"}}}), reserved("android.data.from")),
        (json!({"androidV2": {"data": {"from": "x"}}}), reserved("androidV2.data.from")),
        (json!({"webpush": {"data": {"gcm.x": "x"}}}), reserved("webpush.data.gcm.x")),
        (json!({"android": {"notification": {"color": "red"}}}), field("android.notification.color")),
        (json!({"android": {"notification": {"visibility": "ALL"}}}), field("android.notification.visibility")),
        (
            json!({"android": {"notification": {"lightSettings": {"color": {"red": "x"}}}}}),
            field("android.notification.lightSettings.color.red"),
        ),
        (json!({"notification": {"color": "red"}}), field("notification.color")),
        (json!({"notification": {"vibrate_timings": ["long"]}}), field("notification.vibrate_timings")),
        (json!({"apns": {"headers": {"apns-priority": 7}}}), field("apns.headers.apns-priority")),
        (json!({"apns": {"headers": {"apns-expiration": []}}}), field("apns.headers.apns-expiration")),
        (json!({"webpush": {"headers": {"X-Mine": {}}}}), field("webpush.headers.X-Mine")),
        (json!({"webpush": {"headers": {"urgency": "mild"}}}), field("webpush.headers.urgency")),
        (json!({"fcm_options": {"analytics_label": "a b"}}), field("fcm_options.analytics_label")),
        (json!({"validate_only": "true"}), field("validate_only")),
        (json!({"dryRun": 1}), field("dryRun")),
        (json!({"fid": "another"}), RequestError::Target(TargetError::Fid)),
        (json!({"fid": "T"}), RequestError::Target(TargetError::Fid)),
        (json!({"condition": "'a' in topics"}), RequestError::Target(TargetError::Several)),
        (json!({"to": "/topics/a b"}), RequestError::Target(TargetError::Topic)),
    ] {
        let mut ccs = json!({"to": "T"});
        lay_over(ccs.as_object_mut().unwrap(), serde_json::from_value(fields).unwrap());
        let refused = request(&ccs).unwrap_err();
        match (&refused, &error) {
            (RequestError::Field { path, .. }, RequestError::Field { path: expected, .. }) => {
                assert_eq!(path, expected, "{ccs}");
            }
            _ => assert_eq!(refused, error, "{ccs}"),
        }
        assert_eq!(refused.code() == "RESERVED_KEY", matches!(refused, RequestError::ReservedKey(_)));
    }
}

#[test]
fn what_is_handed_through_cannot_change_whom_a_message_is_for() {
    let v1 = v1(json!({"token": "thief", "topic": "thieves", "name": "x", "data": {"k": "v"}}));
    assert_eq!(v1, json!({"validate_only": false, "message": {"token": "T", "data": {"k": "v"}}}));
}

#[test]
fn what_is_handed_through_is_merged_last_in_either_spelling() {
    let v1 =
        v1(json!({"collapse_key": "ours", "time_to_live": 5, "notification": {"icon": "ours", "color": "#000000"},
        "android": {"collapseKey": "theirs", "notification": {"icon": "theirs", "channelId": "c"}},
        "webpush": {"headers": {"ttl": "9"}}}));
    assert_eq!(
        v1["message"]["android"],
        json!({"collapse_key": "theirs", "ttl": "5s",
            "notification": {"icon": "theirs", "color": "#000000", "channel_id": "c"}})
    );
    assert_eq!(v1["message"]["webpush"]["headers"]["TTL"], "9");
    assert_eq!(v1["message"]["webpush"]["headers"].as_object().unwrap().len(), 2);
}

#[test]
fn nothing_of_a_message_shows_in_debug_or_in_an_error() {
    let request = request(&json!({"to": "APA91b-secret", "data": {"k": "private"}})).unwrap();
    let shown = format!("{request:?}");
    assert!(!shown.contains("APA91b") && !shown.contains("private"), "{shown}");
    let error = legacy::read(b"{\"to\": \"APA91b-secret\", private", None).unwrap_err().to_string();
    assert!(!error.contains("APA91b") && !error.contains("private"), "{error}");
}

fn any_json() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        "[a-z0-9\\[\\]\"]{0,6}".prop_map(Value::from),
    ];
    let name = prop::sample::select(vec![
        "alert",
        "android",
        "android_v2",
        "androidV2",
        "apns",
        "aps",
        "badge",
        "data",
        "headers",
        "k",
        "notification",
        "payload",
        "remote_notification",
        "title",
        "ttl",
        "webpush",
    ]);
    leaf.prop_recursive(4, 24, 4, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(Value::Array),
            prop::collection::btree_map(name.clone().prop_map(str::to_owned), inner, 0..5)
                .prop_map(|map| Value::Object(map.into_iter().collect())),
        ]
    })
}

fn any_message() -> impl Strategy<Value = Value> {
    let name = prop::sample::select(vec![
        "android",
        "androidV2",
        "android_v2",
        "apns",
        "collapse_key",
        "condition",
        "content_available",
        "data",
        "delay_while_idle",
        "delivery_receipt_requested",
        "dry_run",
        "fcm_options",
        "message_id",
        "mutable_content",
        "notification",
        "other",
        "priority",
        "time_to_live",
        "to",
        "webpush",
    ]);
    prop::collection::btree_map(name.prop_map(str::to_owned), any_json(), 0..8)
        .prop_map(|map| Value::Object(map.into_iter().collect()))
}

fn is_block(name: &str) -> bool {
    HANDED_THROUGH.contains(&&*table::snake(name))
}

/// Whether Google takes the message for an Apple device.
fn is_lawful(message: &Value) -> bool {
    fn is_full(value: &Value) -> bool {
        match value {
            Value::Null | Value::Array(_) => false,
            Value::Bool(is_on) => *is_on,
            Value::Number(_) => true,
            Value::String(text) => !text.is_empty(),
            Value::Object(fields) => fields.values().any(is_full),
        }
    }
    let apns = &message["apns"];
    let aps = &apns["payload"]["aps"];
    let shows = ["title", "body"].iter().any(|name| is_full(&message["notification"][*name]))
        || ["alert", "badge", "sound"].iter().any(|name| is_full(&aps[*name]))
        || is_full(&apns["live_activity_token"]);
    let bare = apns.get("headers").is_none() && apns.get("payload").is_none();
    let headers = &apns["headers"];
    let is_background = headers["apns-priority"] == "5" && headers["apns-push-type"] == "background";
    shows || bare || (is_background && aps["content-available"] == 1)
}

proptest! {
    #[test]
    fn any_document_gives_a_request_or_an_error(document in any_message(), now: u64) {
        let message = legacy::read(document.to_string().as_bytes(), Some("a")).ok();
        if let Some(Ok(request)) = message.map(|message| translate(message, now)) {
            let body: Value = serde_json::from_str(&request.body).unwrap();
            let targets = ["token", "fid", "topic", "condition"];
            prop_assert_eq!(targets.iter().filter(|name| body["message"].get(**name).is_some()).count(), 1);
            let data = body["message"].get("data").and_then(Value::as_object);
            prop_assert!(data.is_none_or(|data| data.values().all(Value::is_string)));
            prop_assert!(is_lawful(&body["message"]), "{body}");
            prop_assert!(request.losses.len() <= LOSSES_MAX);
            let mut fields: Vec<_> = request.losses.iter().map(|loss| &loss.field).collect();
            fields.sort();
            fields.dedup();
            prop_assert_eq!(fields.len(), request.losses.len(), "a field is named once");
        }
    }

    #[test]
    fn handing_through_what_came_out_changes_nothing(extra in any_message()) {
        let extra: Map<String, Value> = serde_json::from_value(extra).unwrap();
        let mut base = legacy::read(br#"{"to":"T","time_to_live":5,"collapse_key":"c","notification":{"icon":"i"}}"#, None).unwrap();
        base.fields.extend(extra.into_iter().filter(|(name, _)| is_block(name)));
        if let Ok(once) = translate(base.clone(), NOW) {
            let body: Value = serde_json::from_str(&once.body).unwrap();
            let Value::Object(mut fields) = body["message"].clone() else { panic!() };
            fields.retain(|name, _| HANDED_THROUGH.contains(&name.as_str()));
            base.fields.retain(|name, _| !is_block(name));
            base.fields.extend(fields);
            prop_assert_eq!(translate(base, NOW).unwrap().body, once.body);
        }
    }

    #[test]
    fn no_bytes_break_the_reader(bytes: Vec<u8>) {
        let _ = legacy::read(&bytes, None);
    }
}

#[test]
fn a_document_cut_short_at_any_byte_is_an_error() {
    let whole = json!({"to": "T", "data": {"k": "é"}, "notification": {"title": "t"}}).to_string();
    for end in 0..whole.len() {
        assert!(matches!(legacy::read(&whole.as_bytes()[..end], None), Err(legacy::LegacyError::Json(_))), "{end}");
    }
}

#[test]
fn losses_are_bounded() {
    let notification: Map<String, Value> = (0..1000).map(|n| (format!("x{n}"), Value::from("y"))).collect();
    let request = request(&json!({"to": "T", "notification": notification}));
    assert_eq!(request, Err(too_big("data", "notification", PAYLOAD_MAX)));
    let unknown: Map<String, Value> = (0..1000).map(|n| (format!("x{n}"), Value::from("y"))).collect();
    let mut ccs = json!({"to": "T"});
    ccs.as_object_mut().unwrap().extend(unknown);
    assert_eq!(self::request(&ccs).unwrap().losses.len(), LOSSES_MAX);
}
