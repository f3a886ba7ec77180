//! The transport's core and its sessions against the simulator's core: no sockets, a clock of numbers, a random schedule, and bytes that
//! arrive late and in pieces. A case holds everything that a run depends on, so a failing one can be run again.

mod client;
mod pipe;
mod run;
mod script;

use crate::sim::stats::Stats;
use crate::transport::Snapshot;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, TestRunner};
use run::Run;
use script::{Case, TROUBLE, case};

/// From the end of the trouble until nothing is left to do: the longest back-off, the drain timeout, and some.
const CALM: u64 = 120_000;
/// For sessions to end that are told to, with a bit for the network.
const STOP: u64 = 10_000;

proptest! {
    #![proptest_config(Config { cases: 96, ..Config::default() })]

    #[test]
    fn nothing_is_lost_and_no_rule_is_broken(case in case()) {
        check(case);
    }
}

/// The same schedules every time; and proof that they reach what they are meant to reach.
#[test]
fn the_schedules_reach_every_fault() {
    let mut runner = TestRunner::deterministic();
    let (mut all, mut suspects) = (Stats::default(), 0);
    for _ in 0..160 {
        let (stats, counted) = check(case().new_tree(&mut runner).expect("a case").current());
        let (sum, faults) = (&mut all.faults, stats.faults);
        sum.lost_acks += faults.lost_acks;
        sum.nacks += faults.nacks;
        sum.drains += faults.drains;
        sum.closes += faults.closes;
        sum.resets += faults.resets;
        sum.stalls += faults.stalls;
        sum.duplicate_upstream += faults.duplicate_upstream;
        sum.duplicate_receipts += faults.duplicate_receipts;
        all.delivered += stats.delivered;
        all.duplicates += stats.duplicates;
        all.upstream.resent += stats.upstream.resent;
        all.receipts.resent += stats.receipts.resent;
        suspects += counted.suspects;
        *all.nacks.entry("CONNECTION_DRAINING".to_owned()).or_insert(0) +=
            stats.nacks.get("CONNECTION_DRAINING").copied().unwrap_or(0);
    }
    let faults = &all.faults;
    let often = [
        ("lost acks", faults.lost_acks),
        ("nacks", faults.nacks),
        ("drains", faults.drains),
        ("closes", faults.closes),
        ("resets", faults.resets),
        ("stalls", faults.stalls),
        ("duplicate upstream", faults.duplicate_upstream),
        ("duplicate receipts", faults.duplicate_receipts),
        ("deliveries", all.delivered),
        ("duplicates", all.duplicates),
        ("upstream sent again", all.upstream.resent),
        ("receipts sent again", all.receipts.resent),
        ("connections that do not answer", suspects),
        ("nacks for draining", all.nacks["CONNECTION_DRAINING"]),
    ];
    for (what, count) in often {
        assert!(count >= 10, "{what}: only {count}");
    }
}

/// Runs a case: trouble, then calm, then a burst in the middle of which everything is shut down.
fn check(case: Case) -> (Stats, Snapshot) {
    let mut run = Run::new(case);
    run.until(TROUBLE);
    run.calm_down();
    run.until(TROUBLE + script::AFTERMATH);
    run.until_quiet(TROUBLE + CALM);
    run.check_quiet();
    let seen = run.stats();
    run.shut_down(STOP);
    run.check_end();
    seen
}
