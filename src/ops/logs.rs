//! Log set-up.

use super::story::{StoryLines, TARGET};
use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::Targets;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::util::SubscriberInitExt;
use tracing_subscriber::{EnvFilter, Layer};

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    /// One readable line per event.
    Text,
    /// One JSON object per line.
    Json,
}

/// The filter was not understood.
#[derive(Debug, thiserror::Error)]
#[error("`{filter}` is not a log filter ([log] level, or RUST_LOG): {source}")]
pub struct FilterError {
    filter: String,
    source: tracing_subscriber::filter::ParseError,
}

/// Voices of libraries that say again what our own rooms log at its right level, or call each goodbye of a client an
/// error (rumqttd; `RUST_LOG=info,rumqttd::server=info` lets it speak); and below DEBUG, tungstenite would print whole
/// frames, with passwords and bodies in them.
const LIBRARIES: &str = "mqtt5=error,rumqttc=error,rumqttd=off,tungstenite=debug";

/// Sends all logs to standard error, filtered by `level` (for example `info` or `info,fcm_mqtt_bridge::ccs=trace`);
/// the environment variable `RUST_LOG` overrides it.
///
/// # Errors
/// When the filter is not understood.
pub fn init(level: &str, format: Format) -> Result<(), FilterError> {
    let builder = tracing_subscriber::fmt().with_env_filter(filter(level)?).with_writer(std::io::stderr);
    // A second call (tests in one process) keeps the first set-up.
    let _ = match format {
        Format::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    Ok(())
}

/// The same, and each step of each message as a line on standard output; and whom the broker refused, which it tells
/// under the target `refusals`.
///
/// # Errors
/// When the filter is not understood.
pub fn init_with_story(level: &str, refusals: &'static str) -> Result<(), FilterError> {
    let log = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_filter(filter(level)?);
    let told = Targets::new().with_target(TARGET, tracing::Level::DEBUG).with_target(refusals, tracing::Level::INFO);
    let story = StoryLines { refusals }.with_filter(told);
    let _ = tracing_subscriber::registry().with(log).with(story).try_init();
    Ok(())
}

fn filter(level: &str) -> Result<EnvFilter, FilterError> {
    let wish = std::env::var("RUST_LOG").unwrap_or_else(|_| level.to_owned());
    let filter = format!("{wish},{LIBRARIES}");
    EnvFilter::try_new(&filter).map_err(|source| FilterError { filter, source })
}
