//! Topic aliases of one connection, both ways (MQTT 5, 3.3.2.3.4).

use std::sync::Arc;

/// The Topic Alias Maximum that clients are told; and how many aliases are used towards a client at most.
pub(crate) const TOPIC_ALIASES: u16 = 32;

/// What is wrong with an alias.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum AliasError {
    /// 0, or above the maximum (0x94).
    Invalid,
    /// No topic, and an alias without one (0x82).
    Unknown,
    /// It stands for a topic that is over a limit.
    OverLimit,
}

/// What an alias of the client stands for.
#[derive(Debug, Clone, Default)]
enum Meaning {
    #[default]
    Nothing,
    Topic(Arc<str>),
    /// A topic over a limit: each message on it is refused, also the next one, which does not repeat it.
    OverLimit,
}

/// The aliases that the client gave.
#[derive(Debug, Default)]
pub(crate) struct ClientAliases(Vec<Meaning>);

impl ClientAliases {
    /// The topic of a PUBLISH that has an alias; `topic` is empty where the alias stands for it.
    ///
    /// # Errors
    ///
    /// If the alias is 0, above the maximum or unknown, or stands for a topic that is over a limit.
    pub(crate) fn resolve(&mut self, alias: u16, topic: &str) -> Result<Arc<str>, AliasError> {
        let meaning = self.at(alias)?;
        if !topic.is_empty() {
            *meaning = Meaning::Topic(topic.into());
        }
        match meaning {
            Meaning::Nothing => Err(AliasError::Unknown),
            Meaning::Topic(topic) => Ok(Arc::clone(topic)),
            Meaning::OverLimit => Err(AliasError::OverLimit),
        }
    }

    /// A PUBLISH gave the alias a topic that is over a limit.
    ///
    /// # Errors
    ///
    /// Always; if the alias is 0 or above the maximum, that.
    pub(crate) fn set_over_limit(&mut self, alias: u16) -> Result<Arc<str>, AliasError> {
        *self.at(alias)? = Meaning::OverLimit;
        Err(AliasError::OverLimit)
    }

    fn at(&mut self, alias: u16) -> Result<&mut Meaning, AliasError> {
        if alias == 0 || alias > TOPIC_ALIASES {
            return Err(AliasError::Invalid);
        }
        let index = usize::from(alias - 1);
        if self.0.len() <= index {
            self.0.resize(index + 1, Meaning::Nothing);
        }
        self.0.get_mut(index).ok_or(AliasError::Invalid)
    }
}

/// The aliases that the client was given: of the first topics that it got.
#[derive(Debug)]
pub(crate) struct ServerAliases {
    topics: Vec<Arc<str>>,
    most: usize,
}

/// An alias towards the client.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Alias {
    /// The PUBLISH carries the topic and this alias for it.
    New(u16),
    /// The PUBLISH carries the alias only.
    Known(u16),
}

impl ServerAliases {
    /// For a client with this Topic Alias Maximum.
    pub(crate) fn new(maximum: u16) -> Self {
        Self { topics: Vec::new(), most: maximum.min(TOPIC_ALIASES).into() }
    }

    /// The alias of a topic. Ask only for a PUBLISH that is certainly written.
    pub(crate) fn of(&mut self, topic: &Arc<str>) -> Option<Alias> {
        if let Some(index) = self.topics.iter().position(|known| Arc::ptr_eq(known, topic) || known == topic) {
            return u16::try_from(index + 1).ok().map(Alias::Known);
        }
        if self.topics.len() >= self.most {
            return None;
        }
        self.topics.push(Arc::clone(topic));
        u16::try_from(self.topics.len()).ok().map(Alias::New)
    }
}
