//! What the running bridge says of itself, as far as it holds messages up.

use crate::cli::health;
use serde_json::Value;
use std::net::SocketAddr;

/// `/readyz`, or null when no bridge is there to ask.
#[derive(Debug, Default)]
pub(super) struct Live(Value);

impl Live {
    /// Asks the bridge.
    pub(super) async fn ask(ops: Option<SocketAddr>) -> Self {
        let Some(ops) = ops else { return Self::default() };
        let answer = health::answer(ops, "/readyz").await.unwrap_or_default();
        let (_, body) = answer.split_once("\r\n\r\n").unwrap_or_default();
        Self(serde_json::from_str(body).unwrap_or_default())
    }

    /// Why the store takes nothing.
    pub(super) fn blocked(&self) -> Option<&str> {
        self.0["store"].as_str().filter(|store| *store != "ok")
    }

    /// Why a message that goes by this transport may have to wait.
    pub(super) fn why(&self, transport: &str) -> Option<String> {
        if let Some(store) = self.blocked() {
            return Some(format!("the store is blocked: {store}"));
        }
        let state = self.0[transport].as_str()?;
        match self.0["why"][transport].as_str() {
            Some(why) => Some(format!("{transport} is {state}: {why}")),
            None => (state != "up").then(|| format!("{transport} is {state}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::trace::unknown;
    use serde_json::json;

    #[test]
    fn of_a_message_that_waits_for_the_disk_it_is_told_that_the_disk_takes_nothing() {
        let of = |store: &str| unknown("a1", &Live(json!({"ccs": "up", "store": store})));
        assert!(of("disk full").starts_with("the store is blocked: disk full; "));
        let settled = "a message that is settled is remembered for a limited time";
        assert_eq!([of("ok"), unknown("a1", &Live::default())], [settled, settled]);
        let of_chat = unknown("06eqbd3gy0001ab2", &Live::default());
        assert!(of_chat.contains("`fcm-mqtt-bridge explain push USER 06eqbd3gy0001ab2`"), "{of_chat}");
    }

    #[test]
    fn the_store_comes_first_and_a_transport_that_is_well_says_nothing() {
        let live = |store: &str| {
            Live(json!({"ccs": "up", "fcm-v1": "no_access_token", "store": store, "why": {"fcm-v1": "x"}}))
        };
        assert_eq!(live("ok").why("ccs"), None);
        assert_eq!(live("ok").why("fcm-v1").as_deref(), Some("fcm-v1 is no_access_token: x"));
        assert_eq!(live("full").why("ccs").as_deref(), Some("the store is blocked: full"));
        assert_eq!(Live::default().why("ccs"), None);
    }
}
