use super::*;
use crate::transport::dial::Dialer;
use crate::transport::fcm::tests::house::{http_answer, soon, token_for};
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

mod foreign;

const HOUR: Duration = Duration::from_secs(3600);

struct Rig {
    wallet: Wallet,
    answer: watch::Sender<String>,
    fetched: Arc<AtomicUsize>,
    requests: mpsc::Receiver<String>,
    _tasks: JoinSet<()>,
}

impl Rig {
    fn open(source: Source, answer: String) -> Self {
        let (dialled_tx, dialled) = mpsc::channel(16);
        let address = Address { dialer: Dialer::memory(dialled_tx), uri: "http://memory:80/token".parse().unwrap() };
        let (keeper, wallet) = keeper(source, address);
        let (answer, answers) = watch::channel(answer);
        let (requests_tx, requests) = mpsc::channel(16);
        let fetched = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        tasks.spawn(async move { match keeper.run().await {} });
        tasks.spawn(serve(dialled, answers, requests_tx, Arc::clone(&fetched)));
        Self { wallet, answer, fetched, requests, _tasks: tasks }
    }

    fn fetched(&self) -> usize {
        self.fetched.load(Ordering::Relaxed)
    }

    fn bearer(&self) -> Option<Bearer> {
        self.wallet.bearer(Instant::now())
    }

    async fn changed(&mut self) {
        soon(self.wallet.changed()).await;
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
    assert!(!rig.wallet.is_empty_handed(Instant::now()));
    tokio::time::advance(MARGIN).await;
    assert!(rig.bearer().is_none() && rig.wallet.is_empty_handed(Instant::now()));
    rig.answer.send_replace(token_for(HOUR));
    while rig.bearer().is_none() {
        rig.changed().await;
    }
    assert_eq!(rig.bearer().unwrap().generation, 2);
    let tries = rig.fetched();
    assert!(tries < 40, "{tries} requests in five minutes");
}

#[tokio::test(start_paused = true)]
async fn a_thousand_refusals_of_one_token_are_one_refresh() {
    let mut rig = Rig::open(Source::Metadata, token_for(HOUR));
    rig.changed().await;
    for _ in 0..500 {
        rig.wallet.refuse(1);
    }
    assert!(rig.bearer().is_none(), "a refused token is not used");
    tokio::time::sleep(Duration::from_millis(100)).await;
    for _ in 0..500 {
        rig.wallet.refuse(1);
    }
    rig.changed().await;
    assert_eq!(rig.bearer().unwrap().generation, 2);
    // Answers to what went out with the old one, and came late.
    rig.wallet.refuse(1);
    tokio::time::sleep(Duration::from_secs(60)).await;
    assert_eq!((rig.fetched(), rig.bearer().unwrap().generation), (2, 2));
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
        assert!(rig.wallet.is_empty_handed(Instant::now()), "{answer}");
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
