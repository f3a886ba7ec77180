//! The statements of the hot path find their rows through an index, whatever the planner thinks of an empty file.

use super::super::chat::calls::{self, ending, kept, ringing, signal};
use super::super::chat::{self, device, keep, message as chat_message, notified, position, push, sync};
use super::super::sessions::{documents, inspect, queue, retained, row, session, state, sweep as queues};
use super::super::{
    accept, dispatch, file, inspect as store, message, outbox, recipient_queue, recover, request, sweep, unread,
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
        (documents::FIRST_TOPIC, "PRIMARY KEY (topic>?)"),
        (documents::NEXT_OWN_TOPIC, "INDEX queue_documents (queue=? AND document>?)"),
        (queues::EXPIRED, "INDEX queue_expiry (expires_at<?)"),
        (retained::EXPIRED, "INDEX retained_expiry (expires_at<?)"),
        (inspect::SESSIONS, "INDEX queues_key (key>?)"),
        (inspect::RETAINED, "PRIMARY KEY (topic>?)"),
        (chat::BY_SID, "INTEGER PRIMARY KEY (rowid=?)"),
        (chat_message::BY_ID, "INDEX chat_id (writer=? AND id=?)"),
        (position::ALL_RECEIVED, "INDEX chat_unreceived (peer=? AND writer=? AND row<?)"),
        (position::NEWEST_UNRECEIVED, "INDEX chat_unreceived (peer=? AND writer=? AND row<?)"),
        (position::NEWEST_TO_CONFIRM, "INDEX chat_unreceived (peer=? AND writer=? AND row<?)"),
        (position::NEWEST_MESSAGE, "INDEX chat_peer (peer=? AND row>? AND row<?)"),
        (sync::WRITTEN, "INDEX chat_writer (writer=? AND row>?)"),
        (sync::NEWEST_WRITTEN, "INDEX chat_writer (writer=? AND row>?)"),
        (sync::GOT, "INDEX chat_peer (peer=? AND row>?)"),
        (sync::NEWEST_GOT, "INDEX chat_peer (peer=? AND row>?)"),
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
        (device::DROP_PROOFS, "INDEX proofs_made (made_at<?)"),
    ];
    for (sql, index) in expected {
        let plan = plan(&conn, sql);
        assert!(plan.contains(index), "{sql}\nshould use {index}, but:\n{plan}");
        assert!(!plan.contains("SCAN") && !plan.contains("TEMP B-TREE"), "{sql}\n{plan}");
    }
}

#[test]
fn what_waited_at_a_stop_is_found_along_its_index() {
    let dir = tempfile::tempdir().unwrap();
    let (conn, _lock) = file::open(&dir.path().join("store.db")).unwrap();
    assert_eq!(plan(&conn, push::UNDECIDED), "SCAN chat USING INDEX chat_waits\n");
    assert_eq!(plan(&conn, ringing::UNDECIDED), "SCAN calls USING INDEX calls_waits\n");
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
