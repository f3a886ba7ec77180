//! `data`: text to text, no reserved keys, and how much it weighs.

use super::loss::{Losses, Why};
use super::request::{Made, RequestError};
use super::table::path;
use serde_json::{Map, Value};

/// The key of `data` that holds the message's id, the same in every copy: by it the app knows a duplicate.
pub const ID_KEY: &str = "mid";
/// The key of `data` that says where the app confirms that it has the message: it publishes (or posts)
/// `{"id": "<mid>", "status": "received"}` there, the document of `self/receipts` in topics.md.
pub const ACK_KEY: &str = "ack";

/// Adds the message's id, and where to confirm it, to the `data` of a message and to that of each platform, which is in
/// its place there. The application's own keys stay, and its message is not given up for a few bytes of ours. What else
/// counts is `shown`, or the notification of a platform if that is heavier; `max` is the limit in bytes. Returns whether
/// an app can confirm it on any platform.
pub(super) fn complete(
    fields: &mut Map<String, Value>,
    (id, receipt, ack): (Option<String>, bool, Option<String>),
    (shown, max): (&Map<String, Value>, usize),
    losses: &mut Losses,
) -> Made<bool> {
    let ack = ack.filter(|_| receipt && id.is_some());
    if receipt && ack.is_none() {
        losses.note(path("data", ACK_KEY), Why::NO_RECEIPTS);
    }
    let asks = ack.is_some();
    let mut travels = false;
    let ours: Vec<_> = [(ID_KEY, id), (ACK_KEY, ack)].into_iter().filter_map(|(key, it)| Some((key, it?))).collect();
    let more: usize = ours.iter().map(|(key, value)| key.len() + value.len()).sum();
    fields.entry("data").or_insert_with(|| Value::Object(Map::new()));
    let (shown, shown_weight) = heaviest(fields, shown);
    for at in ["data", "android.data", "android_v2.data", "webpush.data"] {
        let data = match at.split_once('.') {
            None => fields.get_mut(at),
            Some((block, name)) => fields.get_mut(block).and_then(|block| block.get_mut(name)),
        };
        let Some(data) = data.and_then(Value::as_object_mut) else { continue };
        let weight = weight(data) + shown_weight;
        if weight > max {
            let (data, shown) = (losses.spelt(at), losses.spelt(shown));
            return Err(RequestError::TooBig { data: data.into_owned(), shown: shown.into_owned(), max });
        }
        if let Some((key, _)) = ours.iter().find(|(key, _)| data.contains_key(*key)) {
            losses.note(path(at, key), Why::KEY_TAKEN);
        } else if weight + more > max {
            losses.note(if data.is_empty() { shown.clone() } else { at.to_owned() }, Why::NO_ROOM);
        } else {
            travels = true;
            for (key, value) in &ours {
                let why = if *key == ID_KEY { Why::ID_IN_DATA } else { Why::APP_CONFIRMS };
                losses.note(path("data", key), why);
                data.insert((*key).to_owned(), Value::from(value.as_str()));
            }
        }
    }
    Ok(asks && travels)
}

/// The heaviest of what is shown with `data`: the message's notification, or that of a platform laid over it. Where it
/// stands, and its weight.
fn heaviest(fields: &Map<String, Value>, shown: &Map<String, Value>) -> (String, usize) {
    const OWN: [&str; 3] =
        ["/android/notification", "/android_v2/remote_notification/notification", "/webpush/notification"];
    let own = OWN.into_iter().filter_map(|at| {
        let (block, rest) = at[1..].split_once('/')?;
        let own = fields.get(block)?.pointer(&at[block.len() + 1..])?.as_object()?;
        let merged = shown.iter().chain(own).map(|(name, value)| (name.clone(), value.clone())).collect();
        Some((format!("{block}.{}", rest.replace('/', ".")), weight(&merged)))
    });
    own.fold(("notification".to_owned(), weight(shown)), |most, one| if one.1 > most.1 { one } else { most })
}

/// Whether FCM keeps a key of `data` for itself. Its documents of different years differ in what follows `google` and
/// `gcm`; this is the widest reading, and that of topics.md.
pub fn is_reserved(key: &str) -> bool {
    matches!(key, "from" | "message_type" | "notification") || key.starts_with("google") || key.starts_with("gcm")
}

/// The UTF-8 bytes of all keys and values; a value that is not text counts as its JSON text.
pub(super) fn weight(map: &Map<String, Value>) -> usize {
    map.iter().map(|(key, value)| key.len() + value.as_str().map_or_else(|| value.to_string().len(), str::len)).sum()
}
