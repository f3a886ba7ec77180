//! All timers of a session in one table.

use std::time::Instant;

/// What a session may be waiting for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Timer {
    /// The login must be over.
    Login,
    /// Nothing was heard: time to ask.
    Silence,
    /// The peer must have answered.
    Answer,
    /// The shutdown must be over.
    Shutdown,
}

impl Timer {
    const ALL: [Self; 4] = [Self::Login, Self::Silence, Self::Answer, Self::Shutdown];
}

/// When each timer fires, if it runs.
#[derive(Debug, Default)]
pub(super) struct Timers([Option<Instant>; Timer::ALL.len()]);

impl Timers {
    pub(super) fn start(&mut self, timer: Timer, at: Instant) {
        self.0[timer as usize] = Some(at);
    }

    pub(super) fn stop(&mut self, timer: Timer) {
        self.0[timer as usize] = None;
    }

    pub(super) fn stop_all(&mut self) {
        *self = Self::default();
    }

    /// When the first of them fires.
    pub(super) fn next(&self) -> Option<Instant> {
        self.0.iter().flatten().min().copied()
    }

    /// Takes out a timer that has fired, the earliest first.
    pub(super) fn pop_fired(&mut self, now: Instant) -> Option<Timer> {
        let fired = |timer: &Timer| self.0[*timer as usize].is_some_and(|at| at <= now);
        let timer = Timer::ALL.into_iter().filter(fired).min_by_key(|timer| self.0[*timer as usize])?;
        self.stop(timer);
        Some(timer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    #[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise")]
    fn timers_fire_once_and_in_order() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut timers = Timers::default();
        timers.start(Timer::Login, at(3));
        timers.start(Timer::Silence, at(2));
        timers.start(Timer::Shutdown, at(9));
        timers.start(Timer::Answer, at(1));
        timers.stop(Timer::Answer);
        assert_eq!(timers.next(), Some(at(2)));
        assert_eq!(timers.pop_fired(at(1)), None);
        assert_eq!(timers.pop_fired(at(3)), Some(Timer::Silence));
        assert_eq!(timers.pop_fired(at(3)), Some(Timer::Login));
        assert_eq!(timers.pop_fired(at(3)), None);
        assert_eq!(timers.next(), Some(at(9)));
        timers.stop_all();
        assert_eq!(timers.next(), None);
    }
}
