//! The measure over CCS: a client that knows just enough XMPP, with the stanzas written before the clock runs, and nothing
//! behind them.

use crate::bare::{connector, dial};
use crate::program::SENDER;
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Value, json};
use std::net::SocketAddr;
use std::path::Path;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;

/// Messages that may be unanswered.
const WINDOW: usize = 100;
const HEADER: &str = "<stream:stream to=\"gcm.googleapis.com\" version=\"1.0\" xmlns=\"jabber:client\" \
                      xmlns:stream=\"http://etherx.jabber.org/streams\">";
const BIND: &str = "<iq type=\"set\" id=\"1\"><bind xmlns=\"urn:ietf:params:xml:ns:xmpp-bind\"><resource>bare</resource>\
                    </bind></iq>";

/// The client, logged in.
pub(crate) struct Client {
    stream: TlsStream<TcpStream>,
    read: Vec<u8>,
}

impl Client {
    pub(crate) async fn connect(address: SocketAddr, ca_file: &Path) -> Self {
        let uri = format!("https://{address}").parse().expect("a URI");
        let stream = dial(&connector(ca_file, &[]), &uri).await;
        let mut client = Self { stream, read: Vec::new() };
        let secret = STANDARD.encode(format!("\0{SENDER}@gcm.googleapis.com\0key"));
        let auth = format!("<auth mechanism=\"PLAIN\" xmlns=\"urn:ietf:params:xml:ns:xmpp-sasl\">{secret}</auth>");
        client.ask(HEADER, "</stream:features>").await;
        client.ask(&auth, "<success xmlns=\"urn:ietf:params:xml:ns:xmpp-sasl\"/>").await;
        client.ask(HEADER, "</stream:features>").await;
        client.ask(BIND, "</iq>").await;
        client
    }

    /// Sends everything, and waits for all answers and receipts.
    pub(crate) async fn run(mut self, stanzas: Vec<String>) {
        let mut waiting = stanzas.iter();
        let (mut unanswered, mut answers, mut receipts) = (0, 0, 0);
        let mut out = String::new();
        while answers < stanzas.len() || receipts < stanzas.len() {
            for stanza in waiting.by_ref().take(WINDOW - unanswered) {
                out.push_str(stanza);
                unanswered += 1;
            }
            self.write(&out).await;
            out.clear();
            for payload in self.payloads().await {
                match payload["message_type"].as_str() {
                    Some("ack") => {
                        unanswered -= 1;
                        answers += 1;
                    }
                    Some("receipt") => {
                        let id = &payload["message_id"];
                        out += &stanza(&json!({ "to": payload["from"], "message_id": id, "message_type": "ack" }));
                        receipts += 1;
                    }
                    _ => panic!("unexpected: {payload}"),
                }
            }
        }
    }

    async fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.expect("the simulator reads");
        self.stream.flush().await.expect("the simulator reads");
    }

    async fn fill(&mut self) {
        let bytes = self.stream.read_buf(&mut self.read).await.expect("the simulator answers");
        assert_ne!(bytes, 0, "the simulator ended the connection");
    }

    /// Says `text` and waits for an answer that ends with `end`.
    async fn ask(&mut self, text: &str, end: &str) {
        self.write(text).await;
        while !self.read.ends_with(end.as_bytes()) {
            self.fill().await;
        }
        self.read.clear();
    }

    /// What the next bytes bring, as far as it is whole.
    async fn payloads(&mut self) -> Vec<Value> {
        self.fill().await;
        let mut rest = std::str::from_utf8(&self.read).expect("ASCII");
        let mut payloads = Vec::new();
        while let Some((stanza, further)) = rest.split_once("</message>") {
            let (_, envelope) = stanza.split_once("google:mobile:data\">").expect("an envelope");
            let (text, _) = envelope.split_once('<').expect("an envelope");
            let text = text.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&");
            payloads.push(serde_json::from_str(&text).expect("JSON"));
            rest = further;
        }
        let read = self.read.len() - rest.len();
        self.read.drain(..read);
        payloads
    }
}

/// The stanza that carries `payload`, whose texts hold nothing that XML knows.
pub(crate) fn stanza(payload: &Value) -> String {
    format!("<message id=\"\"><gcm xmlns=\"google:mobile:data\">{payload}</gcm></message>")
}
