//! The program, running.

use std::fs;
use std::net::SocketAddr;
use std::process::Stdio;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tempfile::TempDir;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::TcpStream;
use tokio::process::{Child, ChildStderr, Command};
use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};
use tokio_rustls::rustls::ClientConfig;

use super::sockets::{Authority, SOCKETS, SocketKind};

const PATIENCE: Duration = Duration::from_secs(30);
/// How often a number is looked at that must change.
const LOOK: Duration = Duration::from_millis(200);
/// The broker's limit for handshakes, in seconds.
pub(crate) const CONNECT_SECONDS: u64 = 5;
/// The broker's limit for what waits for one session.
pub(crate) const QUEUED_MIB: usize = 4;

pub(crate) struct Harness {
    child: Child,
    addresses: [SocketAddr; 4],
    ops: SocketAddr,
    pub(crate) tls: ClientConfig,
    log: Arc<Mutex<Vec<String>>>,
    reader: JoinSet<()>,
    _authority: Authority,
    _folder: TempDir,
}

impl Harness {
    pub(crate) async fn open() -> Self {
        let folder = TempDir::new().unwrap();
        let authority = Authority::new();
        let config = folder.path().join("bridge.toml");
        fs::write(&config, settings(&folder, &authority)).unwrap();
        let mut child = Command::new(env!("CARGO_BIN_EXE_fcm-mqtt-bridge"))
            .args(["run", "--config"])
            .arg(&config)
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
        let mut log = Vec::new();
        let broker = line_with(&mut lines, &mut log, "broker is open").await;
        let started = line_with(&mut lines, &mut log, "bridge started").await;
        let addresses =
            SOCKETS.map(|kind| address_after(&broker, &format!(" {}=", format!("{kind:?}").to_lowercase())));
        let ops = address_after(&started, "ops=");
        let log = Arc::new(Mutex::new(log));
        let mut reader = JoinSet::new();
        let keep = Arc::clone(&log);
        reader.spawn(async move {
            while let Ok(Some(line)) = lines.next_line().await {
                keep.lock().unwrap().push(line);
            }
        });
        Self { child, addresses, ops, tls: authority.client(), log, reader, _authority: authority, _folder: folder }
    }

    pub(crate) fn address(&self, kind: SocketKind) -> SocketAddr {
        self.addresses[kind as usize]
    }

    /// Resident memory, in MiB.
    pub(crate) fn memory(&self) -> u64 {
        self.status("VmRSS:")
    }

    /// The most that it was since [`Self::forget_peak`].
    pub(crate) fn peak_memory(&self) -> u64 {
        self.status("VmHWM:")
    }

    pub(crate) fn forget_peak(&self) {
        fs::write(format!("/proc/{}/clear_refs", self.process()), "5").unwrap();
    }

    fn status(&self, field: &str) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.process())).unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix(field)).unwrap();
        let kib: u64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kib / 1024
    }

    fn process(&self) -> u32 {
        self.child.id().expect("the program runs")
    }

    /// One number of `/metrics`.
    pub(crate) async fn metric(&self, name: &str) -> u64 {
        let mut stream = TcpStream::connect(self.ops).await.unwrap();
        stream.write_all(b"GET /metrics HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").await.unwrap();
        let mut text = String::new();
        stream.read_to_string(&mut text).await.unwrap();
        let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        value.unwrap_or_else(|| panic!("no {name} in {text}")).parse().unwrap()
    }

    /// Waits until a number of `/metrics` is as wanted, and returns it.
    pub(crate) async fn metric_until(&self, name: &str, patience: Duration, wanted: impl Fn(u64) -> bool) -> u64 {
        let look = async {
            loop {
                let value = self.metric(name).await;
                if wanted(value) {
                    return value;
                }
                sleep(LOOK).await;
            }
        };
        timeout(patience, look).await.unwrap_or_else(|_| panic!("{name} is not as it should be"))
    }

    /// Ends it in order. It must have logged no error, and not have panicked.
    pub(crate) async fn close(mut self) {
        let kill = Command::new("kill").arg(self.process().to_string()).status().await.unwrap();
        assert!(kill.success());
        let status = timeout(PATIENCE, self.child.wait()).await.expect("it ends").unwrap();
        while self.reader.join_next().await.is_some() {}
        let log = self.log.lock().unwrap();
        let bad: Vec<_> = log.iter().filter(|line| line.contains("ERROR") || line.contains("panicked")).collect();
        assert!(bad.is_empty(), "{bad:#?}");
        assert!(status.success(), "{status}");
    }
}

async fn line_with(lines: &mut Lines<BufReader<ChildStderr>>, log: &mut Vec<String>, words: &str) -> String {
    // The parts start side by side, and so do their lines.
    if let Some(line) = log.iter().find(|line| line.contains(words)) {
        return line.clone();
    }
    let find = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            log.push(line.clone());
            if line.contains(words) {
                return line;
            }
        }
        panic!("it ended: {log:#?}")
    };
    timeout(PATIENCE, find).await.expect("it starts")
}

fn address_after(line: &str, words: &str) -> SocketAddr {
    let rest = line.split_once(words).unwrap_or_else(|| panic!("no {words} in {line}")).1;
    let end = rest.find([')', ' ']).unwrap_or(rest.len());
    rest[..end].parse().unwrap()
}

/// Nobody listens on the discard port, so the push service is away: it is not what is tried here.
fn settings(folder: &TempDir, authority: &Authority) -> String {
    let files = authority.files();
    let any = "127.0.0.1:0";
    format!(
        r#"
[ccs]
host = "127.0.0.1"
port = 9
sender_id = "1"
api_key = "key"
[broker]
listen = "{any}"
listen_tls = "{any}"
listen_ws = "{any}"
listen_wss = "{any}"
cert_file = {:?}
key_file = {:?}
anonymous = true
[store]
path = {:?}
[ops]
listen = "{any}"
[log]
level = "info"
[limits]
broker_connect_seconds = {CONNECT_SECONDS}
broker_connections_per_address = 20000
broker_queued_bytes = {}
"#,
        files.cert,
        files.key,
        folder.path().join("bridge.db"),
        QUEUED_MIB << 20,
    )
}
