//! What the demo says: first how to take part, then each step of each message.

use super::cast::{ALICE, BAL, BOB, CAROL, Player, password};
use super::phone::BOBS_PHONE;
use super::{APP, PHONES};
use crate::app::Addresses;
use crate::broker::identity::users::role_word;
use crate::ops::{message_log, print};
use crate::sim::SimHandle;
use crate::sim::event::SimEvent;
use std::fmt::Display;
use std::net::SocketAddr;
use std::path::Path;
use tokio::sync::broadcast;
use tokio_util::sync::CancellationToken;

/// Says where everything is, and what to type.
pub(super) fn welcome(addresses: Addresses, cast: &[Player], token_secret: Option<&Path>, sim: &SimHandle) {
    let Some(broker) = addresses.broker else { return };
    say(format_args!(
        "fcm-mqtt-bridge demo: embedded broker on {broker}, simulator with the phones {}.",
        PHONES.join(", ")
    ));
    match sim.v1() {
        None => say(format_args!("Transport ccs: XMPP over TLS with {}.", sim.address())),
        Some(v1) => {
            say(format_args!(
                "Transport fcm-v1: POST {}/v1/projects/{}/messages:send over HTTP/2.",
                v1.base_url(),
                v1.project()
            ));
            say("What phones send comes over CCS as before, for v1 has nothing for it; and their apps confirm");
            say(format_args!(
                "over MQTT, as the user {CAROL}, what they get: FCM HTTP v1 tells nothing of deliveries."
            ));
        }
    }
    if let Some(websocket) = addresses.websocket {
        say(format_args!("For web pages (mqtt.js): ws://{websocket}/mqtt"));
    }
    if !cast.is_empty() {
        say("\nUsers and passwords, made for this run:");
    }
    for Player { name, role, password } in cast {
        say(format_args!("  {name:<8} {password}   ({})", role_word(*role)));
    }
    commands(broker, cast);
    if let (Some(secret), Some(control)) = (token_secret, sim.control_address()) {
        say("\nGroups and calls: a program of the repository plays them, with users that log in by tokens of its own:");
        say(format_args!(
            "  python3 examples/group.py {} {} {} http://{control}",
            broker.ip(),
            broker.port(),
            secret.display()
        ));
    }
    say(format_args!("\nHealth: http://{0}/readyz  numbers: http://{0}/metrics", addresses.ops));
    if let Some(control) = sim.control_address() {
        say(format_args!(
            "A phone sends by itself: curl -X POST http://{control}/devices/phone-2/upstream \
             -d '{{\"category\":\"{APP}\",\"data\":{{\"hello\":\"backend\"}}}}'"
        ));
    }
    say("Stop with Ctrl-C. Each step of each message follows, and whom the broker refuses.\n");
}

/// Command lines that work as they are.
fn commands(broker: SocketAddr, cast: &[Player]) {
    // What every command line has: where to, and as whom.
    let client = |program: &str, user: &str| {
        let login = password(cast, user).map(|password| format!(" -u {user} -P {password}")).unwrap_or_default();
        format!("  {program} -h {} -p {}{login}", broker.ip(), broker.port())
    };
    say(format_args!("\nIn a second terminal, everything that comes in for the backend application `{BAL}`:"));
    say(format_args!("{} -q 1 -v -t '{BAL}/others/+'", client("mosquitto_sub", BAL)));
    say("\nIn a third one, a push to a phone (it answers):");
    say(format_args!(
        "{} -q 1 -t {BAL}/self/messages -m '{{\"id\":\"a1\",\"token\":\"{}\",\"data\":{{\"hello\":\"world\"}}}}'",
        client("mosquitto_pub", BAL),
        PHONES[0]
    ));
    if !cast.is_empty() {
        chat(client);
    }
    say("\nAnd what the bridge says of itself:");
    say(format_args!("{} -v -t _bridge/status", client("mosquitto_sub", BAL)));
}

/// Chat between the two users: each line is for a terminal of its own.
fn chat(client: impl Fn(&str, &str) -> String) {
    let (sub, publish) = (|user| client("mosquitto_sub", user), |user| client("mosquitto_pub", user));
    say(format_args!("\nChat. What comes to the devices of `{ALICE}`:"));
    say(format_args!("{} -i {ALICE}:laptop -q 1 -v -t '{ALICE}/others/+'", sub(ALICE)));
    say(format_args!("She writes to `{BOB}`, whose phone sleeps: the push that it gets is shown here."));
    say(format_args!(
        "{} -i {ALICE}:phone -q 1 -t {ALICE}/self/messages -m '{{\"to\":\"{BOB}\",\"body\":\"hi\"}}'",
        publish(ALICE)
    ));
    say("His phone wakes, and gets what waits for it:");
    say(format_args!("{} -i {BOB}:phone -c -q 1 -v -t '{BOB}/others/+'", sub(BOB)));
    say(format_args!(
        "Whom she wrote to sees when a device of `{ALICE}` comes and goes; let her come, and stop her with Ctrl-C:"
    ));
    say(format_args!("{} -v -t {ALICE}/self/presence", sub(BOB)));
    say(format_args!("{} -i {ALICE}:tablet -v -t '{ALICE}/#'", sub(ALICE)));
}

/// The demo runs on when nobody reads what it says.
fn say(text: impl Display) {
    let _ = print::line(text);
}

/// The phones' side of the story, until `stop`.
pub(super) async fn narrate(sim: &SimHandle, mut events: broadcast::Receiver<SimEvent>, stop: &CancellationToken) {
    loop {
        let event = tokio::select! {
            () = stop.cancelled() => return,
            event = events.recv() => event,
        };
        match event {
            Ok(event) => tell(sim, &event),
            Err(broadcast::error::RecvError::Lagged(_)) => {}
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}

fn tell(sim: &SimHandle, event: &SimEvent) {
    match event {
        SimEvent::Delivered { token, message_id, .. } if &**token == BOBS_PHONE => {
            let got = sim.received(BOBS_PHONE);
            if let Some(push) = got.iter().rfind(|push| push.message_id == **message_id) {
                // To the screen alone: no log has what is written in a message.
                let fields = format_args!(" push={}", push.data);
                message_log::show(&format!("{BOB}'s phone sleeps, and gets a push"), &fields);
            }
        }
        SimEvent::LoggedIn { sender, .. } => {
            tracing::debug!(target: message_log::TARGET, %sender, "push service: the bridge has logged in");
        }
        SimEvent::Taken { message_id } => {
            tracing::debug!(target: message_log::TARGET, sid = %message_id, "push service: took the message (200)");
        }
        SimEvent::Delivered { token, message_id, .. } => {
            tracing::debug!(target: message_log::TARGET, phone = %token, sid = %message_id, "push service: the phone has the message");
        }
        SimEvent::AppAck { topic, id } => {
            tracing::debug!(target: message_log::TARGET, topic = format!("{CAROL}/{topic}"), %id, "app on the phone: confirms over MQTT");
        }
        SimEvent::Acked { message_id, .. } => {
            tracing::debug!(target: message_log::TARGET, id = message_id, "push service: the bridge acknowledged");
        }
        _ => {}
    }
}
