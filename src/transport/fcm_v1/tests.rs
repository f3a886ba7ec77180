//! The transport against a peer that does what FCM does on its bad days. Time is virtual.

mod conservation;
mod faults;
pub(super) mod harness;
pub(in crate::transport) mod peer;
mod strangers;

use super::*;
use crate::chat::delivery::Fate;
use crate::chat::id::Sid;
use crate::chat::refusal::{Arrival, Decision, Scope, Until, Wait};
use crate::ops::clock::now_ms;
use crate::transport::{ConnectionChange, Link, Report};
use harness::{Harness, config, http_answer, message, sids, soon, token_for};
use peer::{CANCEL, MAX_CONCURRENT_STREAMS, NO_ERROR, Peer, REFUSED_STREAM};
use std::time::Duration;
use tokio::time::Instant;

const SECOND: Duration = Duration::from_secs(1);

fn accepted(sid: Sid, name: u32) -> Report {
    Report::Back {
        sid,
        fate: Fate::Accepted {
            canonical: None,
            provider_id: Some(format!("projects/p/messages/{name}")),
            detail: None,
            // Nothing asks for it.
            can_confirm: false,
        },
        copies: 1,
        replays: 0,
    }
}

/// The same after it was sent again at once, so often.
fn accepted_after(replays: u32, sid: Sid, name: u32) -> Report {
    let Report::Back { fate, copies, .. } = accepted(sid, name) else { unreachable!() };
    Report::Back { sid, fate, copies, replays }
}

/// It goes again after so many seconds, and then after ever longer, for an hour of waiting.
const fn backoff(seconds: u64) -> Decision {
    retry(Wait::Backoff(Duration::from_secs(seconds)), Scope::Message)
}

/// It goes again when FCM says.
const fn retry_after(seconds: u64, scope: Scope) -> Decision {
    retry(Wait::AtLeast(Duration::from_secs(seconds)), scope)
}

const fn retry(wait: Wait, scope: Scope) -> Decision {
    Decision::Retry { wait, until: Until::Waited(Duration::from_secs(3_600)), scope }
}

/// Nobody knows what it means.
const FEW: Decision =
    Decision::Retry { wait: Wait::Backoff(Duration::from_secs(10)), until: Until::Tries(3), scope: Scope::Message };

fn refusal(report: &Report) -> (Sid, Decision, &str, Arrival) {
    let Report::Back { sid, fate: Fate::Refused(refusal), .. } = report else { panic!("{report:?}") };
    (*sid, refusal.decision, &refusal.code, refusal.arrival)
}

async fn mids(peer: &mut Peer, count: usize) -> Vec<String> {
    let mut mids = Vec::new();
    for _ in 0..count {
        mids.push(peer.next().await.mid());
    }
    mids
}

/// Nothing more comes for a while.
async fn quiet(peer: &mut Peer) {
    let more = tokio::time::timeout(SECOND, peer.asked()).await;
    assert!(more.is_err(), "{more:?}");
}

#[tokio::test(start_paused = true)]
async fn a_message_is_accepted_under_googles_name_with_what_is_left_of_its_time() {
    let mut harness = Harness::open(FcmConfig { app_receipts: true, ..config() });
    let send = message(sids(1)[0], 1);
    let (sid, deadline_ms, began_ms) = (send.sid, send.deadline_ms, now_ms());
    harness.link(Link::UNCONNECTED).await;
    harness.send(send).await;
    let mut peer = harness.peer(100).await;
    let asked = peer.next().await;
    let message = &asked.body["message"];
    assert_eq!((&message["token"], &message["data"]["ack"]), (&"token-1".into(), &"self/receipts".into()));
    let ttl: u64 = message["android"]["ttl"].as_str().unwrap().trim_end_matches('s').parse().unwrap();
    // Written between these two moments, which are usually in the same second.
    let left = |at_ms: u64| (deadline_ms - at_ms).div_ceil(1000);
    assert!((left(now_ms())..=left(began_ms)).contains(&ttl), "{ttl}");
    harness.link(Link::Up).await;
    peer.take(asked.stream).await;
    let report = harness.report().await;
    let Report::Back { sid: which, fate: Fate::Accepted { provider_id, can_confirm, .. }, .. } = report else {
        panic!("{report:?}")
    };
    assert_eq!((which, provider_id), (sid, Some(format!("projects/p/messages/{}", asked.stream))));
    assert!(can_confirm, "the app is asked to");
    assert_eq!(harness.close().await, []);
}

#[tokio::test(start_paused = true)]
async fn streams_are_capped_and_further_connections_open_when_all_are_full() {
    let mut harness = Harness::open(FcmConfig { connections: 2, ..config() });
    let mut first = harness.peer(3).await;
    let sids = sids(8);
    // The settings of the peer are known once a request has gone and come.
    harness.send(message(sids[7], 100)).await;
    let asked = first.next().await;
    first.take(asked.stream).await;
    harness.report().await;
    for (number, sid) in sids[..7].iter().enumerate() {
        harness.send(message(*sid, i64::try_from(number).unwrap())).await;
    }
    assert_eq!(mids(&mut first, 3).await.len(), 3);
    let mut second = harness.peer(3).await;
    assert_eq!(mids(&mut second, 3).await.len(), 3);
    quiet(&mut first).await;
    quiet(&mut second).await;
    assert!(harness.dialled.try_recv().is_err(), "a third connection");
}

#[tokio::test(start_paused = true)]
async fn what_a_goaway_leaves_out_goes_at_once_over_another_connection() {
    let mut harness = Harness::open(config());
    let mut old = harness.peer(100).await;
    let sids = sids(3);
    for (sid, recipient) in sids.iter().zip(1..) {
        harness.send(message(*sid, recipient)).await;
    }
    let asked = [old.next().await, old.next().await, old.next().await];
    tokio::time::sleep(2 * SECOND).await;
    old.go_away(asked[0].stream, NO_ERROR).await;
    let began = Instant::now();
    let mut new = harness.peer(100).await;
    let [second, third] = [new.next().await, new.next().await];
    assert_eq!([second.mid(), third.mid()], [sids[1].to_string(), sids[2].to_string()]);
    assert!(began.elapsed() < SECOND, "a connection that lived needs no pause before the next");
    // The one that was looked at is answered on the old connection.
    old.take(asked[0].stream).await;
    assert_eq!(harness.report().await, accepted(sids[0], asked[0].stream));
    new.take(second.stream).await;
    assert_eq!(
        harness.report().await,
        accepted_after(1, sids[1], second.stream),
        "a copy that was not processed is none"
    );
    soon(harness.port.snapshot.wait_for(|snapshot| snapshot.not_taken == 2)).await.expect("the transport runs");
}

#[tokio::test(start_paused = true)]
async fn what_becomes_of_connections_is_told() {
    let mut harness = Harness::open(config());
    let told = async |harness: &mut Harness| match soon(harness.port.reports.recv()).await {
        Some(Report::Connection { connection, change }) => (connection.0, change),
        other => panic!("{other:?}"),
    };
    let mut old = harness.peer(100).await;
    assert_eq!(told(&mut harness).await, (1, ConnectionChange::Up));
    old.go_away(0, NO_ERROR).await;
    assert_eq!(told(&mut harness).await, (1, ConnectionChange::Draining));
    let new = harness.peer(100).await;
    assert_eq!(told(&mut harness).await, (2, ConnectionChange::Up));
    drop(new);
    let (connection, change) = told(&mut harness).await;
    let named = matches!(&change, ConnectionChange::Lost { detail } if detail.starts_with("memory:0: "));
    assert!(connection == 2 && named, "{change:?}");
    assert_eq!(harness.close().await, [], "the orderly end of the old one is no news");
}

#[tokio::test(start_paused = true)]
async fn a_refused_stream_is_sent_again_at_once_but_not_for_ever() {
    let mut harness = Harness::open(config());
    let mut peer = harness.peer(100).await;
    let sid = sids(1)[0];
    harness.send(message(sid, 1)).await;
    for _ in 0..=service::REPLAYS_MAX {
        let asked = peer.next().await;
        peer.reset(asked.stream, REFUSED_STREAM).await;
    }
    let report = harness.report().await;
    let expected = (sid, backoff(10), "CONNECTION_DRAINING", Arrival::No);
    assert_eq!(refusal(&report), expected);
    assert!(matches!(report, Report::Back { fate: Fate::Refused(_), replays: service::REPLAYS_MAX, .. }), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_refuses_streams_is_not_asked_again_where_there_is_another() {
    let mut harness = Harness::open(FcmConfig { connections: 2, ..config() });
    let mut old = harness.peer(100).await;
    let sid = sids(1)[0];
    harness.send(message(sid, 1)).await;
    let asked = old.next().await;
    old.reset(asked.stream, REFUSED_STREAM).await;
    let mut new = harness.peer(100).await;
    let asked = new.next().await;
    assert_eq!(asked.mid(), sid.to_string());
    new.take(asked.stream).await;
    let report = harness.report().await;
    assert!(matches!(report, Report::Back { fate: Fate::Accepted { .. }, copies: 1, replays: 1, .. }), "{report:?}");
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_takes_no_requests_any_more_gets_company() {
    let mut harness = Harness::open(config());
    let mut old = harness.peer(100).await;
    harness.link(Link::Up).await;
    old.settings(&[(MAX_CONCURRENT_STREAMS, 0)]).await;
    harness.link(Link::UNCONNECTED).await;
    let mut new = harness.peer(100).await;
    harness.link(Link::Up).await;
    let sid = sids(1)[0];
    harness.send(message(sid, 1)).await;
    let asked = new.next().await;
    new.take(asked.stream).await;
    assert_eq!(harness.report().await, accepted(sid, asked.stream));
}

#[tokio::test(start_paused = true)]
async fn at_a_stop_what_is_unanswered_is_not_sent_again_where_that_is_not_wanted() {
    for (on_ambiguous, lost) in [(OnAmbiguous::Retry, true), (OnAmbiguous::Report, false)] {
        let mut harness = Harness::open(FcmConfig { on_ambiguous, ..config() });
        let mut peer = harness.peer(100).await;
        let sid = sids(1)[0];
        harness.send(message(sid, 1)).await;
        peer.next().await;
        let last = harness.close().await;
        match last.last() {
            Some(Report::Back { sid: which, fate: Fate::Lost, copies: 1, .. }) => assert!(lost && *which == sid),
            Some(report) => {
                assert_eq!(refusal(report), (sid, Decision::FAIL, "AMBIGUOUS", Arrival::Maybe));
                assert!(!lost);
            }
            None => panic!("it is not forgotten"),
        }
    }
}

#[tokio::test(start_paused = true)]
async fn what_fcm_would_refuse_for_certain_is_refused_as_the_bridges_own() {
    let mut harness = Harness::open(config());
    let mut peer = harness.peer(100).await;
    let sid = sids(1)[0];
    let mut send = message(sid, 1);
    send.push.data.insert("from".to_owned(), "me".into());
    harness.send(send).await;
    let report = harness.report().await;
    assert!(
        matches!(&report, Report::Back { sid: which, fate: Fate::Unsendable { code, .. }, .. } if *which == sid && code == "RESERVED_KEY"),
        "{report:?}"
    );
    quiet(&mut peer).await;
}

#[tokio::test(start_paused = true)]
async fn messages_that_replace_each_other_are_not_held_back() {
    let mut harness = Harness::open(config());
    let mut peer = harness.peer(100).await;
    let began = Instant::now();
    for sid in sids(40) {
        let mut send = message(sid, 1);
        send.push.collapse = Some("score".to_owned());
        harness.send(send).await;
        let asked = peer.next().await;
        peer.take(asked.stream).await;
        assert_eq!(harness.report().await, accepted(sid, asked.stream));
    }
    assert!(began.elapsed() < 2 * SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_reset_or_a_cut_after_the_request_is_ambiguous() {
    for (on_ambiguous, expected) in [
        (OnAmbiguous::Retry, (backoff(10), "AMBIGUOUS", Arrival::Maybe)),
        (OnAmbiguous::Report, (Decision::FAIL, "AMBIGUOUS", Arrival::Maybe)),
    ] {
        let mut harness = Harness::open(FcmConfig { on_ambiguous, ..config() });
        let mut peer = harness.peer(100).await;
        let sids = sids(2);
        harness.send(message(sids[0], 1)).await;
        let asked = peer.next().await;
        peer.reset(asked.stream, CANCEL).await;
        let report = harness.report().await;
        let (sid, decision, code, arrival) = refusal(&report);
        assert_eq!((sid, (decision, code, arrival)), (sids[0], expected));
        harness.send(message(sids[1], 2)).await;
        peer.next().await;
        drop(peer);
        let report = harness.report().await;
        let (sid, decision, code, arrival) = refusal(&report);
        assert_eq!((sid, (decision, code, arrival)), (sids[1], expected));
    }
}

#[tokio::test(start_paused = true)]
async fn an_answer_that_does_not_come_is_ambiguous_after_the_time_for_it() {
    let mut harness = Harness::open(config());
    let mut peer = harness.peer(100).await;
    let sid = sids(1)[0];
    harness.send(message(sid, 1)).await;
    peer.next().await;
    let began = Instant::now();
    let report = async {
        let answering = async { while peer.asked().await.is_some() {} };
        tokio::select! {
            report = harness.report() => report,
            () = answering => panic!("the connection was given up"),
        }
    }
    .await;
    assert_eq!(refusal(&report).3, Arrival::Maybe);
    assert_eq!(began.elapsed().as_secs(), Timing::default().request.as_secs());
}

#[tokio::test(start_paused = true)]
async fn pings_go_only_while_a_request_is_open_and_a_mute_peer_is_left() {
    let mut harness = Harness::open(config());
    let mut peer = harness.peer(100).await;
    let idle = tokio::time::timeout(Duration::from_secs(120), peer.asked()).await;
    assert!(idle.is_err() && peer.pings == 0, "{} pings", peer.pings);
    let sids = sids(2);
    harness.send(message(sids[0], 1)).await;
    let asked = peer.next().await;
    let waiting = tokio::time::timeout(Duration::from_secs(15), peer.asked()).await;
    assert!(waiting.is_err() && peer.pings == 1, "{} pings", peer.pings);
    peer.take(asked.stream).await;
    harness.report().await;
    peer.mute = true;
    harness.send(message(sids[1], 1)).await;
    peer.next().await;
    let began = Instant::now();
    soon(async { while peer.asked().await.is_some() {} }).await;
    assert_eq!(began.elapsed().as_secs(), 20, "ten to the ping, ten for its answer");
    assert_eq!(refusal(&harness.report().await).3, Arrival::Maybe);
}

#[tokio::test(start_paused = true)]
async fn an_idle_connection_is_replaced_before_fcm_ends_it_and_the_successor_comes_first() {
    let mut harness = Harness::open(config());
    let mut old = harness.peer(100).await;
    harness.link(Link::Up).await;
    let began = Instant::now();
    let new = soon(harness.dialled.recv()).await.unwrap();
    let waited = began.elapsed();
    assert!(waited > Duration::from_secs(180) && waited < Duration::from_secs(240), "{waited:?}");
    let still = tokio::time::timeout(Duration::from_millis(10), old.asked()).await;
    assert!(still.is_err(), "the old one was closed before the new one was open");
    let mut new = Peer::accept(new, 100).await;
    let gone = async { while old.asked().await.is_some() {} };
    soon(gone).await;
    assert_eq!(*harness.port.link.borrow(), Link::Up);
    let sid = sids(1)[0];
    harness.send(message(sid, 1)).await;
    assert_eq!(mids(&mut new, 1).await, [sid.to_string()]);
}

/// The project is named as the subject, or in the words.
const PROJECT_QUOTAS: [&str; 2] = [
    r#"{"error":{"code":429,"message":"exhausted","status":"RESOURCE_EXHAUSTED","details":[{"@type":
        "type.googleapis.com/google.rpc.QuotaFailure","violations":[{"subject":"project:p","description":"?"}]}]}}"#,
    r#"{"error":{"code":429,"message":"quota of the project, per minute","status":"RESOURCE_EXHAUSTED"}}"#,
];

#[tokio::test(start_paused = true)]
async fn a_used_up_quota_of_the_project_pauses_everybody_for_as_long_as_fcm_says_also_what_is_claimed_already() {
    for body in PROJECT_QUOTAS {
        let mut harness = Harness::open(FcmConfig { streams: 2, ..config() });
        let mut peer = harness.peer(100).await;
        let sids = sids(5);
        for (sid, recipient) in sids.iter().zip(1..) {
            harness.send(message(*sid, recipient)).await;
        }
        let [first, second] = [peer.next().await, peer.next().await];
        peer.answer(first.stream, "429", &[("retry-after", "90")], body).await;
        let began = Instant::now();
        let (sid, refusal) = harness.back().await;
        assert_eq!((sid, refusal.map(|refusal| refusal.code).as_deref()), (sids[0], Some("QUOTA_EXCEEDED")));
        harness.link(Link::Down(QUOTA)).await;
        // What was claimed and not written goes back.
        for sid in &sids[2..] {
            assert_eq!(harness.back().await, (*sid, None));
        }
        peer.take(second.stream).await;
        assert_eq!(harness.report().await, accepted(sids[1], second.stream));
        quiet(&mut peer).await;
        harness.link(Link::Up).await;
        assert!(began.elapsed() >= 90 * SECOND, "{:?}", began.elapsed());
        harness.send(message(sids[0], 1)).await;
        assert_eq!(mids(&mut peer, 1).await, [sids[0].to_string()]);
    }
}

#[tokio::test(start_paused = true)]
async fn after_fcm_stopped_the_project_for_a_few_seconds_it_begins_slowly_again() {
    // Ten at once when all of the share is reached, and one at the beginning.
    let quotas = Quotas { project_per_minute: 600, ..Quotas::default() };
    for (status, headers, body, word) in [
        ("429", &[("retry-after", "5")][..], PROJECT_QUOTAS[0], QUOTA),
        ("403", &[], r#"{"error":{"code":403,"message":"no","status":"PERMISSION_DENIED"}}"#, "permission_denied"),
    ] {
        let mut harness = Harness::open(FcmConfig { quotas, ..config() });
        let mut peer = harness.peer(100).await;
        let mut sids = sids(200).into_iter().zip(1..);
        let began = Instant::now();
        while began.elapsed() < Duration::from_secs(70) {
            let (sid, recipient) = sids.next().unwrap();
            harness.send(message(sid, recipient)).await;
            let asked = peer.next().await;
            peer.take(asked.stream).await;
            harness.report().await;
            tokio::time::sleep(SECOND).await;
        }
        let mut send_ten = async |harness: &mut Harness| {
            for (sid, recipient) in sids.by_ref().take(10) {
                harness.send(message(sid, recipient)).await;
            }
        };
        send_ten(&mut harness).await;
        let asked = peer.next().await;
        mids(&mut peer, 9).await;
        peer.answer(asked.stream, status, headers, body).await;
        harness.link(Link::Down(word)).await;
        harness.port.link.wait_for(|link| matches!(link, Link::Up | Link::Probing(_))).await.unwrap();
        send_ten(&mut harness).await;
        // Of a fault of the project one finds out whether it is over, and is not counted.
        if word != QUOTA {
            let probe = peer.next().await;
            peer.take(probe.stream).await;
            harness.link(Link::Up).await;
            send_ten(&mut harness).await;
        }
        mids(&mut peer, 1).await;
        quiet(&mut peer).await;
    }
}

#[tokio::test(start_paused = true)]
async fn when_fcm_puts_everybody_off_what_is_claimed_goes_back_and_one_at_a_time_finds_out() {
    let mut harness = Harness::open(FcmConfig { streams: 25, ..config() });
    let mut peer = harness.peer(100).await;
    let sids = sids(60);
    for (sid, recipient) in sids.iter().zip(1..) {
        harness.send(message(*sid, recipient)).await;
    }
    for _ in 0..20 {
        let asked = peer.next().await;
        peer.fault(asked.stream, 503, Some("UNAVAILABLE"), &[]).await;
        let report = harness.report().await;
        assert_eq!(refusal(&report).1, backoff(10), "{report:?}");
    }
    harness.link(Link::Down("service_unavailable")).await;
    // What is on its way is judged as ever; what was claimed and not written goes back.
    let (mut late, mut back) = (0, 0);
    while let Ok(Some(asked)) = tokio::time::timeout(SECOND, peer.asked()).await {
        peer.fault(asked.stream, 503, Some("UNAVAILABLE"), &[]).await;
        late += 1;
    }
    while let Ok(report) = tokio::time::timeout(SECOND, harness.report()).await {
        match report {
            Report::Back { fate: Fate::Lost, copies: 0, .. } => back += 1,
            report => assert_eq!(refusal(&report).1, backoff(10), "{report:?}"),
        }
    }
    assert!(back > 10 && 20 + late + back == 60, "{late} {back}");
    harness.link(Link::Probing("service_unavailable")).await;
    harness.send(message(sids[59], 60)).await;
    let probe = peer.next().await;
    harness.send(message(sids[58], 59)).await;
    assert_eq!(harness.back().await, (sids[58], None), "one at a time");
    peer.take(probe.stream).await;
    assert_eq!(harness.report().await, accepted(sids[59], probe.stream));
    harness.link(Link::Up).await;
}

#[tokio::test(start_paused = true)]
async fn tokens_are_given_up_only_for_a_word_about_the_token() {
    let mut harness = Harness::open(config());
    let mut peer = harness.peer(100).await;
    for (sid, (status, code, expected)) in sids(4).into_iter().zip([
        (404, "UNREGISTERED", (Decision::REMOVE_TOKEN, "DEVICE_UNREGISTERED")),
        (403, "SENDER_ID_MISMATCH", (Decision::QUARANTINE_TOKEN, "SENDER_ID_MISMATCH")),
        (401, "THIRD_PARTY_AUTH_ERROR", (Decision::FAIL_FOR_OPERATOR, "INVALID_APNS_CREDENTIAL")),
        (400, "INVALID_ARGUMENT", (Decision::FAIL, "INVALID_JSON")),
    ]) {
        harness.send(message(sid, 1)).await;
        let asked = peer.next().await;
        peer.fault(asked.stream, status, Some(code), &[]).await;
        let report = harness.report().await;
        let (_, decision, code, arrival) = refusal(&report);
        assert_eq!(((decision, code), arrival), (expected, Arrival::No));
    }
}

#[tokio::test(start_paused = true)]
async fn a_device_over_its_budget_waits_on_the_disk_and_others_go_on() {
    let quotas = Quotas { device_per_minute: 8, ..Quotas::default() };
    let mut harness = Harness::open(FcmConfig { quotas, ..config() });
    let mut peer = harness.peer(100).await;
    let sids = sids(5);
    // The ramp lets the first second through slowly; it is not what is tried here.
    for sid in &sids[..2] {
        harness.send(message(*sid, 1)).await;
        let asked = peer.next().await;
        peer.take(asked.stream).await;
        harness.report().await;
    }
    for sid in &sids[2..4] {
        harness.send(message(*sid, 1)).await;
        let Report::Back { sid: which, fate: Fate::Deferred { wait, .. }, .. } = harness.report().await else {
            panic!()
        };
        assert!(which == *sid && wait > SECOND, "{wait:?}");
    }
    harness.send(message(sids[4], 2)).await;
    assert_eq!(mids(&mut peer, 1).await, [sids[4].to_string()]);
}

#[tokio::test(start_paused = true)]
async fn one_new_access_token_serves_all_that_the_old_one_was_refused_for() {
    let mut harness = Harness::open(config());
    let mut peer = harness.peer(100).await;
    let sids = sids(5);
    for (sid, recipient) in sids.iter().zip(1..) {
        harness.send(message(*sid, recipient)).await;
    }
    for _ in &sids {
        let asked = peer.next().await;
        peer.answer(asked.stream, "401", &[], "<html><title>401</title>").await;
    }
    for _ in &sids {
        let asked = peer.next().await;
        peer.take(asked.stream).await;
        assert!(matches!(
            harness.report().await,
            Report::Back { fate: Fate::Accepted { .. }, copies: 1, replays: 1, .. }
        ));
    }
    assert_eq!(harness.fetched(), 2, "the first one, and one refresh");
}

#[tokio::test(start_paused = true)]
async fn a_new_access_token_that_is_refused_as_well_stops_everything_and_the_probe_takes_another() {
    let mut harness = Harness::open(config());
    let mut peer = harness.peer(100).await;
    let sids = sids(3);
    let sid = sids[0];
    harness.send(message(sid, 1)).await;
    for _ in 0..2 {
        let asked = peer.next().await;
        peer.fault(asked.stream, 401, None, &[]).await;
    }
    let (which, refusal) = harness.back().await;
    assert_eq!((which, refusal.map(|refusal| refusal.code).as_deref()), (sid, Some("unauthenticated")));
    let snapshot = soon(harness.port.snapshot.wait_for(|now| now.trouble.is_some())).await.unwrap().clone();
    let trouble = snapshot.trouble.unwrap();
    assert!(trouble.words.starts_with("memory"), "{trouble:?}");
    assert_eq!(trouble.next_try, trouble.since.map(|since| since + 10 * SECOND), "the first probe");
    for (other, fetched, wait) in [(1, 3, 10), (2, 4, 20)] {
        let began = Instant::now();
        harness.link(Link::Probing("unauthenticated")).await;
        assert_eq!(
            (began.elapsed().as_secs(), harness.fetched()),
            (wait, fetched),
            "one more for each that was refused"
        );
        harness.send(message(sids[other], 2)).await;
        let probe = peer.next().await;
        peer.fault(probe.stream, 401, None, &[]).await;
        harness.back().await;
    }
    harness.link(Link::Probing("unauthenticated")).await;
    harness.send(message(sid, 1)).await;
    let Report::Back { sid: which, fate: Fate::Deferred { wait, .. }, .. } = harness.report().await else {
        panic!("rather another one")
    };
    assert!(which == sid && wait <= SECOND, "{wait:?}");
    tokio::time::sleep(wait).await;
    harness.send(message(sid, 1)).await;
    let probe = peer.next().await;
    peer.take(probe.stream).await;
    assert_eq!(harness.report().await, accepted(sid, probe.stream));
    harness.link(Link::Up).await;
}

#[tokio::test(start_paused = true)]
async fn a_401_that_persists_with_one_message_stops_nobody_though_no_new_token_is_to_be_had() {
    let mut harness = Harness::open(config());
    let mut peer = harness.peer(100).await;
    let sids = sids(20);
    let pass = async |harness: &mut Harness, peer: &mut Peer, which: usize| {
        let began = Instant::now();
        harness.send(message(sids[which], 100 + i64::try_from(which).unwrap())).await;
        let asked = peer.next().await;
        peer.take(asked.stream).await;
        assert_eq!(harness.report().await, accepted(sids[which], asked.stream));
        assert!(began.elapsed() < SECOND, "{which} waited {:?}", began.elapsed());
    };
    pass(&mut harness, &mut peer, 1).await;
    harness.token_answer.send_replace(http_answer("503 Service Unavailable", "{}"));
    harness.send(message(sids[0], 1)).await;
    let asked = peer.next().await;
    peer.fault(asked.stream, 401, None, &[]).await;
    let Report::Back { sid, fate: Fate::Deferred { .. }, .. } = harness.report().await else { panic!() };
    assert_eq!(sid, sids[0]);
    assert_eq!(*harness.port.link.borrow(), Link::Probing(NO_TOKEN), "it may be dead, and no other is to be had");
    // The old token lives, and others go on with it, for as long as the server of tokens is down.
    for which in 2..10 {
        pass(&mut harness, &mut peer, which).await;
        assert_eq!(*harness.port.link.borrow(), Link::Up);
        tokio::time::sleep(4 * SECOND).await;
    }
    harness.token_answer.send_replace(token_for(Duration::from_secs(3599)));
    let (began, before) = (Instant::now(), harness.fetched());
    while harness.fetched() == before {
        tokio::time::sleep(SECOND / 4).await;
    }
    assert!(began.elapsed() <= 5 * SECOND, "{:?} longer than the failures", began.elapsed());
    for which in 10..14 {
        let fetched = harness.fetched();
        harness.send(message(sids[0], 1)).await;
        let asked = peer.next().await;
        assert_eq!(asked.mid(), sids[0].to_string());
        peer.fault(asked.stream, 401, None, &[]).await;
        let report = harness.report().await;
        assert_eq!(refusal(&report).1, backoff(10), "{report:?}");
        assert_eq!((*harness.port.link.borrow(), harness.fetched()), (Link::Up, fetched));
        pass(&mut harness, &mut peer, which).await;
    }
}

#[tokio::test(start_paused = true)]
async fn without_a_token_nothing_goes_and_it_says_so() {
    let mut harness = Harness::open(config());
    harness.token_answer.send_replace(http_answer("400 Bad Request", r#"{"error":"invalid_grant"}"#));
    let mut peer = harness.peer(100).await;
    let sid = sids(1)[0];
    harness.send(message(sid, 1)).await;
    harness.link(Link::Down("no_access_token")).await;
    let denied = |report: &Report| matches!(report, Report::Connection { change: ConnectionChange::AuthFailed { detail }, .. } if detail.contains("invalid_grant"));
    while !denied(&soon(harness.port.reports.recv()).await.unwrap()) {}
    assert_eq!(harness.back().await, (sid, None));
    let trouble = harness.port.snapshot.borrow().trouble.clone().unwrap();
    assert!(trouble.words.starts_with("no access token: ") && trouble.words.contains("invalid_grant"), "{trouble:?}");
    assert!(trouble.since.is_some() && trouble.next_try > Some(Instant::now().into_std()), "{trouble:?}");
    quiet(&mut peer).await;
    harness.token_answer.send_replace(token_for(Duration::from_secs(3599)));
    harness.link(Link::Up).await;
    let snapshot =
        soon(harness.port.snapshot.wait_for(|now| now.access_token_requested_at.is_some())).await.unwrap().clone();
    assert_eq!(snapshot.trouble, None);
    harness.send(message(sid, 1)).await;
    assert_eq!(mids(&mut peer, 1).await, [sid.to_string()]);
}

#[tokio::test(start_paused = true)]
async fn a_push_service_out_of_reach_is_dialled_ever_more_slowly() {
    let mut harness = Harness::open(config());
    let mut times = Vec::new();
    for _ in 0..12 {
        drop(soon(harness.dialled.recv()).await.unwrap());
        times.push(Instant::now());
    }
    let waits: Vec<Duration> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
    assert!(waits.iter().all(|wait| *wait <= Duration::from_secs(32)), "{waits:?}");
    assert!(times[11] - times[0] > Duration::from_secs(20), "{waits:?}");
    assert_eq!(*harness.port.link.borrow(), Link::UNCONNECTED);
}

#[tokio::test(start_paused = true)]
async fn a_stop_waits_for_answers_and_reports_what_is_left() {
    let mut harness = Harness::open(FcmConfig { streams: 3, ..config() });
    let mut peer = harness.peer(100).await;
    let sids = sids(4);
    for (sid, recipient) in sids.iter().zip(1..) {
        harness.send(message(*sid, recipient)).await;
    }
    let asked = [peer.next().await, peer.next().await, peer.next().await];
    harness.stop.cancel();
    tokio::task::yield_now().await;
    peer.take(asked[0].stream).await;
    assert_eq!(harness.report().await, accepted(sids[0], asked[0].stream));
    let quiet = async { while peer.asked().await.is_some() {} };
    let (last, ()) = tokio::join!(harness.close(), quiet);
    let lost = |sid, copies| Report::Back { sid, fate: Fate::Lost, copies, replays: 0 };
    assert_eq!(last, [lost(sids[1], 1), lost(sids[2], 1), lost(sids[3], 0)]);
}

#[test]
fn the_servers_are_known_by_the_keys_of_the_configuration() {
    let servers = |config: FcmConfig| {
        let Plan { api, tokens, .. } = config.plan().unwrap();
        (api.dialer.server().to_owned(), tokens.dialer.server().to_owned())
    };
    let on_google = FcmConfig { project_id: Some("p-1".to_owned()), ..config() };
    let expected = ("fcm.googleapis.com:443 (fcm.base_url)".to_owned(), "memory:80 (fcm.metadata_host)".to_owned());
    assert_eq!(servers(on_google), expected);
    let account = token::account_file(|_| ());
    let path = account.path().display().to_string();
    let shop = FcmConfig {
        base_url: "https://fcm.example:8443/deep".to_owned(),
        credentials_file: Some(account.path().to_owned()),
        base_url_key: "fcm.projects.shop.base_url".to_owned(),
        credentials_key: "fcm.projects.shop.credentials_file".to_owned(),
        ..config()
    };
    let expected = (
        "fcm.example:8443 (fcm.projects.shop.base_url)".to_owned(),
        format!("127.0.0.1:9 (token_uri in {path}, fcm.projects.shop.credentials_file)"),
    );
    assert_eq!(servers(shop), expected);
}

#[test]
fn settings_that_cannot_work_are_named() {
    let good = FcmConfig { project_id: Some("p-1".to_owned()), ..config() };
    good.check().unwrap();
    for (config, named) in [
        (FcmConfig { project_id: None, ..good.clone() }, "project_id"),
        (FcmConfig { project_id: Some("a/b".to_owned()), ..good.clone() }, "project_id"),
        (FcmConfig { connections: 0, ..good.clone() }, "connections"),
        (FcmConfig { base_url: "http://fcm.googleapis.com".to_owned(), ..good.clone() }, "base_url"),
        (FcmConfig { credentials_file: Some("/nowhere".into()), ..good }, "credentials_file"),
    ] {
        let fault = config.check().unwrap_err().to_string();
        assert!(fault.trim_start_matches('`').starts_with(named), "{fault}");
    }
}
