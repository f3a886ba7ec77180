use super::*;
use End::{Broke, Left};
use PresenceState::{Offline, Online};
use proptest::prelude::*;

const GRACE: u64 = 2_000;
const START: u64 = 1_700_000_000_000;

fn device(name: &str) -> DeviceName {
    DeviceName::new(name).unwrap()
}

fn user() -> Aggregate {
    Aggregate::new(Evidence::Connections, GRACE)
}

/// A user whose phone has been there since [`START`], as everybody knows.
fn online() -> Aggregate {
    let mut user = user();
    user.handle_came(&device("phone"), 1, START);
    assert_eq!(told(&mut user, 0), Some((Online, None)));
    user
}

/// What is told `after` milliseconds, with `last_seen` counted from [`START`].
fn told(user: &mut Aggregate, after: u64) -> Option<(PresenceState, Option<u64>)> {
    let document = user.poll_document(START + after)?;
    assert_eq!(document.ts, START + after);
    Some((document.state, document.last_seen.map(|at| at - START)))
}

fn say(user: &mut Aggregate, device: &str, state: PresenceState, conn: &str, after: u64) {
    let device = (!device.is_empty()).then(|| self::device(device));
    let conn = (!conn.is_empty()).then(|| conn.to_owned());
    user.handle_said(device.as_ref(), Some(&Presence { conn, ..Presence::bare(state) }), START + after);
}

#[test]
fn a_goodbye_counts_at_once_and_the_last_device_decides() {
    let mut user = online();
    user.handle_came(&device("laptop"), 2, START + 10);
    user.handle_gone(&device("phone"), 1, Left, START + 20);
    assert_eq!(told(&mut user, 20), None);
    user.handle_gone(&device("laptop"), 2, Left, START + 30);
    assert_eq!(told(&mut user, 31), Some((Offline, Some(30))));
    assert_eq!(told(&mut user, 90_000), None);
    assert!(user.is_idle());
}

#[test]
fn a_cut_counts_after_the_grace_as_of_the_moment_it_happened() {
    let mut user = online();
    user.handle_gone(&device("phone"), 1, Broke, START + 10);
    assert_eq!(user.deadline(), Some(START + 10 + GRACE));
    assert_eq!(told(&mut user, 9 + GRACE), None);
    assert_eq!(told(&mut user, 10 + GRACE), Some((Offline, Some(10))));
    assert_eq!(told(&mut user, 10 + LATE_WILL_MS), None);
    assert!(user.is_idle());
}

#[test]
fn who_comes_back_in_time_was_never_away() {
    let mut user = online();
    user.handle_gone(&device("phone"), 1, Broke, START + 10);
    user.handle_came(&device("phone"), 2, START + 9 + GRACE);
    assert_eq!(told(&mut user, 100_000), None);
    user.handle_gone(&device("phone"), 2, Left, START + 100_000);
    assert_eq!(told(&mut user, 100_000), Some((Offline, Some(100_000))));
}

#[test]
fn at_a_take_over_the_old_connection_may_end_later() {
    let mut user = online();
    user.handle_came(&device("phone"), 2, START + 10);
    user.handle_gone(&device("phone"), 1, Broke, START + 20);
    assert_eq!((told(&mut user, 100_000), user.deadline()), (None, None));
}

#[test]
fn a_late_will_of_a_named_connection_is_ignored_and_the_birth_stands() {
    let mut user = online();
    say(&mut user, "phone", Online, "c1", 1);
    user.handle_came(&device("phone"), 2, START + 10);
    user.handle_gone(&device("phone"), 1, Broke, START + 11);
    say(&mut user, "phone", Offline, "c1", 100_000);
    assert_eq!(told(&mut user, 100_000), None, "before the birth");
    say(&mut user, "phone", Online, "c2", 100_001);
    say(&mut user, "phone", Offline, "c1", 100_002);
    assert_eq!(told(&mut user, 100_003), None, "after the birth");
    say(&mut user, "phone", Offline, "c2", 100_004);
    assert_eq!(told(&mut user, 100_005), Some((Offline, Some(100_004))), "its own word counts");
}

#[test]
fn a_will_without_a_name_or_with_always_the_same_is_known_by_its_time() {
    for conn in ["", "fixed"] {
        let mut user = online();
        say(&mut user, "phone", Online, conn, 1);
        user.handle_came(&device("phone"), 2, START + 10);
        user.handle_gone(&device("phone"), 1, Broke, START + 11);
        say(&mut user, "phone", Online, conn, 12);
        say(&mut user, "phone", Offline, conn, 13);
        assert_eq!(told(&mut user, 14), None, "{conn:?}");
        say(&mut user, "phone", Offline, conn, 11 + LATE_WILL_MS);
        assert_eq!(told(&mut user, 11 + LATE_WILL_MS), Some((Offline, Some(11 + LATE_WILL_MS))), "{conn:?}");
    }
}

#[test]
fn the_will_of_a_connection_that_broke_does_not_cut_the_grace_short() {
    let mut user = online();
    say(&mut user, "phone", Online, "c1", 1);
    user.handle_gone(&device("phone"), 1, Broke, START + 10);
    say(&mut user, "phone", Offline, "c1", 11);
    assert_eq!(told(&mut user, 12), None);
    user.handle_came(&device("phone"), 2, START + 13);
    assert_eq!(told(&mut user, 14), None);
}

#[test]
fn a_client_may_hide_until_it_shows_itself_or_comes_anew() {
    let mut user = online();
    say(&mut user, "phone", Offline, "", 10);
    assert_eq!(told(&mut user, 11), Some((Offline, Some(10))));
    say(&mut user, "phone", Online, "", 20);
    assert_eq!(told(&mut user, 21), Some((Online, Some(10))));
    say(&mut user, "phone", Offline, "", 30);
    assert_eq!(told(&mut user, 31), Some((Offline, Some(30))));
    user.handle_gone(&device("phone"), 1, Broke, START + 40);
    assert_eq!(told(&mut user, 40), None, "he who hides goes unseen");
    user.handle_came(&device("phone"), 2, START + 50);
    assert_eq!(told(&mut user, 51), Some((Online, Some(30))));
    say(&mut user, "phone", Offline, "c", 40 + LATE_WILL_MS);
    assert_eq!(told(&mut user, 40 + LATE_WILL_MS), Some((Offline, Some(40 + LATE_WILL_MS))));
    user.handle_said(Some(&device("phone")), None, START + 60_000);
    assert_eq!(told(&mut user, 60_001), Some((Online, Some(40 + LATE_WILL_MS))), "the word was taken back");
}

#[test]
fn who_does_not_say_which_device_it_is_speaks_for_the_only_one() {
    let mut user = online();
    say(&mut user, "", Offline, "", 10);
    assert_eq!(told(&mut user, 11), Some((Offline, Some(10))));
    user.handle_came(&device("laptop"), 2, START + 20);
    assert_eq!(told(&mut user, 21), Some((Online, Some(10))));
    say(&mut user, "", Offline, "", 30);
    assert_eq!(told(&mut user, 31), None, "it could be either");
    user.handle_came(&device(DEFAULT_DEVICE), 3, START + 40);
    user.handle_gone(&device("laptop"), 2, Left, START + 50);
    say(&mut user, "", Offline, "", 60);
    assert_eq!(told(&mut user, 61), Some((Offline, Some(60))));
}

#[test]
fn words_of_nobody_change_nothing() {
    let mut user = online();
    say(&mut user, "tablet", Online, "", 10);
    say(&mut user, "tablet", Offline, "", 10);
    user.handle_gone(&device("tablet"), 9, Left, START + 10);
    user.handle_gone(&device("phone"), 9, Left, START + 10);
    assert_eq!(told(&mut user, 11), None);
}

#[test]
fn what_happened_between_two_polls_is_told_once() {
    let mut user = online();
    user.handle_gone(&device("phone"), 1, Left, START + 10);
    assert_eq!(told(&mut user, 10), Some((Offline, Some(10))));
    user.handle_came(&device("phone"), 2, START + 20);
    user.handle_gone(&device("phone"), 2, Left, START + 30);
    assert_eq!(told(&mut user, 40), Some((Offline, Some(30))), "he was seen later than others know");
    user.handle_came(&device("phone"), 3, START + 50);
    user.handle_gone(&device("phone"), 3, Broke, START + 60);
    assert_eq!(told(&mut user, 61), Some((Online, Some(30))));
    user.handle_loss();
    assert_eq!(told(&mut user, 62), Some((Online, Some(30))), "the latest, again");
}

#[test]
fn after_a_restart_nothing_is_told_before_it_is_known() {
    let mut user = user();
    user.handle_restart(Some(START - 5), START + GRACE);
    assert_eq!(told(&mut user, GRACE - 1), None);
    assert_eq!(user.deadline(), Some(START + GRACE));
    let document = user.poll_document(START + GRACE).unwrap();
    assert_eq!((document.state, document.last_seen), (Offline, Some(START - 5)));
    assert!(user.is_idle());

    let mut user = self::user();
    user.handle_restart(Some(START - 5), START + GRACE);
    user.handle_came(&device("phone"), 1, START + 10);
    assert_eq!(told(&mut user, 10), Some((Online, None)), "the broker may have lost it");
    user.handle_gone(&device("phone"), 1, Left, START + 20);
    assert_eq!(told(&mut user, 20), None, "another device may be on its way");
    assert_eq!(told(&mut user, GRACE), Some((Offline, Some(20))));
}

#[test]
fn memory_is_not_moved_back() {
    let mut user = user();
    user.handle_memory(Some(START + 5));
    user.handle_memory(None);
    user.handle_memory(Some(START + 1));
    assert_eq!(told(&mut user, 9), Some((Offline, Some(5))));
}

#[derive(Debug, Clone, Copy)]
enum Step {
    Came(usize),
    /// The new connection is told first.
    TakenOver(usize),
    Gone(usize, End),
    Says(usize, PresenceState),
    OldWill(usize),
    Wait(u64),
    Poll,
}

const DEVICES: [&str; 3] = ["phone", "laptop", DEFAULT_DEVICE];

fn step() -> impl Strategy<Value = Step> {
    let device = || 0..DEVICES.len();
    prop_oneof![
        3 => device().prop_map(Step::Came),
        1 => device().prop_map(Step::TakenOver),
        3 => (device(), prop_oneof![Just(Left), Just(Broke)]).prop_map(|(device, end)| Step::Gone(device, end)),
        2 => (device(), prop_oneof![Just(Online), Just(Offline)]).prop_map(|(device, state)| Step::Says(device, state)),
        1 => device().prop_map(Step::OldWill),
        3 => (0..2 * GRACE).prop_map(Step::Wait),
        2 => Just(Step::Poll),
    ]
}

/// One device as a plain list of what it went through; all answers are read off the list.
#[derive(Debug, Default)]
struct Story(Vec<(u64, Chapter)>);

#[derive(Debug, Clone, Copy, PartialEq)]
enum Chapter {
    /// Has a connection, and does not hide.
    Visible,
    /// Has a connection, and hides.
    Hidden,
    Left,
    Broke,
}

impl Story {
    fn last(&self) -> Option<Chapter> {
        self.0.last().map(|(_, chapter)| *chapter)
    }

    fn connected(&self) -> bool {
        matches!(self.last(), Some(Chapter::Visible | Chapter::Hidden))
    }

    fn counts(&self, now: u64) -> bool {
        match self.0.as_slice() {
            [.., (_, Chapter::Visible)] => true,
            [.., (_, Chapter::Visible), (at, Chapter::Broke)] => now < at + GRACE,
            _ => false,
        }
    }

    /// All moments at which it was visible for the last time before a time in which it was not.
    fn went(&self, now: u64) -> impl Iterator<Item = u64> {
        let ends = self.0.iter().skip(1).map(|(at, _)| *at).chain([now]).skip(1).collect::<Vec<_>>();
        let pairs = self.0.windows(2).zip(ends);
        let went = pairs.filter_map(|(pair, next)| match (pair[0].1, pair[1]) {
            (Chapter::Visible, (at, Chapter::Hidden | Chapter::Left)) => Some(at),
            (Chapter::Visible, (at, Chapter::Broke)) if next >= at + GRACE => Some(at),
            _ => None,
        });
        went.collect::<Vec<_>>().into_iter()
    }
}

/// The aggregate beside the stories of its devices.
struct Trial {
    user: Aggregate,
    now: u64,
    stories: [Story; DEVICES.len()],
    /// The present connection of each device.
    connections: [u64; DEVICES.len()],
    published: Option<(PresenceState, Option<u64>)>,
}

impl Trial {
    fn connect(&mut self, n: usize) {
        self.connections[n] += 10;
        self.user.handle_came(&device(DEVICES[n]), self.connections[n] + n as u64, self.now);
        self.stories[n].0.push((self.now, Chapter::Visible));
        self.says(n, Online, self.connections[n]);
    }

    fn says(&mut self, n: usize, state: PresenceState, conn: u64) {
        let word = Presence { conn: Some(conn.to_string()), ..Presence::bare(state) };
        self.user.handle_said(Some(&device(DEVICES[n])), Some(&word), self.now);
    }

    fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        match step {
            Step::Came(n) if !self.stories[n].connected() => self.connect(n),
            Step::TakenOver(n) if self.stories[n].connected() => {
                let old = self.connections[n] + n as u64;
                self.connect(n);
                self.user.handle_gone(&device(DEVICES[n]), old, Broke, self.now);
                self.says(n, Offline, self.connections[n] - 10);
            }
            Step::Gone(n, end) if self.stories[n].connected() => {
                self.user.handle_gone(&device(DEVICES[n]), self.connections[n] + n as u64, end, self.now);
                self.stories[n].0.push((self.now, if end == Left { Chapter::Left } else { Chapter::Broke }));
            }
            Step::Says(n, state) => {
                self.says(n, state, self.connections[n]);
                let chapter = if state == Online { Chapter::Visible } else { Chapter::Hidden };
                if self.stories[n].connected() && self.stories[n].last() != Some(chapter) {
                    self.stories[n].0.push((self.now, chapter));
                }
            }
            Step::OldWill(n) if self.connections[n] > 0 => self.says(n, Offline, self.connections[n] - 10),
            Step::Wait(ms) => self.now += ms,
            Step::Poll => self.poll()?,
            Step::Came(_) | Step::TakenOver(_) | Step::Gone(..) | Step::OldWill(_) => {}
        }
        Ok(())
    }

    fn poll(&mut self) -> Result<(), TestCaseError> {
        let state = if self.stories.iter().any(|message_log| message_log.counts(self.now)) { Online } else { Offline };
        let last_seen = self.stories.iter().flat_map(|message_log| message_log.went(self.now)).max();
        let unchanged =
            self.published.is_some_and(|(told, seen)| told == state && (state == Online || seen == last_seen));
        let document = self.user.poll_document(self.now).map(|document| (document.state, document.last_seen));
        prop_assert_eq!(document, (!unchanged).then_some((state, last_seen)));
        self.published = document.or(self.published);
        let quiet = self.user.deadline().map_or(self.now + 100 * GRACE, |deadline| deadline - 1);
        prop_assert_eq!(self.user.poll_document(quiet.max(self.now)), None, "nothing changes before the deadline");
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn whatever_happens_others_hear_each_change_once_and_right(steps in prop::collection::vec(step(), 0..60)) {
        let (stories, connections) = (Default::default(), [0; DEVICES.len()]);
        let mut trial = Trial { user: user(), now: START, stories, connections, published: None };
        trial.connect(0);
        for step in steps {
            trial.step(step)?;
        }
        trial.poll()?;
        trial.now += 2 * LATE_WILL_MS;
        trial.poll()?;
        let connected = trial.stories.iter().any(Story::connected);
        prop_assert_eq!(trial.user.is_idle(), !connected, "nothing is kept for those who are gone");
    }
}

#[test]
fn what_a_connected_device_says_of_being_looked_at_is_for_nobody_else() {
    let mut user = online();
    let said = |state, active| Presence { active, ..Presence::bare(state) };
    for (n, (word, expected)) in [
        (Some(said(Online, None)), None),
        (Some(said(Online, Some(false))), Some(DeviceChange::Active(false))),
        (Some(said(Online, None)), None),
        (Some(said(Online, Some(true))), Some(DeviceChange::Active(true))),
        (None, Some(DeviceChange::Unsaid)),
    ]
    .into_iter()
    .enumerate()
    {
        let changes = user.handle_said(Some(&device("phone")), word.as_ref(), START + 1);
        assert_eq!(changes, Vec::from_iter(expected.map(|change| (device("phone"), change))), "{n}");
        assert_eq!(told(&mut user, 2), None, "{n}: others see no difference");
    }
}

#[test]
fn who_hides_is_not_looked_at_and_the_will_of_an_old_connection_says_nothing_of_that() {
    let mut user = online();
    say(&mut user, "phone", Online, "c1", 1);
    let mut said = |state, conn: &str, active| {
        let word = Presence { conn: Some(conn.to_owned()), active, ..Presence::bare(state) };
        user.handle_said(None, Some(&word), START + 10).into_iter().map(|(_, change)| change).collect::<Vec<_>>()
    };
    assert_eq!(said(Offline, "c0", None), []);
    assert_eq!(said(Online, "c1", Some(true)), [DeviceChange::Active(true)]);
    assert_eq!(said(Offline, "c1", Some(true)), [DeviceChange::Active(false)]);
    assert_eq!(said(Online, "c1", None), [DeviceChange::Unsaid], "which is no sign of a person");
    assert_eq!(told(&mut user, 20), None);
}

#[test]
fn who_wants_to_be_seen_by_nobody_is_offline_and_was_never_there() {
    let mut user = online();
    user.handle_gone(&device("phone"), 1, Left, START + 10);
    assert_eq!(told(&mut user, 10), Some((Offline, Some(10))));
    user.handle_hide(true);
    assert_eq!(told(&mut user, 11), Some((Offline, None)));
    user.handle_came(&device("phone"), 2, START + 20);
    user.handle_gone(&device("phone"), 2, Left, START + 30);
    user.handle_came(&device("phone"), 3, START + 40);
    assert_eq!(told(&mut user, 40), None);
    user.handle_hide(false);
    assert_eq!(told(&mut user, 50), Some((Online, Some(30))));
    user.handle_hide(true);
    assert_eq!(told(&mut user, 60), Some((Offline, None)));
}

/// A user on a broker that shows documents only.
fn by_births() -> Aggregate {
    Aggregate::new(Evidence::Births, GRACE)
}

#[test]
fn a_birth_is_a_connection_and_its_will_the_end_of_it() {
    let mut user = by_births();
    assert_eq!(told(&mut user, 0), Some((Offline, None)), "no birth, not connected");
    say(&mut user, "phone", Online, "c1", 1);
    assert_eq!(told(&mut user, 1), Some((Online, None)));
    say(&mut user, "phone", Online, "c2", 10);
    say(&mut user, "phone", Offline, "c1", 11);
    assert_eq!(told(&mut user, 100_000), None, "the will of another connection");
    say(&mut user, "phone", Offline, "c2", 200_000);
    assert_eq!(told(&mut user, 200_000), None, "it may come back");
    assert_eq!(told(&mut user, 200_000 + GRACE), Some((Offline, Some(200_000))));
    assert_eq!(told(&mut user, 200_000 + LATE_WILL_MS), None);
    assert!(user.is_idle());
}

#[test]
fn without_a_device_a_birth_is_of_the_default_one() {
    let mut user = by_births();
    say(&mut user, "phone", Online, "c1", 1);
    let legacy = |user: &mut Aggregate, state| user.handle_said(None, Some(&Presence::bare(state)), START + 2);
    let default = device(DEFAULT_DEVICE);
    assert_eq!(legacy(&mut user, Online), [(default.clone(), DeviceChange::Came(0))]);
    say(&mut user, "phone", Offline, "c1", 3);
    assert_eq!(told(&mut user, 3 + GRACE), Some((Online, Some(3))));
    assert_eq!(legacy(&mut user, Offline), [(default, DeviceChange::Gone(0))]);
}

#[test]
fn a_birth_that_is_taken_back_is_a_goodbye() {
    let mut user = by_births();
    say(&mut user, "phone", Online, "c1", 1);
    assert_eq!(told(&mut user, 1), Some((Online, None)));
    let gone = user.handle_said(Some(&device("phone")), None, START + 10);
    assert_eq!(gone, [(device("phone"), DeviceChange::Gone(0))]);
    assert_eq!(told(&mut user, 10), Some((Offline, Some(10))));
    say(&mut user, "phone", Online, "c2", 2_000);
    assert_eq!(told(&mut user, 2_000), Some((Online, Some(10))));
    say(&mut user, "phone", Offline, "c2", 3_000);
    user.handle_said(Some(&device("phone")), None, START + 3_100);
    assert_eq!(told(&mut user, 3_200), Some((Offline, Some(3_000))), "nobody is awaited any more");
    assert!(user.is_idle());
}

#[test]
fn only_the_presence_of_a_device_without_a_token_is_cleared_and_not_before_it_is_over() {
    for (has_token, cleared) in [(Some(false), true), (Some(true), false), (None, false)] {
        let mut user = by_births();
        say(&mut user, "tab", Online, "c1", 1);
        if let Some(has_token) = has_token {
            user.handle_token(&device("tab"), has_token);
        }
        say(&mut user, "tab", Offline, "c1", 10);
        told(&mut user, 9 + LATE_WILL_MS);
        assert_eq!(user.poll_cleared(), None);
        told(&mut user, 10 + LATE_WILL_MS);
        assert_eq!(user.poll_cleared(), cleared.then(|| device("tab")), "{has_token:?}");
        assert_eq!(user.poll_cleared(), None);
    }
}

#[test]
fn births_of_one_user_are_bounded() {
    let mut user = by_births();
    for n in 0..2 * DEVICES_MAX {
        say(&mut user, &n.to_string(), if n % 2 == 0 { Online } else { Offline }, "c", 1);
    }
    assert_eq!(user.devices.len(), DEVICES_MAX);
}

#[test]
fn what_was_told_is_known_again() {
    let mut user = by_births();
    say(&mut user, "phone", Online, "c1", 1);
    let document = user.poll_document(START + 5).unwrap();
    let copy = |state, ts| Presence { ts, ..Presence::bare(state) };
    assert!(user.has_told(&copy(Online, Some(document.ts))));
    assert!(!user.has_told(&copy(Offline, Some(document.ts))) && !user.has_told(&copy(Online, Some(document.ts + 1))));
    assert!(!user.has_told(&copy(Online, None)));
}

#[derive(Debug, Clone, Copy)]
enum Word {
    Birth(usize, u8),
    Will(usize, u8),
    TakenBack(usize),
    Wait(u64),
}

fn word() -> impl Strategy<Value = Word> {
    let device = || 0..DEVICES.len();
    prop_oneof![
        3 => (device(), 0..4_u8).prop_map(|(device, conn)| Word::Birth(device, conn)),
        3 => (device(), 0..4_u8).prop_map(|(device, conn)| Word::Will(device, conn)),
        1 => device().prop_map(Word::TakenBack),
        1 => (0..2 * GRACE).prop_map(Word::Wait),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    /// A device is connected from a birth to the will of the same connection, by one connection at a time.
    #[test]
    fn the_newest_birth_decides(words in prop::collection::vec(word(), 0..60)) {
        let mut user = Aggregate::new(Evidence::Births, 0);
        let (mut births, mut open, mut now) = ([None; DEVICES.len()], [None; DEVICES.len()], START);
        for word in words {
            let say = |state, conn: u8| Presence { conn: Some(conn.to_string()), ..Presence::bare(state) };
            let (n, said) = match word {
                Word::Birth(n, conn) => (n, Some(say(Online, conn))),
                Word::Will(n, conn) => (n, Some(say(Offline, conn))),
                Word::TakenBack(n) => (n, None),
                Word::Wait(ms) => { now += ms; continue }
            };
            for (name, change) in user.handle_said(Some(&device(DEVICES[n])), said.as_ref(), now) {
                prop_assert_eq!(name.as_str(), DEVICES[n]);
                match change {
                    DeviceChange::Came(connection) => prop_assert_ne!(open[n].replace(connection), Some(connection)),
                    // At a take-over the new one is told first.
                    DeviceChange::Gone(connection) if open[n] == Some(connection) => open[n] = None,
                    DeviceChange::Gone(connection) => prop_assert_eq!(open[n], Some(connection + 1)),
                    DeviceChange::Active(_) | DeviceChange::Unsaid => prop_assert!(false, "nothing was said of that"),
                }
            }
            match word {
                Word::Birth(n, conn) => births[n] = Some(conn),
                Word::Will(n, conn) if births[n] == Some(conn) => births[n] = None,
                Word::TakenBack(n) => births[n] = None,
                Word::Will(..) | Word::Wait(_) => {}
            }
            prop_assert_eq!(open.map(|open| open.is_some()), births.map(|birth| birth.is_some()));
            user.handle_loss();
            let state = user.poll_document(now).map(|document| document.state);
            prop_assert_eq!(state == Some(Online), births.iter().any(Option::is_some));
        }
    }
}
