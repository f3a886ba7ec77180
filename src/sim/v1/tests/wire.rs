//! Messages over HTTP/2, and what goes wrong with them.

use super::*;
use crate::sim::device::{DevicePatch, Presence, Refuse};
use crate::sim::event::SimEvent;
use crate::sim::v1::fault::{Rule, V1Faults};
use crate::sim::v1::fault_kind::FaultKind;
use crate::sim::v1::reply::Reply;

#[tokio::test]
async fn a_message_is_taken_delivered_and_answered_in_two_frames() {
    let running = start(V1Config::default()).await;
    let mut client = running.client().await;
    let heard = client.push("device").await.unwrap();
    assert_eq!((heard.status, &*heard.content_type), (200, "application/json; charset=UTF-8"));
    let sizes: Vec<bool> = heard.frames.iter().map(Bytes::is_empty).collect();
    assert_eq!(sizes, [false, true], "a body, and an empty frame that ends it");
    let name = heard.json()["name"].as_str().unwrap().to_owned();
    assert!(name.starts_with("projects/demo-project/messages/0:") && name.contains('%'), "{name}");
    assert_eq!(running.sim.received("device")[0].message_id, "device");

    let body = json!({"validate_only": true, "message": {"token": "device"}});
    let heard = client.send(&body).await.unwrap();
    assert_eq!(heard.json(), json!({"name": "projects/demo-project/messages/fake_message_id"}));
    let stats = running.v1.stats();
    assert_eq!((stats.accepted, stats.validated, stats.delivered, stats.requests), (1, 1, 1, 2));
    assert_eq!(stats.statuses, [(200, 2)].into());
    running.stop().await;
}

#[tokio::test]
async fn http2_is_spoken_in_the_clear_too_and_tls_only_with_alpn() {
    let running = start(V1Config::default()).await;
    let socket = TcpStream::connect(running.v1.address()).await.unwrap();
    let (send, connection) = h2::client::handshake(socket).await.unwrap();
    let mut driver = JoinSet::new();
    driver.spawn(connection);
    let path = "/v1/projects/demo-project/messages:send".to_owned();
    let mut client = Client { send, driver, access: running.access().await, path };
    assert_eq!(client.push("device").await.unwrap().status, 200);

    let mut without = running.tls(&[]).await.unwrap();
    assert!(matches!(without.read(&mut [0; 1]).await, Ok(0) | Err(_)));
    assert!(running.tls(&[b"http/1.1"]).await.is_err());
    assert_eq!(running.v1.stats().violations.alpn, 2);
    running.stop().await;
}

#[tokio::test]
async fn every_scripted_answer_comes_byte_by_byte() {
    let running = start(V1Config::default()).await;
    let mut client = running.client().await;
    for (kind, word) in FaultKind::ALL {
        let Some(wanted) = Reply::of(kind, "message.token") else { continue };
        let token = format!("sim-{word}+7:x");
        let heard = client.push(&token).await.unwrap();
        assert_eq!((heard.status, heard.text()), (wanted.status, wanted.body), "{word}");
        assert_eq!((&*heard.content_type, heard.retry_after.as_deref()), (wanted.content_type, Some("7")), "{word}");
        assert_eq!(running.sim.received(&token).len(), usize::from(kind.is_taken()), "{word}");
    }
    running.stop().await;
}

#[tokio::test]
async fn a_client_cannot_tell_whether_these_were_taken() {
    let running = start(V1Config::default()).await;
    for (word, taken) in [
        ("reset-stream", 0),
        ("reset-connection", 0),
        ("accept-reset-stream", 1),
        ("accept-reset-connection", 1),
        ("accept-cut", 1),
    ] {
        let mut client = running.client().await;
        let token = format!("sim-{word}:x");
        let error = client.push(&token).await.unwrap_err();
        assert_eq!(running.sim.received(&token).len(), taken, "{word}");
        if word.ends_with("connection") {
            assert!(error.is_io(), "{word}: {error}");
            assert!(client.ended().await.is_err());
        } else {
            assert_eq!(error.reason(), Some(h2::Reason::INTERNAL_ERROR), "{word}");
            assert_eq!(client.push("after").await.unwrap().status, 200, "the connection goes on");
        }
    }
    running.stop().await;
}

#[tokio::test]
async fn a_silent_stream_lasts_until_the_client_resets_it() {
    let running = start(V1Config::default()).await;
    let mut events = running.sim.events();
    let mut client = running.client().await;
    let silent = json!({"message": {"token": "sim-accept-silence:x", "data": {"mid": "m"}}});
    let mut answer = Box::pin(hear(client.begin(&silent).await.unwrap()));
    while !matches!(events.recv().await.unwrap(), SimEvent::Delivered { .. }) {}
    assert!(futures_util::poll!(&mut answer).is_pending());
    drop(answer);
    assert_eq!(client.push("device").await.unwrap().status, 200);
    assert_eq!(running.sim.received("sim-accept-silence:x").len(), 1);
    running.stop().await;
}

#[tokio::test]
async fn rules_devices_and_delays_make_things_go_wrong_too() {
    let running = start(V1Config::default()).await;
    let mut client = running.client().await;
    let rules = vec![Rule { prefix: "a".into(), ..Rule::times(FaultKind::Unavailable, 1) }];
    running.v1.set_faults(V1Faults { rules, latency_ms: 1, jitter_ms: 2, ..V1Faults::default() }).unwrap();
    assert_eq!(client.push("b").await.unwrap().status, 200);
    assert_eq!([client.push("a").await.unwrap().status, client.push("a").await.unwrap().status], [503, 200]);
    let refuse = Some(Refuse { code: "SENDER_ID_MISMATCH".into(), times: 1 });
    running.sim.put_device("c", DevicePatch { refuse, ..DevicePatch::default() }).unwrap();
    assert_eq!([client.push("c").await.unwrap().status, client.push("c").await.unwrap().status], [403, 200]);
    let slow = client.begin(&json!({"message": {"token": "sim-accept~40:x"}})).await.unwrap();
    assert_eq!(client.push("fast").await.unwrap().status, 200);
    assert_eq!(hear(slow).await.unwrap().status, 200);
    assert_eq!(running.v1.stats().fault_kinds, [("sender-id-mismatch", 1), ("unavailable", 1)].into());
    running.stop().await;
}

#[tokio::test]
async fn devices_are_those_of_ccs_and_apps_confirm() {
    let running = start(V1Config::default()).await;
    let mut events = running.sim.events();
    let mut client = running.client().await;
    let state = |state| DevicePatch { state: Some(state), ..DevicePatch::default() };
    running.sim.put_device("d", state(Presence::Offline)).unwrap();
    for n in 0..101 {
        let body = json!({"message": {"token": "d", "data": {"mid": n.to_string(), "ack": "app/self/receipts"}}});
        assert_eq!(client.send(&body).await.unwrap().status, 200);
    }
    while !matches!(events.recv().await.unwrap(), SimEvent::Deleted { .. }) {}
    running.sim.put_device("d", state(Presence::Online)).unwrap();
    let (topic, id) = loop {
        if let SimEvent::AppAck { topic, id } = events.recv().await.unwrap() {
            break (topic, id);
        }
    };
    assert_eq!((&*topic, &*id), ("app/self/receipts", "100"), "only what came last was still there");
    let acks = running.v1.app_acks(0, 10);
    assert_eq!((acks.len(), &*acks[0].token, &*acks[0].id), (1, "d", "100"));
    running.sim.put_device("d", state(Presence::Uninstalled)).unwrap();
    let heard = client.push("d").await.unwrap();
    assert_eq!((heard.status, &heard.json()["error"]["details"][0]["errorCode"]), (404, &json!("UNREGISTERED")));
    running.stop().await;
}

#[tokio::test]
async fn the_control_port_shows_and_changes_the_v1_side() {
    let running = start(V1Config::default()).await;
    let control = running.sim.control_address().unwrap().to_string();
    let ask = async |method: &str, path: &str, body: &str| {
        let (status, _, body) = running.http(&control, method, path, "", body).await;
        (status, serde_json::from_str::<Value>(&body).unwrap())
    };
    let (_, places) = ask("GET", "/v1", "").await;
    assert_eq!(places["base_url"], json!(running.v1.base_url()));
    let plan = r#"{"rules":[{"then":"bad-gateway","times":1}]}"#;
    assert_eq!(ask("PUT", "/v1/faults", plan).await.0, 200);
    let mut client = running.client().await;
    assert_eq!(client.push("device").await.unwrap().status, 502);
    assert_eq!(ask("GET", "/v1/faults", "").await.1["rules"], json!([]));
    assert_eq!(ask("GET", "/v1/stats", "").await.1["statuses"], json!({"502": 1}));
    assert_eq!(ask("PUT", "/v1/quotas", r#"{"device_per_minute":1}"#).await.1["device_per_hour"], json!(5_000));
    assert_eq!(client.push("device").await.unwrap().status, 200);
    let heard = client.push("device").await.unwrap();
    assert_eq!((heard.status, heard.retry_after.is_some()), (429, true));
    assert_eq!(ask("DELETE", "/v1/tokens", "").await.1, json!({"revoked": 1}));
    assert_eq!(ask("GET", "/v1/tokens", "").await.1[0]["revoked"], json!(true));
    assert_eq!(ask("GET", "/v1/acks", "").await.1, json!([]));
    for (path, body) in [("/v1/faults", r#"{"rules":[{"then":"x"}]}"#), ("/v1/quotas", r#"{"typo":1}"#)] {
        assert_eq!(ask("PUT", path, body).await.0, 400, "{path}");
    }
    assert_eq!(ask("POST", "/v1/reset", "").await.1, json!({"connections": 1}));
    assert!(client.ended().await.is_err());
    running.stop().await;
}
