//! Over a real socket on a free port, with HTTP written by hand.

use super::*;
use crate::sim::{SimConfig, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::oneshot;
use tokio::task::JoinSet;

struct Http {
    handle: SimHandle,
    stop: CancellationToken,
    tasks: JoinSet<()>,
}

impl Http {
    async fn start() -> Self {
        let any = "127.0.0.1:0".parse().unwrap();
        let config = SimConfig { listen: any, control: Some(any), ..SimConfig::default() };
        let (ready, handle) = oneshot::channel();
        let stop = CancellationToken::new();
        let mut tasks = JoinSet::new();
        let stopped = stop.clone();
        tasks.spawn(async move { run(config, ready, stopped).await.unwrap() });
        Self { handle: handle.await.unwrap(), stop, tasks }
    }

    async fn ask(&self, method: &str, path: &str, body: &str) -> (u16, Value) {
        let mut socket = TcpStream::connect(self.handle.control_address().unwrap()).await.unwrap();
        let length = body.len();
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: sim\r\nConnection: close\r\nContent-Length: {length}\r\n\
             Content-Type: application/x-www-form-urlencoded\r\n\r\n{body}"
        );
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        let (head, body) = answer.split_once("\r\n\r\n").unwrap();
        let status = head.split(' ').nth(1).unwrap().parse().unwrap();
        (status, serde_json::from_str(body).unwrap_or_else(|_| panic!("{answer}")))
    }

    async fn stop(mut self) {
        self.stop.cancel();
        while let Some(ended) = self.tasks.join_next().await {
            ended.unwrap();
        }
    }
}

#[tokio::test]
async fn devices_are_set_up_and_looked_at_whatever_is_in_their_tokens() {
    let http = Http::start().await;
    let token = "APA91b:x%2Fy z";
    assert_eq!(http.ask("PUT", &format!("/devices/{token}").replace(' ', "%20"), "{}").await.0, 400, "a blank");
    let body = r#"{"state":"slow","delay_ms":5,"nack":{"code":"SERVICE_UNAVAILABLE","times":2},"topics":["x"]}"#;
    let (status, device) = http.ask("PUT", "/devices/APA91b:x%2Fy", body).await;
    assert_eq!((status, &device["token"], &device["state"]), (200, &json!("APA91b:x/y"), &json!("slow")));
    assert_eq!(device["refuse"], json!({"code": "SERVICE_UNAVAILABLE", "times": 2}));
    let (_, device) = http.ask("PUT", "/devices/APA91b%3Ax%2Fy", r#"{"state":"online"}"#).await;
    assert_eq!((&device["delay_ms"], &device["topics"]), (&json!(5), &json!(["x"])), "what is absent stays");
    let (_, devices) = http.ask("GET", "/devices?limit=10", "").await;
    assert_eq!(devices.as_array().unwrap().len(), 1);
    assert_eq!(http.ask("GET", "/devices/unknown", "").await.0, 404);
    http.stop().await;
}

#[tokio::test]
async fn devices_are_made_to_send() {
    let http = Http::start().await;
    let body = r#"{"category":"com.app","data":{"k":"v"},"count":3}"#;
    assert_eq!(http.ask("POST", "/devices/a/upstream", body).await, (200, json!({"sent": 3})));
    let (_, sent) = http.ask("POST", "/upstream", r#"{"devices":10,"per_device":5}"#).await;
    assert_eq!(sent, json!({"sent": 50}));
    let (_, stats) = http.ask("GET", "/stats", "").await;
    assert_eq!((&stats["upstream"]["made"], &stats["now"]["unacked"]), (&json!(53), &json!(53)));
    http.ask("PUT", "/devices/a", r#"{"state":"offline"}"#).await;
    let (status, error) = http.ask("POST", "/devices/a/upstream", "").await;
    assert_eq!((status, &error["error"]), (409, &json!("the device is Offline and cannot send")));
    http.stop().await;
}

#[tokio::test]
async fn faults_are_replaced_as_a_whole_and_orders_say_how_many_they_reached() {
    let http = Http::start().await;
    let (status, faults) = http.ask("PUT", "/faults", r#"{"latency_ms":7,"drain":{"close_ms":null}}"#).await;
    assert_eq!((status, &faults["latency_ms"], &faults["drain"]["close_ms"]), (200, &json!(7), &Value::Null));
    http.ask("PUT", "/faults", "{}").await;
    assert_eq!(http.ask("GET", "/faults", "").await.1["latency_ms"], json!(0));
    for path in ["/drain", "/close", "/reset"] {
        assert_eq!(http.ask("POST", path, "").await, (200, json!({"connections": 0})));
    }
    assert_eq!(http.ask("GET", "/healthz", "").await.0, 200);
    http.stop().await;
}

#[tokio::test]
async fn every_mistake_is_told_as_json() {
    let http = Http::start().await;
    for (method, path, body, status) in [
        ("PUT", "/faults", r#"{"lose_ack":2}"#, 400),
        ("PUT", "/faults", "{", 400),
        ("PUT", "/faults", r#"{"typo":1}"#, 400),
        ("PUT", "/devices/a", r#"{"state":"asleep"}"#, 400),
        ("PUT", "/devices/a", r#"{"topics":["a b"]}"#, 400),
        ("PUT", "/devices/%FF", "{}", 400),
        ("POST", "/upstream", "{}", 400),
        ("POST", "/upstream", r#"{"devices":99999999,"per_device":99999999999}"#, 400),
        ("GET", "/devices?limit=x", "", 400),
        ("GET", "/nowhere", "", 404),
        ("DELETE", "/stats", "", 405),
    ] {
        let (seen, answer) = http.ask(method, path, body).await;
        assert_eq!(seen, status, "{method} {path} {body}");
        assert!(answer["error"].is_string(), "{method} {path}: {answer}");
    }
    let (status, answer) = http.ask("PUT", "/faults", &"x".repeat(MAX_BODY + 1)).await;
    assert_eq!((status, answer["error"].is_string()), (413, true));
    http.stop().await;
}
