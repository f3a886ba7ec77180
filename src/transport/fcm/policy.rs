//! From a verdict to what is done with the message: what stays here, and what goes back to the bridge.

use super::OnAmbiguous;
use crate::chat::delivery::AMBIGUOUS;
use crate::chat::refusal::{self, Decision, Scope, Until, Wait};
use crate::fcm::judge::FAULT_WAIT;
use crate::fcm::verdict::{Arrival, Cause, FEW_TRIES, Refused, Share, Then, TokenAction, Tries, code};
use std::time::Duration;

/// How long a message is tried again after refusals that are not about it: Google's own advice.
pub(super) const RETRY_FOR: Duration = Duration::from_secs(3600);
/// How often in a row a message is sent again at once. A peer that processes nothing must not be asked in a tight loop.
pub(super) const REPLAYS_MAX: u32 = 5;

/// What becomes of a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Consequence {
    /// It keeps its place and goes again at once: it was not processed.
    Replay,
    /// It keeps its place and goes again with a newer access token.
    Refresh,
    /// It keeps its place until the breaker lets it go.
    Hold(Cause),
    /// It goes back to the bridge.
    Report {
        /// What the bridge is to do with it.
        decision: Decision,
        /// Nothing of the project goes meanwhile, beginning with this wait, which doubles if it was not enough.
        project: Option<Pause>,
    },
}

/// A pause of the whole project.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pause {
    /// As FCM asked for.
    Exactly(Duration),
    /// Doubling from this one on.
    From(Duration),
}

/// What follows from a refusal. `replays` counts how often the message was sent again at once.
pub(super) fn consequence(refused: &Refused, replays: u32, on_ambiguous: OnAmbiguous) -> Consequence {
    let report = |decision| Consequence::Report { decision, project: None };
    // The words of a quota speak of the recipient, all others of the service.
    let scope = match refused.code {
        code::DEVICE_MESSAGE_RATE_EXCEEDED | code::TOPICS_MESSAGE_RATE_EXCEEDED | code::QUOTA_EXCEEDED => {
            Scope::Recipient
        }
        _ => Scope::Message,
    };
    let again = |wait, until| Decision::Retry { wait, until, scope };
    match refused.then {
        Then::Elsewhere if replays < REPLAYS_MAX => Consequence::Replay,
        Then::Elsewhere => report(again(Wait::Backoff(FAULT_WAIT), Until::Waited(RETRY_FOR))),
        Then::Refresh => Consequence::Refresh,
        Then::Hold(cause) => Consequence::Hold(cause),
        Then::After { wait, whose } => {
            let decision = again(Wait::AtLeast(wait), Until::Waited(RETRY_FOR));
            Consequence::Report { decision, project: (whose == Share::Project).then_some(Pause::Exactly(wait)) }
        }
        Then::Backoff { first, whose, tries } => {
            let project = (whose == Share::Project).then_some(Pause::From(first));
            let until = if tries == Tries::Few { Until::Tries(FEW_TRIES) } else { Until::Waited(RETRY_FOR) };
            Consequence::Report { decision: again(Wait::Backoff(first), until), project }
        }
        Then::Undecided => report(undecided(on_ambiguous)),
        Then::Never | Then::NeverTellOperator => report(match (refused.token, refused.then) {
            (TokenAction::Remove, _) => Decision::REMOVE_TOKEN,
            (TokenAction::Quarantine, _) => Decision::QUARANTINE_TOKEN,
            (TokenAction::Keep, Then::NeverTellOperator) => Decision::FAIL_FOR_OPERATOR,
            (TokenAction::Keep, _) => Decision::FAIL,
        }),
    }
}

/// What becomes of a message that may have arrived, where nobody knows.
pub(super) fn undecided(on_ambiguous: OnAmbiguous) -> Decision {
    match on_ambiguous {
        OnAmbiguous::Retry => {
            Decision::Retry { wait: Wait::Backoff(FAULT_WAIT), until: Until::Waited(RETRY_FOR), scope: Scope::Message }
        }
        OnAmbiguous::Report => Decision::FAIL,
    }
}

/// The word for the application.
pub(super) fn code_of(refused: &Refused) -> &'static str {
    match refused.then {
        // Whether it is sent again or not: nobody refused it.
        Then::Undecided | Then::Hold(_) => AMBIGUOUS,
        _ => refused.code,
    }
}

/// Whether the message may be on its device, in the words of the domain.
pub(super) fn arrival(refused: &Refused) -> refusal::Arrival {
    match refused.arrival {
        Arrival::No => refusal::Arrival::No,
        Arrival::Possible => refusal::Arrival::Maybe,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fcm::verdict::code::SERVICE_UNAVAILABLE;

    const MINUTE: Duration = Duration::from_secs(60);

    fn refused(then: Then) -> Refused {
        let (token, arrival) = (TokenAction::Keep, Arrival::No);
        Refused { then, token, arrival, code: SERVICE_UNAVAILABLE, detail: String::new() }
    }

    fn of(then: Then) -> Consequence {
        consequence(&refused(then), 0, OnAmbiguous::Retry)
    }

    fn retry(wait: Wait, until: Until) -> Decision {
        Decision::Retry { wait, until, scope: Scope::Message }
    }

    #[test]
    fn every_verdict_has_its_consequence() {
        let report = |decision| Consequence::Report { decision, project: None };
        let again = |whose, tries| Then::Backoff { first: FAULT_WAIT, whose, tries };
        let hour = Until::Waited(RETRY_FOR);
        let fault = Wait::Backoff(FAULT_WAIT);
        for (then, expected) in [
            (Then::Elsewhere, Consequence::Replay),
            (Then::Refresh, Consequence::Refresh),
            (Then::Hold(Cause::ApiDisabled), Consequence::Hold(Cause::ApiDisabled)),
            (Then::After { wait: MINUTE, whose: Share::Recipient }, report(retry(Wait::AtLeast(MINUTE), hour))),
            (again(Share::Recipient, Tries::UntilExpiry), report(retry(fault, hour))),
            (again(Share::Recipient, Tries::Few), report(retry(fault, Until::Tries(FEW_TRIES)))),
            (Then::Undecided, report(retry(fault, hour))),
            (Then::Never, report(Decision::FAIL)),
            (Then::NeverTellOperator, report(Decision::FAIL_FOR_OPERATOR)),
        ] {
            assert_eq!(of(then), expected, "{then:?}");
        }
        let pause = |decision, pause| Consequence::Report { decision, project: Some(pause) };
        let project = Then::After { wait: MINUTE, whose: Share::Project };
        assert_eq!(of(project), pause(retry(Wait::AtLeast(MINUTE), hour), Pause::Exactly(MINUTE)));
        let project = again(Share::Project, Tries::UntilExpiry);
        assert_eq!(of(project), pause(retry(fault, hour), Pause::From(FAULT_WAIT)));
    }

    #[test]
    fn a_token_pays_only_for_a_word_about_the_token() {
        let with = |token| {
            let consequence = consequence(&Refused { token, ..refused(Then::Never) }, 0, OnAmbiguous::Retry);
            let Consequence::Report { decision, .. } = consequence else { panic!("{consequence:?}") };
            decision
        };
        assert_eq!(with(TokenAction::Remove), Decision::REMOVE_TOKEN);
        assert_eq!(with(TokenAction::Quarantine), Decision::QUARANTINE_TOKEN);
    }

    #[test]
    fn an_ambiguous_end_is_reported_where_no_duplicate_is_wanted() {
        let refused = Refused { arrival: Arrival::Possible, ..refused(Then::Undecided) };
        let expected = Consequence::Report { decision: Decision::FAIL, project: None };
        assert_eq!(consequence(&refused, 0, OnAmbiguous::Report), expected);
        assert_eq!(code_of(&refused), AMBIGUOUS);
        assert_eq!(arrival(&refused), refusal::Arrival::Maybe);
        let answered = Refused { then: Then::Never, ..refused };
        assert_eq!(code_of(&answered), SERVICE_UNAVAILABLE);
    }

    #[test]
    fn a_peer_that_processes_nothing_is_not_asked_in_a_tight_loop() {
        let then = consequence(&refused(Then::Elsewhere), REPLAYS_MAX, OnAmbiguous::Retry);
        let decision = retry(Wait::Backoff(FAULT_WAIT), Until::Waited(RETRY_FOR));
        assert_eq!(then, Consequence::Report { decision, project: None });
    }
}
