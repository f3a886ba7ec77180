//! What clients can do to the embedded broker, on purpose or by mistake, and whether the others notice.
//!
//! Each scenario starts the program as it is shipped, puts a group of well-behaved clients on all four listeners, lets
//! the abuse begin, and prints one line: memory of the process before, at its peak and after; well-behaved clients that
//! were cut off; messages among them that were lost; their worst ping. The first two of these must be 0.
//!
//! They take minutes and want the machine for themselves: `./tests/run --abuse`.

#![cfg(all(feature = "broker", target_os = "linux"))]
#![expect(clippy::unwrap_used, reason = "what a test relies on may fail it")]

mod floods;
mod garbage;
mod harness;
mod idlers;
mod innocents;
mod packets;
#[expect(dead_code, reason = "shared with the tests of the broker, which try more of TLS")]
#[path = "../broker/sockets.rs"]
mod sockets;

use std::time::Duration;

use harness::Harness;
use innocents::Innocents;
use tokio::time::sleep;

/// How long the group is watched before and after the abuse.
const QUIET: Duration = Duration::from_secs(3);
/// More than this is no longer "undisturbed", on a machine that both sides share.
const WORST_PING: Duration = Duration::from_secs(3);

/// Runs one scenario. `room` is how many MiB of memory the abuse may cost while it lasts.
async fn scenario(name: &str, room: u64, abuse: impl AsyncFnOnce(&Harness) -> String) {
    let harness = Harness::open().await;
    let innocents = Innocents::gather(&harness).await;
    sleep(QUIET).await;
    harness.forget_peak();
    let before = harness.memory();
    let what = abuse(&harness).await;
    let peak = harness.peak_memory();
    sleep(QUIET).await;
    let after = harness.memory();
    let tally = innocents.part().await;
    println!("| scenario | what was done | MiB before | peak | after | cut off | lost of | worst ping |");
    println!(
        "| {name} | {what} | {before} | {peak} | {after} | {} | {} of {} | {} ms |",
        tally.cut_off,
        tally.lost,
        tally.sent,
        tally.worst_ping.as_millis()
    );
    assert_eq!((tally.cut_off, tally.lost), (0, 0), "the innocent suffered");
    assert!(tally.sent > 0 && tally.pings > 0, "nobody was there to suffer");
    assert!(tally.worst_ping < WORST_PING, "the innocent waited for {:?}", tally.worst_ping);
    assert!(peak - before <= room, "{} MiB are more than {room}", peak - before);
    harness.close().await;
}
