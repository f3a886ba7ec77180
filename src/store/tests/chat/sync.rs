//! What a client asks for that has missed something.

use super::*;

impl Chat {
    pub(super) async fn page(&self, user: &str, since: Option<Sid>) -> SyncPage {
        self.rig.store.chat_sync(owner(user), since).await.unwrap().await.unwrap()
    }

    /// All pages from there on, as (sid, n, body); and how many pages it were.
    async fn pages(&self, user: &str, since: Option<Sid>) -> (Vec<(String, u64, String)>, usize) {
        let (mut items, mut since, mut pages) = (Vec::new(), since, 0);
        loop {
            let page = self.page(user, since).await;
            pages += 1;
            items.extend(page.items.iter().map(|item| {
                let item: Value = serde_json::from_slice(item).unwrap();
                let text = |name: &str| item[name].as_str().unwrap().to_owned();
                (text("sid"), item["n"].as_u64().unwrap(), text("body"))
            }));
            if page.complete {
                return (items, pages);
            }
            since = page.next;
        }
    }
}

#[tokio::test]
async fn everything_behind_a_message_comes_in_order_over_all_conversations() {
    let mut chat = Chat::of(&["alice", "bob", "carol"]).await;
    let mut expected = Vec::new();
    let first = chat.write("bob", "alice", "0").await;
    for round in 1..=80 {
        for (from, to) in [("alice", "bob"), ("carol", "alice"), ("bob", "carol"), ("alice", "alice")] {
            let sid = chat.write(from, to, &format!("{from} {round}")).await;
            if from != "bob" {
                expected.push((sid.to_string(), format!("{from} {round}")));
            }
        }
    }
    let (items, pages) = chat.pages("alice", Some(first)).await;
    let got: Vec<_> = items.iter().map(|(sid, _, body)| (sid.clone(), body.clone())).collect();
    assert_eq!((got, pages), (expected, 3));
    let places: Vec<_> = items.iter().filter(|(.., body)| body.starts_with("carol")).map(|(_, n, _)| *n).collect();
    assert_eq!(places, (1..=80).collect::<Vec<_>>());
    let newest = chat.page("alice", None).await;
    assert_eq!((newest.items.len(), newest.complete, newest.gap), (SYNC_MAX, true, false));
    assert_eq!(newest.next.map(|sid| sid.to_string()), items.last().map(|(sid, ..)| sid.clone()));
    let last = newest.next;
    assert_eq!(chat.page("alice", last).await, SyncPage { complete: true, ..SyncPage::default() });
    assert_eq!(chat.page("eve", None).await, SyncPage { complete: true, ..SyncPage::default() });
}

#[tokio::test]
async fn what_a_block_has_swallowed_is_its_writers_alone() {
    let mut chat = Chat::of_two().await;
    chat.block("bob", "alice", true).await;
    let hidden = chat.write("alice", "bob", "hidden").await.to_string();
    let has = |page: SyncPage| page.items.iter().any(|item| String::from_utf8_lossy(item).contains(&hidden));
    assert!(has(chat.page("alice", None).await) && !has(chat.page("bob", None).await));
}

#[tokio::test]
async fn a_page_keeps_below_its_size_and_has_one_item_at_least() {
    let mut chat = Chat::of(&["alice", "bob"]).await;
    let long = "x".repeat(15_000);
    for _ in 0..7 {
        chat.write("alice", "bob", &long).await;
    }
    let page = chat.page("bob", None).await;
    assert_eq!((page.items.len(), page.complete), (3, false));
    assert!(page.items.iter().map(Bytes::len).sum::<usize>() <= SYNC_BYTES);
    let (items, pages) = chat.pages("bob", None).await;
    assert_eq!((items.len(), pages), (7, 3));
    let huge = json!({ "to": "bob", "body": "é".repeat(16_384), "data": "x".repeat(30_000) });
    chat.send(writer("alice"), peer("bob", &[]), &huge).await;
    let page = chat.page("bob", items.last().map(|(sid, ..)| Sid::parse(sid).unwrap())).await;
    assert_eq!((page.items.len(), page.complete), (1, true));
}
