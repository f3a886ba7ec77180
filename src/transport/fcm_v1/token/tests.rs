use super::*;
use crate::ops::files::{FileWatch, LOOK};
use crate::transport::dial::Dialer;
use crate::transport::fcm_v1::tests::harness::{http_answer, soon, token_for};
use crate::transport::fcm_v1::{Fatal, FcmConfig, Plan};
use crate::transport::tests::log::Log;
use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::Value;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;
use tracing::Level;

mod foreign;

const HOUR: Duration = Duration::from_secs(3600);

struct Rig {
    tokens: TokenSource,
    answer: watch::Sender<String>,
    fetched: Arc<AtomicUsize>,
    requests: mpsc::Receiver<String>,
    reload: watch::Sender<u64>,
    _tasks: JoinSet<()>,
}

impl Rig {
    fn open(source: Source, answer: String) -> Self {
        Self::with(source, FileWatch::new(Vec::new()), || Ok((Source::Metadata, "p".to_owned())), answer)
    }

    /// One whose service account is in a file.
    fn of_file(path: PathBuf, answer: String) -> Self {
        let config = FcmConfig { credentials_file: Some(path.clone()), ..FcmConfig::default() };
        let read = move || {
            let Plan { source, api, .. } = config.plan()?;
            Ok((source, api.uri.path().to_owned()))
        };
        let files = FileWatch::new(vec![path]);
        let (source, _) = read().unwrap();
        Self::with(source, files, read, answer)
    }

    /// All connections end here, whatever `read` names.
    fn with(
        source: Source,
        files: FileWatch,
        read: impl Fn() -> Result<(Source, String), Fatal> + Send + Sync + 'static,
        answer: String,
    ) -> Self {
        let (dialled_tx, dialled) = mpsc::channel(16);
        let address = move |path: &str| Address {
            dialer: Dialer::memory(dialled_tx.clone()),
            uri: format!("http://memory:80{path}").parse().unwrap(),
        };
        let tokens = address("/token");
        let api = address(read().map_or_else(|fault| panic!("{fault}"), |(_, path)| path).as_str());
        let again = move || {
            let (source, path) = read()?;
            Ok(Plan { api: address(&path), source, tokens: address("/token") })
        };
        let (reload, asked) = watch::channel(0);
        let (renewal, _) = Renewal::new(files, asked, again, api);
        let (refresher, tokens) = refresher(source, tokens, renewal);
        let (answer, answers) = watch::channel(answer);
        let (requests_tx, requests) = mpsc::channel(16);
        let fetched = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { match refresher.run().await {} });
        tasks.spawn(serve(dialled, answers, requests_tx, Arc::clone(&fetched)));
        Self { tokens, answer, fetched, requests, reload, _tasks: tasks }
    }

    fn fetched(&self) -> usize {
        self.fetched.load(Ordering::Relaxed)
    }

    fn bearer(&self) -> Option<Bearer> {
        self.tokens.bearer(Instant::now())
    }

    async fn changed(&mut self) {
        soon(self.tokens.changed()).await.expect("the refresher runs");
    }

    /// Who asks for the next token, by the claims of the request.
    async fn asked_by(&mut self) -> String {
        let request = soon(self.requests.recv()).await.unwrap();
        let claims = request.rsplit_once("assertion=").unwrap().1.split('.').nth(1).unwrap();
        let claims: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).unwrap()).unwrap();
        claims["iss"].as_str().unwrap().to_owned()
    }
}

async fn serve(
    mut dialled: mpsc::Receiver<DuplexStream>,
    answers: watch::Receiver<String>,
    requests: mpsc::Sender<String>,
    fetched: Arc<AtomicUsize>,
) {
    while let Some(mut stream) = dialled.recv().await {
        let mut bytes = Vec::new();
        while !is_whole(&bytes) && stream.read_buf(&mut bytes).await.unwrap() > 0 {}
        fetched.fetch_add(1, Ordering::Relaxed);
        let _ = requests.try_send(String::from_utf8(bytes).unwrap());
        // As if it were far away: what happens meanwhile must not lead to a second request.
        tokio::time::sleep(Duration::from_millis(200)).await;
        let answer = answers.borrow().clone();
        let _ = stream.write_all(answer.as_bytes()).await;
    }
}

fn is_whole(bytes: &[u8]) -> bool {
    let text = String::from_utf8_lossy(bytes).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    body.len() >= length.map_or(0, |length| length.parse().unwrap())
}

#[tokio::test(start_paused = true)]
async fn a_service_account_posts_its_signed_request_and_the_metadata_server_is_asked() {
    let account = Source::Account(Box::new(account::tests::account()));
    let mut rig = Rig::open(account, token_for(HOUR));
    let request = soon(rig.requests.recv()).await.unwrap();
    assert!(request.starts_with("POST /token HTTP/1.1\r\n"), "{request}");
    assert!(
        request.contains("grant_type=urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer&assertion="),
        "{request}"
    );
    rig.changed().await;
    let bearer = rig.bearer().unwrap();
    assert_eq!((bearer.header.to_str().unwrap(), bearer.generation), ("Bearer ya29.x", 1));
    assert!(!format!("{bearer:?}").contains("ya29"), "{bearer:?}");

    let mut rig = Rig::open(Source::Metadata, token_for(HOUR));
    let request = soon(rig.requests.recv()).await.unwrap();
    assert!(request.starts_with("GET /token?scopes="), "{request}");
    assert!(request.to_ascii_lowercase().contains("metadata-flavor: google\r\n"), "{request}");
}

/// Writes a service account of that name into `file`.
fn become_account(file: &tempfile::NamedTempFile, name: &str, change: impl FnOnce(&mut Value)) {
    let made = account::tests::file(|document| {
        document["client_email"] = name.into();
        change(document);
    });
    std::fs::copy(made.path(), file.path()).unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_service_account_that_changes_fetches_the_next_token_at_once() {
    let file = account::tests::file(|document| document["client_email"] = "old@demo-1".into());
    let mut rig = Rig::of_file(file.path().to_owned(), token_for(HOUR));
    assert_eq!(rig.asked_by().await, "old@demo-1");
    rig.changed().await;
    assert_eq!(rig.tokens.credentials(), FIRST);
    let began = Instant::now();
    become_account(&file, "new@demo-1", |_| ());
    assert_eq!(rig.asked_by().await, "new@demo-1");
    rig.changed().await;
    assert!(began.elapsed() <= 2 * LOOK, "{:?}", began.elapsed());
    assert_eq!((rig.bearer().unwrap().generation, rig.tokens.credentials()), (2, 1));
}

#[tokio::test(start_paused = true)]
async fn a_service_account_that_is_asked_to_be_read_again_is_although_all_attempts_failed() {
    let file = account::tests::file(|document| document["client_email"] = "old@demo-1".into());
    let mut rig = Rig::of_file(file.path().to_owned(), http_answer("400 Bad Request", r#"{"error":"invalid_grant"}"#));
    // Long enough for the longest wait between two attempts.
    while rig.fetched() < 12 {
        rig.asked_by().await;
    }
    rig.changed().await;
    assert!(rig.tokens.refusal().unwrap().starts_with("memory:0: refused with HTTP status 400"));
    let began = Instant::now();
    rig.answer.send_replace(token_for(HOUR));
    rig.reload.send_replace(1);
    while rig.bearer().is_none() {
        rig.changed().await;
    }
    assert!(began.elapsed() < RETRY_FIRST / 2, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_service_account_that_cannot_be_used_changes_nothing_and_is_not_quoted() {
    let (log, _guard) = Log::listen(Level::TRACE);
    let file = account::tests::file(|document| document["client_email"] = "old@demo-1".into());
    let mut rig = Rig::of_file(file.path().to_owned(), token_for(HOUR));
    assert_eq!(rig.asked_by().await, "old@demo-1");
    rig.changed().await;
    // No part of a broken file may be in it.
    let told = || {
        let text = log.take();
        assert!(!text.contains("hush") && !text.contains("PRIVATE KEY"), "{text}");
        text
    };
    for broken in ["hush hush", r#"{"type":"service_account","private_key":"hush","client_email":"hush"}"#] {
        std::fs::write(file.path(), broken).unwrap();
        tokio::time::sleep(2 * LOOK).await;
        assert!(told().contains("ERROR"), "{broken}");
    }
    become_account(&file, "hush@demo-2", |document| document["project_id"] = "demo-2".into());
    tokio::time::sleep(2 * LOOK).await;
    let told = told();
    assert!(told.contains("ERROR") && told.contains("another project"), "{told}");
    assert_eq!((rig.fetched(), rig.bearer().unwrap().generation), (1, 1), "the old one holds");
    rig.tokens.refuse(1);
    assert_eq!(rig.asked_by().await, "old@demo-1");
    become_account(&file, "new@demo-1", |_| ());
    assert_eq!(rig.asked_by().await, "new@demo-1");
}

#[tokio::test(start_paused = true)]
async fn a_token_is_replaced_early_and_used_on_while_that_fails() {
    let mut rig = Rig::open(Source::Metadata, token_for(HOUR));
    rig.changed().await;
    let began = Instant::now();
    rig.answer.send_replace(http_answer("503 Service Unavailable", "{}"));
    rig.changed().await;
    let waited = began.elapsed();
    assert!(waited > HOUR - MARGIN - Duration::from_secs(5) && waited < HOUR - MARGIN + Duration::from_secs(5));
    assert_eq!(rig.bearer().unwrap().generation, 1, "the old one is good for another while");
    tokio::time::advance(MARGIN).await;
    assert!(rig.bearer().is_none() && rig.tokens.fails());
    // From then on nothing goes, so the waits are short.
    tokio::time::sleep(Duration::from_secs(90)).await;
    rig.answer.send_replace(token_for(HOUR));
    let mended = Instant::now();
    while rig.bearer().is_none() {
        rig.changed().await;
    }
    assert_eq!(rig.bearer().unwrap().generation, 2);
    assert!(mended.elapsed() <= RETRY_NEEDED_MAX + RETRY_FIRST, "{:?} longer than the failures", mended.elapsed());
    let tries = rig.fetched();
    assert!(tries < 120, "{tries} requests in seven minutes");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_refusals_of_one_token_are_one_refresh() {
    let mut rig = Rig::open(Source::Metadata, token_for(HOUR));
    rig.changed().await;
    for _ in 0..500 {
        rig.tokens.refuse(1);
    }
    assert_eq!(rig.bearer().unwrap().generation, 1, "whether it is used on is for the health to say");
    tokio::time::sleep(Duration::from_millis(100)).await;
    for _ in 0..500 {
        rig.tokens.refuse(1);
    }
    rig.changed().await;
    assert_eq!(rig.bearer().unwrap().generation, 2);
    // Answers to what went out with the old one, and came late.
    rig.tokens.refuse(1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((rig.fetched(), rig.bearer().unwrap().generation), (2, 2));
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_refused_while_no_new_one_is_to_be_had_shortens_the_wait() {
    let mut rig = Rig::open(Source::Metadata, token_for(HOUR));
    rig.changed().await;
    rig.answer.send_replace(http_answer("503 Service Unavailable", "{}"));
    // The waits have become long: the old token is good for minutes.
    tokio::time::sleep(HOUR - MARGIN + Duration::from_secs(100)).await;
    rig.tokens.refuse(1);
    rig.answer.send_replace(token_for(HOUR));
    let refused = Instant::now();
    while rig.bearer().unwrap().generation == 1 {
        rig.changed().await;
    }
    assert!(refused.elapsed() <= RETRY_NEEDED_MAX + RETRY_FIRST, "{:?}", refused.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_refuses_the_key_is_asked_ever_less() {
    let refusal =
        http_answer("400 Bad Request", r#"{"error":"invalid_grant","error_description":"Account not found"}"#);
    let rig = Rig::open(Source::Metadata, refusal);
    tokio::time::sleep(HOUR).await;
    // Half a minute between two on average.
    let many = rig.fetched();
    assert!((60..240).contains(&many), "{many} requests in an hour");
    assert!(rig.tokens.refusal().is_some());
}

#[tokio::test(start_paused = true)]
async fn a_server_that_says_when_to_come_again_is_left_alone_until_then() {
    for status in ["429 Too Many Requests", "503 Service Unavailable"] {
        let busy = format!("HTTP/1.1 {status}\r\nretry-after: 300\r\ncontent-length: 2\r\n\r\n{{}}");
        let mut rig = Rig::open(Source::Metadata, token_for(HOUR));
        rig.changed().await;
        rig.answer.send_replace(busy);
        rig.tokens.refuse(1);
        rig.changed().await;
        assert!(rig.tokens.refusal().is_none(), "the key is good");
        let asked = Instant::now();
        rig.answer.send_replace(token_for(HOUR));
        rig.changed().await;
        assert_eq!(rig.fetched(), 3);
        assert!(asked.elapsed() >= Duration::from_secs(300), "{:?} after {status}", asked.elapsed());
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_said_to_end_at_once_is_used_as_long_as_others() {
    let rig = Rig::open(Source::Metadata, http_answer("200 OK", r#"{"access_token":"ya29.x","expires_in":0}"#));
    tokio::time::sleep(HOUR / 2).await;
    assert_eq!((rig.fetched(), rig.bearer().unwrap().generation), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_token_with_a_short_life_is_replaced_halfway() {
    let mut rig = Rig::open(Source::Metadata, token_for(Duration::from_secs(60)));
    rig.changed().await;
    let began = Instant::now();
    for generation in 2..5 {
        rig.changed().await;
        assert_eq!(rig.bearer().unwrap().generation, generation);
    }
    assert!((85..95).contains(&began.elapsed().as_secs()), "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn an_answer_without_a_token_is_none() {
    for answer in [
        http_answer("200 OK", "{}"),
        http_answer("200 OK", r#"{"access_token":"","expires_in":3599}"#),
        http_answer("200 OK", r#"{"expires_in":3599,"token_type":"Bearer"}"#),
        http_answer("200 OK", r#"{"access_token":"a\nb","expires_in":3599}"#),
        http_answer("200 OK", &" ".repeat(100_000)),
        "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".to_owned(),
        "nonsense\r\n\r\n".to_owned(),
    ] {
        let mut rig = Rig::open(Source::Metadata, answer.clone());
        rig.changed().await;
        assert!(rig.tokens.fails(), "{answer}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_for_ever_is_replaced_after_a_day() {
    let mut rig = Rig::open(Source::Metadata, token_for(Duration::from_secs(u64::MAX)));
    rig.changed().await;
    let began = Instant::now();
    rig.changed().await;
    assert_eq!((began.elapsed() + MARGIN).as_secs() / 3600, 24);
}

#[tokio::test(start_paused = true)]
async fn between_two_tokens_of_a_short_life_there_is_no_gap() {
    let mut rig = Rig::open(Source::Metadata, token_for(Duration::from_secs(4)));
    rig.changed().await;
    for _ in 0..600 {
        tokio::time::sleep(Duration::from_millis(50)).await;
        assert!(rig.bearer().is_some());
    }
    assert!((12..=16).contains(&rig.fetched()), "{} in half a minute", rig.fetched());
}
