//! What is done in a run, when, and how it shrinks.

use crate::sim::fault::{DrainPlan, Faults, NackFault, Notice};
use proptest::prelude::*;

/// How long things are done to the two sides, in milliseconds; then all is well again.
pub(super) const TROUBLE: u64 = 30_000;

/// The longest that something begun in that time goes on, and a bit for the network.
pub(super) const AFTERMATH: u64 = 10_000;

/// One run: the same case gives the same run.
#[derive(Debug, Clone)]
pub(super) struct Case {
    pub(super) seed: u64,
    pub(super) window: usize,
    pub(super) connections: usize,
    pub(super) devices: u8,
    /// The core gives sessions more than they take, so that they have to refuse.
    pub(super) pushy: bool,
    pub(super) latency_ms: u64,
    /// Between a session and the core, and between the core and the bridge's commit.
    pub(super) lag_ms: u64,
    pub(super) piece: usize,
    /// By the time.
    pub(super) script: Vec<(u64, Action)>,
}

/// Something that is done. `at` chooses among the connections that there are.
#[derive(Debug, Clone)]
pub(super) enum Action {
    Push {
        device: u8,
        count: u8,
        receipt: bool,
    },
    Speak {
        device: u8,
        count: u8,
    },
    Slow {
        device: u8,
        delay_ms: u64,
    },
    Online {
        device: u8,
    },
    Echo {
        device: u8,
    },
    Faults(Vec<Fault>),
    Drain {
        at: u8,
        plan: DrainPlan,
    },
    Close {
        at: u8,
    },
    Reset {
        at: u8,
    },
    /// The network breaks the connection for both.
    Cut {
        at: u8,
    },
    /// The network carries nothing for a while, and then breaks the connection.
    Silence {
        at: u8,
        ms: u64,
    },
    /// The client does not read for a while.
    Pause {
        at: u8,
        ms: u64,
    },
    /// No connection can be made for a while.
    NoRoute {
        ms: u64,
    },
}

/// An ingredient of a plan of faults.
#[derive(Debug, Clone)]
pub(super) enum Fault {
    LoseAck { chance: f64, reset_ms: u64 },
    Nack { code: &'static str, chance: f64, times: Option<u64> },
    DrainAfter { messages: u64, plan: DrainPlan },
    CloseAfter(u64),
    ResetAfter(u64),
    Stall,
    StallAfter { messages: u64, ms: u64 },
    DuplicateUpstream(f64),
    DuplicateReceipt(f64),
    SplitWrites,
    ReceiptBeforeAck,
    Latency { ms: u64, jitter_ms: u64 },
}

const CODES: [&str; 7] = [
    "SERVICE_UNAVAILABLE",
    "INTERNAL_SERVER_ERROR",
    "DEVICE_UNREGISTERED",
    "BAD_REGISTRATION",
    "DEVICE_MESSAGE_RATE_EXCEEDED",
    "INVALID_JSON",
    "SOMETHING_NEW",
];

pub(super) fn case() -> impl Strategy<Value = Case> {
    let sizes = (1..=6usize, 1..=2usize, 1..=3u8, prop::bool::weighted(0.1));
    let delays = (0..=60u64, 0..=40u64, prop_oneof![1 => 0..=3usize, 6 => 20..=600usize]);
    (any::<u64>(), sizes, delays, prop::collection::vec((0..TROUBLE, action()), 1..40)).prop_map(
        |(seed, (window, connections, devices, pushy), (latency_ms, lag_ms, piece), mut script)| {
            script.sort_by_key(|(at, _)| *at);
            Case { seed, window, connections, devices, pushy, latency_ms, lag_ms, piece, script }
        },
    )
}

pub(super) fn faults(list: &[Fault]) -> Faults {
    let mut faults = Faults::default();
    for fault in list {
        match *fault {
            Fault::LoseAck { chance, reset_ms } => {
                (faults.lose_ack, faults.lose_ack_reset_ms) = (chance, reset_ms);
            }
            Fault::Nack { code, chance, times } => {
                faults.nack.push(NackFault { code: code.to_owned(), chance, times });
            }
            Fault::DrainAfter { messages, plan } => (faults.drain_after, faults.drain) = (Some(messages), plan),
            Fault::CloseAfter(messages) => faults.close_after = Some(messages),
            Fault::ResetAfter(messages) => faults.reset_after = Some(messages),
            Fault::Stall => faults.stall = true,
            Fault::StallAfter { messages, ms } => (faults.stall_after, faults.stall_ms) = (Some(messages), ms),
            Fault::DuplicateUpstream(chance) => faults.duplicate_upstream = chance,
            Fault::DuplicateReceipt(chance) => faults.duplicate_receipt = chance,
            Fault::SplitWrites => faults.split_writes = true,
            Fault::ReceiptBeforeAck => faults.receipt_before_ack = true,
            Fault::Latency { ms, jitter_ms } => (faults.latency_ms, faults.jitter_ms) = (ms, jitter_ms),
        }
    }
    faults
}

fn action() -> impl Strategy<Value = Action> {
    let (device, at) = (0..3u8, any::<u8>());
    prop_oneof![
        10 => (device.clone(), 1..=8u8, any::<bool>())
            .prop_map(|(device, count, receipt)| Action::Push { device, count, receipt }),
        4 => (device.clone(), 1..=6u8).prop_map(|(device, count)| Action::Speak { device, count }),
        1 => (device.clone(), 1..=2_000u64).prop_map(|(device, delay_ms)| Action::Slow { device, delay_ms }),
        1 => device.clone().prop_map(|device| Action::Online { device }),
        1 => device.prop_map(|device| Action::Echo { device }),
        5 => prop::collection::vec(fault(), 0..4).prop_map(Action::Faults),
        2 => (at, plan()).prop_map(|(at, plan)| Action::Drain { at, plan }),
        1 => at.prop_map(|at| Action::Close { at }),
        1 => at.prop_map(|at| Action::Reset { at }),
        1 => at.prop_map(|at| Action::Cut { at }),
        1 => (at, 1..=8_000u64).prop_map(|(at, ms)| Action::Silence { at, ms }),
        1 => (at, 1..=8_000u64).prop_map(|(at, ms)| Action::Pause { at, ms }),
        1 => (1..=3_000u64).prop_map(|ms| Action::NoRoute { ms }),
    ]
}

fn fault() -> impl Strategy<Value = Fault> {
    let messages = 1..=12u64;
    prop_oneof![
        2 => (0.05..0.5, prop_oneof![1 => 0..=1_500u64, 1 => 15_000..=90_000u64])
            .prop_map(|(chance, reset_ms)| Fault::LoseAck { chance, reset_ms }),
        2 => (prop::sample::select(&CODES[..]), 0.05..=1.0, prop::option::of(1..=5u64))
            .prop_map(|(code, chance, times)| Fault::Nack { code, chance, times }),
        2 => (messages.clone(), plan()).prop_map(|(messages, plan)| Fault::DrainAfter { messages, plan }),
        1 => messages.clone().prop_map(Fault::CloseAfter),
        1 => messages.clone().prop_map(Fault::ResetAfter),
        1 => Just(Fault::Stall),
        3 => (messages, 1..=8_000u64).prop_map(|(messages, ms)| Fault::StallAfter { messages, ms }),
        2 => (0.1..=1.0).prop_map(Fault::DuplicateUpstream),
        2 => (0.1..=1.0).prop_map(Fault::DuplicateReceipt),
        2 => Just(Fault::SplitWrites),
        2 => Just(Fault::ReceiptBeforeAck),
        3 => (0..=600u64, 0..=300u64).prop_map(|(ms, jitter_ms)| Fault::Latency { ms, jitter_ms }),
    ]
}

fn plan() -> impl Strategy<Value = DrainPlan> {
    let notice = prop_oneof![Just(Notice::Control), Just(Notice::Nack)];
    (notice, prop::option::weighted(0.8, 0..=4_000u64)).prop_map(|(notice, close_ms)| DrainPlan { notice, close_ms })
}
