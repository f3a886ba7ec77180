//! Who reads what, and the copies that readers are to get.

use std::sync::Arc;

use mqtt5::QoS;
use mqtt5::broker::storage::{ClientSession, StoredSubscription};
use mqtt5::validation::parse_shared_subscription;

/// One subscription.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Reader {
    pub(super) client: Arc<str>,
    /// The filter as the client gave it. Of a shared subscription it is also the name: one share name on two filters
    /// is two shared subscriptions.
    pub(super) filter: Arc<str>,
    pub(super) sharing: Sharing,
    qos: QoS,
    /// MQTT 5 subscription identifier.
    id: Option<u32>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sharing {
    Own,
    Shared,
}

impl Reader {
    /// The subscriptions of a session, as the engine keeps it.
    pub(super) fn all_of(client: &Arc<str>, session: &ClientSession) -> Vec<Self> {
        let reader = |(filter, stored): (&String, &StoredSubscription)| Self {
            client: client.clone(),
            filter: filter.as_str().into(),
            sharing: if parse_shared_subscription(filter).1.is_some() { Sharing::Shared } else { Sharing::Own },
            qos: stored.qos,
            id: stored.subscription_id,
        };
        session.subscriptions.iter().map(reader).collect()
    }

    /// The filter that topics are matched against.
    pub(super) fn pattern(&self) -> &str {
        parse_shared_subscription(&self.filter).0
    }
}

/// A copy of a publication that one session is to get.
#[derive(Debug)]
pub(super) struct Delivery {
    pub(super) client: Arc<str>,
    pub(super) qos: QoS,
    pub(super) subscription_ids: Vec<u32>,
}

impl Delivery {
    pub(super) fn to(reader: &Reader) -> Self {
        // The bridge publishes at QoS 1 at most, and a copy has the lower of both.
        let qos = if reader.qos == QoS::AtMostOnce { QoS::AtMostOnce } else { QoS::AtLeastOnce };
        Self { client: reader.client.clone(), qos, subscription_ids: reader.id.into_iter().collect() }
    }

    /// One copy serves all subscriptions of a session that match (MQTT 5, 3.3.4).
    pub(super) fn merge(&mut self, other: Self) {
        if other.qos == QoS::AtLeastOnce {
            self.qos = QoS::AtLeastOnce;
        }
        self.subscription_ids.extend(other.subscription_ids);
    }

    pub(super) fn wants_ack(&self) -> bool {
        self.qos != QoS::AtMostOnce
    }
}
