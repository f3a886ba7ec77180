//! The answers for a client that forgot everything: its conversations, one of them, and what a user puts away or deletes.

use super::requests::{Asker, Reply, fields};
use crate::bridge::context::Context;
use crate::chat::id::{Owner, Sid};
use crate::chat::principal::Role;
use crate::chat::suffix::requests::DeletionOf;
use crate::store::{
    Archiving, ChatCall, ConversationItem, ConversationPage, Deletion, GroupSummary, HistoryPage, HistoryQuery,
    SYNC_BYTES, StoreError,
};
use bytes::Bytes;
use serde_json::{Map, Value, json};

/// Longest `body` of the newest item of a conversation, in characters.
const BODY_SHOWN: usize = 200;
/// How much of a list of open invitations is shown: half of what a page may have.
const INVITATIONS_BYTES: usize = SYNC_BYTES / 2;
/// The fields of the newest item that are shown: none that a writer could make long, but for the body.
const SHOWN: [&str; 23] = [
    "sid", "n", "ts", "from", "dev", "group", "by", "id", "to", "type", "ref", "reply_to", "thread", "body", "edited",
    "why", "expires", "event", "who", "version", "call", "outcome", "seconds",
];

/// The same of a notice of a group, which the bridge writes.
const SHOWN_OF_NOTICE: [&str; 5] = ["name", "image", "topic", "post", "history"];

/// The conversations of a user, as many as fit into one answer.
pub(super) async fn conversations(
    context: &Context,
    user: &Owner,
    (limit, before): (usize, Option<Sid>),
    at: u64,
) -> Result<Reply, StoreError> {
    let page = context.store.chat_conversations(user.clone(), before, limit, at).await?.await?;
    let ConversationPage { items, mut complete, unread, mentions } = page;
    let (mut shown, mut next, mut bytes) = (Vec::new(), None, 0);
    for item in items {
        let place = item.place;
        let is_bal = context.directory.role_of(item.with.as_str()) == Some(Role::Bal);
        let item = conversation(item, is_bal, at);
        let length = item.to_string().len();
        if bytes > 0 && bytes + length > SYNC_BYTES {
            complete = false;
            break;
        }
        bytes += length;
        next = Some(place);
        shown.push(item);
    }
    let mut found = fields(json!({ "items": shown, "unread": unread, "mentions": mentions, "complete": complete }));
    if let Some(next) = next {
        found.insert("next".to_owned(), next.to_string().into());
    }
    Ok(Ok(found))
}

fn conversation(item: ConversationItem, is_bal: bool, at: u64) -> Value {
    let ConversationItem { with, place: _, profile, sees_profile, last, count, unread, mentions, .. } = item;
    let ConversationItem { read, peer_received, peer_read, entry, archived, is_former, group, invitations, .. } = item;
    let mut shown = Map::new();
    let mut put = |name: &str, value: Option<Value>| value.map(|value| shown.insert(name.to_owned(), value));
    put("with", Some(with.as_str().into()));
    let profile = profile.filter(|_| sees_profile || is_bal);
    let mut profile = profile.and_then(|text| serde_json::from_str::<Value>(&text).ok()).unwrap_or_default();
    for name in ["name", "image"] {
        put(name, profile.get_mut(name).map(Value::take));
    }
    put("last", last.as_ref().and_then(shortened));
    put("n", Some(count.into()));
    put("unread", Some(unread.into()));
    put("mentions", Some(mentions.into()));
    for (name, sid) in [("read", read), ("peer_received", peer_received), ("peer_read", peer_read)] {
        put(name, sid.map(|sid| sid.to_string().into()));
    }
    put("mute", Some(json!(entry.mute_level(at))));
    put("until", entry.muted_until.filter(|until| entry.is_muted(at) && *until != u64::MAX).map(Into::into));
    put("archived", Some(archived.into()));
    put("member", is_former.then_some(false.into()));
    if let Some(GroupSummary { version, members, role, post }) = group {
        for (name, value) in
            [("version", json!(version)), ("members", json!(members)), ("role", json!(role)), ("post", json!(post))]
        {
            put(name, Some(value));
        }
    }
    put("invitation", invitations.first().and_then(|invitation| serde_json::from_slice(invitation).ok()));
    if invitations.len() > 1 {
        let (all, is_cut) = listed(&invitations);
        put("invitations", Some(all));
        put("more_invitations", (is_cut || item.more_invitations).then_some(true.into()));
    }
    Value::Object(shown)
}

/// Invitations, as many of the newest as fit, and whether some do not.
fn listed(invitations: &[Bytes]) -> (Value, bool) {
    let (mut shown, mut bytes) = (Vec::with_capacity(invitations.len()), 0);
    for invitation in invitations.iter().filter_map(|invitation| serde_json::from_slice(invitation).ok()) {
        let mut invitation: Map<String, Value> = invitation;
        invitation.shift_remove("image");
        let invitation = cut(invitation);
        bytes += invitation.to_string().len();
        if bytes > INVITATIONS_BYTES {
            break;
        }
        shown.push(invitation);
    }
    let is_cut = shown.len() < invitations.len();
    (shown.into(), is_cut)
}

/// The newest item, as far as a list of conversations shows it.
fn shortened(item: &Bytes) -> Option<Value> {
    let mut item: Map<String, Value> = serde_json::from_slice(item).ok()?;
    let is_notice = item.get("type").is_some_and(|kind| kind == "notice");
    item.retain(|name, _| SHOWN.contains(&&**name) || is_notice && SHOWN_OF_NOTICE.contains(&&**name));
    Some(cut(item))
}

/// The item, with its `body` no longer than a list shows.
fn cut(mut item: Map<String, Value>) -> Value {
    if let Some(Value::String(body)) = item.get_mut("body")
        && let Some((end, _)) = body.char_indices().nth(BODY_SHOWN)
    {
        body.truncate(end);
        item.insert("cut".to_owned(), true.into());
    }
    Value::Object(item)
}

/// A page of one conversation.
pub(super) async fn history(context: &Context, user: &Owner, query: HistoryQuery) -> Result<Reply, StoreError> {
    let page = context.store.chat_history(user.clone(), query).await?.await?;
    Ok(page.map(|HistoryPage { items, complete }| {
        let items: Vec<Value> = items.iter().filter_map(|item| serde_json::from_slice(item).ok()).collect();
        fields(json!({ "items": items, "complete": complete }))
    }))
}

/// Puts a conversation away, or takes it out again.
pub(super) async fn archive(
    context: &Context,
    asker: Asker<'_>,
    (with, on): (Owner, bool),
    call: ChatCall,
) -> Result<Reply, StoreError> {
    let (user, dev, told) = (asker.user.clone(), Some(asker.dev.clone()), asker.payload.clone());
    let connected = context.attentions.connected(&user);
    let archiving = Archiving { user, dev, connected, with, on, told };
    Ok(context.store.chat_archive(archiving, call).await?.await?.map(|()| Map::new()))
}

/// Deletes the own copy of something. Of all of a conversation it is told up to where.
pub(super) async fn delete(
    context: &Context,
    asker: Asker<'_>,
    of: DeletionOf,
    call: ChatCall,
) -> Result<Reply, StoreError> {
    let (user, dev, told) = (asker.user.clone(), Some(asker.dev.clone()), asker.payload.clone());
    let connected = context.attentions.connected(&user);
    let deleted = context.store.chat_delete(Deletion { user, dev, connected, of, told }, call).await?.await?;
    Ok(deleted.map(|up_to| {
        let up_to = up_to.map(|up_to| ("up_to".to_owned(), up_to.to_string().into()));
        up_to.into_iter().collect()
    }))
}
