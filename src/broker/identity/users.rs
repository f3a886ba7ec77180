//! The users file: one user per line, `name:role:hash`.
//!
//! ```text
//! # comments and empty lines are kept
//! client1:bal:$argon2id$v=19$m=19456,t=2,p=1$...
//! alice:user:$argon2id$v=19$m=19456,t=2,p=1$...
//! ```
//!
//! Hashes carry their own parameters, so that stronger ones can be written later and old ones still hold. The file is
//! replaced as a whole or not at all: written beside itself, flushed, renamed.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt, chown};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use argon2::{ARGON2ID_IDENT, Algorithm, Argon2, Params, PasswordHash, PasswordHasher, Version};
use thiserror::Error;

use super::name::{self, NameError};
use crate::chat::principal::Role;

/// What a new file begins with.
const HEADER: &str = "# Users of fcm-mqtt-bridge, one `name:role:hash` a line; roles: bal, user, admin.\n\
                      # Made by `fcm-mqtt-bridge user`. Lines that start with # are kept.\n";
/// Only the owner reads a new file.
const MODE: u32 = 0o600;
const SALT_BYTES: usize = 16;
/// The dearest hash that is taken from a file: memory in KiB, rounds, lanes. One line must not stop the broker.
const MEMORY_MAX: u32 = 256 * 1024;
const ROUNDS_MAX: u32 = 16;
const LANES_MAX: u32 = 16;

/// What is wrong with a users file, or with what should become of it.
#[derive(Debug, Error)]
pub enum UsersError {
    /// It cannot be read.
    #[error("cannot read the users file {}: {source}", .path.display())]
    Read {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// It cannot be written.
    #[error("cannot write the users file {}: {source}", .path.display())]
    Write {
        /// The file.
        path: PathBuf,
        /// What the system says.
        source: io::Error,
    },
    /// A line is not understood.
    #[error("{}, line {line}: {why}", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// The line, counted from 1.
        line: usize,
        /// What is wrong with it. Holds nothing of a hash.
        why: LineError,
    },
    /// The name cannot be used.
    #[error("`{}` cannot be a user name: it {why}", .name.escape_debug())]
    Name {
        /// The name.
        name: String,
        /// Why not.
        why: NameError,
    },
    /// There is a user of this name.
    #[error("there is a user `{0}` already; `user passwd` changes the password")]
    Exists(String),
    /// There is no user of this name.
    #[error("there is no user `{}`", .0.escape_debug())]
    Unknown(String),
    /// A password of no characters.
    #[error("the password is empty")]
    EmptyPassword,
}

/// What is wrong with a line of a users file.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
pub enum LineError {
    /// It has no three fields.
    #[error("is not of the form `name:role:hash`")]
    Form,
    /// The first field.
    #[error("the name {0}")]
    Name(#[from] NameError),
    /// The second field.
    #[error("the role is none of `bal`, `user` and `admin`")]
    Role,
    /// The third field.
    #[error("the hash is no argon2id hash as `fcm-mqtt-bridge user` writes it")]
    Hash,
    /// The third field asks for too much.
    #[error("the hash takes more than {MEMORY_MAX} KiB, {ROUNDS_MAX} rounds or {LANES_MAX} lanes to check")]
    TooCostly,
    /// A user twice.
    #[error("the user is in the file twice")]
    Duplicate,
}

/// A user as the file has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct User {
    /// Unique in the file.
    pub name: Arc<str>,
    /// The role.
    pub role: Role,
    /// The password hash, in the PHC string format.
    pub(super) hash: Arc<str>,
}

/// How much work a password hash is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cost {
    /// Memory, in KiB.
    pub memory_kib: u32,
    /// Rounds over it.
    pub rounds: u32,
}

impl Default for Cost {
    /// The least that OWASP's Password Storage Cheat Sheet recommends for Argon2id.
    fn default() -> Self {
        Self { memory_kib: 19 * 1024, rounds: 2 }
    }
}

/// A users file that is being edited. Nobody else edits it until this is dropped.
#[derive(Debug)]
pub struct UsersFile {
    path: PathBuf,
    lines: Vec<Line>,
    /// The lock is on the folder: one on the file would go with the file that is replaced.
    _lock: File,
}

#[derive(Debug)]
enum Line {
    Kept(String),
    User(User),
}

impl UsersFile {
    /// Reads a file to be edited; one that does not exist yet begins empty.
    ///
    /// # Errors
    /// When it cannot be read, a line is wrong, or its folder cannot be locked.
    pub fn open(path: &Path) -> Result<Self, UsersError> {
        // A link stays a link: the file behind it is replaced.
        let path = fs::canonicalize(path).unwrap_or_else(|_| path.to_owned());
        let failed = |source| UsersError::Read { path: path.clone(), source };
        let lock = File::open(folder_of(&path)).map_err(failed)?;
        lock.lock().map_err(failed)?;
        let lines = match fs::read_to_string(&path) {
            Ok(text) => parse(&text, &path)?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                HEADER.lines().map(|line| Line::Kept(line.to_owned())).collect()
            }
            Err(error) => return Err(failed(error)),
        };
        Ok(Self { path, lines, _lock: lock })
    }

    /// Adds a user, with a hash of [`Cost::default`].
    ///
    /// # Errors
    /// When the name cannot be used or is taken, or the password is empty.
    pub fn add(&mut self, name: &str, role: Role, password: &str) -> Result<(), UsersError> {
        self.add_with(name, role, password, Cost::default())
    }

    /// As [`Self::add`], with a hash that is as much work as the caller says.
    ///
    /// # Errors
    /// As [`Self::add`].
    pub fn add_with(&mut self, name: &str, role: Role, password: &str, cost: Cost) -> Result<(), UsersError> {
        self.check_new(name)?;
        let hash = hash(password, cost)?;
        self.lines.push(Line::User(User { name: name.into(), role, hash }));
        Ok(())
    }

    /// Checks that a user of this name could be added.
    ///
    /// # Errors
    /// When the name cannot be used or is taken.
    pub fn check_new(&self, name: &str) -> Result<(), UsersError> {
        name::check(name).map_err(|why| UsersError::Name { name: name.to_owned(), why })?;
        if self.has(name) { Err(UsersError::Exists(name.to_owned())) } else { Ok(()) }
    }

    /// Checks that there is a user of this name.
    ///
    /// # Errors
    /// When there is none.
    pub fn check_known(&self, name: &str) -> Result<(), UsersError> {
        if self.has(name) { Ok(()) } else { Err(UsersError::Unknown(name.to_owned())) }
    }

    /// Gives a user another password.
    ///
    /// # Errors
    /// When there is no such user, or the password is empty.
    pub fn set_password(&mut self, name: &str, password: &str) -> Result<(), UsersError> {
        let user = self.lines.iter_mut().find_map(|line| match line {
            Line::User(user) if &*user.name == name => Some(user),
            _ => None,
        });
        let user = user.ok_or_else(|| UsersError::Unknown(name.to_owned()))?;
        user.hash = hash(password, Cost::default())?;
        Ok(())
    }

    /// Removes a user.
    ///
    /// # Errors
    /// When there is no such user.
    pub fn remove(&mut self, name: &str) -> Result<(), UsersError> {
        let before = self.lines.len();
        self.lines.retain(|line| !matches!(line, Line::User(user) if &*user.name == name));
        if self.lines.len() == before { Err(UsersError::Unknown(name.to_owned())) } else { Ok(()) }
    }

    /// The users, in the order of the file.
    pub fn users(&self) -> impl Iterator<Item = &User> {
        users(&self.lines)
    }

    fn has(&self, name: &str) -> bool {
        self.users().any(|user| &*user.name == name)
    }

    /// Writes the file. Whoever reads it meanwhile sees the old or the new one.
    ///
    /// # Errors
    /// When it cannot be written; then the old one is still there.
    pub fn save(&self) -> Result<(), UsersError> {
        self.replace().map_err(|source| UsersError::Write { path: self.path.clone(), source })
    }

    fn replace(&self) -> io::Result<()> {
        let name = self.path.file_name().ok_or(io::ErrorKind::InvalidFilename)?;
        let draft = self.path.with_file_name(format!(".{}.new", name.to_string_lossy()));
        // We have the lock: a draft that is there was left by an editor that was killed.
        let _ = fs::remove_file(&draft);
        let mut file = OpenOptions::new().write(true).create_new(true).mode(MODE).open(&draft)?;
        if let Ok(old) = fs::metadata(&self.path) {
            // The broker may run as somebody else than the operator, and must still be able to read it.
            file.set_permissions(old.permissions())?;
            let made = file.metadata()?;
            if (made.uid(), made.gid()) != (old.uid(), old.gid()) {
                chown(&draft, Some(old.uid()), Some(old.gid()))?;
            }
        }
        file.write_all(self.to_string().as_bytes())?;
        file.sync_all()?;
        fs::rename(&draft, &self.path)?;
        File::open(folder_of(&self.path))?.sync_all()
    }
}

impl std::fmt::Display for UsersFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for line in &self.lines {
            match line {
                Line::Kept(text) => writeln!(f, "{text}")?,
                Line::User(User { name, role, hash }) => writeln!(f, "{name}:{}:{hash}", role_word(*role))?,
            }
        }
        Ok(())
    }
}

/// The word for a role, in the users file, in tokens and on the command line.
pub fn role_word(role: Role) -> &'static str {
    role.word()
}

/// The role that a word stands for.
pub fn role_of_word(word: &str) -> Option<Role> {
    [Role::Bal, Role::User, Role::Admin].into_iter().find(|role| role_word(*role) == word)
}

pub(super) fn read(path: &Path) -> Result<Vec<User>, UsersError> {
    let text = fs::read_to_string(path).map_err(|source| UsersError::Read { path: path.to_owned(), source })?;
    Ok(users(&parse(&text, path)?).cloned().collect())
}

fn users(lines: &[Line]) -> impl Iterator<Item = &User> {
    lines.iter().filter_map(|line| match line {
        Line::User(user) => Some(user),
        Line::Kept(_) => None,
    })
}

fn parse(text: &str, path: &Path) -> Result<Vec<Line>, UsersError> {
    let mut lines: Vec<Line> = Vec::new();
    let mut names = std::collections::HashSet::new();
    for (number, text) in (1..).zip(text.lines()) {
        let failed = |why| UsersError::Line { path: path.to_owned(), line: number, why };
        let line = parse_line(text).map_err(failed)?;
        if let Line::User(user) = &line
            && !names.insert(Arc::clone(&user.name))
        {
            return Err(failed(LineError::Duplicate));
        }
        lines.push(line);
    }
    Ok(lines)
}

fn parse_line(text: &str) -> Result<Line, LineError> {
    if text.trim().is_empty() || text.starts_with('#') {
        return Ok(Line::Kept(text.to_owned()));
    }
    let mut fields = text.trim_end().splitn(3, ':');
    let (Some(name), Some(role), Some(hash)) = (fields.next(), fields.next(), fields.next()) else {
        return Err(LineError::Form);
    };
    name::check(name)?;
    let role = role_of_word(role).ok_or(LineError::Role)?;
    check_hash(hash)?;
    Ok(Line::User(User { name: name.into(), role, hash: hash.into() }))
}

fn check_hash(hash: &str) -> Result<(), LineError> {
    let hash = PasswordHash::new(hash).map_err(|_| LineError::Hash)?;
    if hash.algorithm != ARGON2ID_IDENT || hash.salt.is_none() || hash.hash.is_none() {
        return Err(LineError::Hash);
    }
    let params = Params::try_from(&hash).map_err(|_| LineError::Hash)?;
    if params.m_cost() > MEMORY_MAX || params.t_cost() > ROUNDS_MAX || params.p_cost() > LANES_MAX {
        return Err(LineError::TooCostly);
    }
    Ok(())
}

fn hash(password: &str, cost: Cost) -> Result<Arc<str>, UsersError> {
    if password.is_empty() {
        return Err(UsersError::EmptyPassword);
    }
    let params = Params::new(cost.memory_kib, cost.rounds, 1, None).expect("a cost is within the limits of Argon2");
    let salt = rand::random::<[u8; SALT_BYTES]>();
    let hasher = Argon2::new(Algorithm::Argon2id, Version::V0x13, params);
    let hash: PasswordHash =
        hasher.hash_password_with_salt(password.as_bytes(), &salt).expect("hashing has no more ways to fail");
    Ok(hash.to_string().into())
}

fn folder_of(path: &Path) -> &Path {
    match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    }
}

#[cfg(test)]
mod tests;
