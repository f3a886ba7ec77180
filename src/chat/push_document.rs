//! What is in a push to a device of a user: its form by platform and by how much the device wants said.
//!
//! Every push names the account for which it is: an app that is logged in as somebody else drops it. All values are strings,
//! and no key is one that the push services keep for themselves.

use super::id::{Owner, Sid, Token};
use super::push::{Priority, Push, Target};
use super::suffix::calls::CallName;
use super::suffix::devices::{Badge, Format, Platform};
use super::suffix::profile::shown_name;
use serde_json::{Map, Value, json};

/// Largest `data` and `notification` together, in bytes of keys and values.
pub const BYTES_MAX: usize = 4_096;
/// What a transport adds.
const OF_TRANSPORTS: [&str; 2] = ["mid", "ack"];
/// Kept free for that, with its values.
const TRANSPORT_BYTES: usize = 64;
/// Pushes with this collapse key replace each other while the device is away. It is the only one: FCM keeps four for a device.
pub const COLLAPSE: &str = "chat";

/// What a push says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Content<'a> {
    /// A message, an invitation, or a call.
    Item(Item<'a>),
    /// What was pushed up to here is seen elsewhere: notifications of the conversation go away.
    Clear {
        /// The other side of the conversation.
        with: &'a Owner,
        /// Up to this message.
        sid: Sid,
        /// This message alone: those before it are still to be seen.
        only: bool,
    },
    /// The device rings no longer.
    ClearCall {
        /// The other side.
        with: &'a Owner,
        /// The bridge's id of the offer.
        sid: Sid,
        /// The word of the call.
        call: &'a CallName,
    },
    /// There is more than single pushes could say: the app asks for it.
    Sync,
    /// Whoever has this token is to prove it by repeating the word.
    Verify {
        /// The word.
        proof: &'a str,
    },
}

/// What a push tells of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ItemKind<'a> {
    /// A message.
    Message,
    /// An invitation.
    Invitation,
    /// A call that rings. It has no text.
    Call(&'a CallName),
    /// The message about a call that nobody took: the text is the bridge's.
    MissedCall,
}

impl ItemKind<'_> {
    const fn name(self) -> &'static str {
        match self {
            Self::Message | Self::MissedCall => "message",
            Self::Invitation => "invitation",
            Self::Call(_) => "call",
        }
    }
}

/// A message, an invitation or a call, as a push tells of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Item<'a> {
    /// What it is.
    pub kind: ItemKind<'a>,
    /// The other side of the conversation.
    pub with: &'a Owner,
    /// In a group: who wrote it.
    pub by: Option<&'a Owner>,
    /// The bridge's id of it.
    pub sid: Sid,
    /// Who wrote it, as shown.
    pub title: &'a str,
    /// Its text, if it has one.
    pub body: &'a str,
    /// When it was stored, in Unix milliseconds.
    pub ts: u64,
    /// Nothing is to be seen or heard of it.
    pub silent: bool,
}

/// To whom a push goes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addressee<'a> {
    /// For which user.
    pub account: &'a Owner,
    /// By which token.
    pub token: &'a Token,
    /// What the device runs on.
    pub platform: Platform,
    /// How much it wants said.
    pub format: Format,
    /// The language of fixed texts.
    pub lang: Option<&'a str>,
    /// Unread messages of the user, over all conversations.
    pub unread: u64,
    /// Who counts them on the icon of the app.
    pub badge: Badge,
}

/// The title of a push: the name of the writer's profile, with the user name behind it where the reader may not know whose
/// name that is.
pub fn title(user: &Owner, name: Option<&str>, is_contact: bool) -> String {
    match name.map(shown_name).filter(|name| !name.trim().is_empty()) {
        Some(name) if is_contact => name,
        Some(name) => format!("{name} ({user})"),
        None => user.to_string(),
    }
}

/// The push for a device.
pub fn push(to: &Addressee<'_>, content: &Content<'_>) -> Push {
    let mut draft = Draft::new(to);
    match content {
        Content::Item(item) if to.format == Format::Doorbell => {
            draft.doorbell(Some(item.kind).filter(|_| !item.silent))
        }
        Content::Item(item) => draft.item(item),
        Content::Clear { with, sid, only } => {
            draft.put("type", "clear");
            draft.put("with", with.as_str());
            draft.put("sid", sid.to_string());
            if *only {
                draft.put("only", "1");
            }
            draft.unread();
        }
        Content::ClearCall { with, sid, call } => {
            draft.put("type", "clear");
            draft.put("call", call.as_str());
            draft.put("with", with.as_str());
            draft.put("sid", sid.to_string());
            draft.unread();
            draft.priority = Priority::High;
        }
        Content::Sync => draft.doorbell(None),
        Content::Verify { proof } => {
            draft.put("type", "verify");
            draft.put("proof", *proof);
            draft.priority = Priority::High;
        }
    }
    draft.finish()
}

/// A push on its way to be one.
struct Draft<'a> {
    to: &'a Addressee<'a>,
    data: Map<String, Value>,
    notification: Option<Map<String, Value>>,
    /// The number on the icon of an app on iOS, as a text.
    icon: Option<String>,
    priority: Priority,
    collapse: Option<String>,
}

impl<'a> Draft<'a> {
    fn new(to: &'a Addressee<'a>) -> Self {
        let data = Map::from_iter([("account".to_owned(), to.account.as_str().into())]);
        Self { to, data, notification: None, icon: None, priority: Priority::Normal, collapse: None }
    }

    fn put(&mut self, key: &str, value: impl Into<String>) {
        self.data.insert(key.to_owned(), Value::String(value.into()));
    }

    /// How many messages are unread, unless the device wants no number.
    fn unread(&mut self) {
        if self.to.badge == Badge::Off {
            return;
        }
        self.put("unread", self.to.unread.to_string());
        if self.to.badge == Badge::Server && self.to.platform == Platform::Ios {
            self.icon = Some(self.to.unread.to_string());
        }
    }

    /// `seen`: of what something is to be seen.
    fn doorbell(&mut self, seen: Option<ItemKind<'_>>) {
        self.put("type", "sync");
        self.unread();
        self.collapse = Some(COLLAPSE.to_owned());
        if let Some(kind) = seen {
            self.priority = Priority::High;
            self.show(fixed_text(kind, self.to.lang), "");
        }
    }

    fn item(&mut self, item: &Item<'_>) {
        self.put("type", item.kind.name());
        if let ItemKind::Call(call) = item.kind {
            self.put("call", call.as_str());
        }
        self.put("with", item.with.as_str());
        if let Some(by) = item.by {
            self.put("by", by.as_str());
        }
        self.put("sid", item.sid.to_string());
        self.put("ts", item.ts.to_string());
        self.unread();
        if !item.silent {
            self.priority = Priority::High;
        }
        if self.to.format == Format::Id {
            if !item.silent {
                self.show(fixed_text(item.kind, self.to.lang), "");
            }
            return;
        }
        self.put("title", item.title);
        let text = match item.kind {
            ItemKind::Message | ItemKind::Invitation => item.body,
            ItemKind::MissedCall => fixed_text(item.kind, self.to.lang),
            ItemKind::Call(_) => {
                if !item.silent {
                    self.show(item.title, fixed_text(item.kind, self.to.lang));
                }
                return;
            }
        };
        // On iOS what is to be seen stands a second time in the notification.
        let shown = !item.silent && self.to.platform == Platform::Ios;
        let icon = self.icon.as_ref().map_or(0, |icon| "badge".len() + icon.len());
        let body = put_text(&mut self.data, text, shown.then_some(item.title), icon);
        if shown {
            self.show(item.title, body);
        }
    }

    /// What the system shows by itself. An Android app and a web page make their own notifications out of the data.
    fn show(&mut self, title: &str, body: &str) {
        if self.to.platform != Platform::Ios {
            return;
        }
        let texts = [("title", title), ("body", body)].into_iter().filter(|(_, text)| !text.is_empty());
        self.notification = Some(texts.map(|(name, text)| (name.to_owned(), text.into())).collect());
    }

    fn finish(self) -> Push {
        let Self { to, data, mut notification, icon, priority, collapse } = self;
        let mut fcm = Map::new();
        let mut priority = priority;
        if to.platform == Platform::Ios {
            match &notification {
                Some(_) => fcm.insert("mutable_content".to_owned(), json!(true)),
                None => {
                    // Apple takes no push of high priority that shows nothing.
                    priority = Priority::Normal;
                    fcm.insert("content_available".to_owned(), json!(true))
                }
            };
        }
        // A number alone shows nothing else, and wakes the app all the same.
        if let Some(icon) = icon {
            notification.get_or_insert_default().insert("badge".to_owned(), icon.into());
        }
        let target = Target::Token(to.token.clone());
        Push { target, data, notification, priority, collapse, receipt: true, fcm }
    }
}

/// Puts as much of `text` into `data` as there is room for, where a notification with this `title` repeats it; returns that.
fn put_text<'a>(data: &mut Map<String, Value>, text: &'a str, title: Option<&str>, icon: usize) -> &'a str {
    let copies = if title.is_some() { 2 } else { 1 };
    let fixed = "body".len() * copies + title.map_or(0, |title| "title".len() + title.len()) + "cut1".len() + icon;
    let room = BYTES_MAX.saturating_sub(TRANSPORT_BYTES + weight(data) + fixed) / copies;
    let body = cut(text, room);
    if body.len() < text.len() {
        data.insert("cut".to_owned(), "1".into());
    }
    if !body.is_empty() {
        data.insert("body".to_owned(), body.into());
    }
    body
}

/// The push of a message whose text is another one now. One that shows no text stays as it is.
pub fn with_text(mut push: Push, text: &str) -> Push {
    let Some(title) = push.data.get("title").and_then(Value::as_str).map(str::to_owned) else { return push };
    let by_transport = OF_TRANSPORTS.map(|name| push.data.shift_remove_entry(name));
    for name in ["body", "cut"] {
        push.data.shift_remove(name);
    }
    let icon = push.notification.as_ref().and_then(|shown| shown.get("badge")).and_then(Value::as_str);
    let icon = icon.map_or(0, |icon| "badge".len() + icon.len());
    let shown = push.notification.as_mut().filter(|shown| shown.is_empty() || shown.keys().any(|name| name != "badge"));
    let body = put_text(&mut push.data, text, shown.is_some().then_some(&*title), icon);
    push.data.extend(by_transport.into_iter().flatten());
    if let Some(notification) = shown {
        let badge = notification.shift_remove_entry("badge");
        notification.shift_remove("body");
        if !body.is_empty() {
            notification.insert("body".to_owned(), body.into());
        }
        notification.extend(badge);
    }
    push
}

/// What is shown where no word of the message may be, or where there is none.
fn fixed_text(kind: ItemKind<'_>, lang: Option<&str>) -> &'static str {
    let [message, call, missed] = match lang.map(|lang| lang.split(['-', '_']).next().unwrap_or(lang)) {
        Some("de") => ["Neue Nachricht", "Anruf", "Verpasster Anruf"],
        Some("es") => ["Mensaje nuevo", "Llamada", "Llamada perdida"],
        Some("fr") => ["Nouveau message", "Appel", "Appel manqué"],
        Some("it") => ["Nuovo messaggio", "Chiamata", "Chiamata persa"],
        Some("pt") => ["Nova mensagem", "Chamada", "Chamada perdida"],
        _ => ["New message", "Call", "Missed call"],
    };
    match kind {
        ItemKind::Message | ItemKind::Invitation => message,
        ItemKind::Call(_) => call,
        ItemKind::MissedCall => missed,
    }
}

/// As much of `text` as fits into `bytes`, ending between two characters.
fn cut(text: &str, bytes: usize) -> &str {
    if text.len() <= bytes {
        return text;
    }
    let end = (0..=bytes).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0);
    &text[..end]
}

fn weight(map: &Map<String, Value>) -> usize {
    map.iter().map(|(key, value)| key.len() + value.as_str().map_or(0, str::len)).sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::chat::id::SidSource;
    use proptest::prelude::*;

    struct Names {
        alice: Owner,
        bob: Owner,
        token: Token,
        sid: Sid,
    }

    fn names() -> Names {
        let owner = |name| Owner::new(name).unwrap();
        let sid = SidSource::default().next(1_700_000_000_000, 1);
        Names { alice: owner("alice"), bob: owner("bob"), token: Token::new("t-1").unwrap(), sid }
    }

    impl Names {
        fn to(&self, platform: Platform, format: Format) -> Addressee<'_> {
            Addressee {
                account: &self.bob,
                token: &self.token,
                platform,
                format,
                lang: Some("de-CH"),
                unread: 3,
                badge: Badge::Client,
            }
        }

        fn item<'a>(&'a self, body: &'a str) -> Item<'a> {
            Item {
                kind: ItemKind::Message,
                with: &self.alice,
                by: None,
                sid: self.sid,
                title: "Alice",
                body,
                ts: 5,
                silent: false,
            }
        }
    }

    #[test]
    fn a_message_is_data_of_high_priority_on_android() {
        let names = names();
        let push = push(&names.to(Platform::Android, Format::Full), &Content::Item(names.item("hi")));
        let expected = json!({"account": "bob", "type": "message", "with": "alice", "sid": names.sid.to_string(), "ts": "5",
            "unread": "3", "title": "Alice", "body": "hi"});
        assert_eq!(Value::Object(push.data), expected);
        assert_eq!((push.priority, push.notification, push.collapse), (Priority::High, None, None));
        assert!(push.fcm.is_empty());
    }

    #[test]
    fn on_ios_what_is_seen_is_a_notification_and_what_is_not_has_no_priority() {
        let names = names();
        let ios = names.to(Platform::Ios, Format::Full);
        let seen = push(&ios, &Content::Item(names.item("hi")));
        assert_eq!(Value::Object(seen.notification.unwrap()), json!({"title": "Alice", "body": "hi"}));
        assert_eq!((seen.priority, Value::Object(seen.fcm)), (Priority::High, json!({"mutable_content": true})));
        for content in [
            Content::Clear { with: &names.alice, sid: names.sid, only: true },
            Content::Sync,
            Content::Verify { proof: "p" },
            Content::Item(Item { silent: true, ..names.item("hi") }),
        ] {
            let unseen = push(&ios, &content);
            assert_eq!((unseen.priority, &unseen.notification), (Priority::Normal, &None), "{content:?}");
            assert_eq!(Value::Object(unseen.fcm), json!({"content_available": true}));
        }
    }

    #[test]
    fn the_number_on_the_icon_is_the_systems_the_apps_or_nobodys() {
        let names = names();
        let item = names.item("hi");
        let contents = [
            Content::Item(item),
            Content::Item(Item { silent: true, ..item }),
            Content::Clear { with: &names.alice, sid: names.sid, only: false },
            Content::Sync,
        ];
        for platform in [Platform::Ios, Platform::Android, Platform::Web] {
            for badge in [Badge::Server, Badge::Client, Badge::Off] {
                for (format, content) in
                    [Format::Full, Format::Id, Format::Doorbell].iter().flat_map(|f| contents.map(|c| (*f, c)))
                {
                    let push = push(&Addressee { badge, ..names.to(platform, format) }, &content);
                    let on_icon = push.notification.as_ref().and_then(|shown| shown.get("badge"));
                    let expected = json!("3");
                    let is_systems = badge == Badge::Server && platform == Platform::Ios;
                    assert_eq!(on_icon, is_systems.then_some(&expected), "{platform:?} {badge:?} {content:?}");
                    assert_eq!(push.data.get("unread"), (badge != Badge::Off).then_some(&expected));
                }
            }
        }
        let clear = push(&Addressee { badge: Badge::Server, ..names.to(Platform::Ios, Format::Full) }, &contents[2]);
        assert_eq!((clear.priority, Value::Object(clear.fcm)), (Priority::Normal, json!({"content_available": true})));
        let verify = push(
            &Addressee { badge: Badge::Server, ..names.to(Platform::Ios, Format::Full) },
            &Content::Verify { proof: "p" },
        );
        assert_eq!(verify.notification, None);
    }

    #[test]
    fn a_device_that_wants_no_text_gets_none() {
        let names = names();
        for platform in [Platform::Android, Platform::Ios, Platform::Web] {
            for format in [Format::Id, Format::Doorbell] {
                let push = push(&names.to(platform, format), &Content::Item(names.item("secret words")));
                let text = serde_json::to_string(&push).unwrap();
                assert!(!text.contains("secret") && !text.contains("Alice"), "{text}");
                assert_eq!(push.collapse.as_deref() == Some(COLLAPSE), format == Format::Doorbell);
                assert_eq!(push.data.contains_key("sid"), format == Format::Id);
                if platform == Platform::Ios {
                    assert_eq!(push.notification.unwrap()["title"], "Neue Nachricht");
                }
            }
        }
    }

    #[test]
    fn a_clear_says_up_to_what_and_a_verify_nothing_but_its_word() {
        let names = names();
        let android = names.to(Platform::Android, Format::Full);
        let clear = push(&android, &Content::Clear { with: &names.alice, sid: names.sid, only: false });
        let sid = names.sid.to_string();
        assert_eq!(
            Value::Object(clear.data),
            json!({"account": "bob", "type": "clear", "with": "alice", "sid": sid, "unread": "3"})
        );
        assert_eq!(clear.priority, Priority::Normal);
        let verify = push(&android, &Content::Verify { proof: "p" });
        assert_eq!(Value::Object(verify.data), json!({"account": "bob", "type": "verify", "proof": "p"}));
        assert_eq!(verify.priority, Priority::High);
    }

    #[test]
    fn a_call_rings_on_every_platform_and_a_clear_of_it_is_in_time() {
        let (names, call) = (names(), CallName::new("c1".to_owned()).unwrap());
        let item = Item { kind: ItemKind::Call(&call), ..names.item("unused") };
        let rings = push(&names.to(Platform::Android, Format::Full), &Content::Item(item));
        let sid = names.sid.to_string();
        assert_eq!(
            Value::Object(rings.data),
            json!({"account": "bob", "type": "call", "call": "c1", "with": "alice", "sid": sid, "ts": "5", "unread": "3", "title": "Alice"})
        );
        assert_eq!((rings.priority, rings.notification, rings.collapse), (Priority::High, None, None));
        let rings = push(&names.to(Platform::Ios, Format::Full), &Content::Item(item));
        assert_eq!(Value::Object(rings.notification.unwrap()), json!({"title": "Alice", "body": "Anruf"}));
        assert_eq!((rings.priority, Value::Object(rings.fcm)), (Priority::High, json!({"mutable_content": true})));
        let rings = push(&names.to(Platform::Ios, Format::Id), &Content::Item(item));
        assert_eq!(Value::Object(rings.notification.unwrap()), json!({"title": "Anruf"}));
        assert_eq!((&rings.data["call"], rings.data.get("title")), (&json!("c1"), None));

        let content = Content::ClearCall { with: &names.alice, sid: names.sid, call: &call };
        let clear = push(&names.to(Platform::Android, Format::Doorbell), &content);
        assert_eq!(
            Value::Object(clear.data),
            json!({"account": "bob", "type": "clear", "call": "c1", "with": "alice", "sid": sid, "unread": "3"})
        );
        assert_eq!(clear.priority, Priority::High);
        let clear = push(&names.to(Platform::Ios, Format::Full), &content);
        assert_eq!((clear.priority, Value::Object(clear.fcm)), (Priority::Normal, json!({"content_available": true})));
    }

    #[test]
    fn a_missed_call_is_a_message_in_the_words_of_the_bridge() {
        let names = names();
        let item = Item { kind: ItemKind::MissedCall, ..names.item("unused") };
        let missed = push(&names.to(Platform::Android, Format::Full), &Content::Item(item));
        assert_eq!((&missed.data["type"], &missed.data["body"]), (&json!("message"), &json!("Verpasster Anruf")));
        let missed = push(&names.to(Platform::Ios, Format::Id), &Content::Item(item));
        assert_eq!(Value::Object(missed.notification.unwrap()), json!({"title": "Verpasster Anruf"}));
    }

    #[test]
    fn a_stranger_is_called_by_both_names() {
        let Names { alice, .. } = names();
        assert_eq!(title(&alice, Some("Bob\u{202e}"), true), "Bob");
        assert_eq!(title(&alice, Some("Bob"), false), "Bob (alice)");
        assert_eq!(title(&alice, Some(" "), true), "alice");
        assert_eq!(title(&alice, None, false), "alice");
    }

    proptest! {
        #[test]
        fn a_push_with_another_text_is_the_push_of_a_message_with_that_text(
            before in "\\PC{0,3000}", after in "\\PC{0,3000}", title in "\\PC{0,64}", which in 0..9_usize, silent: bool,
        ) {
            let names = names();
            let platform = [Platform::Android, Platform::Ios, Platform::Web][which % 3];
            let format = [Format::Full, Format::Id, Format::Doorbell][which / 3];
            let of = |body| push(&names.to(platform, format), &Content::Item(Item { title: &title, silent, ..names.item(body) }));
            prop_assert_eq!(with_text(of(&before), &after), of(&after));
            let mut sent = of(&before);
            let by_transport = Map::from_iter([("mid".to_owned(), "06eqbd3gy0001ab2".into()), ("ack".to_owned(), "self/receipts".into())]);
            sent.data.extend(by_transport.clone());
            let mut expected = of(&after);
            expected.data.extend(by_transport);
            prop_assert_eq!(with_text(sent, &after), expected);
        }

        #[test]
        fn every_form_keeps_to_the_services_limits(body in "\\PC{0,3000}", title in "\\PC{0,64}", which in 0..9_usize, silent: bool, server: bool) {
            let names = names();
            let badge = if server { Badge::Server } else { Badge::Client };
            let platform = [Platform::Android, Platform::Ios, Platform::Web][which % 3];
            let format = [Format::Full, Format::Id, Format::Doorbell][which / 3];
            let item = Item { title: &title, silent, ..names.item(&body) };
            let push = push(&Addressee { badge, ..names.to(platform, format) }, &Content::Item(item));
            let notified = push.notification.as_ref().map_or(0, weight);
            prop_assert!(weight(&push.data) + notified <= BYTES_MAX - TRANSPORT_BYTES);
            prop_assert_eq!(push.data["account"].as_str(), Some("bob"));
            let told = push.data.get("body").and_then(Value::as_str).unwrap_or_default();
            prop_assert!(body.starts_with(told));
            prop_assert_eq!(push.data.contains_key("cut"), format == Format::Full && told.len() < body.len());
            for key in push.data.keys() {
                let kept = ["from", "to", "message_type", "notification", "collapse_key"].contains(&key.as_str());
                prop_assert!(!kept && !key.starts_with("google") && !key.starts_with("gcm"));
            }
        }
    }
}
