use super::*;
use crate::sim::device::{DevicePatch, Refuse};

fn world() -> World {
    World::new(WorldConfig { max_devices: 4, records_per_device: 3, ..WorldConfig::default() })
}

fn message(id: &str) -> Arc<Message> {
    Arc::new(Message {
        id: id.into(),
        data: r#"{"k":"v"}"#.into(),
        notification: None,
        collapse: None,
        expires_at: u64::MAX,
        apns: None,
        answered_at: 0,
        receipt: true,
        confirm: None,
    })
}

fn to(target: Target, id: &str) -> Push {
    Push { target, message: message(id), mode: Mode::Deliver }
}

fn send(world: &mut World, token: &str, id: &str) -> Result<Accepted, Refusal> {
    world.push(&to(Target::Token(token.into()), id), 1)
}

fn got(world: &World, token: &str) -> Vec<String> {
    world
        .device(token, 0, 100)
        .map_or_else(Vec::new, |device| device.messages.into_iter().map(|record| record.message_id).collect())
}

fn state(state: Presence) -> DevicePatch {
    DevicePatch { state: Some(state), ..DevicePatch::default() }
}

#[test]
fn an_unknown_token_is_a_new_device_if_it_may_be() {
    let mut open = world();
    assert_eq!(send(&mut open, "a", "1"), Ok(Accepted { canonical: None }));
    assert_eq!(got(&open, "a"), ["1"]);
    assert_eq!(send(&mut open, "white space", "1"), Err(Refusal::BadToken));

    let mut closed = World::new(WorldConfig { auto_devices: None, ..WorldConfig::default() });
    assert_eq!(send(&mut closed, "a", "1"), Err(Refusal::BadToken));
    let mut prefixed = World::new(WorldConfig { auto_devices: Some("ok-".into()), ..WorldConfig::default() });
    assert_eq!(send(&mut prefixed, "a", "1"), Err(Refusal::BadToken));
    assert!(send(&mut prefixed, "ok-a", "1").is_ok());
}

#[test]
fn an_uninstalled_device_is_unregistered() {
    let mut world = world();
    world.put("a", state(Presence::Uninstalled), 0).unwrap();
    assert_eq!(send(&mut world, "a", "1"), Err(Refusal::Unregistered));
    assert_eq!(got(&world, "a"), [""; 0]);
}

#[test]
fn an_offline_device_gets_everything_in_order_when_it_comes_back() {
    let mut world = world();
    world.put("a", state(Presence::Offline), 0).unwrap();
    for id in ["1", "2", "3"] {
        send(&mut world, "a", id).unwrap();
    }
    assert_eq!(world.poll(), None);
    world.put("a", state(Presence::Online), 5).unwrap();
    assert_eq!(got(&world, "a"), ["1", "2", "3"]);
}

#[test]
fn a_slow_device_gets_its_messages_when_they_are_due() {
    let mut world = world();
    world.put("a", DevicePatch { delay_ms: Some(100), ..state(Presence::Slow) }, 0).unwrap();
    send(&mut world, "a", "1").unwrap();
    assert_eq!(world.next_due(), Some(101));
    world.tick(100);
    assert_eq!(got(&world, "a"), [""; 0]);
    world.tick(101);
    assert_eq!(got(&world, "a"), ["1"]);
    assert_eq!(world.next_due(), None);
}

#[test]
fn what_is_on_its_way_is_limited_and_no_delay_is_too_long() {
    let mut world = World::new(WorldConfig { on_the_way: 2, ..WorldConfig::default() });
    world.put("a", DevicePatch { delay_ms: Some(u64::MAX), ..state(Presence::Slow) }, 0).unwrap();
    assert!(send(&mut world, "a", "1").is_ok() && send(&mut world, "a", "2").is_ok());
    assert_eq!(send(&mut world, "b", "3"), Err(Refusal::Full));
    assert_eq!(world.next_due(), Some(u64::MAX));
}

#[test]
fn an_old_token_leads_to_the_same_device_and_announces_the_new_one() {
    let mut world = world();
    send(&mut world, "old", "1").unwrap();
    let patch = DevicePatch { canonical: Some("new".into()), ..DevicePatch::default() };
    world.put("old", patch.clone(), 0).unwrap();
    assert_eq!(send(&mut world, "old", "2"), Ok(Accepted { canonical: Some("new".into()) }));
    assert_eq!(send(&mut world, "new", "3"), Ok(Accepted { canonical: None }));
    assert_eq!(got(&world, "new"), ["1", "2", "3"]);
    send(&mut world, "other", "4").unwrap();
    assert_eq!(world.put("other", patch, 0), Err(WorldError::Taken));
}

#[test]
fn topics_and_conditions_reach_their_subscribers_once() {
    let mut world = world();
    for (token, topics) in [("a", &["x", "y"][..]), ("b", &["Y"]), ("c", &["z"])] {
        let topics = Some(topics.iter().map(|&topic| topic.to_owned()).collect());
        world.put(token, DevicePatch { topics, ..DevicePatch::default() }, 0).unwrap();
    }
    world.push(&to(Target::Topic("y".into()), "1"), 0).unwrap();
    let condition = Condition::parse("'x' in topics || 'y' in topics").unwrap();
    world.push(&to(Target::Condition(condition), "2"), 0).unwrap();
    let none = DevicePatch { topics: Some(BTreeSet::new()), ..DevicePatch::default() };
    world.put("b", none, 0).unwrap();
    world.push(&to(Target::Topic("y".into()), "3"), 0).unwrap();
    assert_eq!(got(&world, "a"), ["1", "2", "3"]);
    assert_eq!(got(&world, "b"), ["1", "2"]);
    assert_eq!(got(&world, "c"), [""; 0]);
}

#[test]
fn the_record_counts_duplicates_and_keeps_its_limit() {
    let mut world = world();
    for id in ["1", "2", "2", "3"] {
        send(&mut world, "a", id).unwrap();
    }
    let device = world.device("a", 0, 100).unwrap();
    assert_eq!((device.summary.received, device.summary.duplicates), (4, 1));
    let kept: Vec<_> =
        device.messages.iter().map(|record| (record.seq, record.message_id.as_str(), record.copy)).collect();
    assert_eq!(kept, [(2, "2", 1), (3, "2", 2), (4, "3", 1)]);
    assert_eq!(world.device("a", 3, 100).unwrap().messages.len(), 1);
}

#[test]
fn the_memory_of_all_devices_together_is_bounded() {
    let weight = message("100").weight();
    let config = WorldConfig { record_bytes: 10 * weight, records_per_device: 7, ..WorldConfig::default() };
    let mut world = World::new(config);
    for n in 0..500 {
        send(&mut world, ["a", "a", "b", "c"][n % 4], &(100 + n).to_string()).unwrap();
        assert!(world.remembered_bytes <= 10 * weight);
        assert!(world.ages.len() <= 2 * world.remembered + AGES_SLACK + 1);
    }
    let kept: usize = ["a", "b", "c"].map(|token| got(&world, token).len()).iter().sum();
    assert_eq!(kept * weight, world.remembered_bytes);
}

#[test]
fn devices_are_limited() {
    let mut world = world();
    for token in ["a", "b", "c", "d"] {
        send(&mut world, token, "1").unwrap();
    }
    assert_eq!(send(&mut world, "e", "1"), Err(Refusal::Full));
    assert_eq!(world.put("e", DevicePatch::default(), 0), Err(WorldError::Full(4)));
}

#[test]
fn an_echo_answers_each_message_with_its_id_and_data() {
    let mut world = world();
    world.put("a", DevicePatch { echo: Some("com.app".into()), ..DevicePatch::default() }, 0).unwrap();
    send(&mut world, "a", "m\"1").unwrap();
    assert!(matches!(world.poll(), Some(Happening::Delivered { receipt: true, copy: 1, .. })));
    let Some(Happening::Said { category, message_id, data, .. }) = world.poll() else {
        panic!("no answer");
    };
    assert_eq!((&*category, message_id.as_str()), ("com.app", "1"));
    assert_eq!(data, r#"{"echo_of":"m\"1","k":"v"}"#);
}

#[test]
fn a_dry_run_and_a_refusal_deliver_nothing() {
    let mut world = world();
    let dry = Push { mode: Mode::DryRun, ..to(Target::Token("a".into()), "1") };
    assert!(world.push(&dry, 0).is_ok());
    let refuse = Some(Refuse { code: "SERVICE_UNAVAILABLE".into(), times: 1 });
    world.put("a", DevicePatch { refuse, ..DevicePatch::default() }, 0).unwrap();
    assert_eq!(send(&mut world, "a", "2"), Err(Refusal::Ordered("SERVICE_UNAVAILABLE".into())));
    assert_eq!(got(&world, "a"), [""; 0]);
    assert!(send(&mut world, "a", "3").is_ok());
}
