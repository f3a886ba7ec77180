//! From a verdict to what is done with the message: what stays here, and what goes back to the bridge.

use super::OnAmbiguous;
use crate::chat::delivery::{self, AMBIGUOUS, Tried};
use crate::fcm::judge::FAULT_WAIT;
use crate::fcm::verdict::{Arrival, Cause, FEW_TRIES, Refused, Share, Then, TokenAction, Tries};
use crate::transport::Refusal;
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
        refusal: Refusal,
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

/// What has been done about a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Efforts {
    /// What was tried before this time.
    pub(super) tried: Tried,
    /// How often it was sent again at once since then.
    pub(super) replays: u32,
}

/// What follows from a refusal.
pub(super) fn consequence(refused: &Refused, efforts: Efforts, on_ambiguous: OnAmbiguous) -> Consequence {
    let report = |refusal| Consequence::Report { refusal, project: None };
    match refused.then {
        Then::Elsewhere if efforts.replays < REPLAYS_MAX => Consequence::Replay,
        Then::Elsewhere => report(backoff(FAULT_WAIT, efforts.tried)),
        Then::Refresh => Consequence::Refresh,
        Then::Hold(cause) => Consequence::Hold(cause),
        Then::After { wait, whose } => {
            let refusal = if spent(wait, efforts.tried) { Refusal::Never } else { Refusal::RetryAfter(wait) };
            Consequence::Report { refusal, project: (whose == Share::Project).then_some(Pause::Exactly(wait)) }
        }
        Then::Backoff { tries: Tries::Few, .. } if efforts.tried.unknown + 1 >= FEW_TRIES => report(Refusal::Never),
        Then::Backoff { first, whose, tries } => {
            let project = (whose == Share::Project).then_some(Pause::From(first));
            let refusal = match (backoff(first, efforts.tried), tries) {
                (Refusal::Backoff(first), Tries::Few) => Refusal::Few(first),
                (refusal, _) => refusal,
            };
            Consequence::Report { refusal, project }
        }
        Then::Undecided => report(undecided(efforts.tried, on_ambiguous)),
        Then::Never | Then::NeverTellOperator => report(match (refused.token, refused.then) {
            (TokenAction::Remove, _) => Refusal::BadToken,
            (TokenAction::Quarantine, _) => Refusal::Quarantine,
            (TokenAction::Keep, Then::NeverTellOperator) => Refusal::Operator,
            (TokenAction::Keep, _) => Refusal::Never,
        }),
    }
}

/// What becomes of a message that may have arrived, where nobody knows.
pub(super) fn undecided(tried: Tried, on_ambiguous: OnAmbiguous) -> Refusal {
    match on_ambiguous {
        OnAmbiguous::Retry => backoff(FAULT_WAIT, tried),
        OnAmbiguous::Report => Refusal::Never,
    }
}

/// The word for the application.
pub(super) fn code(refused: &Refused) -> &'static str {
    match refused.then {
        // Whether it is sent again or not: nobody refused it.
        Then::Undecided | Then::Hold(_) => AMBIGUOUS,
        _ => refused.code,
    }
}

/// Whether the message may be on its device, in the words of the domain.
pub(super) fn arrival(refused: &Refused) -> delivery::Arrival {
    match refused.arrival {
        Arrival::No => delivery::Arrival::No,
        Arrival::Possible => delivery::Arrival::Possible,
    }
}

/// Whether the waits up to the next try, which the bridge doubles, are more than a message is worth.
fn backoff(first: Duration, tried: Tried) -> Refusal {
    let waits = tried.waited().saturating_add(tried.next(first));
    if waits > RETRY_FOR { Refusal::Never } else { Refusal::Backoff(first) }
}

/// The same for a wait that FCM asks for. The first is kept, however long.
fn spent(wait: Duration, tried: Tried) -> bool {
    !tried.waited().is_zero() && tried.waited().saturating_add(wait) > RETRY_FOR
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

    fn of(then: Then, tried: Tried) -> Consequence {
        consequence(&refused(then), Efforts { tried, replays: 0 }, OnAmbiguous::Retry)
    }

    const FIRST: Tried = Tried { waited_ms: 0, unknown: 0 };

    fn report(refusal: Refusal) -> Consequence {
        Consequence::Report { refusal, project: None }
    }

    #[test]
    fn every_verdict_has_its_consequence() {
        let again = |whose, tries| Then::Backoff { first: FAULT_WAIT, whose, tries };
        let recipient = |wait| Then::After { wait, whose: Share::Recipient };
        for (then, expected) in [
            (Then::Elsewhere, Consequence::Replay),
            (Then::Refresh, Consequence::Refresh),
            (Then::Hold(Cause::ApiDisabled), Consequence::Hold(Cause::ApiDisabled)),
            (recipient(MINUTE), report(Refusal::RetryAfter(MINUTE))),
            (again(Share::Recipient, Tries::UntilExpiry), report(Refusal::Backoff(FAULT_WAIT))),
            (again(Share::Recipient, Tries::Few), report(Refusal::Few(FAULT_WAIT))),
            (Then::Undecided, report(Refusal::Backoff(FAULT_WAIT))),
            (Then::Never, report(Refusal::Never)),
            (Then::NeverTellOperator, report(Refusal::Operator)),
        ] {
            assert_eq!(of(then, FIRST), expected, "{then:?}");
        }
        let pause = |refusal, pause| Consequence::Report { refusal, project: Some(pause) };
        let project = Then::After { wait: MINUTE, whose: Share::Project };
        assert_eq!(of(project, FIRST), pause(Refusal::RetryAfter(MINUTE), Pause::Exactly(MINUTE)));
        let project = again(Share::Project, Tries::UntilExpiry);
        assert_eq!(of(project, FIRST), pause(Refusal::Backoff(FAULT_WAIT), Pause::From(FAULT_WAIT)));
    }

    #[test]
    fn a_token_pays_only_for_a_word_about_the_token() {
        let with = |token| {
            let refused = Refused { token, ..refused(Then::Never) };
            consequence(&refused, Efforts { tried: FIRST, replays: 0 }, OnAmbiguous::Retry)
        };
        assert_eq!(with(TokenAction::Remove), report(Refusal::BadToken));
        assert_eq!(with(TokenAction::Quarantine), report(Refusal::Quarantine));
    }

    /// Refused again and again in the same way: the refusals before the last, and the waits after them.
    fn life(then: Then, mut tried: Tried) -> (u32, Duration) {
        for tries in 0..100 {
            let Consequence::Report { refusal, .. } = of(then, tried) else { panic!() };
            match refusal.again(tried, Duration::MAX) {
                Some((_, more)) => tried = more,
                None => return (tries, tried.waited()),
            }
        }
        panic!("it is tried for ever");
    }

    #[test]
    fn an_hour_of_waits_is_the_end() {
        let again = |first, tries| Then::Backoff { first, whose: Share::Recipient, tries };
        let asked = |wait| Then::After { wait, whose: Share::Recipient };
        let seconds = Duration::from_secs;
        // 10 s doubling: eight waits are 2550 s, nine are 5110 s. 60 s doubling: five are 1860 s, six are 3780 s.
        assert_eq!(life(again(FAULT_WAIT, Tries::UntilExpiry), FIRST), (8, seconds(2550)));
        assert_eq!(life(again(MINUTE, Tries::UntilExpiry), FIRST), (5, seconds(1860)));
        assert_eq!(life(asked(RETRY_FOR), FIRST), (1, RETRY_FOR));
    }

    #[test]
    fn each_cause_counts_only_what_it_cost() {
        let short = Then::After { wait: Duration::from_secs(1), whose: Share::Recipient };
        let mut tried = FIRST;
        for _ in 0..9 {
            let Consequence::Report { refusal, .. } = of(short, tried) else { panic!() };
            tried = refusal.again(tried, Duration::MAX).unwrap().1;
        }
        let fault = Then::Backoff { first: FAULT_WAIT, whose: Share::Recipient, tries: Tries::UntilExpiry };
        assert_eq!(of(fault, tried), report(Refusal::Backoff(FAULT_WAIT)));
        assert_eq!(Refusal::Backoff(FAULT_WAIT).again(tried, Duration::MAX).unwrap().0, Duration::from_secs(19));
        let few = Then::Backoff { first: FAULT_WAIT, whose: Share::Recipient, tries: Tries::Few };
        assert_eq!(life(few, tried).0, FEW_TRIES - 1);
    }

    #[test]
    fn an_ambiguous_end_is_reported_where_no_duplicate_is_wanted() {
        let refused = Refused { arrival: Arrival::Possible, ..refused(Then::Undecided) };
        let efforts = Efforts { tried: FIRST, replays: 0 };
        assert_eq!(consequence(&refused, efforts, OnAmbiguous::Report), report(Refusal::Never));
        assert_eq!(code(&refused), AMBIGUOUS);
        assert_eq!(arrival(&refused), delivery::Arrival::Possible);
        assert_eq!(consequence(&refused, efforts, OnAmbiguous::Retry), report(Refusal::Backoff(FAULT_WAIT)));
        let answered = Refused { then: Then::Never, ..refused };
        assert_eq!(code(&answered), SERVICE_UNAVAILABLE);
    }

    #[test]
    fn a_peer_that_processes_nothing_is_not_asked_in_a_tight_loop() {
        let efforts = Efforts { tried: FIRST, replays: REPLAYS_MAX };
        let then = consequence(&refused(Then::Elsewhere), efforts, OnAmbiguous::Retry);
        assert_eq!(then, report(Refusal::Backoff(FAULT_WAIT)));
    }
}
