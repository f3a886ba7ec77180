//! Who published a message, and how that is known.

use std::collections::BTreeSet;
use std::sync::Arc;

/// What somebody who logged in is, as far as access goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Role {
    /// A backend application.
    Bal,
    /// A chat user, with any number of devices.
    User,
    /// May read everything and give the bridge orders.
    Admin,
}

impl Role {
    /// As it stands in files and tokens.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Bal => "bal",
            Self::User => "user",
            Self::Admin => "admin",
        }
    }
}

/// Somebody who logged in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// The user name, which is the first level of their topics.
    pub user: Arc<str>,
    /// What they are.
    pub role: Role,
}

/// Who published a message, and how that is known. A will has the principal of its session.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Principal {
    /// The user name of the log-in; without a log-in the first level of the topic.
    pub name: Arc<str>,
    /// What that name is.
    pub role: Role,
    /// The device, if the client id names one. Only the embedded broker sees client ids.
    pub device: Option<Arc<str>>,
    /// Whether it is a connection of that device in the background, as a push handler makes one: nobody is there by it.
    pub background: bool,
    /// What all this rests on.
    pub proof: Proof,
}

/// What proves who published a message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A password, shown to the embedded broker.
    Login,
    /// A JSON Web Token, shown to the embedded broker.
    SignedToken,
    /// The topic, as far as the rules of an external broker let only its owner write there.
    TopicRules,
    /// Nothing: whoever reaches the loopback address is trusted.
    Anonymous,
    /// The document alone: it lies in the inbox of another one, into which anybody may write who has a log-in.
    Document,
    /// A registration token: the push service says that the message comes from there, and a user has proved to have it.
    Token,
}

impl Proof {
    /// In a word, for the log.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Login => "log-in",
            Self::SignedToken => "JSON Web Token",
            Self::TopicRules => "topic rules",
            Self::Anonymous => "anonymous",
            Self::Document => "document",
            Self::Token => "registration token",
        }
    }
}

impl Principal {
    /// Whoever is trusted without a log-in, as a BAL, under the first level of the topic.
    pub fn anonymous(topic: &str) -> Self {
        let (name, role, device, background) = (first_level(topic).into(), Role::Bal, None, false);
        Self { name, role, device, background, proof: Proof::Anonymous }
    }
}

/// How a broker knows who publishes that sees topics and no log-ins.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Senders {
    /// Everybody is trusted as a BAL: the broker is on loopback and asks nobody who it is.
    Anonymous,
    /// The first level of a topic is its writer, by the rules of an external broker.
    TopicRules {
        /// The names that are BALs; all others are chat users. Without any name everybody is a BAL.
        bals: BTreeSet<String>,
    },
}

impl Senders {
    /// Who published a message on `topic`.
    pub fn principal(&self, topic: &str) -> Principal {
        let Self::TopicRules { bals } = self else { return Principal::anonymous(topic) };
        let name = first_level(topic);
        let role = if bals.is_empty() || bals.contains(name) { Role::Bal } else { Role::User };
        Principal { name: name.into(), role, device: None, background: false, proof: Proof::TopicRules }
    }

    /// What `name` is, if the configuration says so: chat users are in no configuration.
    pub fn role_of(&self, name: &str) -> Option<Role> {
        match self {
            Self::TopicRules { bals } => bals.contains(name).then_some(Role::Bal),
            Self::Anonymous => None,
        }
    }
}

impl Principal {
    /// A chat user who wrote into the inbox of a peer, as the document says.
    pub fn named_by_document(name: &str) -> Self {
        Self { name: name.into(), role: Role::User, device: None, background: false, proof: Proof::Document }
    }

    /// Whether it logged in.
    pub fn has_logged_in(&self) -> bool {
        self.by_token().is_some()
    }

    /// Whether it logged in by a token, and not by a password; `None`: it did not log in.
    pub fn by_token(&self) -> Option<bool> {
        match self.proof {
            Proof::Login => Some(false),
            Proof::SignedToken => Some(true),
            Proof::TopicRules | Proof::Anonymous | Proof::Document | Proof::Token => None,
        }
    }

    /// It wrote into the inbox of its reader, through a broker of others ([`Proof::Document`]).
    pub fn is_direct(&self) -> bool {
        self.proof == Proof::Document
    }

    /// It wrote by its push service ([`Proof::Token`]), whose connection carries what all devices write.
    pub fn writes_by_push_service(&self) -> bool {
        self.proof == Proof::Token
    }
}

fn first_level(topic: &str) -> &str {
    topic.split('/').next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(bals: &[&str]) -> Senders {
        Senders::TopicRules { bals: bals.iter().map(ToString::to_string).collect() }
    }

    fn by_topic(senders: &Senders, topic: &str) -> (String, Role, Proof) {
        let Principal { name, role, device, background, proof } = senders.principal(topic);
        assert_eq!((device, background), (None, false), "no client id was seen");
        (name.to_string(), role, proof)
    }

    #[test]
    fn on_an_external_broker_those_who_are_named_are_bals_and_nobody_else_is() {
        let senders = rules(&["bal1", "bal2"]);
        for (topic, name, role) in [
            ("bal1/self/messages", "bal1", Role::Bal),
            ("bal2/self/presence/w1", "bal2", Role::Bal),
            ("alice/self/messages", "alice", Role::User),
            ("bal11/self/messages", "bal11", Role::User),
            ("Bal1/self/messages", "Bal1", Role::User),
        ] {
            assert_eq!(by_topic(&senders, topic), (name.to_owned(), role, Proof::TopicRules));
        }
    }

    #[test]
    fn only_those_who_are_named_are_known_before_they_say_anything() {
        let senders = rules(&["bal1"]);
        assert_eq!((senders.role_of("bal1"), senders.role_of("alice")), (Some(Role::Bal), None));
        assert_eq!((rules(&[]).role_of("bal1"), Senders::Anonymous.role_of("bal1")), (None, None));
    }

    #[test]
    fn where_nobody_is_named_everybody_is_a_bal() {
        assert_eq!(by_topic(&rules(&[]), "alice/self/x"), ("alice".to_owned(), Role::Bal, Proof::TopicRules));
        assert_eq!(by_topic(&Senders::Anonymous, "alice/self/x"), ("alice".to_owned(), Role::Bal, Proof::Anonymous));
    }
}
