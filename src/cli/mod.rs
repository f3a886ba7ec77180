//! The commands behind the command line, one file each.

mod acl;
#[cfg(feature = "sim")]
mod apps;
pub mod args;
mod control;
#[cfg(all(feature = "broker", feature = "sim"))]
mod demo;
mod device;
mod explain;
mod health;
#[cfg(feature = "broker")]
mod init;
pub(crate) mod legacy;
mod outbox;
mod retained;
mod send;
mod sending;
mod sessions;
#[cfg(feature = "sim")]
mod sim;
mod store_place;
mod trace;
#[cfg(feature = "broker")]
mod user;

use crate::app::{self, Signals};
use crate::config::{Loaded, Settings};
use crate::ops::{logs, print};
use anyhow::Context;
use args::{Cli, Command, ExplainWhat, StoreArgs};
use serde::Serialize;
use serde_json::Value;
use std::net::SocketAddr;
use std::path::Path;
use std::str::EscapeDebug;
use store_place::StorePlace;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

/// The usual name of a configuration, which is read where it is named only.
const UNNAMED: &str = "bridge.toml";
/// Exit code when a second signal ends the process at once.
const IMPATIENT: i32 = 1;

/// The command line asks for something that cannot be.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(String);

/// Runs one command to its end.
///
/// # Errors
/// What went wrong, in words for the user.
pub async fn run(cli: Cli) -> anyhow::Result<()> {
    match cli.command {
        #[cfg(all(feature = "broker", feature = "sim"))]
        Command::Demo(args) => demo::run(args).await,
        #[cfg(feature = "broker")]
        Command::Init { what } => init::run(what),
        Command::Run { config } => bridge(config.as_deref()).await,
        #[cfg(feature = "sim")]
        Command::Sim(args) => sim::run(*args).await,
        Command::CheckConfig { config } => check_config(config.as_deref()),
        Command::Trace { id, store, json } => {
            let ops = ops_address(&store);
            trace::run(&StorePlace::of(store)?, ops, &id, json).await
        }
        Command::Outbox { store, list, limit, json } => {
            let shown = if list { limit } else { 0 };
            outbox::run(&StorePlace::of(store)?, shown, json)
        }
        Command::Sessions { store, user, page, json } => {
            sessions::run(&StorePlace::of(store)?, user.as_deref(), page, json)
        }
        Command::Retained { store, filter, page, json } => {
            retained::run(&StorePlace::of(store)?, filter.as_deref(), page, json)
        }
        Command::Explain { what: Some(ExplainWhat::Push { user, sid, store, json }), .. } => {
            explain::push::run(&StorePlace::of(store)?, &user, &sid, json)
        }
        Command::Explain { what: None, file, ack } => {
            let file = file.ok_or_else(|| UsageError("explain FILE, or explain push USER SID".to_owned()))?;
            explain::run(&file, ack.as_deref())
        }
        #[cfg(feature = "broker")]
        Command::User { action } => user::run(action).await,
        Command::Device { action } => device::run(action).await,
        Command::Send { to, from, text, store } => {
            send::run(&StorePlace::of(store)?, &to, from.as_deref(), &text).await
        }
        Command::Pause(args) => sending::run("pause", args).await,
        Command::Drain(args) => sending::run("drain", args).await,
        Command::Resume(args) => sending::run("resume", args).await,
        Command::Flush(args) => sending::run("flush", args).await,
        Command::Acl { broker, bridge, admin, direct } => acl::run(broker, (&bridge, admin.as_deref()), direct),
        Command::Health { ops, path } => health::run(ops, &path).await,
    }
}

/// The configuration. Where none is named and something is wrong, `unnamed` is told of if it is there: most likely it was meant.
fn load(config: Option<&Path>, unnamed: &Path) -> anyhow::Result<Loaded> {
    let loaded = Settings::load(config);
    if config.is_none() && loaded.is_err() && unnamed.is_file() {
        let told = format!("no file was named, and {0} was not read (--config {0})", unnamed.display());
        return loaded.context(told);
    }
    Ok(loaded?)
}

async fn bridge(config: Option<&Path>) -> anyhow::Result<()> {
    let loaded = load(config, Path::new(UNNAMED))?;
    logs::init(&loaded.settings.log.level, loaded.settings.log.format).map_err(|e| UsageError(e.to_string()))?;
    for name in Settings::unread_variables() {
        tracing::warn!(name, "a variable of the environment is not read: names of keys are BRIDGE__SECTION__KEY");
    }
    for warning in app::warnings(&loaded.settings) {
        tracing::warn!(warning, "the configuration may not mean what it says");
    }
    let signals = Signals { stop: stop_on_signals()?, reload: reload_on_signal()? };
    Ok(app::run(loaded, signals, None).await?)
}

fn check_config(config: Option<&Path>) -> anyhow::Result<()> {
    let loaded = load(config, Path::new(UNNAMED))?;
    logs::check(&loaded.settings.log.level).map_err(|e| UsageError(e.to_string()))?;
    app::check(&loaded)?;
    for name in Settings::unread_variables() {
        print::note(format_args!("warning: the variable {name} is not read: names of keys are BRIDGE__SECTION__KEY"));
    }
    for warning in app::warnings(&loaded.settings) {
        print::note(format_args!("warning: {warning}"));
    }
    print::line(loaded.settings.shown())?;
    print::note("the configuration is right");
    Ok(())
}

/// The JSON form of rows: what is not known of one is left out.
fn json_rows(rows: &[impl Serialize]) -> serde_json::Result<String> {
    let mut rows = serde_json::to_value(rows)?;
    let objects = rows.as_array_mut().into_iter().flatten().filter_map(Value::as_object_mut);
    objects.for_each(|fields| fields.retain(|_, value| !value.is_null()));
    serde_json::to_string_pretty(&rows)
}

/// What a client wrote, fit for a terminal.
fn shown(text: &str) -> EscapeDebug<'_> {
    text.escape_debug()
}

/// Where the bridge whose store it is can be asked, if the configuration says it.
fn ops_address(args: &StoreArgs) -> Option<SocketAddr> {
    let config = args.config.as_deref();
    // The file of a store alone does not say whose it is.
    let named = config.is_some() || args.store.is_none();
    named.then(|| Settings::read(config).ok()).flatten().map(|settings| settings.ops.listen)
}

/// A token that SIGTERM or SIGINT cancels; a second signal ends the process at once.
fn stop_on_signals() -> std::io::Result<CancellationToken> {
    let (mut term, mut int) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = CancellationToken::new();
    let told = stop.clone();
    #[expect(clippy::disallowed_methods, reason = "it lives as long as the process and has nothing to join")]
    tokio::spawn(async move {
        for impatient in [false, true] {
            tokio::select! {
                _ = term.recv() => {}
                _ = int.recv() => {}
            }
            if impatient {
                // Nothing is lost: what was acknowledged is on disk.
                std::process::exit(IMPATIENT);
            }
            told.cancel();
        }
    });
    Ok(stop)
}

/// Counts the SIGHUPs.
fn reload_on_signal() -> std::io::Result<watch::Receiver<u64>> {
    let mut hangup = signal(SignalKind::hangup())?;
    let (count, reload) = watch::channel(0);
    #[expect(clippy::disallowed_methods, reason = "it lives as long as the process and has nothing to join")]
    tokio::spawn(async move {
        while hangup.recv().await.is_some() {
            count.send_modify(|count| *count += 1);
        }
    });
    Ok(reload)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::ConfigError;

    #[test]
    fn a_configuration_that_lies_there_unnamed_is_told_of_if_something_is_wrong() {
        let folder = tempfile::tempdir().unwrap();
        let unnamed = folder.path().join(UNNAMED);
        let told = |unnamed: &Path| load(None, unnamed).unwrap_err();
        assert!(!format!("{:#}", told(&unnamed)).contains("no file was named"));
        std::fs::write(&unnamed, "").unwrap();
        let error = told(&unnamed);
        assert!(error.to_string().starts_with("no file was named, and ") && error.to_string().contains("--config"));
        assert!(error.downcast_ref::<ConfigError>().is_some(), "the configuration is at fault");
        let named = load(Some(&unnamed), &unnamed).unwrap_err();
        assert!(!format!("{named:#}").contains("no file was named"));
    }
}
