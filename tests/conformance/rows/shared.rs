//! Shared subscriptions (4.8.2).

use std::collections::BTreeSet;
use std::time::Duration;

use tokio::time::timeout;

use crate::client::Client;
use crate::target::{BOTH, ONLY_V5, Row, Target, row};
use crate::wire::{Packet, Props, Publish, Value, prop, subscribe};

pub(super) fn rows() -> Vec<Row> {
    vec![
        row("4.8.2 each message goes to exactly one member", BOTH, exactly_one),
        row("two groups, and who is in none, get a copy each", BOTH, groups_and_others),
        row("one name on two filters is two shared subscriptions", BOTH, two_filters),
        row("4.8.2 what a dead member had not acknowledged is not lost", BOTH, |target| dead_member(target, 1)),
        row("4.8.2 what a dead member had not acknowledged is not lost, at QoS 2", BOTH, |target| {
            dead_member(target, 2)
        }),
        row("4.8.2 what a member without a session had not acknowledged goes to another", BOTH, member_without_session),
        row("a member that leaves in an orderly way leaves the rest to the others", BOTH, orderly_member),
        row("a session that is away is passed over while others are there", BOTH, away_member),
        row("nobody there: the messages wait for one", BOTH, all_away),
        row("[MQTT-4.8.2-3] each member gets them at its own QoS", BOTH, own_qos),
        row("4.8.2 retained messages are not sent to a new member", BOTH, retained),
        row("[MQTT-3.8.3-4] no local is an error", ONLY_V5, no_local),
        row("[MQTT-4.8.2-1,2] names of groups that are none", BOTH, bad_names),
        row("unsubscribing takes the filter with its group", BOTH, unsubscribing),
        row("wildcards and the own messages of a member", BOTH, wildcards),
        row("an own subscription beside a shared one has a copy of its own", BOTH, own_and_shared),
        row("a shared subscription has an identifier like any other", ONLY_V5, identifier),
    ]
}

async fn member(target: &Target, id: &str, group: &str, qos: u8) -> Client {
    let mut member = target.client(id).await;
    member.subscribe(&target.share(group, "t"), qos).await;
    member
}

/// Takes messages until there are none for a while.
async fn drain(client: &mut Client) -> Vec<String> {
    let mut taken = Vec::new();
    while let Ok(packet) = timeout(Duration::from_millis(300), client.next()).await {
        let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
        client.take(&publish).await;
        taken.push(publish.text().to_owned());
    }
    taken
}

/// All of `count` messages arrive, none twice.
fn complete(taken: &[Vec<String>], count: usize) {
    let all: Vec<&String> = taken.iter().flatten().collect();
    let distinct: BTreeSet<&String> = all.iter().copied().collect();
    let missing: Vec<String> = (0..count).map(|n| n.to_string()).filter(|n| !distinct.contains(n)).collect();
    assert!(missing.is_empty(), "missing {missing:?}");
    assert_eq!(all.len(), count, "twice: {all:?}");
}

async fn exactly_one(target: Target) {
    let mut members = Vec::new();
    for n in 0..3 {
        members.push(member(&target, &format!("m{n}"), "g", 1).await);
    }
    let mut publisher = target.client("p").await;
    for n in 0..60 {
        publisher.post(&target.name("t"), &n.to_string()).await;
    }
    let mut taken = Vec::new();
    for member in &mut members {
        taken.push(drain(member).await);
    }
    complete(&taken, 60);
    assert!(taken.iter().all(|part| part.len() > 5), "no fair shares: {taken:?}");
    for part in &taken {
        let numbers: Vec<u32> = part.iter().map(|n| n.parse().unwrap()).collect();
        assert!(numbers.is_sorted(), "[MQTT-4.6.0-6] {numbers:?}");
    }
}

async fn groups_and_others(target: Target) {
    let mut clients = [
        member(&target, "a1", "a", 1).await,
        member(&target, "a2", "a", 1).await,
        member(&target, "b", "b", 1).await,
        target.client("own").await,
    ];
    clients[3].subscribe(&target.name("t"), 1).await;
    let mut publisher = target.client("p").await;
    for n in 0..20 {
        publisher.post(&target.name("t"), &n.to_string()).await;
    }
    let mut taken = Vec::new();
    for client in &mut clients {
        taken.push(drain(client).await);
    }
    complete(&taken[0..2], 20);
    complete(&taken[2..3], 20);
    complete(&taken[3..4], 20);
}

pub(crate) async fn two_filters(target: Target) {
    let mut one = target.client("m1").await;
    one.subscribe(&target.share("g", "a"), 1).await;
    let mut two = target.client("m2").await;
    two.subscribe(&target.share("g", "b"), 1).await;
    let mut publisher = target.client("p").await;
    for n in 0..20 {
        publisher.post(&target.name("a"), &n.to_string()).await;
        publisher.post(&target.name("b"), &n.to_string()).await;
    }
    complete(&[drain(&mut one).await], 20);
    complete(&[drain(&mut two).await], 20);
}

pub(crate) async fn dead_member(target: Target, qos: u8) {
    let (mut doomed, _) = target.lasting_client("doomed").await;
    doomed.subscribe(&target.share("g", "t"), qos).await;
    let mut survivor = member(&target, "survivor", "g", qos).await;
    let mut publisher = target.client("p").await;
    for n in 0..40 {
        publisher.publish(&Publish::new(&target.name("t"), n.to_string(), qos, 1)).await;
    }
    let held = doomed.delivery().await;
    doomed.cut_off();
    for n in 40..60 {
        publisher.publish(&Publish::new(&target.name("t"), n.to_string(), qos, 1)).await;
    }
    // They go to the survivor, or come again.
    let mut taken = vec![drain(&mut survivor).await];
    let (mut doomed, resumed) = target.lasting_client("doomed").await;
    assert!(resumed);
    taken.push(drain(&mut doomed).await);
    taken.push(drain(&mut survivor).await);
    complete(&taken, 60);
    assert!(taken.iter().flatten().any(|text| text == held.text()));
}

async fn member_without_session(target: Target) {
    let mut doomed = member(&target, "doomed", "g", 1).await;
    let mut publisher = target.client("p").await;
    for n in 0..5 {
        publisher.post(&target.name("t"), &n.to_string()).await;
    }
    doomed.delivery().await;
    let mut survivor = member(&target, "survivor", "g", 1).await;
    doomed.cut_off();
    complete(&[drain(&mut survivor).await], 5);
}

async fn orderly_member(target: Target) {
    let mut leaver = member(&target, "leaver", "g", 1).await;
    let mut stayer = member(&target, "stayer", "g", 1).await;
    let mut publisher = target.client("p").await;
    for n in 0..20 {
        publisher.post(&target.name("t"), &n.to_string()).await;
    }
    let mut taken = vec![drain(&mut leaver).await];
    leaver.leave().await;
    for n in 20..40 {
        publisher.post(&target.name("t"), &n.to_string()).await;
    }
    taken.push(drain(&mut stayer).await);
    complete(&taken, 40);
}

async fn away_member(target: Target) {
    let (mut away, _) = target.lasting_client("away").await;
    away.subscribe(&target.share("g", "t"), 1).await;
    away.leave().await;
    let mut here = member(&target, "here", "g", 1).await;
    let mut publisher = target.client("p").await;
    for n in 0..20 {
        publisher.post(&target.name("t"), &n.to_string()).await;
    }
    let taken = drain(&mut here).await;
    // Who is away may get its part on its return: nothing is lost either way.
    let (mut away, _) = target.lasting_client("away").await;
    complete(&[taken, drain(&mut away).await], 20);
}

async fn all_away(target: Target) {
    for id in ["m1", "m2"] {
        let (mut member, _) = target.lasting_client(id).await;
        member.subscribe(&target.share("g", "t"), 1).await;
        member.leave().await;
    }
    let mut publisher = target.client("p").await;
    for n in 0..10 {
        publisher.post(&target.name("t"), &n.to_string()).await;
    }
    let mut taken = Vec::new();
    for id in ["m1", "m2"] {
        taken.push(drain(&mut target.lasting_client(id).await.0).await);
    }
    complete(&taken, 10);
}

async fn own_qos(target: Target) {
    let mut members =
        [member(&target, "m0", "g", 0).await, member(&target, "m1", "g", 1).await, member(&target, "m2", "g", 2).await];
    let mut publisher = target.client("p").await;
    for n in 0..30 {
        publisher.publish(&Publish::new(&target.name("t"), n.to_string(), 2, 1)).await;
    }
    for (qos, member) in (0..).zip(&mut members) {
        while let Ok(packet) = timeout(Duration::from_millis(300), member.next()).await {
            let Packet::Publish(publish) = packet else { panic!("{packet:?}") };
            assert_eq!(publish.qos, qos);
            member.take(&publish).await;
        }
    }
}

async fn retained(target: Target) {
    let mut publisher = target.client("p").await;
    publisher.publish(&Publish::new(&target.name("t"), "kept", 1, 1).retained()).await;
    let mut member = member(&target, "m", "g", 1).await;
    publisher.post(&target.name("t"), "live").await;
    member.gets("live").await;
    member.quiet().await;
}

async fn no_local(target: Target) {
    let mut client = target.client("c").await;
    client.send(&subscribe(target.version, &[(&target.share("g", "t"), 0x04 | 1)], &Props::default())).await;
    client.ended(&[0x82]).await;
}

async fn bad_names(target: Target) {
    for filter in ["$share//x", "$share/g", "$share/g/", "$share/+/x", "$share/g#/x", "$share/a+b/x"] {
        let mut client = target.client("c").await;
        client.send(&subscribe(target.version, &[(filter, 1)], &Props::default())).await;
        match client.next().await {
            Packet::SubAck { codes, .. } => {
                let refused: &[u8] = if target.is_v5() { &[0x80, 0x8f] } else { &[0x80] };
                assert!(codes.len() == 1 && refused.contains(&codes[0]), "{filter}: {codes:x?}");
                client.leave().await;
            }
            Packet::Closed => {}
            Packet::Disconnect { code, .. } => assert!([0x81, 0x82, 0x8f].contains(&code), "{filter}: {code:#x}"),
            other => panic!("{filter}: {other:?}"),
        }
    }
}

async fn unsubscribing(target: Target) {
    let mut leaver = member(&target, "leaver", "g", 1).await;
    let mut stayer = member(&target, "stayer", "g", 1).await;
    let codes = leaver.unsubscribe(&[&target.name("t"), &target.share("g", "t")]).await;
    assert!(!target.is_v5() || codes == [0x11, 0], "{codes:x?}");
    let mut publisher = target.client("p").await;
    for n in 0..10 {
        publisher.post(&target.name("t"), &n.to_string()).await;
    }
    complete(&[drain(&mut stayer).await], 10);
    leaver.quiet().await;
}

async fn wildcards(target: Target) {
    let mut member = target.client("m").await;
    member.subscribe(&target.share("g", "/+/x/#"), 1).await;
    member.post(&target.name("/a/x"), "1").await;
    member.post(&target.name("/b/x/y/z"), "2").await;
    member.post(&target.name("/b/y"), "not for it").await;
    member.gets("1").await;
    member.gets("2").await;
    member.quiet().await;
}

async fn own_and_shared(target: Target) {
    let mut client = member(&target, "m", "g", 1).await;
    client.subscribe(&target.name("t"), 1).await;
    target.client("p").await.post(&target.name("t"), "x").await;
    client.gets("x").await;
    client.gets("x").await;
    client.quiet().await;
}

async fn identifier(target: Target) {
    let mut client = target.client("m").await;
    let props = Props::default().with(prop::SUBSCRIPTION_ID, Value::Variable(9));
    client.subscribe_with(&[(&target.share("g", "t"), 1)], &props).await;
    target.client("p").await.post(&target.name("t"), "x").await;
    assert_eq!(client.gets("x").await.props.all(prop::SUBSCRIPTION_ID), [&Value::Variable(9)]);
}
