//! What the bridge is told about a publication, and when. Pure: `now` comes from outside.

use super::Outcome;
use super::link::Answer;
use std::collections::VecDeque;
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::time::Instant;

/// Most refused publications that are held back; while there are so many, nothing more is taken from the bridge. It has
/// fewer topics at work at one time, and publishes one alone on a topic that was refused.
const HELD: usize = 20_000;

/// A refusal is told so much later than the one before it, at least: however many topics are refused, so many publications
/// a second are tried again.
const PACE: Duration = Duration::from_millis(5);

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
/// both would turn in a hot loop. None is told earlier than that, and many only one after the other. A topic without a reader has no event that says when one comes, so the bridge is
/// made to probe.
#[derive(Debug)]
pub(super) struct Settling {
    refusal_pause: Duration,
    reader_probe: Duration,
    held: VecDeque<(Instant, oneshot::Sender<Outcome>)>,
    probe: Option<Instant>,
}

impl Settling {
    pub(super) fn new(refusal_pause: Duration, reader_probe: Duration) -> Self {
        Self { refusal_pause, reader_probe, held: VecDeque::new(), probe: None }
    }

    /// Tells `outcome` what `answer` means, or holds the word back: until when.
    pub(super) fn answered(
        &mut self,
        answer: &Answer,
        may_be_unread: bool,
        outcome: oneshot::Sender<Outcome>,
        now: Instant,
    ) -> Option<Instant> {
        if matches!(answer, Answer::Refused(_)) {
            return Some(self.hold(outcome, now + self.refusal_pause));
        }
        let word = meaning(answer, may_be_unread);
        if word == Outcome::NoReader {
            self.probe.get_or_insert(now + self.reader_probe);
        }
        // If nobody waits for it any more, that is no error.
        _ = outcome.send(word);
        None
    }

    fn hold(&mut self, outcome: oneshot::Sender<Outcome>, earliest: Instant) -> Instant {
        let due = self.held.back().map_or(earliest, |(last, _)| earliest.max(*last + PACE));
        self.held.push_back((due, outcome));
        due
    }

    /// How many refusals are held back.
    pub(super) fn held(&self) -> usize {
        self.held.len()
    }

    /// Whether as many are held back as may be.
    pub(super) fn is_full(&self) -> bool {
        self.held.len() >= HELD
    }

    /// When [`Settling::tick`] has something to do.
    pub(super) fn deadline(&self) -> Option<Instant> {
        self.held.front().map(|(due, _)| *due).into_iter().chain(self.probe).min()
    }

    /// Tells what is due; answers whether it is time for the bridge to probe for readers.
    pub(super) fn tick(&mut self, now: Instant) -> bool {
        // Each is due after the one before it.
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
    fn however_many_are_refused_none_is_told_before_its_time_and_many_are_told_one_after_the_other() {
        let start = Instant::now();
        let mut settling = settling();
        let mut held: Vec<_> = (0..HELD).map(|_| told(&mut settling, &refused(), false, start)).collect();
        assert!(settling.is_full());
        settling.tick(start + PAUSE - Duration::from_millis(1));
        assert!(held.iter_mut().all(|rx| rx.try_recv() == Err(TryRecvError::Empty)));
        settling.tick(start + PAUSE + Duration::from_secs(1));
        let told = held.iter_mut().filter_map(|rx| rx.try_recv().ok()).collect::<Vec<_>>();
        assert_eq!((told.len(), told[0]), (201, Outcome::Lost), "at most 200 a second are tried again");
        assert!(!settling.is_full());
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
}
