//! The statements of the hot path find their rows through an index, whatever the planner thinks of an empty file.

use super::super::chat::calls::{self, ending, kept, ringing, signal};
use super::super::chat::{
    self, amend, conversations, deletion, device, ended_invitations, expired, export, history, keep, mention,
    message as chat_message, notified, position, push, scheduled, sync, unpushed,
};
use super::super::sessions::{documents, inspect, queue, retained, row, session, state, sweep as queues};
use super::super::{
    accept, dispatch, erase, file, inspect as store, message, outbox, recipient_queue, recover, request, sweep, unread,
    upstream,
};

fn plan(conn: &rusqlite::Connection, sql: &str) -> String {
    let mut statement = conn.prepare(&format!("EXPLAIN QUERY PLAN {sql}")).unwrap();
    let mut rows = statement.raw_query();
    let mut plan = String::new();
    while let Some(row) = rows.next().unwrap() {
        plan.push_str(&row.get::<_, String>(3).unwrap());
        plan.push('\n');
    }
    plan
}

#[test]
fn hot_statements_use_their_index_and_sort_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (conn, _lock) = file::open(&dir.path().join("store.db")).unwrap();
    let expected = [
        (dispatch::TIMED, "INDEX deliveries_due (way=? AND due_at<?)"),
        (dispatch::FRESH, "INDEX deliveries_due (way=? AND due_at=?)"),
        (dispatch::FLUSH, "INDEX deliveries_due (way=? AND due_at>? AND due_at<?)"),
        (dispatch::ANY_PUT_OFF, "INDEX deliveries_due (way=? AND due_at>?)"),
        (dispatch::ANY_FRESH, "INDEX deliveries_due (way=? AND due_at=?)"),
        (recipient_queue::OLDER, "INDEX deliveries_parked (recipient=? AND rowid<?)"),
        (recipient_queue::YOUNGER, "INDEX deliveries_parked (recipient=? AND rowid>?)"),
        (recipient_queue::FIRST, "INDEX deliveries_parked (recipient=?)"),
        (sweep::OVERDUE, "INDEX deliveries_look (look_at<?)"),
        (sweep::KEPT, "INDEX messages_kept (kept_until<?)"),
        (message::BY_ROW, "SEARCH m USING INTEGER PRIMARY KEY (rowid=?)\nSEARCH d USING INTEGER PRIMARY KEY (rowid=?)"),
        (message::PARTS_WAITING, "INDEX deliveries_message (message=?)"),
        (message::FORGET_PARTS, "INDEX deliveries_message (message=?)"),
        (dispatch::IN_INBOXES, "INDEX deliveries_message (message=?)"),
        (recover::SHARED_BODIES, "INDEX deliveries_look (look_at=?)"),
        (sweep::SCAN, "PRIMARY KEY ((topic,seq)>(?,?))"),
        (request::BY_ID, "INDEX deliveries_id (id=? AND bal=?)"),
        (request::FIRST_OF_ORDER, "INDEX deliveries_order (bal=? AND order_key=?)"),
        (accept::UNSETTLED, "INDEX deliveries_order (bal=? AND order_key=?)"),
        (outbox::PAGE, "PRIMARY KEY (topic=? AND seq>?)"),
        (outbox::OLDEST_NOTE, "INDEX outbox_notes (topic=?)"),
        (outbox::NEXT_TOPIC, "PRIMARY KEY (topic>?)"),
        (unread::NEXT_TOPIC, "INDEX outbox_unread (topic>?)"),
        (unread::LAST, "INDEX outbox_unread (topic=?)"),
        (unread::OLDEST, "INDEX outbox_unread (topic=? AND seq<?)"),
        (upstream::UNACKED, "PRIMARY KEY (topic=? AND seq<?)"),
        (upstream::UNROUTED, "PRIMARY KEY (topic=? AND seq>?)"),
        (queue::ROWS, "SEARCH q USING PRIMARY KEY (queue=? AND seq>?)\nSEARCH b USING INTEGER PRIMARY KEY (rowid=?)"),
        (row::REMOVE, "PRIMARY KEY (queue=? AND seq=?)"),
        (session::FIND, "INDEX queues_key (key=? AND kind=?)"),
        (session::ITS_ROWS, "PRIMARY KEY (queue=?)"),
        (documents::UNSETTLED, "PRIMARY KEY (topic=? AND seq>?)"),
        (documents::OWN, "INDEX queue_documents (queue=? AND document=? AND seq>?)"),
        (documents::MARK_OWN, "INDEX queue_documents (queue=? AND document=? AND seq<?)"),
        (documents::FIRST_TOPIC, "PRIMARY KEY (topic>?)"),
        (documents::NEXT_OWN_TOPIC, "INDEX queue_documents (queue=? AND document>?)"),
        (queues::EXPIRED, "INDEX queue_expiry (expires_at<?)"),
        (queues::EXPIRED_DOCUMENTS, "INDEX queue_expiry (expires_at<?)"),
        (retained::EXPIRED, "INDEX retained_expiry (expires_at<?)"),
        (inspect::SESSIONS, "INDEX queues_key (key>?)"),
        (inspect::RETAINED, "PRIMARY KEY (topic>?)"),
        (chat::BY_SID, "INTEGER PRIMARY KEY (rowid=?)"),
        (chat_message::BY_ID, "INDEX chat_id (writer=? AND id=?)"),
        (position::ALL_RECEIVED, "INDEX chat_pair (peer=? AND writer=? AND row>? AND row<?)"),
        (position::NEWEST_UNRECEIVED, "INDEX chat_pair (peer=? AND writer=? AND row>? AND row<?)"),
        (position::NEWEST_TO_CONFIRM, "INDEX chat_pair (peer=? AND writer=? AND row>? AND row<?)"),
        (position::NEWEST_MESSAGE, "INDEX chat_pair (peer=? AND writer=? AND row>? AND row<?)"),
        (position::RETRACTED_BEHIND, "INDEX chat_gone (peer=? AND writer=? AND row>?)"),
        (position::DELETED_BEHIND, "PRIMARY KEY (user=? AND peer=? AND row>?)"),
        (history::BEFORE, "INDEX chat_pair (peer=? AND writer=? AND row>? AND row<?)"),
        (history::AFTER, "INDEX chat_pair (peer=? AND writer=? AND row>?)"),
        (history::NEWEST, "INDEX chat_pair (peer=? AND writer=? AND row>?)"),
        (history::LAST, "INDEX chat_pair (peer=? AND writer=?)"),
        (deletion::FORGET, "INDEX deleted_row (row=?)"),
        (deletion::TO_PURGE, "INDEX chat_pair (peer=? AND writer=? AND row>? AND row<?)"),
        (unpushed::FORGET_MEMBER, "PRIMARY KEY (user=? AND peer=? AND row>? AND row<?)"),
        (unpushed::FORGET_MEMBERS, "INDEX unpushed_members_row (row=?)"),
        (unpushed::MEMBERS, "INDEX unpushed_members_row (row=?)"),
        (chat::group::push::FORGET_CONFIRMED, "PRIMARY KEY (user=? AND peer=? AND row>? AND row<?)"),
        (chat::group::push::FORGET_ALL_CONFIRMED, "INDEX group_confirmed_row (row=?)"),
        (chat::group::position::OWN_UP_TO, "INDEX chat_pair (peer=? AND writer=? AND row>? AND row<?)"),
        (amend::EARLIER, "INDEX chat_amends (amends=?)"),
        (ended_invitations::END_BY, "INDEX chat_inviting (writer=?)"),
        (ended_invitations::END_TO, "INDEX chat_invited (peer=?)"),
        (conversations::INVITED, "INDEX chat_invited (peer=? AND writer=?)"),
        (mention::READ, "PRIMARY KEY (user=? AND peer=? AND row<?)"),
        (mention::IN_CONVERSATION, "PRIMARY KEY (user=? AND peer=?)"),
        (mention::IN_ALL, "PRIMARY KEY (user=?)"),
        (sync::WRITTEN, "INDEX chat_writer (writer=? AND row>?)"),
        (sync::NEWEST_WRITTEN, "INDEX chat_writer (writer=? AND row<?)"),
        (sync::GOT, "INDEX chat_peer (peer=? AND row>?)"),
        (sync::NEWEST_GOT, "INDEX chat_peer (peer=? AND row<?)"),
        (push::DEVICES, "PRIMARY KEY (user=?)"),
        (push::WAITING, "INDEX chat_waits (peer=? AND row>? AND row<?)"),
        (push::KEEP_PLACES, "INDEX deliveries_chat (recipient=? AND rowid<?)"),
        (notified::NOTED, "PRIMARY KEY (user=? AND peer=? AND row>? AND row<?)"),
        (notified::OF_DEVICE, "INDEX deliveries_chat (recipient=?)"),
        (device::OF_TOKEN, "INDEX devices_recipient (recipient=?)"),
        (calls::BY_NAME, "INDEX calls_name (call=? AND caller=? AND callee=?)"),
        (calls::BY_SID, "INTEGER PRIMARY KEY (rowid=?)"),
        (ending::DUE, "INDEX calls_look (look_at<?)"),
        (ending::NEXT, "INDEX calls_look (look_at>?)"),
        (ending::FORGET_SIGNALS, "INDEX signals_call (call=?)"),
        (kept::TO_CALLEE, "INDEX calls_callee (callee=? AND kept_until>?)"),
        (kept::TO_CALLER, "INDEX calls_caller (caller=? AND kept_until>?)"),
        (ringing::FORGET_DEVICE, "PRIMARY KEY (call=? AND dev=?)"),
        (ringing::NOTED, "PRIMARY KEY (call=?)"),
        (signal::KNOWN, "PRIMARY KEY (writer=? AND id=?)"),
        (outbox::EXPIRED, "INDEX outbox_expiry (expires_at<?)"),
        (keep::OVER, "INDEX chat_open (deadline<?)"),
        (keep::SILENT, "INDEX devices_seen (stale=? AND seen_at<?)"),
        (expired::OVER, "INDEX expiring_at (at<?)"),
        (expired::DOCUMENTS, "PRIMARY KEY (row=?)"),
        (chat::group::bal_copy::WAITS, "INDEX bal_copies_waits (bal=?)"),
        (chat::group::bal_copy::OF_MESSAGE, "INDEX bal_copies_row (row=?)"),
        (chat::group::OWN_BEHIND, "INDEX chat_pair (peer=? AND writer=? AND row>?)"),
        (scheduled::BY_ID, "INDEX scheduled_id (writer=? AND id=?)"),
        (scheduled::OF_WRITER, "INDEX scheduled_writer (writer=? AND row>?)"),
        (scheduled::DUE, "INDEX scheduled_due (not_before<?)"),
        (scheduled::COUNT, "(writer=?)"),
        (scheduled::HAS_DUE, "(writer=?)"),
        (erase::messages::WRITTEN, "INDEX chat_writer (writer=?)"),
        (erase::messages::GOT, "INDEX chat_peer (peer=?)"),
        (erase::groups::IN, "INDEX members_user (user=? AND gid>?)"),
        (erase::documents::OWN, "PRIMARY KEY (topic>? AND topic<?)"),
        (erase::documents::ALL, "PRIMARY KEY ((topic,seq)>(?,?))"),
        (chat::group::tombstones::BEHIND, "INDEX chat_gone_behind (peer=? AND row>?)"),
        (chat::group::tombstones::COUNT, "INDEX chat_gone_behind (peer=? AND row>?)"),
        (chat::group::former::CHANGED_AT, "INDEX chat_amends (amends=?"),
        (chat::group::former::ENDED, "INDEX members_gone (gone<?)"),
        (chat::group::former::SPAN_ENDED, "INDEX members_spans (<expr><?)"),
        (chat::group::former::EMPTY, "INDEX chat_groups_ended (newest<?)"),
        (chat::group::MEMBER, "PRIMARY KEY (gid=? AND user=?)"),
        (chat::group::GROUPS_OF, "INDEX members_user (user=?)"),
        (chat::group::screen::BEFORE, "INDEX chat_peer (peer=? AND row>? AND row<?)"),
        (chat::group::screen::AFTER, "INDEX chat_peer (peer=? AND row>? AND row<?)"),
        (chat::group::screen::NEWEST, "INDEX chat_peer (peer=? AND row>? AND row<?)"),
        (sync::OF_GROUP, "INDEX chat_peer (peer=? AND row>? AND row<?)"),
        (sync::NEWEST_OF_GROUP, "INDEX chat_peer (peer=? AND row>? AND row<?)"),
        (chat::group::DELETED_BEHIND, "PRIMARY KEY (user=? AND peer=? AND row>?)"),
        (chat::group::EXPORTED, "INDEX members_user (user=? AND gid>?)"),
        (chat::group::state::NEXT_GROUP, "INDEX members_user (user=? AND gid>?)"),
        (chat::group::state::OLDER, "INDEX queue_documents (queue=? AND document=?)"),
        (export::CONTACTS, "PRIMARY KEY (user=? AND other>?)"),
        (export::TALKS_FIRST, "PRIMARY KEY (first=? AND second>?)"),
        (export::TALKS_SECOND, "INDEX conversations_second (second=? AND first>?)"),
        (device::DROP_PROOFS, "INDEX proofs_made (made_at<?)"),
    ];
    for (sql, index) in expected {
        let plan = plan(&conn, sql);
        assert!(plan.contains(index), "{sql}\nshould use {index}, but:\n{plan}");
        assert!(!plan.contains("SCAN") && !plan.contains("TEMP B-TREE"), "{sql}\n{plan}");
    }
}

/// Only their keys are sorted: what is said of each is read for one page.
#[test]
fn the_conversations_of_a_user_are_found_along_both_of_its_sides() {
    let dir = tempfile::tempdir().unwrap();
    let (conn, _lock) = file::open(&dir.path().join("store.db")).unwrap();
    let plan = plan(&conn, conversations::NEWEST_FIRST);
    assert!(plan.contains("PRIMARY KEY (first=?)"), "{plan}");
    assert!(plan.contains("INDEX conversations_second (second=?"), "{plan}");
    assert!(plan.contains("USE TEMP B-TREE FOR ORDER BY") && !plan.contains("SCAN conversations"), "{plan}");
}

#[test]
fn what_waited_at_a_stop_is_found_along_its_index() {
    let dir = tempfile::tempdir().unwrap();
    let (conn, _lock) = file::open(&dir.path().join("store.db")).unwrap();
    assert_eq!(plan(&conn, scheduled::NEXT), "SCAN scheduled USING COVERING INDEX scheduled_due\n", "the first of it");
    let by_row = "USING ROWID SEARCH ON TABLE unpushed FOR IN-OPERATOR\n";
    assert_eq!(plan(&conn, push::UNDECIDED), format!("SCAN chat USING INDEX chat_waits\n{by_row}"));
    assert_eq!(plan(&conn, push::FORGET_UNDECIDED), format!("SCAN chat USING INDEX chat_waits\n{by_row}"));
    let oldest = "SCAN unpushed\n";
    assert_eq!(plan(&conn, unpushed::OLDEST), oldest, "along the rows, as far as the chunk goes");
    assert_eq!(plan(&conn, ringing::UNDECIDED), format!("SCAN calls USING INDEX calls_waits\n{by_row}"));
    let copies = "SCAN bal_copies USING INDEX bal_copies_waits\n";
    assert_eq!(plan(&conn, chat::group::bal_copy::WAITING), copies, "of those that have none, along the index");
    assert_eq!(plan(&conn, keep::OLDEST), "SCAN chat\n", "along the rows, as far as the chunk goes");
}

#[test]
fn the_rows_of_all_queues_are_counted_along_their_key() {
    let dir = tempfile::tempdir().unwrap();
    let (conn, _lock) = file::open(&dir.path().join("store.db")).unwrap();
    let plan = plan(&conn, state::COUNTS);
    assert_eq!(plan, "SCAN queue\n");
}

#[test]
fn what_waits_is_counted_along_the_index_of_what_is_to_be_sent() {
    let dir = tempfile::tempdir().unwrap();
    let (conn, _lock) = file::open(&dir.path().join("store.db")).unwrap();
    let plan = plan(&conn, store::QUEUED);
    assert!(plan.starts_with("SCAN deliveries USING") && plan.ends_with("INDEX deliveries_due\n"), "{plan}");
}

#[test]
fn a_start_with_a_long_memory_reads_only_what_waits_to_find_the_first_of_each_queue() {
    let dir = tempfile::tempdir().unwrap();
    let (conn, _lock) = file::open(&dir.path().join("store.db")).unwrap();
    let plan = plan(&conn, recover::LOOK_AGAIN);
    assert!(plan.contains("SCAN deliveries USING INDEX deliveries_parked"), "{plan}");
    assert!(plan.contains("SEARCH older USING INDEX deliveries_parked (recipient=? AND rowid<?)"), "{plan}");
    let plan = self::plan(&conn, recover::KEEP_PLACES);
    assert!(plan.contains("SEARCH younger USING INDEX deliveries_parked (recipient=? AND rowid>?)"), "{plan}");
}
