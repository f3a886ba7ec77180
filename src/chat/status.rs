//! What senders are told of their messages: the words and the document.

use super::delivery::{EXPIRED, Life, State};
use super::refusal::TokenFate;
use super::transport::Transport;
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};

/// Longest `detail` in a status, an error document or an event, in characters; what is longer is cut.
pub const DETAIL_MAX: usize = 256;

/// What a sender is told (topics.md, "Delivery status").
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Status {
    /// Stored by the bridge.
    Accepted,
    /// Taken by the push service.
    Sent,
    /// Handed to the device.
    Delivered,
    /// Seen by the user.
    Read,
    /// Refused for good; `code` says why.
    Failed,
    /// The time to live ended.
    Expired,
    /// Taken back by the sender.
    Cancelled,
}

impl Status {
    /// As it stands in documents.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Accepted => "accepted",
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Read => "read",
            Self::Failed => "failed",
            Self::Expired => "expired",
            Self::Cancelled => "cancelled",
        }
    }

    fn source(self, provider_failed: bool, transport: &Transport) -> Option<Source> {
        match self {
            Self::Sent => Some(Source::Provider),
            Self::Failed if provider_failed => Some(Source::Provider),
            Self::Delivered => Some(transport.witness()),
            Self::Read => Some(Source::App),
            Self::Accepted | Self::Failed | Self::Expired | Self::Cancelled => None,
        }
    }
}

/// On whose word a status rests. Without a source it is the bridge's own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// The push service.
    Provider,
    /// The device, through the push service.
    Device,
    /// The receiving app itself.
    App,
}

/// What the sender should do with the registration token.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum TokenAction {
    /// It is good.
    Keep = 0,
    /// It is dead.
    Remove = 1,
    /// The push service named a new one.
    Replace = 2,
    /// Doubtful: do not use it before the device registers again.
    Quarantine = 3,
}

impl From<TokenFate> for TokenAction {
    fn from(fate: TokenFate) -> Self {
        match fate {
            TokenFate::Keep => Self::Keep,
            TokenFate::Remove => Self::Remove,
            TokenFate::Quarantine => Self::Quarantine,
        }
    }
}

impl TokenAction {
    /// The number on disk.
    pub fn code(self) -> i64 {
        self as i64
    }

    /// The action with this number on disk.
    pub fn from_code(code: i64) -> Option<Self> {
        [Self::Keep, Self::Remove, Self::Replace, Self::Quarantine].into_iter().find(|action| action.code() == code)
    }
}

/// A status document (topics.md, topic 3). The fields are written in this order; absent facts are left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StatusDocument<'a> {
    id: &'a str,
    status: Status,
    ts: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    detail: Option<&'a str>,
    #[serde(skip_serializing_if = "is_zero")]
    attempt: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    transport: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    source: Option<Source>,
    #[serde(skip_serializing_if = "Option::is_none")]
    provider_id: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    device_ts: Option<u64>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    dup_possible: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    token_action: Option<TokenAction>,
    #[serde(skip_serializing_if = "Option::is_none")]
    new_token: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    corr: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    redelivered: bool,
}

impl<'a> StatusDocument<'a> {
    /// What the sender of the message `id`, which goes by `transport`, is told of `status` at the time `ts`.
    pub fn new(id: &'a str, status: Status, ts: u64, life: Life, transport: &Transport) -> Self {
        let source = status.source(life.attempt > 0, transport);
        Self {
            attempt: if status == Status::Accepted { 0 } else { life.attempt },
            transport: (source.is_some() || status == Status::Expired).then(|| transport.protocol()),
            source,
            ..Self::without_transport(id, status, ts, life.dup_possible)
        }
    }

    /// The same where there is no transport to speak of: of `accepted`, and of a message with several deliveries.
    pub fn without_transport(id: &'a str, status: Status, ts: u64, dup_possible: bool) -> Self {
        Self {
            id,
            status,
            ts,
            code: None,
            detail: None,
            attempt: 0,
            transport: None,
            source: None,
            provider_id: None,
            device_ts: None,
            dup_possible: dup_possible && status != Status::Accepted,
            token_action: None,
            new_token: None,
            corr: None,
            redelivered: false,
        }
    }

    /// A message that was refused by the bridge itself, before any delivery began.
    pub fn refused(id: &'a str, ts: u64, code: &'a str, detail: &'a str) -> Self {
        let life = Life::new(State::Failed, false);
        Self::new(id, Status::Failed, ts, life, &Transport::default()).reason(Some(code), Some(detail))
    }

    /// Why it failed or expired, or (without a code) what of it did not travel; kept for these and `sent`.
    pub fn reason(mut self, code: Option<&'a str>, detail: Option<&'a str>) -> Self {
        self.code = match self.status {
            Status::Failed => code,
            // What expired under an earlier release has none on disk.
            Status::Expired => code.or(Some(EXPIRED)),
            _ => None,
        };
        if matches!(self.status, Status::Failed | Status::Expired | Status::Sent) {
            self.detail = detail.map(cut_detail).filter(|text| !text.is_empty());
        }
        self
    }

    /// What of the message was not understood; kept for `accepted`.
    pub fn notice(mut self, notice: Option<&'a str>) -> Self {
        if self.status == Status::Accepted {
            self.detail = notice.map(cut_detail);
        }
        self
    }

    /// The push service's own name for the message; kept for the statuses from its taking on.
    pub fn provider_id(mut self, name: Option<&'a str>) -> Self {
        if matches!(self.status, Status::Sent | Status::Delivered) {
            self.provider_id = name;
        }
        self
    }

    /// When the push service handed the message to the device, in Unix milliseconds; kept for `delivered`.
    pub fn handed_over(mut self, at_ms: Option<u64>) -> Self {
        if self.status == Status::Delivered {
            self.device_ts = at_ms;
        }
        self
    }

    /// What follows for the token; kept for the statuses that speak of it (`sent` and `failed`).
    pub fn token(mut self, action: Option<TokenAction>, new_token: Option<&'a str>) -> Self {
        if matches!(self.status, Status::Sent | Status::Failed) {
            self.token_action = action;
            self.new_token = new_token;
        }
        // The push service's refusals have an action on disk. One without is the bridge's own, and the token stays.
        if self.status == Status::Failed && action.is_none() {
            (self.source, self.transport) = (None, None);
            self.token_action = Some(TokenAction::Keep);
        }
        self
    }

    /// The MQTT 5 correlation data of the request, for those who read only the body.
    pub fn correlation(mut self, data: Option<&[u8]>) -> Self {
        self.corr = data.map(|bytes| BASE64.encode(bytes));
        self
    }

    /// Whether its reader may know it already, because the message it answers was published before.
    pub fn redelivered(mut self, redelivered: bool) -> Self {
        self.redelivered = redelivered;
        self
    }

    /// The JSON text.
    pub fn to_bytes(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("a struct of strings and numbers is always JSON")
    }
}

/// `detail`, cut to [`DETAIL_MAX`] characters.
pub fn cut_detail(detail: &str) -> &str {
    detail.char_indices().nth(DETAIL_MAX).map_or(detail, |(end, _)| &detail[..end])
}

fn is_zero(n: &u32) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Status {
        /// Statuses of one delivery are told in rising rank only. The final words share one: after any of them no other
        /// is told, but `read` may follow `delivered`.
        pub(crate) fn rank(self) -> u8 {
            match self {
                Self::Accepted => 0,
                Self::Sent => 1,
                Self::Delivered | Self::Failed | Self::Expired | Self::Cancelled => 2,
                Self::Read => 3,
            }
        }
    }

    #[test]
    fn the_status_document_has_a_stable_shape() {
        let life = Life { attempt: 1, dup_possible: true, ..Life::new(State::Sent, true) };
        let document = StatusDocument::new("a1", Status::Sent, 17, life, &Transport::Ccs)
            .reason(Some("IGNORED"), None)
            .token(Some(TokenAction::Replace), Some("new"))
            .correlation(Some(b"\x00\x01"));
        assert_eq!(
            String::from_utf8(document.to_bytes()).unwrap(),
            r#"{"id":"a1","status":"sent","ts":17,"attempt":1,"transport":"ccs","source":"provider","dup_possible":true,"token_action":"replace","new_token":"new","corr":"AAE="}"#
        );
        let failed = StatusDocument::refused("a1", 18, "TOO_BIG", "data is too big");
        assert_eq!(
            String::from_utf8(failed.to_bytes()).unwrap(),
            r#"{"id":"a1","status":"failed","ts":18,"code":"TOO_BIG","detail":"data is too big"}"#
        );
        let expired = StatusDocument::new("a1", Status::Expired, 20, Life::new(State::Expired, true), &Transport::Ccs);
        assert_eq!(
            String::from_utf8(expired.clone().reason(Some(EXPIRED), Some("too late")).to_bytes()).unwrap(),
            r#"{"id":"a1","status":"expired","ts":20,"code":"EXPIRED","detail":"too late","transport":"ccs"}"#
        );
        assert_eq!(
            String::from_utf8(expired.reason(None, None).to_bytes()).unwrap(),
            r#"{"id":"a1","status":"expired","ts":20,"code":"EXPIRED","transport":"ccs"}"#
        );
        let accepted = StatusDocument::new("a1", Status::Accepted, 19, life, &Transport::Ccs);
        assert_eq!(String::from_utf8(accepted.to_bytes()).unwrap(), r#"{"id":"a1","status":"accepted","ts":19}"#);
        assert_eq!(
            String::from_utf8(accepted.redelivered(true).to_bytes()).unwrap(),
            r#"{"id":"a1","status":"accepted","ts":19,"redelivered":true}"#
        );
    }

    #[test]
    fn a_message_over_v1_is_delivered_on_the_word_of_the_app() {
        let life = Life { attempt: 1, ..Life::new(State::Delivered, true) };
        let transport = Transport::parse("fcm-v1:shop").unwrap();
        let document = StatusDocument::new("a1", Status::Delivered, 20, life, &transport)
            .provider_id(Some("projects/p/messages/1"));
        assert_eq!(
            String::from_utf8(document.to_bytes()).unwrap(),
            r#"{"id":"a1","status":"delivered","ts":20,"attempt":1,"transport":"fcm-v1","source":"app","provider_id":"projects/p/messages/1"}"#
        );
    }

    #[test]
    fn a_message_with_several_deliveries_names_none_of_them() {
        let document =
            StatusDocument::without_transport("a1", Status::Failed, 20, true).reason(Some("X"), Some("2 failed"));
        assert_eq!(
            String::from_utf8(document.to_bytes()).unwrap(),
            r#"{"id":"a1","status":"failed","ts":20,"code":"X","detail":"2 failed","dup_possible":true}"#
        );
    }

    #[test]
    fn a_detail_is_cut_between_characters() {
        let long = "é".repeat(DETAIL_MAX + 1);
        assert_eq!(cut_detail(&long).chars().count(), DETAIL_MAX);
        assert_eq!(cut_detail("short"), "short");
    }

    #[test]
    fn codes_on_disk_are_read_back() {
        assert_eq!(TokenAction::from_code(TokenAction::Quarantine.code()), Some(TokenAction::Quarantine));
        assert_eq!(TokenAction::from_code(4), None);
    }
}
