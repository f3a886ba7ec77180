//! What `user` can be asked for.

use super::StoreArgs;
use clap::{Args, Subcommand, ValueEnum};
use std::path::PathBuf;

/// What `user` does. A password is asked for on a terminal; otherwise it is the first line of the standard input.
#[derive(Debug, Subcommand)]
pub enum UserAction {
    /// Makes the users file with its first users, for the first start of a container. A file that is there stays as it is.
    ///
    /// A user is NAME:ROLE or NAME:ROLE:FILE, with the roles bal, user and admin. The password is the first line of FILE.
    /// Where no FILE is named, or it is empty, a password is made and shown once; one that does not exist is written, with
    /// a password that is not shown.
    Init {
        /// The users.
        #[arg(required = true, value_name = "NAME:ROLE[:FILE]")]
        first: Vec<FirstUser>,
        /// Where the users are.
        #[command(flatten)]
        users: UsersArgs,
    },
    /// Adds a user with a password.
    Add {
        /// The MQTT username, which is the first level of the user's topics.
        name: String,
        /// What the user is: a backend application, a chat user, or an admin.
        #[arg(long, value_enum)]
        role: RoleArg,
        /// Where the users are.
        #[command(flatten)]
        users: UsersArgs,
    },
    /// Gives a user another password.
    Passwd {
        /// Whose password.
        name: String,
        /// Where the users are.
        #[command(flatten)]
        users: UsersArgs,
    },
    /// Removes a user, and says what the store keeps of it: what it wrote and got, its contacts, its devices. Whoever is
    /// added under that name later gets all of it.
    Remove {
        /// Whom.
        name: String,
        /// Where the users are.
        #[command(flatten)]
        users: UsersArgs,
    },
    /// Erases a chat user from the store of a running bridge: devices, tokens, messages, contacts, settings, sessions, and all that
    /// waits. What others wrote to that user stays with them, under another name. There is no way back.
    ///
    /// The name stays taken, and nobody can log in by it, until `user free`. On a terminal the name is to be typed once more.
    Erase {
        /// Whom.
        name: String,
        /// Do not ask on the terminal whether it is meant.
        #[arg(long)]
        yes: bool,
        /// Where the store is.
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Prints everything that a running bridge keeps of a chat user, as JSON lines: settings, profile, devices (without their
    /// tokens), contacts, conversations, messages of both directions.
    Export {
        /// Whose.
        name: String,
        /// Where the store is.
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Lets the name of an erased user be used again.
    Free {
        /// Which name.
        name: String,
        /// Where the store is.
        #[command(flatten)]
        store: StoreArgs,
    },
    /// Lists users and roles; then, with a configuration, the chat users that the store alone knows, by their tokens. Names of
    /// erased users that are not free are marked.
    List {
        /// Where the users are.
        #[command(flatten)]
        users: UsersArgs,
    },
}

/// The role of a user.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub enum RoleArg {
    /// A backend application: writes NAME/self/..., reads NAME/others/...
    Bal,
    /// A chat user with any number of devices.
    User,
    /// Reads everything, and commands the bridge.
    Admin,
}

/// A user of `user init`.
#[derive(Debug, Clone)]
pub struct FirstUser {
    /// The MQTT username.
    pub name: String,
    /// What the user is.
    pub role: RoleArg,
    /// The file for the password.
    pub file: Option<PathBuf>,
}

impl std::str::FromStr for FirstUser {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, rest) = text.split_once(':').ok_or("is not of the form NAME:ROLE or NAME:ROLE:FILE")?;
        let (role, file) = rest.split_once(':').map_or((rest, None), |(role, file)| (role, Some(file.into())));
        let role = RoleArg::from_str(role, false).map_err(|_| "the role is none of `bal`, `user` and `admin`")?;
        Ok(Self { name: name.to_owned(), role, file })
    }
}

/// Where the users are.
#[derive(Debug, Args)]
pub struct UsersArgs {
    /// The configuration file that names the users file (`[broker] users_file`).
    #[arg(long, value_name = "FILE", env = "BRIDGE_CONFIG")]
    pub config: Option<PathBuf>,
    /// The users file itself, instead of a configuration. Made when missing.
    #[arg(long, value_name = "FILE")]
    pub users_file: Option<PathBuf>,
}
