//! The server's side of many connections without sockets, on a clock of numbers: for tests in other rooms, which bring
//! the client.

use super::config::SimConfig;
use super::device::DevicePatch;
use super::event::{ConnectionId, SimEvent};
use super::fault::{DrainPlan, Faults};
use super::server::{Connection, End, Profile};
use super::service::{Order, Service, Speech};
use super::stats::Stats;
use super::virtual_devices::DeviceView;
use bytes::Bytes;
use serde_json::json;
use std::collections::BTreeMap;

/// The service and its connections, which are served when the owner says so.
pub(crate) struct Harness {
    service: Service,
    profile: Profile,
    connections: BTreeMap<u64, Connection>,
}

/// What came of serving a connection.
pub(crate) struct Served {
    /// What is to be written, each as a record of its own.
    pub(crate) chunks: Vec<Bytes>,
    /// How the connection has ended, if it has.
    pub(crate) parting: Option<Parting>,
    /// When it is to be served again.
    pub(crate) due: Option<u64>,
}

/// How the server ends a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Parting {
    /// After the last byte is out.
    Close,
    /// At once.
    Reset,
}

impl Harness {
    pub(crate) fn new(config: SimConfig) -> Self {
        let profile = Profile { wire: config.wire.clone(), credentials: config.credentials.clone() };
        let mut service = Service::new(&config);
        service.collect_events(true);
        Self { service, profile, connections: BTreeMap::new() }
    }

    pub(crate) fn connect(&mut self, now: u64) -> u64 {
        let (id, dice) = self.service.connect();
        self.connections.insert(id.0, Connection::new(id, dice, &self.profile, now));
        id.0
    }

    pub(crate) fn receive(&mut self, id: u64, bytes: &[u8]) {
        self.connections.get_mut(&id).expect("the connection is there").receive(bytes, &self.profile);
    }

    pub(crate) fn wants_read(&self, id: u64) -> bool {
        self.connections.get(&id).is_some_and(Connection::wants_read)
    }

    pub(crate) fn serve(&mut self, id: u64, now: u64) -> Served {
        let connection = self.connections.get_mut(&id).expect("the connection is there");
        connection.serve(&mut self.service, &self.profile, now);
        Served {
            chunks: std::iter::from_fn(|| connection.poll_write()).collect(),
            parting: connection.end().map(|end| match end {
                End::Close => Parting::Close,
                End::Reset => Parting::Reset,
            }),
            due: connection.deadline(&self.service, now),
        }
    }

    /// The connection is gone for good.
    pub(crate) fn leave(&mut self, id: u64) {
        self.connections.remove(&id);
        self.service.leave(ConnectionId(id));
    }

    /// The connections to be served because of what happened elsewhere, in a fixed order.
    pub(crate) fn take_wakes(&mut self) -> Vec<u64> {
        let mut wakes: Vec<u64> = self.service.take_wakes().into_iter().map(|id| id.0).collect();
        wakes.sort_unstable();
        wakes
    }

    /// Lets arrive at devices what is due; when to come again.
    pub(crate) fn tick(&mut self, now: u64) -> Option<u64> {
        self.service.tick(now);
        self.service.devices.next_due()
    }

    pub(crate) fn set_faults(&mut self, faults: Faults) {
        faults.check().expect("the plan can be carried out");
        self.service.set_faults(faults);
    }

    pub(crate) fn drain(&mut self, id: u64, plan: DrainPlan) {
        self.service.order(Some(ConnectionId(id)), Order::Drain(plan));
    }

    pub(crate) fn close(&mut self, id: u64) {
        self.service.order(Some(ConnectionId(id)), Order::Close);
    }

    pub(crate) fn reset(&mut self, id: u64) {
        self.service.order(Some(ConnectionId(id)), Order::Reset);
    }

    pub(crate) fn put(&mut self, token: &str, patch: DevicePatch, now: u64) {
        self.service.put(token, patch, now).expect("the device can be changed");
    }

    pub(crate) fn speak(&mut self, token: &str, count: usize) {
        let speech = Speech { category: None, data: json!({"k": "<&>"}), count, message_id: None };
        self.service.speak(token, &speech).expect("the device is there");
    }

    pub(crate) fn device(&self, token: &str) -> DeviceView {
        self.service.devices.device(token, 0, usize::MAX).expect("the device is there")
    }

    /// What happened since the last call.
    pub(crate) fn take_events(&mut self) -> Vec<SimEvent> {
        self.service.take_events()
    }

    pub(crate) fn stats(&self) -> Stats {
        self.service.stats()
    }
}
