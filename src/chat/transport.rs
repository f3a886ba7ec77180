//! The transports: by which of them a message goes to its device.

use super::id::Owner;
use super::route::Routes;
use super::status::Source;
use std::collections::HashMap;
use std::fmt;

/// Longest name of a Firebase project's settings, in characters.
pub const PROJECT_MAX: usize = 32;

const CCS: &str = "ccs";
const FCM_V1: &str = "fcm-v1";

/// One of the transports. Its text stands in the configuration and on disk.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// CCS.
    #[default]
    Ccs,
    /// FCM HTTP v1: the first project of the configuration, or one of the others by its name there.
    FcmV1(Option<Project>),
}

/// The name of a Firebase project's settings: 1 to [`PROJECT_MAX`] of `a-z 0-9 _ -`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Project(String);

/// Why a text names no transport.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum TransportError {
    /// The text is something else.
    #[error("is none of `ccs`, `fcm-v1` and `fcm-v1:NAME`")]
    Unknown,
    /// The name of the project's settings is not a legal one.
    #[error("names a project with other characters than a-z 0-9 _ -, or more than {PROJECT_MAX} of them")]
    Project,
}

impl Project {
    /// Checks and keeps `name`.
    ///
    /// # Errors
    /// When it is empty, too long, or has another character.
    pub fn new(name: &str) -> Result<Self, TransportError> {
        let legal = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'_' | b'-');
        let fits = (1..=PROJECT_MAX).contains(&name.len()) && name.bytes().all(legal);
        if fits { Ok(Self(name.to_owned())) } else { Err(TransportError::Project) }
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Transport {
    /// Reads the text form.
    ///
    /// # Errors
    /// When it is none.
    pub fn parse(text: &str) -> Result<Self, TransportError> {
        match (text, text.strip_prefix(FCM_V1).and_then(|rest| rest.strip_prefix(':'))) {
            (CCS, _) => Ok(Self::Ccs),
            (FCM_V1, _) => Ok(Self::FcmV1(None)),
            (_, Some(name)) => Project::new(name).map(|project| Self::FcmV1(Some(project))),
            (_, None) => Err(TransportError::Unknown),
        }
    }

    /// The word of status documents: which protocol, not which project.
    pub const fn protocol(&self) -> &'static str {
        match self {
            Self::Ccs => CCS,
            Self::FcmV1(_) => FCM_V1,
        }
    }

    /// A key of `data` that the push service keeps for itself, beside those that any does.
    pub const fn reserved_key(&self) -> Option<&'static str> {
        match self {
            Self::Ccs => None,
            Self::FcmV1(_) => Some("notification"),
        }
    }

    /// On whose word a message that went by this transport counts as delivered: v1 tells nothing of devices.
    pub const fn witness(&self) -> Source {
        match self {
            Self::Ccs => Source::Device,
            Self::FcmV1(_) => Source::App,
        }
    }
}

impl fmt::Display for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Ccs | Self::FcmV1(None) => f.write_str(self.protocol()),
            Self::FcmV1(Some(Project(name))) => write!(f, "{FCM_V1}:{name}"),
        }
    }
}

/// Which message goes by which transport.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Transports {
    default: Transport,
    by_category: HashMap<String, Transport>,
    by_bal: HashMap<Owner, Transport>,
}

impl Transports {
    /// `by_category` is asked first. A message that names no category goes by the transport that all apps of its BAL share, if
    /// they do, else by `default`.
    pub fn new(default: Transport, by_category: HashMap<String, Transport>, routes: &Routes) -> Self {
        let mut shared: HashMap<Owner, Option<Transport>> = HashMap::new();
        let mut note = |bal: &Owner, transport: &Transport| {
            let common = shared.entry(bal.clone()).or_insert_with(|| Some(transport.clone()));
            if common.as_ref() != Some(transport) {
                *common = None;
            }
        };
        for (category, bal) in routes.categories() {
            note(bal, by_category.get(category).unwrap_or(&default));
        }
        if let Some(bal) = routes.default_bal() {
            // All apps that nobody has named are its as well.
            note(bal, &default);
            let unnamed = by_category.iter().filter(|(category, _)| !routes.names(category));
            unnamed.for_each(|(_, transport)| note(bal, transport));
        }
        let by_bal = shared.into_iter().filter_map(|(bal, transport)| Some((bal, transport?))).collect();
        Self { default, by_category, by_bal }
    }

    /// The transport of a message of `bal` to the app `category`, if it names one.
    pub fn pick(&self, bal: &Owner, category: Option<&str>) -> &Transport {
        let known = match category {
            Some(category) => self.by_category.get(category),
            None => self.by_bal.get(bal),
        };
        known.unwrap_or(&self.default)
    }

    /// Every transport that a message may go by.
    pub fn all(&self) -> impl Iterator<Item = &Transport> {
        std::iter::once(&self.default).chain(self.by_category.values())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn owner(name: &str) -> Owner {
        Owner::new(name).unwrap()
    }

    fn transport(text: &str) -> Transport {
        Transport::parse(text).unwrap()
    }

    #[test]
    fn a_way_survives_its_text() {
        for text in ["ccs", "fcm-v1", "fcm-v1:shop", "fcm-v1:a-b_9"] {
            assert_eq!(transport(text).to_string(), text);
        }
        for text in ["", "CCS", "fcm", "fcm-v2", "fcm-v1shop"] {
            assert_eq!(Transport::parse(text), Err(TransportError::Unknown), "{text}");
        }
        let long = format!("fcm-v1:{}", "x".repeat(PROJECT_MAX + 1));
        for text in ["fcm-v1:", "fcm-v1:A", "fcm-v1:a.b", &long] {
            assert_eq!(Transport::parse(text), Err(TransportError::Project), "{text}");
        }
        assert_eq!((transport("fcm-v1:shop").protocol(), transport("fcm-v1").witness()), ("fcm-v1", Source::App));
        assert_eq!(transport("ccs").witness(), Source::Device);
    }

    #[test]
    fn the_category_decides_then_what_all_apps_of_the_bal_share_then_the_default() {
        let names = |pairs: &[(&str, &str)]| pairs.iter().map(|(a, b)| ((*a).to_owned(), owner(b))).collect();
        let routes = Routes::new(names(&[("a1", "alone"), ("a2", "alone"), ("m1", "mixed"), ("m2", "mixed")]), None);
        let by_category = [("a1", "fcm-v1"), ("a2", "fcm-v1"), ("m1", "fcm-v1:x")]
            .map(|(name, text)| (name.to_owned(), transport(text)));
        let transports = Transports::new(Transport::Ccs, by_category.into_iter().collect(), &routes);
        assert_eq!(transports.pick(&owner("alone"), None), &transport("fcm-v1"));
        assert_eq!(transports.pick(&owner("mixed"), None), &Transport::Ccs);
        assert_eq!(transports.pick(&owner("stranger"), None), &Transport::Ccs);
        assert_eq!(transports.pick(&owner("stranger"), Some("m1")), &transport("fcm-v1:x"));
        assert_eq!(transports.pick(&owner("alone"), Some("unknown")), &Transport::Ccs);
    }

    #[test]
    fn the_default_bal_owns_what_nobody_named() {
        let routes = Routes::new(HashMap::new(), Some(owner("rest")));
        let only = Transports::new(transport("fcm-v1"), HashMap::new(), &routes);
        assert_eq!(only.pick(&owner("rest"), None), &transport("fcm-v1"));
        let by_category = HashMap::from([("chat".to_owned(), transport("fcm-v1"))]);
        let both = Transports::new(Transport::Ccs, by_category, &routes);
        assert_eq!(both.pick(&owner("rest"), None), &Transport::Ccs);
    }
}
