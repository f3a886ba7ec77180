//! What a user has and has read, and what the writers hear of it.

use super::*;

async fn told_of(chat: &Chat, writer: &str) -> Vec<String> {
    let told = chat.told(writer, "receipts").await;
    told.iter()
        .map(|receipt| {
            let up_to = if receipt["up_to"] == true { " up_to" } else { "" };
            format!("{} {}{up_to}", receipt["sid"].as_str().unwrap(), receipt["status"].as_str().unwrap())
        })
        .filter(|told| !told.ends_with(" sent"))
        .collect()
}

async fn three(chat: &mut Chat) -> [Sid; 3] {
    [
        chat.write("alice", "bob", "1").await,
        chat.write("alice", "bob", "2").await,
        chat.write("alice", "bob", "3").await,
    ]
}

fn done(confirmed: &[Sid]) -> ChatOutcome {
    ChatOutcome::Done { seen: Vec::new(), stranger: false, waits: false, confirmed: confirmed.to_vec() }
}

#[tokio::test]
async fn a_receipt_confirms_what_waited_in_its_conversation_and_in_no_other() {
    let mut chat = Chat::of_two().await;
    chat.write("carol", "bob", "hello?").await;
    let [first, second, third] = three(&mut chat).await;
    let elsewhere = chat.write("carol", "bob", "I am carol").await;
    let last = chat.write("alice", "bob", "4").await;
    let waited = vec![first, third, elsewhere, last];
    let of = |of, read| NewReceipt { of, read, waited: waited.clone(), ..received("bob", &[]) };
    let each = of(ReceiptOf::Each(vec![third, second]), false);
    assert_eq!(chat.receipt(each).await, done(&[third, second]), "no other one is meant");
    assert_eq!(chat.receipt(of(ReceiptOf::UpTo(last), false)).await, done(&[last, first, third]));
    assert_eq!(chat.receipt(of(ReceiptOf::Each(vec![third]), true)).await, done(&[third, first]));
    assert_eq!(chat.receipt(of(ReceiptOf::In(owner("carol"), elsewhere), true)).await, done(&[elsewhere]));
}

#[tokio::test]
async fn delivered_is_told_at_the_first_confirmation_and_never_again() {
    let mut chat = Chat::of_two().await;
    let [first, second, third] = three(&mut chat).await;
    chat.receipt(received("bob", &[first, first])).await;
    chat.receipt(NewReceipt { dev: Some(device("web")), ..received("bob", &[first]) }).await;
    assert_eq!(told_of(&chat, "alice").await, [format!("{first} delivered")]);
    chat.receipt(NewReceipt { of: ReceiptOf::UpTo(second), ..received("bob", &[]) }).await;
    assert_eq!(told_of(&chat, "alice").await, [format!("{second} delivered up_to")]);
    chat.receipt(received("bob", &[third])).await;
    chat.receipt(NewReceipt { of: ReceiptOf::UpTo(third), ..received("bob", &[]) }).await;
    assert_eq!(told_of(&chat, "alice").await, [format!("{third} delivered")]);
}

#[tokio::test]
async fn what_an_mqtt_client_of_the_reader_acknowledges_is_delivered() {
    let mut chat = Chat::of_two().await;
    let sid = chat.write("alice", "bob", "hi").await;
    let waiting = chat.rig.next("bob/others/messages", 0).await;
    let references: Vec<_> = waiting.into_iter().map(|document| document.reference).collect();
    let own = chat.rig.next("alice/others/messages", 0).await.into_iter().map(|own| own.reference).collect();
    let ack = |references, by| chat.rig.store.documents_acked(references, by, NOW);
    ack(own, AckedBy::Owner).await.unwrap().await.unwrap();
    assert!(told_of(&chat, "alice").await.is_empty(), "that of the writer's own copy says nothing of the reader");
    for by in [AckedBy::Broker, AckedBy::Owner, AckedBy::Owner] {
        ack(references.clone(), by).await.unwrap().await.unwrap();
    }
    assert_eq!(told_of(&chat, "alice").await, [format!("{sid} delivered")]);
}

#[tokio::test]
async fn a_read_position_goes_forward_only_and_is_told_to_both_sides() {
    let mut chat = Chat::of_two().await;
    let [first, second, third] = three(&mut chat).await;
    for sid in [second, second, first] {
        assert_eq!(chat.read("bob", "alice", sid).await, done(&[sid]));
    }
    // No device has confirmed it before.
    let expected = [format!("{second} delivered up_to"), format!("{second} read up_to")];
    assert_eq!(told_of(&chat, "alice").await, expected);
    let position = json!({ "with": "alice", "sid": second.to_string(), "unread": 1 });
    assert_eq!(chat.told("bob", "read").await, [position]);
    assert_eq!(chat.count("SELECT unread FROM users WHERE user = 'bob'"), 1);
    // A receipt with `read` is the same thing.
    chat.receipt(NewReceipt { read: true, ..received("bob", &[third, second]) }).await;
    let expected = [format!("{third} delivered up_to"), format!("{third} read up_to")];
    assert_eq!(told_of(&chat, "alice").await, expected);
    assert_eq!(chat.told("bob", "read").await.len(), 1);
    chat.receipt(received("bob", &[first, second, third])).await;
    assert!(told_of(&chat, "alice").await.is_empty(), "what was read has arrived");
}

#[tokio::test]
async fn only_what_went_to_a_user_can_be_confirmed_or_read() {
    let mut chat = Chat::of_two().await;
    chat.rig.store.chat_user_seen(owner("eve")).await.unwrap().await.unwrap();
    let [first, ..] = three(&mut chat).await;
    let to_eve = chat.write("alice", "eve", "hi").await;
    chat.forget("alice").await;
    let unknown = chat.rig.sid();
    for sid in [first, unknown] {
        assert_eq!(code(&chat.receipt(received("eve", &[sid])).await), Some(ErrorCode::NotFound));
        assert_eq!(code(&chat.read("eve", "alice", sid).await), Some(ErrorCode::NotFound));
    }
    assert_eq!(code(&chat.receipt(received("alice", &[first])).await), Some(ErrorCode::NotFound), "her own");
    assert_eq!(code(&chat.read("bob", "eve", first).await), Some(ErrorCode::NotFound), "another conversation");
    assert_eq!(code(&chat.receipt(received("eve", &[to_eve, first])).await), Some(ErrorCode::NotFound));
    assert!(told_of(&chat, "alice").await.is_empty(), "all or nothing");
    let own = chat.rig.store.chat_messages_to(owner("eve"), vec![first, to_eve, unknown]).await.unwrap().await.unwrap();
    assert_eq!(own, [to_eve]);
}

#[tokio::test]
async fn strangers_and_the_blocked_hear_nothing_back_and_nobody_hears_what_is_hidden() {
    let mut chat = Chat::of(&["alice", "bob"]).await;
    let sid = chat.write("alice", "bob", "hi").await;
    chat.receipt(received("bob", &[sid])).await;
    chat.read("bob", "alice", sid).await;
    assert!(told_of(&chat, "alice").await.is_empty(), "she is no contact of his");

    chat.write("bob", "alice", "who are you").await;
    let told = [format!("{sid} delivered up_to"), format!("{sid} read up_to")];
    assert_eq!(told_of(&chat, "alice").await, told, "now she is");
    chat.set("bob", SettingChange::HideRead(true)).await;
    let [first, second, third] = three(&mut chat).await;
    chat.receipt(received("bob", &[first])).await;
    chat.read("bob", "alice", second).await;
    assert_eq!(told_of(&chat, "alice").await, [format!("{first} delivered"), format!("{second} delivered up_to")]);
    chat.block("bob", "alice", true).await;
    chat.receipt(received("bob", &[third])).await;
    assert!(told_of(&chat, "alice").await.is_empty(), "what came before the block is not confirmed behind it");

    let to_alice = chat.write("bob", "alice", "bye").await;
    chat.forget("bob").await;
    chat.read("alice", "bob", to_alice).await;
    assert!(told_of(&chat, "bob").await.is_empty(), "who blocks hears nothing of the blocked");
}

#[tokio::test]
async fn a_reaction_is_a_message_that_nobody_has_to_read() {
    let mut chat = Chat::of_two().await;
    let sid = chat.write("alice", "bob", "hi").await;
    chat.register("alice", "phone", "T1").await;
    let reaction = json!({ "to": "alice", "type": "reaction", "ref": sid.to_string(), "body": "+" });
    let (reacted, outcome) = chat.send(writer("bob"), peer("alice", &[]), &reaction).await;
    assert_eq!(outcome, done(&[]));
    assert!(chat.pushes().await.is_empty());
    assert_eq!(chat.count("SELECT unread FROM users WHERE user = 'alice'"), 0);
    assert_eq!(chat.told("alice", "messages").await.last().unwrap()["n"], 5);
    chat.forget("bob").await;
    chat.read("alice", "bob", reacted).await;
    let expected = [format!("{reacted} delivered up_to"), format!("{reacted} read up_to")];
    assert_eq!(told_of(&chat, "bob").await, expected);
}

#[tokio::test]
async fn what_is_set_is_told_to_the_own_devices_and_kept() {
    let mut chat = Chat::of_two().await;
    let told = Bytes::from(r#"{"op":"mute"}"#);
    let mute = SettingChange::About(owner("alice"), EntryChange::Mute(Some((NOW + DAY, MuteLevel::None))));
    chat.rig.store.chat_set(owner("bob"), mute, told, NOW).await.unwrap().await.unwrap().unwrap();
    assert_eq!(chat.told("bob", "changes").await, [json!({ "op": "mute" })]);
    let seen = chat.set("bob", SettingChange::HidePresence(true)).await;
    assert!(seen.is_empty(), "contacts still see the profile");
    let mut chat = chat.crash().await;
    let settings = chat.rig.store.chat_settings(owner("bob")).await.unwrap().await.unwrap().unwrap();
    assert!(settings.hide_presence && !settings.hide_read && settings.writers.is_none());
    let contacts = chat.rig.store.chat_contacts(owner("bob"), String::new()).await.unwrap().await.unwrap().items;
    assert_eq!((contacts.len(), contacts[0].entry.muted_until), (1, Some(NOW + DAY)));
    let visible = |user| chat.rig.store.chat_visible_to(owner(user));
    let seen = visible("alice").await.unwrap().await.unwrap();
    assert_eq!(seen, VisibleTo { users: vec![owner("bob")], presence: true });
    let seen = visible("bob").await.unwrap().await.unwrap();
    assert_eq!(seen, VisibleTo { users: vec![owner("alice")], presence: false }, "who hides sees nobody");
    let removed = chat.set("alice", SettingChange::About(owner("bob"), EntryChange::RemoveContact)).await;
    assert_eq!(removed, [Seeing { watcher: owner("bob"), of: owner("alice"), visible: false }]);
    assert_eq!(chat.rig.store.chat_settings(owner("eve")).await.unwrap().await.unwrap(), None);
}

#[tokio::test]
async fn contacts_come_in_pages() {
    let mut chat = Chat::of(&["alice"]).await;
    let names: Vec<_> = (0..250).map(|n| format!("user-{n:03}")).collect();
    for name in &names {
        chat.block("alice", name, true).await;
    }
    // A mute that is over leaves nothing.
    chat.set("alice", SettingChange::About(owner("nobody"), EntryChange::Mute(Some((NOW, MuteLevel::None))))).await;
    let (mut found, mut after) = (Vec::new(), String::new());
    loop {
        let page = chat.rig.store.chat_contacts(owner("alice"), after.clone()).await.unwrap().await.unwrap();
        found.extend(page.items.iter().map(|contact| contact.user.to_string()));
        if page.complete {
            break;
        }
        assert_eq!(page.items.len(), CONTACTS_PAGE);
        after = found.last().unwrap().clone();
    }
    assert_eq!(found, names);
}
