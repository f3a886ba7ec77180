//! The whole v1 side over real sockets, with a raw HTTP/2 client.

mod authority;
mod limits;
mod wire;

use super::account::{self, Account};
use super::{V1Config, V1Handle};
use crate::sim::config::CertificateConfig;
use crate::sim::{SimConfig, SimError, SimHandle, run};
use ::ring::rand::SystemRandom;
use ::ring::signature::RSA_PKCS1_SHA256;
use base64::Engine;
use base64::prelude::BASE64_URL_SAFE;
use bytes::Bytes;
use h2::client::SendRequest;
use http::Request;
use serde_json::{Value, json};
use std::sync::{Arc, OnceLock};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore};
use tokio_util::sync::CancellationToken;

/// A folder with a service account in it: one key for all tests, because a key takes its time.
pub(super) fn folder_with_key() -> TempDir {
    static ACCOUNT: OnceLock<String> = OnceLock::new();
    let text = ACCOUNT.get_or_init(|| Account::prepare(None, "p", "http://nowhere/token").unwrap().credentials);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(account::FILE_NAME), text).unwrap();
    folder
}

/// A JWT signed with the key in `credentials`, padded as some clients do.
pub(super) fn assertion(credentials: &str, header: &Value, claims: &Value) -> String {
    let credentials: Value = serde_json::from_str(credentials).unwrap();
    let key = account::key(credentials["private_key"].as_str().unwrap()).unwrap();
    let part = |value: &Value| BASE64_URL_SAFE.encode(value.to_string());
    let signed = format!("{}.{}", part(header), part(claims));
    let mut signature = vec![0; key.public().modulus_len()];
    key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature).unwrap();
    format!("{signed}.{}", BASE64_URL_SAFE.encode(signature))
}

struct Running {
    sim: SimHandle,
    v1: V1Handle,
    stop: CancellationToken,
    tasks: JoinSet<Result<(), SimError>>,
    _folder: TempDir,
}

async fn start(v1: V1Config) -> Running {
    let folder = folder_with_key();
    let any = "127.0.0.1:0".parse().unwrap();
    let certificate = CertificateConfig { directory: Some(folder.path().into()), ..CertificateConfig::default() };
    let config = SimConfig { listen: any, control: Some(any), certificate, v1: Some(v1), ..SimConfig::default() };
    let (ready, handle) = oneshot::channel();
    let stop = CancellationToken::new();
    let mut tasks = JoinSet::new();
    tasks.spawn(run(config, ready, stop.clone()));
    let sim = handle.await.unwrap();
    Running { v1: sim.v1().unwrap(), sim, stop, tasks, _folder: folder }
}

impl Running {
    async fn stop(mut self) {
        self.stop.cancel();
        self.tasks.join_next().await.unwrap().unwrap().unwrap();
    }

    /// A request to a port that speaks HTTP/1.1: the status, the head, the body.
    async fn http(&self, address: &str, method: &str, path: &str, more: &str, body: &str) -> (u16, String, String) {
        let mut socket = TcpStream::connect(address).await.unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: sim\r\nConnection: close\r\nContent-Length: {length}\r\n{more}\r\n{body}"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, head.to_ascii_lowercase(), body.to_owned())
    }

    fn authority(&self) -> String {
        self.v1.token_url().strip_prefix("http://").unwrap().strip_suffix("/token").unwrap().to_owned()
    }

    /// An access token, the way that machines of Google get theirs.
    async fn access(&self) -> String {
        let path = "/computeMetadata/v1/instance/service-accounts/default/token";
        let (status, _, body) = self.http(&self.authority(), "GET", path, "Metadata-Flavor: Google\r\n", "").await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str::<Value>(&body).unwrap()["access_token"].as_str().unwrap().to_owned()
    }

    async fn tls(&self, alpn: &[&[u8]]) -> std::io::Result<TlsStream<TcpStream>> {
        self.tls_at(&self.v1.address().to_string(), alpn).await
    }

    async fn tls_at(&self, address: &str, alpn: &[&[u8]]) -> std::io::Result<TlsStream<TcpStream>> {
        let mut roots = RootCertStore::empty();
        roots.add(CertificateDer::from_pem_slice(self.sim.ca_pem().as_bytes()).unwrap()).unwrap();
        let mut config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
            .with_safe_default_protocol_versions()
            .unwrap()
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = alpn.iter().map(|protocol| protocol.to_vec()).collect();
        let socket = TcpStream::connect(address).await?;
        TlsConnector::from(Arc::new(config)).connect(ServerName::try_from("localhost").unwrap(), socket).await
    }

    async fn client(&self) -> Client {
        let (send, connection) = h2::client::handshake(self.tls(&[b"h2"]).await.unwrap()).await.unwrap();
        let mut driver = JoinSet::new();
        driver.spawn(connection);
        Client {
            send,
            driver,
            access: self.access().await,
            path: format!("/v1/projects/{}/messages:send", self.v1.project()),
        }
    }
}

/// A connection and an access token for it.
struct Client {
    send: SendRequest<Bytes>,
    driver: JoinSet<Result<(), h2::Error>>,
    access: String,
    path: String,
}

/// An answer, frame by frame.
#[derive(Debug)]
struct Heard {
    status: u16,
    content_type: String,
    retry_after: Option<String>,
    frames: Vec<Bytes>,
}

impl Heard {
    fn text(&self) -> String {
        String::from_utf8(self.frames.concat()).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.frames.concat()).unwrap()
    }
}

impl Client {
    /// Sends to a device and waits for the answer.
    async fn push(&mut self, token: &str) -> Result<Heard, h2::Error> {
        self.send(&json!({"message": {"token": token, "data": {"mid": token}}})).await
    }

    async fn send(&mut self, body: &Value) -> Result<Heard, h2::Error> {
        hear(self.begin(body).await?).await
    }

    /// Sends, and gives back what the answer will come by.
    async fn begin(&mut self, body: &Value) -> Result<h2::client::ResponseFuture, h2::Error> {
        let request = Request::post(format!("https://localhost{}", self.path))
            .header("authorization", format!("Bearer {}", self.access))
            .header("content-type", "application/json")
            .body(())
            .unwrap();
        std::future::poll_fn(|cx| self.send.poll_ready(cx)).await?;
        let (answer, mut stream) = self.send.send_request(request, false)?;
        stream.send_data(body.to_string().into(), true)?;
        Ok(answer)
    }

    /// How the connection ends.
    async fn ended(mut self) -> Result<(), h2::Error> {
        self.driver.join_next().await.unwrap().unwrap()
    }
}

async fn hear(answer: h2::client::ResponseFuture) -> Result<Heard, h2::Error> {
    let (head, mut body) = answer.await?.into_parts();
    let mut frames = Vec::new();
    while let Some(frame) = body.data().await {
        let frame = frame?;
        body.flow_control().release_capacity(frame.len())?;
        frames.push(frame);
    }
    let text = |name: &str| head.headers.get(name).map(|value| value.to_str().unwrap().to_owned());
    let (content_type, retry_after) = (text("content-type").unwrap(), text("retry-after"));
    Ok(Heard { status: head.status.as_u16(), content_type, retry_after, frames })
}
