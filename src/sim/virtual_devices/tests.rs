use super::*;
use crate::sim::device::{DevicePatch, Refuse};

fn devices() -> VirtualDevices {
    VirtualDevices::new(VirtualDevicesConfig {
        max_devices: 4,
        records_per_device: 3,
        ..VirtualDevicesConfig::default()
    })
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

fn send(devices: &mut VirtualDevices, token: &str, id: &str) -> Result<Accepted, Refusal> {
    devices.push(&to(Target::Token(token.into()), id), 1)
}

fn got(devices: &VirtualDevices, token: &str) -> Vec<String> {
    devices
        .device(token, 0, 100)
        .map_or_else(Vec::new, |device| device.messages.into_iter().map(|record| record.message_id).collect())
}

fn state(state: Presence) -> DevicePatch {
    DevicePatch { state: Some(state), ..DevicePatch::default() }
}

#[test]
fn an_unknown_token_is_a_new_device_if_it_may_be() {
    let mut open = devices();
    assert_eq!(send(&mut open, "a", "1"), Ok(Accepted { canonical: None }));
    assert_eq!(got(&open, "a"), ["1"]);
    assert_eq!(send(&mut open, "white space", "1"), Err(Refusal::BadToken));

    let mut closed =
        VirtualDevices::new(VirtualDevicesConfig { auto_devices: None, ..VirtualDevicesConfig::default() });
    assert_eq!(send(&mut closed, "a", "1"), Err(Refusal::BadToken));
    let mut prefixed = VirtualDevices::new(VirtualDevicesConfig {
        auto_devices: Some("ok-".into()),
        ..VirtualDevicesConfig::default()
    });
    assert_eq!(send(&mut prefixed, "a", "1"), Err(Refusal::BadToken));
    assert!(send(&mut prefixed, "ok-a", "1").is_ok());
}

#[test]
fn an_uninstalled_device_is_unregistered() {
    let mut devices = devices();
    devices.put("a", state(Presence::Uninstalled), 0).unwrap();
    assert_eq!(send(&mut devices, "a", "1"), Err(Refusal::Unregistered));
    assert_eq!(got(&devices, "a"), [""; 0]);
}

#[test]
fn an_offline_device_gets_everything_in_order_when_it_comes_back() {
    let mut devices = devices();
    devices.put("a", state(Presence::Offline), 0).unwrap();
    for id in ["1", "2", "3"] {
        send(&mut devices, "a", id).unwrap();
    }
    assert_eq!(devices.poll(), None);
    devices.put("a", state(Presence::Online), 5).unwrap();
    assert_eq!(got(&devices, "a"), ["1", "2", "3"]);
}

#[test]
fn a_slow_device_gets_its_messages_when_they_are_due() {
    let mut devices = devices();
    devices.put("a", DevicePatch { delay_ms: Some(100), ..state(Presence::Slow) }, 0).unwrap();
    send(&mut devices, "a", "1").unwrap();
    assert_eq!(devices.next_due(), Some(101));
    devices.tick(100);
    assert_eq!(got(&devices, "a"), [""; 0]);
    devices.tick(101);
    assert_eq!(got(&devices, "a"), ["1"]);
    assert_eq!(devices.next_due(), None);
}

#[test]
fn what_is_on_its_way_is_limited_and_no_delay_is_too_long() {
    let mut devices = VirtualDevices::new(VirtualDevicesConfig { on_the_way: 2, ..VirtualDevicesConfig::default() });
    devices.put("a", DevicePatch { delay_ms: Some(u64::MAX), ..state(Presence::Slow) }, 0).unwrap();
    assert!(send(&mut devices, "a", "1").is_ok() && send(&mut devices, "a", "2").is_ok());
    assert_eq!(send(&mut devices, "b", "3"), Err(Refusal::Full));
    assert_eq!(devices.next_due(), Some(u64::MAX));
}

#[test]
fn an_old_token_leads_to_the_same_device_and_announces_the_new_one() {
    let mut devices = devices();
    send(&mut devices, "old", "1").unwrap();
    let patch = DevicePatch { canonical: Some("new".into()), ..DevicePatch::default() };
    devices.put("old", patch.clone(), 0).unwrap();
    assert_eq!(send(&mut devices, "old", "2"), Ok(Accepted { canonical: Some("new".into()) }));
    assert_eq!(send(&mut devices, "new", "3"), Ok(Accepted { canonical: None }));
    assert_eq!(got(&devices, "new"), ["1", "2", "3"]);
    send(&mut devices, "other", "4").unwrap();
    assert_eq!(devices.put("other", patch, 0), Err(DeviceError::Taken));
}

#[test]
fn topics_and_conditions_reach_their_subscribers_once() {
    let mut devices = devices();
    for (token, topics) in [("a", &["x", "y"][..]), ("b", &["Y"]), ("c", &["z"])] {
        let topics = Some(topics.iter().map(|&topic| topic.to_owned()).collect());
        devices.put(token, DevicePatch { topics, ..DevicePatch::default() }, 0).unwrap();
    }
    devices.push(&to(Target::Topic("y".into()), "1"), 0).unwrap();
    let condition = Condition::parse("'x' in topics || 'y' in topics").unwrap();
    devices.push(&to(Target::Condition(condition), "2"), 0).unwrap();
    let none = DevicePatch { topics: Some(BTreeSet::new()), ..DevicePatch::default() };
    devices.put("b", none, 0).unwrap();
    devices.push(&to(Target::Topic("y".into()), "3"), 0).unwrap();
    assert_eq!(got(&devices, "a"), ["1", "2", "3"]);
    assert_eq!(got(&devices, "b"), ["1", "2"]);
    assert_eq!(got(&devices, "c"), [""; 0]);
}

#[test]
fn the_record_counts_duplicates_and_keeps_its_limit() {
    let mut devices = devices();
    for id in ["1", "2", "2", "3"] {
        send(&mut devices, "a", id).unwrap();
    }
    let device = devices.device("a", 0, 100).unwrap();
    assert_eq!((device.summary.received, device.summary.duplicates), (4, 1));
    let kept: Vec<_> =
        device.messages.iter().map(|record| (record.seq, record.message_id.as_str(), record.copy)).collect();
    assert_eq!(kept, [(2, "2", 1), (3, "2", 2), (4, "3", 1)]);
    assert_eq!(devices.device("a", 3, 100).unwrap().messages.len(), 1);
}

#[test]
fn the_memory_of_all_devices_together_is_bounded() {
    let weight = message("100").weight();
    let config =
        VirtualDevicesConfig { record_bytes: 10 * weight, records_per_device: 7, ..VirtualDevicesConfig::default() };
    let mut devices = VirtualDevices::new(config);
    for n in 0..500 {
        send(&mut devices, ["a", "a", "b", "c"][n % 4], &(100 + n).to_string()).unwrap();
        assert!(devices.remembered_bytes <= 10 * weight);
        assert!(devices.ages.len() <= 2 * devices.remembered + AGES_SLACK + 1);
    }
    let kept: usize = ["a", "b", "c"].map(|token| got(&devices, token).len()).iter().sum();
    assert_eq!(kept * weight, devices.remembered_bytes);
}

#[test]
fn devices_are_limited() {
    let mut devices = devices();
    for token in ["a", "b", "c", "d"] {
        send(&mut devices, token, "1").unwrap();
    }
    assert_eq!(send(&mut devices, "e", "1"), Err(Refusal::Full));
    assert_eq!(devices.put("e", DevicePatch::default(), 0), Err(DeviceError::Full(4)));
}

#[test]
fn an_echo_answers_each_message_with_its_id_and_data() {
    let mut devices = devices();
    devices.put("a", DevicePatch { echo: Some("com.app".into()), ..DevicePatch::default() }, 0).unwrap();
    send(&mut devices, "a", "m\"1").unwrap();
    assert!(matches!(devices.poll(), Some(Happening::Delivered { receipt: true, copy: 1, .. })));
    let Some(Happening::Said { category, message_id, data, .. }) = devices.poll() else {
        panic!("no answer");
    };
    assert_eq!((&*category, message_id.as_str()), ("com.app", "1"));
    assert_eq!(data, r#"{"echo_of":"m\"1","k":"v"}"#);
}

#[test]
fn a_dry_run_and_a_refusal_deliver_nothing() {
    let mut devices = devices();
    let dry = Push { mode: Mode::DryRun, ..to(Target::Token("a".into()), "1") };
    assert!(devices.push(&dry, 0).is_ok());
    let refuse = Some(Refuse { code: "SERVICE_UNAVAILABLE".into(), times: 1 });
    devices.put("a", DevicePatch { refuse, ..DevicePatch::default() }, 0).unwrap();
    assert_eq!(send(&mut devices, "a", "2"), Err(Refusal::Ordered("SERVICE_UNAVAILABLE".into())));
    assert_eq!(got(&devices, "a"), [""; 0]);
    assert!(send(&mut devices, "a", "3").is_ok());
}
