//! The configuration files of release 0.1.0 load, and mean what they meant.

use crate::harness::{Past, left};
use fcm_mqtt_bridge::app;
use fcm_mqtt_bridge::config::Settings;
use serde_json::{Value, json};
use std::fs;

#[tokio::test]
async fn the_sample_loads_and_says_what_it_said() {
    let past = Past::open().await;
    let path = past.configuration("sample.toml");
    let text = fs::read_to_string(&path).unwrap();
    fs::write(&path, text.replace("config/ccs.key", past.path("ccs.key").to_str().unwrap())).unwrap();
    let loaded = Settings::load(Some(&path)).unwrap();
    app::check(&loaded).unwrap();
    assert_eq!(loaded.settings.ccs.sender_id, "1234567890");
    assert!(loaded.settings.broker.anonymous);
    let shown = serde_json::to_value(&loaded.settings).unwrap();
    assert_eq!(shown["routes"]["default_bal"], "client1");
}

/// The values of a TOML file, by section.
fn values(text: &str) -> Value {
    let source = config::File::from_str(text, config::FileFormat::Toml);
    config::Config::builder().add_source(source).build().unwrap().try_deserialize().unwrap()
}

/// Whether everything in `asked` stands in `applies` as well.
fn compare(place: &str, asked: &Value, applies: &Value) {
    match asked {
        Value::Object(fields) => {
            for (key, value) in fields {
                compare(&format!("{place}.{key}"), value, &applies[key]);
            }
        }
        // The engine has another name today.
        Value::String(text) if text == "mqtt5" => assert_eq!(applies, "embedded", "{place}"),
        // A level, an address and the like may be shown in another form, but not with another text.
        Value::String(text) => assert_eq!(applies.as_str(), Some(text.as_str()), "{place}"),
        value => assert_eq!(applies, value, "{place}"),
    }
}

#[tokio::test]
async fn a_configuration_with_many_keys_loads_and_every_key_applies() {
    let past = Past::open().await;
    fs::write(past.path("jwt.secret"), "a secret of thirty-two characters").unwrap();
    let path = past.configuration("full.toml");
    let loaded = Settings::load(Some(&path)).unwrap();
    app::check(&loaded).unwrap();
    let asked = values(&fs::read_to_string(&path).unwrap());
    let applies = serde_json::to_value(&loaded.settings).unwrap();
    compare("", &asked, &applies);
    assert_eq!(applies["limits"]["broker_session_hours"], json!(24));
    // Every section that the sample of the release has is in there.
    let sample = values(&fs::read_to_string(left("sample.toml")).unwrap());
    for section in sample.as_object().unwrap().keys() {
        assert!(!asked[section].is_null(), "[{section}]");
    }
}
