use std::os::unix::fs::PermissionsExt;

use proptest::prelude::*;
use tempfile::TempDir;

use super::*;

/// For tests only: as little work as Argon2 allows.
const CHEAP: Cost = Cost { memory_kib: 8, rounds: 1 };

fn folder() -> (TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("users");
    (folder, path)
}

fn made(path: &Path) -> UsersFile {
    let mut file = UsersFile::open(path).unwrap();
    file.add_with("client1", Role::Bal, "one", CHEAP).unwrap();
    file.add_with("alice", Role::User, "two", CHEAP).unwrap();
    file.save().unwrap();
    file
}

fn why(text: &str) -> String {
    parse(text, Path::new("users")).unwrap_err().to_string()
}

#[test]
fn a_new_file_is_for_its_owner_alone_and_reads_back() {
    let (_folder, path) = folder();
    let file = made(&path);
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    assert!(fs::read_to_string(&path).unwrap().starts_with(HEADER));
    assert_eq!(read(&path).unwrap(), file.users().cloned().collect::<Vec<_>>());
}

#[test]
fn an_edit_keeps_comments_order_and_permissions() {
    let (folder, path) = folder();
    drop(made(&path));
    let text = fs::read_to_string(&path).unwrap().replace("alice:", "# Alice Liddell\n\nalice:");
    fs::write(&path, &text).unwrap();
    fs::set_permissions(&path, fs::Permissions::from_mode(0o640)).unwrap();
    let link = folder.path().join("link");
    std::os::unix::fs::symlink(&path, &link).unwrap();
    let mut file = UsersFile::open(&link).unwrap();
    file.remove("client1").unwrap();
    file.set_password("alice", "three").unwrap();
    file.save().unwrap();
    let after = fs::read_to_string(&path).unwrap();
    assert!(after.contains("# Alice Liddell\n\nalice:user:$argon2id$v=19$m=19456,t=2,p=1$"), "{after}");
    assert!(!after.contains("client1"), "{after}");
    assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o640);
    assert!(fs::symlink_metadata(&link).unwrap().is_symlink());
    let others = fs::read_dir(folder.path()).unwrap().count();
    assert_eq!(others, 2, "a draft was left");
}

#[test]
fn what_cannot_be_is_refused() {
    let (_folder, path) = folder();
    let mut file = made(&path);
    assert!(matches!(file.add_with("alice", Role::Bal, "x", CHEAP), Err(UsersError::Exists(name)) if name == "alice"));
    assert!(matches!(file.add_with("a:b", Role::Bal, "x", CHEAP), Err(UsersError::Name { .. })));
    assert!(matches!(file.add_with("carol", Role::Bal, "", CHEAP), Err(UsersError::EmptyPassword)));
    assert!(matches!(file.set_password("carol", "x"), Err(UsersError::Unknown(_))));
    assert!(matches!(file.remove("carol"), Err(UsersError::Unknown(_))));
    assert_eq!(file.users().count(), 2);
}

#[test]
fn a_line_that_is_wrong_is_named() {
    let hash = hash("x", CHEAP).unwrap();
    let good = format!("alice:user:{hash}");
    assert_eq!(why("# fine\n\nalice"), "users, line 3: is not of the form `name:role:hash`");
    assert_eq!(
        why(&format!("{good}\nbob:root:{hash}")),
        "users, line 2: the role is none of `bal`, `user` and `admin`"
    );
    assert_eq!(why(&format!("_bob:user:{hash}")), format!("users, line 1: the name {}", NameError::Reserved));
    assert_eq!(why(&format!("{good}\n{good}")), "users, line 2: the user is in the file twice");
    let no_hash = "users, line 1: the hash is no argon2id hash as `fcm-mqtt-bridge user` writes it";
    assert_eq!(why("alice:user:secret"), no_hash);
    assert_eq!(why(&good.replace("argon2id", "argon2i")), no_hash);
    assert_eq!(why(good.rsplit_once('$').unwrap().0), no_hash);
    let dear = why(&good.replace("m=8,", "m=999999,"));
    assert!(dear.contains("takes more than"), "{dear}");
    assert!(!dear.contains(&*hash));
}

#[test]
fn a_second_editor_waits_for_the_first() {
    let (_folder, path) = folder();
    let first = UsersFile::open(&path).unwrap();
    let again = path.clone();
    let second = std::thread::spawn(move || made(&again));
    let mut first = first;
    first.add_with("carol", Role::Admin, "x", CHEAP).unwrap();
    first.save().unwrap();
    drop(first);
    assert_eq!(second.join().unwrap().users().count(), 3);
}

proptest! {
    #[test]
    fn no_text_panics(text in "(?s).{0,200}") {
        let _ = parse(&text, Path::new("users"));
    }

    #[test]
    fn what_is_kept_is_kept(comments in prop::collection::vec("#\\PC{0,20}", 0..5)) {
        let text: String = comments.iter().map(|line| format!("{line}\n")).collect();
        let lines = parse(&text, Path::new("users")).unwrap();
        let file = UsersFile { path: PathBuf::new(), lines, _lock: File::open(".").unwrap() };
        prop_assert_eq!(file.to_string(), text);
    }
}
