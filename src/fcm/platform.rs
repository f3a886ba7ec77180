//! What the table cannot say: the rules of Android and of Apple for the fields of a message together.

use super::loss::{Losses, Why};
use super::request::{Made, RequestError};
use super::table::{ALERT, ANDROID, ANDROID_V2, APNS, APS, COMMON, Object, SHOWN, once, path, snake, taken, takes};
use serde_json::{Map, Value, json};

/// The `notification` of CCS in one spelling, without what no platform knows. Says what only one of them does.
pub(super) fn notification(given: Object, losses: &mut Losses) -> Made<Object> {
    let mut shown = Map::new();
    for (key, value) in given.into_iter().filter(|(_, value)| !value.is_null()) {
        let name = snake(&key);
        let why = match (takes(SHOWN, &name), takes(APS, &name) || takes(ALERT, &name)) {
            _ if takes(COMMON, &name) => None,
            // Critical alerts have an object.
            (true, true) => (name == "sound" && value.is_object()).then_some(Why::APPLE_ONLY),
            (true, false) => Some(Why::ANDROID_ONLY),
            (false, true) => Some(Why::APPLE_ONLY),
            (false, false) => Some(Why::UNKNOWN),
        };
        if let Some(why) = why {
            losses.note(path("notification", &key), why);
        }
        if why != Some(Why::UNKNOWN) {
            let key = path("notification", &key);
            losses.called(&path("notification", &name), &key);
            once(shown.insert(name, value), &key)?;
        }
    }
    Ok(shown)
}

/// The block for Android, and its name: `android_v2` when the sender hands that one through, for v1 takes one of them.
///
/// Instead of a priority that has kinds of messages. The sender's own choice stays; without one, what shows something or
/// is urgent bypasses the battery saver, and the rest syncs in the background.
pub(super) fn android(
    ccs: &Object,
    shown: &Object,
    blocks: &Object,
    losses: &mut Losses,
) -> Made<(&'static str, Object)> {
    const REMOTE: &str = "remote_notification";
    const BACKGROUND: &str = "background_sync";
    let mut shown = shown.clone();
    shown.retain(|name, value| name != "sound" || !value.is_object());
    let Some(theirs) = blocks.get("android_v2") else {
        return Ok(("android", taken(ANDROID, ccs, "", &shown, losses)?));
    };
    let beside = |path: &str, other| Err(RequestError::field(path, &format!("taken beside `{other}`")));
    if blocks.contains_key("android") {
        return beside("android", "android_v2");
    }
    if theirs.get(BACKGROUND).is_some() && theirs.get(REMOTE).is_some() {
        return beside("android_v2.background_sync", REMOTE);
    }
    let mut block = taken(ANDROID_V2, ccs, "", &shown, losses)?;
    let priority = ccs.get("priority").and_then(Value::as_str);
    let quiet = shown.is_empty() && priority != Some("high");
    let background = theirs.get(BACKGROUND).is_some() || (quiet && theirs.get(REMOTE).is_none());
    // Senders with words of their own need not have written the high one, which is their default.
    let lost = if background { priority == Some("high") && !losses.has_words() } else { priority == Some("normal") };
    if lost {
        losses.note("priority", Why::IMPLIED_BY_KIND);
    }
    if background {
        block.shift_remove(REMOTE);
        if !shown.is_empty() {
            losses.note("notification", Why::SHOWS_NOTHING);
        }
    }
    block.entry(if background { BACKGROUND } else { REMOTE }).or_insert_with(|| json!({}));
    Ok(("android_v2", block))
}

/// The block for Apple's service, with the sender's own laid over it.
///
/// A message that shows nothing goes to Apple's devices as a background push, which is priority 5 and
/// `content-available`, or without headers and payload: Google refuses any other with the words for a bad token. It is
/// one if its sender asks for something of Apple's; else FCM decides how it travels. Returns also whether the request is
/// within those rules for certain: with an alert, as such a background push, or without a block.
pub(super) fn apple(ccs: &Object, shown: &Object, theirs: Object, losses: &mut Losses) -> Made<(Object, bool)> {
    let mut block = taken(APNS, ccs, "", shown, losses)?;
    let mut aps = taken(ALERT, shown, "notification", shown, losses)?;
    // Of the common title and body FCM makes an alert by itself, as long as nothing else does.
    let more = aps.keys().any(|name| !matches!(&**name, "title" | "body"));
    aps = if more { Map::from_iter([("alert".to_owned(), Value::Object(aps))]) } else { Map::new() };
    let is_on = |switch| ccs.get(switch) == Some(&Value::Bool(true));
    for (switch, name) in [("content_available", "content-available"), ("mutable_content", "mutable-content")] {
        aps.extend(is_on(switch).then(|| (name.to_owned(), Value::from(1))));
    }
    if !aps.is_empty() {
        lay_over(&mut block, Map::from_iter([("payload".to_owned(), json!({ "aps": aps }))]));
    }
    lay_over(&mut block, theirs.clone());
    let aps = block.get("payload").and_then(|payload| payload.get("aps"));
    let in_aps = |name| aps.and_then(|aps| aps.get(name));
    let alerts = [shown.get("title"), shown.get("body"), in_aps("alert")].into_iter().flatten().any(is_shown);
    let others = [in_aps("badge"), in_aps("sound"), block.get("live_activity_token")];
    let shows = alerts || others.into_iter().flatten().any(is_shown);
    let asked = is_on("content_available") || theirs.contains_key("headers") || theirs.contains_key("payload");
    if is_on("mutable_content") {
        losses.note("mutable_content", if shows { Why::APPLE_ONLY } else { Why::NOTHING_SHOWN });
    }
    if ccs.contains_key("collapse_key") {
        losses.note("collapse_key", if shows || asked { Why::APPLE_REPLACES_SHOWN } else { Why::NOT_TO_APPLE });
    }
    if shows || !asked {
        let is_within_rules = alerts || (!shows && theirs.is_empty());
        return Ok((if shows { block } else { theirs }, is_within_rules));
    }
    let headers = [("apns-priority", "5"), ("apns-push-type", "background")];
    for (name, value) in headers {
        if theirs.get("headers").and_then(|headers| headers.get(name)).is_some_and(|wished| wished != value) {
            losses.note(path("apns.headers", name), Why::SILENT);
        }
    }
    let headers: Object = headers.into_iter().map(|(name, value)| (name.to_owned(), Value::from(value))).collect();
    let pair = json!({"headers": headers, "payload": {"aps": {"content-available": 1}}});
    lay_over(&mut block, serde_json::from_value(pair).unwrap_or_default());
    Ok((block, true))
}

/// Whether a value has something to show: neither empty text nor null, false or an object of such.
fn is_shown(value: &Value) -> bool {
    let is_nothing = value.is_null() || value.is_array() || *value == false || *value == "";
    value.as_object().map_or(!is_nothing, |fields| fields.values().any(is_shown))
}

/// Lays `over` over `base`: objects field by field, everything else replaces what was there.
pub(super) fn lay_over(base: &mut Object, over: Object) {
    for (name, value) in over {
        match (base.get_mut(&name), value) {
            (Some(Value::Object(base)), Value::Object(over)) => lay_over(base, over),
            (_, value) => drop(base.insert(name, value)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn map(value: Value) -> Map<String, Value> {
        serde_json::from_value(value).unwrap()
    }

    #[test]
    fn objects_are_laid_over_each_other_and_the_rest_is_replaced() {
        let mut base = map(json!({"a": {"x": 1, "y": [1, 2]}, "b": 1, "c": {"z": 1}}));
        lay_over(&mut base, map(json!({"a": {"y": [3]}, "b": {"n": 1}, "c": 2, "d": 3})));
        assert_eq!(Value::Object(base), json!({"a": {"x": 1, "y": [3]}, "b": {"n": 1}, "c": 2, "d": 3}));
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf =
            prop_oneof![any::<bool>().prop_map(Value::from), any::<u8>().prop_map(Value::from), Just(json!([1]))];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop::collection::btree_map("[a-c]", inner, 0..4).prop_map(|m| Value::Object(m.into_iter().collect()))
        })
    }

    fn object() -> impl Strategy<Value = Map<String, Value>> {
        prop::collection::btree_map("[a-c]", tree(), 0..4).prop_map(|m| m.into_iter().collect())
    }

    proptest! {
        #[test]
        fn merging_twice_is_merging_once(base in object(), over in object()) {
            let mut once = base;
            lay_over(&mut once, over.clone());
            let mut twice = once.clone();
            lay_over(&mut twice, over);
            prop_assert_eq!(once, twice);
        }
    }
}
