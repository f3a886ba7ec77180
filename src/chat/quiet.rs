//! Quiet hours: from one time of the day to another by the clock of a place, pushes make no sound.

use super::message::Rejection;
use super::message::fields::Fields;
use jiff::Timestamp;
use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

/// Longest name of a time zone, in characters.
pub const ZONE_MAX: usize = 64;

/// Quiet hours of a device. Its JSON is its form on disk, and that of a registration.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Quiet {
    /// The first minute of them.
    from: TimeOfDay,
    /// The first minute after them: on the next day, if it is no later than `from`.
    to: TimeOfDay,
    /// The name of the time zone, as the IANA has it.
    tz: String,
}

/// Minutes since midnight; its text is `HH:MM`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
struct TimeOfDay(u16);

impl TryFrom<String> for TimeOfDay {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        let two = |text: &str| -> Option<u16> {
            (text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_digit())).then(|| text.parse().ok()).flatten()
        };
        let parts = text.split_once(':').and_then(|(hours, minutes)| two(hours).zip(two(minutes)));
        match parts {
            Some((hours, minutes)) if hours < 24 && minutes < 60 => Ok(Self(hours * 60 + minutes)),
            _ => Err("is no time of the day, as 22:30"),
        }
    }
}

impl From<TimeOfDay> for String {
    fn from(TimeOfDay(minutes): TimeOfDay) -> Self {
        format!("{:02}:{:02}", minutes / 60, minutes % 60)
    }
}

impl Quiet {
    /// Reads the field `quiet` of a registration.
    pub(in crate::chat) fn read(fields: &mut Fields) -> Result<Option<Self>, Rejection> {
        let bad = |why: &dyn std::fmt::Display| Rejection::bad_field("quiet", why);
        let Some(given) = fields.object("quiet")? else { return Ok(None) };
        let text = |name: &str| given.get(name).and_then(serde_json::Value::as_str);
        let (Some(from), Some(to), Some(tz)) = (text("from"), text("to"), text("tz")) else {
            return Err(bad(&"has not the texts `from`, `to` and `tz`"));
        };
        let time = |text: &str| TimeOfDay::try_from(text.to_owned()).map_err(|why| bad(&why));
        let quiet = Self { from: time(from)?, to: time(to)?, tz: tz.to_owned() };
        if quiet.from == quiet.to {
            return Err(bad(&"begins and ends at the same time"));
        }
        if tz.chars().count() > ZONE_MAX || quiet.zone().is_none() {
            return Err(bad(&"names no time zone of the IANA, as Europe/Berlin"));
        }
        Ok(Some(quiet))
    }

    /// Whether it is quiet at a time, in Unix milliseconds: by what a clock on the wall there shows, also on days on which it is
    /// set forward or back.
    pub fn covers(&self, at_ms: u64) -> bool {
        let time = i64::try_from(at_ms).ok().and_then(|ms| Timestamp::from_millisecond(ms).ok());
        let Some((zone, time)) = self.zone().zip(time) else { return false };
        let shown = zone.to_datetime(time);
        let minute = TimeOfDay(u16::try_from(i32::from(shown.hour()) * 60 + i32::from(shown.minute())).unwrap_or(0));
        if self.from < self.to {
            (self.from..self.to).contains(&minute)
        } else {
            minute >= self.from || minute < self.to
        }
    }

    /// A zone that is not known any more, or not yet, is never quiet.
    fn zone(&self) -> Option<TimeZone> {
        TimeZone::get(&self.tz).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use serde_json::json;

    fn quiet(from: &str, to: &str, tz: &str) -> Quiet {
        read(&json!({"from": from, "to": to, "tz": tz})).unwrap().unwrap()
    }

    fn read(given: &serde_json::Value) -> Result<Option<Quiet>, Rejection> {
        Quiet::read(&mut Fields::read(json!({ "quiet": given }).to_string().as_bytes(), 10_000)?)
    }

    fn utc(text: &str) -> u64 {
        u64::try_from(text.parse::<Timestamp>().unwrap().as_millisecond()).unwrap()
    }

    #[test]
    fn a_time_zone_and_two_times_of_the_day_or_it_is_refused() {
        let berlin = quiet("22:00", "07:30", "Europe/Berlin");
        let text = serde_json::to_string(&berlin).unwrap();
        assert_eq!(text, r#"{"from":"22:00","to":"07:30","tz":"Europe/Berlin"}"#);
        assert_eq!(serde_json::from_str::<Quiet>(&text).unwrap(), berlin);
        assert_eq!(read(&json!(null)), Ok(None));
        for bad in [
            json!({"from": "24:00", "to": "07:30", "tz": "Europe/Berlin"}),
            json!({"from": "22:60", "to": "07:30", "tz": "Europe/Berlin"}),
            json!({"from": "7:30", "to": "09:00", "tz": "Europe/Berlin"}),
            json!({"from": "+7:30", "to": "09:00", "tz": "Europe/Berlin"}),
            json!({"from": "22:00", "to": "22:00", "tz": "Europe/Berlin"}),
            json!({"from": "22:00", "to": "07:30", "tz": "Europe/Atlantis"}),
            json!({"from": "22:00", "to": "07:30", "tz": ""}),
            json!({"from": "22:00", "to": "07:30"}),
            json!({"from": 22, "to": "07:30", "tz": "Europe/Berlin"}),
            json!("22:00-07:30"),
        ] {
            assert!(read(&bad).is_err(), "{bad}");
        }
        assert!(serde_json::from_str::<Quiet>(r#"{"from":"25:00","to":"07:30","tz":"UTC"}"#).is_err());
    }

    #[test]
    fn the_clock_on_the_wall_says_when_it_is_quiet() {
        let night = |tz| quiet("22:00", "07:00", tz);
        let noon = quiet("12:00", "14:00", "Europe/Berlin");
        for (quiet, at, expected) in [
            (night("Europe/Berlin"), "2026-01-15T20:59:59Z", false),
            (night("Europe/Berlin"), "2026-01-15T21:00:00Z", true),
            (night("Europe/Berlin"), "2026-01-15T05:59:59Z", true),
            (night("Europe/Berlin"), "2026-01-15T06:00:00Z", false),
            // In summer, an hour earlier.
            (night("Europe/Berlin"), "2026-07-15T20:00:00Z", true),
            (night("Europe/Berlin"), "2026-07-15T05:00:00Z", false),
            // The clock goes from two to three on this night, and back on that one.
            (quiet("02:15", "03:00", "Europe/Berlin"), "2026-03-29T00:59:59Z", false),
            (quiet("02:15", "03:00", "Europe/Berlin"), "2026-03-29T01:00:00Z", false),
            (quiet("02:15", "03:00", "Europe/Berlin"), "2026-10-25T00:30:00Z", true),
            (quiet("02:15", "03:00", "Europe/Berlin"), "2026-10-25T01:10:00Z", false),
            (quiet("02:15", "03:00", "Europe/Berlin"), "2026-10-25T01:30:00Z", true),
            (noon.clone(), "2026-01-15T11:00:00Z", true),
            (noon.clone(), "2026-01-15T12:59:59Z", true),
            (noon, "2026-01-15T13:00:00Z", false),
            (night("Asia/Kathmandu"), "2026-01-15T16:15:00Z", true),
            (night("Asia/Kathmandu"), "2026-01-15T16:14:59Z", false),
            (night("America/New_York"), "2026-01-15T12:00:00Z", false),
            (night("America/New_York"), "2026-01-15T11:59:59Z", true),
        ] {
            assert_eq!(quiet.covers(utc(at)), expected, "{quiet:?} at {at}");
        }
        let gone = Quiet { tz: "Europe/Atlantis".to_owned(), ..night("UTC") };
        assert!(!gone.covers(utc("2026-01-15T23:00:00Z")));
    }

    proptest! {
        #[test]
        fn what_is_not_within_is_within_the_other_way_round(from in 0..1_440_u16, to in 0..1_440_u16, at: u64) {
            prop_assume!(from != to);
            let at = at % 4_102_444_800_000;
            let quiet = Quiet { from: TimeOfDay(from), to: TimeOfDay(to), tz: "Europe/Berlin".to_owned() };
            let loud = Quiet { from: quiet.to, to: quiet.from, ..quiet.clone() };
            prop_assert_ne!(quiet.covers(at), loud.covers(at));
        }
    }
}
