//! `health`: one HTTP request to the operator's port.

use crate::ops::print;
use anyhow::{Context, bail};
use std::net::SocketAddr;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Longest wait for the whole answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// Most bytes of an answer that are read.
const ANSWER_MAX: u64 = 64 * 1024;

/// Succeeds when `path` at `ops` answers with status 200.
///
/// # Errors
/// When nobody answers in time, or the answer is not 200; the text holds the answer's body.
pub(super) async fn run(ops: SocketAddr, path: &str) -> anyhow::Result<()> {
    if !path.starts_with('/') || path.contains(char::is_whitespace) {
        bail!("--path wants the path of a URL, such as /readyz");
    }
    let answer = answer(ops, path).await?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    print::line(body.trim())?;
    match head.lines().next().and_then(|line| line.split(' ').nth(1)) {
        Some("200") => Ok(()),
        Some(status) => bail!("{ops}{path} answered {status}"),
        None => bail!("{ops} does not speak HTTP"),
    }
}

/// The whole answer, head and body.
///
/// # Errors
/// When nobody answers in time.
pub(super) async fn answer(ops: SocketAddr, path: &str) -> anyhow::Result<String> {
    tokio::time::timeout(PATIENCE, ask(ops, path)).await.context("no answer in time")?
}

async fn ask(ops: SocketAddr, path: &str) -> anyhow::Result<String> {
    let mut stream = TcpStream::connect(ops).await.with_context(|| format!("nobody listens on {ops}"))?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {ops}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(ANSWER_MAX).read_to_end(&mut answer).await?;
    Ok(String::from_utf8_lossy(&answer).into_owned())
}
