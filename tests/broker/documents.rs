//! Documents of the bridge and their readers: who settles one, and who gets it all the same.

use fcm_mqtt_bridge::mqtt::Outcome;
use fcm_mqtt_bridge::ops::clock::now_ms;
use fcm_mqtt_bridge::store::Note;

use super::harness::{Harness, outcome, soon};
use super::peer::{Connect, PUBACK, Peer, Seen, V5, V311};

const INBOX: &str = "alice/others/messages";
/// As it comes the first time, and when it may have come before.
const DOCUMENT: &str = r#"{"n":1}"#;
const COPY: &str = r#"{"n":1,"redelivered":true}"#;

/// A client that may be cut off and come back to its session.
async fn lasting(harness: &Harness, client: &str, version: u8) -> Peer {
    let connect = Connect { client, version, clean: false, expiry: 3_600, ..Connect::default() };
    Peer::connect(harness, connect).await.0
}

#[tokio::test]
async fn who_may_have_a_settled_document_gets_it_again_with_the_same_identifier() {
    for version in [V311, V5] {
        let harness = Harness::open().await;
        let mut laptop = lasting(&harness, "laptop", version).await;
        laptop.subscribe(INBOX, 1).await;
        let mut phone = Peer::new(&harness, "phone").await;
        phone.subscribe(INBOX, 1).await;
        let answers = [harness.publish(INBOX, r#"{"n":1}"#).await, harness.publish(INBOX, r#"{"n":2}"#).await];
        let ids = [laptop.message().await.1, laptop.message().await.1];
        for answer in answers {
            let (_, id, _) = phone.message().await;
            phone.ack(PUBACK, id).await;
            assert_eq!(outcome(answer).await, Outcome::Confirmed);
        }
        drop(laptop);
        let mut laptop = lasting(&harness, "laptop", version).await;
        for (n, former) in (1..).zip(ids) {
            let (payload, id, dup) = laptop.message().await;
            assert_eq!(payload, format!(r#"{{"n":{n},"redelivered":true}}"#));
            assert_eq!((id, dup), (former, true));
            laptop.ack(PUBACK, id).await;
        }
        laptop.quiet().await;
        laptop.disconnect().await;
        lasting(&harness, "laptop", version).await.quiet().await;
        harness.close().await;
    }
}

#[tokio::test]
async fn what_a_session_had_before_somebody_else_settled_it_is_marked_when_it_comes_again() {
    let harness = Harness::open().await;
    let mut laptop = lasting(&harness, "laptop", V5).await;
    laptop.subscribe(INBOX, 1).await;
    let answer = harness.publish(INBOX, DOCUMENT).await;
    assert_eq!(laptop.message().await.0, DOCUMENT);
    drop(laptop);
    harness.is_away("laptop").await;
    let mut phone = Peer::new(&harness, "phone").await;
    phone.subscribe(INBOX, 1).await;
    let (payload, id, dup) = phone.message().await;
    assert_eq!((&*payload, dup), (COPY, true), "another one had it");
    phone.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    let (payload, _, dup) = lasting(&harness, "laptop", V5).await.message().await;
    assert_eq!((&*payload, dup), (COPY, true));
    harness.close().await;
}

#[tokio::test]
async fn what_the_only_member_of_a_group_had_comes_again_as_a_copy() {
    let filter = format!("$share/g/{INBOX}");
    for (is_kept, others) in [(true, false), (false, false), (false, true)] {
        let harness = Harness::open().await;
        if others {
            // With it the group goes on.
            let mut away = lasting(&harness, "away", V5).await;
            away.subscribe(&filter, 1).await;
            away.disconnect().await;
        }
        let expiry = if is_kept { 3_600 } else { 0 };
        let connect = || Connect { client: "worker", clean: !is_kept, expiry, ..Connect::default() };
        let (mut worker, _) = Peer::connect(&harness, connect()).await;
        worker.subscribe(&filter, 1).await;
        let answer = harness.publish(INBOX, DOCUMENT).await;
        let (payload, _, dup) = worker.message().await;
        assert_eq!((&*payload, dup), (DOCUMENT, false));
        drop(worker);
        // The same client: its former connection has ended wholly.
        let (mut worker, resumed) = Peer::connect(&harness, connect()).await;
        if !resumed {
            worker.subscribe(&filter, 1).await;
        }
        let (payload, id, dup) = worker.message().await;
        assert_eq!((&*payload, dup), (COPY, true));
        worker.ack(PUBACK, id).await;
        assert_eq!(outcome(answer).await, Outcome::Confirmed);
        harness.close().await;
    }
}

#[tokio::test]
async fn a_lasting_session_that_subscribed_later_does_not_get_what_was_settled_before() {
    let harness = Harness::open().await;
    let mut phone = Peer::new(&harness, "phone").await;
    phone.subscribe(INBOX, 1).await;
    let answer = harness.publish(INBOX, "before").await;
    let (_, id, _) = phone.message().await;
    phone.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    let mut laptop = lasting(&harness, "laptop", V5).await;
    laptop.subscribe(INBOX, 1).await;
    harness.publish(INBOX, "after").await;
    assert_eq!(laptop.message().await.0, "after");
    harness.close().await;
}

#[tokio::test]
async fn what_a_member_of_a_group_had_goes_to_another_member_though_somebody_else_settled_it() {
    let harness = Harness::open().await;
    let mut members = Vec::new();
    for client in ["one", "two"] {
        let mut member = lasting(&harness, client, V5).await;
        member.subscribe(&format!("$share/g/{INBOX}"), 1).await;
        members.push(member);
    }
    let mut outside = Peer::new(&harness, "outside").await;
    outside.subscribe(INBOX, 1).await;
    let answer = harness.publish(INBOX, DOCUMENT).await;
    let (_, id, _) = outside.message().await;
    let [one, two] = &mut members[..] else { panic!("two members") };
    let first = tokio::select! {
        _ = one.message() => 0,
        _ = two.message() => 1,
    };
    outside.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    drop(members.remove(first));
    let mut other = members.remove(0);
    let (payload, _, dup) = other.message().await;
    assert_eq!((&*payload, dup), (COPY, true));
    drop(other);
    // Nobody is there who could be given it: it is read from the disk.
    let mut other = lasting(&harness, ["two", "one"][first], V5).await;
    let (payload, id, dup) = other.message().await;
    assert_eq!((&*payload, dup), (COPY, true));
    other.ack(PUBACK, id).await;
    other.quiet().await;
    other.disconnect().await;
    for client in ["one", "two"] {
        lasting(&harness, client, V5).await.quiet().await;
    }
    outside.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn a_group_whose_members_are_all_away_gets_what_others_settled() {
    let harness = Harness::open().await;
    for client in ["one", "two"] {
        let mut member = lasting(&harness, client, V5).await;
        member.subscribe(&format!("$share/g/{INBOX}"), 1).await;
        member.disconnect().await;
    }
    let mut outside = Peer::new(&harness, "outside").await;
    outside.subscribe(INBOX, 1).await;
    for payload in ["settled", "open"] {
        let answer = harness.publish(INBOX, payload).await;
        let (_, id, _) = outside.message().await;
        if payload == "settled" {
            outside.ack(PUBACK, id).await;
            assert_eq!(outcome(answer).await, Outcome::Confirmed);
        }
    }
    let mut member = lasting(&harness, "two", V5).await;
    for payload in ["settled", "open"] {
        let (seen, id, _) = member.message().await;
        assert_eq!(seen, payload);
        member.ack(PUBACK, id).await;
    }
    member.quiet().await;
    lasting(&harness, "one", V5).await.quiet().await;
    harness.settles(INBOX).await;
    harness.close().await;
}

#[tokio::test]
async fn beside_a_session_that_is_away_a_reader_at_qos_0_settles_nothing() {
    let harness = Harness::open().await;
    let mut laptop = lasting(&harness, "laptop", V5).await;
    laptop.subscribe(INBOX, 1).await;
    laptop.disconnect().await;
    let mut phone = Peer::new(&harness, "phone").await;
    phone.subscribe(INBOX, 0).await;
    let answer = harness.publish(INBOX, DOCUMENT).await;
    let mut comes_as = DOCUMENT;
    for _ in 0..3 {
        let seen = phone.next().await;
        assert!(matches!(&seen, Seen::Publish { id: None, payload, .. } if payload == comes_as), "{seen:?}");
        phone.quiet().await;
        harness.barrier().await;
        assert_eq!(harness.waits(INBOX), 1);
        if comes_as == DOCUMENT {
            phone.unsubscribe(INBOX).await;
        } else {
            phone.disconnect().await;
            phone = Peer::new(&harness, "phone").await;
        }
        // It stayed, so it comes to every new subscription at QoS 0: marked.
        phone.subscribe(INBOX, 0).await;
        comes_as = COPY;
    }
    let seen = phone.next().await;
    assert!(matches!(&seen, Seen::Publish { id: None, payload, .. } if payload == COPY), "{seen:?}");
    let mut laptop = lasting(&harness, "laptop", V5).await;
    let (payload, id, _) = laptop.message().await;
    assert_eq!(payload, COPY, "somebody had it");
    laptop.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    phone.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn what_was_sent_is_acknowledged_after_its_subscription_ended() {
    let harness = Harness::open().await;
    let mut bal = Peer::new(&harness, "bal").await;
    bal.subscribe(INBOX, 1).await;
    let answer = harness.publish(INBOX, "x").await;
    let (_, id, _) = bal.message().await;
    bal.unsubscribe(INBOX).await;
    assert_eq!(harness.waits(INBOX), 1);
    bal.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    harness.close().await;
}

#[tokio::test]
async fn a_session_that_ends_takes_no_document_with_it() {
    let harness = Harness::open().await;
    let mut laptop = lasting(&harness, "laptop", V5).await;
    laptop.subscribe(INBOX, 1).await;
    laptop.disconnect().await;
    let answer = harness.publish(INBOX, "x").await;
    Peer::new(&harness, "laptop").await.disconnect().await;
    assert_eq!(harness.waits(INBOX), 1);
    let mut phone = Peer::new(&harness, "phone").await;
    phone.subscribe(INBOX, 1).await;
    let (payload, id, dup) = phone.message().await;
    assert_eq!((payload.as_str(), dup), ("x", false));
    phone.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    harness.close().await;
}

#[tokio::test]
async fn a_subscription_made_again_brings_nothing_twice() {
    let harness = Harness::open().await;
    let mut bal = lasting(&harness, "bal", V5).await;
    bal.subscribe(INBOX, 1).await;
    let answers = [harness.publish(INBOX, "1").await, harness.publish(INBOX, "2").await];
    let ids = [bal.message().await.1, bal.message().await.1];
    bal.subscribe(INBOX, 1).await;
    bal.subscribe("alice/others/+", 1).await;
    bal.quiet().await;
    for (id, answer) in ids.into_iter().zip(answers) {
        bal.ack(PUBACK, id).await;
        assert_eq!(outcome(answer).await, Outcome::Confirmed);
    }
    bal.unsubscribe(INBOX).await;
    let answer = harness.publish(INBOX, "3").await;
    let (payload, id, _) = bal.message().await;
    assert_eq!(payload, "3", "the other subscription is still there");
    bal.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    harness.close().await;
}

#[tokio::test]
async fn documents_of_many_topics_wait_for_one_reader() {
    const TOPICS: usize = 600;
    let harness = Harness::open().await;
    let mut answers = Vec::new();
    for n in 0..TOPICS {
        answers.push(harness.publish(&format!("u{n:03}/others/messages"), &n.to_string()).await);
    }
    let mut reader = Peer::new(&harness, "reader").await;
    reader.subscribe("+/others/messages", 1).await;
    let mut seen = Vec::new();
    for _ in 0..TOPICS {
        let (payload, id, dup) = reader.message().await;
        assert!(!dup);
        seen.push(payload.parse::<usize>().unwrap());
        reader.ack(PUBACK, id).await;
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..TOPICS).collect::<Vec<_>>());
    for answer in answers {
        assert_eq!(outcome(answer).await, Outcome::Confirmed);
    }
    harness.close().await;
}

#[tokio::test]
async fn a_clean_reader_that_is_left_behind_by_others_is_told_to_go() {
    const DOCUMENTS: usize = 200;
    let harness = Harness::open().await;
    let mut slow = Peer::new(&harness, "slow").await;
    let mut quick = Peer::new(&harness, "quick").await;
    let mut away = lasting(&harness, "away", V5).await;
    for peer in [&mut slow, &mut quick, &mut away] {
        peer.subscribe(INBOX, 1).await;
    }
    away.disconnect().await;
    let text = "x".repeat(4_000);
    for n in 0..DOCUMENTS {
        let answer = harness.publish(INBOX, &format!("{n} {text}")).await;
        let (_, id, _) = quick.message().await;
        quick.ack(PUBACK, id).await;
        assert_eq!(outcome(answer).await, Outcome::Confirmed);
    }
    let mut got = 0;
    let end = loop {
        match slow.next().await {
            Seen::Publish { payload, .. } => {
                assert!(payload.starts_with(&format!("{got} ")), "in order, and none is left out");
                got += 1;
            }
            other => break other,
        }
    };
    assert_eq!((end, slow.next().await), (Seen::Disconnect(0x97), Seen::Closed));
    assert!(got < DOCUMENTS);
    // For a session that is away all of it is kept.
    let mut away = lasting(&harness, "away", V5).await;
    for n in 0..DOCUMENTS {
        let (payload, id, dup) = away.message().await;
        assert!(payload.starts_with(&format!("{n} ")) && !dup, "{n}");
        away.ack(PUBACK, id).await;
    }
    away.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn correlation_data_goes_along_where_there_is_a_word_for_it() {
    let harness = Harness::open().await;
    for version in [V5, V311] {
        let (mut bal, _) = Peer::connect(&harness, Connect { version, ..Connect::default() }).await;
        bal.subscribe(INBOX, 1).await;
        let correlation = Some(vec![0xca, 0xfe].into());
        let note = Note { topic: INBOX.to_owned(), payload: "x".into(), correlation, at: now_ms() };
        soon("a commit", harness.store.queue_note(note).await.unwrap()).await.unwrap();
        let (_, body) = bal.next_raw().await.unwrap();
        let rest = &body[2 + INBOX.len()..];
        let expected = if version == V5 { &[5, 9, 0, 2, 0xca, 0xfe, b'x'][..] } else { b"x" };
        assert_eq!(&rest[2..], expected);
        bal.say(PUBACK << 4, &rest[..2]).await;
        bal.quiet().await;
    }
    harness.close().await;
}

#[tokio::test]
async fn what_a_member_has_when_it_leaves_its_group_is_still_its_to_acknowledge() {
    let filter = format!("$share/g/{INBOX}");
    for (others, version) in [(true, V5), (false, V5), (false, V311)] {
        let harness = Harness::open().await;
        let mut leaver = lasting(&harness, "leaver", version).await;
        leaver.subscribe(&filter, 1).await;
        let answer = harness.publish(INBOX, "x").await;
        let (_, id, _) = leaver.message().await;
        let mut other = Peer::new(&harness, "other").await;
        if others {
            other.subscribe(&filter, 1).await;
        }
        leaver.unsubscribe(&filter).await;
        other.quiet().await;
        leaver.ack(PUBACK, id).await;
        assert_eq!(outcome(answer).await, Outcome::Confirmed);
        other.quiet().await;
        harness.close().await;
    }
}

#[tokio::test]
async fn what_a_former_member_never_acknowledges_goes_to_the_group() {
    let harness = Harness::open().await;
    let filter = format!("$share/g/{INBOX}");
    let mut leaver = lasting(&harness, "leaver", V5).await;
    leaver.subscribe(&filter, 1).await;
    let answer = harness.publish(INBOX, "x").await;
    leaver.message().await;
    let mut other = Peer::new(&harness, "other").await;
    other.subscribe(&filter, 1).await;
    leaver.unsubscribe(&filter).await;
    drop(leaver);
    let (payload, id, _) = other.message().await;
    assert_eq!(payload, "x");
    other.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    lasting(&harness, "leaver", V5).await.quiet().await;
    harness.close().await;
}

#[tokio::test]
async fn a_member_at_qos_0_confirms_for_its_group_and_not_for_others() {
    let harness = Harness::open().await;
    let mut sure = Peer::new(&harness, "sure").await;
    let mut unsure = Peer::new(&harness, "unsure").await;
    sure.subscribe(&format!("$share/g/{INBOX}"), 1).await;
    unsure.subscribe(&format!("$share/g/{INBOX}"), 0).await;
    let mut at_qos_0 = 0;
    for _ in 0..10 {
        let answer = harness.publish(INBOX, "x").await;
        tokio::select! {
            (_, id, _) = sure.message() => sure.ack(PUBACK, id).await,
            seen = unsure.next() => {
                assert!(matches!(seen, Seen::Publish { id: None, .. }), "{seen:?}");
                at_qos_0 += 1;
            }
        }
        assert_eq!(outcome(answer).await, Outcome::Confirmed);
    }
    assert!((1..10).contains(&at_qos_0), "each has its share");
    sure.disconnect().await;
    let mut outside = Peer::new(&harness, "outside").await;
    outside.subscribe(INBOX, 1).await;
    let answer = harness.publish(INBOX, "y").await;
    assert!(matches!(unsure.next().await, Seen::Publish { id: None, .. }));
    let (_, id, _) = outside.message().await;
    assert_eq!(harness.waits(INBOX), 1);
    outside.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    harness.close().await;
}

#[tokio::test]
async fn a_reader_that_has_just_subscribed_gets_what_another_one_acknowledges_meanwhile() {
    const TOPICS: usize = 30;
    let harness = Harness::open().await;
    let mut answers = Vec::new();
    for n in 0..TOPICS {
        answers.push(harness.publish(&format!("u{n:03}/others/messages"), &n.to_string()).await);
    }
    let mut first = Peer::new(&harness, "first").await;
    first.subscribe("+/others/messages", 1).await;
    let mut ids = Vec::new();
    for _ in 0..TOPICS {
        ids.push(first.message().await.1);
    }
    let mut second = Peer::new(&harness, "second").await;
    second.subscribe("+/others/messages", 1).await;
    for id in ids {
        first.ack(PUBACK, id).await;
    }
    let mut seen = Vec::new();
    for _ in 0..TOPICS {
        let (payload, id, _) = second.message().await;
        seen.push(payload.parse::<usize>().unwrap());
        second.ack(PUBACK, id).await;
    }
    seen.sort_unstable();
    assert_eq!(seen, (0..TOPICS).collect::<Vec<_>>());
    for answer in answers {
        assert_eq!(outcome(answer).await, Outcome::Confirmed);
    }
    harness.close().await;
}
