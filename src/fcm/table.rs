//! The fields of v1 and those of CCS, in one table: what each holds, where it may stand, and what a field of CCS becomes.
//! What is translated, checked or explained is read here.
//!
//! A row has the fields of one kind, by their names in snake case; camel case is taken as well, and of two spellings the
//! they are refused together. `a<b` is the field `a`, which CCS calls `b`; `<a` has one name with both. Below `notification` and
//! `payload` those of CCS are the fields of its `notification`, else those of the message. A row without a name stands for those of its block.

use super::data::is_reserved;
use super::limits::{APNS_COLLAPSE_MAX, TTL_MAX, WEBPUSH_TOPIC_MAX};
use super::loss::{Losses, Why};
use super::request::{Made, RequestError};
use super::target::{is_base64url, is_topic_name};
use Kind::{
    Any, Block, Data, Digits, Flag, Form, Headers, Json, Key, Number, Open, Text, Texts, Time, Times, Whole, Word,
};
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value};
use sha2::{Digest, Sha256};

/// A JSON object.
pub(super) type Object = Map<String, Value>;
/// Rows: the names of the fields, and what they hold.
pub(super) type Fields = &'static [(&'static str, Kind)];

/// What a field holds.
#[derive(Clone, Copy)]
pub(super) enum Kind {
    /// Text; numbers and booleans become text.
    Text,
    /// Text; other values become their JSON text.
    Json,
    /// Text that is only taken in a form, which the words describe.
    Form(fn(&str) -> bool, &'static str),
    /// Text; hashed if it is longer than this, or has a byte that may not stand there.
    Key(usize, fn(&u8) -> bool),
    /// One of these words in any case. Apple's 5 and 10 are other words for normal and high.
    Word(&'static [&'static str]),
    /// A list of texts, or the JSON text of one, as CCS takes it.
    Texts,
    /// True or false.
    Flag,
    /// A number.
    Number,
    /// A whole number up to this, or the text of one.
    Whole(u32),
    /// The text of a whole number.
    Digits,
    /// A duration, as `"3.5s"`; a number, or the text of one, is in seconds.
    Time,
    /// A list of durations.
    Times,
    /// Text to text, for the application: other values become JSON text.
    Data,
    /// Anything.
    Any,
    /// These fields and no others.
    Block(Fields),
    /// Any fields, of which these are known.
    Open(Fields),
    /// Texts by HTTP's names, of which these are known.
    Headers(Fields),
}

/// A message in the words of CCS, and what its sender hands through to v1.
pub(super) const CCS: Kind = Block(&[
    ("content_available mutable_content delay_while_idle dry_run validate_only", Flag),
    ("collapse_key restricted_package_name", Text),
    ("priority", Word(&["normal", "high"])),
    ("time_to_live", Whole(TTL_MAX)),
    ("data", Data),
    ("notification", Open(&[])),
    ("fcm_options", Block(&[LABEL])),
    ("android", Block(ANDROID)),
    ("android_v2", Block(ANDROID_V2)),
    ("apns", Block(APNS)),
    ("webpush", Block(WEBPUSH)),
]);

pub(super) const COMMON: Fields = &[("<title <body <image", Text)];

pub(super) const ANDROID: Fields =
    &[("", Block(EVERY_ANDROID)), ("<priority", Word(&["NORMAL", "HIGH"])), ("notification", Block(SHOWN))];

/// In the place of `android` (2026, preview): instead of a priority it has kinds of messages.
pub(super) const ANDROID_V2: Fields =
    &[("", Block(EVERY_ANDROID)), ("remote_notification", Block(REMOTE)), ("background_sync", Block(&[]))];

const EVERY_ANDROID: Fields = &[
    ("<collapse_key <restricted_package_name", Text),
    ("ttl<time_to_live", Time),
    ("direct_boot_ok bandwidth_constrained_ok restricted_satellite_ok", Flag),
    ("data", Data),
    ("fcm_options", Block(&[LABEL])),
];

const REMOTE: Fields = &[
    ("<mutable_content use_as_v1_data_message", Flag),
    ("notification", Block(&[("", Block(SHOWN)), ("id", Whole(COUNT_MAX))])),
];

/// What Android shows.
pub(super) const SHOWN: Fields = &[
    ("title body image <icon <tag <sound <click_action <title_loc_key <body_loc_key <ticker", Text),
    ("<event_time", Form(is_time, "a time such as 2026-01-31T12:00:00Z")),
    ("<channel_id channel_id<android_channel_id", Text),
    ("<color", Form(is_color, "a colour such as #aabbcc")),
    ("<title_loc_args <body_loc_args", Texts),
    ("<sticky <local_only <default_sound <default_vibrate_timings <default_light_settings", Flag),
    ("<bypass_proxy_notification", Flag),
    ("<notification_count", Whole(COUNT_MAX)),
    ("<vibrate_timings", Times),
    ("<notification_priority", Word(PRIORITIES)),
    ("<visibility", Word(&["PRIVATE", "PUBLIC", "SECRET", "VISIBILITY_UNSPECIFIED"])),
    ("<proxy", Word(&["ALLOW", "DENY", "IF_PRIORITY_LOWERED", "PROXY_UNSPECIFIED"])),
    (
        "<light_settings",
        Block(&[("color", Block(&[("red green blue alpha", Number)])), ("light_on_duration light_off_duration", Time)]),
    ),
];

pub(super) const APNS: Fields = &[
    (
        "headers",
        Headers(&[
            ("apns-priority<priority", Word(&["5", "10", "1"])),
            ("apns-push-type apns-topic apns-id", Text),
            ("apns-expiration<expires_at", Digits),
            ("apns-collapse-id<collapse_key", Key(APNS_COLLAPSE_MAX, u8::is_ascii_graphic)),
        ]),
    ),
    ("payload", Open(&[("aps", Open(APS))])),
    ("fcm_options", Block(&[LABEL, ("image", Text)])),
    ("live_activity_token", Text),
];

pub(super) const APS: Fields = &[("<sound", Any), ("<badge", Whole(COUNT_MAX)), ("category<click_action", Text)];

/// `alert` in [`APS`], which may be a text as well.
pub(super) const ALERT: Fields = &[
    ("<title <subtitle <body title-loc-key<title_loc_key loc-key<body_loc_key", Text),
    ("title-loc-args<title_loc_args loc-args<body_loc_args", Texts),
];

pub(super) const WEBPUSH: Fields = &[
    (
        "headers",
        Headers(&[
            ("TTL<time_to_live", Digits),
            ("Urgency<priority", Word(&["normal", "high", "low", "very-low"])),
            ("Topic<collapse_key", Key(WEBPUSH_TOPIC_MAX, is_base64url)),
        ]),
    ),
    ("data", Data),
    ("notification", Open(&[])),
    ("fcm_options", Block(&[LABEL, ("link", Text)])),
];

const LABEL: (&str, Kind) = ("analytics_label", Form(is_label, "1 to 50 of A-Z a-z 0-9 - _ . ~ %"));
const PRIORITIES: &[&str] =
    &["PRIORITY_UNSPECIFIED", "PRIORITY_MIN", "PRIORITY_LOW", "PRIORITY_DEFAULT", "PRIORITY_HIGH", "PRIORITY_MAX"];
/// What an `int32` of Google's holds.
const COUNT_MAX: u32 = i32::MAX.unsigned_abs();

/// Each field of a table: what it holds, its name, and its name with CCS.
fn each(fields: Fields) -> impl Iterator<Item = (Kind, &'static str, Option<&'static str>)> {
    let rows = fields.iter().flat_map(|row| match row {
        ("", Block(rows)) => *rows,
        row => std::slice::from_ref(row),
    });
    rows.flat_map(|(names, kind)| {
        names.split(' ').map(|names| match names.split_once('<') {
            None => (*kind, names, None),
            Some(("", both)) => (*kind, both, Some(both)),
            Some((name, from)) => (*kind, name, Some(from)),
        })
    })
}

/// Whether a table takes the field of CCS with this name.
pub(super) fn takes(fields: Fields, from: &str) -> bool {
    each(fields).any(|(.., taken)| taken == Some(from))
}

/// What a table takes from the fields `from` of CCS, which stand below `at`; `shown` is the `notification`.
pub(super) fn taken(
    fields: Fields,
    from: &Object,
    at: &'static str,
    shown: &Object,
    losses: &mut Losses,
) -> Made<Object> {
    let mut out = Map::new();
    // Most messages show nothing, and the tables of what can be shown are the longest.
    if from.is_empty() && shown.is_empty() {
        return Ok(out);
    }
    for (kind, name, taken_from) in each(fields) {
        let value = match (taken_from.map(|name| (name, from.get(name))), kind) {
            (Some((name, Some(value))), _) => {
                let at = losses.spelt(path(at, name));
                kind.shape(value.clone(), &at, losses)?
            }
            (None, Block(inner) | Open(inner) | Headers(inner)) => {
                let below = matches!(name, "notification" | "payload");
                let (from, at) = if below { (shown, "notification") } else { (from, at) };
                Value::Object(taken(inner, from, at, shown, losses)?)
            }
            _ => continue,
        };
        if value.as_object().is_none_or(|fields| !fields.is_empty()) {
            out.insert(name.to_owned(), value);
        }
    }
    Ok(out)
}

impl Kind {
    /// The fields of an object as they have to be written; `at` is where it stands.
    pub(super) fn object(self, given: Object, at: &str, losses: &mut Losses) -> Made<Object> {
        let mut out = Map::with_capacity(given.len());
        for (key, value) in given {
            let known = self.field(&key);
            match (known, self) {
                (None, Data) if is_reserved(&key) => return Err(RequestError::ReservedKey(path(at, &key))),
                (None, Data) if value.is_null() => losses.note(path(at, &key), Why::NULL),
                (None, Block(_)) if !value.is_null() => losses.note(path(at, &key), Why::UNKNOWN),
                (None, Open(_)) => drop(out.insert(key, value)),
                _ if value.is_null() => {}
                _ => {
                    let (kind, name) = known.unwrap_or((if matches!(self, Data) { Json } else { Text }, &key));
                    let value = kind.shape(value, &path(at, &key), losses)?;
                    if at.is_empty() && name != key {
                        losses.called(name, &key);
                    }
                    once(out.insert(name.to_owned(), value), &path(at, &key))?;
                }
            }
        }
        Ok(out)
    }

    fn field(self, key: &str) -> Option<(Self, &'static str)> {
        let (Block(fields) | Open(fields) | Headers(fields)) = self else { return None };
        let snake = snake(key);
        let same = |name: &str| match self {
            Block(_) => name == key || name == snake,
            Headers(_) => name.eq_ignore_ascii_case(key),
            _ => name == key,
        };
        each(fields).find(|(_, name, _)| same(name)).map(|(kind, name, _)| (kind, name))
    }

    /// A value as it has to be written; `at` is where it stands.
    pub(super) fn shape(self, value: Value, at: &str, losses: &mut Losses) -> Made<Value> {
        let value = match (self, value) {
            (Texts, Value::String(json)) => serde_json::from_str(&json).unwrap_or_default(),
            (_, value) => value,
        };
        let shaped = match (self, value) {
            (Block(_) | Open(_) | Headers(_) | Data, Value::Object(given)) => {
                return self.object(given, at, losses).map(Value::Object);
            }
            (Texts | Times, Value::Array(list)) => {
                let kind = if matches!(self, Times) { Time } else { Text };
                let shaped = list.into_iter().map(|item| kind.shape(item, at, losses));
                return shaped.collect::<Result<_, _>>().map(Value::Array);
            }
            (Any, value) | (Flag, value @ Value::Bool(_)) | (Number, value @ Value::Number(_)) => Some(value),
            (Json, Value::String(text)) => Some(Value::String(text)),
            (Json, value) => Some(Value::String(value.to_string())),
            (Text, value) => text(&value).map(Value::from),
            (Form(fits, _), value) => text(&value).filter(|text| fits(text)).map(Value::from),
            (Key(max, legal), value) => text(&value).map(|key| Value::from(fitting(key, max, legal))),
            (Word(words), value) => text(&value).and_then(|text| word(&text, words)).map(Value::from),
            (Whole(max), value) => whole(&value).filter(|number| *number <= max.into()).map(Value::from),
            (Digits, value) => whole(&value).map(|number| Value::from(number.to_string())),
            (Time, value) => duration(&value).map(Value::from),
            _ => None,
        };
        shaped.ok_or_else(|| RequestError::Field { path: at.to_owned(), wants: self.wants() })
    }

    fn wants(self) -> String {
        match self {
            Form(_, words) => words.to_owned(),
            Word(words) => format!("one of {}", words.join(", ")),
            Whole(max) => format!("a whole number from 0 to {max}"),
            Time | Times => format!("a duration such as \"3600s\", up to {TTL_MAX} seconds"),
            Digits => "a whole number of seconds".to_owned(),
            Flag => "true or false".to_owned(),
            Number => "a number".to_owned(),
            Text | Json | Key(..) => "text".to_owned(),
            Texts => "a list of texts".to_owned(),
            Data | Any | Block(_) | Open(_) | Headers(_) => "an object".to_owned(),
        }
    }
}

/// Most characters that are shown of a name which the application chose.
const NAME_MAX: usize = 64;

/// Where the field `name` stands, for a person.
pub(super) fn path(at: &str, name: &str) -> String {
    let name = name.chars().filter(|c| !c.is_control()).take(NAME_MAX);
    at.chars().chain(at.chars().take(1).map(|_| '.')).chain(name).collect()
}

/// Refuses a field that replaced another one: the same in another spelling.
pub(super) fn once(replaced: Option<Value>, path: &str) -> Made<()> {
    replaced
        .map_or(Ok(()), |_| Err(RequestError::field(path, "the only one of its name: another spelling is there too")))
}

/// Snake case.
pub(super) fn snake(camel: &str) -> String {
    let mut snake = String::with_capacity(camel.len() + 4);
    for c in camel.chars() {
        if c.is_ascii_uppercase() {
            snake.push('_');
        }
        snake.push(c.to_ascii_lowercase());
    }
    snake
}

fn text(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(_) | Value::Bool(_) => Some(value.to_string()),
        Value::Null | Value::Array(_) | Value::Object(_) => None,
    }
}

fn word(text: &str, words: &[&'static str]) -> Option<&'static str> {
    let other = match &*text.to_ascii_lowercase() {
        "5" => "normal",
        "10" => "high",
        "normal" => "5",
        "high" => "10",
        _ => text,
    };
    words.iter().copied().find(|word| word.eq_ignore_ascii_case(text) || word.eq_ignore_ascii_case(other))
}

fn whole(value: &Value) -> Option<u64> {
    let text = text(value)?;
    let digits = text.strip_suffix(".0").unwrap_or(&text);
    digits.bytes().all(|c| c.is_ascii_digit()).then(|| digits.parse().ok())?
}

fn duration(value: &Value) -> Option<String> {
    let seconds = text(value)?;
    let seconds = seconds.strip_suffix('s').unwrap_or(&seconds);
    let (whole, part) = seconds.split_once('.').unwrap_or((seconds, "0"));
    let digits = |text: &str| (1..=9).contains(&text.len()) && text.bytes().all(|c| c.is_ascii_digit());
    let fits = digits(whole) && digits(part) && seconds.parse::<f64>().is_ok_and(|seconds| seconds <= TTL_MAX.into());
    fits.then(|| format!("{seconds}s"))
}

fn fitting(key: String, max: usize, legal: fn(&u8) -> bool) -> String {
    if (1..=max).contains(&key.len()) && key.bytes().all(|c| legal(&c)) {
        return key;
    }
    let mut hash = URL_SAFE_NO_PAD.encode(Sha256::digest(key.as_bytes()));
    hash.truncate(max);
    hash
}

fn is_color(text: &str) -> bool {
    text.strip_prefix('#').is_some_and(|hex| hex.len() == 6 && hex.bytes().all(|c| c.is_ascii_hexdigit()))
}

/// RFC 3339, with any zone.
fn is_time(text: &str) -> bool {
    let is_utc = |text: &str| humantime::parse_rfc3339(text).is_ok();
    let (time, zone) = text.split_at_checked(text.len().saturating_sub("+00:00".len())).unwrap_or_default();
    let zone = zone.strip_prefix(['+', '-']).map(|zone| format!("2000-01-01T{zone}:00Z"));
    is_utc(text) || (zone.is_some_and(|zone| is_utc(&zone)) && is_utc(&format!("{time}Z")))
}

fn is_label(text: &str) -> bool {
    text.len() <= 50 && is_topic_name(text)
}
