use super::user::{DEVICES_AWAY_MAX, DEVICES_MAX};
use super::*;
use crate::chat::attention::CONFIRM_MS;
use crate::chat::id::SidSource;
use futures_util::FutureExt;
use proptest::prelude::*;

const TEN_MINUTES: Duration = Duration::from_secs(600);
const START: u64 = 1_700_000_000_000;
const DEVICES: [&str; 3] = ["phone", "laptop", "tablet"];

fn alice() -> Owner {
    Owner::new("alice").unwrap()
}

fn device(name: &str) -> Device {
    Device::new(name).unwrap()
}

fn sids(count: usize) -> Vec<Sid> {
    let mut source = SidSource::default();
    (0..count).map(|_| source.next(START, 1)).collect()
}

/// The attentions of alice, with the time that the paused clock shows.
struct Scene {
    attentions: Attentions,
    start: Instant,
}

impl Scene {
    fn new() -> Self {
        Self { attentions: Attentions::new(TEN_MINUTES), start: Instant::now() }
    }

    fn now(&self) -> u64 {
        START + u64::try_from(self.start.elapsed().as_millis()).unwrap()
    }

    fn came(&self, name: &str, connection: u64) {
        self.attentions.came(&alice(), &device(name), connection, self.now());
    }

    fn gone(&self, name: &str, connection: u64) {
        self.attentions.gone(&alice(), &device(name), connection, self.now());
    }

    fn sign(&self, name: &str) {
        self.attentions.sign(&alice(), &device(name), self.now());
    }

    fn active(&self, name: &str, active: bool) {
        self.attentions.active(&alice(), &device(name), active, self.now());
    }

    fn given(&self, sid: Sid) {
        self.attentions.given(&alice(), sid, self.now());
    }

    fn confirmed(&self, name: &str, sid: Sid) -> bool {
        self.attentions.confirmed(&alice(), Some(&device(name)), sid, self.now())
    }

    fn attended(&self) -> Vec<String> {
        let attended = self.attentions.attended(&alice(), self.now());
        attended.devices.iter().map(|device| device.as_str().to_owned()).collect()
    }

    /// What is to be decided again by now.
    fn rung(&self) -> Vec<Sid> {
        let rung = self.attentions.rung().now_or_never().unwrap_or_default();
        assert!(rung.iter().all(|(user, sids)| *user == alice() && !sids.is_empty()));
        rung.into_iter().flat_map(|(_, sids)| sids).collect()
    }

    /// A scene with these devices connected and looked at.
    fn looked_at(names: &[&str]) -> Self {
        let scene = Self::new();
        for name in names {
            scene.came(name, 1);
            scene.sign(name);
        }
        scene
    }
}

async fn pass(time: Duration) {
    tokio::time::advance(time).await;
}

#[tokio::test(start_paused = true)]
async fn a_laptop_that_reconnects_every_minute_is_looked_at_for_ten_minutes_after_a_sign() {
    let scene = Scene::new();
    for connection in 0..20 {
        scene.came("laptop", connection);
        let expected: &[&str] = if (5..15).contains(&connection) { &["laptop"] } else { &[] };
        if connection == 5 {
            assert!(scene.attended().is_empty(), "a connection is no sign");
            scene.sign("laptop");
        }
        assert_eq!(scene.attended(), expected, "{connection}");
        scene.gone("laptop", connection);
        assert!(scene.attended().is_empty(), "nobody looks at what is away");
        pass(Duration::from_secs(60)).await;
    }
    assert_eq!(scene.rung(), []);
    assert!(scene.attentions.state.lock().unwrap().users.is_empty(), "nothing is kept of a sign that counts no more");
}

#[tokio::test(start_paused = true)]
async fn a_device_is_there_while_any_connection_is() {
    let scene = Scene::looked_at(&["phone"]);
    scene.came("phone", 2);
    scene.gone("phone", 1);
    assert_eq!(scene.attended(), ["phone"]);
    scene.gone("phone", 1);
    assert_eq!(scene.attended(), ["phone"]);
    scene.gone("phone", 2);
    assert!(scene.attended().is_empty());
}

#[tokio::test(start_paused = true)]
async fn a_sign_that_is_told_before_the_connection_counts_from_its_coming_on() {
    let scene = Scene::new();
    scene.sign("phone");
    assert!(scene.attended().is_empty());
    pass(Duration::from_secs(1)).await;
    scene.came("phone", 1);
    assert_eq!(scene.attended(), ["phone"]);
}

#[tokio::test(start_paused = true)]
async fn that_nobody_looks_ends_with_the_connection_or_when_it_is_taken_back() {
    let scene = Scene::looked_at(&["phone"]);
    scene.active("phone", false);
    scene.sign("phone");
    assert!(scene.attended().is_empty());
    scene.came("phone", 2);
    assert_eq!(scene.attended(), ["phone"], "another connection");
    scene.active("phone", false);
    scene.came("phone", 2);
    assert!(scene.attended().is_empty(), "the same connection");
    scene.attentions.unsaid(&alice(), &device("phone"), scene.now());
    assert_eq!(scene.attended(), ["phone"]);
    scene.came("laptop", 1);
    scene.active("laptop", true);
    assert_eq!(scene.attended(), ["laptop", "phone"], "sorted");
}

#[tokio::test(start_paused = true)]
async fn what_no_attended_device_confirms_in_time_is_returned_at_that_time() {
    let scene = Scene::looked_at(&["phone"]);
    let sids = sids(2);
    scene.given(sids[1]);
    pass(Duration::from_secs(4)).await;
    scene.given(sids[0]);
    let before = Instant::now();
    // The paused clock moves on to the next thing that waits.
    assert_eq!(scene.attentions.rung().await, [(alice(), sids)], "the oldest sets the clock");
    assert_eq!(before.elapsed(), Duration::from_secs(11));
    assert!(scene.attended().is_empty(), "it answers nothing");
}

#[tokio::test(start_paused = true)]
async fn a_wait_is_cut_short_by_what_is_due_earlier() {
    let scene = Scene::looked_at(&["phone"]);
    let sids = sids(2);
    let started = Instant::now();
    let (rung, ()) = tokio::join!(scene.attentions.rung(), async {
        tokio::time::sleep(Duration::from_secs(1)).await;
        scene.given(sids[0]);
        tokio::time::sleep(Duration::from_secs(2)).await;
        scene.given(sids[1]);
        scene.gone("phone", 1);
    });
    assert_eq!((rung, started.elapsed()), (vec![(alice(), sids)], Duration::from_secs(3)));
}

#[tokio::test(start_paused = true)]
async fn one_attended_device_is_enough_and_the_other_one_is_mute_all_the_same() {
    let scene = Scene::looked_at(&["laptop", "phone"]);
    let sid = sids(1)[0];
    scene.given(sid);
    assert!(scene.confirmed("phone", sid));
    pass(Duration::from_millis(CONFIRM_MS)).await;
    assert_eq!(scene.rung(), []);
    assert_eq!(scene.attended(), ["phone"]);
    assert!(scene.confirmed("laptop", sid), "it answers again");
    assert_eq!(scene.attended(), ["laptop", "phone"]);
}

#[tokio::test(start_paused = true)]
async fn the_last_device_that_holds_a_message_decides() {
    let scene = Scene::looked_at(&["laptop", "phone"]);
    let sids = sids(2);
    scene.given(sids[0]);
    scene.given(sids[0]);
    scene.active("laptop", false);
    assert_eq!(scene.rung(), []);
    scene.given(sids[1]);
    assert!(!scene.confirmed("laptop", sids[1]), "nobody looks at it");
    scene.gone("phone", 1);
    assert_eq!(scene.rung(), sids);
    assert!(!scene.attentions.confirmed(&alice(), None, sids[0], scene.now()));
}

#[tokio::test(start_paused = true)]
async fn where_each_device_waits_for_itself_another_one_does_not_help() {
    let mut scene = Scene::new();
    scene.attentions = scene.attentions.with(PushWhen::PerDevice);
    for name in ["laptop", "phone"] {
        scene.came(name, 1);
        scene.sign(name);
    }
    let sid = sids(1)[0];
    scene.given(sid);
    assert!(scene.confirmed("phone", sid));
    pass(Duration::from_millis(CONFIRM_MS)).await;
    assert_eq!(scene.rung(), [sid]);
}

#[tokio::test(start_paused = true)]
async fn a_confirmation_counts_although_the_sign_grew_old_meanwhile() {
    let scene = Scene::looked_at(&["phone"]);
    let sids = sids(2);
    pass(TEN_MINUTES - Duration::from_secs(1)).await;
    scene.given(sids[0]);
    pass(Duration::from_secs(2)).await;
    assert!(scene.attended().is_empty());
    assert!(scene.confirmed("phone", sids[0]) && !scene.confirmed("phone", sids[1]));
    pass(TEN_MINUTES).await;
    assert_eq!(scene.rung(), []);
}

#[tokio::test(start_paused = true)]
async fn what_is_given_to_nobody_is_returned_at_once_and_what_is_taken_back_never() {
    let scene = Scene::new();
    let sids = sids(3);
    scene.given(sids[0]);
    scene.given(sids[1]);
    scene.attentions.taken_back(&alice(), sids[0]);
    assert_eq!(scene.rung(), [sids[1]]);
    scene.came("phone", 1);
    scene.sign("phone");
    scene.given(sids[2]);
    scene.attentions.taken_back(&alice(), sids[2]);
    pass(TEN_MINUTES).await;
    assert_eq!(scene.rung(), []);
}

#[tokio::test(start_paused = true)]
async fn clocks_that_differ_or_are_set_move_nothing_back() {
    let scene = Scene::looked_at(&["phone"]);
    let sids = sids(2);
    scene.attentions.given(&alice(), sids[0], scene.now() - 3_600_000);
    pass(Duration::from_millis(CONFIRM_MS - 1)).await;
    assert_eq!(scene.rung(), []);
    pass(Duration::from_millis(1)).await;
    assert_eq!(scene.rung(), [sids[0]]);
    scene.sign("phone");
    scene.given(sids[1]);
    let (rung, ()) = tokio::join!(scene.attentions.rung(), async {
        scene.attentions.sign(&Owner::new("bob").unwrap(), &device("phone"), scene.now() + 3_600_000);
    });
    assert_eq!(rung, [(alice(), vec![sids[1]])], "an hour has passed, if the machine slept");
}

#[tokio::test(start_paused = true)]
async fn memory_is_bounded() {
    let scene = Scene::new();
    for n in 0..DEVICES_MAX + 10 {
        scene.sign(&format!("d{n}"));
    }
    let devices = |scene: &Scene| scene.attended().len();
    for n in 0..DEVICES_MAX + 10 {
        scene.came(&format!("d{n}"), 1);
    }
    assert_eq!(devices(&scene), DEVICES_AWAY_MAX, "of those that were not connected");
    for n in 0..DEVICES_MAX + 10 {
        scene.active(&format!("d{n}"), true);
    }
    assert!(devices(&scene) <= DEVICES_MAX);
    for n in 0..USERS_AWAY_MAX + 10 {
        scene.attentions.sign(&Owner::new(format!("user{n}")).unwrap(), &device("phone"), scene.now());
    }
    assert_eq!(scene.attentions.state.lock().unwrap().users.len(), USERS_AWAY_MAX);
}

#[derive(Debug, Clone)]
enum Step {
    Came(usize),
    Gone(usize),
    Sign(usize),
    Active(usize, bool),
    Give,
    TakeBack(usize),
    Confirm(usize, usize),
    Pass(u64),
}

fn step() -> impl Strategy<Value = Step> {
    let device = || 0..DEVICES.len();
    prop_oneof![
        3 => device().prop_map(Step::Came),
        2 => device().prop_map(Step::Gone),
        4 => device().prop_map(Step::Sign),
        2 => (device(), any::<bool>()).prop_map(|(device, active)| Step::Active(device, active)),
        6 => Just(Step::Give),
        1 => (0..8_usize).prop_map(Step::TakeBack),
        3 => (device(), 0..8_usize).prop_map(|(device, sid)| Step::Confirm(device, sid)),
        3 => (1..12_000_u64).prop_map(Step::Pass),
    ]
}

/// What a device went through, as a list from which the answers are read off.
#[derive(Debug, Default)]
struct Model {
    connections: Vec<u64>,
    signed_at: Option<u64>,
    inactive: bool,
    /// What it was given while it was attended, and when, and has neither confirmed nor given up.
    held: BTreeMap<Sid, u64>,
}

impl Model {
    /// Whether somebody looks at it, as long as it answers.
    fn may_be_attended(&self, now: u64) -> bool {
        let signed = self.signed_at.is_some_and(|at| now < at + 60_000);
        !self.connections.is_empty() && !self.inactive && signed
    }
}

struct Trial {
    scene: Scene,
    sids: Vec<Sid>,
    next: usize,
    devices: [Model; DEVICES.len()],
    connection: u64,
    /// Given to attended devices, and when; neither confirmed by an attended device nor returned.
    waiting: BTreeMap<Sid, u64>,
}

impl Trial {
    fn new() -> Self {
        let scene = Scene { attentions: Attentions::new(Duration::from_secs(60)), start: Instant::now() };
        let (devices, waiting) = (Default::default(), BTreeMap::new());
        Self { scene, sids: sids(100), next: 0, devices, connection: 0, waiting }
    }

    /// One of the last messages that were given, or the next one.
    fn sid(&self, back: usize) -> Sid {
        self.sids[self.next.saturating_sub(back)]
    }

    async fn step(&mut self, step: Step) -> Result<(), TestCaseError> {
        let now = self.scene.now();
        match step {
            Step::Came(n) => {
                self.connection += 1;
                self.scene.came(DEVICES[n], self.connection);
                self.devices[n].connections.push(self.connection);
                self.devices[n].inactive = false;
            }
            Step::Gone(n) => {
                let Some(connection) = self.devices[n].connections.pop() else { return Ok(()) };
                self.scene.gone(DEVICES[n], connection);
                if self.devices[n].connections.is_empty() {
                    self.devices[n].held.clear();
                }
            }
            Step::Sign(n) => {
                self.scene.sign(DEVICES[n]);
                self.devices[n].signed_at = Some(now);
            }
            Step::Active(n, active) => {
                self.scene.active(DEVICES[n], active);
                let device = &mut self.devices[n];
                device.inactive = if device.connections.is_empty() { device.inactive } else { !active };
                device.signed_at = if active { Some(now) } else { device.signed_at };
                if !active {
                    device.held.clear();
                }
            }
            Step::Give => {
                let sid = self.sids[self.next];
                self.next += 1;
                let attended = self.scene.attended();
                for (device, _) in
                    self.devices.iter_mut().zip(DEVICES).filter(|(_, name)| attended.iter().any(|n| n == name))
                {
                    device.held.insert(sid, now);
                }
                if !attended.is_empty() {
                    self.scene.given(sid);
                    self.waiting.insert(sid, now);
                }
            }
            Step::TakeBack(back) => {
                let sid = self.sid(back);
                self.scene.attentions.taken_back(&alice(), sid);
                self.waiting.remove(&sid);
                for device in &mut self.devices {
                    device.held.remove(&sid);
                }
            }
            Step::Confirm(n, back) => {
                let (sid, device) = (self.sid(back), device(DEVICES[n]));
                let attended = self.scene.attentions.confirmed(&alice(), Some(&device), sid, now);
                prop_assert!(!attended || !self.devices[n].connections.is_empty());
                prop_assert!(attended || !self.devices[n].may_be_attended(now), "who answers is attended");
                self.devices[n].held.remove(&sid);
                if attended {
                    self.waiting.remove(&sid);
                }
            }
            Step::Pass(ms) => pass(Duration::from_millis(ms)).await,
        }
        Ok(())
    }

    fn check(&mut self) -> Result<(), TestCaseError> {
        let now = self.scene.now();
        for device in self.devices.iter_mut().filter(|device| device.held.values().any(|at| now >= at + CONFIRM_MS)) {
            device.held.clear();
        }
        for sid in self.scene.rung() {
            prop_assert!(self.waiting.remove(&sid).is_some(), "it waited, and is returned once");
            prop_assert!(!self.devices.iter().any(|device| device.held.contains_key(&sid)), "no device holds it");
        }
        prop_assert!(self.waiting.values().all(|at| now < at + CONFIRM_MS), "nobody waits longer: {:?}", self.waiting);
        let may_be = |name: &String| DEVICES.iter().position(|device| device == name);
        for name in self.scene.attended() {
            let n = may_be(&name).expect("a device of the model");
            prop_assert!(self.devices[n].may_be_attended(now), "{name}");
        }
        let any = self.devices.iter().any(|device| device.may_be_attended(now));
        prop_assert!(any || self.scene.attended().is_empty());
        Ok(())
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(500))]

    /// A message that attended devices are given is confirmed by one of them, or returned within 15 s; and nothing twice.
    #[test]
    fn every_message_is_confirmed_or_decided_again_in_time(steps in prop::collection::vec(step(), 1..90)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap();
        runtime.block_on(async {
            let mut trial = Trial::new();
            for step in steps {
                trial.step(step).await?;
                trial.check()?;
            }
            pass(Duration::from_millis(CONFIRM_MS)).await;
            trial.check()?;
            prop_assert!(trial.waiting.is_empty());
            Ok::<(), TestCaseError>(())
        })?;
    }
}

#[tokio::test(start_paused = true)]
async fn nobody_looks_by_a_name_that_was_forgotten() {
    let scene = Scene::looked_at(&["phone"]);
    let sids = sids(2);
    scene.given(sids[0]);
    scene.gone("phone", 1);
    scene.came("phone", 2);
    scene.sign("phone");
    scene.given(sids[1]);
    scene.attentions.forget(&alice());
    assert!(scene.attended().is_empty() && scene.attentions.connected(&alice()).is_empty());
    tokio::time::advance(Duration::from_secs(60)).await;
    assert!(scene.rung().is_empty());
    let state = scene.attentions.state.lock().unwrap();
    assert_eq!((state.rung_count, state.times.len(), state.users.len()), (0, 0, 0));
}
