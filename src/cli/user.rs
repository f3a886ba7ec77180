//! `user init|add|passwd|remove|list`: the users file of the embedded broker, and what the store knows of its users.

mod erase;
mod export;
mod free;
mod stored;

use super::UsageError;
use super::args::{FirstUser, RoleArg, UserAction, UsersArgs};
use super::store_place::StorePlace;
use crate::broker::identity::users::{UsersError, UsersFile, role_word};
use crate::chat::principal::Role;
use crate::config::Settings;
use crate::ops::print;
use anyhow::Context;
use rand::distr::{Alphanumeric, SampleString};
use std::fs::OpenOptions;
use std::io::{self, BufRead, BufReader, ErrorKind, IsTerminal, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

/// Longest password. Whoever pipes a file in by mistake is told so.
const PASSWORD_MAX: usize = 1_024;
/// Letters and digits of a password that is made up.
const PASSWORD_LENGTH: usize = 16;

/// Does what `action` says.
///
/// # Errors
/// When there is no users file, it cannot be read or written, or the user or the password is not what it should be.
pub(super) async fn run(action: UserAction) -> anyhow::Result<()> {
    match action {
        UserAction::Erase { name, yes, store } => erase::run(&StorePlace::of(store)?, &name, yes).await?,
        UserAction::Export { name, store } => export::run(&StorePlace::of(store)?, &name).await?,
        UserAction::Free { name, store } => free::run(&StorePlace::of(store)?, &name).await?,
        UserAction::Init { first, users } => init(&path(users)?, &first)?,
        UserAction::Add { name, role, users } => {
            let config = users.config.clone();
            let path = path(users)?;
            // Asked for before the file is locked. That the name is free is looked at twice: nobody types a password
            // in vain, and nobody is added twice.
            UsersFile::open(&path)?.check_new(&name).map_err(usage)?;
            let password = password(&name)?;
            edit(path, |file| file.add(&name, role.into(), &password))?;
            print::note(format_args!("added `{name}`"));
            stored::erased_note(config.as_deref(), &name).into_iter().for_each(print::note);
        }
        UserAction::Passwd { name, users } => {
            let config = users.config.clone();
            let path = path(users)?;
            UsersFile::open(&path)?.check_known(&name)?;
            let password = password(&name)?;
            edit(path, |file| file.set_password(&name, &password))?;
            print::note(format_args!("changed the password of `{name}`"));
            stored::erased_note(config.as_deref(), &name).into_iter().for_each(print::note);
        }
        UserAction::Remove { name, users } => {
            let config = users.config.clone();
            let Some(path) = path_of(users)? else {
                return Err(UsageError(format!(
                    "`{name}` is in no users file: the configuration names none, and users log in by tokens alone, which end with \
                     their `exp`; `user erase` removes what the store keeps of a user"
                ))
                .into());
            };
            edit(path, |file| file.remove(&name))?;
            print::note(format_args!("removed `{name}`"));
            match stored::users(config.as_deref()) {
                Ok(known) => stored::left(&known, &name).into_iter().for_each(print::note),
                Err(error) => print::note(format_args!("what the store keeps of `{name}` cannot be told: {error:#}")),
            }
        }
        UserAction::List { users } => {
            let config = users.config.clone();
            list(path_of(users)?.as_deref(), config.as_deref())?;
        }
    }
    Ok(())
}

/// The users of the file in its order, then those that the store alone knows.
fn list(file: Option<&Path>, config: Option<&Path>) -> anyhow::Result<()> {
    let file = file.map(UsersFile::open).transpose()?;
    let in_file = || file.iter().flat_map(UsersFile::users);
    let erased = stored::erased(config, in_file().map(|user| &*user.name));
    for user in in_file() {
        let is_erased = erased.as_ref().is_ok_and(|names| names.contains(&*user.name));
        let mark = if is_erased { "\terased: nobody can log in by it until `user free`" } else { "" };
        print::line(format_args!("{}\t{}{mark}", user.name, role_word(user.role)))?;
    }
    match stored::users(config) {
        Ok(known) => stored::lines(&known, in_file().map(|user| &*user.name)).into_iter().try_for_each(print::line)?,
        Err(error) => print::note(format_args!("whom the store alone knows cannot be told: {error:#}")),
    }
    Ok(())
}

/// A password that nobody guesses.
pub(super) fn new_password() -> String {
    Alphanumeric.sample_string(&mut rand::rng(), PASSWORD_LENGTH)
}

/// Makes the users file, unless it is there. A password that was written to its file before a crash is read by the next
/// attempt; one is shown only when the users file is complete.
fn init(path: &Path, first: &[FirstUser]) -> anyhow::Result<()> {
    let mut users = UsersFile::open(path)?;
    if path.exists() {
        print::note(format_args!("there is {} already; it stays as it is", path.display()));
        return Ok(());
    }
    let mut shown = Vec::new();
    for user in first {
        let password = match &user.file {
            Some(file) => kept_password(file).with_context(|| format!("the password of `{}`", user.name))?,
            None => None,
        };
        let password = password.unwrap_or_else(|| {
            let made = new_password();
            shown.push(format!("`{}` has the password {made} (shown this once)", user.name));
            made
        });
        users.add(&user.name, user.role.into(), &password).map_err(usage)?;
    }
    users.save()?;
    Ok(shown.into_iter().try_for_each(print::line)?)
}

/// The first line of `file`, if it has one. A file that does not exist is made, with a new password.
fn kept_password(file: &Path) -> anyhow::Result<Option<String>> {
    match OpenOptions::new().read(true).open(file) {
        Ok(opened) => {
            let password = first_line(&mut BufReader::new(opened)).context("its file cannot be read")?;
            if password.is_empty() { Ok(None) } else { checked(password).map(Some) }
        }
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let password = new_password();
            let mut made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file)?;
            made.write_all(password.as_bytes()).and_then(|()| made.sync_all()).context("its file cannot be written")?;
            Ok(Some(password))
        }
        Err(error) => Err(error).context("its file cannot be read"),
    }
}

fn edit(path: PathBuf, change: impl FnOnce(&mut UsersFile) -> Result<(), UsersError>) -> anyhow::Result<()> {
    let mut file = UsersFile::open(&path)?;
    change(&mut file).map_err(usage)?;
    Ok(file.save()?)
}

/// A name or password that can never be taken is wrong usage; all else depends on the file.
fn usage(error: UsersError) -> anyhow::Error {
    match error {
        UsersError::Name { .. } | UsersError::EmptyPassword => UsageError(error.to_string()).into(),
        error => error.into(),
    }
}

/// What is said where a configuration has no users file, and needs one.
const NO_FILE: &str = "the configuration names no users file; set `users_file` in [broker], or use --users-file FILE";

/// The users file, by flag or by configuration, which need not be complete for that.
fn path(users: UsersArgs) -> anyhow::Result<PathBuf> {
    path_of(users)?.ok_or_else(|| UsageError(NO_FILE.to_owned()).into())
}

/// The same; none where users log in by tokens alone, or at a broker of others.
fn path_of(users: UsersArgs) -> anyhow::Result<Option<PathBuf>> {
    if users.users_file.is_some() {
        return Ok(users.users_file);
    }
    let settings = Settings::read(users.config.as_deref())?;
    let named = settings.broker.users_file.clone();
    let needs_none = settings.broker.jwt.is_used() || settings.engine().is_none();
    match (named, users.config) {
        (Some(path), _) => Ok(Some(path)),
        (None, Some(_)) if needs_none => Ok(None),
        (None, Some(_)) => Err(UsageError(NO_FILE.to_owned()).into()),
        (None, None) => {
            let missing = "no users file is named; use --config FILE (or BRIDGE_CONFIG) or --users-file FILE";
            Err(UsageError(missing.to_owned()).into())
        }
    }
}

fn password(name: &str) -> anyhow::Result<String> {
    if io::stdin().is_terminal() {
        return checked(typed(name)?);
    }
    let line = first_line(&mut io::stdin().lock());
    checked(line.map_err(|error| UsageError(format!("the password on the standard input cannot be read: {error}")))?)
}

fn checked(password: String) -> anyhow::Result<String> {
    match password.len() {
        0 => Err(UsageError("the password is empty".to_owned()).into()),
        1..=PASSWORD_MAX => Ok(password),
        _ => Err(UsageError(format!("the password is longer than {PASSWORD_MAX} bytes")).into()),
    }
}

fn typed(name: &str) -> anyhow::Result<String> {
    let password = rpassword::prompt_password(format!("Password of {name}: "))?;
    if rpassword::prompt_password("Again: ")? == password {
        Ok(password)
    } else {
        Err(UsageError("the two passwords are not the same".to_owned()).into())
    }
}

fn first_line(input: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    // One byte more than is taken, so that too much is seen as such, and a line end.
    let limit = PASSWORD_MAX as u64 + 3;
    io::Read::take(input, limit).read_line(&mut line)?;
    Ok(line.trim_end_matches(['\r', '\n']).to_owned())
}

impl From<RoleArg> for Role {
    fn from(role: RoleArg) -> Self {
        match role {
            RoleArg::Bal => Self::Bal,
            RoleArg::User => Self::User,
            RoleArg::Admin => Self::Admin,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_password_is_the_first_line() {
        for (input, password) in [("x y\r\nz", "x y"), ("x", "x"), ("\nx", ""), ("", "")] {
            assert_eq!(first_line(&mut input.as_bytes()).unwrap(), password, "{input:?}");
        }
        assert!(first_line(&mut "x".repeat(5_000).as_bytes()).unwrap().len() > PASSWORD_MAX);
        assert!(first_line(&mut &b"\xff\n"[..]).is_err());
    }

    #[test]
    fn the_file_is_named_by_a_configuration_that_says_nothing_else() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("bridge.toml");
        std::fs::write(&config, "[broker]\nusers_file = \"here\"\n").unwrap();
        let args = |users_file| UsersArgs { config: Some(config.clone()), users_file };
        assert_eq!(path(args(None)).unwrap(), PathBuf::from("here"));
        assert_eq!(path(args(Some("there".into()))).unwrap(), PathBuf::from("there"));
        std::fs::write(&config, "").unwrap();
        let error = path(args(None)).unwrap_err();
        assert!(error.is::<UsageError>() && error.to_string().contains("the configuration names no"), "{error}");
    }

    #[test]
    fn where_users_log_in_by_tokens_alone_no_file_is_missed_to_list_them_and_one_is_to_add_them() {
        let folder = tempfile::tempdir().unwrap();
        let config = folder.path().join("bridge.toml");
        let args = || UsersArgs { config: Some(config.clone()), users_file: None };
        for text in ["[broker]\njwt_secret_file = \"secret\"\n", "[mqtt]\nbroker = \"external\"\n"] {
            std::fs::write(&config, text).unwrap();
            assert_eq!(path_of(args()).unwrap(), None, "{text}");
            assert!(path(args()).unwrap_err().to_string().contains("set `users_file` in [broker]"), "{text}");
        }
    }

    #[test]
    fn without_a_configuration_none_is_blamed() {
        let error = path(UsersArgs { config: None, users_file: None }).unwrap_err();
        assert!(error.is::<UsageError>() && error.to_string().contains("use --config FILE"), "{error}");
    }
}
