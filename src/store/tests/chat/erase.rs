//! A person is erased: nothing of them is left in any file, and what is others' stays theirs.

use super::super::sessions::{ask, put, said};
use super::groups::named_settings;
use super::*;
use crate::chat::erasure::alias;
use crate::chat::group::GroupChange;
use crate::chat::push::Target;
use crate::chat::suffix::invitations::{Answer, Invitation, Kind};
use crate::chat::suffix::requests::Writers;
use crate::store::GroupAction;

/// No text of another person, of a key, or of SQLite has it.
const NAME: &str = "zoe-quirk";
const SECRETS: [&str; 4] = [NAME, "ZOES-TOKEN", "xylophone", "ZOES-OTHER-TOKEN"];

impl Chat {
    async fn begin(&mut self, user: &str) -> EraseBegun {
        self.at += 1;
        let aliases = vec![alias(1), alias(2)];
        self.rig.store.erase_begin(NewErase { user: owner(user), aliases, at: self.at }).await.unwrap()
    }

    async fn step(&mut self, user: &str) -> Erasing {
        let call = self.call();
        self.rig.store.erase_step(owner(user), call).await.unwrap().await.unwrap()
    }

    pub(super) async fn erase(&mut self, user: &str) -> Erasure {
        assert_eq!(self.begin(user).await, EraseBegun::Begun);
        loop {
            match self.step(user).await {
                Erasing::More { .. } => {}
                Erasing::Done(erasure) => return erasure,
                other => panic!("{other:?}"),
            }
        }
    }

    /// The same, and who does not see that one any more.
    async fn erase_and_tell(&mut self, user: &str) -> Vec<Owner> {
        assert_eq!(self.begin(user).await, EraseBegun::Begun);
        let mut told = Vec::new();
        loop {
            match self.step(user).await {
                Erasing::More { unseen } => told.extend(unseen),
                other => break assert!(matches!(other, Erasing::Done(_))),
            }
        }
        told
    }

    /// How often each of these stands in the files of the store.
    pub(super) fn found(&self, texts: &[&str]) -> Vec<(String, usize)> {
        let mut found = Vec::new();
        for file in std::fs::read_dir(self.rig.dir.path()).unwrap() {
            let path = file.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            for text in texts {
                let count = bytes.windows(text.len()).filter(|part| *part == text.as_bytes()).count();
                if count > 0 {
                    found.push((format!("{text} in {}", path.file_name().unwrap().display()), count));
                }
            }
        }
        found
    }

    async fn send_to(&mut self, from: &str, to: &str, mut document: Value) -> Sid {
        document["to"] = to.into();
        let (sid, outcome) = self.send(writer(from), peer(to, &[]), &document).await;
        assert!(matches!(outcome, ChatOutcome::Done { .. }), "{outcome:?}");
        sid
    }

    /// Zoe, with everything that a user can have, and what others have of her.
    async fn with_zoe() -> Self {
        let mut chat = Self::of(&["alice", "bob", NAME]).await;
        chat.register(NAME, "phone", "ZOES-TOKEN").await;
        chat.register(NAME, "tablet", "ZOES-OTHER-TOKEN").await;
        chat.register("alice", "phone", "T1").await;
        chat.send_to(NAME, "alice", json!({"id": "m1", "body": "xylophone one"})).await;
        chat.pushes().await;
        chat.send_to("alice", NAME, json!({"id": "a1", "body": "what do you play?"})).await;
        chat.send_to(NAME, "alice", json!({"id": "m2", "body": "xylophone two"})).await;
        chat.send_to(NAME, NAME, json!({"body": "xylophone note"})).await;
        chat.send_to("alice", "bob", json!({"body": "do you know her?", "mentions": [NAME]})).await;
        chat.block(NAME, "bob", true).await;
        chat.send_to("bob", NAME, json!({"body": "are you there?"})).await;
        let bal = Peer { role: Some(Role::Bal), ..peer("bal1", &[]) };
        chat.send(writer(NAME), bal, &json!({"to": "bal1", "body": "xylophone order"})).await;
        chat.set(NAME, SettingChange::Writers(Writers::Contacts)).await;
        ask!(chat.rig, chat_profile, owner(NAME), Some(json!({"name": "Zoe xylophone"}).to_string()));
        let change = PresenceChange {
            user: owner(NAME),
            state: crate::chat::message::PresenceState::Online,
            last_seen: None,
            at: NOW,
        };
        ask!(chat.rig, presence_changed, change);
        chat.with_sessions_of_zoe().await;
        chat.with_group_of_zoe().await;
        chat
    }

    /// Her group, in which all three write, and mention each other.
    async fn with_group_of_zoe(&mut self) {
        let made = GroupAction::Create(named_settings("Team"));
        assert_eq!(self.change_group(NAME, made, &["alice", "bob"]).await.unwrap().version, 1);
        let (asked, _) = self.post("alice", &json!({"body": "what now?"}), &[]).await;
        let edit = json!({"type": "edit", "ref": asked.to_string(), "body": "what next?", "mentions": [NAME]});
        self.post("alice", &edit, &[]).await;
        self.post("bob", &json!({"body": "no idea"}), &[]).await;
        self.pushes().await;
        let (sid, _) = self.post(NAME, &json!({"body": "xylophone four", "mentions": ["bob"]}), &[]).await;
        self.delete("alice", DeletionOf::Each(vec![asked])).await.unwrap();
        self.delete(NAME, DeletionOf::Each(vec![asked])).await.unwrap();
        let edit = json!({"type": "edit", "ref": sid.to_string(), "body": "xylophone five", "mentions": ["bob"]});
        self.post(NAME, &edit, &[]).await;
        let found = self.conversations("bob").await;
        assert_eq!((found.items[0].with.as_str(), found.items[0].unread, found.mentions), ("g-team", 1, 1));
    }

    /// The group goes on without her.
    async fn is_group_without_zoe(&self, alias: &str) {
        let items = self.items("bob", None).await;
        let of_group: Vec<_> = items.iter().filter(|item| item["group"] == "g-team").collect();
        let said: Vec<_> = of_group
            .iter()
            .map(|item| json!([item["from"], item["type"], item["event"], item["who"], item["body"], item["why"]]))
            .collect();
        let expected = json!([
            [alias, "notice", "created", ["alice", "bob"], null, null],
            ["alice", "text", null, null, "what next?", null],
            ["alice", "edit", null, null, "what next?", null],
            ["bob", "text", null, null, "no idea", null],
            [alias, "tombstone", null, null, null, "erased"],
            [alias, "tombstone", null, null, null, "erased"],
            [alias, "notice", "left", [alias], null, null],
            [alias, "notice", "promoted", ["alice"], null, null],
        ]);
        assert_eq!(json!(said), expected);
        assert_eq!(of_group[1]["mentions"], json!([alias]));
        assert_eq!((&of_group[5]["ref"], &of_group[7]["version"]), (&of_group[4]["sid"], &json!(3)));
        let found = self.conversations("bob").await;
        let group = found.items.iter().find(|item| item.with.as_str() == "g-team").unwrap();
        assert_eq!((group.unread, found.mentions), (0, 0), "what was hers to read names nobody");
        let members = "SELECT count(*) FROM members WHERE gone IS NULL AND user IN ('alice', 'bob')";
        assert_eq!((self.count(members), self.count("SELECT count(*) FROM members")), (2, 2));
        assert_eq!(self.count("SELECT members FROM chat_groups"), 2);
    }

    /// A session of hers, and what waits in one of alice.
    async fn with_sessions_of_zoe(&self) {
        let session = async |user: &str| {
            let (key, client) = (format!("{user}:web"), format!("{user}:web"));
            let record = SessionRecord { key, user: Some(user.to_owned()), client, expiry_s: 3600, login: None };
            ask!(self.rig, keep_session, record, None)
        };
        let (hers, alices) = (session(NAME).await, session("alice").await);
        let presence = said(&format!("{NAME}/self/presence"), "{}");
        ask!(self.rig, enqueue, put(&presence, &[hers, alices]));
        let copy = said("alice/others/messages", &json!({"from": NAME, "body": "xylophone three"}).to_string());
        ask!(self.rig, enqueue, put(&copy, &[alices]));
        let retain = Message { retain: true, ..(*said(&format!("{NAME}/self/profile"), "xylophone")).clone() };
        let kept = Enqueue { retain: Some(Retain::Keep(Some(NAME.to_owned()))), ..put(&Arc::new(retain), &[]) };
        ask!(self.rig, enqueue, kept);
        let filters = [
            format!("{NAME}/self/presence"),
            format!("$share/g/{NAME}/self/messages"),
            NAME.to_owned(),
            "$share/g/+/self/messages".to_owned(),
            "+/self/presence".to_owned(),
        ];
        let kept = filters.map(|filter| KeptSubscription { filter, options: 1, id: None });
        ask!(self.rig, subscribe, alices, kept.to_vec());
        ask!(self.rig, keep_group, "g/+/self/messages".to_owned());
        let shared = ask!(self.rig, keep_group, format!("g/{NAME}/self/messages"));
        ask!(self.rig, enqueue, put(&said(&format!("{NAME}/self/messages"), "xylophone six"), &[shared]));
    }

    /// Everybody else has what is theirs, and nothing of hers.
    async fn is_without_zoe(&mut self, erasure: &Erasure) {
        self.is_group_without_zoe(&erasure.alias).await;
        let found = self.conversations("alice").await;
        let talk = found.items.iter().find(|item| item.with.as_str() == erasure.alias).unwrap();
        assert_eq!((talk.unread, found.unread), (0, 1), "bob's message in the group is all that she has to read");
        let items = self.items("alice", None).await;
        let items: Vec<_> = items.into_iter().filter(|item| item["group"].is_null()).collect();
        let said: Vec<_> =
            items.iter().map(|item| (&item["from"], &item["to"], &item["body"], &item["type"])).collect();
        let (alias, alice, none) = (json!(erasure.alias), json!("alice"), Value::Null);
        let (text, gone) = (json!("text"), json!("tombstone"));
        let (asked, bob, about) = (json!("what do you play?"), json!("bob"), json!("do you know her?"));
        let expected = [
            (&alias, &alice, &none, &gone),
            (&alice, &alias, &asked, &text),
            (&alias, &alice, &none, &gone),
            (&alice, &bob, &about, &text),
        ];
        assert_eq!(said, expected);
        let numbers: Vec<u64> = items.iter().map(|item| item["n"].as_u64().unwrap()).collect();
        assert_eq!(numbers, [1, 2, 3, 1], "each keeps its place");
        assert_eq!(items[3]["mentions"], json!([erasure.alias]));
        assert_eq!(self.items("bob", None).await[1]["to"], json!(erasure.alias), "what her block swallowed is his");
        let state = ask!(self.rig, broker_state);
        let filters: Vec<_> = state.sessions.iter().flat_map(|session| &session.subscriptions).collect();
        let filters: Vec<_> = filters.iter().map(|kept| kept.filter.as_str()).collect();
        assert_eq!(filters, ["$share/g/+/self/messages", "+/self/presence"]);
        let groups: Vec<_> = state.groups.iter().map(|group| group.name.as_str()).collect();
        assert_eq!(groups, ["g/+/self/messages"]);
        let figures = self.rig.store.figures();
        assert_eq!(figures.chat_rows as i64, self.count("SELECT count(*) FROM chat"));
        assert_eq!(
            figures.chat_bytes as i64,
            self.count("SELECT sum(length(document) + coalesce(length(own), 0)) FROM chat")
        );
        let spool = self.count("SELECT count(*) FROM outbox WHERE kind IN (1, 2)");
        assert_eq!((figures.spool_rows as i64, spool), (0, 0), "a BAL that was away has nothing of hers");
        let refused = self.send(writer("alice"), peer(NAME, &[]), &json!({"to": NAME, "body": "x"})).await.1;
        assert_eq!(code(&refused), Some(ErrorCode::NotFound));
        let known = Peer { role: Some(Role::User), ..peer(NAME, &[]) };
        let refused = self.send(writer("alice"), known, &json!({"to": NAME, "body": "x"})).await.1;
        assert_eq!(code(&refused), Some(ErrorCode::NotFound), "also where the users file has the name");
        ask!(self.rig, chat_user_seen, owner(NAME));
        assert_eq!(self.count("SELECT count(*) FROM users"), 2);
    }
}

#[tokio::test]
async fn no_file_holds_anything_of_an_erased_person_and_others_keep_what_is_theirs() {
    let mut chat = Chat::with_zoe().await;
    assert!(chat.found(&SECRETS).len() >= SECRETS.len(), "{:?}", chat.found(&SECRETS));
    let erasure = chat.erase(NAME).await;
    assert!(chat.rig.store.is_erased(NAME));
    assert_eq!(chat.rig.store.scrub().await.unwrap(), Scrubbed::Now);
    assert_eq!(chat.found(&SECRETS), []);
    assert_eq!(erasure.removed["devices"], 2);
    assert_eq!(erasure.removed["texts of messages"], 2 + 1 + 2, "to alice, to the BAL, and to the group");
    assert_eq!(erasure.kept["messages of others to the person"], 2);
    chat.is_without_zoe(&erasure).await;
    let pushes = chat.pushes().await;
    assert_eq!(whats(&pushes), [("T1", "clear")], "what waited of hers is withdrawn, and what was sent is cleared");
    let mut chat = chat.crash().await;
    assert!(chat.rig.store.is_erased(NAME), "the name stays taken");
    assert_eq!(chat.begin(NAME).await, EraseBegun::Erased);
    assert!(chat.rig.store.free_name(owner(NAME)).await.unwrap());
    assert!(!chat.rig.store.is_erased(NAME) && !chat.rig.store.free_name(owner(NAME)).await.unwrap());
    ask!(chat.rig, chat_user_seen, owner(NAME));
    assert_eq!(chat.count("SELECT count(*) FROM users"), 3);
}

#[tokio::test]
async fn an_erase_that_is_killed_after_any_part_goes_on_after_the_start() {
    let mut chat = Chat::with_zoe().await;
    assert_eq!(chat.begin(NAME).await, EraseBegun::Begun);
    let erasure = loop {
        chat = chat.crash().await;
        assert!(chat.rig.store.is_erased(NAME));
        assert_eq!(ask!(chat.rig, erases), [owner(NAME)]);
        assert_eq!(chat.begin(NAME).await, EraseBegun::Running);
        match chat.step(NAME).await {
            Erasing::More { .. } => {}
            Erasing::Done(erasure) => break erasure,
            other => panic!("{other:?}"),
        }
    };
    assert_eq!(ask!(chat.rig, erases), []);
    assert_eq!(chat.rig.store.scrub().await.unwrap(), Scrubbed::Now);
    assert_eq!(chat.found(&SECRETS), []);
    chat.is_without_zoe(&erasure).await;
}

#[tokio::test]
async fn a_file_that_was_not_rebuilt_before_a_kill_is_rebuilt_by_the_next_start() {
    let mut chat = Chat::with_zoe().await;
    chat.erase(NAME).await;
    let chat = chat.crash().await;
    assert_eq!(chat.found(&SECRETS), []);
    assert_eq!(chat.count("SELECT scrub FROM marks"), 0);
}

#[tokio::test]
async fn what_a_push_service_has_goes_when_it_has_answered() {
    let mut chat = Chat::of(&["alice", NAME]).await;
    chat.register("alice", "phone", "T1").await;
    chat.send_to(NAME, "alice", json!({"body": "xylophone"})).await;
    let [push] = &chat.claim(chat.at).await[..] else { panic!("one push") };
    assert_eq!(chat.begin(NAME).await, EraseBegun::Begun);
    let waits = async |chat: &mut Chat| loop {
        match chat.step(NAME).await {
            Erasing::More { .. } => {}
            other => return other,
        }
    };
    assert_eq!(waits(&mut chat).await, Erasing::InFlight(1));
    let clock = RetryClock { now_ms: chat.at, deadline_ms: u64::MAX, longest: Duration::MAX, permille: 0 };
    chat.rig.record(push.sid, Event::Back { fate: Fate::Lost, copies: 0, replays: 0, clock }, chat.at).await;
    assert!(matches!(waits(&mut chat).await, Erasing::Done(_)));
    chat.rig.store.scrub().await.unwrap();
    assert_eq!(chat.found(&SECRETS), []);
    let pushes = chat.claim(chat.at).await;
    assert_eq!(whats(&pushes), [("T1", "clear")], "it is not sent again, and nobody knows whether it came");
}

#[tokio::test]
async fn of_two_who_were_erased_nothing_is_left_between_them() {
    let mut chat = Chat::with_zoe().await;
    chat.erase(NAME).await;
    let erasure = chat.erase("alice").await;
    assert_ne!(erasure.alias, alias(1));
    chat.rig.store.scrub().await.unwrap();
    assert_eq!(chat.found(&["what do you play", "do you know her", "alice"]), []);
    let between = "SELECT count(*) FROM chat WHERE writer LIKE 'deleted-%' AND peer LIKE 'deleted-%'";
    assert_eq!(chat.count(between), 0);
}

#[tokio::test]
async fn what_a_bal_had_for_a_token_of_hers_is_cancelled_and_the_bal_is_told() {
    let mut chat = Chat::of(&[NAME]).await;
    chat.register(NAME, "phone", "ZOES-TOKEN").await;
    let to_her = json!({"target": {"token": "ZOES-TOKEN"}, "data": {}}).to_string();
    let (hers, other) = (chat.rig.new_message("b1"), chat.rig.new_message("b2"));
    let mut hers = NewMessage { body: to_her.into(), ..hers };
    hers.push().recipient = Target::Token(Token::new("ZOES-TOKEN").unwrap()).recipient();
    for new in [hers, other] {
        assert_eq!(chat.rig.accept(new).await, Accepted::Stored);
    }
    chat.erase(NAME).await;
    chat.rig.store.scrub().await.unwrap();
    assert_eq!(chat.found(&SECRETS), []);
    let told: Vec<Value> =
        chat.rig.next(RECEIPTS, 0).await.iter().map(|one| serde_json::from_slice(&one.payload).unwrap()).collect();
    let told: Vec<_> =
        told.iter().map(|status| (status["id"].as_str().unwrap(), status["status"].as_str().unwrap())).collect();
    assert_eq!(told, [("b1", "accepted"), ("b2", "accepted"), ("b1", "cancelled")]);
}

#[tokio::test]
async fn phones_that_show_what_an_erased_person_wrote_in_a_group_are_cleared() {
    let mut chat = Chat::of_group(&["bob", "carol"]).await;
    for (user, token) in [("alice", "T1"), ("bob", "T2"), ("carol", "T3")] {
        chat.register(user, "phone", token).await;
    }
    chat.says("alice", "this stays").await;
    let shown: Vec<Sid> = vec![chat.says("bob", "one").await, chat.says("bob", "two").await];
    // What waits is withdrawn, and what was sent is cleared.
    assert_eq!(chat.pushes().await.len(), 5, "bob has read by writing");
    chat.says("bob", "never sent").await;
    chat.erase("bob").await;
    let pushes = chat.pushes().await;
    let mut cleared: Vec<_> =
        pushes.iter().map(|pushed| (&*pushed.token, pushed.data("type"), pushed.data("sid"))).collect();
    cleared.sort_unstable();
    let [one, two] = [shown[0].to_string(), shown[1].to_string()];
    assert_eq!(
        cleared,
        [("T1", "clear", &*one), ("T1", "clear", &*two), ("T3", "clear", &*one), ("T3", "clear", &*two)]
    );
    assert!(pushes.iter().all(|pushed| pushed.data("with") == "g-team"));
    assert_eq!(chat.count("SELECT count(*) FROM pushed"), 1, "what alice wrote is still shown to carol");
}

#[tokio::test]
async fn phones_that_show_what_an_erased_person_wrote_to_one_are_cleared_by_the_other_name() {
    let mut chat = Chat::of(&["alice", "bob", "carol", NAME]).await;
    for (user, token) in [("alice", "T1"), ("bob", "T2"), ("carol", "T3")] {
        chat.register(user, "phone", token).await;
    }
    let mut shown = vec![chat.write(NAME, "alice", "xylophone one").await];
    for _ in 0..2 * USER_DEVICES_MAX {
        shown.push(chat.write(NAME, "alice", "xylophone more").await);
    }
    let request = Kind::Request { body: None, expires: None, group: None };
    chat.at += 1;
    let invited = chat.rig.sids.next(chat.at, 0);
    let invitation = Invitation { id: None, to: owner("carol"), kind: request, dev: None };
    chat.writes_invitation(writer(NAME), peer("carol", &[]), invited, invitation).await;
    let read = chat.write(NAME, "bob", "xylophone to bob").await;
    let stays = chat.write("alice", "bob", "this stays").await;
    assert_eq!(chat.pushes().await.len(), shown.len() + 3);
    chat.read("bob", NAME, read).await;
    chat.write(NAME, "alice", "never sent").await;
    let alias = chat.erase(NAME).await.alias;
    chat.rig.store.scrub().await.unwrap();
    assert_eq!(chat.found(&SECRETS), [], "also not in what clears");
    let pushes = chat.pushes().await;
    let told = |token: &str| -> Vec<(String, String)> {
        let of_token = pushes.iter().filter(|pushed| pushed.token == token);
        of_token.map(|pushed| (pushed.data("type").to_owned(), pushed.data("sid").to_owned())).collect()
    };
    let clear = |sid: &Sid| ("clear".to_owned(), sid.to_string());
    assert_eq!(told("T1"), shown.iter().map(clear).collect::<Vec<_>>());
    assert_eq!((told("T2"), told("T3")), (Vec::new(), vec![clear(&invited)]), "bob's phone has read it");
    assert!(pushes.iter().all(|pushed| pushed.data("with") == alias && pushed.data("only") == "1"));
    let last = pushes.iter().rfind(|pushed| pushed.token == "T1").unwrap();
    assert_eq!(last.data("unread"), "0");
    let left = "SELECT row FROM pushed WHERE peer = 'alice' AND (SELECT count(*) FROM pushed) = 1";
    assert_eq!(chat.count(left), stays.row().0);
}

fn refused_as_erased() -> ChatOutcome {
    ChatOutcome::Refused(Rejection::new(ErrorCode::Forbidden, "the writer was erased"))
}

#[tokio::test]
async fn what_was_on_its_way_when_an_erase_began_brings_nobody_back() {
    let mut chat = Chat::of_group(&["bob"]).await;
    chat.rig.store.chat_user_seen(owner(NAME)).await.unwrap().await.unwrap();
    let add = || GroupChange::Add(vec![owner(NAME)]);
    let invited = chat.change("alice", add()).await.unwrap().invited[0].1;
    assert_eq!(chat.begin(NAME).await, EraseBegun::Begun);
    let accept = Invitation { id: None, to: owner("alice"), kind: Kind::Answer(Answer::Accept, invited), dev: None };
    let sid = chat.rig.sid();
    let outcome = chat.writes_invitation(writer(NAME), peer("alice", &[]), sid, accept).await;
    assert_eq!(outcome, refused_as_erased(), "nothing is done");
    assert_eq!(chat.change("alice", add()).await, Err(ErrorCode::NotFound));
    assert_eq!(chat.register(NAME, "phone", "ZOES-TOKEN").await, refused_as_erased());
    let message = json!({ "to": "alice", "body": "xylophone" });
    assert_eq!(chat.send(writer(NAME), peer("alice", &[]), &message).await.1, refused_as_erased());
    let made = GroupAction::Create(named_settings("Zoe"));
    assert_eq!(chat.change_group(NAME, made, &[]).await, Err(ErrorCode::Forbidden));
    while matches!(chat.step(NAME).await, Erasing::More { .. }) {}
    assert_eq!(chat.rig.store.scrub().await.unwrap(), Scrubbed::Now);
    assert_eq!(chat.found(&SECRETS), []);
    assert_eq!((chat.count("SELECT count(*) FROM members"), chat.count("SELECT members FROM chat_groups")), (2, 2));
}

/// The broker remembers whom somebody sees as long as that one has a session, and the name may be somebody else's by then.
#[tokio::test]
async fn those_who_saw_an_erased_user_are_named() {
    let mut chat = Chat::of(&["bob", NAME]).await;
    chat.write("bob", NAME, "hi").await;
    let mut expected = vec![owner("bob")];
    chat.write(NAME, "bob", "ho").await;
    for n in 0..300 {
        let name = format!("u{n:03}");
        chat.rig.store.chat_user_seen(owner(&name)).await.unwrap().await.unwrap();
        chat.write(NAME, &name, "hi").await;
        expected.push(owner(&name));
    }
    assert_eq!(chat.erase_and_tell(NAME).await, expected);
}
