//! What the store knows of chat users: those that the users file does not have, and what stays of one that is removed.

use crate::config::Settings;
use crate::store::{Inspector, UserSummary};
use std::collections::HashSet;
use std::path::Path;

/// The users that the store of a configuration knows, by name: whoever logged in, also by a token. None where no
/// configuration is named, or its bridge has never run.
///
/// # Errors
/// When the configuration cannot be read, or the store is there and cannot.
pub(super) fn users(config: Option<&Path>) -> anyhow::Result<Vec<UserSummary>> {
    let Some(config) = config else { return Ok(Vec::new()) };
    let path = Settings::read(Some(config))?.store.path;
    if !path.exists() {
        return Ok(Vec::new());
    }
    Ok(Inspector::open(&path)?.users()?)
}

/// Those of `names` whose users were erased and whose names are not free, by the store of a configuration.
///
/// # Errors
/// As [`users`].
pub(super) fn erased<'a>(
    config: Option<&Path>,
    names: impl Iterator<Item = &'a str>,
) -> anyhow::Result<HashSet<&'a str>> {
    let Some(config) = config else { return Ok(HashSet::new()) };
    let path = Settings::read(Some(config))?.store.path;
    if !path.exists() {
        return Ok(HashSet::new());
    }
    let store = Inspector::open(&path)?;
    let mut found = HashSet::new();
    for name in names {
        if store.is_erased(name)? {
            found.insert(name);
        }
    }
    Ok(found)
}

/// What to say to whoever adds a user of this name, or changes its password, where nobody can log in by it.
pub(super) fn erased_note(config: Option<&Path>, name: &str) -> Option<String> {
    let is_erased = erased(config, std::iter::once(name)).is_ok_and(|found| !found.is_empty());
    is_erased.then(|| {
        format!(
            "but a user of this name was erased: nobody can log in as `{name}` until `fcm-mqtt-bridge user free {name}`, asked \
             of the running bridge"
        )
    })
}

/// A line for each of them that is not in the users file.
pub(super) fn lines<'a>(known: &[UserSummary], in_file: impl Iterator<Item = &'a str>) -> Vec<String> {
    let in_file: HashSet<&str> = in_file.collect();
    let others = known.iter().filter(|known| !in_file.contains(known.user.as_str()));
    others.map(|known| format!("{}\tuser\tin the store only", known.user)).collect()
}

/// What the store keeps of a user that is in the users file no more; `None`: nothing.
pub(super) fn left(known: &[UserSummary], name: &str) -> Option<String> {
    let UserSummary { devices, unread, .. } = known.iter().find(|known| known.user == name)?;
    let pushed = match devices {
        0 => "no device".to_owned(),
        1 => "1 device, which is pushed for them".to_owned(),
        devices => format!("{devices} devices, which are pushed for them"),
    };
    Some(format!(
        "the store keeps what `{name}` wrote and got (as long as chat.keep_days says; {unread} unread), its contacts, \
         settings and profile; messages to it are still taken; it has {pushed}; whoever is added as `{name}` gets all of it"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::id::Owner;
    use crate::store::{self, sqlite};

    fn known(user: &str, devices: u64) -> UserSummary {
        UserSummary { user: user.to_owned(), devices, unread: 3 }
    }

    #[tokio::test]
    async fn the_store_that_the_configuration_names_is_read_while_the_bridge_has_it() {
        let folder = tempfile::tempdir().unwrap();
        let (config, path) = (folder.path().join("bridge.toml"), folder.path().join("bridge.db"));
        std::fs::write(&config, format!("[store]\npath = {path:?}\n")).unwrap();
        assert_eq!(users(Some(&config)).unwrap(), [], "the bridge has never run");
        let (store, writer, _) = sqlite::open(&store::Settings::new(path.clone()), 1).unwrap();
        store.chat_user_seen(Owner::new("alice").unwrap()).await.unwrap().await.unwrap();
        let alice = UserSummary { user: "alice".to_owned(), devices: 0, unread: 0 };
        assert_eq!(users(Some(&config)).unwrap(), [alice]);
        assert_eq!(users(None).unwrap(), [], "a users file alone does not say whose store it is");
        writer.close().await.unwrap();
        std::fs::write(&path, "something else").unwrap();
        assert!(users(Some(&config)).is_err());
    }

    #[tokio::test]
    async fn a_name_that_was_erased_and_is_not_free_is_told_of() {
        let folder = tempfile::tempdir().unwrap();
        let (config, path) = (folder.path().join("bridge.toml"), folder.path().join("bridge.db"));
        std::fs::write(&config, format!("[store]\npath = {path:?}\n")).unwrap();
        assert_eq!(erased_note(Some(&config), "alice"), None, "the bridge has never run");
        let (store, writer, _) = sqlite::open(&store::Settings::new(path), 1).unwrap();
        let alice = Owner::new("alice").unwrap();
        store.chat_user_seen(alice.clone()).await.unwrap().await.unwrap();
        assert_eq!(erased_note(Some(&config), "alice"), None);
        let aliases = vec!["deleted-0000000a".to_owned()];
        store.erase_begin(store::NewErase { user: alice, aliases, at: 1 }).await.unwrap();
        let told = erased_note(Some(&config), "alice").unwrap();
        assert!(told.contains("`fcm-mqtt-bridge user free alice`"), "{told}");
        assert_eq!(erased(Some(&config), ["alice", "bob"].into_iter()).unwrap(), HashSet::from(["alice"]));
        writer.close().await.unwrap();
    }

    #[test]
    fn who_is_in_the_file_is_not_listed_again() {
        let known = [known("alice", 0), known("bob", 1), known("carol", 2)];
        assert_eq!(
            lines(&known, ["bob", "client1"].into_iter()),
            ["alice\tuser\tin the store only", "carol\tuser\tin the store only"]
        );
    }

    #[test]
    fn of_whom_is_removed_the_devices_and_the_unread_are_counted() {
        let known = [known("alice", 0), known("bob", 1), known("carol", 2)];
        assert_eq!(left(&known, "dave"), None);
        for (name, words) in [
            ("alice", "it has no device;"),
            ("bob", "it has 1 device, which is pushed for them;"),
            ("carol", "it has 2 devices, which are pushed for them;"),
        ] {
            let told = left(&known, name).unwrap();
            assert!(told.contains(words) && told.contains("3 unread"), "{told}");
            assert!(told.contains(&format!("whoever is added as `{name}` gets all of it")), "{told}");
        }
    }
}
