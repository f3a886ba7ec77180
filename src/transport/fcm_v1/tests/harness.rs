//! The transport with the test on all its other ends: the bridge, FCM, and the server of access tokens.

use super::peer::Peer;
use crate::chat::delivery::Fate;
use crate::chat::id::{Recipient, Sid, SidSource, Token};
use crate::chat::push::{Priority, Push, Target};
use crate::chat::refusal::{Decision, Refusal, Scope};
use crate::ops::clock::now_ms;
use crate::ops::files::FileWatch;
use crate::transport::dial::Dialer;
use crate::transport::fcm_v1::address::Address;
use crate::transport::fcm_v1::renewal::Renewal;
use crate::transport::fcm_v1::token::{self, Source};
use crate::transport::fcm_v1::{FcmConfig, Plan, drive};
use crate::transport::{Link, Port, Report, Send, port};
use serde_json::{Map, json};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// Far more virtual time than any of these needs.
const PATIENCE: Duration = Duration::from_secs(100_000);
const HOUR_MS: u64 = 3_600_000;

pub(super) struct Harness {
    pub(super) port: Port,
    pub(super) stop: CancellationToken,
    _tasks: JoinSet<()>,
    /// Connections that were dialled.
    pub(super) dialled: mpsc::Receiver<DuplexStream>,
    /// How often an access token was fetched.
    pub(super) fetched: Arc<AtomicUsize>,
    /// What the server of access tokens answers.
    pub(super) token_answer: watch::Sender<String>,
    /// Asks for the files to be read again.
    pub(super) reload: watch::Sender<u64>,
}

pub(in crate::transport::fcm_v1) fn config() -> FcmConfig {
    FcmConfig { metadata_host: "memory".to_owned(), connections: 1, app_receipts: false, ..FcmConfig::default() }
}

/// An answer with a token that is good for so long.
pub(in crate::transport::fcm_v1) fn token_for(life: Duration) -> String {
    let body = json!({"access_token": "ya29.x", "expires_in": life.as_secs(), "token_type": "Bearer"}).to_string();
    http_answer("200 OK", &body)
}

pub(in crate::transport::fcm_v1) fn http_answer(status: &str, body: &str) -> String {
    format!("HTTP/1.1 {status}\r\ncontent-type: application/json\r\ncontent-length: {}\r\n\r\n{body}", body.len())
}

impl Harness {
    pub(super) fn open(config: FcmConfig) -> Self {
        let (dialled_tx, dialled) = mpsc::channel(64);
        let (tokens_tx, tokens) = mpsc::channel(64);
        let (token_answer, answers) = watch::channel(token_for(Duration::from_secs(3599)));
        let fetched = Arc::new(AtomicUsize::new(0));
        let (port, outlet) = port(64, 64, 64);
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        tasks.spawn(serve_tokens(tokens, answers, Arc::clone(&fetched)));
        let plan = move || {
            let address = |dialler: &mpsc::Sender<DuplexStream>, uri: &str| Address {
                dialer: Dialer::memory(dialler.clone()),
                uri: uri.parse().unwrap(),
            };
            let api = address(&dialled_tx, "https://memory/v1/projects/p/messages:send");
            Ok(Plan { api, source: Source::Metadata, tokens: address(&tokens_tx, "http://memory/token") })
        };
        let (reload, asked) = watch::channel(0);
        let Ok(Plan { api, source, tokens }) = plan() else { unreachable!("memory is always there") };
        let (renewal, api) = Renewal::new(FileWatch::new(Vec::new()), asked, plan, api);
        let (refresher, tokens) = token::refresher(source, tokens, renewal);
        let transport = drive(config, api, tokens, outlet, stop.clone());
        tasks.spawn(async move {
            tokio::select! {
                () = transport => {}
                never = refresher.run() => match never {},
            }
        });
        Self { port, stop, _tasks: tasks, dialled, fetched, token_answer, reload }
    }

    /// The next connection that is dialled, with so many streams.
    pub(super) async fn peer(&mut self, streams: u32) -> Peer {
        let stream = soon(self.dialled.recv()).await.expect("the transport runs");
        Peer::accept(stream, streams).await
    }

    pub(super) async fn send(&self, message: Send) {
        soon(self.port.sends.send(message)).await.expect("the transport runs");
    }

    /// The next report that is about a message.
    pub(super) async fn report(&mut self) -> Report {
        loop {
            let report = soon(self.port.reports.recv()).await.expect("the transport runs");
            if !matches!(report, Report::Connection { .. }) {
                return report;
            }
        }
    }

    /// The next one, which says that a message goes back untried.
    pub(super) async fn back(&mut self) -> (Sid, Option<Refusal>) {
        match self.report().await {
            Report::Back { sid, fate: Fate::Lost, copies: 0, .. } => (sid, None),
            Report::Back { sid, fate: Fate::Refused(refusal), .. } => {
                let is_untried = matches!(refusal.decision, Decision::Retry { scope: Scope::Service, .. });
                assert!(is_untried, "{refusal:?}");
                (sid, Some(refusal))
            }
            other => panic!("{other:?}"),
        }
    }

    pub(super) async fn link(&mut self, wanted: Link) {
        soon(self.port.link.wait_for(|link| *link == wanted)).await.expect("the transport runs");
    }

    pub(super) fn fetched(&self) -> usize {
        self.fetched.load(Ordering::Relaxed)
    }

    /// Ends the transport; what it says at the end.
    pub(super) async fn close(mut self) -> Vec<Report> {
        self.stop.cancel();
        let mut last = Vec::new();
        while let Some(report) = soon(self.port.reports.recv()).await {
            last.push(report);
        }
        last
    }
}

pub(in crate::transport::fcm_v1) async fn soon<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.expect("it must happen in time")
}

pub(in crate::transport::fcm_v1) fn sids(count: usize) -> Vec<Sid> {
    let mut source = SidSource::default();
    (0..count).map(|_| source.next(1_700_000_000_000, 1)).collect()
}

pub(in crate::transport::fcm_v1) fn message(sid: Sid, recipient: i64) -> Send {
    let accepted_ms = now_ms();
    Send {
        sid,
        push: Push {
            target: Target::Token(Token::new(format!("token-{recipient}")).unwrap()),
            data: Map::from_iter([("k".to_owned(), json!("v"))]),
            notification: None,
            priority: Priority::High,
            collapse: None,
            receipt: true,
            fcm: Map::new(),
        },
        recipient: Recipient(recipient),
        accepted_ms,
        deadline_ms: accepted_ms + HOUR_MS,
    }
}

/// One request on each connection, the answer, the end.
async fn serve_tokens(
    mut dialled: mpsc::Receiver<DuplexStream>,
    answers: watch::Receiver<String>,
    fetched: Arc<AtomicUsize>,
) {
    while let Some(mut stream) = dialled.recv().await {
        let mut request = Vec::new();
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            if stream.read_buf(&mut request).await.unwrap_or(0) == 0 {
                break;
            }
        }
        fetched.fetch_add(1, Ordering::Relaxed);
        let answer = answers.borrow().clone();
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}
