//! `config/bridge.toml` tells the truth: every key is in it, with its default, and it loads.

use fcm_mqtt_bridge::config::{GOOGLE_CREDENTIALS, Settings};
use fcm_mqtt_bridge::fcm::verdict::Cause;
use fcm_mqtt_bridge::transport::fcm_v1;
use serde_json::Value;
use std::collections::BTreeSet;
use std::fmt::Write as _;

const FCM_PAGE: &str = include_str!("../config/fcm-v1.md");
const TOPICS: &str = include_str!("../topics.md");

fn sample() -> String {
    std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/config/bridge.toml")).expect("the sample is there")
}

/// The sample with every commented key switched on; prose lines stay comments.
fn uncommented() -> String {
    let mut text = String::new();
    for line in sample().lines() {
        let bare = line.strip_prefix("# ").unwrap_or(line);
        let key = bare.split(" = ").next().unwrap_or_default();
        let is_key = bare.contains(" = ") && !key.is_empty() && (key.starts_with('"') || !key.contains(' '));
        let is_section = bare.starts_with('[') && bare.ends_with(']');
        writeln!(text, "{}", if is_key || is_section { bare } else { line }).expect("memory");
    }
    text
}

#[test]
fn the_sample_loads_as_it_is() {
    let dir = tempfile::tempdir().expect("a folder");
    let key = dir.path().join("ccs.key");
    std::fs::write(&key, "key\n").expect("written");
    let text = sample().replace("config/ccs.key", key.to_str().expect("UTF-8"));
    let file = dir.path().join("bridge.toml");
    std::fs::write(&file, text).expect("written");
    let loaded = Settings::load(Some(&file)).expect("the sample is right");
    assert_eq!(loaded.settings.ccs.sender_id, "1234567890");
}

#[test]
fn every_key_is_documented_with_its_default() {
    let documented: Value = {
        let parsed = config::Config::builder()
            .add_source(config::File::from_str(&uncommented(), config::FileFormat::Toml))
            .build()
            .expect("the sample with all keys switched on is TOML");
        parsed.try_deserialize().expect("TOML is a tree")
    };
    let defaults = serde_json::to_value(Settings::default()).expect("settings can be written");
    for (section, keys) in defaults.as_object().expect("sections") {
        let Some(keys) = keys.as_object() else { continue };
        if section == "routes" || section == "bals" {
            continue;
        }
        let shown = documented[section].as_object().unwrap_or_else(|| panic!("[{section}] is not in the sample"));
        let names: BTreeSet<&String> = keys.keys().collect();
        assert_eq!(names, shown.keys().collect(), "the keys of [{section}]");
        for (key, value) in keys {
            // Keys without a default show an example. What the sample sets is no default: the sender id, and that
            // everybody on this machine may connect, so that it can be tried as it is.
            let is_set = [("ccs", "sender_id"), ("broker", "anonymous")].contains(&(section.as_str(), key.as_str()));
            // Tables of the operator's own names show an example as well.
            let is_table =
                [("fcm", "projects"), ("transport", "categories")].contains(&(section.as_str(), key.as_str()));
            if value.is_null() || is_set || is_table {
                continue;
            }
            assert_eq!(value, &shown[key], "the default of {section}.{key}");
        }
    }
    assert_eq!(documented["bals"]["client1"]["ack"], "mqtt");
    assert_eq!(documented["routes"]["default_bal"], "client1");
}

/// The variables of the environment that the sample shows are taken, as they are.
#[test]
fn the_variables_that_the_sample_shows_are_taken() {
    let dir = tempfile::tempdir().expect("a folder");
    std::fs::create_dir(dir.path().join("config")).expect("made");
    std::fs::write(dir.path().join("config/ccs.key"), "key\n").expect("written");
    std::fs::write(dir.path().join("bridge.toml"), sample()).expect("written");
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_fcm-mqtt-bridge"));
    command.args(["check-config", "--config", "bridge.toml"]).current_dir(dir.path()).env_clear();
    // One of them sends an app that way.
    command.env("BRIDGE__FCM__PROJECT_ID", "p");
    let text = sample();
    let shown: Vec<_> = text.lines().filter_map(|line| line.strip_prefix("#   ")?.split_once('=')).collect();
    assert_eq!(shown.len(), 6, "{shown:?}");
    command.envs(shown.iter().map(|(name, value)| (name, value.trim_matches('\''))));
    let output = command.output().expect("it runs");
    let told = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{told}");
    let applied: Value = serde_json::from_slice(&output.stdout).expect("what applies is JSON");
    assert_eq!(applied["routes"]["com.example.Chat"], "client1");
    assert_eq!(applied["routes"]["com.example.Other"], "client1");
    assert_eq!(applied["broker"]["ws_origins"], serde_json::json!(["https://a.example", "https://b.example"]));
    assert_eq!(applied["transport"]["categories"]["com.example.Chat"], "fcm-v1");
    assert_eq!(applied["fcm"]["projects"]["shop"]["project_id"], "my-shop");
    assert_eq!(applied["bals"]["client1"]["ack"], "explicit");
}

/// `config/fcm-v1.md` shows configurations that load, as they are.
#[test]
fn the_sections_that_say_who_may_push_over_an_external_broker_tell_it() {
    let sample = sample();
    for section in ["[routes]", "# [bals.client1]"] {
        let before = sample.split(&format!("\n{section}\n")).next().expect("the section is there");
        let comment: Vec<&str> = before.lines().rev().take_while(|line| line.starts_with('#')).collect();
        let comment = comment.join(" ");
        assert!(comment.contains("external") && comment.contains("may push"), "{section}: {comment}");
    }
}

#[test]
fn the_page_about_fcm_v1_shows_configurations_that_load() {
    let dir = tempfile::tempdir().expect("a folder");
    let key = dir.path().join("ccs.key");
    std::fs::write(&key, "key\n").expect("written");
    let examples: Vec<&str> = FCM_PAGE.split("```toml\n").skip(1).filter_map(|rest| rest.split("```").next()).collect();
    assert_eq!(examples.len(), 5);
    for example in examples {
        let file = dir.path().join("bridge.toml");
        let text = example.replace("config/ccs.key", key.to_str().expect("UTF-8"));
        // What every configuration needs; the page has it where one is to be run as it stands.
        let rest = if text.contains("[routes]") {
            ""
        } else {
            "[routes]\ndefault_bal = \"client1\"\n[broker]\nanonymous = true\n"
        };
        std::fs::write(&file, format!("{text}\n{rest}")).expect("written");
        let loaded = Settings::load(Some(&file)).unwrap_or_else(|error| panic!("{error}:\n{example}"));
        let transports = loaded.settings.fcm.configured();
        assert!(!transports.is_empty(), "no project:\n{example}");
    }
}

/// Where the service account comes from stands wherever it is looked for, in the order that applies.
#[test]
fn the_places_of_the_service_account_are_told_in_their_order() {
    for text in [FCM_PAGE, &sample()] {
        assert!(text.contains("credentials_file = "));
        let at = |word: &str| text.find(word).unwrap_or_else(|| panic!("{word} is not told of"));
        assert!(at(GOOGLE_CREDENTIALS) < at("metadata server"));
    }
}

/// Each word for "nothing goes" is explained to the operator.
#[test]
fn the_page_about_fcm_v1_knows_every_word_of_trouble() {
    let words = Cause::ALL.iter().map(|cause| cause.as_str()).chain([fcm_v1::NO_TOKEN, fcm_v1::QUOTA]);
    for word in words {
        assert!(FCM_PAGE.contains(&format!("| `{word}` | ")), "{word} is not in config/fcm-v1.md");
        assert!(TOPICS.contains(&format!("`{word}`")), "{word} is not in topics.md");
    }
}
