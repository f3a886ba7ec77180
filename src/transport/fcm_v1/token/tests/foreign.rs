//! Servers of access tokens that are not Google's, over real sockets and TLS.

use super::*;
use crate::transport::fcm_v1::{FcmConfig, Plan};
use bytes::Bytes;
use serde_json::json;
use std::io::Write;
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::ServerConfig;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::PrivatePkcs8KeyDer;
use tokio_rustls::server::TlsStream;

const ANSWER: &str =
    r#"{"access_token": "ya29.x", "expires_in": "3599", "token_type": "bearer", "id_token": {"a": []}}"#;

type Tls = TlsStream<TcpStream>;

/// What a server says to everybody.
#[derive(Clone)]
enum Says {
    /// These bytes; then it closes the socket without close_notify, as Python's servers do.
    Http1(String),
    /// A status, a header and a body, in HTTP/2.
    Http2(u16, (&'static str, String), Bytes),
}

impl Says {
    fn token_in_http_1() -> Self {
        Self::Http1(http_answer("200 OK", ANSWER))
    }

    fn in_http_2(status: u16, body: impl Into<Bytes>) -> Self {
        Self::Http2(status, ("content-type", "application/json".to_owned()), body.into())
    }

    /// Hears one request, and says it; what it heard.
    async fn to(self, stream: Tls) -> String {
        match self {
            Self::Http1(answer) => http_1(stream, &answer).await,
            Self::Http2(status, header, body) => http_2(stream, status, header, body).await,
        }
    }
}

/// A server, and the file of a service account that goes there.
struct Server {
    account: tempfile::NamedTempFile,
    ca: tempfile::NamedTempFile,
    /// Scheme, host and port.
    place: String,
    requests: mpsc::Receiver<String>,
    _tasks: JoinSet<()>,
}

impl Server {
    /// It agrees to one of `protocols` (ALPN), or, if there are none, knows nothing of that.
    async fn open(protocols: &[&str], says: Says) -> Self {
        let rcgen::CertifiedKey { cert, signing_key } =
            rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let mut ca = tempfile::NamedTempFile::new().unwrap();
        ca.write_all(cert.pem().as_bytes()).unwrap();
        let key = PrivatePkcs8KeyDer::from(signing_key.serialize_der());
        let mut config = ServerConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_no_client_auth()
            .with_single_cert(vec![cert.der().clone()], key.into())
            .unwrap();
        config.alpn_protocols = protocols.iter().map(|name| name.as_bytes().to_vec()).collect();
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let place = format!("https://localhost:{}", listener.local_addr().unwrap().port());
        let (tls, (told, requests)) = (TlsAcceptor::from(Arc::new(config)), mpsc::channel(16));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move {
            while let Ok((socket, _)) = listener.accept().await {
                let Ok(stream) = tls.accept(socket).await else { continue };
                told.send(says.clone().to(stream).await).await.unwrap();
            }
        });
        let account = account::tests::file(|document| document["token_uri"] = format!("{place}/token").into());
        Self { account, ca, place, requests, _tasks: tasks }
    }

    /// What the bridge makes of it.
    async fn fetch(&self) -> Result<Fresh, FetchError> {
        let config = FcmConfig {
            ca_file: Some(self.ca.path().to_owned()),
            credentials_file: Some(self.account.path().to_owned()),
            ..FcmConfig::default()
        };
        let Plan { source, tokens, .. } = config.plan().unwrap();
        source.fetch(&tokens).await
    }

    /// What it was asked, once each.
    async fn asked(&mut self) -> String {
        let asked = self.requests.recv().await.unwrap();
        assert!(self.requests.try_recv().is_err(), "asked twice");
        asked
    }
}

async fn http_1(mut stream: Tls, answer: &str) -> String {
    let mut request = Vec::new();
    while !is_whole(&request) && stream.read_buf(&mut request).await.unwrap() > 0 {}
    // Whoever has heard enough is gone before the end.
    let _ = stream.write_all(answer.as_bytes()).await;
    let _ = stream.flush().await;
    let _ = stream.get_mut().0.shutdown().await;
    String::from_utf8(request).unwrap()
}

async fn http_2(stream: Tls, status: u16, (name, value): (&str, String), body: Bytes) -> String {
    let mut connection = h2::server::handshake(stream).await.unwrap();
    let mut asked = String::new();
    while let Some(Ok((request, mut respond))) = connection.accept().await {
        let (head, mut form) = request.into_parts();
        let answering = async {
            asked += &format!("{} {} {:?} ", head.method, head.uri, head.headers);
            while let Some(Ok(chunk)) = form.data().await {
                asked += std::str::from_utf8(&chunk).unwrap();
            }
            let response = http::Response::builder().status(status).header(name, &value);
            let mut stream = respond.send_response(response.body(()).unwrap(), false).unwrap();
            stream.send_data(body.clone(), true).unwrap();
        };
        tokio::select! {
            () = answering => {}
            _ = std::future::poll_fn(|cx| connection.poll_closed(cx)) => break,
        }
    }
    asked
}

fn told(fetched: Result<Fresh, FetchError>) -> String {
    fetched.map(|fresh| fresh.life).unwrap_err().to_string()
}

#[tokio::test]
async fn a_server_is_spoken_to_as_it_likes() {
    for protocols in [&[][..], &["http/1.1"], &["http/1.1", "h2"]] {
        let mut server = Server::open(protocols, Says::token_in_http_1()).await;
        let fresh = server.fetch().await.unwrap();
        assert_eq!((fresh.token.reveal(), fresh.life), ("ya29.x", Duration::from_secs(3599)), "{protocols:?}");
        let asked = server.asked().await;
        assert!(asked.starts_with("POST /token HTTP/1.1\r\n") && asked.contains("\r\nhost: localhost:"), "{asked}");
    }
    for protocols in [&["h2"][..], &["h2", "http/1.1"]] {
        let mut server = Server::open(protocols, Says::in_http_2(200, ANSWER)).await;
        let fresh = server.fetch().await.unwrap();
        assert_eq!((fresh.token.reveal(), fresh.life), ("ya29.x", Duration::from_secs(3599)), "{protocols:?}");
        let asked = server.asked().await;
        assert!(asked.starts_with("POST https://localhost:") && asked.contains("/token {"), "{asked}");
        assert!(asked.contains("\"content-type\": \"application/x-www-form-urlencoded\""), "{asked}");
        assert!(asked.contains("} grant_type=urn") && asked.contains("&assertion="), "{asked}");
    }
}

#[tokio::test]
async fn a_server_that_speaks_something_else_is_refused() {
    let server = Server::open(&["acme-tls/1"], Says::token_in_http_1()).await;
    assert!(told(server.fetch().await).starts_with("TLS handshake: "));
}

#[tokio::test]
async fn an_answer_may_end_with_its_connection_but_not_in_its_middle() {
    let fetch = async |head: &str, body: &str| {
        let answer = format!("HTTP/1.0 200 OK\r\nServer: SimpleHTTP/0.6 Python/3.11.2\r\n{head}\r\n{body}");
        Server::open(&[], Says::Http1(answer)).await.fetch().await
    };
    assert_eq!(fetch("", ANSWER).await.unwrap().token.reveal(), "ya29.x");
    assert_eq!(told(fetch("", &ANSWER[..40]).await), FetchError::NoToken.to_string());
    let too_much = format!("Content-Length: {}\r\n", ANSWER.len() + 1);
    assert!(told(fetch(&too_much, ANSWER).await).starts_with("HTTP: "));
}

#[tokio::test]
async fn a_token_is_one_whatever_stands_beside_it() {
    for answer in [
        json!({"access_token": "ya29.x"}),
        json!({"access_token": "ya29.x", "expires_in": null, "token_type": "BEARER"}),
        json!({"access_token": "ya29.x", "expires_in": 3600.0, "refresh_token": "r", "scope": ["a", "b"]}),
        json!({"access_token": "ya29.x", "expires_in": "3600", "token_type": 7}),
    ] {
        let server = Server::open(&["h2"], Says::in_http_2(200, answer.to_string())).await;
        let fresh = server.fetch().await.unwrap();
        assert_eq!((fresh.token.reveal(), fresh.life), ("ya29.x", HOUR), "{answer}");
    }
}

#[tokio::test]
async fn a_redirection_is_told_and_not_followed() {
    let mut elsewhere = Server::open(&[], Says::token_in_http_1()).await;
    for status in [302, 307, 308] {
        let (place, location) = (&elsewhere.place, format!("{}/token?key=hush", elsewhere.place));
        let words = format!("it redirects to {place} (HTTP status {status}), which is not followed with a credential");
        let in_http_1 = format!("HTTP/1.1 {status} x\r\nlocation: {location}\r\ncontent-length: 0\r\n\r\n");
        let in_http_2 = Says::Http2(status, ("location", location), Bytes::new());
        for (protocols, says) in [(&[][..], Says::Http1(in_http_1)), (&["h2"], in_http_2)] {
            assert_eq!(told(Server::open(protocols, says).await.fetch().await), words);
        }
    }
    assert!(elsewhere.requests.try_recv().is_err(), "followed");
}

#[tokio::test]
async fn an_answer_without_end_is_not_read_to_it() {
    let long = "x".repeat(100_000);
    let too_long = "the answer is longer than 65536 bytes";
    let server = Server::open(&[], Says::Http1(http_answer("200 OK", &long))).await;
    assert_eq!(told(server.fetch().await), too_long);
    let server = Server::open(&["h2"], Says::in_http_2(200, long.clone())).await;
    assert_eq!(told(server.fetch().await), too_long);

    let head = format!("HTTP/1.1 200 OK\r\nx-long: {long}\r\ncontent-length: {}\r\n\r\n{ANSWER}", ANSWER.len());
    let server = Server::open(&[], Says::Http1(head)).await;
    assert!(told(server.fetch().await).starts_with("HTTP: "));
    let server = Server::open(&["h2"], Says::Http2(200, ("x-long", long), Bytes::from(ANSWER))).await;
    assert!(told(server.fetch().await).starts_with("HTTP/2: "));
}

#[tokio::test]
async fn a_refusal_in_http_2_is_told_in_its_words() {
    let refusal = r#"{"error": "invalid_grant", "error_description": "Account not found"}"#;
    let server = Server::open(&["h2"], Says::in_http_2(400, refusal)).await;
    assert_eq!(told(server.fetch().await), "refused with HTTP status 400: invalid_grant Account not found");
}
