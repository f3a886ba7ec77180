//! Who takes part in the demo.

use crate::broker::identity::users::UsersFile;
use crate::chat::principal::Role;
use crate::cli::user::new_password;
use anyhow::Context;
use std::fs::OpenOptions;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The sample BAL.
pub(super) const BAL: &str = "client1";
/// A chat user.
pub(super) const ALICE: &str = "alice";
/// Another one.
pub(super) const BOB: &str = "bob";
/// The chat user whose phones the virtual ones are. None of the others: who is connected counts as present.
pub(super) const CAROL: &str = "carol";
/// Who may always log in.
const CAST: [(&str, Role); 3] = [(BAL, Role::Bal), (ALICE, Role::User), (BOB, Role::User)];

/// Somebody who takes part, and the password made for this run.
pub(super) struct Player {
    pub(super) name: &'static str,
    pub(super) role: Role,
    pub(super) password: String,
}

/// Makes the users of this run; `phones` is the chat user with the virtual phones, where one is needed.
pub(super) fn make(users: &Path, phones: Option<&'static str>) -> anyhow::Result<Vec<Player>> {
    let mut file = UsersFile::open(users).context("the users of the demo")?;
    let mut players = Vec::new();
    for (name, role) in CAST.into_iter().chain(phones.map(|name| (name, Role::User))) {
        let password = new_password();
        file.add(name, role, &password).context("the users of the demo")?;
        players.push(Player { name, role, password });
    }
    file.save().context("the users of the demo")?;
    Ok(players)
}

/// Makes the secret of the tokens by which further users of this run log in.
pub(super) fn make_token_secret(file: &Path) -> anyhow::Result<()> {
    // Together longer than HS256 asks for.
    let secret: String = (0..3).map(|_| new_password()).collect();
    let made = OpenOptions::new().write(true).create_new(true).mode(0o600).open(file);
    made.and_then(|mut file| file.write_all(secret.as_bytes())).context("the secret of the demo's tokens")
}

/// The password of `name`; without one in a demo without users.
pub(super) fn password<'a>(cast: &'a [Player], name: &str) -> Option<&'a str> {
    cast.iter().find(|player| player.name == name).map(|player| player.password.as_str())
}
