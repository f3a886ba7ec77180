//! What goes wrong on the v1 side, on purpose: a plan that can be changed while the simulator runs.

use super::fault_kind::FaultKind;
use super::script::Script;
use crate::sim::fault::Dice;
use serde::{Deserialize, Serialize};

/// Rules in one plan at most.
pub const MAX_RULES: usize = 64;

/// Furthest that an answer may put off the next try, in seconds: a week.
pub const RETRY_AFTER_MAX_S: u64 = 7 * 24 * 60 * 60;

/// The plan.
#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct V1Faults {
    /// What goes wrong with requests; the first rule that applies counts.
    pub rules: Vec<Rule>,
    /// How long an answer takes, in milliseconds.
    pub latency_ms: u64,
    /// How much longer it may take, drawn for each request.
    pub jitter_ms: u64,
    /// How a request without a good access token is told.
    pub unauthorized: Shape,
    /// What an answer about a used-up quota says about trying again; absent: the seconds that are really left.
    pub quota_retry_after: Option<RetryAfter>,
    /// Apps confirm what they got even before its sender hears that it was taken.
    pub confirm_before_answer: bool,
    /// Tell a connection to go after so many requests.
    pub goaway_after: Option<u64>,
    /// What is wrong with the authority.
    pub authority: Option<AuthorityFault>,
    /// How far the authority's clock is ahead, in seconds.
    pub clock_skew_s: i64,
}

/// What goes wrong with some requests.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Rule {
    /// What.
    pub then: FaultKind,
    /// The chance for each request that it applies to.
    #[serde(default = "always")]
    pub chance: f64,
    /// How many requests; absent: no end.
    #[serde(default)]
    pub times: Option<u64>,
    /// Only to tokens (or topics) that begin with this.
    #[serde(default)]
    pub prefix: String,
    /// What the answer says about trying again.
    #[serde(default)]
    pub retry_after: RetryAfter,
    /// How much later than usual the answer comes, in milliseconds.
    #[serde(default)]
    pub delay_ms: u64,
}

impl Rule {
    /// `then`, always.
    pub fn always(then: FaultKind) -> Self {
        let (times, prefix, retry_after) = (None, String::new(), RetryAfter::Absent);
        Self { then, chance: 1.0, times, prefix, retry_after, delay_ms: 0 }
    }

    /// `then`, with the next requests.
    pub fn times(then: FaultKind, times: u64) -> Self {
        Self { times: Some(times), ..Self::always(then) }
    }
}

fn always() -> f64 {
    1.0
}

/// What an answer says about trying again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum RetryAfter {
    /// Nothing.
    #[default]
    Absent,
    /// So many seconds.
    Seconds(u64),
    /// A date so many seconds ahead.
    Date(u64),
}

/// How a refusal looks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Shape {
    /// A document.
    #[default]
    Json,
    /// A page.
    Page,
}

/// What is wrong with the authority.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum AuthorityFault {
    /// It knows no account.
    InvalidGrant,
    /// It is overloaded: 503.
    Unavailable,
}

/// A plan that cannot be carried out.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum V1FaultError {
    /// A chance is not between 0 and 1.
    #[error("rules.chance is a chance: 0 to 1")]
    Chance,
    /// Too many rules.
    #[error("at most {MAX_RULES} rules")]
    Rules,
    /// A wait is too long.
    #[error("retry_after is at most {RETRY_AFTER_MAX_S} seconds")]
    RetryAfter,
}

impl V1Faults {
    /// Whether the plan can be carried out.
    ///
    /// # Errors
    /// When it cannot.
    pub fn check(&self) -> Result<(), V1FaultError> {
        if self.rules.len() > MAX_RULES {
            return Err(V1FaultError::Rules);
        }
        if self.rules.iter().any(|rule| !(0.0..=1.0).contains(&rule.chance)) {
            return Err(V1FaultError::Chance);
        }
        let waits = self.rules.iter().map(|rule| rule.retry_after).chain(self.quota_retry_after);
        let too_long = |wait| matches!(wait, RetryAfter::Seconds(s) | RetryAfter::Date(s) if s > RETRY_AFTER_MAX_S);
        if waits.into_iter().any(too_long) { Err(V1FaultError::RetryAfter) } else { Ok(()) }
    }

    /// What is to become of the next request, to `target`; uses up a rule that counts.
    pub(super) fn take(&mut self, target: &str, dice: &mut Dice) -> Option<Script> {
        let applies = |rule: &Rule, dice: &mut Dice| target.starts_with(&rule.prefix) && dice.chance(rule.chance);
        let at = self.rules.iter().position(|rule| rule.times != Some(0) && applies(rule, dice))?;
        let rule = &mut self.rules[at];
        let script = Script { kind: rule.then, retry_after: rule.retry_after, delay_ms: rule.delay_ms };
        if let Some(times) = &mut rule.times {
            *times -= 1;
            if *times == 0 {
                self.rules.remove(at);
            }
        }
        Some(script)
    }

    /// How long the next answer takes, in milliseconds.
    pub(super) fn latency(&self, dice: &mut Dice) -> u64 {
        let jitter = if self.jitter_ms == 0 { 0 } else { dice.below(self.jitter_ms.saturating_add(1)) };
        self.latency_ms.saturating_add(jitter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rule_applies_by_prefix_and_is_used_up() {
        let mut faults: V1Faults = serde_json::from_str(
            r#"{"rules":[
                {"then":"unavailable","times":2,"prefix":"a","retry_after":{"seconds":7}},
                {"then":"INTERNAL","chance":0.0},
                {"then":"bad-gateway","prefix":"b"}
            ]}"#,
        )
        .unwrap();
        let mut dice = Dice::new(1, 1);
        let taken: Vec<_> = ["a1", "b1", "a2", "a3", "c"]
            .into_iter()
            .map(|target| faults.take(target, &mut dice).map(|script| script.kind))
            .collect();
        use FaultKind::{BadGateway, Unavailable};
        assert_eq!(taken, [Some(Unavailable), Some(BadGateway), Some(Unavailable), None, None]);
    }

    #[test]
    fn a_plan_is_checked() {
        assert_eq!(V1Faults::default().check(), Ok(()));
        let rules = |rule| V1Faults { rules: vec![rule], ..V1Faults::default() };
        let rule = Rule::always(FaultKind::Internal);
        assert_eq!(rules(Rule { chance: 1.5, ..rule.clone() }).check(), Err(V1FaultError::Chance));
        let retry_after = RetryAfter::Date(u64::MAX);
        assert_eq!(rules(Rule { retry_after, ..rule.clone() }).check(), Err(V1FaultError::RetryAfter));
        let many = V1Faults { rules: vec![rule; MAX_RULES + 1], ..V1Faults::default() };
        assert_eq!(many.check(), Err(V1FaultError::Rules));
        assert!(serde_json::from_str::<V1Faults>(r#"{"rules":[{"then":"sunshine"}]}"#).is_err());
        assert!(serde_json::from_str::<V1Faults>(r#"{"rule":[]}"#).is_err());
    }

    #[test]
    fn a_likely_rule_applies_about_as_often_as_it_should() {
        let rule = Rule { chance: 0.2, ..Rule::always(FaultKind::Internal) };
        let mut faults = V1Faults { rules: vec![rule], ..V1Faults::default() };
        let mut dice = Dice::new(3, 9);
        let count = (0..10_000).filter(|_| faults.take("t", &mut dice).is_some()).count();
        assert!((1_800..2_200).contains(&count), "{count} of 10000");
    }
}
