//! The transport against a scripted server on the loopback interface: real sockets, real TLS, and no waiting but for
//! what the other side does next.

use super::*;
use crate::ccs::payload::{Downstream, Inbound, Nack, Outbound, Receipt, Upstream};
use crate::ccs::stanza::Stanza;
use crate::ccs::write::{self, Spelling};
use crate::ccs::xml::{Frame, Framer};
use crate::chat::delivery::Fate;
use crate::chat::id::{Recipient, Sid, SidSource, Token};
use crate::chat::push::{Priority, Push, Target};
use crate::chat::refusal::{Decision, Refusal, Scope, Until, Wait};
use crate::ops::clock::now_ms;
use crate::transport::tests::log::Log;
use crate::transport::{
    self, AckRef, ConnectionChange, ConnectionId, ConnectionPhase, DeviceMessage, Link, Port, Report, Send, Snapshot,
    port,
};
use base64::Engine as _;
use serde_json::{Map, Value};
use std::io::Write as _;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::task::JoinHandle;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::server::TlsStream;
use tracing::Level;

#[cfg(feature = "sim")]
mod against_sim;

const KEY: &str = "AIzaSyTopSecretKey";

/// A server on a free port whose certificate is good for `name`, and the transport's settings for it.
struct Server {
    listener: TcpListener,
    tls: TlsAcceptor,
    ca: tempfile::NamedTempFile,
}

impl Server {
    async fn named(name: &str) -> Self {
        let rcgen::CertifiedKey { cert, signing_key } = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let mut ca = tempfile::NamedTempFile::new().unwrap();
        ca.write_all(cert.pem().as_bytes()).unwrap();
        let key = tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer::from(signing_key.serialize_der());
        let config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key.into())
            .unwrap();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        Self { listener, tls: TlsAcceptor::from(Arc::new(config)), ca }
    }

    fn config(&self) -> CcsConfig {
        CcsConfig {
            host: "localhost".to_owned(),
            port: self.listener.local_addr().unwrap().port(),
            ca_file: Some(self.ca.path().to_owned()),
            window: 3,
            ..CcsConfig::new("12345", Secret::new(KEY))
        }
    }

    async fn accept(&self) -> std::io::Result<Peer> {
        let (stream, _) = self.listener.accept().await?;
        Ok(Peer { stream: self.tls.accept(stream).await?, framer: Framer::new(1 << 20, 16) })
    }

    /// The next connection, logged in.
    async fn login(&self) -> Peer {
        let mut peer = self.accept().await.unwrap();
        peer.offer_login().await;
        peer.write(write::success).await;
        peer.framer.restart();
        assert!(matches!(peer.frame().await, Some(Frame::Header(_))));
        peer.write(|out| {
            write::server_header(out, "gcm.googleapis.com", "2");
            write::bind_features(out);
        })
        .await;
        let Some(Stanza::Iq(bind)) = peer.stanza().await else { panic!("no binding") };
        peer.write(|out| write::bind_result(out, bind.id.as_deref(), "12345@gcm.googleapis.com/x")).await;
        peer
    }
}

/// The server's end of one connection.
struct Peer {
    stream: TlsStream<TcpStream>,
    framer: Framer,
}

impl Peer {
    async fn write(&mut self, writer: impl FnOnce(&mut String)) {
        let mut text = String::new();
        writer(&mut text);
        self.stream.write_all(text.as_bytes()).await.unwrap();
        self.stream.flush().await.unwrap();
    }

    async fn frame(&mut self) -> Option<Frame> {
        let mut bytes = [0; 4096];
        loop {
            if let Some(frame) = self.framer.next().unwrap() {
                return Some(frame);
            }
            match self.stream.read(&mut bytes).await {
                Ok(0) | Err(_) => return None,
                Ok(count) => self.framer.push(&bytes[..count]),
            }
        }
    }

    async fn stanza(&mut self) -> Option<Stanza> {
        match self.frame().await? {
            Frame::Stanza(element) => Some(Stanza::read(&element)),
            Frame::Close => None,
            other => panic!("{other:?}"),
        }
    }

    /// Answers the stream header and takes the credentials.
    async fn offer_login(&mut self) {
        self.asked_to_login().await;
    }

    /// The same; with which password.
    async fn asked_to_login(&mut self) -> String {
        assert!(matches!(self.frame().await, Some(Frame::Header(_))));
        self.write(|out| {
            write::server_header(out, "gcm.googleapis.com", "1");
            write::mechanisms(out, &["X-OAUTH2", "PLAIN"]);
        })
        .await;
        let Some(Stanza::Auth { payload, .. }) = self.stanza().await else { panic!("no credentials") };
        let plain = base64::engine::general_purpose::STANDARD.decode(payload).unwrap();
        String::from_utf8(plain).unwrap().rsplit_once('\0').unwrap().1.to_owned()
    }

    async fn payload(&mut self) -> Option<Outbound> {
        let Stanza::Message(message) = self.stanza().await? else { panic!("no message") };
        Some(Outbound::parse(&message.json.unwrap()).unwrap())
    }

    async fn message(&mut self) -> Downstream {
        match self.payload().await {
            Some(Outbound::Downstream(downstream)) => downstream,
            other => panic!("{other:?}"),
        }
    }

    /// The ids of the next messages.
    async fn messages<const N: usize>(&mut self) -> [String; N] {
        let mut ids = [(); N].map(|()| String::new());
        for id in &mut ids {
            *id = self.message().await.message_id;
        }
        ids
    }

    async fn acked_id(&mut self) -> String {
        match self.payload().await {
            Some(Outbound::Ack(ack)) => ack.message_id,
            other => panic!("{other:?}"),
        }
    }

    async fn say(&mut self, inbound: Inbound) {
        self.write(|out| write::server_message(out, &[], Spelling::DataGcm, &inbound.to_json())).await;
    }

    async fn ack(&mut self, message_id: &str) {
        let message_id = message_id.to_owned();
        self.say(Inbound::Ack(crate::ccs::payload::Accepted { message_id, ..Default::default() })).await;
    }

    async fn nack(&mut self, message_id: &str, error: &str) {
        let nack = Nack {
            message_id: Some(message_id.to_owned()),
            from: None,
            error: error.to_owned(),
            error_description: Some("no such token-1".to_owned()),
            registration_id: None,
        };
        self.say(Inbound::Nack(nack)).await;
    }

    async fn drain(&mut self) {
        self.say(Inbound::Control { control_type: "CONNECTION_DRAINING".to_owned() }).await;
    }

    async fn close(mut self) {
        self.write(|out| out.push_str(write::STREAM_CLOSE)).await;
        while self.frame().await.is_some_and(|frame| frame != Frame::Close) {}
    }
}

/// A running transport and the bridge's end of it.
struct Bridge {
    port: Port,
    stop: CancellationToken,
    task: JoinHandle<Result<(), Fatal>>,
}

impl Bridge {
    fn start(config: CcsConfig) -> Self {
        Self::with_queues(config, 64)
    }

    #[expect(clippy::disallowed_methods, reason = "the test owns the task and ends with it")]
    fn with_queues(config: CcsConfig, reports: usize) -> Self {
        let (port, outlet) = port(64, 64, reports);
        let stop = CancellationToken::new();
        let task = tokio::spawn(run(config, outlet, stop.clone()));
        Self { port, stop, task }
    }

    async fn send(&self, number: u64, recipient: i64) {
        self.send_until(number, recipient, now_ms() + 60_000).await;
    }

    async fn send_until(&self, number: u64, recipient: i64, deadline_ms: u64) {
        let push = Push {
            target: Target::Token(Token::new(format!("token-{recipient}")).unwrap()),
            data: Map::from_iter([("k".to_owned(), Value::from("</gcm>&\u{1F600}"))]),
            notification: None,
            priority: Priority::High,
            collapse: None,
            receipt: true,
            fcm: Map::new(),
        };
        let recipient = Recipient(recipient);
        self.port.sends.send(Send { sid: sid(number), push, recipient, accepted_ms: 0, deadline_ms }).await.unwrap();
    }

    async fn report(&mut self) -> Report {
        loop {
            match self.any_report().await {
                Report::Connection { .. } => {}
                report => return report,
            }
        }
    }

    /// What becomes of the connections as well.
    async fn any_report(&mut self) -> Report {
        self.port.reports.recv().await.expect("the transport runs")
    }

    async fn device_message(&mut self) -> transport::ReceivedUpstream {
        match self.port.device_messages.recv().await {
            Some(DeviceMessage::Upstream(message)) => message,
            other => panic!("{other:?}"),
        }
    }

    /// Waits until the transport has counted so.
    async fn counted(&mut self, what: impl FnMut(&Snapshot) -> bool) {
        self.port.snapshot.wait_for(what).await.unwrap();
    }

    /// Waits until so many connections are up, and so many are draining.
    async fn connections(&mut self, up: usize, draining: usize) {
        let count = |snapshot: &Snapshot, phase| snapshot.connections_in(phase);
        let wanted = (up, draining);
        self.counted(|now| (count(now, ConnectionPhase::Up), count(now, ConnectionPhase::Draining)) == wanted).await;
    }

    async fn link(&mut self, wanted: Link) {
        self.port.link.wait_for(|link| *link == wanted).await.unwrap();
    }
}

fn sid(number: u64) -> Sid {
    SidSource::default().next(number, 0)
}

fn ids<const N: usize>(numbers: [u64; N]) -> [String; N] {
    numbers.map(|number| sid(number).to_string())
}

fn accepted(number: u64, copies: u32) -> Report {
    Report::Back { sid: sid(number), fate: Fate::ACCEPTED, copies, replays: copies - 1 }
}

fn upstream(message_id: &str) -> Inbound {
    Inbound::Upstream(Upstream {
        from: "device".to_owned(),
        category: Some("app".to_owned()),
        message_id: message_id.to_owned(),
        data: Map::new(),
        extra: Map::new(),
    })
}

#[tokio::test]
async fn messages_go_out_and_answers_come_back() {
    let server = Server::named("localhost").await;
    let mut bridge = Bridge::start(server.config());
    let mut peer = server.login().await;
    bridge.link(Link::Up).await;
    for number in 1..=3 {
        bridge.send(number, number as i64).await;
    }
    let first = peer.message().await;
    assert_eq!((first.to.as_deref(), &first.fields["delivery_receipt_requested"]), (Some("token-1"), &true.into()));
    assert!((50..=60).contains(&first.fields["time_to_live"].as_u64().unwrap()));
    assert_eq!(first.fields["data"]["k"], "</gcm>&\u{1F600}");
    assert_eq!(peer.messages().await, ids([2, 3]));
    let canonical = crate::ccs::payload::Accepted {
        message_id: first.message_id,
        registration_id: Some("new".to_owned()),
        success: Some(2),
        failure: Some(1),
        failed_registration_ids: vec!["a-token-of-the-group".to_owned()],
        ..Default::default()
    };
    peer.say(Inbound::Ack(canonical)).await;
    peer.nack(&sid(3).to_string(), "DEVICE_UNREGISTERED").await;
    peer.ack("unknown").await;
    peer.nack(&sid(2).to_string(), "WHATEVER").await;
    let canonical = Some(Token::new("new").unwrap());
    let hash = short_hash("a-token-of-the-group");
    let detail = Some(format!("went to 2 devices of the group and not to 1 (hashes of their tokens: {hash})"));
    assert_eq!(
        bridge.report().await,
        Report::Back {
            sid: sid(1),
            fate: Fate::Accepted { canonical, provider_id: None, detail, can_confirm: true },
            copies: 1,
            replays: 0
        }
    );
    let refused = |number, decision, code: &str| Report::Back {
        sid: sid(number),
        fate: Fate::Refused(Refusal::new(decision, code, "no such token-1")),
        copies: 1,
        replays: 0,
    };
    assert_eq!(bridge.report().await, refused(3, Decision::REMOVE_TOKEN, "DEVICE_UNREGISTERED"));
    let wait = Wait::Backoff(Duration::from_secs(1));
    let again = Decision::Retry { wait, until: Until::Deadline, scope: Scope::Message };
    assert_eq!(bridge.report().await, refused(2, again, "WHATEVER"));
    bridge.counted(|now| (now.pending, now.counted.unknown_answers) == (0, 1)).await;
}

#[test]
fn an_answer_that_repeats_the_token_or_is_about_no_token_names_no_other_one() {
    let named = |target: &Target, canonical: &str| other_token(target, canonical.to_owned()).is_some();
    let token = Target::Token(Token::new("T").unwrap());
    assert!(named(&token, "T2"));
    assert!(!named(&token, "T") && !named(&token, ""));
    assert!(!named(&Target::Topic("news".to_owned()), "T2"));
    assert!(!named(&Target::Condition("'a' in topics".to_owned()), "T2"));
}

#[tokio::test]
async fn upstream_and_receipts_are_acknowledged_on_their_connection_and_on_no_other() {
    let server = Server::named("localhost").await;
    let mut bridge = Bridge::start(server.config());
    let mut peer = server.login().await;
    peer.say(upstream("17&\"")).await;
    peer.say(Inbound::Receipt(Receipt {
        from: "gcm.googleapis.com".to_owned(),
        message_id: "dr2:x".to_owned(),
        category: None,
        original_message_id: None,
        status: None,
        device_registration_id: None,
        sent_at_ms: Some(7),
    }))
    .await;
    let message = bridge.device_message().await;
    assert_eq!((message.message_id.as_str(), message.category.as_deref()), ("17&\"", Some("app")));
    let Report::Receipt { original, ack_ref, handed_over_ms, .. } = bridge.report().await else { panic!() };
    assert_eq!((original.as_str(), ack_ref.to.as_str(), handed_over_ms), ("x", "gcm.googleapis.com", Some(7)));
    bridge.port.acks.send(ack_ref.clone()).await.unwrap();
    assert_eq!(peer.acked_id().await, "dr2:x");
    drop(peer);
    let mut peer = server.login().await;
    bridge.port.acks.send(message.ack_ref).await.unwrap();
    peer.say(upstream("17&\"")).await;
    let again = bridge.device_message().await;
    assert_ne!(again.ack_ref.connection, ack_ref.connection);
    bridge.port.acks.send(again.ack_ref).await.unwrap();
    assert_eq!(peer.acked_id().await, "17&\"");
    bridge.send(1, 1).await;
    assert_eq!(peer.messages().await, ids([1]), "the first copy was acknowledged on a foreign connection");
    bridge.counted(|now| now.stale_acks == 1).await;
}

#[tokio::test]
async fn the_window_holds_messages_back_and_acknowledgements_pass() {
    let server = Server::named("localhost").await;
    let mut bridge = Bridge::start(server.config());
    let mut peer = server.login().await;
    for number in 1..=5 {
        bridge.send(number, number as i64).await;
    }
    assert_eq!(peer.messages().await, ids([1, 2, 3]));
    peer.say(upstream("u")).await;
    let message = bridge.device_message().await;
    bridge.port.acks.send(message.ack_ref).await.unwrap();
    assert_eq!(peer.acked_id().await, "u", "a message went out over the full window");
    peer.ack(&sid(2).to_string()).await;
    assert_eq!(peer.messages().await, ids([4]));
    assert_eq!(bridge.report().await, accepted(2, 1));
}

#[tokio::test]
async fn a_cut_resends_what_is_unanswered_first_and_in_order() {
    let server = Server::named("localhost").await;
    let mut bridge = Bridge::start(server.config());
    let mut peer = server.login().await;
    for number in 1..=5 {
        bridge.send(number, 50).await;
    }
    assert_eq!(peer.messages().await, ids([1, 2, 3]));
    peer.ack(&sid(2).to_string()).await;
    assert_eq!(peer.messages().await, ids([4]));
    drop(peer);
    let mut peer = server.login().await;
    assert_eq!(peer.messages().await, ids([1, 3, 4]));
    for number in [1, 3, 4] {
        peer.ack(&sid(number).to_string()).await;
    }
    assert_eq!(peer.messages().await, ids([5]));
    peer.ack(&sid(5).to_string()).await;
    for expected in [accepted(2, 1), accepted(1, 2), accepted(3, 2), accepted(4, 2), accepted(5, 1)] {
        assert_eq!(bridge.report().await, expected);
    }
    bridge.counted(|now| (now.written, now.reconnects) == (8, 1)).await;
}

#[tokio::test]
async fn draining_moves_to_a_new_connection_and_finishes_the_old_one() {
    let server = Server::named("localhost").await;
    let mut bridge = Bridge::start(server.config());
    let mut old = server.login().await;
    for number in 1..=3 {
        bridge.send(number, number as i64).await;
    }
    assert_eq!(old.messages().await, ids([1, 2, 3]));
    old.drain().await;
    bridge.link(Link::Draining).await;
    let mut new = server.login().await;
    bridge.link(Link::Up).await;

    old.nack(&sid(2).to_string(), "CONNECTION_DRAINING").await;
    assert_eq!(new.messages().await, ids([2]), "a message in flight on the old connection was sent on the new one");
    old.ack(&sid(1).to_string()).await;
    assert_eq!(bridge.report().await, accepted(1, 1));
    old.say(upstream("u")).await;
    let message = bridge.device_message().await;
    bridge.port.acks.send(message.ack_ref).await.unwrap();
    assert_eq!(old.acked_id().await, "u");
    // A newer message for the recipient that the old connection still holds must not overtake.
    bridge.send(4, 3).await;
    bridge.send(5, 5).await;
    assert_eq!(new.messages().await, ids([5]));
    old.close().await;
    assert_eq!(new.messages().await, ids([3]));
    new.ack(&sid(2).to_string()).await;
    let report = bridge.report().await;
    assert!(matches!(report, Report::Back { fate: Fate::Accepted { .. }, copies: 1, replays: 1, .. }), "{report:?}");
    assert_eq!(new.messages().await, ids([4]));
    new.ack(&sid(3).to_string()).await;
    assert_eq!(bridge.report().await, accepted(3, 2));
    bridge.counted(|now| now.drains == 1).await;
}

#[tokio::test]
async fn a_second_drain_may_begin_before_the_first_is_over() {
    let server = Server::named("localhost").await;
    let mut bridge = Bridge::start(server.config());
    let mut peers = Vec::new();
    for number in 1..=3 {
        let mut peer = server.login().await;
        bridge.send(number, number as i64).await;
        assert_eq!(peer.messages().await, ids([number]));
        if number < 3 {
            peer.drain().await;
        }
        peers.push(peer);
    }
    bridge.connections(1, 2).await;
    for (peer, number) in peers.iter_mut().zip(1..) {
        peer.ack(&sid(number).to_string()).await;
        assert_eq!(bridge.report().await, accepted(number, 1));
    }
    peers.remove(0).close().await;
    peers.remove(0).close().await;
    bridge.connections(1, 0).await;
}

#[tokio::test]
async fn a_full_report_channel_loses_nothing_and_blocks_no_acknowledgement() {
    const COUNT: usize = 3000;
    let server = Server::named("localhost").await;
    let mut bridge = Bridge::with_queues(server.config(), 1);
    let Peer { stream, mut framer } = server.login().await;
    let (mut reader, mut writer) = tokio::io::split(stream);
    let flood = async {
        for number in 0..COUNT {
            let mut text = String::new();
            write::server_message(&mut text, &[], Spelling::Gcm, &upstream(&number.to_string()).to_json());
            writer.write_all(text.as_bytes()).await.unwrap();
        }
        writer.flush().await.unwrap();
    };
    let bridge_side = async {
        for number in 0..COUNT {
            let message = bridge.device_message().await;
            assert_eq!(message.message_id, number.to_string());
            bridge.port.acks.send(message.ack_ref).await.unwrap();
        }
    };
    let acks = async {
        let (mut seen, mut bytes) = (0, [0; 4096]);
        while seen < COUNT {
            let count = reader.read(&mut bytes).await.unwrap();
            framer.push(&bytes[..count]);
            while let Some(frame) = framer.next().unwrap() {
                assert!(matches!(frame, Frame::Stanza(_)));
                seen += 1;
            }
        }
    };
    tokio::join!(flood, bridge_side, acks);
}

#[tokio::test]
async fn two_connections_share_the_load_and_keep_recipients_together() {
    let server = Server::named("localhost").await;
    let mut bridge = Bridge::start(CcsConfig { connections: 2, ..server.config() });
    let mut peers = [server.login().await, server.login().await];
    bridge.connections(2, 0).await;
    for (number, recipient) in [(1, 10), (2, 20), (3, 10), (4, 20)] {
        bridge.send(number, recipient).await;
    }
    let mut seen = [peers[0].messages().await, peers[1].messages().await];
    seen.sort();
    assert_eq!(seen, [ids([1, 3]), ids([2, 4])]);
}

#[tokio::test]
async fn refused_credentials_are_told_and_never_logged() {
    let (log, _guard) = Log::listen(Level::TRACE);
    let server = Server::named("localhost").await;
    let mut bridge = Bridge::start(server.config());
    let mut peer = server.accept().await.unwrap();
    peer.offer_login().await;
    peer.write(|out| write::failure(out, "not-authorized")).await;
    bridge.link(Link::AUTH_FAILED).await;
    bridge.counted(|now| now.auth_failures == 1).await;
    let text = log.text();
    assert!(text.contains("ERROR") && text.contains("not-authorized"), "{text}");
    let mut stanza = String::new();
    write::auth_plain(&mut stanza, "12345@gcm.googleapis.com", KEY);
    let base64 = stanza.split(['>', '<']).nth(2).unwrap();
    assert!(!text.contains(KEY) && !text.contains(base64), "{text}");
}

#[tokio::test]
async fn a_key_that_is_read_again_is_tried_at_once_and_one_that_cannot_be_read_changes_nothing() {
    let (log, _guard) = Log::listen(Level::TRACE);
    let server = Server::named("localhost").await;
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"\n").unwrap();
    let (ask, reload) = watch::channel(0);
    let config = CcsConfig { api_key_file: Some(file.path().to_owned()), reload, ..server.config() };
    let mut bridge = Bridge::start(config);
    let mut peer = server.accept().await.unwrap();
    assert_eq!(peer.asked_to_login().await, KEY);
    peer.write(|out| write::failure(out, "not-authorized")).await;
    // A refusal is followed by a wait of up to half a minute.
    bridge.link(Link::AUTH_FAILED).await;
    ask.send_replace(1);
    log.wait("ccs.api_key_file names").await;
    std::fs::write(file.path(), "AIzaSyAnotherKey\n").unwrap();
    let asked = tokio::time::Instant::now();
    ask.send_replace(2);
    let mut peer = server.accept().await.unwrap();
    assert_eq!(peer.asked_to_login().await, "AIzaSyAnotherKey");
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    let text = log.text();
    assert!(!text.contains(KEY) && !text.contains("AIzaSyAnotherKey"), "{text}");
}

#[tokio::test]
async fn an_error_of_a_connection_names_the_server_and_the_key_of_the_configuration() {
    let (log, _guard) = Log::listen(Level::TRACE);
    let server = Server::named("localhost").await;
    let named = format!("localhost:{} (ccs.host)", server.listener.local_addr().unwrap().port());
    let mut bridge = Bridge::start(server.config());
    let peer = server.login().await;
    bridge.link(Link::Up).await;
    drop(server);
    drop(peer);
    let lost = loop {
        if let Report::Connection { change: ConnectionChange::Lost { detail }, .. } = bridge.any_report().await {
            break detail;
        }
    };
    assert!(lost.starts_with(&format!("{named}: ")), "{lost}");
    log.wait("cannot connect").await;
    let text = log.text();
    let failed = text.lines().find(|line| line.contains("cannot connect")).unwrap();
    assert!(failed.contains("WARN") && failed.contains(&named), "{failed}");
}

#[tokio::test]
async fn a_certificate_for_another_host_is_refused() {
    let server = Server::named("other.example").await;
    let mut bridge = Bridge::start(server.config());
    assert!(server.accept().await.is_err());
    assert_eq!(*bridge.port.link.borrow_and_update(), Link::UNCONNECTED);
    assert_eq!(bridge.port.snapshot.borrow().connects, 0);
}

#[tokio::test]
async fn messages_expire_while_there_is_no_connection() {
    let server = Server::named("localhost").await;
    let config = server.config();
    drop(server.listener);
    let mut bridge = Bridge::start(config);
    bridge.send(1, 1).await;
    bridge.send_until(2, 2, now_ms() - 1).await;
    let report = bridge.report().await;
    assert!(
        matches!(report, Report::Back { sid: which, fate: Fate::Expired, copies: 0, .. } if which == sid(2)),
        "{report:?}"
    );
}

#[tokio::test]
async fn a_stop_waits_for_answers_and_reports_what_is_left() {
    let server = Server::named("localhost").await;
    let mut config = server.config();
    config.timing.grace = Duration::from_millis(200);
    let mut bridge = Bridge::start(config);
    let mut peer = server.login().await;
    for number in 1..=4 {
        bridge.send(number, number as i64).await;
    }
    assert_eq!(peer.messages().await, ids([1, 2, 3]));
    bridge.stop.cancel();
    peer.ack(&sid(2).to_string()).await;
    assert_eq!(bridge.report().await, accepted(2, 1));
    assert!(peer.stanza().await.is_none(), "something was sent after the stop");
    peer.close().await;
    for (number, copies) in [(1, 1), (3, 1), (4, 0)] {
        assert_eq!(bridge.report().await, Report::Back { sid: sid(number), fate: Fate::Lost, copies, replays: 0 });
    }
    bridge.task.await.unwrap().unwrap();
    assert!(bridge.port.sends.is_closed());
}

#[tokio::test]
async fn a_drain_and_a_stop_are_a_normal_run_and_log_no_warning() {
    let (log, _guard) = Log::listen(Level::WARN);
    let server = Server::named("localhost").await;
    let mut bridge = Bridge::start(server.config());
    let mut peer = server.login().await;
    bridge.link(Link::Up).await;
    peer.drain().await;
    let mut next = server.login().await;
    bridge.link(Link::Up).await;
    peer.close().await;
    bridge.stop.cancel();
    assert_eq!(next.frame().await, Some(Frame::Close), "nothing is in flight, so nothing is waited for");
    next.close().await;
    bridge.task.await.unwrap().unwrap();
    assert_eq!(log.text(), "");
}

#[test]
fn settings_out_of_range_are_named() {
    let good = CcsConfig::new("12345", Secret::new(KEY));
    good.check().unwrap();
    for (config, setting) in [
        (CcsConfig { sender_id: " ".to_owned(), ..good.clone() }, "sender_id"),
        (CcsConfig { api_key: None, ..good.clone() }, "api_key"),
        (CcsConfig { window: 0, ..good.clone() }, "window"),
        (CcsConfig { connections: 1001, ..good.clone() }, "connections"),
        (CcsConfig { answer: Duration::ZERO, ..good.clone() }, "answer_seconds"),
        (CcsConfig { answer: Duration::from_secs(3_601), ..good.clone() }, "answer_seconds"),
    ] {
        assert!(config.check().unwrap_err().to_string().starts_with(&format!("`{setting}`")));
    }
    assert!(!format!("{good:?}").contains(KEY));
}

#[tokio::test]
async fn operators_hear_how_a_connection_comes_and_goes() {
    let server = Server::named("localhost").await;
    let mut bridge = Bridge::start(server.config());
    let mut peer = server.login().await;
    let change = |connection, change| Report::Connection { connection: ConnectionId(connection), change };
    assert_eq!(bridge.any_report().await, change(1, ConnectionChange::Up));
    peer.drain().await;
    assert_eq!(bridge.any_report().await, change(1, ConnectionChange::Draining));
    let second = server.login().await;
    assert_eq!(bridge.any_report().await, change(2, ConnectionChange::Up));
    drop(second);
    let lost = bridge.any_report().await;
    assert!(matches!(&lost, Report::Connection { change: ConnectionChange::Lost { .. }, .. }), "{lost:?}");
    drop(peer);
}

#[tokio::test]
async fn whatever_was_handed_over_expires_in_time_while_there_is_no_connection() {
    let server = Server::named("localhost").await;
    let mut bridge = Bridge::start(server.config());
    for number in 1..=3 {
        bridge.send(number, 1).await;
    }
    for number in 4..=9 {
        bridge.send_until(number, 1, now_ms() + 100).await;
    }
    for number in 4..=9 {
        let Report::Back { sid: late, fate: Fate::Expired, .. } = bridge.report().await else { panic!() };
        assert_eq!(late, sid(number));
    }
}

#[tokio::test]
async fn the_end_does_not_wait_for_a_bridge_that_acknowledges() {
    let server = Server::named("localhost").await;
    let mut bridge = Bridge::with_queues(server.config(), 1);
    let _peer = server.login().await;
    bridge.link(Link::Up).await;
    for number in 1..=9 {
        bridge.send(number, 1).await;
    }
    bridge.stop.cancel();
    // More than the transport still has room for; it must not be necessary to read a report in between.
    let ack_ref = AckRef { connection: ConnectionId(1), to: "device".to_owned(), message_id: "1".to_owned() };
    while bridge.port.acks.send(ack_ref.clone()).await.is_ok() {}
    while bridge.port.reports.recv().await.is_some() {}
    bridge.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_devices_send_and_nobody_understands_is_handed_up_as_rejected_and_can_be_acknowledged() {
    let server = Server::named("localhost").await;
    let mut bridge = Bridge::start(server.config());
    let mut peer = server.login().await;
    // A real CCS stops at 100 that are not acknowledged.
    for number in 0..100 {
        let upstream = Upstream {
            from: "a token with blanks".to_owned(),
            category: Some("app".to_owned()),
            message_id: number.to_string(),
            data: Map::new(),
            extra: Map::new(),
        };
        peer.say(Inbound::Upstream(upstream)).await;
    }
    for json in [r#"{"from":"tok","message_id":"x","data":7}"#, r#"{"from":"tok","message_id":"y","message_type":{}}"#]
    {
        peer.write(|out| write::server_message(out, &[], Spelling::DataGcm, json)).await;
    }
    let ids: Vec<String> = (0..100).map(|number| number.to_string()).chain(["x".to_owned(), "y".to_owned()]).collect();
    for id in &ids {
        let Some(DeviceMessage::Rejected(rejected)) = bridge.port.device_messages.recv().await else { panic!() };
        let code = match id.as_str() {
            "x" => "bad_data",
            "y" => "bad_payload",
            _ => "bad_from",
        };
        assert_eq!((rejected.code, rejected.ack_ref.message_id.as_str()), (code, id.as_str()));
        let sample = &rejected.sample;
        assert!(sample.starts_with("{\"from\":\"<token>\"") && !sample.contains("blanks"), "{sample}");
        bridge.port.acks.send(rejected.ack_ref).await.unwrap();
        assert_eq!(peer.acked_id().await, *id);
    }
    bridge.counted(|now| now.counted.malformed == 2).await;
    peer.say(upstream("good")).await;
    assert_eq!(bridge.device_message().await.message_id, "good");
}

#[tokio::test]
async fn a_second_connection_that_the_account_does_not_allow_waits_for_the_end_of_the_drained_one() {
    let (log, _guard) = Log::listen(Level::WARN);
    let server = Server::named("localhost").await;
    let mut bridge = Bridge::start(server.config());
    let mut old = server.login().await;
    bridge.send(1, 1).await;
    assert_eq!(old.messages().await, ids([1]));
    let drained = tokio::time::Instant::now();
    old.drain().await;
    let mut second = server.accept().await.unwrap();
    second.offer_login().await;
    second.write(|out| write::stream_error(out, "policy-violation")).await;
    second.write(|out| out.push_str(write::STREAM_CLOSE)).await;
    old.ack(&sid(1).to_string()).await;
    assert_eq!(bridge.report().await, accepted(1, 1));
    assert_eq!(old.frame().await, Some(Frame::Close), "it owes nothing any more");
    old.close().await;
    let mut new = server.login().await;
    bridge.send(2, 2).await;
    assert_eq!(new.messages().await, ids([2]));
    assert!(drained.elapsed() < Duration::from_secs(3), "{:?}", drained.elapsed());
    assert_eq!(log.text(), "", "it is ordinary life");
}

#[tokio::test]
async fn a_message_that_is_never_answered_moves_the_traffic_to_another_connection() {
    let server = Server::named("localhost").await;
    let config = CcsConfig { answer: Duration::from_secs(1), drain: Duration::from_secs(1), ..server.config() };
    let mut bridge = Bridge::start(config);
    let mut old = server.login().await;
    bridge.send(1, 1).await;
    assert_eq!(old.messages().await, ids([1]));
    bridge.send(2, 2).await;
    assert_eq!(old.messages().await, ids([2]));
    old.ack(&sid(2).to_string()).await;
    // A nack without an id is none.
    old.write(|out| {
        write::server_message(
            out,
            &[],
            Spelling::DataGcm,
            r#"{"message_type":"nack","error":"INTERNAL_SERVER_ERROR"}"#,
        );
    })
    .await;
    let mut new = server.login().await;
    assert_eq!(bridge.report().await, accepted(2, 1));
    bridge.send(3, 3).await;
    assert_eq!(new.messages().await, ids([3]));
    old.close().await;
    assert_eq!(new.messages().await, ids([1]), "it is sent again when its connection is given up");
    new.ack(&sid(1).to_string()).await;
    assert_eq!(bridge.report().await, accepted(1, 2));
}
