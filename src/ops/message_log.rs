//! The log of each message, one readable line per step: the per-message log events with a friendlier face.
//!
//! Every room tells its steps as DEBUG events on the target [`TARGET`]. A normal log shows them like any other event;
//! `demo` prints them through [`MessageLog`].

use super::print;
use std::fmt::{self, Write as _};
use std::time::{Duration, UNIX_EPOCH};
use tracing::field::{Field, Visit};
use tracing::{Event, Subscriber};
use tracing_subscriber::Layer;
use tracing_subscriber::layer::Context;

/// The target of the events that tell a message's steps.
pub const TARGET: &str = "message_log";

/// A layer that prints [`TARGET`] events to standard output as `HH:MM:SS.mmm sentence  key=value ...`.
#[derive(Debug)]
pub struct MessageLog {
    /// The target of other events that belong to it: whom the broker refused.
    pub refusals: &'static str,
}

impl<S: Subscriber> Layer<S> for MessageLog {
    fn on_event(&self, event: &Event<'_>, _: Context<'_, S>) {
        if ![TARGET, self.refusals].contains(&event.metadata().target()) {
            return;
        }
        let mut line = Line::default();
        event.record(&mut line);
        show(&line.sentence, &line.fields);
    }
}

/// Prints a line as [`MessageLog`] does: for what no log may have.
pub fn show(sentence: &str, fields: &dyn fmt::Display) {
    let time = clock(super::clock::now_ms());
    // The bridge runs on, whoever reads.
    let _ = print::line(format_args!("{time}  {sentence:<44}{fields}"));
}

/// UTC time of day, out of `YYYY-MM-DDTHH:MM:SS.mmmZ`.
fn clock(ms: u64) -> String {
    let whole = humantime::format_rfc3339_millis(UNIX_EPOCH + Duration::from_millis(ms)).to_string();
    whole.split(['T', 'Z']).nth(1).unwrap_or_default().to_owned()
}

#[derive(Default)]
struct Line {
    sentence: String,
    fields: String,
}

impl Line {
    fn add(&mut self, field: &Field, value: fmt::Arguments<'_>) {
        let result = match field.name() {
            "message" => write!(self.sentence, "{value}"),
            name => write!(self.fields, " {name}={value}"),
        };
        result.expect("a String takes any text");
    }
}

impl Visit for Line {
    fn record_str(&mut self, field: &Field, value: &str) {
        self.add(field, format_args!("{value}"));
    }

    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        self.add(field, format_args!("{value:?}"));
    }
}

#[cfg(test)]
mod tests {
    use super::clock;

    #[test]
    fn the_time_of_day_is_utc() {
        assert_eq!(clock(1_700_000_000_123), "22:13:20.123");
    }
}
