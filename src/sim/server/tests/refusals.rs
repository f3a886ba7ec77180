//! What the real server refuses.

use super::*;

fn refusal(config: SimConfig, payload: &Value) -> (Vec<Seen>, Stats) {
    let mut sim = Sim::new(config);
    let mut client = sim.login();
    let seen = client.send(&mut sim, payload);
    (seen, sim.stats())
}

fn nack_of(payload: Value) -> (String, String) {
    let (seen, stats) = refusal(SimConfig::default(), &payload);
    assert_eq!(stats.delivered, 0);
    match &seen[..] {
        [Seen::Payload(Inbound::Nack(nack))] => (nack.error.clone(), nack.description().to_owned()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn the_contents_of_a_message_are_checked() {
    for (payload, word) in [
        (json!({"to": "a", "message_id": "1", "time_to_live": "600"}), "JSON_TYPE_ERROR"),
        (json!({"to": "a", "message_id": "1", "time_to_live": 2_419_201}), "INVALID_TTL"),
        (json!({"to": "a", "message_id": "1", "data": {"google.x": "1"}}), "InvalidDataKey"),
        (json!({"to": "a", "message_id": "1", "data": {"k": "x".repeat(4096)}}), "MessageTooBig"),
        (json!({"to": "/topics/t", "message_id": "1", "data": {"k": "x".repeat(2048)}}), "MessageTooBig"),
        (json!({"message_id": "1"}), "MissingRegistration"),
        (json!({"to": "a", "condition": "'x' in topics", "message_id": "1"}), "InvalidParameters"),
    ] {
        let (code, description) = nack_of(payload);
        assert_eq!(code, "INVALID_JSON");
        assert!(description.starts_with("InvalidJson: ") && description.contains(word), "{description}");
    }
}

#[test]
fn tokens_that_never_were_and_tokens_that_are_no_more() {
    let mut config = SimConfig::default();
    config.devices.auto_devices = None;
    let mut sim = Sim::new(config);
    let mut client = sim.login();
    sim.put("gone", DevicePatch { state: Some(Presence::Uninstalled), ..DevicePatch::default() });
    let seen = client.send(&mut sim, &json!({"to": "never", "message_id": "1"}));
    assert_eq!(brief(&seen), ["nack 1 BAD_REGISTRATION"]);
    let seen = client.send(&mut sim, &json!({"to": "gone", "message_id": "2"}));
    assert_eq!(brief(&seen), ["nack 2 DEVICE_UNREGISTERED"]);
    assert!(!client.raw.contains("description\":\"never"), "no token in a description");
}

#[test]
fn a_message_without_an_id_is_a_stanza_error_that_repeats_it() {
    let (seen, stats) = refusal(SimConfig::default(), &json!({"to": "a", "data": {"k": "v"}}));
    let [Seen::Error(error)] = &seen[..] else { panic!("{seen:?}") };
    assert_eq!((error.code, error.condition.as_str(), error.kind.as_str()), (Some(400), "bad-request", "modify"));
    assert_eq!(error.id.as_deref(), Some("s-1"));
    assert_eq!(error.text, "InvalidJson: JSON_PARSING_ERROR : Missing Required Field: message_id");
    assert_eq!(error.echo.as_deref(), Some(r#"{"to":"a","data":{"k":"v"}}"#));
    assert_eq!((stats.stanza_errors[&400], stats.violations.bad_stanza, stats.delivered), (1, 1, 0));
}

#[test]
fn what_is_not_json_is_a_stanza_error_and_the_stream_goes_on() {
    let mut sim = Sim::new(SimConfig::default());
    let mut client = sim.login();
    let mut text = String::new();
    for json in ["{\"to\":", "[]", ""] {
        write::message(&mut text, "", json);
    }
    text.push_str(&stanza(&json!({"to": "a", "message_id": "1"})));
    assert_eq!(brief(&client.write(&mut sim, &text)), ["error 400", "error 400", "error 400", "ack 1"]);
}

#[test]
fn an_acknowledgement_of_nothing_is_a_stanza_error() {
    let mut sim = Sim::new(SimConfig::default());
    let (mut first, mut second) = (sim.login(), sim.login());
    sim.speak("a", 1);
    let mut seen = [first.turn(&mut sim), second.turn(&mut sim)];
    let (right, wrong) = if seen[0].is_empty() { (&mut second, &mut first) } else { (&mut first, &mut second) };
    assert_eq!(brief(&seen.concat()), ["up 1"]);
    seen[0] = wrong.ack(&mut sim, "a", "1");
    let [Seen::Error(error)] = &seen[0][..] else { panic!("{seen:?}") };
    assert_eq!(error.code, Some(406));
    assert_eq!(error.text, "Received acks for messages not sent over this connection");
    assert_eq!(right.ack(&mut sim, "a", "1"), []);
    assert_eq!(brief(&right.ack(&mut sim, "a", "1")), ["error 406"], "once is enough");
    let stats = sim.stats();
    assert_eq!((stats.violations.foreign_ack, stats.upstream.acked), (2, 1));
}

#[test]
fn a_malformed_acknowledgement_is_a_bad_ack_and_a_misspelt_one_a_message() {
    let mut sim = Sim::new(SimConfig::default());
    let mut client = sim.login();
    let seen = client.send(&mut sim, &json!({"message_id": "7", "message_type": "ack"}));
    assert_eq!(brief(&seen), ["nack 7 BAD_ACK"]);
    let seen = client.send(&mut sim, &json!({"to": "a", "message_id": "7", "message_type": "akc"}));
    assert_eq!(brief(&seen), ["ack 7"]);
    assert_eq!(sim.got("a"), ["7"], "an empty push, as on the real server");
    let violations = sim.stats().violations;
    assert_eq!((violations.bad_ack, violations.message_type), (1, 1));
}

#[test]
fn a_full_window_is_no_violation() {
    let mut sim = Sim::with_faults(Faults { latency_ms: 50, ..Faults::default() });
    let mut client = sim.login();
    assert_eq!(client.burst(&mut sim, "a", 0..100), []);
    sim.now += 50;
    assert_eq!(client.turn(&mut sim).len(), 100);
    assert_eq!(client.burst(&mut sim, "a", 100..200), []);
    let stats = sim.stats();
    assert_eq!((stats.violations.window, stats.most_unanswered), (0, 100));
}

#[test]
fn a_message_too_many_is_punished_as_configured() {
    let overrun = |overrun| {
        let mut config = SimConfig::default();
        config.wire.overrun = overrun;
        let mut sim = Sim::new(config);
        let mut client = sim.login();
        let seen = brief(&client.burst(&mut sim, "a", 0..102));
        assert_eq!(sim.stats().violations.window, if overrun == Overrun::Close { 1 } else { 2 });
        (seen, client.server.end())
    };
    let (seen, end) = overrun(Overrun::Nothing);
    assert_eq!((seen.len(), seen[101].as_str(), end), (102, "ack 101", None));
    let (seen, end) = overrun(Overrun::Nack);
    assert_eq!((seen[99].as_str(), seen[100].as_str(), end), ("ack 99", "nack 100 SERVICE_UNAVAILABLE", None));
    let (seen, end) = overrun(Overrun::Close);
    assert_eq!((seen, end), (vec!["stream-error policy-violation".into(), "close".into()], Some(End::Close)));
}

#[test]
fn even_without_punishment_a_flood_ends_somewhere() {
    let mut config = SimConfig { faults: Faults { latency_ms: u64::MAX, ..Faults::default() }, ..SimConfig::default() };
    config.wire.overrun = Overrun::Nothing;
    let mut sim = Sim::new(config);
    let mut client = sim.login();
    assert_eq!(client.burst(&mut sim, "a", 0..10_000), []);
    assert_eq!(brief(&client.burst(&mut sim, "a", 0..2)), ["stream-error policy-violation", "close"]);
}

#[test]
fn an_id_that_is_still_unanswered_must_not_come_again() {
    let mut sim = Sim::with_faults(Faults { latency_ms: 10, ..Faults::default() });
    let mut client = sim.login();
    client.burst(&mut sim, "a", 1..2);
    client.burst(&mut sim, "a", 1..2);
    assert_eq!(sim.stats().violations.duplicate_id, 1);
    sim.now += 10;
    assert_eq!(client.turn(&mut sim).len(), 2);
    client.burst(&mut sim, "a", 1..2);
    assert_eq!(sim.stats().violations.duplicate_id, 1, "it is answered, so it may come again");
    assert_eq!(sim.stats().duplicates, 2);
}

#[test]
fn what_is_not_well_formed_ends_the_stream() {
    let mut sim = Sim::new(SimConfig::default());
    let mut client = sim.login();
    let text = stanza(&json!({"to": "a", "message_id": "1"})) + "<message><gcm></message></gcm>";
    let seen = client.write(&mut sim, &text);
    assert_eq!(seen.last(), Some(&Seen::Close));
    assert!(client.raw.contains("<not-well-formed xmlns="));
    assert_eq!((sim.stats().violations.malformed, client.server.end()), (1, Some(End::Close)));
}

#[test]
fn a_client_may_end_the_stream_with_an_error() {
    let mut sim = Sim::new(SimConfig::default());
    let mut client = sim.login();
    let mut text = String::new();
    write::stream_error(&mut text, "connection-timeout");
    assert_eq!(brief(&client.write(&mut sim, &text)), ["close"]);
    assert_eq!((sim.stats().violations.out_of_place, client.server.end()), (0, Some(End::Close)));
}

#[test]
fn presence_and_empty_messages_are_counted_and_left_alone() {
    let mut sim = Sim::new(SimConfig::default());
    let mut client = sim.login();
    assert_eq!(client.write(&mut sim, "<presence/><message><body>hi</body></message>"), []);
    assert_eq!((sim.stats().violations.out_of_place, client.server.end()), (2, None));
}

#[test]
fn a_stanza_over_the_limit_ends_the_stream() {
    let mut config = SimConfig::default();
    config.wire.stanza_bytes = 2_000;
    let mut sim = Sim::new(config);
    let mut client = sim.login();
    let seen = client.send(&mut sim, &json!({"to": "a", "message_id": "1", "data": {"k": "x".repeat(3_000)}}));
    assert_eq!(brief(&seen), ["stream-error policy-violation", "close"]);
    assert_eq!(sim.stats().violations.oversize, 1);
}
