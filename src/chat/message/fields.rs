//! Reads the fields of a payload one by one, each with its type checked.
//!
//! A field whose value is `null` counts as not given: many serialisers write their empty options that way.

use super::{ErrorCode, Rejection};
use crate::chat::id::MessageId;
use serde_json::error::Category;
use serde_json::{Map, Value};

const VERSION: f64 = 1.0;
/// The least time that is taken, in Unix milliseconds: in 1973. What is less was counted in seconds, which pass it in the
/// year 5138, or since the start of a program.
pub(in crate::chat) const TIME_MIN_MS: u64 = 100_000_000_000;

/// Why a payload is no JSON, and where: repeats nothing of it.
fn no_json(error: &serde_json::Error) -> String {
    let why = match error.classify() {
        _ if error.to_string().starts_with("recursion limit") => "the payload is nested too deeply",
        Category::Eof => "the payload is JSON that ends too early",
        Category::Syntax | Category::Data | Category::Io => "the payload is not JSON",
    };
    format!("{why} (line {}, column {})", error.line(), error.column())
}

/// A payload's fields that were not read yet.
pub(in crate::chat) struct Fields(Map<String, Value>);

impl Fields {
    /// Reads one JSON object out of at most `max` bytes.
    pub(in crate::chat) fn read(payload: &[u8], max: usize) -> Result<Self, Rejection> {
        if payload.len() > max {
            return Err(Rejection::new(ErrorCode::TooBig, format!("the payload is longer than {max} bytes")));
        }
        match serde_json::from_slice(payload) {
            Ok(Value::Object(map)) => Ok(Self(map)),
            Ok(_) => Err(Rejection::new(ErrorCode::NotObject, "the payload is JSON, but not an object")),
            Err(error) => Err(Rejection::new(ErrorCode::BadJson, no_json(&error))),
        }
    }

    /// One field alone.
    pub(in crate::chat) fn of(name: &str, value: Value) -> Self {
        Self(Map::from_iter([(name.to_owned(), value)]))
    }

    pub(in crate::chat) fn get(&self, name: &str) -> Option<&Value> {
        self.0.get(name).filter(|value| !value.is_null())
    }

    pub(in crate::chat) fn names(&self) -> impl Iterator<Item = &str> {
        self.0.keys().map(String::as_str)
    }

    /// What was not read, in its order; fields that are `null` are not given.
    pub(in crate::chat) fn rest(&mut self) -> Map<String, Value> {
        let mut rest = std::mem::take(&mut self.0);
        rest.retain(|_, value| !value.is_null());
        rest
    }

    /// For what must not be done by a misunderstanding: the first field that was not read is refused by its name.
    pub(in crate::chat) fn nothing_else(&mut self) -> Result<(), Rejection> {
        match self.rest().keys().next() {
            None => Ok(()),
            Some(name) => Err(Rejection::bad_field(name, "is no field of this, which is not done by a guess")),
        }
    }

    pub(in crate::chat) fn has(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    pub(in crate::chat) fn take(&mut self, name: &str) -> Option<Value> {
        self.0.shift_remove(name).filter(|value| !value.is_null())
    }

    /// `v`: absent or 1.
    pub(in crate::chat) fn version(&mut self) -> Result<(), Rejection> {
        match self.take("v") {
            None => Ok(()),
            Some(v) if v.as_f64() == Some(VERSION) => Ok(()),
            Some(_) => Err(Rejection::new(ErrorCode::Version, "`v` is not 1, the only version there is")),
        }
    }

    /// `id`, as its sender chose it.
    pub(in crate::chat) fn id(&mut self) -> Result<Option<MessageId>, Rejection> {
        let bad = |fault: String| Rejection::new(ErrorCode::BadId, format!("`id` {fault}"));
        match self.take("id") {
            None => Ok(None),
            Some(Value::String(text)) => MessageId::new(text).map(Some).map_err(|fault| bad(fault.to_string())),
            Some(_) => Err(bad("is not a string; put numbers in quotes".to_owned())),
        }
    }

    pub(in crate::chat) fn string(&mut self, name: &str) -> Result<Option<String>, Rejection> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Rejection::bad_field(name, "is not a string")),
        }
    }

    /// A string of 1 to `max` characters without control characters.
    pub(in crate::chat) fn word(&mut self, name: &str, max: usize) -> Result<Option<String>, Rejection> {
        let Some(text) = self.string(name)? else { return Ok(None) };
        if text.is_empty() {
            return Err(Rejection::bad_field(name, "is empty"));
        }
        if text.chars().count() > max {
            return Err(Rejection::bad_field(name, format_args!("is longer than {max} characters")));
        }
        if text.chars().any(char::is_control) {
            return Err(Rejection::bad_field(name, "has a control character"));
        }
        Ok(Some(text))
    }

    /// A time in Unix milliseconds; 0 is one that is over. Whether it suits, whoever has a clock knows.
    pub(in crate::chat) fn time(&mut self, name: &str) -> Result<Option<u64>, Rejection> {
        let Some(time) = self.take(name) else { return Ok(None) };
        match time.as_u64() {
            Some(time) if time == 0 || time >= TIME_MIN_MS => Ok(Some(time)),
            Some(_) => {
                Err(Rejection::bad_field(name, "is too small for a time in Unix milliseconds: are these seconds?"))
            }
            None => Err(Rejection::bad_field(name, "is no whole number of Unix milliseconds")),
        }
    }

    pub(in crate::chat) fn flag(&mut self, name: &str) -> Result<Option<bool>, Rejection> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Bool(flag)) => Ok(Some(flag)),
            Some(_) => Err(Rejection::bad_field(name, "is not true or false")),
        }
    }

    pub(in crate::chat) fn object(&mut self, name: &str) -> Result<Option<Map<String, Value>>, Rejection> {
        match self.take(name) {
            None => Ok(None),
            Some(Value::Object(map)) => Ok(Some(map)),
            Some(_) => Err(Rejection::bad_field(name, "is not an object")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_json_is_told_with_its_place_and_not_repeated() {
        let told = |payload: &str| {
            let Err(rejection) = Fields::read(payload.as_bytes(), 10_000) else { panic!("{payload}") };
            (rejection.code(), rejection.detail().to_owned())
        };
        for (payload, detail) in [
            ("nope", "the payload is not JSON (line 1, column 2)"),
            ("{'id': 1}", "the payload is not JSON (line 1, column 2)"),
            ("{\"id\": \"a1\"", "the payload is JSON that ends too early (line 1, column 11)"),
            ("", "the payload is JSON that ends too early (line 1, column 0)"),
        ] {
            assert_eq!(told(payload), (ErrorCode::BadJson, detail.to_owned()), "{payload}");
        }
        assert!(told(&"[".repeat(200)).1.starts_with("the payload is nested too deeply (line 1, column 1"));
    }
}
