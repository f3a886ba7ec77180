//! The measure: what `h2` does by itself, with the requests written before the clock runs, and nothing behind them.

use bytes::Bytes;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use h2::client::{self, Connection, ResponseFuture, SendRequest};
use http::{HeaderValue, Method, Request, Uri, header};
use serde_json::Value;
use std::path::Path;
use std::sync::Arc;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};

/// What is asked of it.
pub(crate) struct Errand {
    pub(crate) uri: Uri,
    pub(crate) authorization: HeaderValue,
    pub(crate) connections: usize,
    /// Requests at a time on one connection.
    pub(crate) streams: usize,
    pub(crate) bodies: Vec<Bytes>,
}

/// The client, connected.
pub(crate) struct Client {
    wires: Vec<(SendRequest<Bytes>, Connection<TlsStream<TcpStream>>)>,
    errand: Errand,
}

impl Client {
    pub(crate) async fn connect(errand: Errand, ca_file: &Path) -> Self {
        let connector = connector(ca_file, &[b"h2"]);
        let mut wires = Vec::new();
        for _ in 0..errand.connections {
            wires.push(client::handshake(dial(&connector, &errand.uri).await).await.expect("HTTP/2"));
        }
        Self { wires, errand }
    }

    /// Posts everything and waits for all answers.
    pub(crate) async fn run(self) {
        let Errand { uri, authorization, connections, streams, bodies } = self.errand;
        let mut shares: Vec<Vec<Bytes>> = vec![Vec::new(); connections];
        for (n, body) in bodies.into_iter().enumerate() {
            shares[n % connections].push(body);
        }
        let mut tasks = JoinSet::new();
        for ((send, connection), share) in self.wires.into_iter().zip(shares) {
            let (uri, authorization) = (uri.clone(), authorization.clone());
            tasks.spawn(async move {
                let work = work(send, share, streams, |bytes| head(uri.clone(), authorization.clone(), bytes));
                tokio::select! {
                    ended = connection => panic!("the simulator ended a connection: {ended:?}"),
                    () = work => {}
                }
            });
        }
        while let Some(ended) = tasks.join_next().await {
            ended.expect("a connection does its share");
        }
    }
}

fn head(uri: Uri, authorization: HeaderValue, bytes: usize) -> Request<()> {
    let mut request = Request::new(());
    *request.method_mut() = Method::POST;
    *request.uri_mut() = uri;
    let headers = request.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(bytes));
    headers.insert(header::AUTHORIZATION, authorization);
    request
}

/// Keeps `streams` requests open until all are answered.
async fn work(send: SendRequest<Bytes>, bodies: Vec<Bytes>, streams: usize, head: impl Fn(usize) -> Request<()>) {
    let mut send = send.ready().await.expect("the connection takes requests");
    let mut open = FuturesUnordered::new();
    for body in bodies {
        if open.len() == streams {
            open.next().await;
        }
        let (response, mut stream) = send.send_request(head(body.len()), false).expect("the connection stays");
        stream.send_data(body, true).expect("the stream stays");
        open.push(answer(response));
    }
    while open.next().await.is_some() {}
}

async fn answer(response: ResponseFuture) {
    let response = response.await.expect("an answer");
    assert_eq!(response.status(), http::StatusCode::OK);
    let mut body = response.into_body();
    while let Some(piece) = body.data().await {
        let length = piece.expect("the body comes whole").len();
        body.flow_control().release_capacity(length).expect("it was taken");
    }
}

/// An access token, as a metadata server gives it; the simulator is one at the address of its `token_url`.
pub(crate) async fn bearer(token_url: &str) -> HeaderValue {
    let host: Uri = token_url.parse().expect("a URI");
    let mut stream = TcpStream::connect(host.authority().expect("an address").as_str()).await.expect("the authority");
    let path = "/computeMetadata/v1/instance/service-accounts/default/token";
    let request = format!("GET {path} HTTP/1.0\r\nMetadata-Flavor: Google\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("the authority reads");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("the authority answers");
    let (_, body) = answer.split_once("\r\n\r\n").expect("an answer");
    let body: Value = serde_json::from_str(body).expect("JSON");
    HeaderValue::try_from(format!("Bearer {}", body["access_token"].as_str().expect("a token"))).expect("a header")
}

pub(crate) async fn dial(connector: &TlsConnector, uri: &Uri) -> TlsStream<TcpStream> {
    let (host, port) = (uri.host().expect("a host"), uri.port_u16().expect("a port"));
    let stream = TcpStream::connect((host, port)).await.expect("the simulator listens");
    stream.set_nodelay(true).expect("a socket");
    let name = ServerName::try_from(host.to_owned()).expect("a host");
    connector.connect(name, stream).await.expect("TLS")
}

/// Trusts the authority in `ca_file` alone, and offers these protocols.
pub(crate) fn connector(ca_file: &Path, protocols: &[&[u8]]) -> TlsConnector {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_file(ca_file).expect("the simulator's authority")).expect("a certificate");
    let mut config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
    config.alpn_protocols = protocols.iter().map(|protocol| protocol.to_vec()).collect();
    TlsConnector::from(Arc::new(config))
}
