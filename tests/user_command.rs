//! `fcm-mqtt-bridge user`, as an operator uses it.

#![cfg(feature = "broker")]
#![expect(clippy::unwrap_used, reason = "what a test relies on may fail it")]

use argon2::{Argon2, PasswordHash, PasswordVerifier};
use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

const FAILED: i32 = 1;
const USAGE: i32 = 64;

struct Desk {
    folder: tempfile::TempDir,
}

impl Desk {
    /// A configuration that says nothing but where the users are.
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let users = folder.path().join("users");
        fs::write(folder.path().join("bridge.toml"), format!("[broker]\nusers_file = {users:?}\n")).unwrap();
        Self { folder }
    }

    fn users(&self) -> PathBuf {
        self.folder.path().join("users")
    }

    /// Exit code, standard output and standard error.
    fn run(&self, args: &[&str], input: &str) -> (i32, String, String) {
        self.run_with(args, input, &self.folder.path().join("bridge.toml"))
    }

    fn run_with(&self, args: &[&str], input: &str, config: &Path) -> (i32, String, String) {
        let mut command = Command::new(env!("CARGO_BIN_EXE_fcm-mqtt-bridge"));
        command.arg("user").args(args).arg("--config").arg(config).env_remove("BRIDGE_CONFIG");
        let streams = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = streams.spawn().unwrap();
        // It may end without having read its input.
        let _ = child.stdin.take().unwrap().write_all(input.as_bytes());
        let output = child.wait_with_output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
    }
}

#[test]
fn users_are_added_listed_changed_and_removed() {
    let desk = Desk::new();
    assert_eq!(desk.run(&["add", "client1", "--role", "bal"], "secret one\n").0, 0);
    assert_eq!(desk.run(&["add", "alice", "--role", "user"], "secret two").0, 0);
    assert_eq!(fs::metadata(desk.users()).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(desk.run(&["list"], ""), (0, "client1\tbal\nalice\tuser\n".to_owned(), String::new()));
    let before = fs::read_to_string(desk.users()).unwrap();
    assert!(before.contains("\nalice:user:$argon2id$v=19$m=19456,t=2,p=1$"), "{before}");
    assert!(!before.contains("secret"));
    assert_eq!(desk.run(&["passwd", "alice"], "secret three\n").0, 0);
    assert_ne!(fs::read_to_string(desk.users()).unwrap(), before);
    assert_eq!(desk.run(&["remove", "client1"], "").0, 0);
    assert_eq!(desk.run(&["list"], "").1, "alice\tuser\n");
}

#[test]
fn what_is_wrong_is_named_and_changes_nothing() {
    let desk = Desk::new();
    assert_eq!(desk.run(&["add", "alice", "--role", "user"], "secret\n").0, 0);
    let before = fs::read_to_string(desk.users()).unwrap();
    let wrong: &[(&[&str], &str, i32, &str)] = &[
        (&["add", "alice", "--role", "bal"], "x\n", FAILED, "there is a user `alice` already"),
        (&["add", "bob", "--role", "user"], "\n", USAGE, "the password is empty"),
        (&["add", "bob", "--role", "user"], "", USAGE, "the password is empty"),
        (&["add", "g-bob", "--role", "user"], "x\n", USAGE, "`g-bob` cannot be a user name: it is reserved"),
        (&["add", "cert", "--role", "user"], "x\n", USAGE, "`cert` cannot be a user name: it is reserved"),
        (&["add", "bob", "--role", "root"], "x\n", USAGE, "invalid value '(not shown)' for '--role <ROLE>'"),
        (&["add", "bob", "s3cret", "--role", "user"], "", USAGE, "unexpected argument '(not shown)' found"),
        (&["passwd", "bob"], "x\n", FAILED, "there is no user `bob`"),
        (&["remove", "bob"], "", FAILED, "there is no user `bob`"),
    ];
    for (args, input, code, words) in wrong {
        let (seen, _, error) = desk.run(args, input);
        assert_eq!(seen, *code, "{args:?}: {error}");
        assert!(error.contains(words), "{args:?}: {error}");
    }
    assert_eq!(fs::read_to_string(desk.users()).unwrap(), before);

    fs::write(desk.users(), "alice:user\n").unwrap();
    let (code, _, error) = desk.run(&["list"], "");
    assert_eq!(code, FAILED);
    assert!(error.contains("users, line 1: is not of the form `name:role:hash`"), "{error}");

    let empty = desk.folder.path().join("empty.toml");
    fs::write(&empty, "").unwrap();
    let (code, _, error) = desk.run_with(&["list"], "", &empty);
    assert_eq!(code, USAGE);
    assert!(error.contains("set `users_file` in [broker]"), "{error}");
}

#[test]
fn the_first_users_are_made_once_with_the_passwords_of_their_files_or_new_ones() {
    let desk = Desk::new();
    let file = |name: &str| desk.folder.path().join(name).to_str().unwrap().to_owned();
    fs::write(file("given"), "a secret\n").unwrap();
    fs::write(file("empty"), "").unwrap();
    let users = [
        "shop:bal".to_owned(),
        format!("alice:user:{}", file("given")),
        format!("bob:user:{}", file("empty")),
        format!("echo:bal:{}", file("made")),
    ];
    let first: Vec<&str> = ["init"].into_iter().chain(users.iter().map(String::as_str)).collect();
    let (code, shown, error) = desk.run(&first, "");
    assert_eq!((code, error.as_str()), (0, ""));
    let told: Vec<(&str, &str)> = shown.lines().map(|line| line.split_once(" has the password ").unwrap()).collect();
    assert_eq!(told.iter().map(|(name, _)| *name).collect::<Vec<_>>(), ["`shop`", "`bob`"]);
    let made = fs::read_to_string(file("made")).unwrap();
    assert_eq!((made.len(), shown.contains(&made)), (16, false));
    assert_eq!(fs::metadata(file("made")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(desk.run(&["list"], "").1, "shop\tbal\nalice\tuser\nbob\tuser\necho\tbal\n");
    let before = fs::read_to_string(desk.users()).unwrap();
    let passwords = [("shop", &told[0].1[..16]), ("alice", "a secret"), ("bob", &told[1].1[..16]), ("echo", &made)];
    for (name, password) in passwords {
        let line = before.lines().find(|line| line.starts_with(&format!("{name}:"))).unwrap();
        let hash = PasswordHash::new(line.splitn(3, ':').last().unwrap()).unwrap();
        assert!(Argon2::default().verify_password(password.as_bytes(), &hash).is_ok(), "{name}");
    }

    let (code, shown, error) = desk.run(&first, "");
    assert_eq!((code, shown.as_str()), (0, ""));
    assert!(error.contains("it stays as it is"), "{error}");
    assert_eq!(fs::read_to_string(desk.users()).unwrap(), before);
}

#[test]
fn first_users_that_cannot_be_leave_no_users_file() {
    let folder = tempfile::tempdir().unwrap();
    let not_a_file = format!("shop:bal:{}", folder.path().display());
    let wrong = [
        (not_a_file.as_str(), FAILED, "the password of `shop`: its file cannot be read"),
        ("shop", USAGE, "is not of the form NAME:ROLE or NAME:ROLE:FILE"),
        ("shop:root", USAGE, "the role is none of"),
        ("g-shop:bal", USAGE, "`g-shop` cannot be a user name: it is reserved"),
    ];
    for (user, code, words) in wrong {
        let desk = Desk::new();
        let (seen, shown, error) = desk.run(&["init", "alice:user", user], "");
        assert_eq!((seen, shown.as_str()), (code, ""), "{user}: {error}");
        assert!(error.contains(words), "{user}: {error}");
        assert!(!desk.users().exists(), "{user}");
    }
}
