//! Pushes that a user asks for, to see whether they arrive.

use super::push::{News, PROOF_MS, queue, registered};
use super::{Call, people};
use crate::chat::id::{Owner, short_hash};
use crate::chat::push_document::{BYTES_MAX, Content, Item, ItemKind, title};
use crate::store::sqlite::tx::Tx;
use crate::store::{ChatCall, TEST_PUSH_SKIPS, TestPush};

/// The text of a test.
const TEST: &str = "Test";

/// Pushes to each device of a user, whoever looks at what, as far as the queue has room.
pub(in crate::store) fn test(tx: &mut Tx<'_>, user: &Owner, call: &ChatCall) -> rusqlite::Result<Vec<TestPush>> {
    let call = &mut Call::of(call);
    let name = people::profile_name(tx, user)?;
    let title = title(user, name.as_deref(), true);
    let mut tested = Vec::new();
    for mut device in registered(tx, user)? {
        if tx.queue_is_full(1, BYTES_MAX as u64) {
            break;
        }
        // Its own id stands for the message that there is none of.
        let Some(sid) = call.push_sids.as_slice().first().copied() else { break };
        let item = Item {
            kind: ItemKind::Message,
            with: user,
            by: None,
            sid,
            title: &title,
            body: TEST,
            ts: call.at,
            silent: false,
        };
        let news = News { user, content: Content::Item(item), deadline: call.at + PROOF_MS, about: None };
        queue(tx, &news, &mut device, call)?;
        let token_hash = short_hash(device.token.reveal());
        tested.push(TestPush { dev: device.dev.as_str().to_owned(), token_hash, skipped: TEST_PUSH_SKIPS });
    }
    Ok(tested)
}
