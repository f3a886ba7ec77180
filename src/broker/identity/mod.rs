//! Who somebody is: what a client shows when it connects, checked against the users file and the keys of tokens.
//!
//! * `users`: the users file, to be read by the broker and edited by commands.
//! * `passwords`: passwords against the hashes in it, with bounded effort.
//! * `tokens`, `crypto`: JSON Web Tokens against keys.
//! * `client_id`: which session and which device a client id stands for.
//! * `login_throttle`: who failed too often has to wait.
//! * `logins`: who is connected, and on the strength of what.
//! * `authenticator`: all of it together, for one log-in; `reload` keeps it up to date with the files.
//!
//! No password and no token outlives its check, and none is ever written to a log or an error.

mod authenticator;
mod client_id;
mod crypto;
mod login_throttle;
mod logins;
mod name;
mod passwords;
mod reload;
mod tokens;
pub mod users;

use thiserror::Error;

pub(super) use authenticator::{Authenticator, Caller};
pub(super) use client_id::{CLIENT_ID_MAX, assigned, background_key, device_of, is_background, is_key_of, session_key};
pub(super) use logins::LoginPermit;
pub use name::NameError;
pub(super) use reload::watched_files;
pub use tokens::KeysError;
pub use users::UsersError;

/// Why nobody could be identified: a file is missing or wrong.
#[derive(Debug, Error)]
pub enum IdentityError {
    /// The users file.
    #[error(transparent)]
    Users(#[from] UsersError),
    /// A key of tokens.
    #[error(transparent)]
    Keys(#[from] KeysError),
}
