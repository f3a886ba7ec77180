//! Documents of chat users, which are dropped where nobody reads them.

use super::sessions::{ALL, ask, took};
use super::*;

const INBOX: &str = "alice/others/messages";

async fn tell(rig: &Rig, topic: &str, copy_of: Option<Sid>, text: &str) {
    let payload = Bytes::from(text.to_owned());
    ask!(rig, queue_user_document, UserDocument { topic: topic.to_owned(), copy_of, payload, at: NOW });
}

async fn found(rig: &Rig, topic: &str) -> Vec<(u64, Origin)> {
    let page = ask!(rig, read_documents, topic.into(), None, 0, ALL);
    page.documents.into_iter().map(|found| (found.waiting.reference.seq, found.waiting.reference.origin)).collect()
}

#[tokio::test]
async fn only_what_may_be_dropped_is_and_only_up_to_what_was_named() {
    let mut rig = Rig::new(Limits::default());
    let sid = rig.sid();
    tell(&rig, INBOX, Some(sid), "a copy").await;
    let note = Note { topic: INBOX.to_owned(), payload: "kept".into(), correlation: None, at: NOW };
    ask!(rig, queue_note, note);
    tell(&rig, INBOX, None, "a note").await;
    let there = found(&rig, INBOX).await;
    let [(_, Origin::ChatCopy(of)), (kept, Origin::Note), (last, Origin::UserNote)] = there[..] else {
        panic!("{there:?}")
    };
    assert_eq!(of, sid);
    let unread = |up_to| vec![Unread { topic: INBOX.into(), up_to }];
    for _ in 0..2 {
        assert!(!ask!(rig, drop_unread, unread(kept)));
        assert_eq!(found(&rig, INBOX).await, [(kept, Origin::Note), (last, Origin::UserNote)]);
    }
    assert!(!ask!(rig, drop_unread, unread(last)));
    assert_eq!(found(&rig, INBOX).await, [(kept, Origin::Note)]);
    assert_eq!(ask!(rig, topics_to_drop, String::new(), 9), []);
}

#[tokio::test]
async fn the_topics_are_found_page_by_page_with_their_last_documents_also_after_a_crash() {
    let rig = Rig::new(Limits::default());
    let note = Note { topic: "bob/others/messages".into(), payload: "kept".into(), correlation: None, at: NOW };
    ask!(rig, queue_note, note);
    for topic in ["b/others/x", "a/others/x", "c/others/x", "a/others/x"] {
        tell(&rig, topic, None, "n").await;
    }
    let rig = rig.crash();
    let last = |found: Vec<(u64, Origin)>| found.last().unwrap().0;
    let mut expected = Vec::new();
    for topic in ["a/others/x", "b/others/x", "c/others/x"] {
        expected.push(Unread { topic: topic.into(), up_to: last(found(&rig, topic).await) });
    }
    assert_eq!(ask!(rig, topics_to_drop, String::new(), 2), expected[..2]);
    assert_eq!(ask!(rig, topics_to_drop, "b/others/x".to_owned(), 2), expected[2..]);
}

#[tokio::test]
async fn many_are_dropped_in_parts() {
    let rig = Rig::in_memory(Limits::default());
    for _ in 0..501 {
        tell(&rig, INBOX, None, "n").await;
    }
    let all = vec![Unread { topic: INBOX.into(), up_to: u64::MAX }];
    assert!(ask!(rig, drop_unread, all.clone()));
    assert_eq!(found(&rig, INBOX).await.len(), 1);
    assert!(!ask!(rig, drop_unread, all));
    assert!(found(&rig, INBOX).await.is_empty());
}

#[tokio::test]
async fn who_has_a_dropped_document_acknowledges_it_in_vain() {
    let mut rig = Rig::new(Limits::default());
    let sid = rig.sid();
    let queue = rig.session("laptop").await;
    tell(&rig, INBOX, Some(sid), "a copy").await;
    let page = ask!(rig, read_documents, INBOX.into(), Some(queue), 0, ALL);
    let reference = page.documents[0].waiting.reference.clone();
    ask!(rig, drop_unread, vec![Unread { topic: INBOX.into(), up_to: reference.seq }]);
    let others = vec![sessions::to(queue)];
    let acked = took(None, &[], vec![AckedDocument { reference, others }]);
    assert_eq!(ask!(rig, acknowledged, acked), AckOutcome::default());
    assert!(ask!(rig, read_documents, INBOX.into(), Some(queue), 0, ALL).documents.is_empty(), "nobody else has it");
}
