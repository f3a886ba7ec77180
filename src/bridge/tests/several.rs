//! A message with several deliveries: what the bridge does with each of them.

use super::*;
use crate::chat::id::{MessageId, SidSource};
use crate::chat::push::{Priority, Push, Target};
use crate::store::{Deliveries, Destination, NewDelivery, NewMessage, NewPush, SeveralDeliveries};
use serde_json::Map;

const INBOX_OF: &str = "alice/others/messages";

fn to(token: &str) -> Target {
    Target::Token(Token::new(token).unwrap())
}

/// What all recipients get.
fn shared() -> Push {
    let (target, data) = (Target::Topic("all".to_owned()), Map::from_iter([("k".to_owned(), "v".into())]));
    let (priority, fcm) = (Priority::Normal, Map::new());
    Push { target, data, notification: None, priority, collapse: None, receipt: true, fcm }
}

/// `a1` of `c`, to two devices and into an inbox; and the id of the delivery there.
fn message() -> (NewMessage, Sid) {
    let (now, mut sids) = (now_ms(), SidSource::default());
    let push = |token| {
        let (recipient, transport, deadline_ms) = (to(token).recipient(), Transport::Ccs, now + 600_000);
        let address = to(token).to_address().into();
        Destination::Push { push: NewPush { recipient, transport, deadline_ms, receipt: true }, address }
    };
    let inbox = Destination::Inbox { topic: INBOX_OF.to_owned(), deadline_ms: None, receipt: true };
    let sid = sids.next(now, 1);
    let deliveries = [push("T1"), inbox, push("T2")];
    let deliveries = deliveries.map(|destination| NewDelivery { sid: sids.next(now, 1), destination });
    let in_inbox = deliveries[1].sid;
    let new = NewMessage {
        sid,
        bal: Owner::new("c").unwrap(),
        id: MessageId::new("a1").unwrap(),
        order: None,
        body: shared().to_body().into(),
        accepted_at: now,
        reply: "c/others/receipts".into(),
        correlation: None,
        notice: None,
        deliveries: Deliveries::Several(SeveralDeliveries::new(sid, deliveries.into()).unwrap()),
    };
    (new, in_inbox)
}

#[tokio::test]
async fn each_device_is_sent_what_all_get_and_the_inbox_has_it_as_it_is() {
    let mut harness = Harness::open();
    harness.store.accept(message().0).await.unwrap().await.unwrap();
    for token in ["T1", "T2"] {
        assert_eq!(harness.sent().await.push, Push { target: to(token), ..shared() });
    }
    let (mut statuses, mut inbox) = (Vec::new(), Value::Null);
    while statuses.len() < 2 {
        match harness.read().await {
            (topic, document) if topic == INBOX_OF => inbox = document,
            (_, document) => statuses.push(document["status"].clone()),
        }
    }
    assert_eq!(statuses, ["accepted", "sent"]);
    assert_eq!(inbox, json!({"target": {"topic": "all"}, "data": {"k": "v"}, "priority": "normal", "receipt": true}));
    harness.close().await;
}

/// A confirmation does not say whose it is, so neither broker knows that the owner of the inbox has read.
#[tokio::test]
async fn what_a_broker_has_is_sent_and_delivered_on_the_word_of_its_reader() {
    for broker in [BrokerKind::Embedded, BrokerKind::External] {
        let mut harness = Harness::open_for(Settings { broker, ..settings() });
        let (new, in_inbox) = message();
        // A reader knows the message. Who was told of the delivery may name that.
        let known = if broker == BrokerKind::Embedded { new.sid } else { in_inbox };
        let receipt = json!({"id": known.to_string(), "status": "received"});
        harness.store.accept(new).await.unwrap().await.unwrap();
        let mut statuses = Vec::new();
        while statuses.len() < 2 {
            let (topic, document) = harness.read().await;
            if topic != INBOX_OF {
                statuses.push(document["status"].clone());
            }
        }
        assert_eq!(statuses, ["accepted", "sent"]);
        let counted = async |metric| {
            while harness.metrics.get(metric) != 1 {
                tokio::task::yield_now().await;
            }
        };
        timeout(counted(Metric::DownstreamSent)).await;
        assert_eq!(timeout(harness.publish("alice/self/receipts", &receipt).await).await, Ok(AckWord::Done));
        timeout(counted(Metric::DownstreamDelivered)).await;
        assert_eq!(harness.status().await, ("a1".to_owned(), "delivered".to_owned()));
        harness.close().await;
    }
}
