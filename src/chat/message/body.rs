//! The stored form of a push: the store keeps bytes and knows nothing of what is in them.

use crate::chat::push::{Push, Target};
use serde_json::Value;

/// Why stored bytes are not a push. The text repeats nothing of what is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum BodyError {
    /// Not the JSON that was written.
    #[error("what is stored is not of the form that was written (line {line}, column {column})")]
    Form {
        /// Where it ceases to be.
        line: usize,
        /// Where it ceases to be.
        column: usize,
    },
    /// A value of `data` is not a string.
    #[error("the stored data has a value that is not a string")]
    Data,
}

impl From<serde_json::Error> for BodyError {
    // The error's own text may quote a value.
    fn from(error: serde_json::Error) -> Self {
        Self::Form { line: error.line(), column: error.column() }
    }
}

impl Push {
    /// The bytes to keep.
    pub fn to_body(&self) -> Vec<u8> {
        super::json(self)
    }

    /// Reads what [`Push::to_body`] wrote.
    ///
    /// # Errors
    /// When the bytes are something else.
    pub fn from_body(body: &[u8]) -> Result<Self, BodyError> {
        let push: Self = serde_json::from_slice(body)?;
        if push.data.values().all(Value::is_string) { Ok(push) } else { Err(BodyError::Data) }
    }

    /// The same for one recipient of several: what all of them get, and in place of its target the one that
    /// [`Target::to_address`] wrote.
    ///
    /// # Errors
    /// When the bytes are something else.
    pub fn from_body_for(body: &[u8], address: Option<&[u8]>) -> Result<Self, BodyError> {
        let push = Self::from_body(body)?;
        Ok(match address {
            Some(address) => Self { target: serde_json::from_slice(address)?, ..push },
            None => push,
        })
    }
}

impl Target {
    /// The bytes to keep for one recipient of several.
    pub fn to_address(&self) -> Vec<u8> {
        super::json(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::id::Token;
    use crate::chat::push::{Priority, Target};
    use proptest::prelude::*;
    use serde_json::{Map, json};

    fn json_value() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            any::<u64>().prop_map(Value::from),
            prop::num::f64::NORMAL.prop_map(Value::from),
            any::<String>().prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 16, 4, |inner| {
            prop_oneof![
                prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                map(inner).prop_map(Value::from)
            ]
        })
    }

    fn map(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
        prop::collection::vec((any::<String>(), value), 0..4).prop_map(|pairs| pairs.into_iter().collect())
    }

    fn push() -> impl Strategy<Value = Push> {
        let target = prop_oneof![
            "[!-~é]{1,200}".prop_map(|text| Target::Token(Token::new(text).unwrap())),
            any::<String>().prop_map(Target::Topic),
            any::<String>().prop_map(Target::Condition),
        ];
        let priority = prop_oneof![Just(Priority::High), Just(Priority::Normal)];
        let data = map(any::<String>().prop_map(Value::from));
        let shown = prop::option::of(map(json_value()));
        (target, data, shown, priority, any::<Option<String>>(), any::<bool>(), map(json_value())).prop_map(
            |(target, data, notification, priority, collapse, receipt, fcm)| Push {
                target,
                data,
                notification,
                priority,
                collapse,
                receipt,
                fcm,
            },
        )
    }

    proptest! {
        #[test]
        fn a_push_survives_the_store(push in push()) {
            let body = push.to_body();
            prop_assert_eq!(Push::from_body(&body), Ok(push));
        }

        #[test]
        fn a_cut_body_is_an_error(push in push(), cut: prop::sample::Index) {
            let body = push.to_body();
            prop_assert!(Push::from_body(&body[..cut.index(body.len())]).is_err());
        }

        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = Push::from_body(&bytes);
        }
    }

    #[test]
    fn each_recipient_of_several_has_its_own_target_in_what_all_of_them_get() {
        let shared = br#"{"target":{"topic":"all"},"data":{"k":"v"},"priority":"high","receipt":true}"#;
        let target = Target::Token(Token::new("T").unwrap());
        assert_eq!(target.to_address(), br#"{"token":"T"}"#);
        let push = Push::from_body_for(shared, Some(&target.to_address())).unwrap();
        assert_eq!((&push.target, push.data["k"].as_str()), (&target, Some("v")));
        assert_eq!(Push::from_body_for(shared, None), Push::from_body(shared));
        assert!(matches!(Push::from_body_for(shared, Some(b"T")), Err(BodyError::Form { .. })));
    }

    #[test]
    fn the_stored_form_never_changes() {
        let stored = r#"{"target":{"token":"T"},"data":{"k":"v"},"priority":"high","receipt":true}"#;
        let push = Push::from_body(stored.as_bytes()).unwrap();
        assert_eq!(push.to_body(), stored.as_bytes());
        assert_eq!((push.collapse, push.notification, push.fcm.len()), (None, None, 0));
    }

    #[test]
    fn what_is_not_a_push_is_told_without_quoting_it() {
        let valid = json!({"target": {"token": "T"}, "data": {}, "priority": "high", "receipt": true});
        let read = |field: &str, value: Value| {
            let mut stored = valid.clone();
            stored[field] = value;
            Push::from_body(stored.to_string().as_bytes()).unwrap_err()
        };
        assert_eq!(read("data", json!({"k": 1})), BodyError::Data);
        for (field, value) in [("target", json!({"token": "a secret"})), ("priority", json!("secret"))] {
            let error = read(field, value);
            assert!(matches!(error, BodyError::Form { .. }), "{field}: {error}");
            assert!(!error.to_string().contains("secret"));
        }
    }
}
