//! The same rows against mosquitto: a row that it fails deserves a second look at our reading.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::process::Stdio;

use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};
use tokio::task::JoinSet;

use crate::world::soon;
use crate::{rows, stage};

/// Others may take a free port before mosquitto does.
const ATTEMPTS: usize = 5;

/// Rows that mosquitto 2.0.11 fails, and why that is no fault of the row.
const MOSQUITTO_FAILS: &[(&str, &str)] = &[];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "about mosquitto and not about us: run it when rows change"]
async fn mosquitto_agrees() {
    let (address, _mosquitto, _log) = mosquitto().await;
    let rows = rows::all().into_iter().filter(|row| !row.is_ours()).collect();
    let failures = stage::run_at(address, rows).await;
    let known = |failure: &String| MOSQUITTO_FAILS.iter().any(|(name, _)| failure.starts_with(name));
    let new: Vec<String> = failures.into_iter().filter(|failure| !known(failure)).collect();
    assert!(new.is_empty(), "{} rows failed:\n{}", new.len(), new.join("\n"));
}

async fn mosquitto() -> (SocketAddr, Child, JoinSet<()>) {
    for _ in 0..ATTEMPTS {
        let address = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap();
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("mosquitto.conf");
        let text = format!(
            "user root\nlistener {} 127.0.0.1\nallow_anonymous true\nmax_inflight_messages 0\nmax_packet_size 262144\n\
             max_queued_messages 0\n",
            address.port()
        );
        std::fs::write(&config, text).unwrap();
        let mut child = Command::new("mosquitto")
            .arg("-c")
            .arg(&config)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .expect("mosquitto is installed");
        let mut log = BufReader::new(child.stderr.take().unwrap()).lines();
        while let Some(line) = soon("a line", log.next_line()).await.unwrap() {
            if line.ends_with("running") {
                let mut reader = JoinSet::new();
                reader.spawn(async move { while let Ok(Some(_)) = log.next_line().await {} });
                return (address, child, reader);
            }
        }
    }
    panic!("mosquitto does not start");
}
