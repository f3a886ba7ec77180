//! Lays one JSON object over another.

use serde_json::{Map, Value};

/// Lays `over` over `base`: objects field by field, everything else replaces what was there.
pub(super) fn deep(base: &mut Map<String, Value>, over: Map<String, Value>) {
    for (name, value) in over {
        match (base.get_mut(&name), value) {
            (Some(Value::Object(base)), Value::Object(over)) => deep(base, over),
            (_, value) => {
                base.insert(name, value);
            }
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
        deep(&mut base, map(json!({"a": {"y": [3]}, "b": {"n": 1}, "c": 2, "d": 3})));
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
            deep(&mut once, over.clone());
            let mut twice = once.clone();
            deep(&mut twice, over);
            prop_assert_eq!(once, twice);
        }
    }
}
