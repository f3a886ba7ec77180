//! Who may connect, and who may write where.
//!
//! Identity and access rules per user come later; what is here is what must hold even among friends: only the bridge
//! writes inboxes and its own topics.

use std::future::{Future, ready};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;

use mqtt5::broker::auth::{AuthProvider, AuthResult};
use mqtt5::packet::connect::ConnectPacket;
use mqtt5::protocol::v5::reason_codes::ReasonCode;

use super::confirm::Ledger;
use super::events::Events;
use super::link;

/// The rules.
#[derive(Debug)]
pub(super) struct Rules {
    pub(super) anonymous: bool,
    pub(super) sessions: usize,
    pub(super) ledger: Arc<Ledger>,
    pub(super) events: Arc<Events>,
}

impl Rules {
    fn admit(&self, connect: &ConnectPacket) -> AuthResult {
        if !self.anonymous {
            return AuthResult::fail(ReasonCode::NotAuthorized);
        }
        let (known, sessions) = self.ledger.census(&connect.client_id);
        if !known && sessions >= self.sessions {
            return AuthResult::fail(ReasonCode::ServerUnavailable);
        }
        AuthResult::success()
    }
}

/// Whether clients may write a topic: `{user}/others/...` and `_bridge/...` are the bridge's, `$...` the broker's.
fn is_open_to_clients(topic: &str) -> bool {
    let mut levels = topic.split('/');
    let owner = levels.next().unwrap_or_default();
    owner != "_bridge" && !owner.starts_with('$') && levels.next() != Some("others")
}

impl AuthProvider for Rules {
    fn authenticate<'a>(
        &'a self,
        connect: &'a ConnectPacket,
        _address: SocketAddr,
    ) -> Pin<Box<dyn Future<Output = mqtt5::Result<AuthResult>> + Send + 'a>> {
        Box::pin(ready(Ok(self.admit(connect))))
    }

    fn authorize_publish<'a>(
        &'a self,
        client_id: &str,
        _user_id: Option<&'a str>,
        topic: &'a str,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        let allowed = is_open_to_clients(topic);
        // The engine publishes a delayed will from a task of its own and raises no event, but it asks here first.
        if allowed && link::current().is_none() {
            let client: Arc<str> = client_id.into();
            return Box::pin(async move {
                self.events.delayed_will(&client).await;
                true
            });
        }
        Box::pin(ready(allowed))
    }

    fn authorize_subscribe<'a>(
        &'a self,
        _client_id: &str,
        _user_id: Option<&'a str>,
        _topic_filter: &'a str,
    ) -> Pin<Box<dyn Future<Output = bool> + Send + 'a>> {
        Box::pin(ready(true))
    }
}

#[cfg(test)]
mod tests {
    use super::is_open_to_clients;

    #[test]
    fn inboxes_and_reserved_topics_are_not_for_clients() {
        for topic in ["bal1/others/messages", "alice/others", "_bridge/status", "_bridge", "$SYS/x", "/others/x"] {
            assert!(!is_open_to_clients(topic), "{topic}");
        }
        for topic in ["bal1/self/messages", "others/self/messages", "a", "a/b/others", "x/_bridge"] {
            assert!(is_open_to_clients(topic), "{topic}");
        }
    }
}
