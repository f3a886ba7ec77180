//! What was published where its publisher may not write.

use super::chat::at;
use super::*;
use crate::chat::principal::Role;

impl Harness {
    async fn denied(&self, principal: Principal, topic: &str, payload: &Value, dup: bool) {
        let (ack, word) = Ack::new();
        let publish = Inbound::new(principal, topic.into(), payload.to_string().into(), ack);
        self.mqtt.inbound.send(Inbound { denied: true, dup, ..publish }).await.unwrap();
        assert_eq!(timeout(word).await, Ok(AckWord::Done));
    }
}

#[tokio::test]
async fn it_is_told_in_the_inbox_of_its_publisher_and_nothing_else_is_done() {
    let mut harness = Harness::open();
    let message = json!({"id": "a1", "token": "secret", "data": {}});
    for (client, role, topic) in [
        ("bal1:w1", Role::Bal, "bal2/self/messages"),
        ("alice:phone", Role::User, "bal1/self/messages"),
        ("alice:phone", Role::User, "_bridge/commands"),
        ("alice:phone", Role::User, "elsewhere"),
    ] {
        let name = client.split(':').next().unwrap();
        for (dup, mark) in [(false, Value::Null), (true, json!(true))] {
            harness.denied(Principal { role, ..at(client) }, topic, &message, dup).await;
            let (errors, error) = harness.read().await;
            assert_eq!(errors, format!("{name}/others/errors"));
            assert_eq!((&error["code"], &error["ref"]), (&json!("FORBIDDEN"), &json!("a1")));
            assert_eq!((&error["topic"], &error["sample"], &error["redelivered"]), (&json!(topic), &json!(""), &mark));
        }
    }
    assert!(harness.transport.sends.try_recv().is_err());
    harness.close().await;
}
