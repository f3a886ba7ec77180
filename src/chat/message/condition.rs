//! The grammar of a condition over FCM topics: `'a' in topics && !('b' in topics || 'c' in topics)`.
//!
//! ```text
//! condition := operand ( ("&&" | "||") operand )*
//! operand   := "!"* ( "(" condition ")" | quoted-name "in" "topics" )
//! ```

use super::target::{CONDITION_TOPICS_MAX, check_topic_name};

/// What is wrong with `text`, if anything.
pub fn condition_fault(text: &str) -> Option<&'static str> {
    let mut expect = Expect::Operand;
    let mut open = 0usize;
    let mut topics = 0usize;
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let Some((word, tail)) = next_word(rest) else { return Some("has a word that is not part of a condition") };
        rest = tail.trim_start();
        expect = match (expect, word) {
            (Expect::Operand, Word::Not) => Expect::Operand,
            (Expect::Operand, Word::Open) => {
                open += 1;
                Expect::Operand
            }
            (Expect::Operand, Word::Quoted(name)) => {
                if check_topic_name(name).is_err() {
                    return Some("names a topic that is not a legal one");
                }
                topics += 1;
                Expect::In
            }
            (Expect::In, Word::In) => Expect::Topics,
            (Expect::Topics, Word::Topics) => Expect::Operator,
            (Expect::Operator, Word::Close) if open > 0 => {
                open -= 1;
                Expect::Operator
            }
            (Expect::Operator, Word::AndOr) => Expect::Operand,
            _ => return Some("is not of the form 'a' in topics && ('b' in topics || ...)"),
        };
    }
    match expect {
        Expect::Operator if open > 0 => Some("has an open parenthesis"),
        Expect::Operator if topics > CONDITION_TOPICS_MAX => Some("names too many topics"),
        Expect::Operator => None,
        Expect::Operand | Expect::In | Expect::Topics => Some("ends too early"),
    }
}

#[derive(Clone, Copy)]
enum Expect {
    Operand,
    In,
    Topics,
    Operator,
}

enum Word<'a> {
    Not,
    Open,
    Close,
    AndOr,
    In,
    Topics,
    Quoted(&'a str),
}

fn next_word(text: &str) -> Option<(Word<'_>, &str)> {
    for quote in ['\'', '"'] {
        if let Some(rest) = text.strip_prefix(quote) {
            return rest.split_once(quote).map(|(name, rest)| (Word::Quoted(name), rest));
        }
    }
    let signs = [("!", Word::Not), ("(", Word::Open), (")", Word::Close), ("&&", Word::AndOr), ("||", Word::AndOr)];
    for (sign, word) in signs {
        if let Some(rest) = text.strip_prefix(sign) {
            return Some((word, rest));
        }
    }
    let end = text.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (letters, rest) = text.split_at(end);
    match letters {
        // The push service reads conditions without regard to case.
        _ if letters.eq_ignore_ascii_case("in") => Some((Word::In, rest)),
        _ if letters.eq_ignore_ascii_case("topics") => Some((Word::Topics, rest)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn conditions_of_the_documentation_are_taken() {
        for good in [
            "'a' in topics",
            "'a' in topics && ('b' in topics || 'c' in topics)",
            "!('TopicA' in topics)",
            "\"a\" in topics||\"b\" IN Topics",
            " ( ( 'a' in topics ) ) ",
            "'a'in topics&&'b'in topics&&'c'in topics&&'d'in topics&&'e'in topics",
        ] {
            assert_eq!(condition_fault(good), None, "{good}");
        }
    }

    #[test]
    fn everything_else_is_not() {
        for bad in [
            "",
            " ",
            "a",
            "'a'",
            "'a' in",
            "'a' in topics &&",
            "&& 'a' in topics",
            "'a' in topics 'b' in topics",
            "('a' in topics",
            "'a' in topics)",
            "()",
            "'a in topics",
            "'a b' in topics",
            "'' in topics",
            "'/topics/a' in topics",
            "'a' in topics & 'b' in topics",
            "'a' in topicsx",
            "'a'in topics||'b'in topics||'c'in topics||'d'in topics||'e'in topics||'f'in topics",
        ] {
            assert!(condition_fault(bad).is_some(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[ab'\"()!&| é]{0,20}(in|topics|)[ab'\"()!&| ]{0,20}") {
            let _ = condition_fault(&text);
        }
    }
}
