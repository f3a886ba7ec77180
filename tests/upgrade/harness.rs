//! A folder as release 0.1.0 left it, the simulator, and today's bridge over both.

use crate::peer::Peer;
use fcm_mqtt_bridge::app::{self, Addresses, AppError, Signals};
use fcm_mqtt_bridge::chat::id::{Row, Sid};
use fcm_mqtt_bridge::config::Settings;
use fcm_mqtt_bridge::ops::clock::now_ms;
use fcm_mqtt_bridge::sim::config::CertificateConfig;
use fcm_mqtt_bridge::sim::v1::V1Config;
use fcm_mqtt_bridge::sim::{self, SimConfig, SimHandle};
use fcm_mqtt_bridge::store::Inspector;
use rusqlite::Connection;
use rusqlite::config::DbConfig;
use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tempfile::TempDir;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

/// For anything that a machine under load should have done.
const PATIENCE: Duration = Duration::from_secs(60);
/// How often it is looked whether something has happened of which nobody tells.
const LOOK: Duration = Duration::from_millis(10);
/// The bridge was off for so long: every wait before a retry is over, and nothing else is.
const OFF_MS: i64 = 3_600_000;
/// The columns that are times, in Unix milliseconds.
const TIMES: [(&str, &[&str]); 5] = [
    ("deliveries", &["deadline", "look_at", "accepted_at", "claimed_at", "sent_at", "final_at"]),
    ("inbox", &["received_at", "published_at", "final_at"]),
    ("outbox", &["queued_at"]),
    ("presence", &["changed_at", "last_seen"]),
    ("marks", &["alive_at"]),
];

/// A file of the release.
pub(crate) fn left(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/upgrade/0.1.0").join(name)
}

pub(crate) async fn soon<T>(what: &str, work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work).await.unwrap_or_else(|_| panic!("waited in vain for {what}"))
}

/// The simulator, and a folder with what the release left.
pub(crate) struct Past {
    pub(crate) sim: SimHandle,
    folder: TempDir,
    stop_sim: CancellationToken,
    simulator: JoinSet<()>,
}

impl Past {
    pub(crate) async fn open() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let authority = folder.path().join("authority");
        let config = SimConfig {
            listen: "127.0.0.1:0".parse().unwrap(),
            control: None,
            certificate: CertificateConfig { directory: Some(authority), ..CertificateConfig::default() },
            v1: Some(V1Config::default()),
            ..SimConfig::default()
        };
        let (ready, handle) = oneshot::channel();
        let (stop_sim, mut simulator) = (CancellationToken::new(), JoinSet::new());
        let stopped = stop_sim.clone();
        simulator.spawn(async move { sim::run(config, ready, stopped).await.unwrap() });
        let sim = soon("the simulator", handle).await.unwrap();
        let past = Self { sim, folder, stop_sim, simulator };
        fs::write(past.path("ccs.key"), "key\n").unwrap();
        fs::write(past.path("ca.pem"), past.sim.ca_pem()).unwrap();
        fs::copy(left("users"), past.path("users")).unwrap();
        copy_folder(&left("broker"), &past.path("broker"));
        restore(&past.path("bridge.db"));
        past
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Replaces a text in all files of a folder that have it.
    pub(crate) fn rewrite(&self, folder: &str, text: &str, other: &str) {
        let (mut folders, mut rewritten) = (vec![self.path(folder)], 0);
        while let Some(folder) = folders.pop() {
            for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
                let path = entry.path();
                if path.is_dir() {
                    folders.push(path);
                } else if let Some(found) = fs::read_to_string(&path).ok().filter(|found| found.contains(text)) {
                    fs::write(&path, found.replace(text, other)).unwrap();
                    rewritten += 1;
                }
            }
        }
        assert!(rewritten > 0, "{text} is in no file");
    }

    /// Writes a configuration of the release, filled in; returns where it is.
    pub(crate) fn configuration(&self, name: &str) -> PathBuf {
        let v1 = self.sim.v1().unwrap();
        let text = |path: &Path| path.to_str().unwrap().to_owned();
        let words = [
            ("ccs_port", self.sim.address().port().to_string()),
            ("folder", text(self.folder.path())),
            ("ca", text(&self.path("ca.pem"))),
            ("credentials", text(v1.credentials_file().unwrap())),
            ("fcm_url", v1.base_url().to_owned()),
            ("shop_url", v1.base_url().to_owned()),
            ("port", "0".to_owned()),
            ("ops_port", "0".to_owned()),
        ];
        let mut configuration = fs::read_to_string(left(name)).unwrap();
        for (word, value) in words {
            configuration = configuration.replace(&format!("@{word}@"), &value);
        }
        let path = self.path(name);
        fs::write(&path, configuration).unwrap();
        path
    }

    /// Opens it all with today's code. `route` is a line more for `[routes]`.
    pub(crate) async fn go_on(self, route: &str) -> Present {
        let path = self.configuration("bridge.toml");
        let text = fs::read_to_string(&path).unwrap();
        fs::write(&path, text.replace("[routes]", &format!("[routes]\n{route}"))).unwrap();
        self.start().await
    }

    async fn start(self) -> Present {
        let loaded = Settings::load(Some(&self.path("bridge.toml"))).unwrap();
        app::check(&loaded).unwrap();
        let (stop, mut bridge) = (CancellationToken::new(), JoinSet::new());
        let (ready, addresses) = oneshot::channel();
        bridge.spawn(app::run(loaded, Signals::stop_only(stop.clone()), Some(ready)));
        let addresses = soon("the bridge", addresses).await.unwrap();
        Present { past: self, addresses, stop, bridge }
    }
}

/// The bridge of today, at work.
pub(crate) struct Present {
    pub(crate) past: Past,
    addresses: Addresses,
    stop: CancellationToken,
    bridge: JoinSet<Result<(), AppError>>,
}

impl Present {
    pub(crate) async fn peer(&self, client: &str) -> Peer {
        Peer::connect(self.addresses.broker.unwrap(), client).await
    }

    /// What a device got: the sender's ids, in order.
    pub(crate) fn device(&self, token: &str) -> Vec<String> {
        let got = self.past.sim.received(token);
        got.iter().map(|message| message.data["mine"].as_str().unwrap_or_default().to_owned()).collect()
    }

    /// The bridge's id of a message, as its push carries it in `mid`.
    pub(crate) fn sid(&self, id: &str) -> String {
        let store = Connection::open(self.past.path("bridge.db")).unwrap();
        let sql = "SELECT row, tail FROM deliveries WHERE id = ?1";
        let (row, tail) = store.query_row(sql, [id], |row| Ok((row.get(0)?, row.get(1)?))).unwrap();
        Sid::from_parts(Row(row), tail).unwrap().to_string()
    }

    /// Waits until nothing waits for a BAL any more.
    pub(crate) async fn until_the_spool_is_empty(&self) {
        let reader = Inspector::open(&self.past.path("bridge.db")).unwrap();
        let empty = async {
            while reader.counts().unwrap().spool > 0 {
                tokio::time::sleep(LOOK).await;
            }
        };
        soon("an empty spool", empty).await;
    }

    /// Stops the bridge and starts it again.
    pub(crate) async fn again(mut self) -> Self {
        self.stop().await;
        self.past.start().await
    }

    async fn stop(&mut self) {
        self.stop.cancel();
        soon("the end of the bridge", self.bridge.join_next()).await.unwrap().unwrap().unwrap();
    }

    pub(crate) async fn close(mut self) {
        self.stop().await;
        self.past.stop_sim.cancel();
        soon("the end of the simulator", self.past.simulator.join_next()).await.unwrap().unwrap();
    }
}

/// Makes the store out of its text. All times are moved, so that the release was killed an hour ago.
fn restore(path: &Path) {
    let store = Connection::open(path).unwrap();
    // All of it stays in the write-ahead log, as after a kill.
    store.pragma_update(None, "journal_mode", "WAL").unwrap();
    store.set_db_config(DbConfig::SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, true).unwrap();
    store.execute_batch(&fs::read_to_string(left("store.sql")).unwrap()).unwrap();
    let last: i64 = store.query_row("SELECT max(accepted_at) FROM deliveries", [], |row| row.get(0)).unwrap();
    let shift = i64::try_from(now_ms()).unwrap() - OFF_MS - last;
    for (table, columns) in TIMES {
        for column in columns {
            store.execute(&format!("UPDATE {table} SET {column} = {column} + ?1"), [shift]).unwrap();
        }
    }
    // What is parked behind another message has no time there.
    let timed = "UPDATE deliveries SET due_at = due_at + ?1 WHERE due_at > 0 AND due_at < ?2";
    store.execute(timed, [shift, i64::MAX]).unwrap();
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
