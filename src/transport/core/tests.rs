//! The core in virtual time: every connection is played by the test.

use super::connections::AGE_MIN;
use super::*;
use crate::chat::delivery::{AMBIGUOUS, Fate};
use crate::chat::id::{Recipient, SidSource, Token};
use crate::chat::push::{Priority, Push, Target};
use crate::chat::refusal::{Scope, Until, Wait};
use crate::transport::ConnectionChange;
use serde_json::Map;
use std::collections::BTreeMap;

mod answers;
mod isolation;
mod order;
mod pool;
mod promises;

const NEVER: u64 = u64::MAX;
const ANSWER: Duration = Duration::from_secs(60);
const DRAIN: Duration = Duration::from_secs(600);

/// A service that admits everything but what it is told not to, and whose answers are verdicts.
#[derive(Debug, Default)]
struct Plain {
    /// What becomes of the messages of a recipient.
    holds: BTreeMap<i64, Hold>,
}

/// Why a recipient's messages are not admitted.
#[derive(Debug, Clone)]
enum Hold {
    Skip,
    Until(Instant),
    All(Instant),
    Back(Fate),
}

#[derive(Debug, Clone)]
enum Answer {
    Is(Verdict),
    Late,
    Broken,
}

impl Service for Plain {
    type Memo = ();
    type Request = ();
    type Answer = Answer;

    fn admit(&mut self, message: &mut Message<()>, _now: Now) -> Admission<()> {
        match self.holds.get(&message.send.recipient.0) {
            None => Admission::Go(()),
            Some(Hold::Skip) => Admission::Skip,
            Some(Hold::Until(moment)) => Admission::HoldRecipient(*moment, "quota".into()),
            Some(Hold::All(moment)) => Admission::Wait(Some(*moment)),
            Some(Hold::Back(fate)) => Admission::Back(fate.clone()),
        }
    }

    fn decide(&mut self, _message: &mut Message<()>, answer: Answer, _now: Now) -> Verdict {
        match answer {
            Answer::Is(verdict) => verdict,
            Answer::Late | Answer::Broken => Verdict::Back(Fate::Refused(ambiguous())),
        }
    }

    fn response(&self, answer: &Answer) -> Response {
        match answer {
            Answer::Is(_) => Response::Answer,
            Answer::Late => Response::Late,
            Answer::Broken => Response::None,
        }
    }
}

fn ambiguous() -> Refusal {
    let decision = Decision::Retry { wait: Wait::Backoff(TICK), until: Until::Deadline, scope: Scope::Message };
    Refusal::new(decision, AMBIGUOUS, "no answer").maybe_arrived()
}

fn taken() -> Verdict {
    Verdict::Back(Fate::ACCEPTED)
}

fn sid(number: u64) -> Sid {
    SidSource::default().next(number, 0)
}

fn settings(pool: Pool, window: usize) -> ServiceSettings {
    ServiceSettings {
        server: "server".to_owned(),
        pool,
        window,
        on_connection_end: OnConnectionEnd::Rewrite,
        answer_timeout: Some(ANSWER),
        drain_limit: DRAIN,
        redial_max: Duration::from_secs(60),
        stop_timeout: Duration::from_secs(10),
    }
}

/// A core, and what it wanted. Connections and messages are called by their numbers.
struct Harness {
    core: Core<Plain>,
    start: Instant,
    time: Duration,
    dials: Vec<(u64, Duration)>,
    /// Which message went to which connection.
    sent: Vec<(u64, u64)>,
    retired: Vec<(u64, Manner)>,
    reports: Vec<Report>,
    changes: Vec<(u64, ConnectionChange)>,
    acks: Vec<AckRef>,
    deadline: Option<Instant>,
}

impl Harness {
    fn fixed(connections: usize, window: usize) -> Self {
        Self::new(settings(Pool::Fixed(connections), window))
    }

    #[expect(clippy::disallowed_methods, reason = "an Instant cannot be made otherwise")]
    fn new(settings: ServiceSettings) -> Self {
        let start = Instant::now();
        let core = Core::new(settings, Plain::default(), 7, Now { instant: start, unix_ms: 0 });
        let mut harness = Self {
            core,
            start,
            time: Duration::ZERO,
            dials: Vec::new(),
            sent: Vec::new(),
            retired: Vec::new(),
            reports: Vec::new(),
            changes: Vec::new(),
            acks: Vec::new(),
            deadline: None,
        };
        harness.drain();
        harness
    }

    fn now(&self) -> Now {
        let unix_ms = u64::try_from(self.time.as_millis()).unwrap();
        Now { instant: self.start + self.time, unix_ms }
    }

    fn drain(&mut self) {
        loop {
            match self.core.poll() {
                Output::Dial(id) => self.dials.push((id.0, self.time)),
                Output::Assign { connection, sid, .. } => self.sent.push((connection.0, sid.millis())),
                Output::Acknowledge(ack_ref) => self.acks.push(ack_ref),
                Output::Retire { connection, manner } => self.retired.push((connection.0, manner)),
                Output::Report(Report::Connection { connection, change }) => {
                    self.changes.push((connection.0, change));
                }
                Output::Report(report) => self.reports.push(report),
                Output::DeviceMessage(_) => {}
                Output::Wait(deadline) => {
                    self.deadline = deadline;
                    return;
                }
            }
        }
    }

    /// Lets time pass, with a look at the core whenever it asks for one.
    fn pass(&mut self, time: Duration) {
        let end = self.time + time;
        while let Some(next) = self.deadline.map(|at| at.saturating_duration_since(self.start)).filter(|at| *at <= end)
        {
            self.time = next.max(self.time);
            self.core.handle_tick(self.now());
            self.drain();
            let later = self.deadline.is_none_or(|at| at > self.start + self.time);
            assert!(later, "the core asks for a time that is over");
        }
        self.time = end;
    }

    fn pass_secs(&mut self, seconds: u64) {
        self.pass(Duration::from_secs(seconds));
    }

    fn send(&mut self, number: u64, recipient: i64) {
        self.send_until(number, recipient, NEVER);
    }

    fn send_until(&mut self, number: u64, recipient: i64, deadline_ms: u64) {
        let push = Push {
            target: Target::Token(Token::new(format!("token-{recipient}")).unwrap()),
            data: Map::new(),
            notification: None,
            priority: Priority::High,
            collapse: None,
            receipt: false,
            fcm: Map::new(),
        };
        self.core.handle_send(
            Send { sid: sid(number), push, recipient: Recipient(recipient), accepted_ms: 0, deadline_ms },
            self.now(),
        );
        self.drain();
    }

    fn event(&mut self, connection: u64, event: Event<Answer>) {
        self.core.handle_event(ConnectionId(connection), event, self.now());
        self.drain();
    }

    fn up(&mut self, connection: u64) {
        self.event(connection, Event::Up { capacity: 1_000 });
    }

    fn answer(&mut self, connection: u64, number: u64) {
        self.event(connection, Event::Answered(sid(number), Answer::Is(taken())));
    }

    fn bounce(&mut self, connection: u64, number: u64) {
        self.event(connection, Event::NotTaken(sid(number)));
    }

    fn end(&mut self, connection: u64, end: End) {
        self.end_unwritten(connection, end, &[]);
    }

    fn end_unwritten(&mut self, connection: u64, end: End, unwritten: &[u64]) {
        let unwritten = unwritten.iter().map(|number| sid(*number)).collect();
        let ended = Ended { end, detail: "over".to_owned(), unwritten };
        self.event(connection, Event::Ended(ended));
    }

    /// What went where since the last time.
    fn take_sent(&mut self) -> Vec<(u64, u64)> {
        std::mem::take(&mut self.sent)
    }

    fn take_reports(&mut self) -> Vec<Report> {
        std::mem::take(&mut self.reports)
    }

    fn link(&self) -> Link {
        self.core.link(self.now())
    }
}

fn accepted(number: u64, copies: u32, replays: u32) -> Report {
    Report::Back { sid: sid(number), fate: Fate::ACCEPTED, copies, replays }
}

fn lost(number: u64, copies: u32) -> Report {
    Report::Back { sid: sid(number), fate: Fate::Lost, copies, replays: 0 }
}

fn expired(number: u64, copies: u32) -> Report {
    Report::Back { sid: sid(number), fate: Fate::Expired, copies, replays: copies.saturating_sub(1) }
}

fn receipt(number: u64) -> Event<Answer> {
    let ack_ref = AckRef { connection: ConnectionId(1), to: "gcm".to_owned(), message_id: format!("dr2:{number}") };
    let (original, status) = (sid(number).to_string(), "SENT".to_owned());
    Event::Receipt(Receipt { original, status, handed_over_ms: None, ack_ref })
}
