//! `outbox`: the store in numbers, and what is newest in it.

use super::store_place::StorePlace;
use super::trace;
use crate::ops::print;

/// Prints the counts, and the newest `limit` messages if it is not 0.
///
/// # Errors
/// When the file is no store, or cannot be read.
pub(super) fn run(place: &StorePlace, limit: usize, json: bool) -> anyhow::Result<()> {
    let inspector = place.open()?;
    let counts = inspector.counts()?;
    let newest = if limit == 0 { Vec::new() } else { inspector.list(u32::try_from(limit).unwrap_or(u32::MAX))? };
    if json {
        let newest = trace::json_of(&newest)?;
        print::line(serde_json::to_string_pretty(&serde_json::json!({ "counts": counts, "newest": newest }))?)?;
        return Ok(());
    }
    print::line("deliveries to devices, by state:")?;
    if counts.deliveries.is_empty() {
        print::line("  none")?;
    }
    for (state, count) in &counts.deliveries {
        print::line(format_args!("  {state:<10} {count}"))?;
    }
    print::line(format_args!("messages of devices kept for their BAL: {}", counts.spool))?;
    print::line("documents that wait to be published:")?;
    if counts.outbox.is_empty() {
        print::line("  none")?;
    }
    for (topic, count) in &counts.outbox {
        print::line(format_args!("  {:<40} {count}", if topic.is_empty() { "(no route yet)" } else { topic }))?;
    }
    for message in &newest {
        print::line(trace::line(message))?;
    }
    Ok(())
}
