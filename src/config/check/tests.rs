use super::*;
use crate::chat::transport::Transport;
use crate::config::FcmConfig;
use crate::config::fields::Kind;
use crate::config::sections::kind_at;
use std::io::Write;

const MINIMUM: &str = "[ccs]\nsender_id = \"1\"\napi_key = \"k\"\n";

fn load_text(text: &str) -> Result<Loaded, ConfigError> {
    load_with(text, &[])
}

fn load_with(text: &str, environment: &[(&str, &str)]) -> Result<Loaded, ConfigError> {
    // What the broker needs is set for all texts that say nothing of it.
    let users = if text.contains("[broker]") { "" } else { "[broker]\nusers_file = \"users\"\n" };
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(format!("{text}\n{users}").as_bytes()).unwrap();
    let environment = environment.iter().map(|(k, v)| ((*k).to_owned(), (*v).into())).collect();
    load(Some(file.path()), &environment)
}

fn refusal(text: &str) -> String {
    load_text(text).expect_err("was taken").to_string()
}

#[test]
fn the_minimum_is_a_sender_id_and_a_key() {
    let loaded = load_text(MINIMUM).unwrap();
    assert_eq!(loaded.settings.ccs.window, 100);
    assert_eq!(loaded.api_key.unwrap().reveal(), "k");
    assert!(refusal("[ccs]\nsender_id = \"1\"\n").contains("ccs.api_key_file"));
    assert!(refusal("[ccs]\napi_key = \"k\"\n").contains("ccs.sender_id"));
}

#[test]
fn only_a_broker_of_others_may_be_trusted_with_what_users_write_to_each_other() {
    let direct = |broker: &str| format!("{MINIMUM}[mqtt]\n{broker}\n[chat]\ndirect = true\n");
    assert!(load_text(&direct("broker = \"external\"")).unwrap().settings.chat.direct);
    let told = refusal(&direct(""));
    assert!(told.contains("chat.direct") && told.contains("mqtt.broker"), "{told}");
}

#[test]
fn the_name_that_the_engine_had_in_earlier_releases_is_read() {
    for word in ["mqtt5", "embedded"] {
        let text = format!("{MINIMUM}[broker]\nengine = \"{word}\"\nusers_file = \"users\"\n");
        assert_eq!(load_text(&text).unwrap().settings.broker.engine, Engine::Embedded, "{word}");
    }
    assert!(refusal(&format!("{MINIMUM}[broker]\nengine = \"mqtt4\"\n")).contains("embedded"));
}

#[test]
fn topics_of_groups_are_for_clients_of_the_embedded_broker_who_log_in() {
    let topic = "[groups]\ndelivery = \"topic\"\n";
    let loaded = load_text(&format!("{MINIMUM}{topic}")).unwrap();
    assert_eq!(loaded.settings.groups.delivery, GroupDelivery::Topic);
    for (other, told) in
        [("[mqtt]\nbroker = \"external\"\n", "embedded broker"), ("[broker]\nanonymous = true\n", "`broker.anonymous`")]
    {
        let refused = refusal(&format!("{MINIMUM}{topic}{other}"));
        assert!(refused.starts_with("`groups.delivery`: ") && refused.contains(told), "{refused}");
        assert!(load_text(&format!("{MINIMUM}[groups]\ndelivery = \"inbox\"\n{other}")).is_ok());
    }
    assert!(refusal(&format!("{MINIMUM}[groups]\ndelivery = \"topics\"\n")).contains("\"inbox\", \"topic\""));
}

#[test]
fn the_environment_is_over_the_file() {
    let loaded = load_with(MINIMUM, &[("BRIDGE__CCS__WINDOW", "7"), ("BRIDGE__CCS__API_KEY", "other"), ("PATH", "/")]);
    let loaded = loaded.unwrap();
    assert_eq!((loaded.settings.ccs.window, loaded.api_key.unwrap().reveal()), (7, "other"));
}

#[test]
fn unknown_keys_are_refused_with_the_nearest_right_name() {
    assert_eq!(refusal("[ccs]\nwidnow = 5\n"), "unknown key `ccs.widnow`; did you mean `ccs.window`?");
    assert_eq!(refusal("[csc]\nwindow = 5\n"), "unknown key `csc`; did you mean `ccs`?");
    assert_eq!(refusal("[bals.a]\nak = \"explicit\"\n"), "unknown key `bals.a.ak`; did you mean `bals.a.ack`?");
    let error = load_with(MINIMUM, &[("BRIDGE__LIMITS__QUEUE_ROW", "7")]).unwrap_err().to_string();
    assert_eq!(error, "unknown key `limits.queue_row`; did you mean `limits.queue_rows`?");
}

#[test]
fn routes_keep_their_dots_and_capitals() {
    let text = format!("{MINIMUM}[routes]\n\"com.Example.chat\" = \"client1\"\ndefault_bal = \"client2\"\n");
    let (categories, default) = load_text(&text).unwrap().settings.routes.owners().unwrap();
    assert_eq!(categories["com.Example.chat"].as_str(), "client1");
    assert_eq!(default.unwrap().as_str(), "client2");
    assert!(refusal(&format!("{MINIMUM}[routes]\ndefault_bal = \"a/b\"\n")).contains("routes.default_bal"));
    for (key, value) in
        [("BRIDGE__ROUTES__com.Example.chat", "client1"), ("BRIDGE__ROUTES", "{ \"com.Example.chat\" = \"client1\" }")]
    {
        let environment = [(key, value), ("BRIDGE__ROUTES__DEFAULT_BAL", "client2"), ("BRIDGE__ROUTES__com.x__y", "z")];
        let (categories, default) = load_with(MINIMUM, &environment).unwrap().settings.routes.owners().unwrap();
        assert_eq!((categories["com.Example.chat"].as_str(), categories["com.x__y"].as_str()), ("client1", "z"));
        assert_eq!(default.unwrap().as_str(), "client2");
    }
}

#[test]
fn a_misspelt_default_route_is_no_app() {
    for word in ["defualt_bal", "default", "Default_Bal", "default-bal"] {
        let refused = refusal(&format!("{MINIMUM}[routes]\n{word} = \"client1\"\n"));
        assert_eq!(refused, format!("unknown key `routes.{word}`; did you mean `routes.default_bal`?"));
    }
    for app in ["\"com.default.bal\"", "chat"] {
        assert!(load_text(&format!("{MINIMUM}[routes]\n{app} = \"client1\"\n")).is_ok(), "{app}");
    }
}

#[test]
fn lists_and_tables_come_from_the_environment_too() {
    let environment = [
        ("BRIDGE__BROKER__WS_ORIGINS", "https://a, https://b"),
        ("BRIDGE__TRANSPORT__CATEGORIES", "{ \"com.Example.chat\" = \"fcm-v1:shop\" }"),
        ("BRIDGE__TRANSPORT__CATEGORIES__com.Example.Other", "fcm-v1:shop"),
        ("BRIDGE__FCM__PROJECTS__shop__PROJECT_ID", "s"),
        ("BRIDGE__FCM__PROJECTS__SHOP__CONNECTIONS", "3"),
        ("BRIDGE__BALS__Client1__ACK", "explicit"),
        ("BRIDGE__BALS", "{ client2 = { ack = \"explicit\" } }"),
    ];
    let text = format!("{MINIMUM}[broker]\nusers_file = \"users\"\nws_origins = [\"https://c\"]\n[bals.client3]\n");
    let settings = load_with(&text, &environment).unwrap().settings;
    assert_eq!(settings.broker.listen.origins, ["https://a", "https://b"]);
    let apps: Vec<_> = settings.transport.categories.keys().map(String::as_str).collect();
    assert_eq!(apps, ["com.Example.Other", "com.Example.chat"]);
    assert_eq!(settings.fcm.projects["shop"].connections, 3);
    assert_eq!(settings.bals.keys().collect::<Vec<_>>(), ["Client1", "client2", "client3"]);
    let list = [("BRIDGE__BROKER__WS_ORIGINS", "[\"https://d\"]")];
    assert_eq!(load_with(&text, &list).unwrap().settings.broker.listen.origins, ["https://d"]);
    for (key, value, told) in [
        ("BRIDGE__BROKER__WS_ORIGINS", "[hush", "wants a list of texts, in TOML and on one line, such as "),
        ("BRIDGE__ROUTES", "hush", "wants a section (a table of keys and values), in TOML and on one line"),
        ("BRIDGE__ROUTES", "{ hush", "wants a section"),
        ("BRIDGE__ROUTES", "{\"hush\": \"hush\"}", "wants a section"),
        ("BRIDGE__ROUTES", "{}\nhush = 1", "wants a section"),
    ] {
        let refused = load_with(MINIMUM, &[(key, value)]).unwrap_err().to_string();
        assert!(refused.starts_with(&format!("`{key}`: {told}")) && !refused.contains("hush"), "{refused}");
        assert_eq!(refused.contains("this is JSON"), value.contains(':'), "{value}: {refused}");
    }
}

/// What differs from `value`, as the environment has it.
fn another(path: &[&str], value: &Value) -> String {
    match (kind_at(path), value) {
        (Kind::Number, value) => (value.as_u64().unwrap() + 1).to_string(),
        (Kind::Switch, value) => (!value.as_bool().unwrap()).to_string(),
        (Kind::OneOf(words), value) => words.iter().rfind(|word| value != **word).unwrap().to_string(),
        (Kind::List, _) => "a, b".to_owned(),
        (Kind::Section(_) | Kind::Names, _) => "{ x = {} }".to_owned(),
        (Kind::Text, _) if path[1].starts_with("listen") => "127.0.0.1:7".to_owned(),
        (kind, _) => {
            assert_eq!(kind, Kind::Text, "{path:?}");
            "other".to_owned()
        }
    }
}

#[test]
fn the_environment_reaches_every_key() {
    let read = |name: &str, value: &str| {
        let environment = HashMap::from([(name.to_owned(), value.into())]);
        serde_json::to_value(layers::read(None, &environment).unwrap().0).unwrap()
    };
    let usual = serde_json::to_value(Settings::default()).unwrap();
    let mut keys = 0;
    for (section, settings) in usual.as_object().unwrap() {
        for (key, value) in settings.as_object().unwrap() {
            let path = [section.as_str(), key];
            if kind_at(&path) == Kind::Names {
                continue;
            }
            let name = format!("BRIDGE__{section}__{key}").to_uppercase();
            let set = read(&name, &another(&path, value));
            assert_ne!(set[section][key], *value, "{name}");
            let changed = set.as_object().unwrap().iter().filter(|(name, settings)| usual[*name] != **settings);
            assert_eq!(changed.count(), 1, "{name}");
            keys += 1;
        }
    }
    assert!(keys > 80, "{keys}");
    for (name, value, section, key) in [
        ("BRIDGE__FCM__PROJECTS", "{ shop = { connections = 3 } }", "fcm", "projects"),
        ("BRIDGE__TRANSPORT__CATEGORIES", "{ \"a.b\" = \"ccs\" }", "transport", "categories"),
        ("BRIDGE__ROUTES__a.b", "client1", "routes", "a.b"),
        ("BRIDGE__BALS__CLIENT1__ACK", "explicit", "bals", "client1"),
    ] {
        assert_ne!(read(name, value)[section][key], usual[section][key], "{name}");
    }
}

#[test]
fn each_part_of_a_shared_section_knows_only_its_keys() {
    let refused = refusal(&format!("{MINIMUM}[limits]\nbroker_conections = 5\n"));
    assert_eq!(refused, "unknown key `limits.broker_conections`; did you mean `limits.broker_connections`?");
    for (key, value, range) in [
        ("limits.topic_window", "0", "must be from 1 to 10000"),
        ("limits.queue_rows", "0", "must be at least 1"),
        ("limits.broker_session_hours", "8761", "must be from 1 to 8760"),
        ("limits.stop_seconds", "0", "must be at least 1"),
        ("limits.broker_packet_bytes", "1024", "must be from 131072 to 268435455"),
        ("ccs.window", "1001", "must be from 1 to 1000"),
        ("fcm.connections", "0", "must be from 1 to 100"),
        ("chat.attended_minutes", "0", "must be from 1 to 525600"),
    ] {
        let (section, name) = key.split_once('.').unwrap();
        let variable = format!("BRIDGE__{section}__{name}").to_uppercase();
        let refused = load_with(MINIMUM, &[(&variable, value)]).unwrap_err().to_string();
        assert_eq!(refused, format!("`{key}`: {range}"));
    }
}

#[test]
fn a_variable_that_is_nearly_one_of_ours_is_refused() {
    for (name, meant) in [
        ("BRIDGE_CCS_HOST", "BRIDGE__CCS__HOST"),
        ("BRIDGE__CCS_HOST", "BRIDGE__CCS__HOST"),
        ("bridge__ccs__host", "BRIDGE__CCS__HOST"),
        ("BRIGDE__CCS__HOST", "BRIDGE__CCS__HOST"),
        ("BRIDGE_ROUTES_DEFUALT_BAL", "BRIDGE__ROUTES__DEFAULT_BAL"),
    ] {
        let refused = load_with(MINIMUM, &[(name, "hush")]).unwrap_err().to_string();
        assert!(refused.ends_with(&format!("did you mean `{meant}`?")) && !refused.contains("hush"), "{refused}");
    }
    let others = [("BRIDGE_CONFIG", "x"), ("BRIDGE_BIN", "x"), ("BRIDGE_SERVICE_HOST", "x"), ("BASH_ENV", "x")];
    load_with(MINIMUM, &others).unwrap();
    let names = ["BRIDGE_CCS_FOO", "BRIDGE_BIN", "BRIDGE__CCS__HOST", "BRIDGE_CONFIG"].map(str::to_owned);
    assert_eq!(super::super::environment::unread(names.iter()), ["BRIDGE_CCS_FOO"]);
}

#[test]
fn a_listener_may_be_a_port() {
    let text =
        format!("{MINIMUM}[broker]\nanonymous = true\nlisten = 2883\nlisten_ws = \"2884\"\n[ops]\nlisten = 2885\n");
    let Settings { broker, ops, .. } = load_text(&text).unwrap().settings;
    let ports = [broker.listen.tcp.unwrap(), broker.listen.ws.unwrap(), ops.listen];
    assert_eq!(ports.map(|address| address.to_string()), ["127.0.0.1:2883", "127.0.0.1:2884", "127.0.0.1:2885"]);
}

#[test]
fn a_secret_comes_from_a_file_without_its_line_end() {
    let mut file = tempfile::NamedTempFile::new().unwrap();
    file.write_all(b"secret-key\n").unwrap();
    let text = format!("[ccs]\nsender_id = \"1\"\napi_key_file = {:?}\n", file.path());
    let loaded = load_text(&text).unwrap();
    assert_eq!(loaded.api_key.unwrap().reveal(), "secret-key");
    let missing = refusal("[ccs]\nsender_id = \"1\"\napi_key_file = \"/nowhere/key\"\n");
    assert!(missing.starts_with("`ccs.api_key_file`: names a file that cannot be read: No such file"), "{missing}");
    assert!(!missing.contains("nowhere"), "it may be the key itself");
    let relative = refusal("[ccs]\nsender_id = \"1\"\napi_key_file = \"nowhere\"\n");
    assert!(relative.contains("a relative path begins at /"), "{relative}");
    assert!(refusal(&format!("{text}api_key = \"x\"\n")).contains("not both"));
}

#[test]
fn a_secret_of_blanks_is_refused_by_the_key_that_it_comes_from() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("key");
    std::fs::write(&file, "  \n").unwrap();
    let error = refusal(&format!("[ccs]\nsender_id = \"1\"\napi_key_file = {file:?}"));
    assert!(error.starts_with("`ccs.api_key_file`: "), "{error}");
    let error = refusal("[ccs]\nsender_id = \"1\"\napi_key = \" \"");
    assert!(error.starts_with("`ccs.api_key`: "), "{error}");
}

#[test]
fn two_listeners_with_one_address_are_refused() {
    let with = |broker: &str, ops: &str| {
        let ccs = "[ccs]\nsender_id = \"1\"\napi_key = \"k\"\n";
        load_text(&format!("{ccs}[broker]\nusers_file = \"u\"\n{broker}\n[ops]\nlisten = \"{ops}\"\n"))
    };
    for (broker, ops, keys) in [
        ("listen = \"127.0.0.1:9090\"", "127.0.0.1:9090", ["ops.listen", "broker.listen"]),
        ("listen = \"0.0.0.0:9090\"", "127.0.0.1:9090", ["ops.listen", "broker.listen"]),
        ("listen_ws = \"127.0.0.1:1883\"", "127.0.0.1:9090", ["broker.listen_ws", "broker.listen"]),
        ("listen_ws = \"[::1]:7\"", "[::]:7", ["ops.listen", "broker.listen_ws"]),
    ] {
        let error = with(broker, ops).unwrap_err().to_string();
        assert!(keys.iter().all(|key| error.contains(&format!("`{key}`"))), "{broker}: {error}");
    }
    for (broker, ops) in [
        ("listen = \"127.0.0.1:0\"\nlisten_ws = \"127.0.0.1:0\"", "127.0.0.1:0"),
        ("listen = \"127.0.0.2:9090\"", "127.0.0.1:9090"),
        ("listen = \"off\"\nlisten_ws = \"127.0.0.1:7\"", "127.0.0.1:1883"),
    ] {
        assert!(with(broker, ops).is_ok(), "{broker}");
    }
}

#[test]
fn secrets_are_hidden_when_the_settings_are_shown() {
    let loaded =
        load_text("[ccs]\nsender_id = \"1\"\napi_key = \"hush-hush\"\n[mqtt]\npassword = \"hush-hush\"\n").unwrap();
    assert!(!loaded.settings.shown().contains("hush"));
    let urls = "[mqtt]\nurl = \"ws://bridge:hush@broker.example/mqtt?token=hush\"\nusername = \"mqtt://hush@x\"\n";
    let shown = load_text(&format!("{MINIMUM}{urls}")).unwrap().settings.shown();
    assert!(!shown.contains("hush") && shown.contains("ws://broker.example/mqtt"), "{shown}");
    assert!(!format!("{:?}", loaded.api_key).contains("hush"));
}

#[test]
fn an_anonymous_broker_stays_on_loopback() {
    let broker = |keys: &str| format!("{MINIMUM}[broker]\n{keys}\n");
    for listener in ["listen", "listen_ws"] {
        let text = broker(&format!("anonymous = true\n{listener} = \"0.0.0.0:1883\""));
        let refused = refusal(&text);
        assert!(refused.contains("only on loopback") && refused.contains(listener), "{refused}");
    }
    assert!(load_text(&broker("anonymous = true\nlisten = \"[::1]:1883\"")).is_ok());
}

#[test]
fn a_broker_without_users_keys_or_doors_is_refused() {
    let broker = |keys: &str| format!("{MINIMUM}[broker]\n{keys}\n");
    assert!(refusal(&broker("")).contains("broker.users_file"));
    assert!(load_text(&broker("users_file = \"users\"\nlisten = \"0.0.0.0:1883\"")).is_ok());
    assert!(load_text(&broker("jwt_jwks_file = \"keys\"")).is_ok());
    assert!(refusal(&broker("users_file = \"users\"\nlisten = \"off\"")).contains("broker.listen"));
    assert!(
        refusal(&broker("users_file = \"users\"\nlisten = \"here\""))
            .contains("is not \"off\", and else it wants an address")
    );
    assert!(refusal(&broker("users_file = \"users\"\nlisten_tls = \"[::]:8883\"")).contains("broker.cert_file"));
}

#[test]
#[cfg(feature = "rumqttd")]
fn the_engine_rumqttd_refuses_what_it_cannot_do() {
    const ENGINE: &str = "engine = \"rumqttd\"\n";
    let broker = |keys: &str| format!("{MINIMUM}[broker]\n{ENGINE}{keys}\n");
    assert!(load_text(&broker("anonymous = true")).is_ok());
    assert!(load_text(&broker("anonymous = true\nlisten = \"[::1]:0\"")).is_ok());
    for (key, keys) in [
        ("broker.anonymous", ""),
        ("broker.listen", "anonymous = true\nlisten = \"0.0.0.0:1883\""),
        ("broker.listen", "anonymous = true\nlisten = \"off\""),
        ("broker.listen_tls", "anonymous = true\nlisten_tls = \"127.0.0.1:8883\""),
        ("broker.listen_ws", "anonymous = true\nlisten_ws = \"127.0.0.1:8083\""),
        ("broker.listen_wss", "anonymous = true\nlisten_wss = \"127.0.0.1:8084\""),
        ("broker.cert_file", "anonymous = true\ncert_file = \"broker.pem\""),
        ("broker.key_file", "anonymous = true\nkey_file = \"broker.key\""),
        ("broker.client_ca_file", "anonymous = true\nclient_ca_file = \"clients.pem\""),
        ("broker.proxy_protocol", "anonymous = true\nproxy_protocol = true"),
        ("broker.users_file", "users_file = \"users\""),
        ("broker.jwt_secret_file", "jwt_secret_file = \"secret\""),
        ("broker.jwt_key_file", "jwt_key_file = \"key\""),
        ("broker.jwt_jwks_file", "jwt_jwks_file = \"keys\""),
        ("broker.jwt_audience", "anonymous = true\njwt_audience = \"chat\""),
        ("broker.jwt_issuer", "anonymous = true\njwt_issuer = \"login\""),
        ("broker.data", "anonymous = true\ndata = \"data\""),
    ] {
        let refused = refusal(&broker(keys));
        assert!(refused.starts_with(&format!("`{key}`: ")) && refused.contains("rumqttd"), "{keys}: {refused}");
    }
    for id in ["", "a/b"] {
        let refused = refusal(&format!("{}[mqtt]\nclient_id = \"{id}\"\n", broker("anonymous = true")));
        assert!(refused.starts_with("`mqtt.client_id`: "), "{refused}");
    }
}

#[test]
#[cfg(not(feature = "rumqttd"))]
fn a_build_without_rumqttd_says_how_to_get_it() {
    let refused = refusal(&format!("{MINIMUM}[broker]\nengine = \"rumqttd\"\nanonymous = true\n"));
    assert!(refused.contains("broker.engine") && refused.contains("--features rumqttd"), "{refused}");
}

#[test]
fn a_value_of_the_wrong_form_names_its_key() {
    assert!(refusal("[ccs]\nwindow = \"many\"\n").contains("ccs.window"));
    let grace = "[broker]\nanonymous = true\npresence_grace_seconds = 3601";
    assert!(refusal(&format!("{MINIMUM}{grace}\n")).contains("broker.presence_grace_seconds"));
    for (text, told) in [
        ("[mqtt]\nbroker = \"other\"", "`mqtt.broker`: wants one of \"embedded\", \"external\""),
        ("[ccs]\nwindow = \"hush\"", "`ccs.window`: wants a whole number"),
        ("[ccs]\nport = 5235.9", "`ccs.port`: wants a whole number"),
        ("[ccs]\nport = 99999", "`ccs.port`: must be from 1 to 65535"),
        ("[ccs]\nwindow = -1", "`ccs.window`: must be from 1 to 1000"),
        ("[limits]\npayload_bytes = -5", "`limits.payload_bytes`: must be "),
        ("[fcm.projects.shop]\nconnections = -1", "`fcm.projects.shop.connections`: must be from 1 to 100"),
        ("[limits]\nqueue_rows = 5.5", "`limits.queue_rows`: wants a whole number"),
        ("[limits]\nqueue_rows = 5.0", "`limits.queue_rows`: wants a whole number"),
        ("[limits]\nqueue_rows = 1e30", "`limits.queue_rows`: wants a whole number"),
        ("[limits]\nqueue_rows = true", "`limits.queue_rows`: wants a whole number"),
        ("[limits]\nqueue_rows = \"yes\"", "`limits.queue_rows`: wants a whole number"),
        ("[limits]\nretry_max_seconds = 0.5", "`limits.retry_max_seconds`: wants a whole number"),
        ("[fcm.projects.shop]\nconnections = 5.5", "`fcm.projects.shop.connections`: wants a whole number"),
        ("[broker]\nanonymous = \"hush\"", "`broker.anonymous`: wants true or false"),
        ("[broker]\nanonymous = 2", "`broker.anonymous`: wants true or false"),
        ("[broker]\nanonymous = 0.5", "`broker.anonymous`: wants true or false"),
        ("[broker]\nws_origins = \"hush\"", "`broker.ws_origins`: wants a list of texts"),
        ("[broker]\nws_origins = [[\"hush\"]]", "`broker.ws_origins[0]`: wants a list of texts"),
        ("[ccs]\nhost = [\"hush\"]", "`ccs.host`: wants text"),
        ("ccs = \"hush\"", "`ccs`: wants a section (a table of keys and values)"),
        ("[[limits]]\nqueue_rows = \"hush\"", "`limits`: wants a section (a table of keys and values)"),
        ("limits = [2000] # before [ccs]", "`limits`: wants a section (a table of keys and values)"),
        ("[limits]\nbroker_packet_bytes = 0", "`limits.broker_packet_bytes`: must be from 131072 to"),
        ("[limits]\nbroker_queued_bytes = 0", "`limits.broker_queued_bytes`: must be at least 262144"),
        ("[ops]\nlisten = \"hush\"", "`ops.listen`: wants an address with a port"),
        ("[bals.a]\nack = \"hush\"", "`bals.a.ack`: wants one of \"mqtt\", \"explicit\""),
        ("[routes]\n\"com.x\" = [\"hush\"]", "`routes.\"com.x\"`: wants the name of a BAL, as text"),
        ("[routes]\ndefault_bal = \"hush/hush\"", "`routes.default_bal`: this cannot be the name of a BAL"),
        ("[transport]\ndefault = \"hush\"", "`transport.default`: this is none of `ccs`"),
        ("[store]\npath = \"{\\\"hush\\\": 1}\"", "`store.path`: wants a path; this looks like JSON"),
    ] {
        let minimum = if text.contains("ccs") { "" } else { MINIMUM };
        let refused = refusal(&format!("{minimum}{text}"));
        assert!(refused.starts_with(told) && !refused.contains("hush"), "{refused}");
    }
    for wrong in ["5.5", "true", "off"] {
        let refused = load_with(MINIMUM, &[("BRIDGE__LIMITS__QUEUE_ROWS", wrong)]).unwrap_err().to_string();
        assert_eq!(refused, "`limits.queue_rows`: wants a whole number", "{wrong}");
    }
    let negative = load_with(MINIMUM, &[("BRIDGE__LIMITS__QUEUE_ROWS", "-7")]).unwrap_err().to_string();
    assert_eq!(negative, "`limits.queue_rows`: must be at least 1");
    assert_eq!(load_with(MINIMUM, &[("BRIDGE__LIMITS__QUEUE_ROWS", "7")]).unwrap().settings.limits.store.queue_rows, 7);
    let broken = refusal("[ccs]\napi_key = \"hush\nwindow = 1");
    let told = " is not TOML at line 2, column 16: invalid basic string";
    assert!(broken.contains(told) && !broken.contains("hush"), "{broken}");
}

#[test]
fn a_path_that_is_no_text_is_refused() {
    use std::os::unix::ffi::OsStringExt;
    let environment = [("GOOGLE_APPLICATION_CREDENTIALS".to_owned(), OsString::from_vec(b"/\xff.json".to_vec()))];
    let refused = load(None, &environment.into_iter().collect()).expect_err("was taken").to_string();
    assert_eq!(refused, "`GOOGLE_APPLICATION_CREDENTIALS`: the path is not UTF-8");
}

#[test]
fn ccs_is_needed_only_where_something_goes_that_way() {
    let fcm = "[fcm]\nproject_id = \"p\"\n";
    let loaded = load_text(&format!("[transport]\ndefault = \"fcm-v1\"\n{fcm}")).unwrap();
    assert!(loaded.api_key.is_none());
    let loaded = load_text(&format!("{MINIMUM}[transport]\ndefault = \"fcm-v1\"\n{fcm}")).unwrap();
    assert!(loaded.api_key.is_some(), "a sender that is named is listened to");
    let one_on_ccs = format!("[transport]\ndefault = \"fcm-v1\"\n[transport.categories]\n\"a.b\" = \"ccs\"\n{fcm}");
    assert!(refusal(&one_on_ccs).contains("ccs.sender_id"));
}

#[test]
fn every_way_that_is_named_has_its_project() {
    let text = |more: &str| format!("{MINIMUM}[transport.categories]\n\"com.Example.chat\" = \"fcm-v1:shop\"\n{more}");
    assert!(refusal(&text("")).contains("[fcm.projects.shop]"));
    let shop = "[fcm]\nbase_url = \"https://x\"\nconnections = 3\n[fcm.projects.shop]\nproject_id = \"s\"\n";
    let settings = load_text(&text(shop)).unwrap().settings;
    let (default, categories) = settings.transport.transports().unwrap();
    assert_eq!((default.to_string(), categories["com.Example.chat"].to_string()), ("ccs".into(), "fcm-v1:shop".into()));
    let [(transport, project)] = &settings.fcm.configured()[..] else { panic!() };
    assert_eq!(
        (transport.to_string().as_str(), project.connections, project.base_url.as_str()),
        ("fcm-v1:shop", 3, "https://x")
    );
    assert!(refusal(&format!("{MINIMUM}[transport]\ndefault = \"fcm-v1\"\n")).contains("fcm.credentials_file"));
    assert!(refusal(&format!("{MINIMUM}[transport]\ndefault = \"fmc\"\n")).contains("transport.default"));
    let quota = text("[fcm]\nquota_per_minute = 900\n[fcm.projects.shop]\nproject_id = \"s\"\n");
    let [(_, project)] = &load_text(&quota).unwrap().settings.fcm.configured()[..] else { panic!() };
    assert_eq!(project.quotas.project_per_minute, 900, "as in [fcm]");
    let nothing = text("[fcm.projects.shop]\nproject_id = \"s\"\nquota_per_minute = 0\n");
    assert!(refusal(&nothing).contains("fcm.projects.shop.quota_per_minute"));
    let nameless = format!("{MINIMUM}[fcm.projects.shop]\nconnections = 2\n");
    assert!(refusal(&nameless).contains("fcm.projects.shop.project_id"));
    let misspelt = format!("{MINIMUM}[fcm.projects.shop]\nproject = \"s\"\n");
    assert_eq!(
        refusal(&misspelt),
        "unknown key `fcm.projects.shop.project`; did you mean `fcm.projects.shop.project_id`?"
    );
}

#[test]
fn the_service_account_of_the_environment_is_for_projects_that_name_none() {
    let account = ("GOOGLE_APPLICATION_CREDENTIALS", "/run/account.json");
    let files = |text: &str| {
        let settings = load_with(text, &[account]).unwrap().settings;
        let file = |(transport, fcm): (Transport, FcmConfig)| {
            (transport.to_string(), fcm.credentials_file.unwrap().display().to_string())
        };
        settings.fcm.configured().into_iter().map(file).collect::<Vec<_>>()
    };
    let pair = |transport: &str, file: &str| (transport.to_owned(), file.to_owned());
    let sent = "[transport]\ndefault = \"fcm-v1\"\n";
    assert_eq!(files(sent), [pair("fcm-v1", account.1)], "it names a project itself");
    assert_eq!(files(&format!("{sent}[fcm]\nproject_id = \"p\"\n")), [pair("fcm-v1", account.1)]);
    assert_eq!(files(&format!("{sent}[fcm]\ncredentials_file = \"own\"\n")), [pair("fcm-v1", "own")]);
    let category = format!("{MINIMUM}[transport.categories]\n\"com.example\" = \"fcm-v1\"\n");
    assert_eq!(files(&category), [pair("fcm-v1", account.1)]);
    let projects = "[fcm.projects.a]\nproject_id = \"a\"\n[fcm.projects.b]\ncredentials_file = \"own\"\n";
    assert_eq!(
        files(&format!("{MINIMUM}{projects}")),
        [pair("fcm-v1:a", account.1), pair("fcm-v1:b", "own")],
        "nothing goes to the first project"
    );
    assert_eq!(files(MINIMUM), [], "CCS alone has no use for it");
    let nameless = load_with(&format!("{MINIMUM}[fcm.projects.a]\n"), &[account]).unwrap_err().to_string();
    assert!(nameless.contains("fcm.projects.a.project_id"), "{nameless}");
    let empty = load_with(&format!("{sent}[fcm]\nproject_id = \"p\"\n"), &[(account.0, "")]).unwrap();
    assert_eq!(empty.settings.fcm.own.credentials_file, None, "the metadata server's turn");
}
