//! The transport to CCS against the simulator: the two share only the codec.

#![cfg(feature = "sim")]
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use fcm_mqtt_bridge::chat::delivery::Fate;
use fcm_mqtt_bridge::chat::id::{Recipient, SidSource, Token};
use fcm_mqtt_bridge::chat::push::{Priority, Push, Target};
use fcm_mqtt_bridge::ops::clock::now_ms;
use fcm_mqtt_bridge::secret::Secret;
use fcm_mqtt_bridge::sim::event::ConnectionId;
use fcm_mqtt_bridge::sim::fault::{DrainPlan, Faults, NackFault, Notice};
use fcm_mqtt_bridge::sim::stats::Violations;
use fcm_mqtt_bridge::sim::{self, SimConfig, SimHandle, Speech};
use fcm_mqtt_bridge::transport::ccs::{self, CcsConfig};
use fcm_mqtt_bridge::transport::{DeviceMessage, Port, Report, Send, port};
use serde_json::{Map, json};
use std::collections::{HashMap, HashSet};
use std::time::Duration;
use tokio::sync::oneshot;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;

const DEVICES: usize = 20;

/// Far more than any of these takes; a test that hangs is a failure.
const PATIENCE: Duration = Duration::from_secs(60);

struct Harness {
    sim: SimHandle,
    port: Port,
    stop_transport: CancellationToken,
    stop_sim: CancellationToken,
    transport: JoinSet<()>,
    simulator: JoinSet<()>,
    _ca: tempfile::TempDir,
}

impl Harness {
    async fn open(faults: Faults, connections: usize) -> Self {
        let ca = tempfile::tempdir().unwrap();
        let mut config = SimConfig { faults, control: None, ..SimConfig::default() };
        config.listen = "127.0.0.1:0".parse().unwrap();
        config.certificate.ca_file = Some(ca.path().join("ca.pem"));
        let (ready, handle) = oneshot::channel();
        let (stop_transport, stop_sim) = (CancellationToken::new(), CancellationToken::new());
        let (mut transport, mut simulator) = (JoinSet::new(), JoinSet::new());
        let stopped = stop_sim.clone();
        simulator.spawn(async move { sim::run(config, ready, stopped).await.unwrap() });
        let sim = handle.await.unwrap();
        let (port, outlet) = port(200, 200, 200);
        let config = CcsConfig {
            host: "localhost".into(),
            port: sim.address().port(),
            ca_file: Some(ca.path().join("ca.pem")),
            connections,
            ..CcsConfig::new("12345", Secret::new("key"))
        };
        let stopped = stop_transport.clone();
        transport.spawn(async move { ccs::run(config, outlet, stopped).await.unwrap() });
        Self { sim, port, stop_transport, stop_sim, transport, simulator, _ca: ca }
    }

    async fn close(mut self) {
        self.stop_transport.cancel();
        drop(self.port);
        self.transport.join_next().await.unwrap().unwrap();
        self.stop_sim.cancel();
        self.simulator.join_next().await.unwrap().unwrap();
    }
}

fn device(n: usize) -> String {
    format!("device:{n}")
}

fn sends(count: usize) -> Vec<Send> {
    let mut sids = SidSource::default();
    let send = |n: usize| Send {
        sid: sids.next(now_ms(), 0),
        push: Push {
            target: Target::Token(Token::new(device(n % DEVICES)).unwrap()),
            data: Map::from_iter([("n".to_owned(), json!(n.to_string()))]),
            notification: None,
            priority: Priority::High,
            collapse: None,
            receipt: true,
            fcm: Map::new(),
        },
        recipient: Recipient(i64::try_from(n % DEVICES).unwrap()),
        accepted_ms: now_ms(),
        deadline_ms: now_ms() + 600_000,
    };
    (0..count).map(send).collect()
}

/// Sends everything and acknowledges everything until each message has its report, and each that was taken its receipt.
/// Calls `meddle` with the number of reports at each of them. Gives back which messages were taken.
async fn exchange(harness: &mut Harness, messages: Vec<Send>, meddle: impl Fn(usize, &SimHandle)) -> HashSet<String> {
    let (total, mut reported) = (messages.len(), HashMap::new());
    let mut receipts = HashSet::new();
    let (outgoing, Port { reports, acks, .. }) = (harness.port.sends.clone(), &mut harness.port);
    let mut feeder = JoinSet::new();
    feeder.spawn(async move {
        for message in messages {
            outgoing.send(message).await.unwrap();
        }
    });
    loop {
        let taken = reported.iter().filter(|(_, taken)| **taken).map(|(id, _): (&String, _)| id);
        if reported.len() == total && taken.clone().all(|id| receipts.contains(id)) {
            return taken.cloned().collect();
        }
        let (sid, taken) = match reports.recv().await.unwrap() {
            Report::Back { sid, fate: Fate::Accepted { .. }, .. } => (sid, true),
            Report::Back { sid, fate: Fate::Refused(_), .. } => (sid, false),
            Report::Receipt { original, ack_ref, .. } => {
                acks.send(ack_ref).await.unwrap();
                receipts.insert(original);
                continue;
            }
            Report::Connection { .. } => continue,
            other => panic!("{other:?}"),
        };
        assert_eq!(reported.insert(sid.to_string(), taken), None, "one report for each message");
        meddle(reported.len(), &harness.sim);
    }
}

/// Whether the order at the devices is looked at. A refusal that is lost in a cut lets later messages of its device pass:
/// they were on the wire together, and only the refused one is sent anew.
#[derive(Clone, Copy, PartialEq)]
enum Order {
    Kept,
    OpenToRefusals,
}

/// What each device got is what was taken for it, in its order; a message may come again only later.
fn check_devices(sim: &SimHandle, taken: &HashSet<String>, order: Order) {
    let mut delivered = HashSet::new();
    for n in 0..DEVICES {
        let first_copies = sim.received(&device(n)).into_iter().filter(|record| record.copy == 1);
        let numbers: Vec<usize> = first_copies
            .map(|record| {
                let number = record.data["n"].as_str().unwrap().parse().unwrap();
                delivered.insert(record.message_id);
                number
            })
            .collect();
        assert!(order == Order::OpenToRefusals || numbers.is_sorted(), "device {n}: {numbers:?}");
    }
    assert!(taken.is_subset(&delivered), "{} were taken and never delivered", taken.difference(&delivered).count());
}

#[tokio::test]
async fn nothing_is_lost_and_no_rule_broken_in_quiet_times() {
    let work = async {
        let mut harness = Harness::open(Faults { latency_ms: 2, ..Faults::default() }, 2).await;
        let taken = exchange(&mut harness, sends(2_000), |_, _| {}).await;
        assert_eq!(taken.len(), 2_000);
        check_devices(&harness.sim, &taken, Order::Kept);
        let stats = harness.sim.stats();
        assert_eq!((stats.delivered, stats.duplicates), (2_000, 0));
        assert_eq!(stats.violations, Violations::default());
        assert!(stats.most_unanswered > 50, "the window was used: {}", stats.most_unanswered);
        harness.close().await;
    };
    tokio::time::timeout(PATIENCE, work).await.unwrap();
}

#[tokio::test]
async fn nothing_is_lost_and_no_rule_broken_through_drains_resets_and_refusals() {
    let nack = NackFault { code: "INTERNAL_SERVER_ERROR".into(), chance: 0.02, times: None };
    interrupted(vec![nack], Order::OpenToRefusals).await;
}

#[tokio::test]
async fn the_order_at_each_device_survives_drains_and_resets() {
    interrupted(Vec::new(), Order::Kept).await;
}

#[tokio::test]
async fn draining_as_a_nack_on_one_connection_after_the_other_stops_nothing_although_none_is_closed() {
    let work = async {
        let drain = DrainPlan { notice: Notice::Nack, close_ms: None };
        let faults = Faults { drain_after: Some(30), drain, latency_ms: 1, ..Faults::default() };
        let mut harness = Harness::open(faults, 1).await;
        let began = tokio::time::Instant::now();
        let taken = exchange(&mut harness, sends(470), |_, _| {}).await;
        assert_eq!(taken.len(), 470);
        assert!(began.elapsed() < Duration::from_secs(20), "{:?}", began.elapsed());
        check_devices(&harness.sim, &taken, Order::Kept);
        assert!(harness.sim.stats().faults.drains >= 10);
        assert_eq!(harness.sim.stats().violations, Violations::default());
        harness.close().await;
    };
    tokio::time::timeout(PATIENCE, work).await.unwrap();
}

async fn interrupted(nack: Vec<NackFault>, order: Order) {
    let work = async {
        let faults = Faults {
            nack,
            duplicate_receipt: 0.1,
            split_writes: true,
            latency_ms: 1,
            jitter_ms: 3,
            ..Faults::default()
        };
        // Few interruptions: a transport that is interrupted all the time rightly takes its time to come back.
        let usual = faults.clone();
        let meddle = |reports: usize, sim: &SimHandle| match reports {
            300 => {
                let plan = DrainPlan { notice: Notice::Control, close_ms: Some(20) };
                assert_eq!(sim.drain(Some(ConnectionId(1)), plan), 1);
            }
            600 => {
                sim.drain(Some(ConnectionId(2)), DrainPlan { notice: Notice::Nack, close_ms: Some(20) });
            }
            900 => sim.set_faults(Faults { lose_ack: 0.5, lose_ack_reset_ms: 2, ..usual.clone() }).unwrap(),
            _ => {}
        };
        let mut harness = Harness::open(faults.clone(), 2).await;
        let (sim, mut events, mut peacemaker) = (harness.sim.clone(), harness.sim.events(), JoinSet::new());
        peacemaker.spawn(async move {
            while sim.stats().faults.resets == 0 {
                let _ = events.recv().await;
            }
            sim.set_faults(faults).unwrap();
        });
        let taken = exchange(&mut harness, sends(2_000), meddle).await;
        check_devices(&harness.sim, &taken, order);
        let stats = harness.sim.stats();
        assert!(stats.faults.lost_acks > 0 && stats.faults.resets > 0 && stats.faults.drains > 0, "{:?}", stats.faults);
        assert_eq!(stats.violations, Violations::default());
        assert!(taken.len() > 1_800, "{} of 2000", taken.len());
        harness.close().await;
    };
    tokio::time::timeout(PATIENCE, work).await.unwrap();
}

#[tokio::test]
async fn messages_of_devices_arrive_until_they_are_acknowledged() {
    let work = async {
        let mut harness = Harness::open(Faults { duplicate_upstream: 0.1, ..Faults::default() }, 2).await;
        let speech = Speech { category: Some("com.app".into()), data: json!({"k": "v"}), count: 50, message_id: None };
        for n in 0..DEVICES {
            harness.sim.upstream(&device(n), &speech).unwrap();
        }
        let mut seen: HashMap<String, Vec<u32>> = HashMap::new();
        while seen.values().map(Vec::len).sum::<usize>() < DEVICES * 50 {
            let upstream = match harness.port.device_messages.recv().await.unwrap() {
                DeviceMessage::Upstream(upstream) => upstream,
                other => panic!("{other:?}"),
            };
            let numbers = seen.entry(upstream.from.reveal().to_owned()).or_default();
            let number = upstream.message_id.parse().unwrap();
            if numbers.last() != Some(&number) {
                numbers.push(number);
            }
            harness.port.acks.send(upstream.ack_ref).await.unwrap();
        }
        assert!(seen.values().all(|numbers| *numbers == (1..=50).collect::<Vec<u32>>()));
        // The second copies of the last ones are still to come, and the last acknowledgements to arrive.
        let mut events = harness.sim.events();
        while harness.sim.stats().now.unacked > 0 {
            tokio::select! {
                Some(DeviceMessage::Upstream(again)) = harness.port.device_messages.recv() => {
                    harness.port.acks.send(again.ack_ref).await.unwrap();
                }
                _ = events.recv() => {}
            }
        }
        assert_eq!(harness.sim.stats().violations, Violations::default());
        harness.close().await;
    };
    tokio::time::timeout(PATIENCE, work).await.unwrap();
}
