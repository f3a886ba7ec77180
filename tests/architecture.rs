//! The dependency rule of `src/lib.rs`, read off the `use` lines and paths of every room.

use std::fs;
use std::path::{Path, PathBuf};

/// Which rooms of ours each room may name, and whether it is pure (no tokio, no clock, no random source).
const ROOMS: &[(&str, &[&str], bool)] = &[
    ("chat", &[], true),
    ("secret", &[], true),
    ("ccs", &["secret"], true),
    ("fcm", &["secret"], true),
    ("ops", &[], false),
    ("config", &["chat", "ops", "secret"], false),
    ("store", &["chat", "ops"], false),
    ("transport", &["ccs", "chat", "fcm", "ops", "secret"], false),
    ("mqtt", &["ops", "secret"], false),
    ("broker", &["mqtt", "ops"], false),
    ("rumqttd", &["mqtt"], false),
    ("bridge", &["chat", "store", "mqtt", "transport", "ops"], false),
    ("sim", &["ccs", "fcm", "ops"], false),
];

/// Crates and paths that a pure room does not touch.
const IMPURE: &[&str] =
    &["tokio", " rand::", "(rand::", "Instant::now", "SystemTime::now", "std::net", "std::fs", "std::thread"];

/// What the simulator must not share with the client: everything that decides.
const PRIVATE_TO_THE_CLIENT: &[&str] = &[
    "ccs::session",
    "ccs::login",
    "ccs::window",
    "ccs::timer",
    "fcm::breaker",
    "fcm::budget",
    "fcm::judge",
    "fcm::request",
    "fcm::verdict",
    "crate::transport",
];

/// Files of one room: `src/room.rs` and everything below `src/room/`.
fn files(room: &str) -> Vec<PathBuf> {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut found = Vec::new();
    let single = src.join(format!("{room}.rs"));
    if single.exists() {
        found.push(single);
    }
    let mut folders = vec![src.join(room)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|e| e == "rs") {
                found.push(path);
            }
        }
    }
    found
}

/// The production lines of a file: without comments, and without the tests at its end.
fn production(path: &Path) -> Vec<String> {
    if path.components().any(|part| part.as_os_str() == "tests") || path.file_name().is_some_and(|n| n == "tests.rs") {
        return Vec::new();
    }
    let text = fs::read_to_string(path).expect("a source file can be read");
    text.lines()
        .take_while(|line| line.trim() != "#[cfg(test)]")
        .filter(|line| !line.trim_start().starts_with("//"))
        .map(str::to_owned)
        .collect()
}

#[test]
fn rooms_name_only_the_rooms_they_may() {
    let mut wrong = Vec::new();
    for (room, allowed, _) in ROOMS {
        for path in files(room) {
            for line in production(&path) {
                for (other, ..) in ROOMS {
                    let named =
                        line.contains(&format!("crate::{other}::")) || line.contains(&format!("use crate::{other};"));
                    if named && other != room && !allowed.contains(other) {
                        wrong.push(format!("{}: {}", path.display(), line.trim()));
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "against the rule of src/lib.rs:\n{}", wrong.join("\n"));
}

#[test]
fn pure_rooms_have_no_runtime_no_clock_and_no_chance() {
    let mut wrong = Vec::new();
    for (room, ..) in ROOMS.iter().filter(|(.., pure)| *pure) {
        for path in files(room) {
            for line in production(&path) {
                if IMPURE.iter().any(|word| line.contains(word)) {
                    wrong.push(format!("{}: {}", path.display(), line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "not pure:\n{}", wrong.join("\n"));
}

#[test]
fn the_simulator_shares_only_the_codec() {
    let mut wrong = Vec::new();
    for path in files("sim") {
        for line in production(&path) {
            for private in PRIVATE_TO_THE_CLIENT {
                if line.contains(private) {
                    wrong.push(format!("{}: {}", path.display(), line.trim()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "the simulator must be able to disagree with the client:\n{}", wrong.join("\n"));
}

#[test]
fn every_room_is_in_the_table() {
    let src = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    for entry in fs::read_dir(src).expect("src is there").flatten() {
        let name = entry.file_name().to_string_lossy().trim_end_matches(".rs").to_owned();
        let top = ["app", "cli", "lib", "main"].contains(&name.as_str());
        assert!(top || ROOMS.iter().any(|(room, ..)| *room == name), "src/{name} is in no rule");
    }
}
