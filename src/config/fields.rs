//! What the settings are made of, asked of serde, so that no second list of keys exists.

use serde::de::value::MapDeserializer;
use serde::de::{self, DeserializeOwned, Deserializer, IntoDeserializer, Visitor};
use std::{fmt, iter};

/// What stands at a place in the settings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Kind {
    /// A section with these keys.
    Section(Vec<&'static str>),
    /// A table whose keys are names of the operator's own: apps, BALs, projects.
    Names,
    /// One of these words.
    OneOf(&'static [&'static str]),
    /// Text, also that of a path or an address.
    Text,
    /// A whole number.
    Number,
    /// `true` or `false`.
    Switch,
    /// A list of texts.
    List,
    /// Nothing: there is no such key.
    Unknown,
}

impl fmt::Display for Kind {
    /// What a value has to be.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Section(_) | Self::Names => f.write_str("a section (a table of keys and values)"),
            Self::OneOf(words) => write!(f, "one of \"{}\"", words.join("\", \"")),
            Self::Text | Self::Unknown => f.write_str("text"),
            Self::Number => f.write_str("a whole number"),
            Self::Switch => f.write_str("true or false"),
            Self::List => f.write_str("a list of texts"),
        }
    }
}

/// What stands at `path` in a `T`.
pub(super) fn kind_of<T: DeserializeOwned>(path: &[&str]) -> Kind {
    match T::deserialize(Asker { path }) {
        Err(Answer(kind)) => kind,
        Ok(_) => Kind::Unknown,
    }
}

/// Walks along `path` into a type, and answers with what the type there asks for.
struct Asker<'a> {
    path: &'a [&'a str],
}

impl Asker<'_> {
    /// Goes into the table that stands here, which is a `kind`, or stops.
    fn step<'de, V: Visitor<'de>>(&self, kind: Kind, visitor: V) -> Result<V::Value, Answer> {
        let Some((key, path)) = self.path.split_first() else { return Err(Answer(kind)) };
        visitor.visit_map(MapDeserializer::new(iter::once((*key, Asker { path }))))
    }
}

#[derive(Debug)]
struct Answer(Kind);

impl fmt::Display for Answer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl std::error::Error for Answer {}

impl de::Error for Answer {
    fn custom<M: fmt::Display>(_: M) -> Self {
        Self(Kind::Unknown)
    }
}

macro_rules! answers {
    ($($kind:expr => $($method:ident)+;)+) => {
        $($(fn $method<V: Visitor<'de>>(self, _: V) -> Result<V::Value, Answer> {
            Err(Answer($kind))
        })+)+
    };
}

impl<'de> Deserializer<'de> for Asker<'_> {
    type Error = Answer;

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        _: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Answer> {
        self.step(Kind::Section(fields.to_vec()), visitor)
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Answer> {
        self.step(Kind::Names, visitor)
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Answer> {
        visitor.visit_some(self)
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _: &'static str, visitor: V) -> Result<V::Value, Answer> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _: &'static str,
        variants: &'static [&'static str],
        _: V,
    ) -> Result<V::Value, Answer> {
        Err(Answer(Kind::OneOf(variants)))
    }

    answers! {
        // The flattened apps of `[routes]` ask for anything; they are texts.
        Kind::Text => deserialize_any deserialize_char deserialize_str deserialize_string;
        Kind::Number => deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128;
        Kind::Number => deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128;
        Kind::Switch => deserialize_bool;
        Kind::List => deserialize_seq;
        // A key that the section does not have.
        Kind::Unknown => deserialize_ignored_any;
    }

    serde::forward_to_deserialize_any! {
        f32 f64 bytes byte_buf unit unit_struct tuple tuple_struct identifier
    }
}

impl<'de> IntoDeserializer<'de, Answer> for Asker<'_> {
    type Deserializer = Self;

    fn into_deserializer(self) -> Self {
        self
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::sections::kind_at;

    #[test]
    fn what_stands_at_a_place_is_known() {
        let at = kind_at;
        assert!(matches!(at(&[]), Kind::Section(sections) if sections.contains(&"limits")));
        assert_eq!(at(&["store"]), Kind::Section(vec!["path"]));
        assert_eq!(at(&["ccs", "window"]), Kind::Number);
        assert_eq!(at(&["ccs", "api_key"]), Kind::Text);
        assert_eq!(at(&["ops", "listen"]), Kind::Text);
        assert_eq!(at(&["broker", "anonymous"]), Kind::Switch);
        assert_eq!(at(&["broker", "ws_origins"]), Kind::List);
        assert_eq!(at(&["mqtt", "broker"]), Kind::OneOf(&["embedded", "external"]));
        assert_eq!(at(&["fcm", "projects"]), Kind::Names);
        assert_eq!(at(&["fcm", "projects", "shop", "on_ambiguous"]), Kind::OneOf(&["retry", "report"]));
        assert_eq!((at(&["routes"]), at(&["routes", "com.example"])), (Kind::Names, Kind::Text));
        assert!(at(&["bals", "client1"]) == Kind::Section(vec!["ack", "events"]));
        assert_eq!(at(&["ccs", "widnow"]), Kind::Unknown);
        assert_eq!((at(&["limits", "queue_rows"]), at(&["limits", "broker_inflight"])), (Kind::Number, Kind::Number));
        assert!(matches!(at(&["limits"]), Kind::Section(keys) if keys.contains(&"broker_inflight")));
    }
}
