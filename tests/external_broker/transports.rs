//! WebSocket and TLS.

use crate::harness::{Bridge, Logs, config};
use crate::mosquitto::{Mosquitto, free_port};
use fcm_mqtt_bridge::mqtt::{AckWord, ClientConfig, Version};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::path::Path;

/// mosquitto 2.0.11 does not start with WebSocket listeners alone.
fn websocket(port: u16) -> String {
    format!("listener {} 127.0.0.1\nlistener {port} 127.0.0.1\nprotocol websockets\n", free_port())
}

async fn with_websocket() -> Mosquitto {
    Mosquitto::with(|port, _| format!("{}allow_anonymous true\n", websocket(port))).await
}

#[tokio::test]
async fn a_websocket_works_with_both_versions() {
    let broker = with_websocket().await;
    for version in [Version::V5, Version::V311] {
        let url = format!("ws://127.0.0.1:{}/mqtt", broker.port);
        Bridge::open(config(url, version)).await.stop().await;
    }
}

/// Makes an authority and a certificate of its for `localhost`: `ca.pem`, `cert.pem`, `key.pem`.
fn certificates(dir: &Path) {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let ca = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
    let key = KeyPair::generate().unwrap();
    let cert = CertificateParams::new(["localhost".to_owned()]).unwrap().signed_by(&key, &ca).unwrap();
    std::fs::write(dir.join("ca.pem"), ca.pem()).unwrap();
    std::fs::write(dir.join("cert.pem"), cert.pem()).unwrap();
    std::fs::write(dir.join("key.pem"), key.serialize_pem()).unwrap();
}

async fn with_tls(listener: impl Fn(u16) -> String) -> Mosquitto {
    Mosquitto::with(|port, dir| {
        certificates(dir);
        let file = |name: &str| dir.join(name).display().to_string();
        let (cert, key) = (file("cert.pem"), file("key.pem"));
        format!("{}certfile {cert}\nkeyfile {key}\nallow_anonymous true\n", listener(port))
    })
    .await
}

fn trusting(broker: &Mosquitto, url: String, version: Version) -> ClientConfig {
    ClientConfig { ca_file: Some(broker.dir.path().join("ca.pem")), ..config(url, version) }
}

#[tokio::test]
async fn tls_works_with_both_versions() {
    let broker = with_tls(|port| format!("listener {port} localhost\n")).await;
    for version in [Version::V5, Version::V311] {
        let url = format!("mqtts://localhost:{}", broker.port);
        Bridge::open(trusting(&broker, url, version)).await.stop().await;
    }
}

#[tokio::test]
async fn tls_under_a_websocket_works_with_both_versions() {
    let broker = with_tls(websocket).await;
    for version in [Version::V5, Version::V311] {
        let url = format!("wss://localhost:{}/mqtt", broker.port);
        Bridge::open(trusting(&broker, url, version)).await.stop().await;
    }
}

#[tokio::test]
async fn a_broker_with_a_certificate_of_somebody_else_is_an_error() {
    let (logs, _guard) = Logs::collect();
    let broker = with_tls(|port| format!("listener {port} localhost\n")).await;
    certificates(broker.dir.path());
    for version in [Version::V5, Version::V311] {
        let url = format!("mqtts://localhost:{}", broker.port);
        let bridge = Bridge::start(trusting(&broker, url, version));
        logs.line(&["ERROR", "TLS", "certificate"]).await;
        bridge.stop().await;
    }
}

#[tokio::test]
async fn messages_pass_through_a_websocket() {
    let broker = with_websocket().await;
    let url = format!("ws://127.0.0.1:{}", broker.port);
    let mut bridge = Bridge::open(config(url.clone(), Version::V5)).await;
    let other = Bridge::open(ClientConfig { client_id: "bal".into(), ..config(url, Version::V311) }).await;
    drop(other.publish("bal/self/messages").await);
    bridge.inbound().await.ack.release(AckWord::Done);
}
