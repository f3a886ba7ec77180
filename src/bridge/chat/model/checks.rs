//! What everybody must find.

use super::messages::{Copy, Message};
use super::pushes::State;
use super::steps::How;
use super::{DEVICES, GROUP, Model, NAMES, USERS};
use crate::store::ConversationItem;
use serde_json::Value;
use std::collections::BTreeMap;
use std::time::Duration;

impl Model {
    /// After each step.
    pub(super) async fn check(&self) {
        for (user, name) in NAMES.into_iter().enumerate().take(USERS) {
            let attended: Vec<_> = self.people[user].attended().into_iter().map(|dev| DEVICES[dev]).collect();
            let known = self.chat.attended(name);
            assert_eq!(known.devices.iter().map(|dev| dev.as_str()).collect::<Vec<_>>(), attended, "{name}");
            self.check_conversations(user).await;
        }
        assert_eq!(self.chat.rig.store.figures().queue_rows, self.queued());
    }

    /// The first screen: every conversation with what is unread in it.
    async fn check_conversations(&self, user: usize) {
        let newest = |with: usize| {
            let its = self.messages.iter().filter(|m| m.with(user) == with && m.is_of_two());
            its.filter(|m| m.copies.get(&user).is_some_and(Copy::has)).map(|m| m.sid).max()
        };
        let newest = |with: usize| if with == GROUP { self.group.shown(user) } else { newest(with) };
        let mut expected: Vec<_> = (0..NAMES.len()).filter_map(|with| Some((newest(with)?, with))).collect();
        expected.sort_by_key(|(sid, _)| std::cmp::Reverse(*sid));
        let counts = |with: usize| (self.unread(user, with), self.mentions(user, with));
        let expected: Vec<_> = expected.into_iter().map(|(sid, with)| (NAMES[with], sid, counts(with))).collect();
        let page = self.chat.conversations(NAMES[user]).await;
        let item = |item: &ConversationItem| {
            let with = NAMES.into_iter().find(|name| *name == item.with.as_str()).unwrap();
            (with, item.place, (item.unread as usize, item.mentions as usize))
        };
        assert_eq!(page.items.iter().map(item).collect::<Vec<_>>(), expected, "{}", NAMES[user]);
        let mentions: usize = (0..NAMES.len()).map(|with| self.mentions(user, with)).sum();
        let totals = (page.unread as usize, page.mentions as usize);
        assert_eq!(totals, (self.unread_in_all(user), mentions), "{}", NAMES[user]);
    }

    /// Everything that is due is sent; then everybody looks.
    pub(super) async fn finish(mut self) {
        self.pass(Duration::from_secs(20)).await;
        self.decide_unpushed().await;
        while self.queued() > 0 {
            let before = self.queued();
            self.claim().await;
            while self.pushes.iter().any(|push| matches!(push.state, State::InFlight(_))) {
                self.answer(0, How::Takes).await;
            }
            assert!(self.queued() < before, "a push does not go: {:?}", self.pushes);
            self.decide_unpushed().await;
        }
        let without_room = self.messages.iter().find(|m| m.for_room.iter().any(|user| m.waits.contains(user)));
        assert!(without_room.is_none(), "there is room: {without_room:?}");
        assert!(self.chat.claim().await.is_empty());
        self.check().await;
        for user in 0..USERS {
            self.take(user).await;
        }
        for user in 0..USERS {
            self.sent(user, "").await;
            self.check_receipts(user);
            self.check_items(user).await;
        }
    }

    /// What a writer was told of the messages to one other.
    fn check_receipts(&self, user: usize) {
        let of_two = |told: &&Value| told.get("by").is_none();
        let told = self.got[user].iter().filter(of_two).filter_map(|told| {
            let status = told["status"].as_str().unwrap();
            ["delivered", "read"].contains(&status).then(|| (told["sid"].as_str().unwrap().to_owned(), status))
        });
        let expected = self.receipts.iter().filter(|(writer, ..)| *writer == user);
        let expected: Vec<_> = expected.map(|(_, sid, status)| (sid.to_string(), *status)).collect();
        assert_eq!(told.collect::<Vec<_>>(), expected, "{}", NAMES[user]);
    }

    /// What a user who forgot everything gets: all that is neither deleted nor of somebody else, with its newest text.
    async fn check_items(&self, user: usize) {
        let mut items = BTreeMap::<usize, Vec<_>>::new();
        let mut all = Vec::new();
        for message in self.messages.iter().filter(|m| self.keeps(m, user)) {
            let (copy, sid) = (&message.copies[&user], message.sid.to_string());
            let text = match copy {
                _ if copy.deleted => "deleted",
                _ if message.document.is_null() => "",
                _ if copy.hidden => "blocked",
                _ => &copy.shown,
            };
            let item = (sid, Some(message.places[&user]), text.to_owned());
            items.entry(message.with(user)).or_default().push(item.clone());
            if !message.is_of_two() {
                all.push(item);
            } else {
                let changes = message.amendments.iter().filter(|_| copy.has());
                let changes =
                    changes.filter_map(|one| Some((one.sid.to_string(), None, one.shown.get(&user)?.clone())));
                all.extend(changes.chain([item]));
            }
        }
        for (with, name) in NAMES.into_iter().enumerate() {
            let history: Vec<_> = self.chat.history(NAMES[user], name).await.iter().map(shown).collect();
            assert_eq!(history, items.remove(&with).unwrap_or_default(), "{} with {name}", NAMES[user]);
        }
        all.sort();
        let synced = self.chat.synced(NAMES[user]).await;
        // Of the group what has a place.
        let expected = synced.iter().filter(|item| item.get("group").is_none() || item.get("n").is_some()).map(shown);
        assert_eq!(expected.collect::<Vec<_>>(), all, "{}", NAMES[user]);
    }

    fn keeps(&self, message: &Message, user: usize) -> bool {
        let may_read = message.is_of_two() || self.group.may_read(user, message.sid);
        message.copies.get(&user).is_some_and(|copy| may_read && !copy.deleted_with_all)
    }
}

fn shown(item: &Value) -> (String, Option<u64>, String) {
    let text = item["why"].as_str().or_else(|| item["body"].as_str()).unwrap_or_default().to_owned();
    (item["sid"].as_str().unwrap().to_owned(), item["n"].as_u64(), text)
}
