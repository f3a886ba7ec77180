//! What goes wrong on purpose.

use super::*;

#[test]
fn a_lost_answer_is_followed_by_a_reset_and_the_device_has_the_message() {
    let mut sim = Sim::with_faults(Faults { lose_ack: 1.0, lose_ack_reset_ms: 100, ..Faults::default() });
    let mut client = sim.login();
    assert_eq!(client.burst(&mut sim, "a", 1..2), []);
    assert_eq!(client.server.deadline(&sim.service, sim.now), Some(sim.now + 100));
    sim.now += 100;
    assert_eq!(client.turn(&mut sim), []);
    assert_eq!(client.server.end(), Some(End::Reset));
    assert_eq!(sim.got("a"), ["1"]);
    assert_eq!((sim.stats().faults.lost_acks, sim.stats().faults.resets), (1, 1));
}

#[test]
fn nacks_come_out_of_thin_air_and_by_order_for_a_device() {
    let nack = vec![NackFault { code: "INTERNAL_SERVER_ERROR".into(), chance: 1.0, times: Some(1) }];
    let mut sim = Sim::with_faults(Faults { nack, ..Faults::default() });
    let mut client = sim.login();
    let refuse = Some(Refuse { code: "SERVICE_UNAVAILABLE".into(), times: 1 });
    sim.put("a", DevicePatch { refuse, ..DevicePatch::default() });
    let seen = client.burst(&mut sim, "a", 1..4);
    assert_eq!(brief(&seen), ["nack 1 INTERNAL_SERVER_ERROR", "nack 2 SERVICE_UNAVAILABLE", "ack 3"]);
    assert_eq!((sim.got("a"), sim.stats().faults.nacks), (vec!["3".to_owned()], 2));
}

#[test]
fn a_draining_connection_answers_what_it_has_and_refuses_what_is_new() {
    let mut sim = Sim::with_faults(Faults {
        drain_after: Some(2),
        drain: DrainPlan { notice: Notice::Control, close_ms: Some(500) },
        latency_ms: 10,
        ..Faults::default()
    });
    let mut client = sim.login();
    assert_eq!(brief(&client.burst(&mut sim, "a", 1..4)), ["draining"]);
    sim.now += 10;
    assert_eq!(brief(&client.turn(&mut sim)), ["ack 1", "ack 2", "nack 3 CONNECTION_DRAINING"]);
    assert!(client.raw.contains(
        "<message><data:gcm xmlns:data=\"google:mobile:data\">\
         {\"message_type\":\"control\",\"control_type\":\"CONNECTION_DRAINING\"}</data:gcm></message>"
    ));
    sim.speak("a", 1);
    assert_eq!(brief(&client.turn(&mut sim)), ["up 1"], "there is no other connection");
    assert_eq!(client.ack(&mut sim, "a", "1"), []);
    sim.now += 490;
    assert_eq!(brief(&client.turn(&mut sim)), ["close"]);
    assert_eq!(client.server.end(), Some(End::Close));
}

#[test]
fn draining_may_show_only_in_refusals() {
    let mut sim = Sim::new(SimConfig::default());
    let mut client = sim.login();
    let plan = DrainPlan { notice: Notice::Nack, close_ms: None };
    assert_eq!(sim.service.order(None, Order::Drain(plan)), 1);
    assert_eq!(client.turn(&mut sim), []);
    assert_eq!(brief(&client.burst(&mut sim, "a", 1..2)), ["nack 1 CONNECTION_DRAINING"]);
    sim.now += 40_000;
    client.turn(&mut sim);
    assert_eq!(client.server.end(), None);
}

#[test]
fn while_one_connection_drains_new_messages_take_the_other() {
    let mut sim = Sim::new(SimConfig::default());
    let (mut first, mut second) = (sim.login(), sim.login());
    let plan = DrainPlan { notice: Notice::Control, close_ms: Some(5) };
    sim.service.order(Some(first.server.id), Order::Drain(plan));
    assert_eq!(brief(&first.turn(&mut sim)), ["draining"]);
    for token in ["a", "b", "c", "d"] {
        sim.speak(token, 1);
    }
    assert_eq!((first.turn(&mut sim).len(), second.turn(&mut sim).len()), (0, 4));
}

#[test]
fn streams_are_closed_and_connections_reset_after_so_many_messages() {
    let mut sim = Sim::with_faults(Faults { close_after: Some(2), ..Faults::default() });
    let mut client = sim.login();
    assert_eq!(brief(&client.burst(&mut sim, "a", 1..3)), ["ack 1", "ack 2", "close"]);

    sim.service.set_faults(Faults { reset_after: Some(2), ..Faults::default() });
    let mut client = sim.login();
    assert_eq!(client.burst(&mut sim, "a", 1..3), []);
    assert_eq!(client.server.end(), Some(End::Reset));
}

#[test]
fn a_stalled_connection_neither_reads_nor_writes_until_it_is_over() {
    let mut sim = Sim::with_faults(Faults { stall_after: Some(1), stall_ms: 1_000, ..Faults::default() });
    let mut client = sim.login();
    assert_eq!(client.burst(&mut sim, "a", 1..3), []);
    assert!(!client.server.wants_read());
    assert_eq!(client.server.deadline(&sim.service, sim.now), Some(sim.now + 1_000));
    sim.now += 1_000;
    assert_eq!(brief(&client.turn(&mut sim)), ["ack 1", "ack 2"]);
    assert!(client.server.wants_read());

    sim.service.set_faults(Faults { stall: true, ..Faults::default() });
    assert_eq!(client.burst(&mut sim, "a", 3..4), []);
    assert_eq!(client.server.deadline(&sim.service, sim.now), None);
    sim.service.set_faults(Faults::default());
    assert_eq!(brief(&client.turn(&mut sim)), ["ack 3"]);
    sim.service.set_faults(Faults { stall: true, ..Faults::default() });
    sim.service.order(None, Order::Reset);
    client.turn(&mut sim);
    assert_eq!(client.server.end(), Some(End::Reset), "a stalled connection can be reset");
}

#[test]
fn messages_of_devices_and_receipts_come_twice() {
    let mut sim = Sim::with_faults(Faults { duplicate_upstream: 1.0, duplicate_receipt: 1.0, ..Faults::default() });
    let mut client = sim.login();
    let message = json!({"to": "a", "message_id": "m", "delivery_receipt_requested": true});
    assert_eq!(brief(&client.send(&mut sim, &message)), ["ack m", "receipt dr2:m", "receipt dr2:m"]);
    sim.speak("a", 1);
    assert_eq!(brief(&client.turn(&mut sim)), ["up 1", "up 1"]);
    assert_eq!(client.ack(&mut sim, "a", "1"), []);
    assert_eq!(client.ack(&mut sim, "a", "1"), [], "each copy is acknowledged");
    assert_eq!(brief(&client.ack(&mut sim, "a", "1")), ["error 406"]);
}

#[test]
fn receipts_may_come_first_or_not_at_all() {
    let receipts = |faults| {
        let mut sim = Sim::with_faults(Faults { latency_ms: 20, ..faults });
        let mut client = sim.login();
        let message = json!({"to": "a", "message_id": "m", "delivery_receipt_requested": true});
        let mut seen = client.send(&mut sim, &message);
        sim.now += 20;
        seen.extend(client.turn(&mut sim));
        brief(&seen)
    };
    assert_eq!(receipts(Faults::default()), ["ack m", "receipt dr2:m"]);
    assert_eq!(receipts(Faults { receipt_before_ack: true, ..Faults::default() }), ["receipt dr2:m", "ack m"]);
    assert_eq!(receipts(Faults { no_receipts: true, ..Faults::default() }), ["ack m"]);
}

#[test]
fn latency_delays_answers_and_jitter_keeps_their_order() {
    let mut sim = Sim::with_faults(Faults { latency_ms: 100, jitter_ms: 50, ..Faults::default() });
    let mut client = sim.login();
    assert_eq!(client.burst(&mut sim, "a", 0..50), []);
    sim.now += 99;
    assert_eq!(client.turn(&mut sim), []);
    let mut seen = Vec::new();
    for _ in 0..51 {
        sim.now += 1;
        seen.extend(brief(&client.turn(&mut sim)));
    }
    assert_eq!(seen, (0..50).map(|id| format!("ack {id}")).collect::<Vec<_>>());
}

#[test]
fn writes_are_cut_into_pieces_that_make_the_same_text() {
    let mut sim = Sim::with_faults(Faults { split_writes: true, ..Faults::default() });
    let mut client = sim.login();
    let before = client.pieces;
    let seen = client.burst(&mut sim, "a", 0..100);
    assert_eq!(seen.len(), 100);
    assert!(client.pieces - before > 30, "{} pieces", client.pieces - before);
}

#[test]
fn the_same_seed_gives_the_same_bytes_and_another_does_not() {
    let run = |seed| {
        let faults = Faults {
            nack: vec![NackFault { code: "SERVICE_UNAVAILABLE".into(), chance: 0.2, times: None }],
            lose_ack: 0.1,
            lose_ack_reset_ms: 10_000,
            duplicate_receipt: 0.3,
            split_writes: true,
            latency_ms: 5,
            jitter_ms: 20,
            ..Faults::default()
        };
        let mut sim = Sim::new(SimConfig { faults, seed, ..SimConfig::default() });
        let mut client = sim.login();
        let mut text = String::new();
        for id in 0..80 {
            let token = format!("d{}", id % 7);
            let message = json!({"to": token, "message_id": id.to_string(), "delivery_receipt_requested": true});
            text.push_str(&stanza(&message));
        }
        client.write(&mut sim, &text);
        for _ in 0..40 {
            sim.now += 1;
            client.turn(&mut sim);
        }
        (client.raw, client.pieces, sim.stats())
    };
    assert_eq!(run(11), run(11));
    assert_ne!(run(11).0, run(12).0);
    assert!(run(11).2.faults.nacks > 0 && run(11).2.faults.lost_acks > 0);
}
