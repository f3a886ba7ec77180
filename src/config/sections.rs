//! From what was read to the settings: each part takes its keys from its section. Several parts may share one.

use super::check::{ConfigError, bad};
use super::fields::{Kind, kind_of};
use super::layers::fault;
use super::{BrokerConfig, Fcm, Limits, Mqtt, Settings};
use crate::ops::setting::{self, SettingError};
use config::{Map, Value, ValueKind};
use serde::de::DeserializeOwned;
use std::ops::RangeInclusive;
use std::sync::LazyLock;

/// Keys of `[fcm]` that a project does not take over: they say who we are, or are no project's.
const NOT_TAKEN_OVER: [&str; 4] = ["credentials_file", "project_id", "metadata_host", "projects"];

/// Tells what stands at a path in a part.
type Ask = fn(&[&str]) -> Kind;

/// A part of the settings: its section, what stands in it, and from where to where its numbers go.
struct Part {
    section: &'static str,
    kind_of: Ask,
    ranges: &'static [setting::Range],
}

/// What was read, and who asked for which section.
#[derive(Default)]
pub(super) struct Sections {
    values: Map<String, Value>,
    parts: Vec<Part>,
    /// The first number that is out of its range.
    pub(super) out_of_range: Option<SettingError>,
}

impl Settings {
    /// Gives each part its keys.
    pub(super) fn compose(sections: &mut Sections) -> Result<Self, ConfigError> {
        Ok(Self {
            transport: sections.part("transport")?,
            ccs: sections.part("ccs")?,
            fcm: Fcm { own: sections.part("fcm")?, ..sections.part("fcm")? },
            mqtt: Mqtt { client: sections.part("mqtt")?, ..sections.part("mqtt")? },
            broker: BrokerConfig {
                listen: sections.part("broker")?,
                jwt: sections.part("broker")?,
                ..sections.part("broker")?
            },
            store: sections.part("store")?,
            routes: sections.part("routes")?,
            bals: sections.part("bals")?,
            chat: sections.part("chat")?,
            groups: sections.part("groups")?,
            ops: sections.part("ops")?,
            log: sections.part("log")?,
            limits: Limits {
                bridge: sections.part("limits")?,
                store: sections.part("limits")?,
                broker: sections.part("limits")?,
                ..sections.part("limits")?
            },
        })
    }
}

impl Sections {
    pub(super) fn new(mut values: Map<String, Value>) -> Self {
        if let Some(ValueKind::Table(fcm)) = values.get_mut("fcm").map(|fcm| &mut fcm.kind) {
            take_over(fcm);
        }
        Self { values, ..Self::default() }
    }

    /// The part with its keys of `section`, and its defaults for all others.
    fn part<T: DeserializeOwned + Default + setting::Settings>(
        &mut self,
        section: &'static str,
    ) -> Result<T, ConfigError> {
        self.parts.push(Part { section, kind_of: kind_of::<T>, ranges: T::RANGES });
        let Some(mut value) = self.values.get(section).cloned() else { return Ok(T::default()) };
        let ValueKind::Table(table) = &mut value.kind else {
            return Err(bad(section, "wants a section (a table of keys and values)"));
        };
        if let Kind::Section(own) = kind_of::<T>(&[]) {
            table.retain(|key, _| own.contains(&key.as_str()));
        }
        let beyond = beyond(&value, &mut vec![section]);
        let part = T::deserialize(value).map_err(|error| match beyond {
            // The library says only that it is no number of the type.
            Some(error) => error.into(),
            None => fault(section, &error),
        })?;
        self.out_of_range = self.out_of_range.take().or_else(|| part.check_ranges(section).err());
        Ok(part)
    }
}

/// What a project does not set is as in `[fcm]`.
fn take_over(fcm: &mut Map<String, Value>) {
    let shared: Vec<_> = fcm.clone().into_iter().filter(|(key, _)| !NOT_TAKEN_OVER.contains(&key.as_str())).collect();
    let Some(ValueKind::Table(projects)) = fcm.get_mut("projects").map(|projects| &mut projects.kind) else { return };
    for project in projects.values_mut() {
        let ValueKind::Table(project) = &mut project.kind else { continue };
        for (key, value) in &shared {
            project.entry(key.clone()).or_insert_with(|| value.clone());
        }
    }
}

/// The first whole number below `path` that is out of its range.
fn beyond<'a>(value: &'a Value, path: &mut Vec<&'a str>) -> Option<SettingError> {
    let number = match &value.kind {
        ValueKind::Table(table) => {
            return table.iter().find_map(|(key, value)| {
                path.push(key);
                let found = beyond(value, path);
                path.pop();
                found
            });
        }
        ValueKind::I64(number) => i128::from(*number),
        ValueKind::U64(number) => i128::from(*number),
        ValueKind::I128(number) => *number,
        ValueKind::U128(number) => i128::try_from(*number).unwrap_or(i128::MAX),
        ValueKind::String(text) if kind_at(path) == Kind::Number => text.parse().ok()?,
        _ => return None,
    };
    if kind_at(path) != Kind::Number {
        return None;
    }
    let range = range_at(path).unwrap_or(0..=u64::MAX);
    match u64::try_from(number) {
        Ok(number) => setting::within(&path.join("."), number, &range).err(),
        Err(_) => Some(setting::out_of(&path.join("."), &range)),
    }
}

/// From where to where the number at `path` goes, if that is said.
fn range_at(path: &[&str]) -> Option<RangeInclusive<u64>> {
    let (section, key) = (path.first()?, path.last()?);
    let parts = PARTS.iter().filter(|part| part.section == *section);
    let mut ranges = parts.flat_map(|part| part.ranges);
    ranges.find(|(name, _)| name == key).and_then(|(_, range)| range.clone())
}

/// Who asks for which section: nobody gets anything here.
static PARTS: LazyLock<Vec<Part>> = LazyLock::new(|| {
    let mut sections = Sections::default();
    let _ = Settings::compose(&mut sections);
    sections.parts
});

/// What stands at `path` in the settings.
pub(super) fn kind_at(path: &[&str]) -> Kind {
    let Some((section, rest)) = path.split_first() else {
        return Kind::Section(PARTS.iter().map(|part| part.section).collect());
    };
    let kinds = PARTS.iter().filter(|part| part.section == *section).map(|part| (part.kind_of)(rest));
    kinds.fold(Kind::Unknown, |found, kind| match (found, kind) {
        (Kind::Section(some), Kind::Section(more)) => Kind::Section([some, more].concat()),
        (Kind::Unknown, kind) => kind,
        (found, _) => found,
    })
}
