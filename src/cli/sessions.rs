//! `sessions`: who has a session in the store, and what waits for it.

use super::args::PageArgs;
use super::store_place::StorePlace;
use super::{json_rows, shown};
use crate::ops::clock::utc;
use crate::ops::print;
use crate::store::{SessionSummary, StoreError};
use std::cmp::Reverse;
use std::time::Duration;

/// Sessions that are read from the store at a time.
const READ: u32 = 1_000;

/// Prints the part `page` of the sessions, of one user if `user` is given.
///
/// # Errors
/// When the file is no store, or cannot be read.
pub(super) fn run(place: &StorePlace, user: Option<&str>, page: PageArgs, json: bool) -> anyhow::Result<()> {
    place.not_of_this_broker("sessions").into_iter().for_each(print::note);
    let inspector = place.open()?;
    let (found, count) = pick(|after| inspector.sessions(after, READ), user, page)?;
    if json {
        print::line(json_rows(&found)?)?;
        return Ok(());
    }
    print::line(format_args!(
        "{:>9} {:>12} {:>9} {:>13}  {:<24}  {:<8}  user, client id",
        "waiting", "bytes", "documents", "subscriptions", "connection", "kept for"
    ))?;
    for session in &found {
        print::line(line(session))?;
    }
    print::line(format_args!("{} of {count} sessions", found.len()))?;
    Ok(())
}

/// The part `page` of the sessions, those for which most waits first; and how many there are in all. Memory holds twice what
/// is shown and skipped, however many there are.
fn pick(
    mut read: impl FnMut(&str) -> Result<Vec<SessionSummary>, StoreError>,
    user: Option<&str>,
    PageArgs { limit, skip }: PageArgs,
) -> Result<(Vec<SessionSummary>, usize), StoreError> {
    let wanted = limit.saturating_add(skip);
    let (mut found, mut count, mut after) = (Vec::new(), 0, String::new());
    loop {
        let sessions = read(&after)?;
        let Some(last) = sessions.last() else { break };
        after.clone_from(&last.record.key);
        let before = found.len();
        found.extend(sessions.into_iter().filter(|one| user.is_none() || one.record.user.as_deref() == user));
        count += found.len() - before;
        found.sort_by(|a, b| order(a).cmp(&order(b)));
        found.truncate(wanted);
    }
    Ok((found.into_iter().skip(skip).collect(), count))
}

fn order(session: &SessionSummary) -> (Reverse<u64>, Reverse<u64>, &str) {
    (Reverse(session.bytes), Reverse(session.rows + session.documents), &session.record.key)
}

fn line(session: &SessionSummary) -> String {
    let SessionSummary { record, left_at, subscriptions, rows, bytes, documents } = session;
    let connection = left_at.map_or_else(|| "connected".to_owned(), utc);
    let kept = match record.expiry_s {
        u32::MAX => "ever".to_owned(),
        seconds => humantime::format_duration(Duration::from_secs(seconds.into())).to_string(),
    };
    let (user, client) = (shown(record.user.as_deref().unwrap_or("-")), shown(&record.client));
    format!("{rows:>9} {bytes:>12} {documents:>9} {subscriptions:>13}  {connection:<24}  {kept:<8}  {user}, {client}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::SessionRecord;

    fn session(key: &str, bytes: u64) -> SessionSummary {
        let (user, client) = key.split_once(':').unwrap();
        let record = SessionRecord {
            key: key.to_owned(),
            user: (!user.is_empty()).then(|| user.to_owned()),
            client: client.to_owned(),
            expiry_s: 90_000,
            login: None,
        };
        SessionSummary { record, left_at: Some(0), subscriptions: 2, rows: 3, bytes, documents: 1 }
    }

    /// Of a store that gives two at a time.
    fn picked(user: Option<&str>, limit: usize, skip: usize) -> (Vec<String>, usize) {
        let all =
            [("a:1", 5), ("a:2", 50), ("b:1", 0), ("b:2", 500), ("b:3", 0)].map(|(key, bytes)| session(key, bytes));
        let read = |after: &str| Ok(all.iter().filter(|one| *one.record.key > *after).take(2).cloned().collect());
        let (found, count) = pick(read, user, PageArgs { limit, skip }).unwrap();
        (found.into_iter().map(|one| one.record.key).collect(), count)
    }

    #[test]
    fn those_for_which_most_waits_come_first_page_by_page() {
        assert_eq!(picked(None, 3, 0), (vec!["b:2".into(), "a:2".into(), "a:1".into()], 5));
        assert_eq!(picked(None, 3, 3), (vec!["b:1".into(), "b:3".into()], 5));
        assert_eq!(picked(None, 3, 5), (vec![], 5));
        assert_eq!(picked(Some("a"), 100, 0), (vec!["a:2".into(), "a:1".into()], 2));
        assert_eq!(picked(Some("nobody"), 100, 0), (vec![], 0));
    }

    #[test]
    fn a_line_says_what_waits_and_whose_it_is_without_what_a_terminal_would_obey() {
        let mut one = session(":\u{1b}[2J", 7);
        let told = line(&one);
        assert_eq!(told.split_whitespace().collect::<Vec<_>>()[..4], ["3", "7", "1", "2"]);
        assert!(told.contains("1970-01-01T00:00:00.000Z  1day 1h   -, \\u{1b}[2J"), "{told}");
        (one.left_at, one.record.expiry_s) = (None, u32::MAX);
        assert!(line(&one).contains("connected  ") && line(&one).contains("  ever  "));
    }
}
