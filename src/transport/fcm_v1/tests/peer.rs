//! FCM's end of a connection, spoken frame by frame, so that it can do what no server library would.

use super::harness::soon;
use futures_util::FutureExt;
use serde_json::Value;
use std::collections::{HashMap, VecDeque};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

const PREFACE: usize = 24;
const HEAD: usize = 9;

const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;

const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

/// Error codes of RFC 9113, section 7.
pub(in crate::transport) const NO_ERROR: u32 = 0;
pub(in crate::transport) const REFUSED_STREAM: u32 = 7;
pub(in crate::transport) const CANCEL: u32 = 8;

/// Names of settings (RFC 9113, section 6.5.2).
pub(in crate::transport) const MAX_CONCURRENT_STREAMS: u16 = 3;
pub(in crate::transport) const INITIAL_WINDOW_SIZE: u16 = 4;

/// Whether a frame is the last of its stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::transport) enum Last {
    No,
    Yes,
}

impl Last {
    fn flag(self) -> u8 {
        if self == Self::Yes { END_STREAM } else { 0 }
    }
}

/// One connection.
pub(in crate::transport) struct Peer {
    stream: DuplexStream,
    bytes: Vec<u8>,
    bodies: HashMap<u32, Vec<u8>>,
    /// Streams that the other side gave up.
    pub(in crate::transport) resets: Vec<u32>,
    /// Pings that came; they are answered unless this peer is mute.
    pub(in crate::transport) pings: usize,
    pub(in crate::transport) mute: bool,
    ready: VecDeque<Asked>,
}

/// A request.
#[derive(Debug, Clone)]
pub(in crate::transport) struct Asked {
    pub(in crate::transport) stream: u32,
    pub(in crate::transport) body: Value,
}

impl Asked {
    /// The bridge's id of the message.
    pub(in crate::transport) fn mid(&self) -> String {
        self.body["message"]["data"]["mid"].as_str().unwrap().to_owned()
    }
}

impl Peer {
    /// Takes a connection, and so many streams at a time.
    pub(in crate::transport) async fn accept(stream: DuplexStream, streams: u32) -> Self {
        let mut peer = Self::greet(stream).await;
        peer.settings(&[(MAX_CONCURRENT_STREAMS, streams)]).await;
        peer
    }

    /// Takes a connection, and says nothing yet.
    pub(in crate::transport) async fn greet(mut stream: DuplexStream) -> Self {
        let mut preface = [0; PREFACE];
        stream.read_exact(&mut preface).await.unwrap();
        assert!(preface.starts_with(b"PRI * HTTP/2.0"));
        let (bytes, bodies, ready) = (Vec::new(), HashMap::new(), VecDeque::new());
        Self { stream, bytes, bodies, resets: Vec::new(), pings: 0, mute: false, ready }
    }

    pub(in crate::transport) async fn settings(&mut self, settings: &[(u16, u32)]) {
        let payload: Vec<u8> = settings
            .iter()
            .flat_map(|(name, value)| [&name.to_be_bytes()[..], &value.to_be_bytes()[..]].concat())
            .collect();
        self.frame(SETTINGS, 0, 0, &payload).await;
    }

    /// A ping of our own.
    pub(in crate::transport) async fn ping(&mut self) {
        self.frame(PING, 0, 0, &[7; 8]).await;
    }

    /// The head of an answer, or with [`Last::Yes`] trailers and the end of it.
    pub(in crate::transport) async fn head(
        &mut self,
        stream: u32,
        status: Option<&str>,
        headers: &[(&str, &str)],
        last: Last,
    ) {
        let mut block = status.map_or_else(Vec::new, |status| literal(None, status));
        for (name, value) in headers {
            block.extend(literal(Some(name), value));
        }
        self.frame(HEADERS, END_HEADERS | last.flag(), stream, &block).await;
    }

    /// A head as it is on the wire.
    pub(in crate::transport) async fn raw_head(&mut self, stream: u32, block: &[u8]) {
        self.frame(HEADERS, END_HEADERS, stream, block).await;
    }

    pub(in crate::transport) async fn data(&mut self, stream: u32, bytes: &[u8], last: Last) {
        self.frame(DATA, last.flag(), stream, bytes).await;
    }

    /// The next request; `None` when the connection is over. Cancel-safe.
    pub(in crate::transport) async fn asked(&mut self) -> Option<Asked> {
        loop {
            if let Some(asked) = self.ready.pop_front() {
                return Some(asked);
            }
            while let Some((kind, flags, stream, payload)) = self.take_frame() {
                self.hear(kind, flags, stream, payload).await;
            }
            if self.ready.is_empty()
                && self.stream.read_buf(&mut self.bytes).await.ok().filter(|count| *count > 0).is_none()
            {
                return None;
            }
        }
    }

    /// Whether a request is there that was not looked at, or the beginning of one. Nobody else has a turn meanwhile.
    pub(in crate::transport) fn has_request(&mut self) -> bool {
        let _ = self.stream.read_buf(&mut self.bytes).now_or_never();
        let mut rest = &self.bytes[..];
        while let Some(head) = rest.get(..HEAD) {
            if head[3] == HEADERS {
                return true;
            }
            let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
            rest = rest.get(HEAD + length..).unwrap_or_default();
        }
        false
    }

    /// What a request was about, when it must come.
    pub(in crate::transport) async fn next(&mut self) -> Asked {
        soon(self.asked()).await.expect("the connection is open")
    }

    /// Taken.
    pub(in crate::transport) async fn take(&mut self, stream: u32) {
        self.answer(stream, "200", &[], &format!("{{\"name\":\"projects/p/messages/{stream}\"}}")).await;
    }

    /// Any answer.
    pub(in crate::transport) async fn answer(
        &mut self,
        stream: u32,
        status: &str,
        headers: &[(&str, &str)],
        body: &str,
    ) {
        let headers = [headers, &[("content-type", "application/json; charset=UTF-8")]].concat();
        self.head(stream, Some(status), &headers, Last::No).await;
        self.data(stream, body.as_bytes(), Last::No).await;
        // As FCM does: a second, empty one.
        self.data(stream, &[], Last::Yes).await;
    }

    /// A fault in FCM's own form.
    pub(in crate::transport) async fn fault(
        &mut self,
        stream: u32,
        status: u16,
        code: Option<&str>,
        headers: &[(&str, &str)],
    ) {
        let details = code.map_or(serde_json::json!([]), |code| {
            serde_json::json!([{"@type": "type.googleapis.com/google.firebase.fcm.v1.FcmError", "errorCode": code}])
        });
        let body = serde_json::json!({"error": {"code": status, "message": "no", "status": "X", "details": details}});
        self.answer(stream, &status.to_string(), headers, &body.to_string()).await;
    }

    pub(in crate::transport) async fn reset(&mut self, stream: u32, code: u32) {
        self.frame(RST_STREAM, 0, stream, &code.to_be_bytes()).await;
    }

    pub(in crate::transport) async fn go_away(&mut self, last: u32, code: u32) {
        let mut payload = last.to_be_bytes().to_vec();
        payload.extend(code.to_be_bytes());
        self.frame(GOAWAY, 0, 0, &payload).await;
    }

    async fn hear(&mut self, kind: u8, flags: u8, stream: u32, payload: Vec<u8>) {
        match kind {
            SETTINGS if flags & ACK == 0 => self.frame(SETTINGS, ACK, 0, &[]).await,
            PING if flags & ACK == 0 => {
                self.pings += 1;
                if !self.mute {
                    self.frame(PING, ACK, 0, &payload).await;
                }
            }
            RST_STREAM => self.resets.push(stream),
            DATA => {
                if !payload.is_empty() {
                    let count = u32::try_from(payload.len()).unwrap().to_be_bytes();
                    self.frame(WINDOW_UPDATE, 0, 0, &count).await;
                }
                let body = self.bodies.entry(stream).or_default();
                body.extend(payload);
                if flags & END_STREAM != 0 {
                    let body = serde_json::from_slice(&self.bodies.remove(&stream).unwrap()).unwrap();
                    self.ready.push_back(Asked { stream, body });
                }
            }
            _ => {}
        }
    }

    fn take_frame(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let head: [u8; HEAD] = self.bytes.get(..HEAD)?.try_into().unwrap();
        let length = usize::from(head[0]) << 16 | usize::from(head[1]) << 8 | usize::from(head[2]);
        let payload = self.bytes.get(HEAD..HEAD + length)?.to_vec();
        self.bytes.drain(..HEAD + length);
        let stream = u32::from_be_bytes(head[5..].try_into().unwrap());
        Some((head[3], head[4], stream, payload))
    }

    async fn frame(&mut self, kind: u8, flags: u8, stream: u32, payload: &[u8]) {
        let mut bytes = u32::try_from(payload.len()).unwrap().to_be_bytes()[1..].to_vec();
        bytes.extend([kind, flags]);
        bytes.extend(stream.to_be_bytes());
        bytes.extend(payload);
        // The other side may have gone.
        let _ = self.stream.write_all(&bytes).await;
    }
}

/// A header field for HPACK, spelled out (RFC 7541, section 6.2.2); without a name it is `:status`.
fn literal(name: Option<&str>, value: &str) -> Vec<u8> {
    let text = |text: &str| {
        let mut bytes = length(text.len());
        bytes.extend(text.as_bytes());
        bytes
    };
    let mut bytes = match name {
        None => vec![8],
        Some(name) => [vec![0], text(name)].concat(),
    };
    bytes.extend(text(value));
    bytes
}

/// A length for HPACK: in seven bits, or after that in as many more as it takes (RFC 7541, section 5.1).
fn length(length: usize) -> Vec<u8> {
    if length < 127 {
        return vec![u8::try_from(length).unwrap()];
    }
    let (mut bytes, mut rest) = (vec![127], length - 127);
    while rest >= 128 {
        bytes.push(u8::try_from(rest % 128).unwrap() | 128);
        rest /= 128;
    }
    bytes.push(u8::try_from(rest).unwrap());
    bytes
}
