//! Bridges of mosquitto as they come: with the client id, the protocol level and the notifications of their defaults.

use std::net::TcpListener;
use std::process::Stdio;

use fcm_mqtt_bridge::chat::principal::Role;
use fcm_mqtt_bridge::mqtt::Outcome;
use fcm_mqtt_bridge::ops::metrics::Metric;
use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, BufReader, Lines};
use tokio::process::{Child, ChildStderr, ChildStdout, Command};

use super::harness::{Harness, Users, outcome, password, soon};

/// Others may take a free port before mosquitto does.
const ATTEMPTS: usize = 5;

/// A mosquitto of `user` with a bridge to the broker.
struct Mosquitto {
    port: u16,
    _folder: TempDir,
    _child: Child,
    log: Lines<BufReader<ChildStderr>>,
}

impl Mosquitto {
    async fn start(harness: &Harness, user: &str, more: &str) -> Self {
        for _ in 0..ATTEMPTS {
            let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
            let folder = tempfile::tempdir().unwrap();
            let file = folder.path().join("mosquitto.conf");
            let text = format!(
                "user root\nlog_type all\nlistener {port} 127.0.0.1\nallow_anonymous true\n\
                 connection main\naddress 127.0.0.1:{}\nremote_username {user}\nremote_password {}\n\
                 topic {user}/self/# out 1\ntopic {user}/others/# in 1\n{more}\n",
                harness.address.port(),
                password(user)
            );
            std::fs::write(&file, text).unwrap();
            let mut child = Command::new("mosquitto")
                .arg("-c")
                .arg(file)
                .stdin(Stdio::null())
                .stdout(Stdio::null())
                .stderr(Stdio::piped())
                .kill_on_drop(true)
                .spawn()
                .expect("mosquitto is installed");
            let log = BufReader::new(child.stderr.take().unwrap()).lines();
            let mut new = Self { port, _folder: folder, _child: child, log };
            if new.logs("running").await {
                return new;
            }
        }
        panic!("mosquitto does not start");
    }

    /// Waits for a line that has `words`; false if it ends before.
    async fn logs(&mut self, words: &str) -> bool {
        while let Some(line) = soon("a line of mosquitto", self.log.next_line()).await.unwrap() {
            if line.contains(words) {
                return true;
            }
        }
        false
    }

    fn client(&self, program: &str, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.args(["-h", "127.0.0.1", "-p", &self.port.to_string(), "-q", "1"]).args(args).kill_on_drop(true);
        command
    }
}

#[tokio::test]
async fn two_bridges_of_mosquitto_with_their_defaults_work_at_once() {
    two_bridges("").await;
}

#[tokio::test]
async fn and_so_they_do_with_mqtt_5() {
    two_bridges("bridge_protocol_version mqttv50").await;
}

/// Two of them on one machine, with the same name of the connection, and so with the same client id.
async fn two_bridges(more: &str) {
    let users = Users::new(&[("bal1", Role::Bal), ("bal2", Role::Bal)]);
    let mut harness = Harness::bind(users.config()).await;
    let mut readers: Vec<(Child, Lines<BufReader<ChildStdout>>)> = Vec::new();
    let mut all = Vec::new();
    for user in ["bal1", "bal2"] {
        let mut mosquitto = Mosquitto::start(&harness, user, more).await;
        // Its publication into $SYS is acknowledged, and its subscription granted.
        assert!(mosquitto.logs("Received SUBACK").await);
        let topic = format!("{user}/others/messages");
        let mut child = mosquitto.client("mosquitto_sub", &["-t", &topic]).stdout(Stdio::piped()).spawn().unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        assert!(mosquitto.logs("Sending SUBACK").await);
        readers.push((child, lines));
        all.push(mosquitto);
    }
    for round in 0..3 {
        for (mosquitto, user) in all.iter().zip(["bal1", "bal2"]) {
            let topic = format!("{user}/self/messages");
            let payload = format!("{user} {round}");
            let mut publisher = mosquitto.client("mosquitto_pub", &["-t", &topic, "-m", &payload]).spawn().unwrap();
            assert_eq!(harness.take().await, (topic, payload));
            assert!(soon("the end of it", publisher.wait()).await.unwrap().success());
        }
        for ((_, lines), user) in readers.iter_mut().zip(["bal1", "bal2"]) {
            let payload = format!("to {user} {round}");
            let answer = harness.publish(&format!("{user}/others/messages"), &payload).await;
            while !soon("the message", lines.next_line()).await.unwrap().unwrap().ends_with(&payload) {}
            assert_eq!(outcome(answer).await, Outcome::Confirmed);
        }
    }
    assert_eq!(harness.metrics.get(Metric::BrokerAccepted), 2, "each came once and stayed");
    assert_eq!(harness.metrics.clients_refused("taken_over"), 0);
    assert!(harness.metrics.clients_refused("sys_topic") >= 2, "what each says into $SYS was dropped");
    harness.close().await;
}
