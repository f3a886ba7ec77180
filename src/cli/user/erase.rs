//! `user erase`: everything of a chat user goes.

use crate::cli::UsageError;
use crate::cli::control::{ask, name};
use crate::cli::store_place::StorePlace;
use crate::ops::print;
use serde_json::{Value, json};
use std::io::{self, BufRead, IsTerminal};

/// Asks the running bridge for it, and prints what went, and what stays. On a terminal whoever gives the command is asked
/// before, unless `yes`.
///
/// # Errors
/// When no bridge runs, there is no such user, or the answer on the terminal is not the name.
pub(in crate::cli) async fn run(store: &StorePlace, user: &str, yes: bool) -> anyhow::Result<()> {
    let user = name(user)?;
    if !yes && io::stdin().is_terminal() {
        print::note(format_args!("Everything of `{user}` goes, and there is no way back. Type the name to erase it:"));
        confirmed(user, &mut io::stdin().lock())?;
    }
    ask(store, &json!({ "op": "user.erase", "user": user }), |answer| Ok(print::line(told(answer))?)).await
}

/// Whether the name was typed.
fn confirmed(user: &str, input: &mut impl BufRead) -> anyhow::Result<()> {
    let mut line = String::new();
    io::Read::take(input, 1_024).read_line(&mut line)?;
    if line.trim() == user {
        Ok(())
    } else {
        Err(UsageError("nothing was erased: that is not the name".to_owned()).into())
    }
}

fn told(answer: &Value) -> String {
    // A heading without anything below it says nothing.
    let headed = |head: &str, lines: String| if lines.is_empty() { lines } else { format!("\n{head}:{lines}") };
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
    let (removed, kept) = (headed("removed", counts("removed")), headed("kept for others", counts("kept")));
    let nothing = if answer["done"] == true && removed.is_empty() && kept.is_empty() {
        "\nthe store had nothing of it"
    } else {
        ""
    };
    format!("{head}{nothing}{removed}{kept}{}", headed("remains", remains))
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

    #[test]
    fn of_a_user_without_anything_no_empty_list_is_shown() {
        let answer = json!({"done": true, "alias": "deleted-1", "removed": {}, "kept": {}, "remains": ["a hash"]});
        assert_eq!(
            told(&answer),
            "erased; others have `deleted-1` for the name\nthe store had nothing of it\nremains:\n  a hash"
        );
    }

    #[test]
    fn nothing_but_the_name_confirms_it() {
        assert!(confirmed("alice", &mut &b"alice\n"[..]).is_ok());
        for other in ["", "y\n", "yes\n", "bob\n"] {
            assert!(confirmed("alice", &mut other.as_bytes()).unwrap_err().is::<UsageError>(), "{other:?}");
        }
    }
}
