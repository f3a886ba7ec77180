//! Log set-up.

use super::message_log::{MessageLog, TARGET};
use super::setting::settings;
use serde::{Deserialize, Serialize};
use tracing_subscriber::filter::{LevelFilter, Targets};
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

settings! {
    /// `[log]`
    pub struct Log {
        /// `error`, `warn`, `info`, `debug`, `trace`, or a filter per module.
        pub level: String = "info".to_owned();
        /// How lines look.
        pub format: Format = Format::Text;
    }
}

/// The filter was not understood. It is not repeated: what stands there may be meant for another place.
#[derive(Debug, thiserror::Error)]
#[error(
    "{origin} wants error, warn, info, debug, trace or off, or with them levels of modules, such as \
     `info,fcm_mqtt_bridge::transport=debug`"
)]
pub struct FilterError {
    origin: &'static str,
}

/// Most that libraries say: they say again what our own rooms log at its right level, or call each goodbye of a client an
/// error (rumqttd). A filter that names one lets it speak (`RUST_LOG=info,rumqttd=info`).
const LIBRARIES: [(&str, LevelFilter); 2] = [("rumqttc", LevelFilter::ERROR), ("rumqttd", LevelFilter::OFF)];
/// Below DEBUG, it would print whole frames, with passwords and bodies in them: no level and no name of it
/// lets it.
const FRAMES: (&str, LevelFilter) = ("tungstenite", LevelFilter::DEBUG);
/// What a filter without a level of its own for all else shows of that.
const ALL_ELSE: LevelFilter = LevelFilter::ERROR;
/// Modules that may stand in a filter without a level, which means all they say.
const OURS: &str = "fcm_mqtt_bridge";

/// Sends all logs to standard error, filtered by `level` (for example `info` or `info,fcm_mqtt_bridge::ccs=trace`);
/// the environment variable `RUST_LOG` overrides it.
///
/// # Errors
/// When the filter is not understood.
pub fn init(level: &str, format: Format) -> Result<(), FilterError> {
    let builder = tracing_subscriber::fmt().with_env_filter(filter(level)?).with_writer(std::io::stderr);
    // A second call (tests in one process) keeps the first set-up.
    let _ = match format {
        Format::Text => builder.with_ansi(is_terminal()).try_init(),
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
    let log = tracing_subscriber::fmt::layer().with_ansi(is_terminal()).with_writer(std::io::stderr);
    let log = log.with_filter(filter(level)?);
    let told = Targets::new().with_target(TARGET, tracing::Level::DEBUG).with_target(refusals, tracing::Level::INFO);
    let message_log = MessageLog { refusals }.with_filter(told);
    let _ = tracing_subscriber::registry().with(log).with(message_log).try_init();
    Ok(())
}

/// Whether logs are read on a screen, with colours.
fn is_terminal() -> bool {
    std::io::IsTerminal::is_terminal(&std::io::stderr())
}

/// Checks a filter as [`init`] would.
///
/// # Errors
/// When the filter, or `RUST_LOG` in its place, is not understood.
pub fn check(level: &str) -> Result<(), FilterError> {
    filter(level).map(drop)
}

fn filter(level: &str) -> Result<EnvFilter, FilterError> {
    let (wish, origin) = match std::env::var_os("RUST_LOG").filter(|wish| !wish.is_empty()) {
        Some(wish) => (wish.to_string_lossy().into_owned(), "RUST_LOG"),
        None => (level.to_owned(), "the log level (`log.level` or --log)"),
    };
    let refused = || FilterError { origin };
    EnvFilter::try_new(complete(&wish).ok_or_else(refused)?).map_err(|_| refused())
}

/// The filter as the library is to have it: levels in its words, and libraries held back. `None` if a word is no level;
/// the library would take it for a module, and be silent about all others.
fn complete(wish: &str) -> Option<String> {
    let mut directives = Vec::new();
    let mut all_else = None;
    for part in parts(wish) {
        match (part.rsplit_once('='), level_of(part)) {
            // Of spans and their fields.
            _ if part.contains(['[', '{']) => directives.push(part.to_owned()),
            (Some((module, word)), _) => {
                let level = level_of(word)?;
                let module = module.trim();
                let most = if module.starts_with(FRAMES.0) { FRAMES.1 } else { LevelFilter::TRACE };
                directives.push(format!("{module}={}", level.min(most)));
            }
            (None, Some(level)) => all_else = Some(level),
            (None, None) if part.starts_with(OURS) || part.contains("::") => {
                let most = if part.starts_with(FRAMES.0) { FRAMES.1 } else { LevelFilter::TRACE };
                directives.push(format!("{part}={most}"));
            }
            (None, None) => return None,
        }
    }
    if directives.is_empty() && all_else.is_none() {
        return None;
    }
    let all_else = all_else.unwrap_or(ALL_ELSE);
    let quiet = LIBRARIES.iter().chain([&FRAMES]);
    let quiet =
        quiet.filter(|(name, _)| !directives.iter().any(|directive| directive.starts_with(&format!("{name}="))));
    let quiet: Vec<String> = quiet.map(|(name, most)| format!("{name}={}", all_else.min(*most))).collect();
    Some([vec![all_else.to_string()], quiet, directives].concat().join(","))
}

/// What stands between commas, but for those within brackets.
fn parts(wish: &str) -> impl Iterator<Item = &str> {
    let mut depth = 0_usize;
    let between = move |c: char| {
        match c {
            '[' | '{' => depth += 1,
            ']' | '}' => depth = depth.saturating_sub(1),
            _ => {}
        }
        c == ',' && depth == 0
    };
    wish.split(between).map(str::trim).filter(|part| !part.is_empty())
}

/// A level in the words that people use.
fn level_of(word: &str) -> Option<LevelFilter> {
    Some(match word.trim().to_ascii_lowercase().as_str() {
        "off" | "none" | "0" => LevelFilter::OFF,
        "error" | "err" | "fatal" | "critical" | "1" => LevelFilter::ERROR,
        "warn" | "warning" | "2" => LevelFilter::WARN,
        "info" | "information" | "notice" | "3" => LevelFilter::INFO,
        "debug" | "verbose" | "4" => LevelFilter::DEBUG,
        "trace" | "all" | "5" => LevelFilter::TRACE,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_usual_words_are_levels_and_nothing_silences_errors_by_mistake() {
        for (wish, filter) in [
            ("warning", "warn,rumqttc=error,rumqttd=off,tungstenite=warn"),
            ("INFO", "info,rumqttc=error,rumqttd=off,tungstenite=info"),
            ("off", "off,rumqttc=off,rumqttd=off,tungstenite=off"),
            ("trace", "trace,rumqttc=error,rumqttd=off,tungstenite=debug"),
            (
                "fcm_mqtt_bridge::ccs=Warning",
                "error,rumqttc=error,rumqttd=off,tungstenite=error,fcm_mqtt_bridge::ccs=warn",
            ),
            ("info, rumqttd=info", "info,rumqttc=error,tungstenite=info,rumqttd=info"),
            ("tungstenite=trace", "error,rumqttc=error,rumqttd=off,tungstenite=debug"),
            (
                "info,tungstenite::protocol",
                "info,rumqttc=error,rumqttd=off,tungstenite=info,tungstenite::protocol=debug",
            ),
        ] {
            assert_eq!(complete(wish).as_deref(), Some(filter), "{wish}");
            EnvFilter::try_new(filter).unwrap();
        }
        let spans = complete("info,[{session=\"a,b\"}]=debug").unwrap();
        assert!(spans.ends_with(",[{session=\"a,b\"}]=debug"), "{spans}");
    }

    #[test]
    fn a_word_that_is_no_level_is_refused_and_not_repeated() {
        for wish in ["warnings", "loud", "fcm_mqtt_bridge=loud", "", ",", "hush-hush"] {
            assert_eq!(complete(wish), None, "{wish}");
        }
        assert!(!FilterError { origin: "RUST_LOG" }.to_string().contains("hush"));
    }
}
