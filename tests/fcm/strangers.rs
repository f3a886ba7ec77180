//! What is at the other end is no FCM, or nothing is: it is named in the log, asked ever more slowly, and costs nothing.

use crate::harness::{Harness, Plan, Route, device, message, pause, sids};
use crate::log::Log;
use fcm_mqtt_bridge::chat::delivery::Fate;
use fcm_mqtt_bridge::sim::v1::stats::V1Violations;
use fcm_mqtt_bridge::transport::{Link, Report};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;
use tokio::task::JoinSet;

/// A message comes back, and what is said in five minutes.
async fn in_vain(route: Route, words: &str) {
    let log = Log::listen();
    let mut harness = Harness::open(Plan { route, speed: 100, ..Plan::default() }).await;
    let sid = sids(1)[0];
    harness.send(message(sid, &device(1), 1)).await;
    assert_eq!(
        harness.report().await,
        Report::Back { sid, fate: Fate::Lost, copies: 0, replays: 0 },
        "it waits on the disk"
    );
    pause(300).await;
    harness.link(Link::UNCONNECTED).await;
    let warnings = log.lines("WARN");
    // With the longest wait of half a minute, and half of each on average.
    assert!((6..40).contains(&warnings.len()), "{} warnings in five minutes", warnings.len());
    assert!(warnings.iter().all(|line| line.contains(words)), "{warnings:?}");
    assert_eq!(harness.v1.stats().requests, 0);
    assert_eq!(harness.close().await, []);
}

#[tokio::test(start_paused = true)]
async fn a_certificate_of_somebody_else_is_refused() {
    in_vain(Route::Mistrusted, "TLS handshake: invalid peer certificate").await;
}

#[tokio::test(start_paused = true)]
async fn a_server_without_http_2_is_refused() {
    in_vain(Route::Authority, "the server does not offer the protocol h2").await;
}

#[tokio::test(start_paused = true)]
async fn a_port_that_nobody_listens_at_is_tried_again() {
    let port = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap().port();
    in_vain(Route::Astray(port), "cannot connect").await;
}

#[tokio::test(start_paused = true)]
async fn a_server_without_tls_is_refused() {
    for greeting in ["", "SSH-2.0-OpenSSH_9.2\r\n", "HTTP/1.1 400 Bad Request\r\n\r\n"] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let (came, mut tasks) = (Arc::new(AtomicUsize::new(0)), JoinSet::new());
        let counter = Arc::clone(&came);
        tasks.spawn(async move {
            while let Ok((mut socket, _)) = listener.accept().await {
                counter.fetch_add(1, Ordering::Relaxed);
                let _ = socket.write_all(greeting.as_bytes()).await;
            }
        });
        in_vain(Route::Astray(port), "TLS handshake").await;
        let came = came.load(Ordering::Relaxed);
        assert!((6..40).contains(&came), "{came} connections in five minutes");
    }
}

#[tokio::test(start_paused = true)]
async fn http_2_in_the_clear_is_spoken_within_this_machine() {
    let mut harness = Harness::open(Plan { route: Route::Clear, ..Plan::default() }).await;
    let sids = sids(50);
    for (number, sid) in (0..).zip(&sids) {
        harness.send(message(*sid, &device(number), number)).await;
    }
    for _ in &sids {
        assert!(matches!(harness.report().await, Report::Back { fate: Fate::Accepted { .. }, copies: 1, .. }));
    }
    assert_eq!(harness.v1.stats().violations, V1Violations::default());
    harness.close().await;
}
