//! What can be set of the bridge: which messages go where, who is a BAL, and limits.

use crate::chat::erasure::is_reserved;
use crate::chat::group::GroupDelivery;
use crate::chat::id::Owner;
use crate::chat::message::Limits as MessageLimits;
use crate::chat::push_decision::PushWhen;
use crate::chat::suffix::devices::VerifyTokens;
use crate::chat::suffix::requests::Writers;
use crate::chat::transport::Transport;
use crate::chat::user_limits::Allowances;
use crate::ops::setting::{self, Days, Minutes, Seconds, SettingError, settings};
use crate::store::Keep;
use serde::{Deserialize, Serialize};
use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

settings! {
    /// Limits of the bridge.
    pub struct Limits {
        /// Largest payload taken from a client, in bytes. topics.md promises payloads of up to 65,536 bytes; the broker
        /// takes at most 1 MiB.
        pub payload_bytes: usize = 65_536, in 1_024..=1_048_576;
        /// Most publishes of clients that wait for their commit at one time.
        pub inflight_publishes: usize = 1_000, in 1..=60_000;
        /// Most unconfirmed publications of the bridge on one topic.
        pub topic_window: usize = 500, in 1..=10_000;
        /// Longest wait before a refused message is tried again.
        #[serde(with = "Seconds")]
        "retry_max_seconds" pub retry_max: Duration = Duration::from_secs(3_600), in 1..=u64::MAX;
        /// Messages and invitations of one chat user a second, in the long run.
        pub user_messages_per_second: u32 = 20, in 1..=1_000_000;
        /// The same at once, after a pause.
        pub user_messages_burst: u32 = 100, in 1..=1_000_000;
        /// Publishes of every kind of one chat user a second; those beyond are acknowledged later.
        pub user_publishes_per_second: u32 = 50, in 1..=1_000_000;
        /// Bytes of messages and invitations of one chat user an hour.
        pub user_stored_bytes_per_hour: u64 = 20_000_000, in 100_000..=u64::MAX;
        /// Recipients of one chat user an hour who have it not as a contact, or do not exist.
        pub user_strangers_per_hour: u32 = 20, in 1..=1_000;
        /// Messages and invitations a day to each of them, until they answer.
        pub user_messages_per_stranger: u32 = 5, in 1..=1_000_000;
        /// Requests of one chat user a second.
        pub user_requests_per_second: u32 = 10, in 1..=1_000_000;
        /// Test pushes of one chat user a minute.
        pub user_test_pushes_per_minute: u32 = 1, in 1..=1_000_000;
        /// Registrations of devices of one chat user an hour.
        pub user_registrations_per_hour: u32 = 10, in 1..=1_000_000;
        /// Reports of one chat user an hour.
        pub user_reports_per_hour: u32 = 20, in 1..=1_000_000;
        /// Members of groups a second to whom one chat user writes.
        pub user_group_pushes_per_second: u32 = 1_000, in 1_000..=1_000_000;
        /// How often a day one chat user puts the same other one into groups.
        pub user_same_member_per_day: u32 = 10, in 1..=1_000_000;
        /// Messages of one chat user or BAL that wait for their time.
        pub user_scheduled: u32 = 100, in 1..=1_000_000;
    }
}

impl Limits {
    /// Limits of a client's message.
    pub(crate) fn message(&self) -> MessageLimits {
        MessageLimits { payload_bytes: self.payload_bytes, ..MessageLimits::default() }
    }

    /// What one chat user may do in a time.
    pub(crate) fn of_user(&self) -> Allowances {
        Allowances {
            messages_per_second: self.user_messages_per_second,
            messages_burst: self.user_messages_burst,
            publishes_per_second: self.user_publishes_per_second,
            stored_bytes_per_hour: self.user_stored_bytes_per_hour,
            strangers_per_hour: self.user_strangers_per_hour,
            messages_per_stranger: self.user_messages_per_stranger,
            requests_per_second: self.user_requests_per_second,
            test_pushes_per_minute: self.user_test_pushes_per_minute,
            registrations_per_hour: self.user_registrations_per_hour,
            reports_per_hour: self.user_reports_per_hour,
            group_pushes_per_second: self.user_group_pushes_per_second,
            same_member_per_day: self.user_same_member_per_day,
        }
    }
}

settings! {
    /// `[transport]`: by which transport messages go to the devices.
    pub struct TransportSection {
        /// The transport of messages whose app and BAL decide on none.
        pub default: String = Transport::default().to_string();
        /// App package name to transport.
        pub categories: BTreeMap<String, String> = BTreeMap::new();
    }
}

impl TransportSection {
    /// Which transports are wanted: the default, and those of the categories.
    ///
    /// # Errors
    /// When a text names no transport.
    pub fn transports(&self) -> Result<(Transport, HashMap<String, Transport>), SettingError> {
        let parse = |key: &str, text: &str| {
            Transport::parse(text).map_err(|fault| SettingError::bad(key, format!("this {fault}")))
        };
        let categories = self
            .categories
            .iter()
            .map(|(app, text)| Ok((app.clone(), parse(&format!("transport.categories.\"{app}\""), text)?)))
            .collect::<Result<_, _>>()?;
        Ok((parse("transport.default", &self.default)?, categories))
    }
}

/// `[routes]`: app package name to BAL, and `default_bal` for all others.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct Routes {
    /// Gets what no other route names.
    pub default_bal: Option<String>,
    /// App package name to BAL.
    #[serde(flatten)]
    pub categories: BTreeMap<String, String>,
}

impl setting::Settings for Routes {}

impl Routes {
    /// The BAL of each app, and of all others.
    ///
    /// # Errors
    /// When a name cannot be a topic level.
    pub fn owners(&self) -> Result<(HashMap<String, Owner>, Option<Owner>), SettingError> {
        let categories = self
            .categories
            .iter()
            .map(|(app, bal)| Ok((app.clone(), owner(&format!("routes.\"{app}\""), bal)?)))
            .collect::<Result<_, _>>()?;
        Ok((categories, self.default_bal.as_ref().map(|bal| owner("routes.default_bal", bal)).transpose()?))
    }
}

/// The BAL that `key` names.
///
/// # Errors
/// When the name cannot be a topic level.
pub fn owner(key: &str, name: &str) -> Result<Owner, SettingError> {
    if is_reserved(name) {
        let why = "this cannot be the name of a BAL: names like it stand for users who were erased";
        return Err(SettingError::bad(key, why));
    }
    Owner::new(name).map_err(|why| SettingError::bad(key, format!("this cannot be the name of a BAL: it {why}")))
}

/// How upstream messages to a BAL are known to have arrived.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum AckMode {
    /// By the MQTT acknowledgement.
    #[default]
    Mqtt,
    /// By a `received` on `{bal}/self/receipts`.
    Explicit,
}

settings! {
    /// `[bals.NAME]`
    pub struct Bal {
        /// What counts as arrived.
        pub ack: AckMode = AckMode::Mqtt;
        /// Whether it is told of what happens in chat.
        pub events: bool = false;
    }
}

/// Of whom presence is published.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum PublishedPresence {
    /// Of every chat user.
    #[default]
    All,
    /// Of nobody: an external broker would show it to every log-in.
    None,
}

settings! {
    /// `[chat]`: what chat users can expect.
    pub struct ChatSettings {
        /// How long a sign of a person counts: so long a connected device is taken as looked at.
        #[serde(with = "Minutes")]
        "attended_minutes" pub attended: Duration = Duration::from_secs(600), in 1..=525_600;
        /// Which attended devices hold a push back.
        pub push_when: PushWhen = PushWhen::AnyActiveSuppresses;
        /// Who may write to a user who has set nothing.
        pub who_may_write: Writers = Writers::Anyone;
        /// The BAL that is asked who may write, where a user leaves that to it.
        pub gatekeeper: Option<String> = None;
        /// How long a message is kept.
        #[serde(with = "Days")] "keep_days" pub keep: Duration = Duration::from_secs(30 * 86_400), in 1..=36_500;
        /// How many bytes of messages are kept, beyond which the oldest are forgotten before their time.
        pub keep_bytes: u64 = 8_000_000_000, in 1_000_000..=u64::MAX;
        /// When a token has to be proved.
        pub verify_tokens: VerifyTokens = VerifyTokens::Moved;
        /// Of whom presence is published.
        pub presence: PublishedPresence = PublishedPresence::All;
        /// Clients write into the inboxes of each other, on a broker of others, and are believed who they are.
        pub direct: bool = false;
    }
}

settings! {
    /// `[groups]`: groups of chat users.
    pub struct GroupsSection {
        /// Where members read what is written in a group.
        pub delivery: GroupDelivery = GroupDelivery::Inbox;
    }
}

impl ChatSettings {
    /// The BAL that is asked who may write.
    ///
    /// # Errors
    /// When the name cannot be that of a BAL, or everybody leaves it to one that is not named.
    pub fn gatekeeper(&self) -> Result<Option<Owner>, SettingError> {
        if self.gatekeeper.is_none() && self.who_may_write == Writers::Gatekeeper {
            let why = "`chat.who_may_write` leaves it to the gatekeeper";
            return Err(SettingError::missing("chat.gatekeeper", why));
        }
        self.gatekeeper.as_deref().map(|name| owner("chat.gatekeeper", name)).transpose()
    }

    /// How much of what chat users wrote is kept.
    pub(crate) fn keep(&self) -> Keep {
        Keep { for_ms: u64::try_from(self.keep.as_millis()).unwrap_or(u64::MAX), bytes: self.keep_bytes }
    }
}
