use futures_util::{SinkExt, StreamExt};
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream, duplex};
use tokio::runtime::Builder;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::protocol::Role;
use tokio_tungstenite::{client_async, tungstenite};

use super::*;

const PACKET: usize = 1_000;
const PIPE: usize = 64 * 1024;

type Client = WebSocketStream<DuplexStream>;
type Accepted = tungstenite::handshake::client::Response;

async fn dial(
    url: &str,
    headers: &[(&'static str, &'static str)],
    origins: &Origins,
) -> (Result<(Client, Accepted), Error>, Result<WebSocket<DuplexStream>, Box<Error>>) {
    let (near, far) = duplex(PIPE);
    let mut request = url.into_client_request().unwrap();
    for (name, value) in headers {
        request.headers_mut().append(*name, HeaderValue::from_static(value));
    }
    tokio::join!(client_async(request, near), upgrade(far, origins, PACKET))
}

async fn pair() -> (Client, WebSocket<DuplexStream>) {
    let (client, server) = dial("ws://host/mqtt", &[("sec-websocket-protocol", "mqtt")], &Origins::default()).await;
    (client.unwrap().0, server.unwrap())
}

#[tokio::test]
async fn the_subprotocol_is_chosen_among_what_is_offered() {
    for (offered, chosen) in [("mqtt", "mqtt"), ("chat, mqttv3.1 ,mqtt", "mqtt"), ("mqttv3.1", "mqttv3.1")] {
        for url in ["ws://host/mqtt", "ws://host/mqtt/", "ws://host/mqtt?x=y"] {
            let (client, server) = dial(url, &[("sec-websocket-protocol", offered)], &Origins::default()).await;
            assert_eq!(client.unwrap().1.headers()["sec-websocket-protocol"], chosen);
            server.unwrap();
        }
    }
}

#[tokio::test]
async fn others_are_told_what_is_wrong() {
    let mqtt = ("sec-websocket-protocol", "mqtt");
    let home = Origins { listed: vec!["https://chat.example.com/".to_owned()], of_this_machine: false };
    let refused = async |url, headers: &[_], status: u16| {
        let (client, server) = dial(url, headers, &home).await;
        server.unwrap_err();
        match client.unwrap_err() {
            Error::Http(response) => assert_eq!(response.status(), status),
            other => panic!("{other}"),
        }
    };
    refused("ws://host/", &[mqtt], 404).await;
    refused("ws://host/mqtt/x", &[mqtt], 404).await;
    refused("ws://host/mqtt", &[mqtt, ("origin", "https://evil.example.com")], 403).await;
    refused("ws://host/mqtt", &[mqtt, ("origin", "null")], 403).await;
    refused("ws://host/mqtt", &[], 400).await;
    refused("ws://host/mqtt", &[("sec-websocket-protocol", "chat")], 400).await;
    for welcome in [&[mqtt][..], &[mqtt, ("origin", "https://CHAT.example.com")]] {
        dial("ws://host/mqtt", welcome, &home).await.0.unwrap();
    }
}

#[tokio::test]
async fn where_nobody_logs_in_only_pages_of_this_machine_and_those_that_are_listed_are_let_in() {
    let mqtt = ("sec-websocket-protocol", "mqtt");
    let here = Origins { listed: vec!["https://chat.example.com".to_owned()], of_this_machine: true };
    for origin in [
        "http://localhost",
        "http://LOCALHOST:8080",
        "http://app.localhost:3000",
        "http://127.0.0.1:8000",
        "https://127.8.9.1",
        "http://[::1]:8080",
        "https://chat.example.com",
    ] {
        dial("ws://host/mqtt", &[mqtt, ("origin", origin)], &here).await.0.expect(origin);
    }
    dial("ws://host/mqtt", &[mqtt], &here).await.0.expect("a program that is no browser");
    // A name of the attacker's may lead to this machine by DNS, and any page makes frames whose origin is `null`.
    for origin in
        ["http://host", "https://evil.example.com", "null", "http://localhost.evil.example.com", "http://10.0.0.1", ""]
    {
        let (client, server) = dial("ws://host/mqtt", &[mqtt, ("origin", origin)], &here).await;
        assert!(why(&server.unwrap_err()).contains("broker.ws_origins"), "{origin}");
        assert!(client.is_err(), "{origin}");
    }
}

#[tokio::test]
async fn a_request_without_end_is_cut_off() {
    let (mut near, far) = duplex(1024);
    let client = async {
        near.write_all(b"GET /mqtt HTTP/1.1\r\n").await.unwrap();
        let line = [b'x'; 1000];
        let mut sent = 0;
        while near.write_all(&line).await.is_ok() {
            sent += line.len();
        }
        sent
    };
    let (sent, server) = tokio::join!(client, async { upgrade(far, &Origins::default(), PACKET).await.map(drop) });
    server.unwrap_err();
    assert!(sent < 100_000, "{sent} bytes were taken");
}

#[tokio::test]
async fn messages_are_one_stream_and_pings_are_answered() {
    let (mut client, mut server) = pair().await;
    for message in [Message::binary(&b"ab"[..]), Message::binary(&b""[..]), Message::Ping("p".into())] {
        client.send(message).await.unwrap();
    }
    client.send(Message::binary(&b"cd"[..])).await.unwrap();
    let mut bytes = [0; 4];
    server.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"abcd");
    assert_eq!(client.next().await.unwrap().unwrap(), Message::Pong("p".into()));
    server.write_all(b"answer").await.unwrap();
    server.flush().await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::binary(&b"answer"[..]));
}

#[tokio::test]
async fn a_close_is_answered_and_ends_the_stream() {
    let (mut client, mut server) = pair().await;
    client.close(None).await.unwrap();
    let server = async { server.read(&mut [0; 10]).await };
    let (size, answer) = tokio::join!(server, client.next());
    assert_eq!(size.unwrap(), 0);
    assert!(matches!(answer, Some(Ok(Message::Close(_)))), "{answer:?}");
}

#[tokio::test]
async fn a_shutdown_says_goodbye() {
    let (mut client, mut server) = pair().await;
    server.write_all(b"last").await.unwrap();
    server.shutdown().await.unwrap();
    assert_eq!(client.next().await.unwrap().unwrap(), Message::binary(&b"last"[..]));
    assert!(matches!(client.next().await, Some(Ok(Message::Close(_)))));
}

#[tokio::test]
async fn what_is_not_mqtt_is_closed_with_the_reason() {
    let most = PACKET * PACKETS_PER_MESSAGE;
    for (message, code) in
        [(Message::text("hello"), CloseCode::Unsupported), (Message::binary(vec![0; most + 1]), CloseCode::Size)]
    {
        let (mut client, mut server) = pair().await;
        client.send(message).await.unwrap();
        let error = server.read(&mut [0; 10]).await.unwrap_err();
        assert!(error.to_string().starts_with("Connection reset"), "{error}");
        match client.next().await {
            Some(Ok(Message::Close(Some(frame)))) => assert_eq!(frame.code, code),
            other => panic!("{other:?}"),
        }
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_writer() {
    let (client, mut server) = pair().await;
    let mut taken = 0;
    let flood = async {
        while server.write_all(&[0; 10_000]).await.is_ok() {
            taken += 10_000;
        }
    };
    assert!(tokio::time::timeout(std::time::Duration::from_millis(100), flood).await.is_err());
    assert!(taken <= PIPE + WRITE_ROOM + 10_000, "{taken}");
    drop(client);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// Bytes come out as they went in, whatever the messages and the pieces of the transport.
    #[test]
    fn bytes_pass_unchanged_both_ways(
        mut messages in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..500), 0..10),
        // Not empty: both sides here do one thing after the other, and what comes behind the last byte would not be read.
        last in prop::collection::vec(any::<u8>(), 1..500),
        pipe in 1..300usize,
    ) {
        messages.push(last);
        let runtime = Builder::new_current_thread().build().unwrap();
        runtime.block_on(async {
            let (near, far) = duplex(pipe);
            let mut client = WebSocketStream::from_raw_socket(near, Role::Client, None).await;
            let inner = WebSocketStream::from_raw_socket(far, Role::Server, None).await;
            let mut server = WebSocket { inner, in_hand: Bytes::new() };
            let sent = messages.concat();
            let echo = async {
                let mut bytes = vec![0; sent.len()];
                server.read_exact(&mut bytes).await.unwrap();
                server.write_all(&bytes).await.unwrap();
                server.shutdown().await.unwrap();
                bytes
            };
            let talk = async {
                for message in messages {
                    client.send(Message::binary(message)).await.unwrap();
                }
                let mut back = Vec::new();
                while let Some(Ok(Message::Binary(bytes))) = client.next().await {
                    back.extend_from_slice(&bytes);
                }
                back
            };
            let (there, back) = tokio::join!(echo, talk);
            assert_eq!(there, sent);
            assert_eq!(back, sent);
        });
    }

    /// Garbage ends in an error or an end, never in a panic, and reads the same in every split.
    #[test]
    fn garbage_reads_the_same_under_every_split(
        garbage in prop::collection::vec(prop_oneof![Just(0x82), Just(0x80), Just(0x84), Just(0), any::<u8>()], 0..200),
        piece in 1..50usize,
    ) {
        let seen = |pipe| {
            let runtime = Builder::new_current_thread().build().unwrap();
            runtime.block_on(async {
                let (mut near, far) = duplex(pipe);
                let config = WebSocketConfig::default().max_frame_size(Some(100)).max_message_size(Some(100));
                let inner = WebSocketStream::from_raw_socket(far, Role::Server, Some(config)).await;
                let mut server = WebSocket { inner, in_hand: Bytes::new() };
                let client = async {
                    let _ = near.write_all(&garbage).await;
                    let _ = near.shutdown().await;
                    let _ = near.read_to_end(&mut Vec::new()).await;
                };
                let server = async {
                    let (mut bytes, mut buffer) = (Vec::new(), [0; 64]);
                    while let Ok(size @ 1..) = server.read(&mut buffer).await {
                        bytes.extend_from_slice(&buffer[..size]);
                    }
                    drop(server);
                    bytes
                };
                tokio::join!(client, server).1
            })
        };
        prop_assert_eq!(seen(1 << 20), seen(piece));
    }
}
