//! Whatever happens, in whatever order.

use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

/// Something that happens. An index chooses among the connections or messages that there are.
#[derive(Debug, Clone)]
enum Step {
    Send { recipient: i64, ttl_s: Option<u64> },
    Up(prop::sample::Index),
    Answer(prop::sample::Index, Kind),
    Drain(prop::sample::Index),
    End(prop::sample::Index, End, bool),
    Receipt(prop::sample::Index),
    Device(prop::sample::Index),
    Ack(prop::sample::Index),
    Pass(u64),
}

#[derive(Debug, Clone, Copy)]
enum Kind {
    Taken,
    Refused,
    NotTaken,
    Unwritten,
    Again,
    Elsewhere,
}

fn step() -> impl Strategy<Value = Step> {
    let index = any::<prop::sample::Index>;
    let kind = prop_oneof![
        8 => Just(Kind::Taken),
        1 => prop::sample::select(vec![Kind::Refused, Kind::NotTaken, Kind::Unwritten, Kind::Again, Kind::Elsewhere]),
    ];
    let end = prop::sample::select(vec![End::Failed, End::AuthFailed, End::TooMany, End::Dismissed, End::Retired]);
    prop_oneof![
        10 => (0..4i64, prop::option::weighted(0.2, 1..30u64))
            .prop_map(|(recipient, ttl_s)| Step::Send { recipient, ttl_s }),
        6 => index().prop_map(Step::Up),
        9 => (index(), kind).prop_map(|(index, kind)| Step::Answer(index, kind)),
        2 => index().prop_map(Step::Drain),
        2 => (index(), end, any::<bool>()).prop_map(|(index, end, written)| Step::End(index, end, written)),
        1 => index().prop_map(Step::Receipt),
        1 => index().prop_map(Step::Device),
        1 => index().prop_map(Step::Ack),
        3 => prop_oneof![3 => 0..1_000u64, 1 => 1_000..90_000u64].prop_map(Step::Pass),
    ]
}

/// What a bystander sees of a core.
struct Bystander {
    harness: Harness,
    window: usize,
    most: usize,
    connections: BTreeMap<u64, Seen>,
    recipients: BTreeMap<u64, i64>,
    reported: BTreeSet<u64>,
    /// The bridge's waiting messages: what came back untried is handed over again.
    handed: u64,
    acks: Vec<AckRef>,
    acked: usize,
}

#[derive(Debug, Default)]
struct Seen {
    up: bool,
    takes: bool,
    /// Unanswered, in the order of being written.
    in_flight: Vec<u64>,
}

impl Bystander {
    fn new(settings: ServiceSettings) -> Self {
        // With an elastic pool old ones stay until another is there, and one more is opened where none takes messages.
        let most = match settings.pool {
            Pool::Fixed(most) => most,
            Pool::Elastic { most, .. } => 2 * most + 1,
        };
        let window = settings.window;
        let harness = Harness::new(settings);
        let mut seen = Self {
            harness,
            window,
            most,
            connections: BTreeMap::new(),
            recipients: BTreeMap::new(),
            reported: BTreeSet::new(),
            handed: 0,
            acks: Vec::new(),
            acked: 0,
        };
        seen.look();
        seen
    }

    /// Compares what the core wanted with what it may want.
    fn look(&mut self) {
        for (connection, _) in std::mem::take(&mut self.harness.dials) {
            assert!(self.connections.insert(connection, Seen::default()).is_none(), "a number is used twice");
        }
        for report in self.harness.take_reports() {
            let sid = match report {
                Report::Receipt { .. } => continue,
                Report::Back { sid, .. } => sid,
                other => panic!("{other:?}"),
            };
            assert!(self.reported.insert(sid.millis()), "{sid} is reported twice");
        }
        for (connection, number) in self.harness.take_sent() {
            let recipient = self.recipients[&number];
            for (other, seen) in &self.connections {
                let same = |number: &&u64| self.recipients[*number] == recipient && !self.reported.contains(*number);
                let there = seen.in_flight.iter().filter(same).count();
                assert!(*other == connection || there == 0, "{recipient} is on two connections");
            }
            let seen = self.connections.get_mut(&connection).expect("a connection");
            let older = self.recipients.range(..number).filter(|(_, of)| **of == recipient);
            for (older, _) in older.filter(|(older, _)| !self.reported.contains(older)) {
                assert!(seen.in_flight.contains(older), "{number} overtakes {older}");
            }
            assert!(seen.up && seen.takes, "{number} went to a connection that takes nothing");
            assert!(!seen.in_flight.contains(&number), "{number} is there already");
            seen.in_flight.push(number);
            assert!(seen.in_flight.len() <= self.window, "the window is exceeded");
        }
        for ack_ref in std::mem::take(&mut self.harness.acks) {
            self.acked += 1;
            assert!(self.connections.contains_key(&ack_ref.connection.0), "acknowledged on a foreign connection");
        }
        // What is to end takes nothing from then on; the test plays the rest.
        let retired: Vec<u64> = std::mem::take(&mut self.harness.retired).into_iter().map(|(id, _)| id).collect();
        for id in retired {
            if let Some(seen) = self.connections.get_mut(&id) {
                seen.takes = false;
            }
        }
        self.look_at_changes();
        let taking = self.connections.values().filter(|seen| !seen.up || seen.takes).count();
        assert!(taking <= self.most, "too many connections");
    }

    fn look_at_changes(&mut self) {
        for (id, change) in std::mem::take(&mut self.harness.changes) {
            if let (ConnectionChange::Lost { .. }, Some(seen)) = (change, self.connections.get_mut(&id)) {
                seen.takes = false;
            }
        }
    }

    fn pick(&self, index: prop::sample::Index, wanted: impl Fn(&Seen) -> bool) -> Option<u64> {
        let ids: Vec<u64> = self.connections.iter().filter(|(_, seen)| wanted(seen)).map(|(id, _)| *id).collect();
        if ids.is_empty() { None } else { Some(*index.get(&ids)) }
    }

    fn take(&mut self, step: Step) {
        match step {
            Step::Send { recipient, ttl_s } if self.harness.core.has_room() => {
                self.handed += 1;
                self.recipients.insert(self.handed, recipient);
                let now_ms = self.harness.now().unix_ms;
                let deadline_ms = ttl_s.map_or(NEVER, |ttl_s| now_ms + ttl_s * 1_000);
                self.harness.send_until(self.handed, recipient, deadline_ms);
            }
            Step::Up(index) => {
                if let Some(id) = self.pick(index, |seen| !seen.up) {
                    let seen = self.connections.get_mut(&id).expect("picked");
                    (seen.up, seen.takes) = (true, true);
                    self.harness.up(id);
                }
            }
            Step::Answer(index, kind) => self.answer(index, kind),
            Step::Drain(index) => {
                if let Some(id) = self.pick(index, |seen| seen.up) {
                    self.connections.get_mut(&id).expect("picked").takes = false;
                    let by_error = id.is_multiple_of(2);
                    let event = if by_error { Event::Ejected("error".to_owned()) } else { Event::Draining };
                    self.harness.event(id, event);
                }
            }
            Step::End(index, end, written) => {
                if let Some(id) = self.pick(index, |_| true) {
                    let seen = self.connections.remove(&id).expect("picked");
                    let unwritten = if written { vec![] } else { seen.in_flight };
                    self.harness.end_unwritten(id, end, &unwritten);
                }
            }
            Step::Receipt(index) if self.handed > 0 => {
                let number = 1 + index.index(self.handed as usize) as u64;
                self.harness.event(1, receipt(number));
            }
            Step::Device(index) => {
                if let Some(id) = self.pick(index, |seen| seen.up) {
                    let connection = ConnectionId(id);
                    let ack_ref = AckRef { connection, to: "gcm".to_owned(), message_id: "dr2:x".to_owned() };
                    self.acks.push(ack_ref.clone());
                    let receipt =
                        Receipt { original: "x".to_owned(), status: String::new(), handed_over_ms: None, ack_ref };
                    self.harness.event(id, Event::Receipt(receipt));
                }
            }
            Step::Ack(index) if !self.acks.is_empty() => {
                let ack_ref = self.acks.remove(index.index(self.acks.len()));
                self.harness.core.handle_ack(ack_ref);
                self.harness.drain();
            }
            Step::Pass(ms) => self.harness.pass(Duration::from_millis(ms)),
            Step::Send { .. } | Step::Receipt(_) | Step::Ack(_) => {}
        }
        self.look();
    }

    fn answer(&mut self, index: prop::sample::Index, kind: Kind) {
        let Some(id) = self.pick(index, |seen| !seen.in_flight.is_empty()) else { return };
        let seen = self.connections.get_mut(&id).expect("picked");
        let number = seen.in_flight.remove(index.index(seen.in_flight.len()));
        let answered = |verdict| Event::Answered(sid(number), Answer::Is(verdict));
        let event = match kind {
            Kind::Taken => answered(taken()),
            Kind::Refused => answered(Verdict::Back(Fate::Refused(ambiguous()))),
            Kind::Again => answered(Verdict::Again),
            Kind::Elsewhere => answered(Verdict::Elsewhere),
            Kind::NotTaken => Event::NotTaken(sid(number)),
            Kind::Unwritten => Event::Unwritten(sid(number)),
        };
        self.harness.event(id, event);
    }

    /// All is well from now on: everything is answered, and every connection that is asked for comes up.
    fn calm(&mut self) {
        for _ in 0..2_000 {
            let dialing: Vec<u64> = self.connections.iter().filter(|(_, seen)| !seen.up).map(|(id, _)| *id).collect();
            for id in dialing {
                self.connections.get_mut(&id).expect("there").takes = true;
                self.connections.get_mut(&id).expect("there").up = true;
                self.harness.up(id);
                self.look();
            }
            let ending: Vec<u64> = self.connections.iter().filter(|(_, seen)| !seen.takes).map(|(id, _)| *id).collect();
            for id in ending {
                self.connections.remove(&id);
                self.harness.end(id, End::Retired);
                self.look();
            }
            while let Some(id) = self.pick_any_in_flight() {
                let number = self.connections.get_mut(&id).expect("there").in_flight.remove(0);
                self.harness.answer(id, number);
                self.look();
            }
            if self.harness.core.snapshot().pending == 0 && self.harness.link() == Link::Up {
                return;
            }
            // Where nothing was answered, one message has to find out.
            if matches!(self.harness.link(), Link::Probing(_)) {
                self.handed += 1;
                self.recipients.insert(self.handed, 9);
                self.harness.send(self.handed, 9);
                self.look();
            }
            self.harness.pass_secs(1);
            self.look();
        }
        panic!("there is no end of it: {:?}", self.harness.core);
    }

    fn pick_any_in_flight(&self) -> Option<u64> {
        self.connections.iter().find(|(_, seen)| !seen.in_flight.is_empty()).map(|(id, _)| *id)
    }

    fn stop(&mut self) {
        self.harness.core.handle_stop(self.harness.now());
        self.harness.drain();
        self.look();
        for id in self.connections.keys().copied().collect::<Vec<_>>() {
            self.connections.remove(&id);
            self.harness.end(id, End::Retired);
            self.look();
        }
        assert!(self.harness.core.is_over());
        assert_eq!(self.reported.len() as u64, self.handed, "each message is reported once");
    }
}

fn any_settings() -> impl Strategy<Value = ServiceSettings> {
    let elastic = Pool::Elastic {
        most: 2,
        age_max: Duration::from_secs(100),
        idle_max: Duration::from_secs(20),
        spare_idle_max: Duration::from_secs(10),
    };
    let pool = prop_oneof![(1..=3usize).prop_map(Pool::Fixed), Just(elastic)];
    let on_connection_end =
        prop_oneof![3 => Just(OnConnectionEnd::Rewrite), 1 => Just(OnConnectionEnd::Ambiguous(ambiguous()))];
    (pool, 1..=4usize, on_connection_end).prop_map(|(pool, window, on_connection_end)| ServiceSettings {
        answer_timeout: (on_connection_end == OnConnectionEnd::Rewrite).then_some(Duration::from_secs(8)),
        drain_limit: Duration::from_secs(20),
        on_connection_end,
        ..settings(pool, window)
    })
}

proptest! {
    #[test]
    fn every_message_is_reported_once_in_order_and_within_the_limits(
        settings in any_settings(),
        steps in prop::collection::vec(step(), 0..250),
        calm in any::<bool>(),
    ) {
        let mut seen = Bystander::new(settings);
        steps.into_iter().for_each(|step| seen.take(step));
        if calm {
            seen.calm();
            prop_assert_eq!(seen.reported.len() as u64, seen.handed);
        }
        seen.stop();
    }
}
