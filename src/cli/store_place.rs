//! Where the store is that a command is about, and who said so.

use super::args::StoreArgs;
use crate::config::{ConfigError, Engine, Settings};
use crate::store::Inspector;
use anyhow::{Context, bail};
use std::path::{Path, PathBuf};

/// The store that a command is about.
#[derive(Debug)]
pub(super) struct StorePlace {
    path: PathBuf,
    /// Neither a configuration nor a file was named: it is where a bridge without a configuration has it.
    is_usual: bool,
    /// The configuration says that the clients' broker is another one than the embedded one.
    other_broker: bool,
}

impl StorePlace {
    /// By flag or by configuration, which need not be complete for that.
    ///
    /// # Errors
    /// When the configuration cannot be read.
    pub(super) fn of(args: StoreArgs) -> Result<Self, ConfigError> {
        if let Some(path) = args.store {
            return Ok(Self { path, is_usual: false, other_broker: false });
        }
        let settings = Settings::read(args.config.as_deref())?;
        let other_broker = settings.engine() != Some(Engine::Embedded);
        Ok(Self { path: settings.store.path, is_usual: args.config.is_none(), other_broker })
    }

    /// The file.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Opens it for a look.
    ///
    /// # Errors
    /// Names the file, where there is none, or it cannot be read.
    pub(super) fn open(&self) -> anyhow::Result<Inspector> {
        let (path, hint) = (self.path.display(), self.hint());
        if !self.path.try_exists().with_context(|| format!("the store {path}{hint}"))? {
            bail!("there is no store {path}: the bridge makes it at its first start{hint}");
        }
        Inspector::open(&self.path).map_err(|error| {
            let is_named = error.to_string().contains(&path.to_string()) && hint.is_empty();
            let error = anyhow::Error::new(error);
            if is_named { error } else { error.context(format!("the store {path}{hint}")) }
        })
    }

    /// What to say behind the name of a store that nobody named; else nothing.
    pub(super) fn hint(&self) -> &'static str {
        if self.is_usual { " (no --config and no --store was given)" } else { "" }
    }

    /// What to say of a list of the embedded broker's, where the configuration uses another one.
    pub(super) fn not_of_this_broker(&self, what: &str) -> Option<String> {
        self.other_broker.then(|| {
            format!(
                "these are the {what} of the embedded broker; this configuration uses another one (`mqtt.broker`, \
                 `broker.engine`), which keeps its own"
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{self, sqlite};

    fn place(config: Option<&Path>, store: Option<&Path>) -> StorePlace {
        StorePlace::of(StoreArgs { config: config.map(Path::to_owned), store: store.map(Path::to_owned) }).unwrap()
    }

    #[test]
    fn a_store_that_is_not_there_is_named_and_so_is_that_nobody_named_it() {
        let told = |place: StorePlace| place.open().unwrap_err().to_string();
        let named = told(place(None, Some(Path::new("/nowhere/s.db"))));
        assert!(named.starts_with("there is no store /nowhere/s.db: ") && !named.contains("--config"), "{named}");
        let usual = place(None, None);
        assert!(usual.is_usual && usual.hint().contains("no --config and no --store"));
    }

    #[test]
    fn a_file_that_is_no_store_is_named_once() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "notes ".repeat(1_000)).unwrap();
        let error = place(None, Some(file.path())).open().unwrap_err();
        assert_eq!(format!("{error:#}").matches(&file.path().display().to_string()).count(), 1, "{error:#}");
        assert!(error.downcast_ref::<store::OpenError>().is_some());
    }

    #[tokio::test]
    async fn lists_of_the_embedded_broker_say_so_where_another_one_is_configured() {
        let folder = tempfile::tempdir().unwrap();
        let (config, path) = (folder.path().join("bridge.toml"), folder.path().join("bridge.db"));
        let (_store, writer, _) = sqlite::open(&store::Settings::new(path.clone()), 1).unwrap();
        for (mqtt, is_told) in [("", false), ("[mqtt]\nbroker = \"external\"\n", true)] {
            std::fs::write(&config, format!("[store]\npath = {path:?}\n{mqtt}")).unwrap();
            let place = place(Some(&config), None);
            place.open().unwrap();
            assert_eq!(place.not_of_this_broker("sessions").is_some(), is_told, "{mqtt}");
        }
        writer.close().await.unwrap();
    }
}
