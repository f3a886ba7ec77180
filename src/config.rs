//! Settings in layers: defaults < file < environment (`BRIDGE__SECTION__KEY`). `config/bridge.toml` documents every key.
//!
//! A key, its default and its range belong to the part that uses it. Here the layers are read, each part is given its keys,
//! and what only the whole can tell is checked, before anything is opened: unknown keys are refused with the nearest right
//! name, secrets are read from their files, parts are compared with each other.

use crate::chat::message::BrokerKind;
use crate::ops::setting::{Seconds, settings};
use crate::secret::Secret;
use crate::{bridge, store};
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::time::Duration;

mod check;
mod environment;
mod fields;
mod files;
mod layers;
mod sections;
mod transports;

pub use crate::bridge::settings::{AckMode, Bal, ChatSettings, GroupsSection, Routes, TransportSection};
pub use crate::broker::{BrokerConfig, Engine, Listen};
pub use crate::mqtt::ClientConfig;
pub use crate::ops::health::Ops;
pub use crate::ops::logs::Log;
pub use crate::transport::ccs::CcsConfig;
pub use crate::transport::fcm_v1::FcmConfig;
pub use check::ConfigError;
#[cfg(feature = "broker")]
pub(crate) use files::unreadable;
pub(crate) use transports::section;
pub use transports::{Fcm, GOOGLE_CREDENTIALS};

/// Everything that can be set, by section.
#[derive(Debug, Clone, Default, Serialize)]
pub struct Settings {
    /// By which transport messages go to the devices.
    pub transport: TransportSection,
    /// The CCS session.
    pub ccs: CcsConfig,
    /// FCM HTTP v1.
    pub fcm: Fcm,
    /// The MQTT side.
    pub mqtt: Mqtt,
    /// The embedded broker.
    pub broker: BrokerConfig,
    /// The queue on disk.
    pub store: store::Settings,
    /// Which BAL gets the messages of which app.
    pub routes: Routes,
    /// What differs from BAL to BAL.
    pub bals: BTreeMap<String, Bal>,
    /// What chat users can expect.
    pub chat: ChatSettings,
    /// What members of groups can expect.
    pub groups: GroupsSection,
    /// Health and metrics.
    pub ops: Ops,
    /// Log lines.
    pub log: Log,
    /// Every limit that has a name.
    pub limits: Limits,
}

settings! {
    /// `[mqtt]`: which broker is used, and the bridge as a client of an external one.
    pub struct Mqtt {
        /// Which broker is used.
        pub broker: BrokerKind = BrokerKind::Embedded;
        /// The client of an external one.
        #[serde(flatten, skip_deserializing)] pub client: ClientConfig = ClientConfig::default();
    }
}

settings! {
    /// `[limits]`, where the limits of all parts stand.
    pub struct Limits {
        /// Of the bridge.
        #[serde(flatten, skip_deserializing)]
        pub bridge: bridge::settings::Limits = bridge::settings::Limits::default();
        /// Of the store.
        #[serde(flatten, skip_deserializing)] pub store: store::Limits = store::Limits::default();
        /// Of the embedded broker.
        #[serde(flatten, skip_deserializing)]
        pub broker: crate::broker::BrokerLimits = crate::broker::BrokerLimits::default();
        /// How long a stop may take before what is left is abandoned to the next start.
        #[serde(with = "Seconds")] "stop_seconds" pub stop: Duration = Duration::from_secs(10), in 1..=u64::MAX;
    }
}

/// The settings, and what was read from the files they name.
#[derive(Debug, Clone)]
pub struct Loaded {
    /// The settings as they apply.
    pub settings: Settings,
    /// The CCS server key, if CCS is spoken.
    pub api_key: Option<Secret>,
    /// The password at the external broker.
    pub mqtt_password: Option<Secret>,
}

impl Settings {
    /// Reads `file` (if any) and the environment over the defaults, and checks the result.
    ///
    /// # Errors
    /// Names the key, what is wrong with it, and what would be right.
    pub fn load(file: Option<&Path>) -> Result<Loaded, ConfigError> {
        check::load(file, &environment::variables())
    }

    /// Reads the same layers without asking whether they are complete and fit together: for commands that need a key or
    /// two of them.
    ///
    /// # Errors
    /// When a file cannot be read, a key is unknown, or a value has the wrong form.
    pub fn read(file: Option<&Path>) -> Result<Self, ConfigError> {
        Ok(layers::read(file, &environment::variables())?.0)
    }

    /// Variables of the environment that begin like one of ours and are not read.
    pub fn unread_variables() -> Vec<String> {
        environment::unread(environment::variables().keys())
    }

    /// Everybody who is a BAL by the configuration: the names of `[bals]`, the targets of `[routes]`, and the gatekeeper.
    pub fn bals(&self) -> BTreeSet<String> {
        let Routes { default_bal, categories } = &self.routes;
        let named = self.bals.keys().chain(categories.values()).chain(default_bal);
        named.chain(&self.chat.gatekeeper).cloned().collect()
    }

    /// Which engine the embedded broker has, if that is used.
    pub fn engine(&self) -> Option<Engine> {
        (self.mqtt.broker == BrokerKind::Embedded).then_some(self.broker.engine)
    }
}
