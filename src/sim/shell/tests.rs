//! Over real TLS on a free port, with a scripted client.

use super::*;
use crate::ccs::stanza::Stanza;
use crate::ccs::write;
use crate::ccs::xml::{Frame, Framer};
use crate::sim::config::CertificateConfig;
use crate::sim::device::{DevicePatch, Presence};
use crate::sim::event::{ConnectionId, SimEvent};
use crate::sim::fault::Faults;
use crate::sim::service::Speech;
use serde_json::json;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream as ClientStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

struct Running {
    handle: SimHandle,
    stop: CancellationToken,
    tasks: JoinSet<Result<(), SimError>>,
}

async fn start(config: SimConfig) -> Running {
    let config = SimConfig { listen: "127.0.0.1:0".parse().unwrap(), control: None, ..config };
    let (ready, handle) = oneshot::channel();
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(run(config, ready, stop.clone()));
    Running { handle: handle.await.unwrap(), stop, tasks }
}

impl Running {
    async fn stop(mut self) {
        self.stop.cancel();
        self.tasks.join_next().await.unwrap().unwrap().unwrap();
    }
}

struct Client {
    stream: ClientStream<TcpStream>,
    framer: Framer,
}

async fn tls(handle: &SimHandle, name: &str) -> io::Result<ClientStream<TcpStream>> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(handle.ca_pem().as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let socket = TcpStream::connect(handle.address()).await?;
    let name = ServerName::try_from(name.to_owned()).unwrap();
    TlsConnector::from(Arc::new(config)).connect(name, socket).await
}

impl Client {
    async fn login(handle: &SimHandle) -> Self {
        let stream = tls(handle, "localhost").await.unwrap();
        let mut client = Self { stream, framer: Framer::new(1 << 20, 16) };
        let mut text = String::new();
        write::client_header(&mut text, "gcm.googleapis.com");
        write::auth_plain(&mut text, "1@gcm.googleapis.com", "key");
        client.write(&text).await;
        while !matches!(client.next().await, Some(Frame::Stanza(element)) if element.name() == "success") {}
        client.framer.restart();
        text.clear();
        write::client_header(&mut text, "gcm.googleapis.com");
        write::bind_request(&mut text, "b", "r");
        client.write(&text).await;
        while !matches!(client.next().await, Some(Frame::Stanza(element)) if element.name() == "iq") {}
        client
    }

    async fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    async fn send(&mut self, to: &str, ids: std::ops::Range<u32>) {
        let mut text = String::new();
        for id in ids {
            write::message(&mut text, "", &json!({"to": to, "message_id": id.to_string()}).to_string());
        }
        self.write(&text).await;
    }

    /// The next frame; `None` when the connection has ended in whatever way.
    async fn next(&mut self) -> Option<Frame> {
        let mut buffer = [0; 4096];
        loop {
            if let Some(frame) = self.framer.next().unwrap() {
                return Some(frame);
            }
            match self.stream.read(&mut buffer).await {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.framer.push(&buffer[..count]),
            }
        }
    }

    async fn json(&mut self) -> serde_json::Value {
        match self
            .next()
            .await
            .map(|frame| if let Frame::Stanza(element) = frame { Stanza::read(&element) } else { Stanza::Other })
        {
            Some(Stanza::Message(message)) => serde_json::from_str(&message.json.unwrap()).unwrap(),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn messages_travel_both_ways_over_tls() {
    let running = start(SimConfig::default()).await;
    let mut events = running.handle.events();
    let mut client = Client::login(&running.handle).await;
    client.send("a", 0..100).await;
    for id in 0..100 {
        let answer = client.json().await;
        assert_eq!((&answer["message_type"], &answer["message_id"]), (&json!("ack"), &json!(id.to_string())));
    }
    let got: Vec<String> = running.handle.received("a").into_iter().map(|record| record.message_id).collect();
    assert_eq!(got, (0..100).map(|id| id.to_string()).collect::<Vec<_>>());

    let speech = Speech { category: Some("com.app".into()), data: json!({"k": "v"}), count: 1, message_id: None };
    running.handle.upstream("a", &speech).unwrap();
    let upstream = client.json().await;
    assert_eq!(
        (&upstream["from"], &upstream["category"], &upstream["data"]["k"]),
        (&json!("a"), &json!("com.app"), &json!("v"))
    );
    assert!(matches!(events.recv().await, Ok(SimEvent::LoggedIn { connection: ConnectionId(1), .. })));
    running.stop.cancel();
    let close = client.next().await;
    assert_eq!((close, client.next().await), (Some(Frame::Close), None));
    drop(client);
    running.stop().await;
}

#[tokio::test]
async fn the_certificate_has_the_names_asked_for() {
    let certificate = CertificateConfig { names: vec!["sim.example".into()], ..CertificateConfig::default() };
    let running = start(SimConfig { certificate, ..SimConfig::default() }).await;
    for name in ["localhost", "127.0.0.1", "::1", "sim.example"] {
        assert!(tls(&running.handle, name).await.is_ok(), "{name}");
    }
    assert!(tls(&running.handle, "other.example").await.is_err());
    running.stop().await;
}

#[tokio::test]
async fn orders_reach_connections_at_once() {
    let running = start(SimConfig::default()).await;
    let (mut first, mut second) = (Client::login(&running.handle).await, Client::login(&running.handle).await);
    assert_eq!(running.handle.drain(Some(ConnectionId(1)), running.handle.faults().drain), 1);
    assert_eq!(first.json().await["control_type"], json!("CONNECTION_DRAINING"));
    assert_eq!(running.handle.reset(Some(ConnectionId(1))), 1);
    assert_eq!(first.next().await, None, "a reset has no close tag");
    assert_eq!(running.handle.close(None), 1);
    assert_eq!(second.next().await, Some(Frame::Close));
    drop(second);
    running.stop().await;
}

#[tokio::test]
async fn slow_devices_and_stalls_run_on_the_clock() {
    let running = start(SimConfig::default()).await;
    let patch = DevicePatch { state: Some(Presence::Slow), delay_ms: Some(20), ..DevicePatch::default() };
    running.handle.put_device("a", patch).unwrap();
    let mut events = running.handle.events();
    let mut client = Client::login(&running.handle).await;
    running.handle.set_faults(Faults { stall_after: Some(1), stall_ms: 20, ..Faults::default() }).unwrap();
    client.send("a", 0..1).await;
    assert_eq!(client.json().await["message_type"], json!("ack"));
    loop {
        if let SimEvent::Delivered { message_id, copy: 1, .. } = events.recv().await.unwrap() {
            assert_eq!(&*message_id, "0");
            break;
        }
    }
    drop(client);
    running.stop().await;
}

#[tokio::test]
async fn a_client_that_writes_without_reading_gets_all_its_answers() {
    let mut config = SimConfig::default();
    config.wire.overrun = crate::sim::config::Overrun::Nothing;
    let running = start(config).await;
    let mut client = Client::login(&running.handle).await;
    for batch in 0..100 {
        client.send("a", batch * 200..(batch + 1) * 200).await;
    }
    for id in 0..20_000 {
        assert_eq!(client.json().await["message_id"], json!(id.to_string()));
    }
    drop(client);
    running.stop().await;
}

#[tokio::test]
async fn connections_are_limited_and_places_given_back() {
    let mut config = SimConfig::default();
    config.limits.max_connections = 1;
    let running = start(config).await;
    let mut events = running.handle.events();
    let first = Client::login(&running.handle).await;
    let mut refused = tls(&running.handle, "localhost").await.unwrap();
    assert!(matches!(refused.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    drop(first);
    while !matches!(events.recv().await, Ok(SimEvent::Ended { connection: ConnectionId(1) })) {}
    let mut second = Client::login(&running.handle).await;
    second.send("a", 0..1).await;
    assert_eq!(second.json().await["message_type"], json!("ack"));
    drop(second);
    running.stop().await;
}

#[tokio::test]
async fn a_port_in_use_is_an_error() {
    let running = start(SimConfig::default()).await;
    let config = SimConfig { listen: running.handle.address(), control: None, ..SimConfig::default() };
    let (ready, handle) = oneshot::channel();
    let outcome = run(config, ready, CancellationToken::new()).await;
    assert!(matches!(outcome, Err(SimError::Listen { .. })));
    assert!(handle.await.is_err());
    running.stop().await;
}
