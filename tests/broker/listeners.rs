//! The four ways in, and what stands at each door.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use fcm_mqtt_bridge::broker::{Broker, BrokerConfig, BrokerError, BrokerLimits, Listen, TlsFiles};
use fcm_mqtt_bridge::chat::principal::Role;
use fcm_mqtt_bridge::ops::metrics::Metric;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::rustls::ClientConfig;
use tracing::Level;

use super::harness::{Harness, Users, config, soon, until};
use super::log::Log;
use super::peer::{Connect, Peer, Seen, V5, V311};
use super::sockets::{self, Authority, SOCKETS, SocketKind};

const HOME: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);

pub(crate) fn everywhere(identity: TlsFiles) -> Listen {
    let anywhere = Some(SocketAddr::new(HOME, 0));
    let TlsFiles { cert, key, client_ca: client_ca_file } = identity;
    let (cert_file, key_file) = (Some(cert), Some(key));
    let files = Listen { cert_file, key_file, client_ca_file, ..Listen::default() };
    Listen { tcp: anywhere, tls: anywhere, ws: anywhere, wss: anywhere, ..files }
}

async fn open(listen: Listen, limits: BrokerLimits) -> Harness {
    Harness::bind(BrokerConfig { listen, limits, ..config() }).await
}

fn address(harness: &Harness, kind: SocketKind) -> SocketAddr {
    match kind {
        SocketKind::Tcp => harness.bound.tcp,
        SocketKind::Tls => harness.bound.tls,
        SocketKind::Ws => harness.bound.ws,
        SocketKind::Wss => harness.bound.wss,
    }
    .unwrap()
}

async fn dial(harness: &Harness, kind: SocketKind, tls: &ClientConfig) -> std::io::Result<Box<dyn sockets::Wire>> {
    soon("a connection", sockets::dial(kind, address(harness, kind), HOME, tls)).await
}

async fn connect(harness: &Harness, kind: SocketKind, tls: &ClientConfig, connect: Connect<'_>) -> Peer {
    let mut peer = Peer::over(dial(harness, kind, tls).await.unwrap(), connect.version);
    peer.say_connect(&connect).await;
    assert_eq!(peer.next().await, Seen::ConnAck { resumed: false, code: 0 });
    peer
}

/// A TCP connection to the door, and nothing on it.
async fn knock(harness: &Harness, kind: SocketKind) -> TcpStream {
    TcpStream::connect(address(harness, kind)).await.unwrap()
}

async fn ended(mut stream: impl tokio::io::AsyncRead + Unpin) -> Vec<u8> {
    let mut bytes = Vec::new();
    // A connection that was reset has ended as well.
    let _ = soon("the end of a connection", stream.read_to_end(&mut bytes)).await;
    bytes
}

#[tokio::test]
async fn both_versions_work_over_all_four() {
    let authority = Authority::new();
    let harness = open(everywhere(authority.files()), BrokerLimits::default()).await;
    let tls = authority.client();
    for kind in SOCKETS {
        for version in [V311, V5] {
            let mut peer = connect(&harness, kind, &tls, Connect { version, ..Connect::default() }).await;
            peer.subscribe("elsewhere", 1).await;
            // Bigger than any buffer on the way.
            let long = "x".repeat(200_000);
            peer.publish("elsewhere", 7, &long).await;
            let mut seen = [peer.next().await, peer.next().await];
            seen.sort_by_key(|seen| matches!(seen, Seen::Ack(..)));
            assert!(matches!(&seen[0], Seen::Publish { payload, .. } if *payload == long), "{kind:?}");
            assert_eq!(seen[1], Seen::Ack(4, 7, 0));
            peer.disconnect().await;
        }
    }
    assert_eq!(harness.metrics.get(Metric::BrokerAccepted), 8);
    assert_eq!(harness.metrics.get(Metric::BrokerHandshakesFailed), 0);
    harness.close().await;
}

#[tokio::test]
async fn tls_without_a_certificate_does_not_start() {
    let listen = Listen { cert_file: None, ..everywhere(Authority::new().files()) };
    let refused = Broker::bind(BrokerConfig { listen, ..config() }).await;
    assert!(matches!(refused, Err(BrokerError::NoCertificate)));
    let gone = Authority::new().files();
    let refused = Broker::bind(BrokerConfig { listen: everywhere(gone), ..config() }).await;
    assert!(matches!(refused, Err(BrokerError::Tls(_))));
}

#[tokio::test]
async fn a_client_certificate_is_asked_for_where_it_is_wanted() {
    let authority = Authority::new();
    let harness = open(everywhere(authority.files_that_ask_for_a_certificate()), BrokerLimits::default()).await;
    for kind in [SocketKind::Tls, SocketKind::Wss] {
        let known = authority.client_known_to(&authority);
        connect(&harness, kind, &known, Connect::default()).await.disconnect().await;
        for unknown in [authority.client(), authority.client_known_to(&Authority::new())] {
            // In TLS 1.3 the client learns that it is refused with the first thing that it reads.
            if let Ok(wire) = dial(&harness, kind, &unknown).await {
                let mut peer = Peer::over(wire, V5);
                let _ = peer.try_say(0x10, &[]).await;
                assert_eq!(peer.next().await, Seen::Closed);
            }
        }
    }
    assert_eq!(harness.metrics.get(Metric::BrokerHandshakesFailed), 4);
    harness.close().await;
}

#[tokio::test]
async fn who_speaks_something_else_inside_tls_is_refused() {
    let authority = Authority::new();
    let harness = open(everywhere(authority.files()), BrokerLimits::default()).await;
    for (kind, protocol, welcome) in [
        (SocketKind::Tls, "mqtt", true),
        (SocketKind::Tls, "h2", false),
        (SocketKind::Wss, "http/1.1", true),
        (SocketKind::Wss, "h2", false),
    ] {
        let mut tls = authority.client();
        tls.alpn_protocols = vec![protocol.into()];
        assert_eq!(dial(&harness, kind, &tls).await.is_ok(), welcome, "{kind:?} {protocol}");
    }
    harness.close().await;
}

#[tokio::test]
async fn a_new_certificate_is_taken_and_nobody_is_cut_off() {
    let authority = Authority::new();
    let harness = open(everywhere(authority.files()), BrokerLimits::default()).await;
    let tls = authority.client();
    let mut old = connect(&harness, SocketKind::Tls, &tls, Connect::default()).await;
    let shown = async || {
        let stream = sockets::secure(knock(&harness, SocketKind::Tls).await, &tls).await.unwrap();
        stream.get_ref().1.peer_certificates().unwrap()[0].clone()
    };
    let before = authority.server_certificate();
    assert_eq!(shown().await, before);

    authority.write_server_pair();
    let after = authority.server_certificate();
    harness.reload.send_replace(1);
    soon("the new certificate", async {
        while shown().await != after {
            tokio::task::yield_now().await;
        }
    })
    .await;

    std::fs::write(authority.files().cert, "rubbish").unwrap();
    harness.reload.send_replace(2);
    old.quiet().await;
    assert_eq!(shown().await, after, "what cannot be used changes nothing");
    old.quiet().await;
    harness.close().await;
}

fn upgrade(path: &str, headers: &[&str]) -> String {
    let extra: String = headers.iter().map(|header| format!("{header}\r\n")).collect();
    format!(
        "GET {path} HTTP/1.1\r\nHost: broker\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n\
         Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n{extra}\r\n"
    )
}

/// The head of the answer to an HTTP request.
async fn ask(stream: &mut TcpStream, request: &str) -> String {
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        match soon("an answer", stream.read_u8()).await {
            Ok(byte) => head.push(byte),
            Err(_) => break,
        }
    }
    String::from_utf8(head).unwrap().to_lowercase()
}

#[tokio::test]
async fn a_bare_websocket_client_byte_by_byte() {
    let authority = Authority::new();
    let listen = Listen { origins: vec!["https://chat.example.com".to_owned()], ..everywhere(authority.files()) };
    let harness = open(listen, BrokerLimits::default()).await;
    let mqtt = "Sec-WebSocket-Protocol: mqtt";
    for (path, headers, status) in [
        ("/", &[mqtt][..], "404"),
        ("/mqtt", &[mqtt, "Origin: https://evil.example.com"], "403"),
        ("/mqtt", &["Sec-WebSocket-Protocol: soap"], "400"),
    ] {
        let mut stream = knock(&harness, SocketKind::Ws).await;
        let head = ask(&mut stream, &upgrade(path, headers)).await;
        assert!(head.starts_with(&format!("http/1.1 {status} ")), "{head}");
        assert!(!ended(stream).await.is_empty(), "it says why");
    }
    let mut stream = knock(&harness, SocketKind::Ws).await;
    let head = ask(&mut stream, &upgrade("/mqtt", &[mqtt, "Origin: https://chat.example.com"])).await;
    assert!(head.starts_with("http/1.1 101 "), "{head}");
    assert!(head.contains("sec-websocket-protocol: mqtt\r\n"), "{head}");
    assert!(head.contains("sec-websocket-accept: s3pplmbitxaq9kygzzhzrbk+xoo=\r\n"), "the sample of RFC 6455: {head}");

    // A CONNECT of 3.1.1 in two frames with a mask of zeroes, and a ping between them.
    let connect = [&[0x10, 13, 0, 4], &b"MQTT"[..], &[4, 2, 0, 0, 0, 1, b'c']].concat();
    let (one, two) = connect.split_at(5);
    let frame = |opcode: u8, payload: &[u8]| {
        [&[0x80 | opcode, 0x80 | u8::try_from(payload.len()).unwrap(), 0, 0, 0, 0], payload].concat()
    };
    stream.write_all(&[frame(2, one), frame(9, b"hi"), frame(2, two)].concat()).await.unwrap();
    let mut answer = [0; 10];
    soon("a pong and a CONNACK", stream.read_exact(&mut answer)).await.unwrap();
    assert_eq!(answer, [0x8a, 2, b'h', b'i', 0x82, 4, 0x20, 2, 0, 0]);

    // [MQTT-6.0.0-1]: a text frame ends it, with 1003, unsupported data.
    stream.write_all(&frame(1, b"hi")).await.unwrap();
    let end = ended(stream).await;
    assert_eq!(end[0], 0x88);
    assert_eq!(end[2..4], 1003_u16.to_be_bytes());
    assert_eq!((harness.metrics.clients_refused("malformed"), harness.metrics.clients_refused("websocket")), (1, 3));
    harness.close().await;
}

#[tokio::test]
async fn who_lets_the_others_wait_is_cut_off_and_nobody_waits_for_him() {
    let authority = Authority::new();
    let limits = BrokerLimits { connect_timeout: Duration::from_secs(5), ..BrokerLimits::default() };
    let harness = open(everywhere(authority.files()), limits).await;
    let tls = authority.client();

    let mut idle: Vec<Box<dyn sockets::Wire>> = Vec::new();
    for kind in SOCKETS {
        // Nothing at all; half of whatever comes first; all but the CONNECT.
        for _ in 0..50 {
            idle.push(Box::new(knock(&harness, kind).await));
        }
        let mut half = knock(&harness, kind).await;
        let begun: &[u8] = match kind {
            SocketKind::Tcp => &[0x10, 0x20, 0],
            SocketKind::Tls | SocketKind::Wss => &[22, 3, 1, 2, 0],
            SocketKind::Ws => b"GET /mq",
        };
        half.write_all(begun).await.unwrap();
        idle.push(Box::new(half));
        idle.push(dial(&harness, kind, &tls).await.unwrap());
    }
    let mut good = Vec::new();
    for kind in SOCKETS {
        let client = format!("good-{kind:?}");
        good.push(connect(&harness, kind, &tls, Connect { client: &client, ..Connect::default() }).await);
    }
    let late = idle.len() as u64;
    tokio::time::pause();
    for stream in idle {
        ended(stream).await;
    }
    tokio::time::resume();
    for peer in &mut good {
        peer.quiet().await;
    }
    assert_eq!(harness.metrics.get(Metric::BrokerConnectTimeouts), late);
    harness.close().await;
}

#[tokio::test]
async fn handshakes_do_not_delay_the_end() {
    let authority = Authority::new();
    let mut harness = open(everywhere(authority.files()), BrokerLimits::default()).await;
    let mut idle = Vec::new();
    for kind in SOCKETS {
        idle.push(knock(&harness, kind).await);
    }
    until("all to be accepted", || harness.metrics.get(Metric::BrokerAccepted) >= 4).await;
    let before = tokio::time::Instant::now();
    harness.stop().await;
    assert!(before.elapsed() < Duration::from_secs(4), "nobody waited for the grace to be over");
}

#[tokio::test]
async fn an_address_has_so_many_connections() {
    let authority = Authority::new();
    let limits = BrokerLimits { connections_per_address: 2, ..BrokerLimits::default() };
    let harness = open(everywhere(authority.files()), limits).await;
    let tls = authority.client();
    let one = connect(&harness, SocketKind::Tls, &tls, Connect { client: "one", ..Connect::default() }).await;
    let mut two = connect(&harness, SocketKind::Ws, &tls, Connect { client: "two", ..Connect::default() }).await;
    for kind in SOCKETS {
        assert!(ended(knock(&harness, kind).await).await.is_empty());
    }
    assert_eq!(harness.metrics.get(Metric::BrokerAddressRefused), 4);
    let neighbour =
        sockets::dial(SocketKind::Wss, address(&harness, SocketKind::Wss), Ipv4Addr::new(127, 0, 0, 2).into(), &tls)
            .await;
    let mut neighbour = Peer::over(neighbour.unwrap(), V5);
    neighbour.say_connect(&Connect::default()).await;
    assert_eq!(neighbour.next().await, Seen::ConnAck { resumed: false, code: 0 });

    one.disconnect().await;
    until("the place of the one that left", || harness.metrics.get(Metric::BrokerConnections) <= 2).await;
    connect(&harness, SocketKind::Tcp, &tls, Connect { client: "three", ..Connect::default() }).await;
    two.quiet().await;
    harness.close().await;
}

/// What a proxy says for a client with this address, in both versions.
fn headers(client: [u8; 4]) -> [Vec<u8>; 2] {
    let [a, b, c, d] = client;
    let text = format!("PROXY TCP4 {a}.{b}.{c}.{d} 10.0.0.1 4000 1883\r\n");
    let mut binary = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    binary.extend(client);
    binary.extend([10, 0, 0, 1, 0x0f, 0xa0, 0x07, 0x5b]);
    [text.into_bytes(), binary]
}

#[tokio::test]
async fn a_proxy_says_whom_it_speaks_for() {
    let authority = Authority::new();
    let tls = authority.client();
    let limits = BrokerLimits { connections_per_address: 1, ..BrokerLimits::default() };
    let listen = Listen { proxy_protocol: true, ..everywhere(authority.files()) };
    let users = Users::new(&[("alice", Role::User)]);
    let harness = Harness::bind(BrokerConfig { listen, limits, anonymous: true, ..users.config() }).await;
    let mut inside = Vec::new();
    for (n, kind) in (1..).zip(SOCKETS) {
        for (version, header) in (1..).zip(headers([192, 0, n, 1])) {
            let mut stream = knock(&harness, kind).await;
            stream.write_all(&header).await.unwrap();
            if version == 2 {
                // The same address as in version 1, and that one is still there.
                assert!(ended(stream).await.is_empty(), "{kind:?}");
                continue;
            }
            let mut peer = Peer::over(sockets::through(kind, stream, &tls).await.unwrap(), V5);
            let client = format!("{kind:?}");
            let (user, password) = (Some("alice"), Some("ecila"));
            peer.say_connect(&Connect { client: &client, user, password, ..Connect::default() }).await;
            assert_eq!(peer.next().await, Seen::ConnAck { resumed: false, code: 0 });
            inside.push(peer);
        }
    }
    assert_eq!(harness.metrics.get(Metric::BrokerAddressRefused), 4);

    let mut missing = Peer::over(knock(&harness, SocketKind::Tcp).await, V5);
    missing.say_connect(&Connect::default()).await;
    assert_eq!(missing.next().await, Seen::Closed);
    let mut wrong = knock(&harness, SocketKind::Tcp).await;
    wrong.write_all(b"PROXY TCP5 x\r\n").await.unwrap();
    assert!(ended(wrong).await.is_empty());
    assert_eq!(harness.metrics.get(Metric::BrokerHandshakesFailed), 2);

    // A proxy that speaks for itself is a client like others, under its own address.
    let mut stream = knock(&harness, SocketKind::Tcp).await;
    stream.write_all(b"\r\n\r\n\0\r\nQUIT\n\x20\x00\x00\x00").await.unwrap();
    let mut own = Peer::over(stream, V5);
    own.say_connect(&Connect { client: "own", ..Connect::default() }).await;
    assert_eq!(own.next().await, Seen::ConnAck { resumed: false, code: 0 });
    for peer in &mut inside {
        peer.quiet().await;
    }
    harness.close().await;
}

#[tokio::test]
async fn a_stranger_behind_a_proxy_is_not_let_in_as_anybody() {
    let (log, listen) = (Log::default(), Listen { proxy_protocol: true, ..config().listen });
    let _listening = log.listen(Level::INFO);
    let harness = open(listen, BrokerLimits::default()).await;
    let mut mapped = b"\r\n\r\n\0\r\nQUIT\n\x21\x21\x00\x24".to_vec();
    mapped.extend(Ipv4Addr::LOCALHOST.to_ipv6_mapped().octets());
    mapped.extend([0; 16]);
    mapped.extend([0x0f, 0xa0, 0x07, 0x5b]);
    let [text, binary] = headers([192, 0, 2, 1]);
    let [near, _] = headers([127, 0, 0, 9]);
    for version in [V311, V5] {
        let not_authorized = if version == V311 { 5 } else { 0x87 };
        for (header, code) in [(&text, not_authorized), (&binary, not_authorized), (&near, 0), (&mapped, 0)] {
            let mut stream = knock(&harness, SocketKind::Tcp).await;
            stream.write_all(header).await.unwrap();
            let mut peer = Peer::over(stream, version);
            // Where there are no users, names are not looked at.
            peer.say_connect(&Connect { version, user: Some("bal1"), password: Some("x"), ..Connect::default() }).await;
            assert_eq!(peer.next().await, Seen::ConnAck { resumed: false, code }, "{header:?}");
        }
    }
    let text = log.text();
    let lines: Vec<_> = text.lines().filter(|line| line.contains("reason=\"no_user\"")).collect();
    assert_eq!(lines.len(), 4, "{text}");
    assert!(lines.iter().all(|line| line.contains("address=192.0.2.1") && line.contains("loopback")), "{text}");
    harness.close().await;
}
