//! What the bridge is told about a publication, and when. Pure: `now` comes from outside.

use super::Outcome;
use super::link::Answer;
use std::collections::{HashSet, VecDeque};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Most refused publications that are held back; beyond that the oldest is told early.
const HELD: usize = 1_000;

/// Most topics of which is remembered that their refusal was told.
const TOLD: usize = 1_000;

/// What an answer means for the bridge; `may_be_unread`: as [`super::Outbound::may_be_unread`].
pub(super) fn meaning(answer: &Answer, may_be_unread: bool) -> Outcome {
    match answer {
        Answer::Confirmed => Outcome::Confirmed,
        // The broker keeps it, and readers get it when they come; or nobody asks for it any more.
        Answer::NoReader if may_be_unread => Outcome::Confirmed,
        Answer::NoReader => Outcome::NoReader,
        Answer::Refused(_) | Answer::Lost | Answer::Silent => Outcome::Lost,
    }
}

/// Turns answers of the broker into outcomes.
///
/// A refused publication is lost for the bridge, which publishes it again; so the word is held back for a while, or
/// both would turn in a hot loop. A topic without a reader has no event that says when one comes, so the bridge is
/// made to probe.
#[derive(Debug)]
pub(super) struct Settling {
    refusal_pause: Duration,
    reader_probe: Duration,
    held: VecDeque<(Instant, oneshot::Sender<Outcome>)>,
    probe: Option<Instant>,
    told: HashSet<String>,
}

/// Whether a refusal is news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum News {
    First,
    Known,
}

impl Settling {
    pub(super) fn new(refusal_pause: Duration, reader_probe: Duration) -> Self {
        Self { refusal_pause, reader_probe, held: VecDeque::new(), probe: None, told: HashSet::new() }
    }

    /// Tells `outcome` what `answer` means, or holds the word back.
    pub(super) fn answered(
        &mut self,
        answer: &Answer,
        may_be_unread: bool,
        outcome: oneshot::Sender<Outcome>,
        now: Instant,
    ) {
        if matches!(answer, Answer::Refused(_)) {
            self.hold(outcome, now + self.refusal_pause);
            return;
        }
        let word = meaning(answer, may_be_unread);
        if word == Outcome::NoReader {
            self.probe.get_or_insert(now + self.reader_probe);
        }
        // If nobody waits for it any more, that is no error.
        _ = outcome.send(word);
    }

    fn hold(&mut self, outcome: oneshot::Sender<Outcome>, due: Instant) {
        if self.held.len() == HELD
            && let Some((_, oldest)) = self.held.pop_front()
        {
            _ = oldest.send(Outcome::Lost);
        }
        self.held.push_back((due, outcome));
    }

    /// A publication on `topic` passed; the next refusal is news again.
    pub(super) fn passed(&mut self, topic: &str) {
        if !self.told.is_empty() {
            self.told.remove(topic);
        }
    }

    /// Whether a refusal on `topic` is news. It may forget, and then says so twice.
    pub(super) fn news(&mut self, topic: &str) -> News {
        if self.told.contains(topic) {
            return News::Known;
        }
        if self.told.len() == TOLD {
            self.told.clear();
        }
        self.told.insert(topic.to_owned());
        News::First
    }

    /// When [`Settling::tick`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.held.front().map(|(due, _)| *due).into_iter().chain(self.probe).min()
    }

    /// Tells what is due; answers whether it is time for the bridge to probe for readers.
    pub(super) fn tick(&mut self, now: Instant) -> bool {
        // All are held for the same time, so the queue is sorted.
        while self.held.front().is_some_and(|(due, _)| *due <= now) {
            if let Some((_, outcome)) = self.held.pop_front() {
                _ = outcome.send(Outcome::Lost);
            }
        }
        self.probe.take_if(|due| *due <= now).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::sync::oneshot::error::TryRecvError;

    const PAUSE: Duration = Duration::from_secs(5);
    const PROBE: Duration = Duration::from_secs(7);

    fn settling() -> Settling {
        Settling::new(PAUSE, PROBE)
    }

    fn refused() -> Answer {
        Answer::Refused("NotAuthorized".into())
    }

    fn told(settling: &mut Settling, answer: &Answer, may_be_unread: bool, now: Instant) -> oneshot::Receiver<Outcome> {
        let (tx, rx) = oneshot::channel();
        settling.answered(answer, may_be_unread, tx, now);
        rx
    }

    #[test]
    fn most_answers_are_told_at_once() {
        let now = Instant::now();
        for (answer, may_be_unread, outcome) in [
            (Answer::Confirmed, false, Outcome::Confirmed),
            (Answer::Confirmed, true, Outcome::Confirmed),
            (Answer::NoReader, false, Outcome::NoReader),
            (Answer::NoReader, true, Outcome::Confirmed),
            (Answer::Lost, false, Outcome::Lost),
            (Answer::Silent, false, Outcome::Lost),
        ] {
            assert_eq!(
                told(&mut settling(), &answer, may_be_unread, now).try_recv(),
                Ok(outcome),
                "{answer:?} {may_be_unread}"
            );
        }
    }

    #[test]
    fn a_refusal_is_told_as_lost_after_the_pause() {
        let start = Instant::now();
        let mut settling = settling();
        let mut first = told(&mut settling, &refused(), false, start);
        let mut second = told(&mut settling, &refused(), true, start + PAUSE / 2);
        assert_eq!(settling.deadline(), Some(start + PAUSE));
        assert!(!settling.tick(start + PAUSE - Duration::from_millis(1)));
        assert_eq!(first.try_recv(), Err(TryRecvError::Empty));
        settling.tick(start + PAUSE);
        assert_eq!(first.try_recv(), Ok(Outcome::Lost));
        assert_eq!(second.try_recv(), Err(TryRecvError::Empty));
        settling.tick(start + PAUSE * 2);
        assert_eq!(second.try_recv(), Ok(Outcome::Lost));
        assert_eq!(settling.deadline(), None);
    }

    #[test]
    fn held_refusals_are_bounded_and_the_oldest_goes_first() {
        let now = Instant::now();
        let mut settling = settling();
        let mut held: Vec<_> = (0..=HELD).map(|_| told(&mut settling, &refused(), false, now)).collect();
        assert_eq!(held[0].try_recv(), Ok(Outcome::Lost));
        assert!(held[1..].iter_mut().all(|rx| rx.try_recv() == Err(TryRecvError::Empty)));
    }

    #[test]
    fn a_topic_without_a_reader_makes_one_probe_per_interval() {
        let start = Instant::now();
        let mut settling = settling();
        assert_eq!(settling.deadline(), None);
        drop(told(&mut settling, &Answer::NoReader, false, start));
        drop(told(&mut settling, &Answer::NoReader, false, start + PROBE / 2));
        assert_eq!(settling.deadline(), Some(start + PROBE));
        assert!(!settling.tick(start + PROBE / 2));
        assert!(settling.tick(start + PROBE));
        assert!(!settling.tick(start + PROBE * 2));
        assert_eq!(settling.deadline(), None);
    }

    #[test]
    fn the_deadline_is_the_earlier_of_the_two() {
        let start = Instant::now();
        let mut settling = settling();
        drop(told(&mut settling, &Answer::NoReader, false, start));
        drop(told(&mut settling, &refused(), false, start));
        assert_eq!(settling.deadline(), Some(start + PAUSE));
    }

    #[test]
    fn a_refused_topic_is_news_once_until_it_passes() {
        let mut settling = settling();
        assert_eq!(settling.news("a"), News::First);
        assert_eq!(settling.news("a"), News::Known);
        settling.passed("a");
        assert_eq!(settling.news("a"), News::First);
        for n in 0..TOLD {
            settling.news(&format!("t{n}"));
        }
        assert_eq!(settling.news("a"), News::First);
    }
}
