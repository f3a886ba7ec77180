//! `retained`: which topics have a retained message.

use super::args::PageArgs;
use super::store_place::StorePlace;
use super::{json_rows, shown};
use crate::chat::filter;
use crate::ops::clock::utc;
use crate::ops::print;
use crate::store::{KeptRetained, StoreError};

/// Retained messages that are read from the store at a time.
const READ: u32 = 1_000;

/// Prints the part `page` of the retained messages, of topics that match `wanted` if it is given.
///
/// # Errors
/// When the file is no store, or cannot be read; or `wanted` is no filter.
pub(super) fn run(place: &StorePlace, wanted: Option<&str>, page: PageArgs, json: bool) -> anyhow::Result<()> {
    wanted.map_or(Ok(()), filter::check)?;
    place.not_of_this_broker("retained messages").into_iter().for_each(print::note);
    let inspector = place.open()?;
    let (found, more) = pick(|after| inspector.retained(after, READ), wanted, page)?;
    if json {
        print::line(json_rows(&found)?)?;
        return Ok(());
    }
    print::line(format_args!("{:>9}  QoS  {:<24}  topic (user)", "bytes", "until"))?;
    for message in &found {
        print::line(line(message))?;
    }
    if more {
        print::note(format_args!("there are more: --skip {}", page.skip.saturating_add(page.limit)));
    }
    Ok(())
}

/// The part `page` of the retained messages by topic, and whether there are more behind it.
fn pick(
    mut read: impl FnMut(&str) -> Result<Vec<KeptRetained>, StoreError>,
    wanted: Option<&str>,
    PageArgs { limit, skip }: PageArgs,
) -> Result<(Vec<KeptRetained>, bool), StoreError> {
    let (mut found, mut skipped, mut after) = (Vec::new(), 0, String::new());
    loop {
        let messages = read(&after)?;
        let Some(last) = messages.last() else { return Ok((found, false)) };
        after.clone_from(&last.topic);
        for message in messages {
            if wanted.is_some_and(|wanted| !filter::matches(wanted, &message.topic)) {
                continue;
            }
            if skipped < skip {
                skipped += 1;
            } else if found.len() < limit {
                found.push(message);
            } else {
                return Ok((found, true));
            }
        }
    }
}

fn line(message: &KeptRetained) -> String {
    let KeptRetained { topic, bytes, user, qos, expires_at } = message;
    let until = expires_at.map_or_else(|| "-".to_owned(), utc);
    let user = user.as_deref().map(|user| format!(" ({})", shown(user))).unwrap_or_default();
    format!("{bytes:>9}  {qos:<3}  {until:<24}  {}{user}", shown(topic))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(topic: &str) -> KeptRetained {
        KeptRetained { topic: topic.to_owned(), bytes: 9, user: None, qos: 1, expires_at: None }
    }

    /// Of a store that gives two at a time.
    fn picked(wanted: Option<&str>, limit: usize, skip: usize) -> (String, bool) {
        let all = ["a/1", "a/2", "b/1", "b/2", "c"].map(message);
        let read = |after: &str| Ok(all.iter().filter(|one| *one.topic > *after).take(2).cloned().collect());
        let (found, more) = pick(read, wanted, PageArgs { limit, skip }).unwrap();
        (found.iter().map(|one| &*one.topic).collect::<Vec<_>>().join(" "), more)
    }

    #[test]
    fn topics_come_in_their_order_page_by_page() {
        assert_eq!(picked(None, 3, 0), ("a/1 a/2 b/1".into(), true));
        assert_eq!(picked(None, 3, 3), ("b/2 c".into(), false));
        assert_eq!(picked(Some("+/2"), 10, 0), ("a/2 b/2".into(), false));
        assert_eq!(picked(Some("+/2"), 1, 0), ("a/2".into(), true));
        assert_eq!(picked(Some("d/#"), 10, 0), (String::new(), false));
    }

    #[test]
    fn a_line_says_whose_it_is_and_until_when() {
        assert_eq!(line(&message("a\n")), "        9  1    -                         a\\n");
        let kept = KeptRetained { user: Some("alice".into()), expires_at: Some(0), ..message("a") };
        assert_eq!(line(&kept), "        9  1    1970-01-01T00:00:00.000Z  a (alice)");
    }
}
