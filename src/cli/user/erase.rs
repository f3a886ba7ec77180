//! `user erase`: everything of a chat user goes.

use crate::cli::control::{ask, name};
use crate::ops::print;
use serde_json::{Value, json};
use std::path::Path;

/// Asks the running bridge for it, and prints what went, and what stays.
///
/// # Errors
/// When no bridge runs, or there is no such user.
pub(in crate::cli) async fn run(store: &Path, user: &str) -> anyhow::Result<()> {
    ask(store, &json!({ "op": "user.erase", "user": name(user)? }), |answer| Ok(print::line(told(answer))?)).await
}

fn told(answer: &Value) -> String {
    let counts = |key: &str| {
        let counted = answer[key].as_object().into_iter().flatten();
        counted.map(|(what, count)| format!("\n  {count} {what}")).collect::<String>()
    };
    let head = match (&answer["done"], &answer["alias"]) {
        (Value::Bool(true), Value::String(alias)) => format!("erased; others have `{alias}` for the name"),
        (Value::Bool(true), _) => "was erased before".to_owned(),
        _ => format!("erased but for {} pushes, which go when the push services have answered", answer["in_flight"]),
    };
    let remains = answer["remains"].as_array().into_iter().flatten().filter_map(Value::as_str);
    let remains: String = remains.map(|what| format!("\n  {what}")).collect();
    let (removed, kept) = (counts("removed"), counts("kept"));
    format!("{head}\nremoved:{removed}\nkept for others:{kept}\nremains:{remains}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_what_went_and_what_stays() {
        let mut answer = json!({
            "done": true, "alias": "deleted-1", "removed": {"devices": 2}, "kept": {"messages": 1}, "remains": ["a hash"],
        });
        let expected = "erased; others have `deleted-1` for the name\nremoved:\n  2 devices\nkept for others:\n  1 messages\n\
            remains:\n  a hash";
        assert_eq!(told(&answer), expected);
        answer["done"] = false.into();
        answer["in_flight"] = 3.into();
        assert!(told(&answer).starts_with("erased but for 3 pushes"));
    }
}
