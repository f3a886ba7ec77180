//! What the server does to a client that goes too far or stays too long.

use super::*;
use crate::sim::v1::V1Faults;
use crate::sim::v1::config::ConnectionLimits;

/// A client that reads and writes frames itself.
struct Raw(TcpStream);

const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;

impl Raw {
    async fn connect(running: &Running) -> Self {
        let mut socket = TcpStream::connect(running.v1.address()).await.unwrap();
        socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
        let mut raw = Self(socket);
        raw.write(SETTINGS, &[]).await;
        raw
    }

    async fn write(&mut self, kind: u8, payload: &[u8]) {
        self.0.write_all(&frame(kind, 0, 0, payload)).await.unwrap();
    }

    /// The payload of the next frame of a kind.
    async fn next(&mut self, wanted: u8) -> Vec<u8> {
        self.next_with_stream(wanted).await.1
    }

    async fn next_with_stream(&mut self, wanted: u8) -> (u8, Vec<u8>) {
        loop {
            let mut head = [0; 9];
            self.0.read_exact(&mut head).await.unwrap();
            let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
            self.0.read_exact(&mut payload).await.unwrap();
            if head[3] == wanted {
                return (head[8], payload);
            }
        }
    }

    /// The last stream, the code and the words of the GOAWAY, and then nothing more.
    async fn goaway(mut self) -> (u32, u32, String) {
        let payload = self.next(GOAWAY).await;
        let mut rest = Vec::new();
        self.0.read_to_end(&mut rest).await.unwrap();
        assert!(rest.is_empty(), "{rest:?}");
        let number = |at: usize| u32::from_be_bytes(payload[at..at + 4].try_into().unwrap());
        (number(0), number(4), String::from_utf8(payload[8..].to_vec()).unwrap())
    }
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let mut frame = vec![0, 0, u8::try_from(payload.len()).unwrap(), kind, flags, 0, 0, 0, stream];
    frame.extend_from_slice(payload);
    frame
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused() {
    let running = start(V1Config::default()).await;
    let mut raw = Raw::connect(&running).await;
    // :method POST, :scheme https, :path /, :authority a; the body is still to come (RFC 7541, appendix A).
    let head = [0x83, 0x87, 0x84, 0x01, 1, b'a'];
    const END_HEADERS: u8 = 4;
    // A client may begin before it has read the server's settings.
    let heads: Vec<u8> = (0..101).flat_map(|n| frame(HEADERS, END_HEADERS, 2 * n + 1, &head)).collect();
    raw.0.write_all(&heads).await.unwrap();
    assert_eq!(raw.next_with_stream(RST_STREAM).await, (201, vec![0, 0, 0, 7]));
    let stats = running.v1.stats();
    assert_eq!((stats.violations.streams, stats.streams_peak, stats.open_streams), (1, 100, 100));
    running.stop().await;
}

#[tokio::test]
async fn a_stream_refused_on_purpose_is_no_fault_of_the_client() {
    let running = start(V1Config::default()).await;
    let mut client = running.client().await;
    let error = client.push("sim-refuse-stream:x").await.unwrap_err();
    assert_eq!(error.reason(), Some(h2::Reason::REFUSED_STREAM));
    assert_eq!(client.push("device").await.unwrap().status, 200);
    assert_eq!(running.v1.stats().violations.streams, 0);
    running.stop().await;
}

fn hurried(time_divisor: u32) -> V1Config {
    V1Config { connection: ConnectionLimits { time_divisor, ..ConnectionLimits::default() }, ..V1Config::default() }
}

#[tokio::test]
async fn an_idle_connection_times_out() {
    // Four minutes in 20 ms.
    let running = start(hurried(12_000)).await;
    assert_eq!(Raw::connect(&running).await.goaway().await, (0, 0, "session_timeout".to_owned()));
    assert_eq!(running.v1.stats().goaways, [("session_timeout", 1)].into());
    running.stop().await;
}

#[tokio::test]
async fn an_old_connection_is_told_to_go_and_its_streams_are_answered() {
    // An hour in 300 ms.
    let running = start(hurried(12_000)).await;
    let mut client = running.client().await;
    let slow = client.begin(&json!({"message": {"token": "sim-accept~400:x"}})).await.unwrap();
    assert_eq!(hear(slow).await.unwrap().status, 200, "it was begun before");
    assert_eq!(running.v1.stats().goaways, [("max_age", 1)].into());
    assert!(client.ended().await.is_ok());
    running.stop().await;
}

#[tokio::test]
async fn pings_without_a_request_are_too_many() {
    let running = start(V1Config::default()).await;
    let mut raw = Raw::connect(&running).await;
    for _ in 0..2 {
        raw.write(PING, &[0; 8]).await;
        raw.next(PING).await;
    }
    assert!(running.v1.stats().goaways.is_empty(), "two are none too many");
    raw.write(PING, &[0; 8]).await;
    assert_eq!(raw.goaway().await, (0, 0xb, "too_many_pings".to_owned()));
    assert_eq!(running.v1.stats().violations.pings, 1);
    running.stop().await;
}

#[tokio::test]
async fn a_request_makes_up_for_pings() {
    let running = start(V1Config::default()).await;
    let (send, mut connection) = h2::client::handshake(running.tls(&[b"h2"]).await.unwrap()).await.unwrap();
    let mut pings = connection.ping_pong().unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let path = "/v1/projects/demo-project/messages:send".to_owned();
    let mut client = Client { send, driver, access: running.access().await, path };
    for _ in 0..3 {
        for _ in 0..2 {
            pings.ping(h2::Ping::opaque()).await.unwrap();
        }
        assert_eq!(client.push("device").await.unwrap().status, 200);
    }
    assert_eq!(running.v1.stats().violations.pings, 0);
    running.stop().await;
}

#[tokio::test]
async fn what_comes_behind_a_goaway_was_not_looked_at() {
    let running = start(V1Config::default()).await;
    let mut client = running.client().await;
    let slow = client.begin(&json!({"message": {"token": "sim-accept~50:x"}})).await.unwrap();
    let error = client.push("sim-goaway:x").await.unwrap_err();
    assert!(error.is_go_away() && error.is_remote(), "{error}");
    assert_eq!(error.reason(), Some(h2::Reason::NO_ERROR));
    assert_eq!(hear(slow).await.unwrap().status, 200, "that one came before");
    assert!(running.sim.received("sim-goaway:x").is_empty());
    assert!(client.ended().await.is_ok());
    assert_eq!((running.v1.stats().unprocessed, running.v1.stats().accepted), (1, 1));
    running.stop().await;
}

#[tokio::test]
async fn connections_are_told_to_go_by_order_and_by_plan() {
    let running = start(V1Config::default()).await;
    let mut client = running.client().await;
    assert_eq!(client.push("device").await.unwrap().status, 200);
    assert_eq!(running.v1.goaway(Some(1)), 1);
    assert!(client.ended().await.is_ok());
    running.v1.set_faults(V1Faults { goaway_after: Some(2), ..V1Faults::default() }).unwrap();
    let mut client = running.client().await;
    for _ in 0..2 {
        assert_eq!(client.push("device").await.unwrap().status, 200);
    }
    assert!(client.push("device").await.is_err());
    assert!(client.ended().await.is_ok());
    assert_eq!(running.v1.stats().goaways, [("max_age", 2)].into());
    running.stop().await;
}
