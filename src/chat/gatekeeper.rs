//! The BAL that says who may write to users who leave that to it.

use super::id::{Owner, Sid};
use super::message::fields::Fields;
use super::message::{ErrorCode, Limits, Rejection, json};
use serde_json::json as object;
use std::collections::HashMap;

/// How long an answer counts at most, in seconds.
pub const ANSWER_FOR_MAX: u64 = 86_400;
/// Most answers that are remembered. Beyond it all are forgotten: the gatekeeper is asked again.
pub const ANSWERS_MAX: usize = 10_000;

/// What the gatekeeper is asked, on `{bal}/others/requests`.
pub fn question(id: Sid, from: &Owner, to: &Owner, ts: u64) -> Vec<u8> {
    json(&object!({ "id": id.to_string(), "op": "may_write", "from": from.as_str(), "to": to.as_str(), "ts": ts }))
}

/// What it answers, on `{bal}/self/replies`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct GateAnswer {
    /// Which question it is about.
    pub question: Sid,
    /// Whether the one may write to the other.
    pub ok: bool,
    /// For how many seconds that counts beyond this message.
    pub seconds: u64,
}

impl GateAnswer {
    /// Reads a payload.
    ///
    /// # Errors
    /// With the code of topics.md.
    pub fn parse(payload: &[u8], limits: &Limits) -> Result<Self, Rejection> {
        let mut fields = Fields::read(payload, limits.payload_bytes)?;
        fields.version()?;
        let missing = |name: &str| Rejection::new(ErrorCode::MissingField, format!("`{name}` is missing"));
        let question = fields.string("ref")?.ok_or_else(|| missing("ref"))?;
        let question =
            Sid::parse(&question).ok_or_else(|| Rejection::bad_field("ref", "is not the id of a question"))?;
        let ok = fields.flag("ok")?.ok_or_else(|| missing("ok"))?;
        let bad = || Rejection::bad_field("for", format_args!("is no number of seconds up to {ANSWER_FOR_MAX}"));
        let seconds = match fields.take("for") {
            None => 0,
            Some(given) => given.as_u64().filter(|seconds| *seconds <= ANSWER_FOR_MAX).ok_or_else(bad)?,
        };
        Ok(Self { question, ok, seconds })
    }
}

/// Answers that still count.
#[derive(Debug, Default)]
pub struct GateAnswers(HashMap<(Owner, Owner), (bool, u64)>);

impl GateAnswers {
    /// Whether `from` may write to `to` at `now_ms` (Unix milliseconds), if that was said.
    pub fn get(&self, from: &Owner, to: &Owner, now_ms: u64) -> Option<bool> {
        let (ok, until) = self.0.get(&(from.clone(), to.clone()))?;
        (now_ms < *until).then_some(*ok)
    }

    /// Whoever has this name from now on is somebody else: nothing was said of it.
    pub fn forget(&mut self, name: &Owner) {
        self.0.retain(|(from, to), _| from != name && to != name);
    }

    /// It was said at `now_ms`.
    pub fn keep(&mut self, from: &Owner, to: &Owner, answer: GateAnswer, now_ms: u64) {
        if answer.seconds == 0 {
            return;
        }
        if self.0.len() >= ANSWERS_MAX {
            self.0.retain(|_, (_, until)| now_ms < *until);
        }
        if self.0.len() >= ANSWERS_MAX {
            self.0.clear();
        }
        self.0.insert((from.clone(), to.clone()), (answer.ok, now_ms.saturating_add(answer.seconds * 1_000)));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::{Value, json};

    const QUESTION: &str = "06eqbd3gy0001ab2";

    fn parse(payload: &Value) -> Result<(bool, u64), ErrorCode> {
        let parsed = GateAnswer::parse(payload.to_string().as_bytes(), &Limits::default());
        parsed.map(|answer| (answer.ok, answer.seconds)).map_err(|rejection| rejection.code())
    }

    #[test]
    fn an_answer_is_about_a_question_and_may_count_for_a_while() {
        assert_eq!(parse(&json!({"ref": QUESTION, "ok": true})), Ok((true, 0)));
        assert_eq!(parse(&json!({"ref": QUESTION, "ok": false, "for": 60})), Ok((false, 60)));
        for (payload, code) in [
            (json!({"ok": true}), ErrorCode::MissingField),
            (json!({"ref": QUESTION}), ErrorCode::MissingField),
            (json!({"ref": "q1", "ok": true}), ErrorCode::BadField),
            (json!({"ref": QUESTION, "ok": 1}), ErrorCode::BadField),
            (json!({"ref": QUESTION, "ok": true, "for": ANSWER_FOR_MAX + 1}), ErrorCode::BadField),
        ] {
            assert_eq!(parse(&payload), Err(code), "{payload}");
        }
    }

    #[test]
    fn answers_end_and_memory_is_bounded() {
        let owner = |n: usize| Owner::new(format!("u{n}")).unwrap();
        let answer = |ok, seconds| GateAnswer { question: Sid::parse(QUESTION).unwrap(), ok, seconds };
        let mut answers = GateAnswers::default();
        answers.keep(&owner(0), &owner(1), answer(true, 0), 0);
        assert_eq!(answers.get(&owner(0), &owner(1), 0), None, "for this message alone");
        answers.keep(&owner(0), &owner(1), answer(false, 2), 1_000);
        assert_eq!(answers.get(&owner(0), &owner(1), 2_999), Some(false));
        assert_eq!(answers.get(&owner(0), &owner(1), 3_000), None);
        assert_eq!(answers.get(&owner(1), &owner(0), 1_000), None);
        for (n, left) in [(2, Some(false)), (1, None)] {
            answers.forget(&owner(n));
            assert_eq!(answers.get(&owner(0), &owner(1), 1_000), left);
        }
        for n in 0..=ANSWERS_MAX {
            answers.keep(&owner(n), &owner(0), answer(true, 60), 5_000);
        }
        assert!(answers.0.len() <= ANSWERS_MAX);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes: Vec<u8>) {
            let _ = GateAnswer::parse(&bytes, &Limits::default());
        }
    }
}
