//! A group in random use with crashes in between, against a model in memory.
//!
//! What must hold: whoever is in the group when something is written gets it once, and counts without holes; whoever is not gets
//! nothing; what is unread is what others wrote behind the read position; a member at whose devices nobody looks is pushed
//! once, one who looks when the wait is over, the writer never; exactly the phone that was pushed is cleared, also when its user goes; and versions only rise.

use super::chat::groups::{group, owners};
use super::chat::{Chat, devices, owner, received};
use super::*;
use crate::chat::contact::MuteLevel;
use crate::chat::group::GroupChange;
use crate::chat::id::Owner;
use crate::store::GroupOutcome;
use proptest::prelude::*;
use serde_json::json;
use std::collections::BTreeSet;

/// The first one owns the group, and has no phone.
const USERS: [&str; 4] = ["alice", "bob", "carol", "dave"];

#[derive(Debug, Clone)]
enum Op {
    Post {
        from: usize,
        reaction: bool,
        looking: [bool; 4],
    },
    /// A device of the user takes what is in the inbox.
    Take(usize),
    /// An attended device confirms the newest message that its user can read.
    Confirm(usize),
    DecideAgain(usize),
    /// Another device than the phone reads up to the n-th message from the end.
    Read {
        user: usize,
        back: usize,
    },
    Add(usize),
    Remove(usize),
    Mute {
        user: usize,
        on: bool,
    },
    Block {
        user: usize,
        other: usize,
        on: bool,
    },
    Crash,
}

fn op() -> impl Strategy<Value = Op> {
    let user = || 0..USERS.len();
    prop_oneof![
        10 => (user(), prop::bool::weighted(0.15), any::<[bool; 4]>())
            .prop_map(|(from, reaction, looking)| Op::Post { from, reaction, looking }),
        4 => user().prop_map(Op::Take),
        3 => user().prop_map(Op::Confirm),
        4 => user().prop_map(Op::DecideAgain),
        5 => (user(), 0..4_usize).prop_map(|(user, back)| Op::Read { user, back }),
        2 => (1..USERS.len()).prop_map(Op::Add),
        2 => (1..USERS.len()).prop_map(Op::Remove),
        1 => (user(), any::<bool>()).prop_map(|(user, on)| Op::Mute { user, on }),
        1 => (user(), user(), any::<bool>()).prop_map(|(user, other, on)| Op::Block { user, other, on }),
        1 => Just(Op::Crash),
    ]
}

/// Something in the group: a notice has no writer here.
#[derive(Debug, Clone)]
struct Item {
    sid: Sid,
    n: u64,
    from: Option<usize>,
    counts: bool,
    /// Whoever was in the group, and whoever went by it.
    readers: BTreeSet<usize>,
    /// Those of them who had blocked its writer: they have a place.
    hidden: BTreeSet<usize>,
    /// Members with a push that is still to be made.
    waiting: BTreeSet<usize>,
    /// Members whose phones show it.
    shown: BTreeSet<usize>,
}

#[derive(Debug, Default)]
struct Member {
    is_in: bool,
    read: Option<Sid>,
    muted: bool,
    blocks: BTreeSet<usize>,
    /// Of the items that its inbox has.
    inbox: Vec<usize>,
}

struct Model {
    items: Vec<Item>,
    members: Vec<Member>,
    version: u64,
}

impl Model {
    fn is_in(&self, user: usize) -> bool {
        self.members[user].is_in
    }

    fn add_item(&mut self, sid: Sid, from: Option<usize>, counts: bool, also: Option<usize>) -> &mut Item {
        let mut readers: BTreeSet<usize> = (0..USERS.len()).filter(|user| self.is_in(*user)).collect();
        readers.extend(also);
        let n = self.items.last().map_or(1, |item| item.n) + 1;
        for reader in &readers {
            self.members[*reader].inbox.push(self.items.len());
        }
        let blocks = |user: &usize| from.is_some_and(|from| self.members[*user].blocks.contains(&from));
        let hidden = readers.iter().copied().filter(blocks).collect();
        let (waiting, shown) = (BTreeSet::new(), BTreeSet::new());
        self.items.push(Item { sid, n, from, counts, readers, hidden, waiting, shown });
        self.items.last_mut().unwrap()
    }

    /// What others wrote behind the position since the user came.
    fn unread(&self, user: usize, position: Sid) -> u64 {
        let theirs = |item: &&Item| {
            item.counts && item.from != Some(user) && item.readers.contains(&user) && !item.hidden.contains(&user)
        };
        self.items.iter().filter(theirs).filter(|item| item.sid > position).count() as u64
    }
}

async fn run(ops: Vec<Op>) {
    let mut chat = Chat::of_group(&USERS[1..]).await;
    for user in &USERS[1..] {
        chat.register(user, "phone", &format!("T-{user}")).await;
        chat.forget(user).await;
    }
    let member = || Member { is_in: true, ..Member::default() };
    let mut model = Model { items: Vec::new(), members: (0..USERS.len()).map(|_| member()).collect(), version: 1 };
    for op in ops {
        chat = step(chat, &mut model, &op).await;
    }
    for user in 0..USERS.len() {
        take(&chat, &mut model, user).await;
    }
}

async fn step(mut chat: Chat, model: &mut Model, op: &Op) -> Chat {
    match *op {
        Op::Post { from, reaction, looking } => post(&mut chat, model, from, reaction, looking).await,
        Op::Take(user) => take(&chat, model, user).await,
        Op::Confirm(user) => confirm(&mut chat, model, user).await,
        Op::DecideAgain(user) => decide_again(&mut chat, model, user).await,
        Op::Read { user, back } => read(&mut chat, model, user, back).await,
        Op::Add(user) => add(&mut chat, model, user).await,
        Op::Remove(user) => remove(&mut chat, model, user).await,
        Op::Mute { user, on } => {
            let until = on.then_some((u64::MAX, MuteLevel::None));
            chat.set(USERS[user], SettingChange::About(Owner::from(group()), EntryChange::Mute(until))).await;
            model.members[user].muted = on;
        }
        Op::Block { user, other, on } if user != other => {
            chat.block(USERS[user], USERS[other], on).await;
            if on {
                model.members[user].blocks.insert(other);
            } else {
                model.members[user].blocks.remove(&other);
            }
        }
        Op::Block { .. } => {}
        Op::Crash => {
            chat = chat.crash().await;
            let undecided = chat.rig.store.chat_undecided(0).await.unwrap().await.unwrap();
            for one in undecided {
                let user = USERS.iter().position(|name| *name == one.user.as_str()).unwrap();
                let known = |sid: &Sid| model.items.iter().any(|item| item.sid == *sid && item.readers.contains(&user));
                assert!(one.sids.iter().all(known), "{one:?}");
            }
        }
    }
    chat
}

async fn post(chat: &mut Chat, model: &mut Model, from: usize, reaction: bool, looking: [bool; 4]) {
    let has = |item: &&Item| item.readers.contains(&from) && !item.hidden.contains(&from);
    let about = model.items.iter().rfind(has).map(|item| item.sid);
    let more = match about {
        Some(sid) if reaction => json!({ "type": "reaction", "ref": sid.to_string() }),
        _ => json!({}),
    };
    let is_reaction = more.get("ref").is_some();
    let attended: Vec<(&str, &[&str])> =
        (0..USERS.len()).filter(|user| looking[*user]).map(|user| (USERS[user], &["web"][..])).collect();
    let (sid, outcome) = chat.post(USERS[from], &more, &attended).await;
    if !model.is_in(from) {
        assert!(matches!(outcome, GroupOutcome::Refused(_)), "{outcome:?}");
        return;
    }
    // Whoever writes has read what was there, at the phone.
    clear(model, from, sid);
    model.members[from].read = Some(sid);
    let told: Vec<usize> = (1..USERS.len())
        .filter(|user| *user != from && model.is_in(*user) && !is_reaction)
        .filter(|user| !model.members[*user].muted && !model.members[*user].blocks.contains(&from))
        .collect();
    let (waiting, pushed): (BTreeSet<usize>, BTreeSet<usize>) = told.into_iter().partition(|user| looking[*user]);
    assert_eq!(outcome, GroupOutcome::Done { waiting: waiting.iter().map(|user| owner(USERS[*user])).collect() });
    let item = model.add_item(sid, Some(from), !is_reaction, None);
    item.waiting = waiting;
    item.shown = pushed.clone();
    check_pushes(chat, pushed.iter().map(|user| (*user, "message", sid)).collect()).await;
}

/// What is shown of the items up to here goes; the `clear` of the phone that shows some.
fn clear(model: &mut Model, user: usize, up_to: Sid) -> Option<(usize, &'static str, Sid)> {
    let mut shows = None;
    for item in model.items.iter_mut().filter(|item| item.sid <= up_to) {
        if item.shown.remove(&user) {
            shows = Some(item.sid);
        }
        item.waiting.remove(&user);
    }
    let newest =
        model.items.iter().filter(|item| item.sid <= up_to && item.readers.contains(&user)).map(|item| item.sid).max();
    shows.map(|_| (user, "clear", newest.unwrap_or(up_to)))
}

/// Exactly these phones get exactly these pushes.
async fn check_pushes(chat: &Chat, mut expected: Vec<(usize, &'static str, Sid)>) {
    let pushes = chat.pushes().await;
    let mut got: Vec<(usize, &str, Sid)> = pushes
        .iter()
        .map(|pushed| {
            let user = USERS.iter().position(|name| pushed.token == format!("T-{name}")).unwrap();
            (user, pushed.data("type"), Sid::parse(pushed.data("sid")).unwrap())
        })
        .collect();
    got.sort_unstable();
    expected.sort_unstable();
    assert_eq!(got, expected);
}

/// Each once, in order, without a hole as long as the user is in the group.
async fn take(chat: &Chat, model: &mut Model, user: usize) {
    let items = std::mem::take(&mut model.members[user].inbox);
    let expected: Vec<(u64, String)> =
        items.iter().map(|at| (model.items[*at].n, model.items[*at].sid.to_string())).collect();
    let waiting = chat.rig.next(&format!("{}/others/messages", USERS[user]), 0).await;
    let references = waiting.iter().map(|document| document.reference.clone()).collect();
    chat.rig.store.documents_acked(references, AckedBy::Owner, chat.at).await.unwrap().await.unwrap();
    let got: Vec<(u64, String)> = waiting
        .iter()
        .map(|document| {
            let document: Value = serde_json::from_slice(&document.payload).unwrap();
            (document["n"].as_u64().unwrap(), document["sid"].as_str().unwrap().to_owned())
        })
        .collect();
    assert_eq!(got, expected, "{}", USERS[user]);
}

async fn confirm(chat: &mut Chat, model: &mut Model, user: usize) {
    let mine = |item: &&mut Item| item.readers.contains(&user) && item.from.is_some_and(|from| from != user);
    let Some(item) = model.items.iter_mut().rfind(mine) else { return };
    let web = NewReceipt { dev: devices(&["web"]).pop(), attended: true, ..received(USERS[user], &[item.sid]) };
    assert!(matches!(chat.receipt(web).await, ChatOutcome::Done { .. }));
    // The bridge decides no more about what was confirmed; what is in the store is asked for nothing.
    item.waiting.remove(&user);
    check_pushes(chat, Vec::new()).await;
}

async fn decide_again(chat: &mut Chat, model: &mut Model, user: usize) {
    let is_silent = |item: &Item, model: &Model| {
        let member = &model.members[user];
        !member.is_in || member.muted || item.from.is_some_and(|from| member.blocks.contains(&from))
    };
    let (mut sids, mut expected) = (Vec::new(), Vec::new());
    for at in 0..model.items.len() {
        if !model.items[at].waiting.contains(&user) {
            continue;
        }
        let silent = is_silent(&model.items[at], model);
        let item = &mut model.items[at];
        item.waiting.remove(&user);
        sids.push(item.sid);
        if !silent {
            item.shown.insert(user);
            expected.push((user, "message", item.sid));
        }
    }
    assert!(chat.decide_for(USERS[user], &sids, &[]).await.is_empty());
    check_pushes(chat, expected).await;
    assert!(chat.decide_for(USERS[user], &sids, &[]).await.is_empty());
    check_pushes(chat, Vec::new()).await;
}

async fn read(chat: &mut Chat, model: &mut Model, user: usize, back: usize) {
    let mine: Vec<Sid> = model.items.iter().filter(|item| item.readers.contains(&user)).map(|item| item.sid).collect();
    let Some(sid) = mine.iter().rev().nth(back).copied() else { return };
    chat.told(USERS[user], "read").await;
    let web = NewReceipt { dev: devices(&["web"]).pop(), ..received(USERS[user], &[]) };
    let outcome = chat.receipt(NewReceipt { read: true, of: ReceiptOf::In(group().into(), sid), ..web }).await;
    assert!(matches!(outcome, ChatOutcome::Done { .. }), "{outcome:?}");
    let is_ahead = model.members[user].read.is_none_or(|read| read < sid);
    let told = chat.told(USERS[user], "read").await;
    if !is_ahead {
        assert!(told.is_empty(), "{told:?}");
        return check_pushes(chat, Vec::new()).await;
    }
    let unread = if model.is_in(user) { model.unread(user, sid) } else { 0 };
    assert_eq!(told, [json!({ "with": "g-team", "sid": sid.to_string(), "unread": unread })]);
    model.members[user].read = Some(sid);
    let cleared = clear(model, user, sid);
    check_pushes(chat, cleared.into_iter().collect()).await;
}

async fn add(chat: &mut Chat, model: &mut Model, user: usize) {
    // Only who has the owner as a contact is put in at once.
    if model.members[user].blocks.contains(&0) {
        return;
    }
    let changed = chat.change("alice", GroupChange::Add(owners(&[USERS[user]]))).await.unwrap();
    if model.is_in(user) {
        assert_eq!((changed.version, changed.done), (model.version, Vec::new()));
        return;
    }
    model.version += 1;
    assert_eq!((changed.version, changed.done), (model.version, owners(&[USERS[user]])));
    model.members[user].is_in = true;
    let sid = newest_notice(chat).await;
    model.members[user].read = Some(sid);
    let cleared = clear(model, user, sid).map(|(user, what, _)| (user, what, sid));
    check_pushes(chat, cleared.into_iter().collect()).await;
    // What was there before is no longer the user's.
    for item in &mut model.items {
        item.readers.remove(&user);
        item.waiting.remove(&user);
    }
    model.add_item(sid, None, false, None);
}

async fn remove(chat: &mut Chat, model: &mut Model, user: usize) {
    let changed = chat.change("alice", GroupChange::Remove(owners(&[USERS[user]]))).await;
    if !model.is_in(user) {
        assert!(changed.is_err());
        return;
    }
    model.version += 1;
    assert_eq!(changed.unwrap().version, model.version);
    model.members[user].is_in = false;
    let sid = newest_notice(chat).await;
    let cleared = clear(model, user, sid).map(|(user, what, _)| (user, what, sid));
    check_pushes(chat, cleared.into_iter().collect()).await;
    model.add_item(sid, None, false, Some(user));
}

/// The owner reads all notices.
async fn newest_notice(chat: &Chat) -> Sid {
    let items = chat.items("alice", None).await;
    let notice = items.iter().rfind(|item| item["type"] == "notice").unwrap();
    Sid::parse(notice["sid"].as_str().unwrap()).unwrap()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, max_shrink_iters: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn members_get_everything_once_and_phones_exactly_what_they_should(ops in prop::collection::vec(op(), 1..45)) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(run(ops));
    }
}
