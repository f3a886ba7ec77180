//! Clients that people use, and the log of an ordinary day.

use std::process::Stdio;

use fcm_mqtt_bridge::chat::principal::Role;
use fcm_mqtt_bridge::mqtt::Outcome;
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::Command;
use tokio::task::JoinSet;

use super::harness::{Harness, Users, outcome, password, soon};
use super::log::Log;
use super::peer::{PUBACK, PUBCOMP, PUBREC, PUBREL, Peer, Seen};

const INBOX: &str = "bal1/others/messages";
const OUTBOX: &str = "bal1/self/messages";

/// The two crates have the same shape and no type in common.
macro_rules! a_day_of {
    ($name:ident, $rumqttc:ident, $puback:pat) => {
        #[tokio::test]
        async fn $name() {
            use $rumqttc::{AsyncClient, MqttOptions, PublishOptions, PublishResult, QoS};

            let mut harness = Harness::open().await;
            let options = MqttOptions::new("bal1", ("127.0.0.1", harness.address.port()));
            let (client, mut events) = AsyncClient::builder(options).capacity(100).build();
            let mut tasks = JoinSet::new();
            tasks.spawn(async move { while events.poll().await.is_ok() {} });

            let subscribed = client.subscribe_tracked(INBOX, QoS::AtLeastOnce).await.unwrap();
            soon("a SUBACK", subscribed.wait_async()).await.unwrap();
            let mut notices = Vec::new();
            for n in 0..100 {
                let options = PublishOptions::new(if n % 10 == 9 { QoS::ExactlyOnce } else { QoS::AtLeastOnce });
                notices.push(client.publish_tracked(OUTBOX, n.to_string(), options).await.unwrap());
            }
            for n in 0..100 {
                assert_eq!(harness.take().await, (OUTBOX.to_owned(), n.to_string()));
            }
            for notice in notices {
                let result = soon("a PUBACK", notice.wait_async()).await.unwrap();
                assert!(matches!(result, $puback), "{result:?}");
            }
            for n in 0..100 {
                let answer = harness.publish(INBOX, &n.to_string()).await;
                assert_eq!(outcome(answer).await, Outcome::Confirmed);
            }
            client.disconnect().await.unwrap();
            harness.close().await;
        }
    };
}

a_day_of!(rumqttc_v4_works, rumqttc_v4, PublishResult::Qos1(_) | PublishResult::Qos2Completed(_));
a_day_of!(rumqttc_v5_works, rumqttc_v5, PublishResult::Qos1(_) | PublishResult::Qos2Completed(_));

#[tokio::test]
async fn mosquitto_pub_and_sub_work_in_both_versions() {
    let mut harness = Harness::open().await;
    let port = harness.address.port().to_string();
    for version in ["mqttv311", "mqttv5"] {
        let mut subscriber = Command::new("mosquitto_sub")
            .args(["-h", "127.0.0.1", "-p", &port, "-V", version, "-q", "1", "-C", "1", "-t", INBOX])
            .stdout(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(subscriber.stdout.take().unwrap()).lines();
        let answer = harness.publish(INBOX, "to the shell").await;
        assert_eq!(outcome(answer).await, Outcome::Confirmed);
        assert_eq!(soon("a line", lines.next_line()).await.unwrap().as_deref(), Some("to the shell"));
        assert!(soon("the end of it", subscriber.wait()).await.unwrap().success());

        let mut publisher = Command::new("mosquitto_pub")
            .args(["-h", "127.0.0.1", "-p", &port, "-V", version, "-q", "1", "-t", OUTBOX, "-m", version])
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        assert_eq!(harness.take().await, (OUTBOX.to_owned(), version.to_owned()));
        assert!(soon("the end of it", publisher.wait()).await.unwrap().success());
    }
    harness.close().await;
}

#[tokio::test]
async fn mosquitto_pub_and_sub_come_with_the_ids_that_they_make_for_themselves() {
    let users = Users::new(&[("bal1", Role::Bal), ("bal2", Role::Bal)]);
    let mut harness = Harness::bind(users.config()).await;
    let port = harness.address.port().to_string();
    let client = |program: &str, user: &str, args: &[&str]| {
        let mut command = Command::new(program);
        command.args(["-h", "127.0.0.1", "-p", &port, "-u", user, "-P", &password(user), "-q", "1"]).args(args);
        command.kill_on_drop(true);
        command
    };
    for version in ["mqttv311", "mqttv5"] {
        let mut readers = JoinSet::new();
        for user in ["bal1", "bal2"] {
            let inbox = format!("{user}/others/messages");
            let mut reader = client("mosquitto_sub", user, &["-V", version, "-C", "1", "-t", &inbox]);
            readers.spawn(async move { reader.stdout(Stdio::piped()).output().await.unwrap().stdout });
        }
        for user in ["bal1", "bal2"] {
            let answer = harness.publish(&format!("{user}/others/messages"), version).await;
            assert_eq!(outcome(answer).await, Outcome::Confirmed);
        }
        while let Some(read) = soon("a reader", readers.join_next()).await {
            assert_eq!(read.unwrap(), format!("{version}\n").into_bytes());
        }
        for user in ["bal1", "bal2"] {
            let outbox = format!("{user}/self/messages");
            let mut publisher =
                client("mosquitto_pub", user, &["-V", version, "-t", &outbox, "-m", "x"]).spawn().unwrap();
            assert_eq!(harness.take().await, (outbox, "x".to_owned()));
            assert!(soon("the end of it", publisher.wait()).await.unwrap().success());
        }
    }
    harness.close().await;
}

#[tokio::test]
async fn an_ordinary_day_logs_no_warning() {
    let log = Log::default();
    let guard = log.listen(tracing::Level::WARN);
    tracing::warn!("the log works");

    let mut harness = Harness::open().await;
    let (mut bal, _) = Peer::lasting(&harness, "bal1").await;
    bal.subscribe(INBOX, 1).await;
    bal.publish_with(0, OUTBOX, 0, &[], "0").await;
    bal.publish(OUTBOX, 1, "1").await;
    bal.publish_with(0b0100, OUTBOX, 2, &[], "2").await;
    for n in 0..3 {
        assert_eq!(harness.take().await.1, n.to_string());
    }
    assert_eq!(bal.next().await, Seen::Ack(PUBACK, 1, 0));
    assert_eq!(bal.next().await, Seen::Ack(PUBREC, 2, 0));
    bal.ack(PUBREL, 2).await;
    assert_eq!(bal.next().await, Seen::Ack(PUBCOMP, 2, 0));
    let answer = harness.publish(INBOX, "x").await;
    bal.message().await;
    drop(bal);

    // It comes back, is displaced by itself, leaves in order; one dials and hangs up; the bridge lets a message go.
    let (mut bal, _) = Peer::lasting(&harness, "bal1").await;
    let (_, id, dup) = bal.message().await;
    assert!(dup);
    bal.ack(PUBACK, id).await;
    assert_eq!(outcome(answer).await, Outcome::Confirmed);
    bal.quiet().await;
    let (bal, _) = Peer::lasting(&harness, "bal1").await;
    bal.disconnect().await;
    drop(Peer::dial(&harness, 5).await);
    let mut other = Peer::new(&harness, "other").await;
    other.publish("other/self/messages", 1, "x").await;
    drop(harness.inbound().await);
    assert_eq!(other.next().await, Seen::Closed);
    harness.close().await;

    drop(guard);
    let log = log.text();
    let lines: Vec<_> = log.lines().collect();
    assert!(lines.len() == 1 && lines[0].contains("the log works"), "{log}");
}
