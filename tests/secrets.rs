//! What stands at a wrong place in the configuration may be a secret: it is never repeated.

#![cfg(feature = "broker")]
#![expect(clippy::unwrap_used, reason = "what a test relies on may fail it")]

use fcm_mqtt_bridge::config::{FcmConfig, Settings};
use serde_json::Value;
use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::process::Command;
use std::thread;

const MARK: &str = "hush-hush";
const PEM: &str = "-----BEGIN PRIVATE KEY-----\nhush-hush\n-----END PRIVATE KEY-----";
const JSON: &str = r#"{"private_key": "hush-hush"}"#;
const URL: &str = "mqtt://bridge:hush-hush@127.0.0.1:1";
/// Exit code of `timeout`: the program did not end by itself.
const STILL_RUNNING: i32 = 124;

/// How a value may stand in the file where it is wrong.
const IN_FILE: [&str; 7] = [
    "\"hush-hush\"",
    "[\"hush-hush\"]",
    "{ a = \"hush-hush\" }",
    "\"hush-hush",
    "'{\"private_key\": \"hush-hush\"}'",
    "\"\"\"-----BEGIN PRIVATE KEY-----\nhush-hush\n-----END PRIVATE KEY-----\"\"\"",
    "\"mqtt://bridge:hush-hush@127.0.0.1:1\"",
];

/// Every key, with its section; an example for each table of the operator's own names.
fn keys() -> Vec<String> {
    let names = |section: &str, value: &Value| -> Vec<String> {
        value.as_object().unwrap().keys().map(|key| format!("{section}.{key}")).collect()
    };
    let mut keys = Vec::new();
    for (section, value) in serde_json::to_value(Settings::default()).unwrap().as_object().unwrap() {
        keys.extend(names(section, value));
    }
    keys.extend(names("fcm.projects.shop", &serde_json::to_value(FcmConfig::default()).unwrap()));
    keys.extend(["bals.client1.ack", "routes.\"com.example.chat\"", "transport.categories.chat"].map(str::to_owned));
    keys
}

/// A configuration in which `key` matters, without it.
fn around(key: &str, folder: &Path) -> BTreeMap<String, String> {
    let here = |name: &str| format!("{:?}", folder.join(name));
    let mut lines = BTreeMap::new();
    let mut set = |name: &str, value: &str| lines.insert(name.to_owned(), value.to_owned());
    set("ccs.sender_id", "\"1\"");
    set("broker.listen", "\"127.0.0.1:0\"");
    set("broker.anonymous", "true");
    set("ops.listen", "\"127.0.0.1:0\"");
    set("store.path", &here("bridge.db"));
    if key != "ccs.api_key_file" {
        set("ccs.api_key", "\"k\"");
    }
    if key.starts_with("fcm.") {
        set("fcm.project_id", "\"p\"");
    }
    if key.starts_with("fcm.projects.shop.") {
        set("fcm.projects.shop.project_id", "\"p\"");
    }
    if key.starts_with("mqtt.") {
        set("mqtt.broker", "\"external\"");
        set("mqtt.username", "\"bridge\"");
        set("mqtt.url", if key == "mqtt.ca_file" { "\"mqtts://127.0.0.1:1\"" } else { "\"mqtt://127.0.0.1:1\"" });
    }
    if ["broker.cert_file", "broker.key_file", "broker.client_ca_file"].contains(&key) {
        set("broker.listen_tls", "\"127.0.0.1:0\"");
        set("broker.cert_file", &here("file"));
        set("broker.key_file", &here("file"));
    }
    lines.remove(key);
    lines
}

/// Exit code, standard output, standard error.
fn bridge(args: &[&OsStr], environment: &[(&str, OsString)], folder: &Path) -> (i32, String, String) {
    let mut command = Command::new("timeout");
    command.arg("20").arg(env!("CARGO_BIN_EXE_fcm-mqtt-bridge")).args(args).current_dir(folder);
    command.env_clear().envs(environment.iter().map(|(name, value)| (name, value)));
    let output = command.output().unwrap();
    let text = |bytes: Vec<u8>| String::from_utf8_lossy(&bytes).into_owned();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

/// What `run` is asked of, too; it reads with the same code, and each question is a process.
fn is_asked_of_run(told: &str) -> bool {
    !told.contains("BEGIN PRIVATE KEY") && !told.contains("mqtt://bridge:")
}

/// Asks `check-config`, and `run` where that refuses. `may_show`: the value is right where it stands and no secret.
fn feed(config: &str, environment: &[(&str, OsString)], may_show: bool, folder: &Path) {
    let file = folder.join("bridge.toml");
    fs::write(&file, config).unwrap();
    let told = format!("{config}\n{environment:?}");
    for command in ["check-config", "run"] {
        let args = [command, "--config"].map(OsStr::new);
        let (code, out, error) = bridge(&[args[0], args[1], file.as_os_str()], environment, folder);
        assert!(!error.contains(MARK) && !error.contains("panicked"), "{command} of {told}:\n{error}");
        if code == 0 || !is_asked_of_run(&told) {
            assert!(may_show || !out.contains(MARK), "{command} of {told}:\n{out}");
            return;
        }
        assert_ne!(code, STILL_RUNNING, "`check-config` refuses what `run` takes:\n{told}");
        assert!(!out.contains(MARK), "{command} of {told}:\n{out}");
        // A warning may have been logged before.
        assert!(error.lines().any(|line| line.starts_with("error: ")), "{command} of {told}:\n{error}");
    }
}

fn is_secret(key: &str) -> bool {
    ["ccs.api_key", "mqtt.password"].contains(&key)
}

/// Whether a number or a word of a few stands there: then one form is as wrong as another.
fn is_plain(key: &str) -> bool {
    let (section, name) = key.split_once('.').unwrap();
    let value = &serde_json::to_value(Settings::default()).unwrap()[section][name];
    value.is_number() || value.is_boolean()
}

/// Some of the work at a time: the machine has few processors, and each piece is a process.
fn in_pieces(work: impl Fn(&str, &Path) + Sync) {
    let keys = keys();
    let work = &work;
    thread::scope(|scope| {
        for piece in keys.chunks(keys.len().div_ceil(4)) {
            scope.spawn(move || {
                let folder = tempfile::tempdir().unwrap();
                fs::write(folder.path().join("file"), "no certificate\n").unwrap();
                piece.iter().for_each(|key| work(key, folder.path()));
            });
        }
    });
}

fn toml(lines: &BTreeMap<String, String>) -> String {
    lines.iter().map(|(key, value)| format!("{key} = {value}\n")).collect()
}

#[test]
fn no_key_of_the_file_repeats_what_it_was_given() {
    in_pieces(|key, folder| {
        for form in &IN_FILE[..if is_plain(key) { 2 } else { IN_FILE.len() }] {
            let form = *form;
            let mut lines = around(key, folder);
            lines.insert(key.to_owned(), form.to_owned());
            let is_right = form == IN_FILE[0] || (key == "broker.ws_origins" && form == IN_FILE[1]);
            feed(&toml(&lines), &[], is_right && !is_secret(key), folder);
        }
    });
}

#[test]
fn no_variable_of_the_environment_repeats_what_it_was_given() {
    in_pieces(|key, folder| {
        let name = format!("BRIDGE__{}", key.replace('"', "").splitn(2, '.').collect::<Vec<_>>().join("__"));
        let name = match key.split('.').next() {
            Some("routes") => name,
            _ => name.replace('.', "__").to_uppercase(),
        };
        let bytes = OsString::from_vec([MARK.as_bytes(), &[0xff]].concat());
        let values = [MARK.into(), bytes, JSON.into(), PEM.into(), URL.into()];
        for value in values.into_iter().take(if is_plain(key) { 2 } else { 5 }) {
            let is_right = value == MARK && !is_secret(key);
            feed(&toml(&around(key, folder)), &[(&name, value)], is_right, folder);
        }
    });
}

#[test]
fn variables_beside_the_keys_do_not_repeat_what_they_were_given() {
    let folder = tempfile::tempdir().unwrap();
    let ccs = toml(&around("", folder.path()));
    let fcm = format!("{ccs}transport.default = \"fcm-v1\"\n");
    for value in [MARK, JSON, PEM] {
        feed(&fcm, &[("GOOGLE_APPLICATION_CREDENTIALS", value.into())], false, folder.path());
        feed(&ccs, &[("RUST_LOG", value.into())], false, folder.path());
        feed(&ccs, &[("BRIDGE_CCS_API_KEY", value.into())], false, folder.path());
        feed(&ccs, &[("BRIDGE__CCS__APIKEY", value.into())], false, folder.path());
        feed(&ccs, &[("BRIDGE_CCS_OTHER", value.into())], false, folder.path());
    }
    let config = [("BRIDGE_CONFIG", JSON.into())];
    let (code, out, error) = bridge(&["check-config".as_ref()], &config, folder.path());
    assert!(code == 64 && !format!("{out}{error}").contains(MARK), "{error}");
}

#[test]
fn no_argument_repeats_a_secret_that_stands_in_its_place() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("users"), "").unwrap();
    let commands: &[&[&str]] = &[
        &["sim", "--api-key-file", "VALUE"],
        &["sim", "--listen", "VALUE"],
        &["sim", "--window", "VALUE"],
        &["sim", "--log", "VALUE"],
        &["sim", "VALUE"],
        &[
            "sim",
            "--fcm-listen",
            "0",
            "--app-mqtt",
            "mqtt://127.0.0.1:1",
            "--app-user",
            "u",
            "--app-password-file",
            "VALUE",
        ],
        &["sim", "--fcm-listen", "0", "--app-mqtt", URL, "--app-user", "u"],
        &["demo", "--listen", "VALUE"],
        &["demo", "--log", "VALUE"],
        &["demo", "--transport", "VALUE"],
        &["user", "add", "bob", "VALUE", "--role", "bal", "--users-file", "users"],
        &["user", "add", "bob", "--role", "VALUE", "--users-file", "users"],
        &["init", "fcm-v1", "--credentials", "VALUE"],
        &["init", "fcm-v1", "--credentials", "file", "--ca-file", "VALUE"],
        &["init", "fcm-v1", "--credentials", "file", "--base-url", "https://bridge:hush-hush@127.0.0.1:1"],
        &["init", "ccs", "--sender-id", "1", "--host", "h", "--api-key-file", "VALUE"],
        &["init", "ccs", "--sender-id", "hush-hush@gcm", "--host", "h", "--api-key-file", "file"],
        &["init", "ccs", "--sender-id", "1", "--host", "h", "--api-key", "VALUE"],
        &["health", "--ops", "VALUE"],
        &["health", "--path", "VALUE"],
    ];
    fs::write(folder.path().join("file"), "k\n").unwrap();
    for value in [MARK, JSON, PEM] {
        for command in commands {
            let args: Vec<&OsStr> =
                command.iter().map(|arg| if *arg == "VALUE" { value } else { arg }.as_ref()).collect();
            let (code, out, error) = bridge(&args, &[], folder.path());
            assert!([1, 64].contains(&code), "{command:?} with {value}: {code} {error}");
            let all = format!("{out}{error}");
            assert!(!all.contains(MARK) && !all.contains("panicked"), "{command:?} with {value}:\n{all}");
        }
    }
    assert!(!folder.path().join("bridge.toml").exists() && !folder.path().join("data").exists());
}
